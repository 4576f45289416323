//! Leases as the log knows them: granted, checkpointed, attached to keys, revoked.
//!
//! No time passes here. The leader counts down in `lessor` and proposes revocations; what is agreed
//! on is which leases exist, what they were granted, and which keys go with them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::{
    command::{LeaseId, Refusal},
    limits::LEASE_TTL_SECONDS_MAX,
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Seconds granted.
    pub ttl: i64,
    /// Seconds that were left when the leader last said so; 0 if it has not.
    pub remaining: i64,
    /// The keys whose newest version carries the lease.
    pub keys: BTreeSet<Bytes>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    by_id: BTreeMap<LeaseId, Lease>,
    touched: Touched,
}

/// What has changed since the last checkpoint began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Leases as they are now; absent if gone.
    pub leases: BTreeMap<LeaseId, Option<(i64, i64)>>,
    /// Attached (true) and detached (false) keys.
    pub keys: BTreeMap<(LeaseId, Bytes), bool>,
}

impl Touched {
    /// How many changes are noted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len() + self.keys.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds what was changed later.
    pub fn extend(&mut self, later: Self) {
        self.leases.extend(later.leases);
        self.keys.extend(later.keys);
    }
}

impl Leases {
    #[must_use]
    pub fn contains(&self, id: LeaseId) -> bool {
        self.by_id.contains_key(&id)
    }

    #[must_use]
    pub fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.by_id.get(&id)
    }

    /// All leases, by id.
    pub fn iter(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.by_id.iter().map(|(id, lease)| (*id, lease))
    }

    /// Puts back what a checkpoint kept.
    pub fn restore(&mut self, id: LeaseId, ttl: i64, remaining: i64) {
        self.by_id.insert(id, Lease { ttl, remaining, keys: BTreeSet::new() });
    }

    /// Puts back an attached key; false if there is no such lease.
    pub fn restore_key(&mut self, id: LeaseId, key: Bytes) -> bool {
        self.by_id.get_mut(&id).is_some_and(|lease| lease.keys.insert(key))
    }

    /// What has changed since the list was given away last.
    #[must_use]
    pub fn touched(&self) -> &Touched {
        &self.touched
    }

    /// Gives away the list of changes and begins a new one.
    pub fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }

    pub(super) fn grant(&mut self, id: LeaseId, ttl: i64) -> Result<(), Refusal> {
        if id == LeaseId::NONE {
            return Err(Refusal::LeaseNotFound);
        }
        if ttl > LEASE_TTL_SECONDS_MAX {
            return Err(Refusal::LeaseTtlTooLarge);
        }
        if self.contains(id) {
            return Err(Refusal::LeaseExists);
        }
        self.by_id.insert(id, Lease { ttl, remaining: 0, keys: BTreeSet::new() });
        self.touched.leases.insert(id, Some((ttl, 0)));
        Ok(())
    }

    /// Notes what is left of a lease. One that is gone by now is no error: the leader could not
    /// know.
    pub(super) fn checkpoint(&mut self, id: LeaseId, remaining: i64) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.remaining = remaining;
            self.touched.leases.insert(id, Some((lease.ttl, remaining)));
        }
    }

    /// Moves a key from one lease to another; either may be none.
    pub(super) fn move_key(&mut self, key: &Bytes, from: LeaseId, to: LeaseId) {
        if from == to {
            return;
        }
        if let Some(lease) = self.by_id.get_mut(&from) {
            lease.keys.remove(key);
            self.touched.keys.insert((from, key.clone()), false);
        }
        if to != LeaseId::NONE {
            let lease = self.by_id.get_mut(&to).expect("a put checks that its lease exists");
            lease.keys.insert(key.clone());
            self.touched.keys.insert((to, key.clone()), true);
        }
    }

    /// Ends a lease whose keys are gone.
    pub(super) fn remove(&mut self, id: LeaseId) {
        let lease = self.by_id.remove(&id);
        assert!(lease.is_none_or(|lease| lease.keys.is_empty()), "a lease goes after its keys");
        self.touched.leases.insert(id, None);
    }
}
