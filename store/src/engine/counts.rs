//! How many keys are alive where: counts without walking.
//!
//! etcd's answers count all keys of a range, however few rows were asked for, and a client that
//! lists page by page asks for that with every page. So the key space is cut by *fences* into
//! buckets of some hundred live keys, and each bucket's number is kept. A range is then the buckets
//! that lie whole inside it, plus a walk of the pieces at its two ends.
//!
//! ```text
//! fences   ""        "/pods/a"     "/pods/k"     "/svc/b"
//!          │   311   │     498     │     270     │   402  …
//! range          [~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~)
//!                walk      498           270      walk
//! ```
//!
//! Only creating and deleting keys changes a number; overwriting does not. The numbers belong to
//! the newest revision and are published with it: applying copies them when readers still hold the
//! ones before (4 bytes for each bucket), so a reader's numbers never move. Fences are not part of
//! the agreed state; members may have different ones and count alike.
//!
//! Checkpoints write what has changed into the table `count`, so that opening reads a few thousand
//! rows instead of all keys.

use std::sync::Arc;

use bytes::Bytes;
use redb::{ReadableTable, WriteTransaction};

use super::base::COUNT;
use crate::{
    command::{KeyRange, Revised},
    fault::Fault,
    limits::{BUCKET_KEYS_MAX, BUCKETS_PER_STORE},
};

/// Counts the keys of a part of a bucket.
pub(super) type Walk<'a> = &'a dyn Fn(&KeyRange) -> Result<u64, Fault>;

/// Finds the key of a bucket that so many come before.
pub(super) type Median<'a> = &'a dyn Fn(&KeyRange, u64) -> Result<Option<Bytes>, Fault>;

#[derive(Clone, Debug)]
pub(super) struct Counts {
    /// Where buckets begin, ascending; the first is the empty key.
    fences: Arc<Vec<Bytes>>,
    live: Arc<Vec<u32>>,
    total: u64,
    /// A bucket fuller than this is split.
    bucket_keys: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            fences: Arc::new(vec![Bytes::new()]),
            live: Arc::new(vec![0]),
            total: 0,
            bucket_keys: BUCKET_KEYS_MAX,
        }
    }
}

impl Counts {
    /// The same with buckets of another size.
    pub(super) fn in_buckets_of(self, keys_max: u64) -> Self {
        Self { bucket_keys: keys_max.max(1), ..self }
    }

    /// All live keys.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The bucket of a key.
    pub(super) fn bucket(&self, key: &[u8]) -> usize {
        self.fences.partition_point(|fence| fence <= key) - 1
    }

    /// The live keys of a bucket, if there is one of that number.
    pub(super) fn live(&self, bucket: usize) -> Option<u64> {
        self.live.get(bucket).copied().map(u64::from)
    }

    fn range_of(&self, bucket: usize) -> KeyRange {
        let start = self.fences[bucket].clone();
        match self.fences.get(bucket + 1) {
            Some(end) => KeyRange::Span(start, end.clone()),
            None => KeyRange::From(start),
        }
    }

    /// Grows with the store, so that the number of buckets, and with it what publishing copies,
    /// stays bounded.
    fn bucket_max(&self) -> u64 {
        self.bucket_keys.max(self.total / BUCKETS_PER_STORE)
    }

    /// Counts the live keys of a range; `walk` counts those of a part of a bucket.
    pub(super) fn count(&self, range: &KeyRange, walk: Walk<'_>) -> Result<u64, Fault> {
        let start = match range {
            _ if range.is_empty() => return Ok(0),
            KeyRange::Key(_) => return walk(range),
            KeyRange::Span(start, _) | KeyRange::From(start) => start,
        };
        // Whole buckets are first..last.
        let first = self.fences.partition_point(|fence| fence < start);
        let last = match range {
            KeyRange::Span(_, end) => self.bucket(end),
            _ => self.fences.len(),
        };
        if first > last {
            return walk(range);
        }
        let head = match self.fences.get(first) {
            Some(fence) if start < fence => walk(&KeyRange::Span(start.clone(), fence.clone()))?,
            Some(_) => 0,
            None => return walk(range),
        };
        let whole: u64 = self.live[first..last].iter().copied().map(u64::from).sum();
        let tail = match range {
            KeyRange::Span(_, end) => {
                walk(&KeyRange::Span(self.fences[last].clone(), end.clone()))?
            }
            _ => 0,
        };
        Ok(head + whole + tail)
    }

