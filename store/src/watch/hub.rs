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
use super::group::{Form, Group};
use super::ranges::{End, Ranges};
use crate::command::{EventKind, KeyRange, Revision};
use crate::limits::{OUTBOX_BYTES_MAX, OUTBOX_MESSAGES_MAX, WATCHERS_PER_STREAM_MAX};

/// Names one client's Watch call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Which kinds of change a watcher does not want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Leave out writes.
    pub no_put: bool,
    /// Leave out deletions.
    pub no_delete: bool,
}

impl Filters {
    fn pass(self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }
}

/// A request for a watcher.
#[derive(Clone, Debug)]
pub struct Create {
    /// What to watch.
    pub range: KeyRange,
    /// The first revision wanted; zero is "from now".
    pub start: Revision,
    /// The id wanted; zero lets the hub choose.
    pub id: i64,
    /// What to leave out.
    pub filters: Filters,
    /// With or without previous values.
    pub form: Form,
    /// Large revisions may be sent in pieces.
    pub fragment: bool,
    /// Tell the revision now and then while nothing happens.
    pub progress: bool,
}

/// Why a watcher was not created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateRefusal {
    /// No key can be in the range.
    EmptyRange,
    /// The id is taken on this stream.
    DuplicateId,
    /// A negative start revision: gone long ago.
    NegativeStart,
    /// The stream holds as many watchers as it may.
    TooMany,
}

/// What a stream is to be told, in order.
#[derive(Clone, Debug)]
pub enum Message {
    /// The watcher exists.
    Created { id: i64, revision: Revision },
    /// It does not.
    Refused { reason: CreateRefusal, revision: Revision },
    /// It ended as asked.
    Canceled { id: i64, revision: Revision },
    /// It ended because its history is gone.
    Compacted { id: i64, compacted: Revision },
    /// Everything up to the revision has been sent; `None` speaks for the whole stream.
    Progress { id: Option<i64>, revision: Revision },
    /// Changes of one revision.
    Events { id: i64, group: Arc<Group>, picks: Picks, form: Form, fragment: bool },
}

/// Which events of a group a watcher gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picks {
    /// All of them.
    All,
    /// These, ascending.
    Some(Box<[u32]>),
}

/// What the lagging watchers of a stream need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// The first revision to read.
    pub from: Revision,
}

/// All watchers of this member.
#[derive(Debug)]
pub struct Hub {
    /// The last applied revision.
    revision: Revision,
    streams: BTreeMap<StreamId, Stream>,
    slots: Vec<Option<Watcher>>,
    free: Vec<Slot>,
    keys: BTreeMap<Bytes, BTreeSet<Slot>>,
    ranges: Ranges,
    next_stream: u64,
}

#[derive(Debug, Default)]
struct Stream {
    ids: BTreeMap<i64, Slot>,
    /// The next id to hand out by itself. Ids are not reused: a late message for an old watcher
    /// must not look like one for a new.
    next_id: i64,
    lagging: BTreeSet<Slot>,
    outbox: VecDeque<Message>,
    bytes: usize,
    /// Something was added since the shell last looked.
    told: bool,
}

#[derive(Debug)]
struct Watcher {
    stream: StreamId,
    id: i64,
    range: KeyRange,
    /// The first revision not yet given.
    next: Revision,
    /// The first revision it asked for; progress before that would be a lie.
    start: Revision,
    synced: bool,
    filters: Filters,
    form: Form,
    fragment: bool,
    progress: bool,
    /// Got events since the last progress tick.
    busy: bool,
}

impl Hub {
    /// A hub for a store that stands at `revision`.
    pub fn new(revision: Revision) -> Self {
        Self {
            revision,
            streams: BTreeMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            keys: BTreeMap::new(),
            ranges: Ranges::default(),
            next_stream: 0,
        }
    }

    /// The last applied revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Watchers and streams there are, for the metrics.
    pub fn counts(&self) -> (usize, usize) {
        (self.slots.len() - self.free.len(), self.streams.len())
    }

    /// Watchers that are behind, and events that wait to be sent, for the metrics.
    pub fn backlog(&self) -> (usize, usize) {
        let slow = self.streams.values().map(|stream| stream.lagging.len()).sum();
        let waiting = self.streams.values().flat_map(|stream| &stream.outbox);
        let events = waiting.map(|message| match message {
            Message::Events { group, picks: Picks::All, .. } => group.events().len(),
            Message::Events { picks: Picks::Some(picks), .. } => picks.len(),
            _ => 0,
        });
        (slow, events.sum())
    }

    /// Opens a stream.
    pub fn open(&mut self) -> StreamId {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        self.streams.insert(id, Stream::default());
        id
    }

