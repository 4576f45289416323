//! Lease deadlines. Only the leader counts down; this is its clockwork.
//!
//! That a lease exists, and which keys hang on it, is replicated state. *When* it ends is not: the
//! leader keeps a deadline for each lease here, moves it when a client renews, and proposes a
//! revocation once it has passed. A member that becomes leader has seen no renewals, so
//! [`Lessor::promote`] gives every lease its full time anew, and an election timeout more for
//! renewals that are still on their way. A lease therefore never ends early.
//!
//! Pure: time comes in as the duration since the process's own zero, and nobody is called back.
//! An expired lease stays here until its revocation is applied, and is handed out again only after
//! [`RETRY`], in case the first proposal got lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::command::LeaseId;

/// How long to wait for a proposed revocation before proposing it again.
pub const RETRY: Duration = Duration::from_secs(3);

/// All deadlines of the leader; empty on other members.
#[derive(Debug, Default)]
pub struct Lessor {
    leases: BTreeMap<LeaseId, Lease>,
    /// The same leases by when they next need attention: at the deadline, later for a retry.
    due: BTreeSet<(Duration, LeaseId)>,
    leading: bool,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl: Duration,
    deadline: Duration,
    /// Where it stands in `due`.
    due: Duration,
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
    /// Becomes the one that counts, for the leases that exist, each with its granted seconds.
    pub fn promote(
        &mut self,
        leases: impl IntoIterator<Item = (LeaseId, i64)>,
        now: Duration,
        extend: Duration,
    ) {
        self.demote();
        self.leading = true;
        for (id, seconds) in leases {
            self.start(id, ttl(seconds), now.saturating_add(extend));
        }
    }

    /// Another member counts now.
    pub fn demote(&mut self) {
        *self = Self::default();
    }

    /// Whether this member counts.
    pub fn leading(&self) -> bool {
        self.leading
    }

    /// A grant was applied.
    pub fn granted(&mut self, id: LeaseId, seconds: i64, now: Duration) {
        if self.leading {
            self.start(id, ttl(seconds), now);
        }
    }

    /// A revocation was applied.
    pub fn revoked(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.remove(&id) {
            self.due.remove(&(lease.due, id));
        }
    }

    /// A client renews: the granted seconds, or nothing for a lease that is unknown or has passed
    /// its deadline. A passed one is about to be revoked and must not be promised more time.
    pub fn renew(&mut self, id: LeaseId, now: Duration) -> Option<Duration> {
        let lease = self.leases.get(&id)?;
        if lease.deadline <= now {
            return None;
        }
        let ttl = lease.ttl;
        self.start(id, ttl, now);
        Some(ttl)
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

    fn start(&mut self, id: LeaseId, ttl: Duration, from: Duration) {
        self.revoked(id);
        let deadline = from.saturating_add(ttl);
        self.leases.insert(id, Lease { ttl, deadline, due: deadline });
        self.due.insert((deadline, id));
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
        lessor.promote(leases.iter().copied(), at(0), at(1));
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
    fn endless_leases_do_not_overflow() {
        let mut lessor = leader(&[(A, i64::MAX)]);
        assert_eq!(lessor.expired(at(1 << 40), 9), []);
        assert_eq!(lessor.by_deadline(), [A]);
    }
}