    /// At least as many as a range has, without a walk.
    pub(super) fn at_most(&self, range: &KeyRange) -> u64 {
        let first = self.bucket(range.start());
        let last = match range {
            KeyRange::Key(_) => return 1,
            KeyRange::Span(_, end) => self.bucket(end).max(first),
            KeyRange::From(_) => self.fences.len() - 1,
        };
        self.live[first..=last].iter().copied().map(u64::from).sum()
    }

    /// Notes the changes of a revision. `median` finds the middle key of a bucket, given its range
    /// and half its keys, in the state after that revision.
    pub(super) fn note(&mut self, revised: &Revised, median: Median<'_>) -> Result<(), Fault> {
        let mut overfull = Vec::new();
        for event in &revised.events {
            match event.growth() {
                0 => {}
                1 => {
                    let bucket = self.bucket(&event.kv.key);
                    self.total += 1;
                    let live = &mut Arc::make_mut(&mut self.live)[bucket];
                    *live += 1;
                    if u64::from(*live) > self.bucket_max() {
                        overfull.push(event.kv.key.clone());
                    }
                }
                _ => self.remove(&event.kv.key),
            }
        }
        for key in overfull {
            self.split(&key, median)?;
        }
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) {
        let bucket = self.bucket(key);
        self.total -= 1;
        let live = Arc::make_mut(&mut self.live);
        live[bucket] = live[bucket].checked_sub(1).expect("only live keys are deleted");
        for joint in [bucket + 1, bucket] {
            self.join(joint);
        }
    }

    /// Joins a bucket to the one before if both are nearly empty: far below what is split, so that
    /// a key coming and going does not split and join.
    fn join(&mut self, bucket: usize) {
        if bucket == 0 || bucket >= self.live.len() {
            return;
        }
        let both = u64::from(self.live[bucket - 1]) + u64::from(self.live[bucket]);
        if both < self.bucket_max() / 4 {
            Arc::make_mut(&mut self.fences).remove(bucket);
            let live = Arc::make_mut(&mut self.live);
            live[bucket - 1] += live.remove(bucket);
        }
    }

    /// Halves the bucket of a key for as long as it is too full.
    fn split(&mut self, key: &[u8], median: Median<'_>) -> Result<(), Fault> {
        loop {
            let bucket = self.bucket(key);
            let keys = self.live[bucket];
            if u64::from(keys) <= self.bucket_max() {
                return Ok(());
            }
            let half = keys / 2;
            let Some(fence) = median(&self.range_of(bucket), u64::from(half))? else {
                return Err(Fault::Damaged("there are fewer keys than were counted".into()));
            };
            Arc::make_mut(&mut self.fences).insert(bucket + 1, fence);
            let live = Arc::make_mut(&mut self.live);
            live[bucket] = half;
            live.insert(bucket + 1, keys - half);
        }
    }

    /// Adds a live key beyond all others: how counts are made from a walk.
    pub(super) fn push(&mut self, key: &[u8]) {
        let live = Arc::make_mut(&mut self.live);
        let last = live.last_mut().expect("there is always a bucket");
        self.total += 1;
        if u64::from(*last) < self.bucket_keys / 2 {
            *last += 1;
        } else {
            live.push(1);
            Arc::make_mut(&mut self.fences).push(Bytes::copy_from_slice(key));
        }
    }

    /// Reads what checkpoints have written.
    pub(super) fn read(table: &impl ReadableTable<&'static [u8], u32>) -> Result<Self, Fault> {
        let (mut fences, mut live) = (Vec::new(), Vec::new());
        for row in table.range::<&[u8]>(..)? {
            let (fence, keys) = row?;
            fences.push(Bytes::copy_from_slice(fence.value()));
            live.push(keys.value());
        }
        if fences.first().is_none_or(|first| !first.is_empty()) {
            return Err(Fault::Damaged("the counts of keys do not begin at the first key".into()));
        }
        let total = live.iter().copied().map(u64::from).sum();
        Ok(Self { fences: Arc::new(fences), live: Arc::new(live), total, ..Self::default() })
    }

