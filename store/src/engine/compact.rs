//! Removing what compaction has forgotten.
//!
//! A compaction at C is a mark; this is the work. Versions that C forgets are those replaced at or
//! before C, and tombstones before C. Both are found by walking the history from the previous
//! compacted revision to C: each version there forgets its predecessor, and itself if it is a
//! tombstone before C. So the cost is that of the history between, not of the store.
//!
//! Predecessors are scattered over all of the history, and removing a row costs the database the
//! page it is in. So the walk first gathers names, very many, sorts them, and then removes in
//! order: what shares a page goes together. Both steps go in batches, inside checkpoints'
//! transactions, because the database has one writer. What has been gathered is in memory only;
//! after a restart the walk goes back to where it began to gather, and to remove a row twice is
//! nothing.
//!
//!  It begins at the previous compacted revision itself, for a tombstone exactly there was
//! left for a watcher that starts there.

use redb::{ReadableTable as _, Table, WriteTransaction};

use super::{
    base::{CUR, HIST},
    meta::Progress,
    record::{self, HistKey, hist_key, read_hist_key},
};
use crate::{
    command::Revision, fault::Fault, limits::GATHERED_KEY_BYTES_MAX, machine::rows::Version,
};

impl Progress {
    /// Whether there is anything to remove for a compacted revision.
    pub(super) fn is_due(&self, compacted: Revision) -> bool {
        self.done < compacted
    }
}

/// What a walk has gathered.
#[derive(Default)]
pub(super) struct Gathered {
    /// Rows of the history to remove; once all are gathered, ascending.
    dead: Vec<Version>,
    /// Keys that end in one of those, a tombstone.
    dead_keys: Vec<(Vec<u8>, Version)>,
    key_bytes: usize,
    /// Removed so far, of each.
    removed: usize,
    removed_keys: usize,
    /// Where to gather next; nothing at the end of the walk.
    next: Option<Version>,
    complete: bool,
}

/// How much to do at a time.
#[derive(Clone, Copy)]
pub(super) struct Batch {
    /// Versions to remove.
    pub(super) versions: usize,
    /// Names to gather before any is removed.
    pub(super) gather: usize,
}

/// Looking at a version costs a tenth of removing one.
const LOOKS_PER_REMOVAL: usize = 10;

/// Does one batch of the work for a compacted revision, and says how far it came and how many
/// versions went.
pub(super) fn batch(
    transaction: &WriteTransaction,
    compacted: Revision,
    mut progress: Progress,
    gathered: &mut Option<Gathered>,
    batch: Batch,
) -> Result<(Progress, u64), Fault> {
    if !progress.is_due(compacted) {
        return Ok((progress, 0));
    }
    if progress.target == progress.done {
        progress.target = compacted;
        progress.next = Version { main: Revision(progress.done.0.max(0)), sub: 0 };
    }
    let start = || Gathered { next: Some(progress.next), ..Gathered::default() };
    let work = gathered.get_or_insert_with(start);
    if !work.complete {
        let hist = transaction.open_table(HIST)?;
        work.gather(&hist, progress.target, batch)?;
        return Ok((progress, 0));
    }
    let removed = work.remove(transaction, batch.versions)?;
    if work.removed == work.dead.len() && work.removed_keys == work.dead_keys.len() {
        match work.next {
            Some(next) => progress.next = next,
            None => progress.done = progress.target,
        }
        *gathered = None;
    }
    Ok((progress, removed))
}

impl Gathered {
    fn gather(
        &mut self,
        hist: &Table<'_, &'static HistKey, &'static [u8]>,
        target: Revision,
        batch: Batch,
    ) -> Result<(), Fault> {
        let first = hist_key(self.next.expect("what is not complete goes on"));
        let last = hist_key(Version { main: target, sub: u32::MAX });
        self.next = None;
        let looks_max = batch.versions.saturating_mul(LOOKS_PER_REMOVAL);
        for (nth, row) in hist.range::<&HistKey>(&first..=&last)?.enumerate() {
            let (key, row) = row?;
            let at = read_hist_key(key.value());
            let full = self.dead.len() >= batch.gather || self.key_bytes >= GATHERED_KEY_BYTES_MAX;
            if full || nth == looks_max {
                (self.next, self.complete) = (Some(at), full);
                break;
            }
            let row = record::read_hist(at, row.value())?;
            if row.meta.links.prev != Version::NONE {
                self.dead.push(row.meta.links.prev);
            }
            if row.meta.is_tombstone() && at.main < target {
                self.dead.push(at);
                self.key_bytes += row.key.len();
                self.dead_keys.push((row.key.to_vec(), at));
            }
        }
        self.complete |= self.next.is_none();
        if self.complete {
            self.dead.sort_unstable();
            self.dead_keys.sort_unstable();
        }
        Ok(())
    }

    fn remove(&mut self, transaction: &WriteTransaction, versions: usize) -> Result<u64, Fault> {
        let mut cur = transaction.open_table(CUR)?;
        for (key, at) in self.dead_keys.iter().skip(self.removed_keys).take(versions) {
            let is_tombstone = match cur.get(&key[..])? {
                Some(row) => record::read_cur(row.value())?.0.at == *at,
                None => false,
            };
            if is_tombstone {
                cur.remove(&key[..])?;
            }
            self.removed_keys += 1;
        }
        // Keys first: a tombstone that is gone from the history could not be gathered again.
        if self.removed_keys < self.dead_keys.len() {
            return Ok(0);
        }
        let mut hist = transaction.open_table(HIST)?;
        let before = self.removed;
        for version in self.dead.iter().skip(self.removed).take(versions) {
            hist.remove(&hist_key(*version))?;
            self.removed += 1;
        }
        Ok((self.removed - before) as u64)
    }
}