    /// Ends a stream with all its watchers.
    pub fn close(&mut self, stream: StreamId) {
        let Some(gone) = self.streams.remove(&stream) else { return };
        for slot in gone.ids.into_values() {
            self.forget(slot);
        }
    }

    /// Adds a watcher, or says in the outbox why not.
    pub fn create(&mut self, stream: StreamId, create: Create) {
        let revision = self.revision;
        let Some(state) = self.streams.get_mut(&stream) else { return };
        let id = match admit(state, &create) {
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
        state.ids.insert(id, slot);
        if !synced {
            state.lagging.insert(slot);
        }
        state.push(Message::Created { id, revision });
    }

    /// Ends a watcher; an unknown id is nobody's concern.
    pub fn cancel(&mut self, stream: StreamId, id: i64) {
        let revision = self.revision;
        let Some(state) = self.streams.get_mut(&stream) else { return };
        let Some(slot) = state.ids.remove(&id) else { return };
        state.lagging.remove(&slot);
        state.push(Message::Canceled { id, revision });
        self.forget(slot);
    }

    /// A client asks how far its stream is: answered only when all of it is up to date.
    pub fn progress_asked(&mut self, stream: StreamId) {
        let Some(state) = self.streams.get(&stream) else { return };
        let current = |slot: &Slot| self.watcher(*slot).is_current(self.revision);
        if state.ids.is_empty() || !state.ids.values().all(current) {
            return;
        }
        let message = Message::Progress { id: None, revision: self.revision };
        self.streams.get_mut(&stream).expect("looked up above").push(message);
    }

    /// The progress timer of a stream: idle, synced watchers that asked for it are told.
    pub fn progress_tick(&mut self, stream: StreamId) {
        let revision = self.revision;
        let Some(state) = self.streams.get_mut(&stream) else { return };
        let Stream { ids, outbox, told, .. } = state;
        for slot in ids.values() {
            let watcher = self.slots[slot.0 as usize].as_mut().expect("ids name live watchers");
            let was_busy = std::mem::take(&mut watcher.busy);
            if watcher.progress && !was_busy && watcher.is_current(revision) {
                outbox.push_back(Message::Progress { id: Some(watcher.id), revision });
                *told = true;
            }
        }
    }

    /// Takes the next applied revision and gives it to all synced watchers that want part of it.
    /// Returns the streams to wake.
    pub fn publish(&mut self, group: &Arc<Group>) -> Vec<StreamId> {
        let revision = group.revision();
        assert!(revision > self.revision, "revision {revision} published after {}", self.revision);
        self.revision = revision;
        let mut wanted: BTreeMap<Slot, Vec<u32>> = BTreeMap::new();
        for (at, event) in (0u32..).zip(group.events()) {
            let mut want = |slot: Slot| {
                let watcher = self.slots[slot.0 as usize].as_ref();
                let watcher = watcher.expect("indexes name live watchers");
                if watcher.synced && watcher.next <= revision && watcher.filters.pass(event.kind) {
                    wanted.entry(slot).or_default().push(at);
                }
            };
            if let Some(slots) = self.keys.get(&event.kv.key) {
                slots.iter().copied().for_each(&mut want);
            }
            self.ranges.stab(&event.kv.key, &mut want);
        }
        let mut wake = Vec::new();
        for (slot, picks) in wanted {
            let watcher = self.slots[slot.0 as usize].as_mut().expect("found alive above");
            let stream = self.streams.get_mut(&watcher.stream).expect("a watcher's stream is open");
            if !stream.offer(watcher, slot, group, picks) {
                watcher.synced = false;
                watcher.next = revision;
                stream.lagging.insert(slot);
            }
            if !std::mem::replace(&mut stream.told, true) {
                wake.push(watcher.stream);
            }
        }
        wake
    }

    /// Moves on without events, while there is no watcher to miss them.
    pub fn advance(&mut self, revision: Revision) {
        assert_eq!(self.counts().0, 0, "a watcher would miss revision {revision}");
        self.revision = self.revision.max(revision);
    }

    /// Moves up to `max` waiting messages to the end of `into`.
    pub fn take(&mut self, stream: StreamId, max: usize, into: &mut VecDeque<Message>) {
        let Some(state) = self.streams.get_mut(&stream) else { return };
        state.told = false;
        for message in state.outbox.drain(..max.min(state.outbox.len())) {
            if let Message::Events { group, .. } = &message {
                state.bytes -= group.bytes();
            }
            into.push_back(message);
        }
    }

    /// What the stream's lagging watchers need, if its outbox has room for it.
    pub fn lagging(&self, stream: StreamId) -> Option<CatchUp> {
        let state = self.streams.get(&stream)?;
        if state.is_full() {
            return None;
        }
        let from = state.lagging.iter().map(|slot| self.watcher(*slot).next).min()?;
        Some(CatchUp { from })
    }

    /// Ends the stream's lagging watchers whose next revision is gone.
    pub fn compacted(&mut self, stream: StreamId, compacted: Revision) {
        let Some(state) = self.streams.get(&stream) else { return };
        let gone = |slot: &&Slot| self.watcher(**slot).next < compacted;
        let gone: Vec<Slot> = state.lagging.iter().filter(gone).copied().collect();
        for slot in gone {
            let id = self.watcher(slot).id;
            let state = self.streams.get_mut(&stream).expect("looked up above");
            state.ids.remove(&id);
            state.lagging.remove(&slot);
            state.push(Message::Compacted { id, compacted });
            self.forget(slot);
        }
    }

    /// Gives a piece of history to the stream's lagging watchers: all revisions from the one that
    /// [`Hub::lagging`] named through `upto`. Watchers that thereby reach the hub's revision are
    /// synced; those that the outbox has no room for go on from where it ended.
    pub fn caught_up(&mut self, stream: StreamId, groups: &[Arc<Group>], upto: Revision) {
        let Some(state) = self.streams.get_mut(&stream) else { return };
        let lagging: Vec<Slot> = state.lagging.iter().copied().collect();
        for slot in lagging {
            let watcher = self.slots[slot.0 as usize].as_mut().expect("lagging watchers are alive");
            let from = watcher.next;
            let missed = groups.iter().filter(|group| group.revision() >= from);
            let stopped = missed.into_iter().find(|group| {
                let picks = watcher.picks(group);
                !picks.is_empty() && !state.offer(watcher, slot, group, picks)
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

impl Stream {
    fn push(&mut self, message: Message) {
        self.told = true;
        self.outbox.push_back(message);
    }

    fn is_full(&self) -> bool {
        self.outbox.len() >= OUTBOX_MESSAGES_MAX || self.bytes >= OUTBOX_BYTES_MAX
    }

    /// Puts a revision's events into the outbox, or says that there is no room.
    fn offer(
        &mut self,
        watcher: &mut Watcher,
        slot: Slot,
        group: &Arc<Group>,
        picks: Vec<u32>,
    ) -> bool {
        assert_eq!(self.ids.get(&watcher.id), Some(&slot), "a watcher of another stream");
        if self.is_full() {
            return false;
        }
        let picks = if picks.len() == group.events().len() {
            Picks::All
        } else {
            Picks::Some(picks.into_boxed_slice())
        };
        watcher.busy = true;
        self.bytes += group.bytes();
        self.outbox.push_back(Message::Events {
            id: watcher.id,
            group: Arc::clone(group),
            picks,
            form: watcher.form,
            fragment: watcher.fragment,
        });
        true
    }
}

impl Watcher {
    fn picks(&self, group: &Group) -> Vec<u32> {
        let wanted = |event: &crate::command::Event| {
            self.range.contains(&event.kv.key) && self.filters.pass(event.kind)
        };
        (0u32..).zip(group.events()).filter(|(_, event)| wanted(event)).map(|(at, _)| at).collect()
    }

    /// Up to date, and past the revision it waits for.
    fn is_current(&self, revision: Revision) -> bool {
        self.synced && self.start <= revision
    }
}

/// Chooses the id of a new watcher, or refuses it.
fn admit(stream: &mut Stream, create: &Create) -> Result<i64, CreateRefusal> {
    if create.start.0 < 0 {
        return Err(CreateRefusal::NegativeStart);
    }
    if create.range.is_empty() {
        return Err(CreateRefusal::EmptyRange);
    }
    if stream.ids.len() >= WATCHERS_PER_STREAM_MAX {
        return Err(CreateRefusal::TooMany);
    }
    if create.id != 0 {
        return match stream.ids.contains_key(&create.id) {
            true => Err(CreateRefusal::DuplicateId),
            false => Ok(create.id),
        };
    }
    while stream.ids.contains_key(&stream.next_id) {
        stream.next_id += 1;
    }
    stream.next_id += 1;
    Ok(stream.next_id - 1)
}

/// The interval of a range watcher; a single key has none.
fn span(range: &KeyRange) -> Option<(Bytes, End)> {
    match range {
        KeyRange::Key(_) => None,
        KeyRange::Span(start, end) => Some((start.clone(), End::Before(end.clone()))),
        KeyRange::From(start) => Some((start.clone(), End::Never)),
    }
}
