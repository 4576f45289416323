//! What clients ask of the hub, and what it tells them.

use std::sync::Arc;

use super::group::{Form, Group};
use crate::command::{EventKind, KeyRange, Revision};

/// Names one client's Watch call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub usize);

/// Which kinds of change a watcher does not want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Leave out writes.
    pub no_put: bool,
    /// Leave out deletions.
    pub no_delete: bool,
}

impl Filters {
    pub(super) fn pass(self, kind: EventKind) -> bool {
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
    ///
    /// `now` is where the store stood: at the group when it was applied, later when it is history.
    Events { id: i64, group: Arc<Group>, picks: Picks, form: Form, fragment: bool, now: Revision },
}

/// Which events of a group a watcher gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picks {
    /// All of them.
    All,
    /// These, ascending.
    Some(Box<[u32]>),
}

impl Picks {
    /// The ascending places of the events that are wanted; `None` when there are none.
    pub(super) fn of(wanted: Vec<u32>, group: &Group) -> Option<Self> {
        match wanted.len() {
            0 => None,
            all if all == group.events().len() => Some(Self::All),
            _ => Some(Self::Some(wanted.into_boxed_slice())),
        }
    }

    /// How many events.
    pub fn count(&self, group: &Group) -> usize {
        match self {
            Self::All => group.events().len(),
            Self::Some(some) => some.len(),
        }
    }

    /// The places of the events in their group.
    pub fn places(&self, group: &Group) -> impl Iterator<Item = usize> {
        let (all, some) = match self {
            Self::All => (0..group.events().len(), &[][..]),
            Self::Some(some) => (0..0, &some[..]),
        };
        all.chain(some.iter().map(|place| *place as usize))
    }
}

/// What is left when a stream's messages have been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Nothing waits and nobody lags: there is nothing to do until something happens.
    pub idle: bool,
}

/// What the lagging watchers of a stream need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// The first revision to read.
    pub from: Revision,
}
