//! The hub: from applied revisions to each stream's outbox.
//!
//! A *stream* is one client's Watch call; it holds many *watchers*. A watcher is
//!
//! - **synced**: it has been given everything up to the hub's revision, and the next applied
//!   revision will be put into its stream's outbox directly; or
//! - **lagging**: from revision `next` on it must read history. It starts so when it asks for the
//!   past, and becomes so when its stream's outbox is full, for an outbox is bounded: what does
//!   not fit is not kept here but read again from the store later. So a slow client costs one
//!   bounded queue, never delays another, and loses nothing.
//!
//! ```text
//!             create(from now)                        outbox full at revision r
//!   client ─────────────────────▶ synced ───────────────────────────────────▶ lagging(next = r)
//!          ─────────────────────▶ lagging ◀──┐ history up to R given, R < hub    │
//!             create(past)           └───────┴───▶ synced when R ≥ hub's revision
//! ```
//!
//! Everything a stream is sent passes its outbox in order, answers to requests included. Hence the
//! order that clients rely on: `created` before the first event, events by revision, a progress
//! message only after all events up to the revision it names.
//!
//! A watcher never sees part of a revision: a [`Group`] is put into an outbox whole.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::Slot;
use super::group::Group;
use super::message::{CatchUp, Create, Message, Rest, StreamId};
use super::ranges::{End, Ranges};
use super::stream::{Stream, Watcher};
use crate::command::{KeyRange, Revision};
use crate::limits::CATCH_UP_CHECKS_MAX;

/// Room kept for [`Hub::find_wanted`]: some thousand watchers of one event.
const WANTED_KEPT: usize = 16_384;

/// All watchers of this member.
#[derive(Debug)]
pub struct Hub {
    /// The last applied revision.
    revision: Revision,
    /// By [`StreamId`]; places of ended streams are used again.
    streams: Vec<Option<Stream>>,
    free_streams: Vec<StreamId>,
    slots: Vec<Option<Watcher>>,
    free: Vec<Slot>,
    keys: BTreeMap<Bytes, BTreeSet<Slot>>,
    ranges: Ranges,
    /// Who wants what of the revisions at hand; kept for its memory only.
    wanted: Vec<Wanted>,
}

/// An event in a watcher's range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wanted {
    slot: Slot,
    /// Which of the groups at hand.
    group: u32,
    /// Which of its events.
    pub(super) at: u32,
}

impl Hub {
    /// A hub for a store that stands at `revision`.
    pub fn new(revision: Revision) -> Self {
        Self {
            revision,
            streams: Vec::new(),
            free_streams: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            keys: BTreeMap::new(),
            ranges: Ranges::default(),
            wanted: Vec::new(),
        }
    }

    /// The last applied revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Watchers and streams there are.
    pub fn counts(&self) -> (usize, usize) {
        let streams = self.streams.len() - self.free_streams.len();
        (self.slots.len() - self.free.len(), streams)
    }

    /// Watchers that are behind, and events that wait to be sent, for the metrics.
    pub fn backlog(&self) -> (usize, usize) {
        let streams = || self.streams.iter().flatten();
        let behind = streams().map(|stream| stream.lagging.len()).sum();
        (behind, streams().map(Stream::events_waiting).sum())
    }

    /// Opens a stream.
    pub fn open(&mut self) -> StreamId {
        let id = self.free_streams.pop().unwrap_or_else(|| {
            self.streams.push(None);
            StreamId(self.streams.len() - 1)
        });
        self.streams[id.0] = Some(Stream::default());
        id
    }

    /// Ends a stream with all its watchers.
    pub fn close(&mut self, stream: StreamId) {
        let Some(gone) = self.streams.get_mut(stream.0).and_then(Option::take) else { return };
        self.free_streams.push(stream);
        for slot in gone.ids.into_values() {
            self.forget(slot);
        }
    }

