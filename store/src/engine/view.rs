//! Reading: consistent snapshots of the store.
//!
//! A [`View`] is the store at one revision. It costs two reference counts, blocks nobody, and never
//! changes. Held for long it keeps old memtables and database pages alive, so take one for each
//! question.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    backend::Home,
    defragment,
    history::{self, Budget, History},
    moment::NOT_SWEPT,
    record::HistRow,
    shared::{Current, Durable, Shared},
};
use crate::{
    command::{
        Alarm, KeyRange, LeaseId, Member, RangeAnswer, RangeQuery, Refusal, Revision, Txn,
        TxnAnswer,
    },
    fault::{Error, Fault},
    machine::{
        self, Quota,
        auth::Auth,
        digest::{Digest, Hasher},
        lease::{Lease, Leases},
        range::{self, RowSink, Summary},
        rows::Rows as _,
    },
};

/// Gives views, and what else may be asked from any thread.
#[derive(Clone)]
pub struct Reader {
    pub(super) shared: Arc<Shared>,
    pub(super) home: Home,
}

/// How many bytes the store takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSizes {
    /// Retained versions; equal on all members, and what the quota is about.
    pub retained: u64,
    /// Of those, what the newest state needs.
    pub live: u64,
    /// Live keys.
    pub keys: u64,
    /// The file of the database.
    pub file: u64,
}

impl Reader {
    /// What was counted since the start.
    pub(crate) fn counters(&self) -> &super::counters::Counters {
        &self.shared.counters
    }

    /// The store as of the last entry applied.
    #[must_use]
    pub fn view(&self) -> View {
        View { current: self.shared.current(), swept: NOT_SWEPT }
    }

    /// Whether clients must log in, as of now.
    #[must_use]
    pub fn auth_enabled(&self) -> bool {
        self.shared.auth_enabled()
    }

    /// Asks something about users and roles and the keys of leases, as of now. Applying waits
    /// meanwhile.
    pub fn with_leases<T>(&self, ask: impl FnOnce(&Auth, &Leases) -> T) -> T {
        let core = self.shared.core();
        ask(&core.state.auth, &core.state.leases)
    }

    /// A lease with its keys, as of now.
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<Lease> {
        self.shared.core().state.leases.get(id).cloned()
    }

    /// All leases by id, with the seconds granted and, where the leader has noted them, remaining.
    #[must_use]
    pub fn leases(&self) -> Vec<(LeaseId, i64, i64)> {
        let core = self.shared.core();
        core.state.leases.iter().map(|(id, lease)| (id, lease.ttl, lease.remaining)).collect()
    }

    /// The last entry applied.
    #[must_use]
    pub fn applied(&self) -> Option<u64> {
        self.shared.core().applied
    }

    /// Changes whenever a checkpoint is on disk.
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<Durable> {
        self.shared.durable.subscribe()
    }

    /// Turns to a fault when checkpoints have become impossible; the node must stop then.
    #[must_use]
    pub fn fault(&self) -> watch::Receiver<Option<Fault>> {
        self.shared.fault.subscribe()
    }

    /// Asks for a checkpoint of all that has been applied, and says which entry that goes up to:
    /// wait for it in [`Self::durable`].
    pub fn request_checkpoint(&self) -> Option<u64> {
        let applied = self.applied();
        self.shared.force();
        applied
    }

    /// Rewrites the database without its gaps, while reads and writes go on. One at a time: others
    /// wait for their turn.
    pub async fn defragment(&self) -> Result<(), Fault> {
        let _turn = self.shared.defragmenting.lock().await;
        let reader = self.clone();
        let done = tokio::task::spawn_blocking(move || reader.defragment_now());
        done.await.map_err(|_| Fault::Stopped)?
    }

    /// As [`Self::defragment`], on this thread; not beside another one.
    pub fn defragment_now(&self) -> Result<(), Fault> {
        defragment::run(&self.shared, &self.home)
    }
}

/// The store at one revision.
#[derive(Clone)]
pub struct View {
    pub(super) current: Current,
    /// Rows of versions that compaction up to here forgets are known to be gone.
    pub(super) swept: Revision,
}

