//! How long the disk takes over the log, for whoever watches the disk.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::histogram::Histogram;

/// Kept by the writer, read by anyone.
#[derive(Debug)]
pub(crate) struct Timings {
    /// Handing records to the system.
    pub(crate) write: Histogram,
    /// Waiting until they are durable.
    pub(crate) sync: Histogram,
    bytes: AtomicU64,
}

impl Default for Timings {
    fn default() -> Self {
        let (write, sync) = (Histogram::of_disk(), Histogram::of_disk());
        Self { write, sync, bytes: AtomicU64::new(0) }
    }
}

impl Timings {
    pub(super) fn wrote(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of records written since the start.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}
