//! Versions not yet in the database.
//!
//! A memtable is two things over the same changes: a concurrent ordered map by (key, newest version
//! first), which reads merge over the database, and a log by revision, which feeds watchers and
//! becomes the history table. One thread writes, any number read; entries never change, so a reader
//! at revision R sees a fixed state by skipping what is newer.

use std::{
    cmp::Reverse,
    ops::Bound,
    sync::{
        Arc, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use crossbeam_skiplist::{SkipMap, map::Entry};

use super::filter::Filter;
use crate::{
    command::{KeyRange, KeyValue, Revised, Revision},
    machine::{
        rows::{Meta, Version},
        size::Trace,
    },
};

/// What an entry takes beside its key and value, in the map and in the log.
const ENTRY_BYTES_OVERHEAD: usize = 512;

/// Counts what an event holds of the version it replaced, which came from below.
fn replaced_bytes(revised: &Revised) -> usize {
    let prevs = revised.events.iter().filter_map(|event| event.prev.as_ref());
    prevs.map(|prev| prev.value.len()).sum()
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct MemKey {
    key: Bytes,
    at: Reverse<Version>,
}

impl MemKey {
    /// Sorts before all versions of the key at or below a revision, after all newer ones.
    fn seek(key: Bytes, at: Revision) -> Self {
        Self { key, at: Reverse(Version { main: at, sub: u32::MAX }) }
    }

    /// Sorts after all versions of the key.
    fn beyond(key: Bytes) -> Self {
        Self { key, at: Reverse(Version::NONE) }
    }
}

#[derive(Debug)]
pub(super) struct Stored {
    pub(super) meta: Meta,
    pub(super) value: Bytes,
}

#[derive(Default)]
pub(super) struct Memtable {
    rows: SkipMap<MemKey, Stored>,
    filter: Filter,
    pub(super) log: Arc<Log>,
    bytes: AtomicUsize,
}

impl Memtable {
    pub(super) fn insert(&self, key: Bytes, meta: Meta, value: Bytes) {
        self.bytes.fetch_add(key.len() + value.len() + ENTRY_BYTES_OVERHEAD, Ordering::Relaxed);
        self.filter.add(&key);
        self.rows.insert(MemKey { key, at: Reverse(meta.at) }, Stored { meta, value });
    }

    /// Notes a finished revision, whose versions have been inserted.
    pub(super) fn push(&self, revised: Arc<Revised>, traces: Vec<Trace>) {
        self.bytes.fetch_add(replaced_bytes(&revised), Ordering::Relaxed);
        self.log.push(revised, traces);
    }

    /// Counts memory that goes with the memtable though it is elsewhere.
    pub(super) fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, key: &Bytes, at: Version) {
        let removed = self.rows.remove(&MemKey { key: key.clone(), at: Reverse(at) });
        assert!(removed.is_some(), "only what was written is taken back");
    }

    /// Memory taken, roughly; what was taken back still counts.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The newest version of a key at or below a revision.
    pub(super) fn get(&self, key: &Bytes, at: Revision) -> Option<(Meta, Bytes)> {
        if !self.filter.may_have(key) {
            return None;
        }
        let entry = self.rows.lower_bound(Bound::Included(&MemKey::seek(key.clone(), at)))?;
        let stored = entry.value();
        (entry.key().key == key).then(|| (stored.meta, stored.value.clone()))
    }

    /// One version of a key.
    pub(super) fn version(&self, key: &Bytes, at: Version) -> Option<Meta> {
        if !self.filter.may_have(key) {
            return None;
        }
        let entry = self.rows.get(&MemKey { key: key.clone(), at: Reverse(at) })?;
        Some(entry.value().meta)
    }

    /// Visits all versions, by key, of each the newest first.
    pub(super) fn each(&self, visit: &mut dyn FnMut(&[u8], Version)) {
        for entry in &self.rows {
            visit(&entry.key().key, entry.key().at.0);
        }
    }

    /// Walks the keys of a range that have a version at or below a revision.
    pub(super) fn cursor(&self, range: &KeyRange, at: Revision) -> Cursor<'_> {
        let first = MemKey::seek(range.start().clone(), at);
        let mut cursor = Cursor {
            rows: &self.rows,
            range: range.clone(),
            at,
            entry: self.rows.lower_bound(Bound::Included(&first)),
        };
        cursor.settle();
        cursor
    }
}

/// Stands on the newest version, at or below a revision, of one key after another.
pub(super) struct Cursor<'a> {
    rows: &'a SkipMap<MemKey, Stored>,
    range: KeyRange,
    at: Revision,
    entry: Option<Entry<'a, MemKey, Stored>>,
}

