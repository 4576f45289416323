//! Filling a fresh database with a whole history, oldest version first.
//!
//! For imports. Applying such a history as commands is not possible (compaction has left gaps that
//! commands could not make) and would be slow. A [`Loader`] takes versions as they were, in batches,
//! and writes what checkpoints would have written: `hist` ascending, `cur` sorted by key, chains of
//! versions linked, and the running totals of [`crate::machine::size`] in every row. What it needs
//! to know of earlier versions it reads back from the database, so memory does not grow with the
//! number of keys.
//!
//! The database is not an opened store until [`Loader::finish`] has written the facts: before that
//! it says that it is empty, at revision 1.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use redb::{ReadOnlyTable, ReadableDatabase as _, WriteTransaction};

use super::{
    backend::{Home, Storage, Store},
    base::{CUR, HIST},
    counts::Counts,
    meta::{self, Cut, Identity, Progress},
    record::{self, HistKey, Place, hist_key},
};
use crate::{
    command::{Alarm, KeyValue, LeaseId, Revision},
    fault::Fault,
    limits::{CACHE_BYTES, LOAD_BATCH_BYTES, LOAD_BATCH_VERSIONS},
    machine::{
        Quota,
        auth::Auth,
        lease::Touched,
        links,
        rows::{Links, Meta, Version},
        size::{self, Sizes},
    },
};

/// What a history comes with.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The newest revision; it may lie behind the last version's.
    pub revision: Revision,
    /// No version that compaction has forgotten is among those that were loaded.
    pub is_swept: bool,
    /// Leases: seconds granted and remaining. Keys are attached to those that are here.
    pub leases: BTreeMap<LeaseId, (i64, i64)>,
    pub alarms: BTreeSet<Alarm>,
    pub auth: Auth,
}

/// A database being filled.
pub struct Loader {
    store: Arc<Store>,
    /// The oldest revision that can be read; −1 for all.
    compacted: Revision,
    sizes: Sizes,
    last: Version,
    /// The versions after the compacted revision have begun.
    is_past_compacted: bool,
    batch: Vec<KeyValue>,
    places: Vec<Version>,
    batch_bytes: usize,
}

/// The newest version of a key that came before.
#[derive(Clone, Copy)]
struct Prior {
    meta: Meta,
    /// What it counts, if it is alive.
    cost: u64,
}

impl Loader {
    /// Opens a database that holds nothing.
    pub fn create(
        storage: Storage,
        identity: Identity,
        compacted: Revision,
    ) -> Result<Self, Fault> {
        let store = Home::open(storage, CACHE_BYTES)?.database(identity)?;
        store.pace.hurry(true);
        let found = meta::open(&store.database)?;
        if found.applied.is_some() || found.state.revision != Revision::FIRST {
            return Err(Fault::Damaged("the database to be filled holds data already".into()));
        }
        Ok(Self {
            store,
            compacted,
            sizes: Sizes::default(),
            last: Version::NONE,
            is_past_compacted: false,
            batch: Vec::new(),
            places: Vec::new(),
            batch_bytes: 0,
        })
    }

