//! Who leads, and whether this member may answer reads at once.
//!
//! Both follow from what passes through the adapters anyway: the vote that is saved says who leads
//! (a committed vote names a leader, an uncommitted one a candidate), and the first applied entry
//! of the leader's own term proves that everything acknowledged before it is applied. So nothing
//! here waits for openraft's metrics, and a read pays a few atomic loads.
//!
//! A restarted member knows its old vote but leads nothing: it starts without a leader.

use super::types::{Entry, Peer, Vote};
use openraft::EntryPayload;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::watch;

/// Who leads, as this member knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    pub leader: Option<u64>,
    /// This member leads, and everything that earlier leaders acknowledged is applied.
    pub ready: bool,
}

/// Shared by the adapters and the handle. Indices are stored plus one, so that zero is "none".
pub(crate) struct Progress {
    me: u64,
    leadership: watch::Sender<Leadership>,
    ready: AtomicBool,
    /// This member is the only voter of the newest configuration.
    alone: AtomicBool,
    last: AtomicU64,
    committed: AtomicU64,
    applied: AtomicU64,
    /// Where other members find this one, as of the last applied entry.
    urls: Mutex<Vec<String>>,
    pub(crate) counts: Counts,
}

/// What happened since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Leaders seen, the first one included.
    pub(crate) leader_changes: AtomicU64,
    /// Proposals without an answer.
    pub(crate) proposals_failed: AtomicU64,
    /// Questions whether reading is safe that were not answered, and of those, not in time.
    pub(crate) reads_failed: AtomicU64,
    pub(crate) reads_late: AtomicU64,
}

impl Progress {
    pub(crate) fn new(me: u64) -> Self {
        Self {
            me,
            leadership: watch::Sender::default(),
            ready: AtomicBool::new(false),
            alone: AtomicBool::new(false),
            last: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            urls: Mutex::default(),
            counts: Counts::default(),
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    pub(crate) fn leadership(&self) -> Leadership {
        *self.leadership.borrow()
    }

    /// Nobody else has a vote, so nobody else is waited for.
    pub(crate) fn alone(&self) -> bool {
        self.alone.load(Ordering::Acquire)
    }

    /// A linearizable read may be answered from local state: this member leads, has caught up, and
    /// nobody else could have acknowledged anything.
    pub(crate) fn may_read(&self) -> bool {
        self.ready.load(Ordering::Acquire) && self.alone()
    }

    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire).saturating_sub(1)
    }

    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire).saturating_sub(1)
    }

    pub(crate) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire).saturating_sub(1)
    }

    /// Entries that are agreed on and wait to be applied.
    pub(crate) fn backlog(&self) -> u64 {
        let applied = self.applied.load(Ordering::Acquire);
        self.committed.load(Ordering::Acquire).saturating_sub(applied)
    }

    /// A vote is about to be saved.
    pub(crate) fn voted(&self, vote: &Vote) {
        let (term, leader) = (vote.leader_id.term, vote.leader_id.voted_for);
        let leader = vote.committed.then_some(leader);
        self.leadership.send_if_modified(|now| {
            if now.term == term && now.leader == leader {
                return false;
            }
            self.ready.store(false, Ordering::Release);
            if leader.is_some() && now.leader != leader {
                self.counts.leader_changes.fetch_add(1, Ordering::Relaxed);
            }
            *now = Leadership { term, leader, ready: false };
            true
        });
    }

    /// The term in which this member took part last, before it votes again.
    pub(crate) fn restarted(&self, term: u64) {
        self.leadership.send_replace(Leadership { term, leader: None, ready: false });
    }

    /// An entry was appended. A configuration counts from here on, not only once it is committed.
    pub(crate) fn appended(&self, entry: &Entry) {
        self.last.store(entry.log_id.index + 1, Ordering::Release);
        if let EntryPayload::Membership(membership) = &entry.payload {
            self.configured(membership.voter_ids());
        }
    }

    /// The voters of the newest configuration.
    pub(crate) fn configured(&self, voters: impl Iterator<Item = u64>) {
        let voters: Vec<u64> = voters.collect();
        self.alone.store(voters == [self.me], Ordering::Release);
    }

    /// The members and their addresses, as applied.
    pub(crate) fn found_at<'a>(&self, members: impl Iterator<Item = (&'a u64, &'a Peer)>) {
        let mut urls = self.urls.lock().expect("nothing panics with the lock");
        *urls = members
            .filter(|(id, _)| **id == self.me)
            .flat_map(|(_, peer)| peer.urls.iter().cloned())
            .collect();
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.urls.lock().expect("nothing panics with the lock").clone()
    }

    pub(crate) fn cut(&self, next: u64) {
        self.last.store(next, Ordering::Release);
    }

    pub(crate) fn commit(&self, index: u64) {
        self.committed.fetch_max(index + 1, Ordering::AcqRel);
    }

    /// An entry was applied.
    pub(crate) fn apply(&self, term: u64, index: u64) {
        self.applied.store(index + 1, Ordering::Release);
        if self.ready.load(Ordering::Acquire) {
            return;
        }
        self.leadership.send_if_modified(|now| {
            let first_of_own = now.leader == Some(self.me) && now.term == term && !now.ready;
            if first_of_own {
                now.ready = true;
                self.ready.store(true, Ordering::Release);
            }
            first_of_own
        });
    }
}