impl Cursor<'_> {
    /// Steps taken one by one before searching instead: most keys have few versions here, but a
    /// key that is written all the time has thousands.
    const STEPS_MAX: usize = 4;

    pub(super) fn key(&self) -> Option<&Bytes> {
        self.entry.as_ref().map(|entry| &entry.key().key)
    }

    pub(super) fn stored(&self) -> Option<&Stored> {
        self.entry.as_ref().map(Entry::value)
    }

    /// Moves to the next key.
    pub(super) fn advance(&mut self) {
        let Some(entry) = &mut self.entry else { return };
        let key = entry.key().key.clone();
        for _ in 0..Self::STEPS_MAX {
            if !entry.move_next() {
                self.entry = None;
                return;
            }
            if entry.key().key != key {
                return self.settle();
            }
        }
        self.entry = self.rows.lower_bound(Bound::Excluded(&MemKey::beyond(key)));
        self.settle();
    }

    /// From the first version of a key moves on to one that is old enough.
    fn settle(&mut self) {
        let mut steps = 0;
        while let Some(entry) = &mut self.entry {
            let MemKey { key, at } = entry.key();
            if !self.range.contains(key) {
                self.entry = None;
            } else if at.0.main <= self.at {
                return;
            } else if steps < Self::STEPS_MAX {
                steps += 1;
                if !entry.move_next() {
                    self.entry = None;
                }
            } else {
                steps = 0;
                let seek = MemKey::seek(key.clone(), self.at);
                self.entry = self.rows.lower_bound(Bound::Included(&seek));
            }
        }
    }
}

/// A revision and what history keeps beside its events.
#[derive(Clone)]
pub(super) struct Logged {
    pub(super) revised: Arc<Revised>,
    pub(super) traces: Arc<[Trace]>,
}

impl Logged {
    /// The versions it has made, with what is counted as dead after each.
    pub(super) fn versions(&self) -> impl Iterator<Item = (Meta, u64, &KeyValue)> {
        let events = self.revised.events.iter().zip(&*self.traces).enumerate();
        events.map(|(nth, (event, trace))| {
            let sub = u32::try_from(nth).expect("a revision changes fewer keys");
            let meta = Meta {
                at: Version { main: self.revised.revision, sub },
                create: event.kv.create,
                version: event.kv.version,
                lease: event.kv.lease,
                links: trace.links,
            };
            (meta, trace.dead, &event.kv)
        })
    }
}

/// Consecutive revisions. Outlives the map it was filled with, to serve watchers that are only a
/// little behind.
#[derive(Default)]
pub(super) struct Log {
    revisions: RwLock<Vec<Logged>>,
}

impl Log {
    fn push(&self, revised: Arc<Revised>, traces: Vec<Trace>) {
        assert_eq!(revised.events.len(), traces.len(), "each change has a trace");
        let mut revisions = self.revisions.write().expect("no holder of the lock panics");
        if let Some(last) = revisions.last() {
            assert_eq!(revised.revision, last.revised.revision.next(), "revisions have no gaps");
        }
        revisions.push(Logged { revised, traces: traces.into() });
    }

    /// The first revision here.
    pub(super) fn first(&self) -> Option<Revision> {
        let revisions = self.revisions.read().expect("no holder of the lock panics");
        revisions.first().map(|logged| logged.revised.revision)
    }

    /// Up to `count` revisions from a given one on; none if that one is not here.
    pub(super) fn from(&self, from: Revision, count: usize) -> Vec<Logged> {
        let revisions = self.revisions.read().expect("no holder of the lock panics");
        let Some(first) = revisions.first() else { return Vec::new() };
        let Ok(skip) = usize::try_from(from.0 - first.revised.revision.0) else {
            return Vec::new();
        };
        revisions.iter().skip(skip).take(count).cloned().collect()
    }
}
