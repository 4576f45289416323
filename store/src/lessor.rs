//! Lease deadlines. Only the leader counts down; this is its clockwork.
//!
//! That a lease exists, and which keys hang on it, is replicated state. *When* it ends is not: the
//! leader keeps a deadline for each lease here, moves it when a client renews, and proposes a
//! revocation once it has passed. A member that becomes leader has seen no renewals, so
//! [`Lessor::promote`] gives every lease its full time anew, and an election timeout more for
//! renewals that are still on their way. A lease therefore never ends early.
//!
//! A long lease can also be kept from ending late: with checkpoints on, the leader notes now and
//! then in the log how much of it is left, and the next leader starts from that note. A renewal
//! makes the note untrue, so it is taken back first ([`Lessor::has_note`]).
//!
//! Pure: time comes in as the duration since the process's own zero, and nobody is called back.
//! An expired lease stays here until its revocation is applied, and is handed out again only after
//! [`RETRY`], in case the first proposal got lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::command::LeaseId;

/// How long to wait for a proposed revocation before proposing it again.
pub const RETRY: Duration = Duration::from_secs(3);

/// How often what is left of a long lease is noted; etcd's figure. A shorter lease is never noted.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(300);

/// All deadlines of the leader; empty on other members.
#[derive(Debug, Default)]
pub struct Lessor {
    leases: BTreeMap<LeaseId, Lease>,
    /// The same leases by when they next need attention: at the deadline, later for a retry.
    due: BTreeSet<(Duration, LeaseId)>,
    /// Long leases by when what is left of them is to be noted next; empty without checkpoints.
    notes: BTreeSet<(Duration, LeaseId)>,
    checkpoints: bool,
    leading: bool,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl: Duration,
    deadline: Duration,
    /// Where it stands in `due`.
    due: Duration,
    /// Where it stands in `notes`.
    note: Option<Duration>,
    /// The log holds a note of what was left.
    noted: bool,
}

/// What is left of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// Until the deadline; zero once it has passed.
    pub left: Duration,
    /// As granted.
    pub granted: Duration,
}

impl Lessor {
    /// One that counts nothing yet, with or without checkpoints.
    pub fn new(checkpoints: bool) -> Self {
        Self { checkpoints, ..Self::default() }
    }

    /// Becomes the one that counts, for the leases that exist: each with the seconds it was granted
    /// and those that were left when it was last noted, 0 if it was not.
    pub fn promote(
        &mut self,
        leases: impl IntoIterator<Item = (LeaseId, i64, i64)>,
        now: Duration,
        extend: Duration,
    ) {
        self.demote();
        self.leading = true;
        let from = now.saturating_add(extend);
        for (id, granted, left) in leases {
            let noted = self.checkpoints && left > 0;
            let left = if noted { left.min(granted) } else { granted };
            self.start(id, ttl(granted), from.saturating_add(ttl(left)), now);
            self.lease(id).noted = noted;
        }
    }

    /// Another member counts now.
    pub fn demote(&mut self) {
        *self = Self::new(self.checkpoints);
    }

    /// Whether this member counts.
    pub fn leading(&self) -> bool {
        self.leading
    }

    /// A grant was applied.
    pub fn granted(&mut self, id: LeaseId, seconds: i64, now: Duration) {
        if self.leading {
            self.start(id, ttl(seconds), now.saturating_add(ttl(seconds)), now);
        }
    }

    /// A revocation was applied.
    pub fn revoked(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.remove(&id) {
            self.due.remove(&(lease.due, id));
            if let Some(note) = lease.note {
                self.notes.remove(&(note, id));
            }
        }
    }

    /// A client renews: the granted seconds, or nothing for a lease that is unknown or has passed
    /// its deadline. A passed one is about to be revoked and must not be promised more time.
    pub fn renew(&mut self, id: LeaseId, now: Duration) -> Option<Duration> {
        let lease = self.leases.get(&id)?;
        if lease.deadline <= now {
            return None;
        }
        let (ttl, noted) = (lease.ttl, lease.noted);
        self.start(id, ttl, now.saturating_add(ttl), now);
        self.lease(id).noted = noted;
        Some(ttl)
    }

    /// Whether the log holds a note of what is left of the lease: it must be taken back before the
    /// lease is renewed, or a new leader could end the lease early.
    pub fn has_note(&self, id: LeaseId) -> bool {
        self.leases.get(&id).is_some_and(|lease| lease.noted)
    }

