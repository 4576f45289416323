//! Removing what compaction has forgotten.
//!
//! A compaction at C is a mark; this is the work. Versions that C forgets are those replaced at or
//! before C, and tombstones before C. Both are found by walking the history from the previous
//! compacted revision to C: each version there forgets its predecessor, and itself if it is a
//! tombstone before C. So the cost is that of the history between, not of the store.
//!
//! The walk goes in slices, each inside a checkpoint's transaction, because the database has one
//! writer. It begins at the previous compacted revision itself, for a tombstone exactly there was
//! left for a watcher that starts there.

use redb::{ReadableTable as _, Table, WriteTransaction};

use super::{
    base::{CUR, HIST},
    meta::Progress,
    record::{self, HistKey, hist_key, read_hist_key},
};
use crate::{command::Revision, fault::Fault, machine::rows::Version};

impl Progress {
    /// Whether there is anything to remove for a compacted revision.
    pub(super) fn is_due(&self, compacted: Revision) -> bool {
        self.done < compacted
    }
}

/// Does one slice of the work for a compacted revision, looking at so many versions at most, and
/// says how far it came and how many versions went.
pub(super) fn slice(
    transaction: &WriteTransaction,
    compacted: Revision,
    mut progress: Progress,
    versions_max: usize,
) -> Result<(Progress, u64), Fault> {
    if !progress.is_due(compacted) {
        return Ok((progress, 0));
    }
    if progress.target == progress.done {
        progress.target = compacted;
        progress.next = Version { main: Revision(progress.done.0.max(0)), sub: 0 };
    }
    let mut hist = transaction.open_table(HIST)?;
    let slice = read_slice(&hist, &progress, versions_max)?;
    let mut cur = transaction.open_table(CUR)?;
    for key in slice.dead_keys {
        let is_tombstone = match cur.get(&key.0[..])? {
            Some(row) => record::read_cur(row.value())?.0.at == key.1,
            None => false,
        };
        if is_tombstone {
            cur.remove(&key.0[..])?;
        }
    }
    let removed = slice.dead.len() as u64;
    for version in slice.dead {
        hist.remove(&hist_key(version))?;
    }
    match slice.resume {
        Some(next) => progress.next = next,
        None => progress.done = progress.target,
    }
    Ok((progress, removed))
}

#[derive(Default)]
struct Slice {
    /// Rows of the history to remove, ascending.
    dead: Vec<Version>,
    /// Keys that end in one of those, a tombstone.
    dead_keys: Vec<(Vec<u8>, Version)>,
    /// Where the next slice begins.
    resume: Option<Version>,
}

fn read_slice(
    hist: &Table<'_, &'static HistKey, &'static [u8]>,
    progress: &Progress,
    versions_max: usize,
) -> Result<Slice, Fault> {
    let mut slice = Slice::default();
    let first = hist_key(progress.next);
    let last = hist_key(Version { main: progress.target, sub: u32::MAX });
    for (nth, row) in hist.range::<&HistKey>(&first..=&last)?.enumerate() {
        let (key, row) = row?;
        let at = read_hist_key(key.value());
        if nth == versions_max {
            slice.resume = Some(at);
            break;
        }
        let row = record::read_hist(at, row.value())?;
        if row.meta.links.prev != Version::NONE {
            slice.dead.push(row.meta.links.prev);
        }
        if row.meta.is_tombstone() && at.main < progress.target {
            slice.dead.push(at);
            slice.dead_keys.push((row.key.to_vec(), at));
        }
    }
    slice.dead.sort_unstable();
    slice.dead_keys.sort_unstable();
    Ok(slice)
}