impl View {
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.current.revision
    }

    /// The oldest revision that can be asked about; −1 if none was ever compacted.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.current.compacted
    }

    pub fn range(&self, query: &RangeQuery) -> Result<RangeAnswer, Error> {
        range::answer(&self.current.rows(), self.compacted(), self.revision(), query)
    }

    /// As [`Self::range`], with the rows handed to `sink` in their final order as they are found:
    /// for whoever encodes an answer without holding all its rows. The answer's own revision is
    /// this view's.
    pub fn range_into(
        &self,
        query: &RangeQuery,
        sink: &mut impl RowSink,
    ) -> Result<Summary, Error> {
        let (compacted, current) = (self.compacted(), self.revision());
        range::answer_into(&self.current.rows(), compacted, current, query, sink)
    }

    /// Answers a transaction that [is read-only](Txn::is_read_only).
    pub fn txn(&self, txn: &Txn) -> Result<TxnAnswer, Error> {
        machine::ask(&self.current.rows(), self.compacted(), self.revision(), txn)
    }

    /// All changes from a revision on, as far as the budget goes; none if it lies in the future.
    pub fn history(&self, from: Revision, budget: Budget) -> Result<History, Error> {
        if from < self.compacted() {
            return Err(Refusal::Compacted { compacted: self.compacted() }.into());
        }
        // The first change ever makes the revision after the first.
        let from = from.max(Revision::FIRST.next());
        let current = &self.current;
        let upto = self.revision();
        Ok(history::read(&current.tables, from, upto, current.compacted, budget)?)
    }

    #[must_use]
    pub fn alarms(&self) -> &[Alarm] {
        &self.current.facts.alarms
    }

    /// What members have said about themselves, by id.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.current.facts.members
    }

    /// Users and roles.
    #[must_use]
    pub fn auth(&self) -> &Arc<Auth> {
        &self.current.facts.auth
    }

    #[must_use]
    pub fn quota(&self) -> Quota {
        self.current.facts.quota
    }

    #[must_use]
    pub fn sizes(&self) -> StoreSizes {
        StoreSizes {
            retained: self.current.sizes.retained(),
            live: self.current.sizes.live(),
            keys: self.current.counts.total(),
            file: self.current.tables.base.file_bytes(),
        }
    }

    /// A digest of all versions up to a revision; 0 asks for the newest. Reads the whole history.
    pub fn hash_kv(&self, upto: Revision) -> Result<Digest, Error> {
        let (current, compacted) = (self.revision(), self.compacted());
        let upto = if upto.0 == 0 { current } else { upto };
        if upto.0 < 0 {
            // No version is that old; etcd says so with the hash of nothing.
            let hash = Hasher::default().finish();
            return Ok(Digest { hash, revision: upto, compacted });
        }
        if upto < compacted {
            return Err(Refusal::Compacted { compacted }.into());
        }
        if upto > current {
            return Err(Refusal::FutureRevision { current }.into());
        }
        let mut hasher = Hasher::default();
        let needed_at = self.needed_at(upto)?;
        self.each_version(upto, &mut |row| {
            if self.counts(row, needed_at)? {
                let key = bytes::Bytes::copy_from_slice(row.key);
                if row.meta.is_tombstone() {
                    hasher.tombstone(row.meta.at, &key);
                } else {
                    hasher.live(row.meta.at, &row.meta.with(key, row.value()));
                }
            }
            Ok(true)
        })?;
        Ok(Digest { hash: hasher.finish(), revision: upto, compacted })
    }

    /// A digest of all versions that are on hand, compacted ones included while they are. For
    /// diagnosis only: members that have removed compacted versions at different times differ, as
    /// etcd's do.
    pub fn hash(&self) -> Result<u32, Error> {
        let mut hasher = Hasher::default();
        self.each_version(self.revision(), &mut |row| {
            let key = bytes::Bytes::copy_from_slice(row.key);
            if row.meta.is_tombstone() {
                hasher.tombstone(row.meta.at, &key);
            } else {
                hasher.live(row.meta.at, &row.meta.with(key, row.value()));
            }
            Ok(true)
        })?;
        Ok(hasher.finish())
    }

    /// Of compacted versions those count that are needed at this revision; see [`machine::digest`].
    fn needed_at(&self, upto: Revision) -> Result<Revision, Fault> {
        let mut any = false;
        self.current.tables.scan(&KeyRange::all(), upto, &mut |_| {
            any = true;
            Ok(false)
        })?;
        Ok(if any { upto } else { self.compacted() })
    }

    fn counts(&self, row: &HistRow<'_>, needed_at: Revision) -> Result<bool, Fault> {
        if row.meta.at.main > self.compacted() {
            return Ok(true);
        }
        if row.meta.is_tombstone() {
            return Ok(false);
        }
        let key = bytes::Bytes::copy_from_slice(row.key);
        let newest = self.current.tables.get(&key, needed_at)?;
        Ok(newest.is_some_and(|(meta, _)| meta.at == row.meta.at))
    }

    /// Visits all versions up to a revision that are still here, in order.
    pub(super) fn each_version(
        &self,
        upto: Revision,
        visit: &mut dyn FnMut(&HistRow<'_>) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let tables = &self.current.tables;
        tables.versions(Revision(0), upto, visit)?;
        let mut next = tables.stored().next();
        while next <= upto {
            let batch = tables.logged(next, 1024);
            for logged in batch.iter().filter(|logged| logged.revised.revision <= upto) {
                for (meta, dead, kv) in logged.versions() {
                    visit(&HistRow { meta, dead, key: &kv.key, value: &kv.value })?;
                }
            }
            next = batch.last().map_or(upto, |logged| logged.revised.revision).next();
        }
        Ok(())
    }
}