    /// The note was taken back.
    pub fn note_withdrawn(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.noted = false;
        }
    }

    /// Up to `max` long leases whose remaining seconds are to be noted now.
    pub fn to_note(&mut self, now: Duration, max: usize) -> Vec<(LeaseId, i64)> {
        let mut noted = Vec::new();
        while noted.len() < max {
            let Some(&(at, id)) = self.notes.first() else { break };
            if at > now {
                break;
            }
            self.notes.remove(&(at, id));
            let lease = self.lease(id);
            lease.note = None;
            let left = lease.deadline.saturating_sub(now);
            if left < lease.ttl && !left.is_zero() {
                lease.noted = true;
                // Rounded up: a lease may end late, never early.
                let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
                noted.push((id, i64::try_from(seconds).unwrap_or(i64::MAX)));
            }
            self.schedule_note(id, now);
        }
        noted
    }

    /// When [`Lessor::to_note`] will next have something.
    pub fn next_note(&self) -> Option<Duration> {
        self.notes.first().map(|(at, _)| *at)
    }

    /// Whether the lease is known and its deadline has passed.
    pub fn is_expired(&self, id: LeaseId, now: Duration) -> bool {
        self.leases.get(&id).is_some_and(|lease| lease.deadline <= now)
    }

    /// What is left of a lease.
    pub fn remaining(&self, id: LeaseId, now: Duration) -> Option<Remaining> {
        let lease = self.leases.get(&id)?;
        Some(Remaining { left: lease.deadline.saturating_sub(now), granted: lease.ttl })
    }

    /// Up to `max` leases to revoke now, the longest overdue first.
    pub fn expired(&mut self, now: Duration, max: usize) -> Vec<LeaseId> {
        let mut ids = Vec::new();
        while ids.len() < max {
            let Some(&(due, id)) = self.due.first() else { break };
            if due > now {
                break;
            }
            self.due.remove(&(due, id));
            let lease = self.leases.get_mut(&id).expect("due names known leases");
            lease.due = now.saturating_add(RETRY);
            self.due.insert((lease.due, id));
            ids.push(id);
        }
        ids
    }

    /// When [`Lessor::expired`] will next have something.
    pub fn next_due(&self) -> Option<Duration> {
        self.due.first().map(|(due, _)| *due)
    }

    /// All leases, the first to end first.
    pub fn by_deadline(&self) -> Vec<LeaseId> {
        let mut ids: Vec<_> = self.leases.iter().map(|(id, lease)| (lease.deadline, *id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    fn start(&mut self, id: LeaseId, ttl: Duration, deadline: Duration, now: Duration) {
        self.revoked(id);
        let lease = Lease { ttl, deadline, due: deadline, note: None, noted: false };
        self.leases.insert(id, lease);
        self.due.insert((deadline, id));
        self.schedule_note(id, now);
    }

    fn schedule_note(&mut self, id: LeaseId, now: Duration) {
        let checkpoints = self.checkpoints;
        let lease = self.lease(id);
        if checkpoints && lease.deadline.saturating_sub(now) > CHECKPOINT_EVERY {
            let at = now.saturating_add(CHECKPOINT_EVERY);
            lease.note = Some(at);
            self.notes.insert((at, id));
        }
    }

    fn lease(&mut self, id: LeaseId) -> &mut Lease {
        self.leases.get_mut(&id).expect("the caller has just seen it")
    }
}

fn ttl(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    //! Each test is a short story on an invented clock, in seconds.

    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const A: LeaseId = LeaseId(1);
    const B: LeaseId = LeaseId(2);

    fn leader(leases: &[(LeaseId, i64)]) -> Lessor {
        let mut lessor = Lessor::default();
        lessor.promote(leases.iter().map(|(id, ttl)| (*id, *ttl, 0)), at(0), at(1));
        lessor
    }

    #[test]
    fn a_new_leader_gives_full_time_and_a_little_more() {
        let mut lessor = leader(&[(A, 10), (B, 5)]);
        assert_eq!(lessor.expired(at(5), 9), []);
        assert_eq!(lessor.expired(at(6), 9), [B]);
        assert_eq!(lessor.expired(at(11), 9), [B, A], "B is retried, its revocation got lost");
    }

    #[test]
    fn a_renewal_moves_the_deadline() {
        let mut lessor = leader(&[]);
        lessor.granted(A, 10, at(0));
        assert_eq!(lessor.renew(A, at(9)), Some(at(10)));
        assert_eq!(lessor.expired(at(18), 9), []);
        assert_eq!(lessor.remaining(A, at(18)), Some(Remaining { left: at(1), granted: at(10) }));
        assert_eq!(lessor.expired(at(19), 9), [A]);
    }

    #[test]
    fn a_passed_deadline_cannot_be_renewed() {
        let mut lessor = leader(&[]);
        lessor.granted(A, 10, at(0));
        assert_eq!(lessor.renew(A, at(10)), None);
        assert!(lessor.is_expired(A, at(10)));
        assert_eq!(lessor.renew(B, at(0)), None);
    }

    #[test]
    fn a_revoked_lease_is_gone() {
        let mut lessor = leader(&[(A, 1)]);
        lessor.revoked(A);
        assert_eq!((lessor.expired(at(99), 9), lessor.next_due()), (vec![], None));
    }

    #[test]
    fn revocations_come_in_bounded_numbers_and_not_twice_at_once() {
        let mut lessor = leader(&[]);
        for id in 1..=5 {
            lessor.granted(LeaseId(id), id, at(0));
        }
        assert_eq!(lessor.expired(at(9), 2), [LeaseId(1), LeaseId(2)]);
        assert_eq!(lessor.expired(at(9), 9), [LeaseId(3), LeaseId(4), LeaseId(5)]);
        assert_eq!(lessor.expired(at(9), 9), []);
        assert_eq!(lessor.next_due(), Some(at(12)));
    }

    #[test]
    fn a_follower_counts_nothing() {
        let mut lessor = Lessor::default();
        lessor.granted(A, 1, at(0));
        assert_eq!((lessor.next_due(), lessor.leading()), (None, false));
        let mut lessor = leader(&[(A, 1)]);
        lessor.demote();
        assert_eq!(lessor.next_due(), None);
    }

    #[test]
    fn what_is_left_of_a_long_lease_is_noted_and_taken_up_by_the_next_leader() {
        let mut lessor = Lessor::new(true);
        lessor.promote([(A, 1000, 0), (B, 300, 0)], at(0), at(0));
        assert_eq!(lessor.next_note(), Some(at(300)), "B is too short to be noted");
        assert_eq!(lessor.to_note(at(299), 9), []);
        assert_eq!(lessor.to_note(at(300), 9), [(A, 700)]);
        assert_eq!(lessor.to_note(at(600), 9), [(A, 400)]);
        assert_eq!(lessor.to_note(at(900), 9), [(A, 100)]);
        assert_eq!(lessor.next_note(), None, "it ends before the next note is due");
        let mut next = Lessor::new(true);
        next.promote([(A, 1000, 400)], at(50), at(1));
        assert_eq!(next.remaining(A, at(50)).map(|remaining| remaining.left), Some(at(401)));
    }

    #[test]
    fn a_note_that_was_taken_back_is_made_anew_after_the_renewal() {
        let mut lessor = Lessor::new(true);
        lessor.granted(A, 1000, at(0));
        lessor.promote([(A, 1000, 0)], at(0), at(0));
        assert!(!lessor.has_note(A));
        assert_eq!(lessor.to_note(at(300), 9), [(A, 700)]);
        assert!(lessor.has_note(A));
        lessor.note_withdrawn(A);
        assert_eq!(lessor.renew(A, at(310)), Some(at(1000)));
        assert!(!lessor.has_note(A));
        assert_eq!(lessor.next_note(), Some(at(610)), "counted anew");
        lessor.revoked(A);
        assert_eq!(lessor.next_note(), None);
    }

    #[test]
    fn without_checkpoints_notes_are_neither_made_nor_heeded() {
        let mut lessor = Lessor::new(false);
        lessor.promote([(A, 1000, 400)], at(0), at(0));
        assert_eq!((lessor.next_note(), lessor.has_note(A)), (None, false));
        assert_eq!(lessor.remaining(A, at(0)).map(|remaining| remaining.left), Some(at(1000)));
    }

    #[test]
    fn endless_leases_do_not_overflow() {
        let mut lessor = leader(&[(A, i64::MAX)]);
        assert_eq!(lessor.expired(at(1 << 40), 9), []);
        assert_eq!(lessor.by_deadline(), [A]);
    }
}
