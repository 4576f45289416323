//! One client's Watch call: its watchers, and the outbox that everything it is sent passes.
//!
//! The outbox is bounded in messages and in bytes. What does not fit is not kept: the watcher lags
//! and reads it from history when the client has made room.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::Slot;
use super::group::{Form, Group};
use super::hub::Wanted;
use super::message::{Create, CreateRefusal, Filters, Message, Picks, StreamId};
use crate::command::{Event, KeyRange, Revision};
use crate::limits::{OUTBOX_BYTES_MAX, OUTBOX_MESSAGES_MAX, WATCHERS_PER_STREAM_MAX};

/// Room that an empty outbox keeps, in messages: a burst should not cost each of ten thousand
/// streams its largest outbox for good.
const OUTBOX_KEPT: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) ids: BTreeMap<i64, Slot>,
    /// The next id to hand out by itself. Ids are not reused: a late message for an old watcher
    /// must not look like one for a new.
    next_id: i64,
    pub(super) lagging: BTreeSet<Slot>,
    outbox: VecDeque<Message>,
    /// Of what waits.
    bytes: usize,
    events: usize,
    /// Something was added since the shell last looked.
    pub(super) told: bool,
}

#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) stream: StreamId,
    pub(super) id: i64,
    pub(super) range: KeyRange,
    /// The first revision not yet given.
    pub(super) next: Revision,
    /// The first revision it asked for; progress before that would be a lie.
    pub(super) start: Revision,
    pub(super) synced: bool,
    pub(super) filters: Filters,
    pub(super) form: Form,
    pub(super) fragment: bool,
    pub(super) progress: bool,
    /// Got events since the last progress tick.
    pub(super) busy: bool,
}

impl Stream {
    pub(super) fn push(&mut self, message: Message) {
        self.told = true;
        self.outbox.push_back(message);
    }

    pub(super) fn is_full(&self) -> bool {
        self.outbox.len() >= OUTBOX_MESSAGES_MAX || self.bytes >= OUTBOX_BYTES_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.outbox.is_empty()
    }

    pub(super) fn events_waiting(&self) -> usize {
        self.events
    }

    /// Puts a revision's events into the outbox, or says that there is no room. `now` is where the
    /// store stands.
    pub(super) fn offer(
        &mut self,
        watcher: &mut Watcher,
        group: &Arc<Group>,
        picks: Picks,
        now: Revision,
    ) -> bool {
        if self.is_full() {
            return false;
        }
        watcher.busy = true;
        self.bytes += group.bytes();
        self.events += picks.count(group);
        self.outbox.push_back(Message::Events {
            id: watcher.id,
            group: Arc::clone(group),
            picks,
            form: watcher.form,
            fragment: watcher.fragment,
            now,
        });
        true
    }

    /// Moves up to `max` waiting messages to the end of `into`.
    pub(super) fn take(&mut self, max: usize, into: &mut VecDeque<Message>) {
        self.told = false;
        for message in self.outbox.drain(..max.min(self.outbox.len())) {
            if let Message::Events { group, picks, .. } = &message {
                self.bytes -= group.bytes();
                self.events -= picks.count(group);
            }
            into.push_back(message);
        }
        if self.outbox.is_empty() {
            assert_eq!((self.bytes, self.events), (0, 0), "an empty outbox holds nothing");
            self.outbox.shrink_to(OUTBOX_KEPT);
        }
    }

    /// Chooses the id of a new watcher, or refuses it.
    pub(super) fn admit(&mut self, create: &Create) -> Result<i64, CreateRefusal> {
        if create.start.0 < 0 {
            return Err(CreateRefusal::NegativeStart);
        }
        if create.range.is_empty() {
            return Err(CreateRefusal::EmptyRange);
        }
        if self.ids.len() >= WATCHERS_PER_STREAM_MAX {
            return Err(CreateRefusal::TooMany);
        }
        if create.id != 0 {
            return match self.ids.contains_key(&create.id) {
                true => Err(CreateRefusal::DuplicateId),
                false => Ok(create.id),
            };
        }
        while self.ids.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Ok(self.next_id - 1)
    }
}

impl Watcher {
    /// What it gets of a revision, if anything.
    pub(super) fn picks(&self, group: &Group) -> Option<Picks> {
        let wanted =
            |event: &Event| self.range.contains(&event.kv.key) && self.filters.pass(event.kind);
        let events = (0u32..).zip(group.events());
        let picks = events.filter(|(_, event)| wanted(event)).map(|(at, _)| at).collect();
        Picks::of(picks, group)
    }

    /// The same, where the ranges have been looked up: `found` are its events in this group.
    pub(super) fn choose(&self, found: &[Wanted], group: &Group) -> Option<Picks> {
        if group.revision() < self.next {
            return None;
        }
        if found.len() == group.events().len() && self.filters == Filters::default() {
            return Some(Picks::All);
        }
        let passes = |at: &u32| self.filters.pass(group.events()[*at as usize].kind);
        Picks::of(found.iter().map(|wanted| wanted.at).filter(passes).collect(), group)
    }

    /// Up to date, and past the revision it waits for.
    pub(super) fn is_current(&self, revision: Revision) -> bool {
        self.synced && self.start <= revision
    }
}
