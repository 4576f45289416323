//! What the engine counts of itself, for whoever watches it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

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
    /// The counters' own zero.
    zero: Instant,
    /// Nanoseconds from there to when a compaction was done last; zero before the first.
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
            zero: Instant::now(),
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
            let now = nanos(self.zero.elapsed()).max(1);
            self.compacted_at.store(now, Ordering::Relaxed);
        }
    }

    /// Versions removed since the start.
    pub(crate) fn versions_removed(&self) -> u64 {
        self.removed.load(Ordering::Relaxed)
    }

    /// How long ago a compaction was done; none before the first.
    pub(crate) fn since_compaction(&self) -> Option<Duration> {
        let at = Some(self.compacted_at.load(Ordering::Relaxed)).filter(|at| *at > 0)?;
        Some(self.zero.elapsed().saturating_sub(Duration::from_nanos(at)))
    }
}