    /// Writes what differs from what is in the table.
    pub(super) fn write(
        &self,
        transaction: &WriteTransaction,
        written: Option<&Self>,
    ) -> Result<(), Fault> {
        let mut table = transaction.open_table(COUNT)?;
        let none = Self { fences: Arc::default(), live: Arc::default(), ..Self::default() };
        let written = written.unwrap_or(&none);
        if Arc::ptr_eq(&self.live, &written.live) {
            return Ok(());
        }
        let (mut new, mut old) = (0, 0);
        loop {
            match (self.fences.get(new), written.fences.get(old)) {
                (None, None) => return Ok(()),
                (Some(fence), gone) if gone.is_none_or(|gone| fence < gone) => {
                    table.insert(&fence[..], self.live[new])?;
                    new += 1;
                }
                (fence, Some(gone)) if fence.is_none_or(|fence| gone < fence) => {
                    table.remove(&gone[..])?;
                    old += 1;
                }
                (Some(fence), _) => {
                    if self.live[new] != written.live[old] {
                        table.insert(&fence[..], self.live[new])?;
                    }
                    (new, old) = (new + 1, old + 1);
                }
                (None, Some(_)) => unreachable!("handled as gone"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::command::{Event, EventKind, KeyValue, Revision};

    fn walk(keys: &BTreeSet<Bytes>, range: &KeyRange) -> u64 {
        keys.iter().filter(|key| range.contains(key)).count() as u64
    }

    fn apply(counts: &mut Counts, keys: &mut BTreeSet<Bytes>, key: Bytes, alive: bool) {
        let (kind, version) = if alive { (EventKind::Put, 1) } else { (EventKind::Delete, 0) };
        let kv = KeyValue { key: key.clone(), version, ..KeyValue::default() };
        if alive {
            keys.insert(key)
        } else {
            keys.remove(&key)
        };
        let events = vec![Event { kind, kv, prev: None }];
        let revised = Revised { revision: Revision(2), events };
        let keys = &*keys;
        let median = |range: &KeyRange, half: u64| {
            let half = usize::try_from(half).unwrap();
            Ok(keys.iter().filter(|key| range.contains(key)).nth(half).cloned())
        };
        counts.note(&revised, &median).unwrap();
    }

    /// Goal: counts are exact through growth, shrinkage and growth again, and buckets stay bounded
    /// both ways. Method: keys come and go in a scattered order, beside a plain set.
    #[test]
    fn ranges_are_counted_as_by_walking() {
        let (mut counts, mut keys) = (Counts::default(), BTreeSet::new());
        let key = |n: u64| Bytes::from(format!("k{:05}", n * 7_919 % 20_011));
        for (from, until, alive) in
            [(0, 6_000, true), (500, 5_900, false), (1_000, 3_000, true), (0, 6_000, false)]
        {
            for n in from..until {
                if keys.contains(&key(n)) != alive {
                    apply(&mut counts, &mut keys, key(n), alive);
                }
            }
            assert_eq!(counts.total(), keys.len() as u64);
            let buckets_max = 4 * keys.len() / usize::try_from(BUCKET_KEYS_MAX).unwrap() * 3 + 3;
            assert!(counts.fences.len() <= buckets_max, "{} buckets", counts.fences.len());
            for (start, end) in (0..300).map(|n| (key(n * 3), key(n * 5 + 1))) {
                for range in [
                    KeyRange::Key(start.clone()),
                    KeyRange::Span(start.clone(), end.clone()),
                    KeyRange::From(start.clone()),
                    KeyRange::Span(Bytes::new(), end.clone()),
                    KeyRange::all(),
                ] {
                    let counted = counts.count(&range, &|part| Ok(walk(&keys, part))).unwrap();
                    assert_eq!(counted, walk(&keys, &range), "{range:?}");
                    assert!(range.is_empty() || counted <= counts.at_most(&range));
                }
            }
        }
        assert_eq!(counts.fences.len(), 1);
    }

    /// Goal: what is walked is never more than two buckets, whatever the range.
    #[test]
    fn little_is_walked() {
        let (mut counts, mut keys) = (Counts::default(), BTreeSet::new());
        let key = |n: u32| Bytes::from(format!("k{n:05}"));
        (0..5_000).for_each(|n| apply(&mut counts, &mut keys, key(n), true));
        for (start, end) in (0..2_000).map(|n| (key(n), key(5_000 - n))) {
            let walked = std::cell::Cell::new(0);
            let range = KeyRange::Span(start, end);
            let count = counts.count(&range, &|part| {
                walked.set(walked.get() + walk(&keys, part));
                Ok(walk(&keys, part))
            });
            assert_eq!(count.unwrap(), walk(&keys, &range));
            assert!(walked.get() <= 2 * BUCKET_KEYS_MAX, "{} keys walked", walked.get());
        }
    }
}
