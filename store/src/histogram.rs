//! How long things take, as a distribution that costs next to nothing to keep.
//!
//! Prometheus wants counts of observations up to fixed bounds. Here each bound is twice the one
//! before, so the place of an observation is found by the number of its bits instead of a search,
//! and noting it is two atomic additions without an order between them: no lock, no allocation, and
//! a reader never waits. A page that is read meanwhile may miss the sum of the last observation or
//! its count; the next one has both.
//!
//! Values are whole numbers of a small unit (nanoseconds, mostly); whoever prints them knows which
//! number of these makes one of the unit shown.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts of observations by size.
#[derive(Debug)]
pub(crate) struct Histogram {
    /// The bound of the first bucket.
    first: u64,
    /// One for each bound, and one for what is beyond the last.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// With so many bounds: `first`, twice that, four times that, and so on.
    pub(crate) fn doubling(first: u64, bounds: u32) -> Self {
        assert!(first > 0 && bounds > 0 && bounds < first.leading_zeros());
        let counts = (0..=bounds).map(|_| AtomicU64::new(0)).collect();
        Self { first, counts, sum: AtomicU64::new(0) }
    }

    /// For what goes to a disk: 1 ms to 8.192 s.
    pub(crate) fn of_disk() -> Self {
        Self::doubling(1_000_000, 14)
    }

    /// For what happens in memory: 0.1 ms to 52.4288 s.
    pub(crate) fn of_memory() -> Self {
        Self::doubling(100_000, 20)
    }

    /// Notes one value.
    pub(crate) fn observe(&self, value: u64) {
        self.observe_many(value, 1);
    }

    /// Notes a time in nanoseconds.
    pub(crate) fn observe_time(&self, took: Duration) {
        self.observe(nanos(took));
    }

    /// Notes the same value so many times.
    pub(crate) fn observe_many(&self, value: u64, times: u64) {
        // The smallest power of two that, times the first bound, is no less than the value.
        let power = u64::BITS - (value.saturating_sub(1) / self.first).leading_zeros();
        let place = (power as usize).min(self.counts.len() - 1);
        self.counts[place].fetch_add(times, Ordering::Relaxed);
        self.sum.fetch_add(value.saturating_mul(times), Ordering::Relaxed);
    }

    /// The bounds, and how many observations are at or below each.
    pub(crate) fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut total = 0;
        let bounds = self.counts.iter().enumerate().take(self.counts.len() - 1);
        bounds.map(move |(place, count)| {
            total += count.load(Ordering::Relaxed);
            (self.first << place, total)
        })
    }

    /// How many observations there are.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The sum of all of them.
    pub(crate) fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }
}

/// A time as a whole number; half a millennium fits.
pub(crate) fn nanos(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_towards_every_bound_that_is_not_below_it() {
        for value in (0..70).chain([u64::MAX]) {
            let histogram = Histogram::doubling(4, 4);
            histogram.observe(value);
            let found: Vec<_> = histogram.cumulative().collect();
            let expected = [4, 8, 16, 32].map(|bound| (bound, u64::from(value <= bound)));
            assert_eq!(found, expected, "{value}");
            assert_eq!((histogram.count(), histogram.sum()), (1, value));
        }
    }

    #[test]
    fn bounds_are_those_of_etcd() {
        let last = |histogram: Histogram| histogram.cumulative().last().map(|(bound, _)| bound);
        assert_eq!(last(Histogram::of_disk()), Some(8_192_000_000));
        assert_eq!(last(Histogram::of_memory()), Some(52_428_800_000));
    }
}
