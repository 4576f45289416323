//! What the engine counts of itself, for whoever watches it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::histogram::{Histogram, nanos};

/// Kept by the checkpoint thread, read by anyone.
#[derive(Debug)]
pub(crate) struct Counters {
    /// Making a transaction of the database durable.
    pub(crate) commit: Histogram,
    /// Milliseconds that one batch of removal had the database for itself.
    pub(crate) pauses: Histogram,
    /// Milliseconds of work that each compaction took.
    pub(crate) compactions: Histogram,
    removed: AtomicU64,
    /// Work done so far for the compaction that is not done yet.
    working_nanos: AtomicU64,
    compacted_at: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            commit: Histogram::of_disk(),
            pauses: Histogram::doubling(1, 13),
            compactions: Histogram::doubling(100, 14),
            removed: AtomicU64::new(0),
            working_nanos: AtomicU64::new(0),
            compacted_at: AtomicU64::new(0),
        }
    }
}

const NANOS_PER_MILLI: u64 = 1_000_000;

impl Counters {
    /// A batch of compacted versions was removed, the last one of its compaction or not.
    pub(super) fn removed(&self, versions: u64, took: Duration, is_last: bool) {
        self.removed.fetch_add(versions, Ordering::Relaxed);
        self.pauses.observe(nanos(took) / NANOS_PER_MILLI);
        let work = self.working_nanos.fetch_add(nanos(took), Ordering::Relaxed) + nanos(took);
        if is_last {
            self.working_nanos.store(0, Ordering::Relaxed);
            self.compactions.observe(work / NANOS_PER_MILLI);
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
            self.compacted_at.store(now, Ordering::Relaxed);
        }
    }

    /// Versions removed since the start.
    pub(crate) fn versions_removed(&self) -> u64 {
        self.removed.load(Ordering::Relaxed)
    }

    /// When a compaction was done last, as a Unix time; zero before the first.
    pub(crate) fn compacted_at(&self) -> u64 {
        self.compacted_at.load(Ordering::Relaxed)
    }
}