    /// Takes the next version; a version number of 0 makes it a tombstone.
    ///
    /// # Panics
    /// If versions do not ascend: whoever reads them from somewhere checks that.
    pub fn push(&mut self, at: Version, kv: KeyValue) -> Result<(), Fault> {
        let last = self.places.last().copied().unwrap_or(self.last);
        assert!(last < at, "versions are loaded in order");
        self.batch_bytes += kv.key.len() + kv.value.len();
        self.batch.push(kv);
        self.places.push(at);
        if self.batch_bytes >= LOAD_BATCH_BYTES || self.batch.len() >= LOAD_BATCH_VERSIONS {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what is left, and the facts; then the database is a store.
    pub fn finish(mut self, facts: Facts) -> Result<(), Fault> {
        self.flush()?;
        if !self.is_past_compacted {
            self.pass_compacted();
        }
        assert!(self.last.main <= facts.revision, "no version is newer than the store");
        let (touched, counts) = self.attached_and_counted(&facts.leases)?;
        let cut = Cut {
            applied: None,
            raft: Bytes::new(),
            revision: facts.revision,
            compacted: self.compacted,
            sizes: self.sizes,
            quota: Quota::default(),
            counts,
            touched,
            alarms: facts.alarms,
            members: Vec::new(),
            auth: Arc::new(facts.auth),
        };
        let done = if facts.is_swept { self.compacted } else { Revision(-1) };
        let progress = Progress { done, target: done, next: Version::NONE };
        let mut transaction = self.store.database.begin_write()?;
        transaction.set_quick_repair(true);
        cut.counts.write(&transaction, None)?;
        meta::write(&transaction, &cut, progress)?;
        Ok(transaction.commit()?)
    }

    /// All leases with the keys whose newest version carries one, and how many keys are where.
    fn attached_and_counted(
        &self,
        leases: &BTreeMap<LeaseId, (i64, i64)>,
    ) -> Result<(Touched, Counts), Fault> {
        let (mut touched, mut counts) = (Touched::default(), Counts::default());
        touched.leases = leases.iter().map(|(id, seconds)| (*id, Some(*seconds))).collect();
        let read = self.store.database.begin_read()?;
        for row in read.open_table(CUR)?.range::<&[u8]>(..)? {
            let (key, row) = row?;
            let (meta, _) = record::read_cur(row.value())?;
            if !meta.is_tombstone() {
                counts.push(key.value());
            }
            if leases.contains_key(&meta.lease) {
                let key = Bytes::copy_from_slice(key.value());
                touched.keys.insert((meta.lease, key), true);
            }
        }
        Ok((touched, counts))
    }

    fn flush(&mut self) -> Result<(), Fault> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        let places = std::mem::take(&mut self.places);
        self.batch_bytes = 0;
        let earlier = Earlier::open(&self.store)?;
        let mut newest = earlier.newest(&batch)?;
        let mut metas: Vec<(Meta, u64)> = Vec::with_capacity(batch.len());
        // For each key, its newest version of this batch.
        let mut current: BTreeMap<&[u8], usize> = BTreeMap::new();
        for (nth, (kv, at)) in batch.iter().zip(places).enumerate() {
            let prior = newest.get(&kv.key[..]).copied();
            let links = links::after(prior.as_ref().map(|prior| &prior.meta), |older| {
                earlier.links(&metas, older)
            })?;
            let (create, version, lease) = (kv.create, kv.version, kv.lease);
            let meta = Meta { at, create, version, lease, links };
            let cost = size::cost(&kv.key, &kv.value);
            self.count(&meta, cost, prior);
            metas.push((meta, self.sizes.dead));
            newest.insert(&kv.key, Prior { meta, cost });
            current.insert(&kv.key, nth);
        }
        let transaction = self.store.database.begin_write()?;
        write_history(&transaction, &batch, &metas)?;
        write_current(&transaction, &batch, &metas, &current)?;
        Ok(transaction.commit()?)
    }

    fn count(&mut self, meta: &Meta, cost: u64, prior: Option<Prior>) {
        if !self.is_past_compacted && meta.at.main > self.compacted {
            self.pass_compacted();
        }
        if meta.at.main > self.last.main {
            self.sizes.next_revision();
        }
        let replaced = prior.filter(|prior| !prior.meta.is_tombstone()).map(|prior| prior.cost);
        self.sizes.change(cost, replaced, meta.is_tombstone());
        self.last = meta.at;
    }

    /// What is dead by the end of the compacted revision is what compaction frees.
    fn pass_compacted(&mut self) {
        self.is_past_compacted = true;
        if self.last.main < self.compacted {
            self.sizes.next_revision();
        }
        self.sizes.freed = self.sizes.dead;
    }
}

/// What earlier batches have written.
struct Earlier {
    cur: ReadOnlyTable<&'static [u8], &'static [u8]>,
    hist: ReadOnlyTable<&'static HistKey, &'static [u8]>,
}

impl Earlier {
    fn open(store: &Store) -> Result<Self, Fault> {
        let read = store.database.begin_read()?;
        Ok(Self { cur: read.open_table(CUR)?, hist: read.open_table(HIST)? })
    }

    /// The newest versions of a batch's keys. Looked up in order of the keys, which the pages are
    /// in too.
    fn newest<'a>(&self, batch: &'a [KeyValue]) -> Result<BTreeMap<&'a [u8], Prior>, Fault> {
        let keys: BTreeSet<&[u8]> = batch.iter().map(|kv| &kv.key[..]).collect();
        let mut newest = BTreeMap::new();
        for key in keys {
            let Some(row) = self.cur.get(key)? else { continue };
            let (meta, place) = record::read_cur(row.value())?;
            let cost = match place {
                Place::Inline(value) => size::cost(key, value),
                Place::History => {
                    let row = self.hist.get(&hist_key(meta.at))?;
                    let row = row.ok_or_else(|| Fault::Damaged("a version is missing".into()))?;
                    size::cost(key, record::read_hist(meta.at, row.value())?.value)
                }
            };
            newest.insert(key, Prior { meta, cost });
        }
        Ok(newest)
    }

    /// The links of a version of this batch or of an earlier one.
    fn links(&self, batch: &[(Meta, u64)], at: Version) -> Result<Option<Links>, Fault> {
        if let Ok(nth) = batch.binary_search_by_key(&at, |(meta, _)| meta.at) {
            return Ok(Some(batch[nth].0.links));
        }
        let Some(row) = self.hist.get(&hist_key(at))? else { return Ok(None) };
        Ok(Some(record::read_hist(at, row.value())?.meta.links))
    }
}

fn write_history(
    transaction: &WriteTransaction,
    batch: &[KeyValue],
    metas: &[(Meta, u64)],
) -> Result<(), Fault> {
    let mut hist = transaction.open_table(HIST)?;
    let mut end = hist.upper_bound_mut(Bound::<&HistKey>::Unbounded)?;
    let mut row = Vec::new();
    for (kv, (meta, dead)) in batch.iter().zip(metas) {
        record::write_hist(&mut row, meta, *dead, &kv.key, &kv.value);
        end.insert_before(&hist_key(meta.at), &row[..])?;
    }
    Ok(end.close()?)
}

fn write_current(
    transaction: &WriteTransaction,
    batch: &[KeyValue],
    metas: &[(Meta, u64)],
    current: &BTreeMap<&[u8], usize>,
) -> Result<(), Fault> {
    let mut cur = transaction.open_table(CUR)?;
    let mut row = Vec::new();
    for (key, nth) in current {
        record::write_cur(&mut row, &metas[*nth].0, &batch[*nth].value);
        cur.insert(*key, &row[..])?;
    }
    Ok(())
}
