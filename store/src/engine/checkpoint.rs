//! Writing runs into the database.
//!
//! One durable transaction takes the newest version of each key of a run, ascending by key; all its
//! versions, ascending by revision; and the facts of the moment at which its last memtable was
//! frozen. A crash before the transaction is durable leaves the previous checkpoint, after it this
//! one; there is nothing between. Sorted writes matter: a random one costs the database a page.
//!
//! The same transaction carries a slice of compaction. If there is compaction left to do and
//! nothing to write, transactions of compaction alone follow. Removal goes in small batches with
//! rests between them, so that it takes little of the machine at a time.
//!
//! A transaction may last for seconds, and memtables are frozen meanwhile. So now and then it
//! stands aside for a moment, for them to be spilled by the same thread.

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
    run::Run,
};
use crate::{command::Revision, fault::Fault};

/// A memtable that no longer changes, and what was true when it stopped.
pub(super) struct Frozen {
    pub(super) table: Arc<Memtable>,
    pub(super) cut: Cut,
}

/// What is no longer in use here but may be elsewhere. Taking apart a memtable or closing a
/// database takes milliseconds, so it is done on this thread, when nobody else is left.
#[derive(Default)]
pub(super) struct Retired(Vec<Arc<dyn Any + Send + Sync>>);

impl Retired {
    pub(super) fn push(&mut self, something: Arc<dyn Any + Send + Sync>) {
        self.0.push(something);
        self.clear();
    }

    pub(super) fn clear(&mut self) {
        self.0.retain(|retired| Arc::strong_count(retired) > 1);
    }
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
    pub(super) retired: Retired,
    pub(super) counters: Arc<Counters>,
}

/// What is done in the middle of a transaction.
pub(super) trait Aside {
    /// Does what cannot wait, and notes how much of the transaction is done.
    fn stand(&mut self, percent: usize) -> Result<(), Fault>;

    /// Rests between two batches of removal; false if there is something more pressing to do.
    fn rest(&mut self, time: Duration) -> Result<bool, Fault>;
}

/// Rows written before standing aside.
const ROWS_AT_ONCE: usize = 512;

/// Of the time a run takes, the part of its newest versions, which are scattered, and of all of them
/// together; the rest is the commit's. In percent.
const CURRENT_PERCENT: usize = 70;
const ROWS_PERCENT: usize = 95;

impl Writer {
    /// Writes a run, and opens what was written for reading. Removes compacted versions on the way,
    /// if it may.
    pub(super) fn checkpoint(
        &mut self,
        run: &Run,
        cut: Cut,
        compact: bool,
        aside: &mut dyn Aside,
    ) -> Result<Arc<Base>, Fault> {
        let written = self.last.counts.clone();
        let share = compact.then(|| run.len());
        let base = self.commit(&cut, share, aside, |transaction, aside| {
            cut.counts.write(transaction, Some(&written))?;
            write_current(transaction, run, aside)?;
            write_history(transaction, run, aside)
        })?;
        self.last = Cut { touched: Default::default(), ..cut };
        Ok(base)
    }

    /// Goes on removing compacted versions.
    pub(super) fn compact(&mut self, aside: &mut dyn Aside) -> Result<Arc<Base>, Fault> {
        let cut = self.last.clone();
        self.commit(&cut, Some(0), aside, |_, _| Ok(()))
    }

    /// Whether compacted versions are left that the last checkpoint knows of.
    pub(super) fn compaction_is_due(&self) -> bool {
        self.progress.is_due(self.last.compacted)
    }

    /// Goes on in another database, which has the same contents.
    pub(super) fn move_to(&mut self, store: Arc<Store>) {
        let old = std::mem::replace(&mut self.store, store);
        self.retired.push(old);
    }

    fn commit(
        &mut self,
        cut: &Cut,
        compact: Option<usize>,
        aside: &mut dyn Aside,
        write: impl FnOnce(&WriteTransaction, &mut dyn Aside) -> Result<(), Fault>,
    ) -> Result<Arc<Base>, Fault> {
        let mut transaction = self.store.database.begin_write()?;
        // Saves the allocator's state with the commit, so that opening never walks the file.
        transaction.set_quick_repair(true);
        write(&transaction, aside)?;
        let progress = match compact {
            Some(share) => self.remove(&transaction, cut.compacted, share, aside)?,
            None => self.progress,
        };
        meta::write(&transaction, cut, progress)?;
        let written = Instant::now();
        transaction.commit()?;
        self.counters.commit.observe_time(written.elapsed());
        self.progress = progress;
        Base::open(&self.store, cut.revision)
    }

    /// Removes compacted versions, batch by batch, and says how far it came. However much waits, it
    /// goes through `share` of them: as many as come in have to go, or they would pile up for as
    /// long as writes keep the thread busy.
    fn remove(
        &mut self,
        transaction: &WriteTransaction,
        compacted: Revision,
        share: usize,
        aside: &mut dyn Aside,
    ) -> Result<Progress, Fault> {
        let mut progress = self.progress;
        let slice = self.compact_slice.max(share);
        let mut left = slice;
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
            let calm = aside.rest(self.compact_rest)?;
            if is_done || !calm && slice - left >= share {
                break;
            }
        }
        Ok(progress)
    }
}

fn write_current(
    transaction: &WriteTransaction,
    run: &Run,
    aside: &mut dyn Aside,
) -> Result<(), Fault> {
    let mut cur = transaction.open_table(CUR)?;
    // Keys that were written several times make this end before its time.
    let (mut row, mut rows, all) = (Vec::new(), 0_usize, run.len().max(1));
    run.newest(&mut |newest| {
        record::write_cur(&mut row, &newest.meta, newest.value);
        cur.insert(newest.key, &row[..])?;
        rows += 1;
        if rows.is_multiple_of(ROWS_AT_ONCE) {
            aside.stand(rows * CURRENT_PERCENT / all)?;
        }
        Ok(())
    })
}

fn write_history(
    transaction: &WriteTransaction,
    run: &Run,
    aside: &mut dyn Aside,
) -> Result<(), Fault> {
    let mut hist = transaction.open_table(HIST)?;
    let mut end = hist.upper_bound_mut(Bound::<&[u8; 12]>::Unbounded)?;
    let (mut rows, all) = (0_usize, run.len().max(1));
    run.records(Revision(0), run.revision, &mut |at, record| {
        end.insert_before(&hist_key(at), record)?;
        rows += 1;
        if rows.is_multiple_of(ROWS_AT_ONCE) {
            aside.stand(CURRENT_PERCENT + rows * (ROWS_PERCENT - CURRENT_PERCENT) / all)?;
        }
        Ok(true)
    })?;
    Ok(end.close()?)
}
