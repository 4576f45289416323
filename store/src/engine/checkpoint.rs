//! Writing memtables into the database.
//!
//! One thread. It takes the oldest frozen memtable and writes, in one durable transaction: the
//! newest version of each of its keys, ascending by key; all its versions, ascending by revision;
//! and the facts of the moment it was frozen. A crash before the transaction is durable leaves the
//! previous checkpoint, after it this one; there is nothing between. Sorted writes matter: a random
//! one costs the database a page each.
//!
//! The same transaction carries a slice of compaction. If there is compaction left to do and
//! nothing to write, transactions of compaction alone follow. Removal goes in small batches with
//! rests between them, so that it takes little of the machine at a time, and gives way to a
//! memtable that waits.

use std::{any::Any, ops::Bound, sync::Arc, time::Duration};

use redb::WriteTransaction;
use tokio::time::Instant;

use super::{
    backend::Store,
    base::{Base, CUR, HIST},
    compact::{self, Gathered},
    counters::Counters,
    memtable::Memtable,
    meta::{self, Cut, Progress},
    record::{self, hist_key},
};
use crate::{
    command::Revision,
    fault::Fault,
    machine::rows::{Meta, Version},
};

/// A memtable that no longer changes, and what was true when it stopped.
pub(super) struct Frozen {
    pub(super) table: Arc<Memtable>,
    pub(super) cut: Cut,
}

/// The database as the checkpoint thread has it.
pub(super) struct Writer {
    pub(super) store: Arc<Store>,
    pub(super) progress: Progress,
    /// What the last checkpoint contained, for transactions of compaction alone.
    pub(super) last: Cut,
    /// Versions that compaction looks at in one transaction, and before it rests.
    pub(super) compact_slice: usize,
    pub(super) compact_gather: usize,
    pub(super) gathered: Option<Gathered>,
    pub(super) compact_batch: usize,
    pub(super) compact_rest: Duration,
    /// What is no longer in use here but may be elsewhere. Taking apart a memtable or closing a
    /// database takes milliseconds, so it is done on this thread, when nobody else is left.
    pub(super) retired: Vec<Arc<dyn Any + Send + Sync>>,
    pub(super) counters: Arc<Counters>,
}

/// Rests between two batches of removal; false if there is something more pressing to do.
pub(super) type Rest<'a> = &'a dyn Fn() -> bool;

impl Writer {
    /// Writes a frozen memtable, and opens what was written for reading. Removes compacted versions
    /// on the way, if it is given how to rest.
    pub(super) fn checkpoint(
        &mut self,
        frozen: &Frozen,
        compact: Option<Rest<'_>>,
    ) -> Result<Arc<Base>, Fault> {
        let written = self.last.counts.clone();
        let base = self.commit(&frozen.cut, compact, |transaction| {
            frozen.cut.counts.write(transaction, Some(&written))?;
            write_current(transaction, &frozen.table)?;
            write_history(transaction, &frozen.table)
        })?;
        self.last = Cut { touched: Default::default(), ..frozen.cut.clone() };
        Ok(base)
    }

    /// Goes on removing compacted versions.
    pub(super) fn compact(&mut self, rest: Rest<'_>) -> Result<Arc<Base>, Fault> {
        let cut = self.last.clone();
        self.commit(&cut, Some(rest), |_| Ok(()))
    }

    /// Whether compacted versions are left that the last checkpoint knows of.
    pub(super) fn compaction_is_due(&self) -> bool {
        self.progress.is_due(self.last.compacted)
    }

    /// Goes on in another database, which has the same contents.
    pub(super) fn move_to(&mut self, store: Arc<Store>) {
        let old = std::mem::replace(&mut self.store, store);
        self.retire(old);
    }

    pub(super) fn retire(&mut self, something: Arc<dyn Any + Send + Sync>) {
        self.retired.push(something);
        self.clear_retired();
    }

    pub(super) fn clear_retired(&mut self) {
        self.retired.retain(|retired| Arc::strong_count(retired) > 1);
    }

    fn commit(
        &mut self,
        cut: &Cut,
        compact: Option<Rest<'_>>,
        write: impl FnOnce(&WriteTransaction) -> Result<(), Fault>,
    ) -> Result<Arc<Base>, Fault> {
        let mut transaction = self.store.database.begin_write()?;
        // Saves the allocator's state with the commit, so that opening never walks the file.
        transaction.set_quick_repair(true);
        write(&transaction)?;
        let progress = match compact {
            Some(rest) => self.remove(&transaction, cut.compacted, rest)?,
            None => self.progress,
        };
        meta::write(&transaction, cut, progress)?;
        let written = Instant::now();
        transaction.commit()?;
        self.counters.commit.observe_time(written.elapsed());
        self.progress = progress;
        Base::open(&self.store, cut.revision)
    }

    /// Removes compacted versions, batch by batch, and says how far it came.
    fn remove(
        &mut self,
        transaction: &WriteTransaction,
        compacted: Revision,
        rest: Rest<'_>,
    ) -> Result<Progress, Fault> {
        let mut progress = self.progress;
        let mut left = self.compact_slice;
        while left > 0 && progress.is_due(compacted) {
            let versions = self.compact_batch.min(left);
            let batch = compact::Batch { versions, gather: self.compact_gather };
            let begun = Instant::now();
            let removed;
            (progress, removed) =
                compact::batch(transaction, compacted, progress, &mut self.gathered, batch)?;
            let is_done = !progress.is_due(compacted);
            self.counters.removed(removed, begun.elapsed(), is_done);
            left -= versions;
            if is_done || !rest() {
                break;
            }
        }
        Ok(progress)
    }
}

fn write_current(transaction: &WriteTransaction, table: &Memtable) -> Result<(), Fault> {
    let mut cur = transaction.open_table(CUR)?;
    let mut row = Vec::new();
    let mut newest = table.cursor(&crate::command::KeyRange::all(), Revision(i64::MAX));
    while let (Some(key), Some(stored)) = (newest.key(), newest.stored()) {
        record::write_cur(&mut row, &stored.meta, &stored.value);
        cur.insert(&key[..], &row[..])?;
        newest.advance();
    }
    Ok(())
}

fn write_history(transaction: &WriteTransaction, table: &Memtable) -> Result<(), Fault> {
    let mut hist = transaction.open_table(HIST)?;
    let mut end = hist.upper_bound_mut(Bound::<&[u8; 12]>::Unbounded)?;
    let mut row = Vec::new();
    let mut next = table.log.first();
    while let Some(revision) = next {
        let batch = table.log.from(revision, 1024);
        for logged in &batch {
            for (nth, event) in logged.revised.events.iter().enumerate() {
                let sub = u32::try_from(nth).expect("a revision changes fewer keys");
                let kv = &event.kv;
                let meta = Meta {
                    at: Version { main: logged.revised.revision, sub },
                    create: kv.create,
                    version: kv.version,
                    lease: kv.lease,
                    links: logged.traces[nth].links,
                };
                let dead = logged.traces[nth].dead;
                record::write_hist(&mut row, &meta, dead, &kv.key, &kv.value);
                end.insert_before(&hist_key(meta.at), &row[..])?;
            }
        }
        next = batch.last().map(|logged| logged.revised.revision.next());
    }
    Ok(end.close()?)
}