    /// Adds a watcher, or says in the outbox why not.
    pub fn create(&mut self, stream: StreamId, create: Create) {
        let revision = self.revision;
        let Some(state) = self.stream_mut(stream) else { return };
        let id = match state.admit(&create) {
            Ok(id) => id,
            Err(reason) => return state.push(Message::Refused { reason, revision }),
        };
        let synced = create.start.0 == 0 || create.start > revision;
        let next = if synced { create.start.max(revision.next()) } else { create.start };
        let watcher = Watcher {
            stream,
            id,
            range: create.range,
            next,
            start: create.start,
            synced,
            filters: create.filters,
            form: create.form,
            fragment: create.fragment,
            progress: create.progress,
            busy: false,
        };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let place = u32::try_from(self.slots.len()).expect("streams bound the watchers");
                self.slots.push(None);
                Slot(place)
            }
        };
        match span(&watcher.range) {
            None => {
                self.keys.entry(watcher.range.start().clone()).or_default().insert(slot);
            }
            Some((start, end)) => self.ranges.insert(start, end, slot),
        }
        self.slots[slot.0 as usize] = Some(watcher);
        let state = self.stream_mut(stream).expect("looked up above");
        state.ids.insert(id, slot);
        if !synced {
            state.lagging.insert(slot);
        }
        state.push(Message::Created { id, revision });
    }

    /// Ends a watcher; an unknown id is nobody's concern.
    pub fn cancel(&mut self, stream: StreamId, id: i64) {
        let revision = self.revision;
        let Some(state) = self.stream_mut(stream) else { return };
        let Some(slot) = state.ids.remove(&id) else { return };
        state.lagging.remove(&slot);
        state.push(Message::Canceled { id, revision });
        self.forget(slot);
    }

    /// A client asks how far its stream is: answered only when all of it is up to date.
    pub fn progress_asked(&mut self, stream: StreamId) {
        let Some(state) = self.stream(stream) else { return };
        let current = |slot: &Slot| self.watcher(*slot).is_current(self.revision);
        if state.ids.is_empty() || !state.ids.values().all(current) {
            return;
        }
        let message = Message::Progress { id: None, revision: self.revision };
        self.stream_mut(stream).expect("looked up above").push(message);
    }

    /// The progress timer of a stream: idle, synced watchers that asked for it are told.
    pub fn progress_tick(&mut self, stream: StreamId) {
        let revision = self.revision;
        let Some(state) = self.streams.get_mut(stream.0).and_then(Option::as_mut) else { return };
        let mut due = Vec::new();
        for slot in state.ids.values() {
            let watcher = self.slots[slot.0 as usize].as_mut().expect("ids name live watchers");
            let was_busy = std::mem::take(&mut watcher.busy);
            if watcher.progress && !was_busy && watcher.is_current(revision) {
                due.push(watcher.id);
            }
        }
        due.into_iter().for_each(|id| state.push(Message::Progress { id: Some(id), revision }));
    }

    /// Takes the next applied revisions and gives them to all synced watchers that want part of
    /// them: each watcher what it gets of all of them in a row, so that one message can carry it.
    /// Adds the streams to wake to `wake`, each once.
    pub fn publish(&mut self, groups: &[Arc<Group>], wake: &mut Vec<StreamId>) {
        for group in groups {
            let revision = group.revision();
            assert!(revision > self.revision, "{revision} published after {}", self.revision);
            self.revision = revision;
        }
        self.find_wanted(groups);
        for chunk in self.wanted.chunk_by(|one, other| one.slot == other.slot) {
            let slot = chunk[0].slot;
            let watcher = self.slots[slot.0 as usize].as_mut();
            let watcher = watcher.expect("indexes name live watchers");
            if !watcher.synced {
                continue;
            }
            let id = watcher.stream;
            let stream = self.streams[id.0].as_mut().expect("a watcher's stream is open");
            let mut concerned = false;
            for found in chunk.chunk_by(|one, other| one.group == other.group) {
                let group = &groups[found[0].group as usize];
                let Some(picks) = watcher.choose(found, group) else { continue };
                concerned = true;
                if !stream.offer(watcher, group, picks, group.revision()) {
                    watcher.synced = false;
                    watcher.next = group.revision();
                    stream.lagging.insert(slot);
                    break;
                }
            }
            if concerned && !std::mem::replace(&mut stream.told, true) {
                wake.push(id);
            }
        }
        self.wanted.clear();
        self.wanted.shrink_to(WANTED_KEPT);
    }

    /// Looks up whose ranges hold which events: watchers in their order, and for each the events in
    /// theirs.
    fn find_wanted(&mut self, groups: &[Arc<Group>]) {
        let Self { keys, ranges, wanted, .. } = self;
        for (nth, group) in (0u32..).zip(groups) {
            for (at, event) in (0u32..).zip(group.events()) {
                let mut want = |slot| wanted.push(Wanted { slot, group: nth, at });
                if let Some(slots) = keys.get(&event.kv.key) {
                    slots.iter().copied().for_each(&mut want);
                }
                ranges.stab(&event.kv.key, &mut want);
            }
        }
        wanted.sort_unstable();
    }

    /// Moves on without events, while there is no watcher to miss them.
    pub fn advance(&mut self, revision: Revision) {
        assert_eq!(self.counts().0, 0, "a watcher would miss revision {revision}");
        self.revision = self.revision.max(revision);
    }

    /// Moves up to `max` waiting messages to the end of `into`.
    pub fn take(&mut self, stream: StreamId, max: usize, into: &mut VecDeque<Message>) -> Rest {
        let Some(state) = self.stream_mut(stream) else { return Rest { idle: true } };
        state.take(max, into);
        Rest { idle: state.is_empty() && state.lagging.is_empty() }
    }

    /// What the stream's lagging watchers need, if its outbox has room for it.
    pub fn lagging(&self, stream: StreamId) -> Option<CatchUp> {
        let state = self.stream(stream)?;
        if state.is_full() {
            return None;
        }
        let from = state.lagging.iter().map(|slot| self.watcher(*slot).next).min()?;
        Some(CatchUp { from })
    }

    /// Ends the stream's lagging watchers whose next revision is gone.
    pub fn compacted(&mut self, stream: StreamId, compacted: Revision) {
        let Some(state) = self.stream(stream) else { return };
        let gone = |slot: &&Slot| self.watcher(**slot).next < compacted;
        let gone: Vec<Slot> = state.lagging.iter().filter(gone).copied().collect();
        for slot in gone {
            let id = self.watcher(slot).id;
            let state = self.stream_mut(stream).expect("looked up above");
            state.ids.remove(&id);
            state.lagging.remove(&slot);
            state.push(Message::Compacted { id, compacted });
            self.forget(slot);
        }
    }

    /// Gives a piece of history to the stream's lagging watchers: all revisions from the one that
    /// [`Hub::lagging`] named through `upto`. With very many of them, some wait for the next pass,
    /// since nothing is published meanwhile. Watchers that thereby reach the hub's revision are
    /// synced; those that the outbox has no room for go on from where it ended.
    pub fn caught_up(&mut self, stream: StreamId, groups: &[Arc<Group>], upto: Revision) {
        let behind = self.furthest_behind(stream, groups.len(), upto);
        let now = self.revision;
        let Some(state) = self.streams.get_mut(stream.0).and_then(Option::as_mut) else { return };
        for slot in behind {
            let watcher = self.slots[slot.0 as usize].as_mut().expect("lagging watchers are alive");
            let from = watcher.next;
            let missed = groups.iter().filter(|group| group.revision() >= from);
            let stopped = missed.into_iter().find(|group| {
                let picks = watcher.picks(group);
                picks.is_some_and(|picks| !state.offer(watcher, group, picks, now))
            });
            match stopped {
                Some(group) => watcher.next = group.revision(),
                None => {
                    watcher.next = watcher.next.max(upto.next());
                    if watcher.next > self.revision {
                        watcher.synced = true;
                        state.lagging.remove(&slot);
                    }
                }
            }
        }
    }

    /// Those of a stream's lagging watchers that a stretch of history is of use to: as many as may
    /// be looked at in one go, the furthest behind first, so that each pass brings some forward.
    fn furthest_behind(&self, stream: StreamId, groups: usize, upto: Revision) -> Vec<Slot> {
        let Some(state) = self.stream(stream) else { return Vec::new() };
        let at = |slot: &Slot| (self.watcher(*slot).next, *slot);
        let mut behind: Vec<_> = state.lagging.iter().map(at).collect();
        behind.retain(|(next, _)| *next <= upto);
        let max = (CATCH_UP_CHECKS_MAX / groups.max(1)).max(1);
        if behind.len() > max {
            behind.select_nth_unstable(max - 1);
            behind.truncate(max);
        }
        // Messages of one stream go out in the order of its watchers.
        behind.sort_unstable_by_key(|(_, slot)| *slot);
        behind.into_iter().map(|(_, slot)| slot).collect()
    }

    fn stream(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(id.0)?.as_ref()
    }

    fn stream_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams.get_mut(id.0)?.as_mut()
    }

    fn watcher(&self, slot: Slot) -> &Watcher {
        self.slots[slot.0 as usize].as_ref().expect("streams and indexes name live watchers")
    }

    /// Takes a watcher out of the table and the indexes.
    fn forget(&mut self, slot: Slot) {
        let watcher = self.slots[slot.0 as usize].take().expect("forgotten once");
        self.free.push(slot);
        match span(&watcher.range) {
            Some((start, end)) => self.ranges.remove(&start, &end, slot),
            None => {
                let key = watcher.range.start();
                let slots = self.keys.get_mut(key).expect("its key is indexed");
                slots.remove(&slot);
                if slots.is_empty() {
                    self.keys.remove(key);
                }
            }
        }
    }
}

/// The interval of a range watcher; a single key has none.
fn span(range: &KeyRange) -> Option<(Bytes, End)> {
    match range {
        KeyRange::Key(_) => None,
        KeyRange::Span(start, end) => Some((start.clone(), End::Before(end.clone()))),
        KeyRange::From(start) => Some((start.clone(), End::Never)),
    }
}
