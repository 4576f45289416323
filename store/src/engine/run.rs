//! Versions that have left memory and are not yet in the database.
//!
//! A memtable takes four times the memory of the keys and values in it, and the database rewrites a
//! page of 4 KiB for nearly each row of a checkpoint as long as rows are few and keys are many. So
//! between the two there is a *run*: the versions of many memtables, written one after another into
//! a file, with an index in memory that is small. When it is large, one checkpoint writes all of it,
//! and neighbouring keys share the pages that it costs.
//!
//! ```text
//! active ─ frozen ──spill──▶ run (index in memory, records in a file) ──checkpoint──▶ database
//! ```
//!
//! The file is no part of what a crash leaves: its versions are in the log too. It is never synced,
//! it loses its name as soon as it is made, and its space goes back with the last reader. Most of it
//! has never reached the disk by then.
//!
//! - Records stand by revision, as `hist` rows, so that a checkpoint copies them and a watcher that
//!   is behind reads them in one go.
//! - `by_key` orders them by key, newest first, as memtables do. A spill merges it with the
//!   memtable's, so however many memtables are in a run, a key is looked for once.
//! - [`Heads`] finds the newest version of a key without a search: each write looks its key up, and
//!   a binary search among so many is a dozen waits for memory.
//!
//! A run never changes: a spill makes another one, which shares file and stretches with the one
//! before, and whoever reads the old one sees what it saw.

use std::{
    cmp::{Ordering, Reverse},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    base::Found,
    heads::{Head, Heads},
    memtable::Memtable,
    record::{self, HistRow},
};
use crate::{
    command::{KeyRange, Revision},
    fault::Fault,
    limits::RUN_IO_BYTES,
    machine::rows::Version,
    wal::disk::File,
};

/// When a run is written into the database.
#[derive(Clone, Copy, Debug)]
pub struct RunLimits {
    pub versions: usize,
    /// Keys, which are kept in memory.
    pub key_bytes: usize,
    /// The file.
    pub bytes: u64,
}

/// A version in the file, beside the one before it, whose ends are its beginnings.
#[derive(Clone, Copy)]
struct Entry {
    main: Revision,
    sub: u32,
    key_end: u32,
    record_end: u64,
}

impl Entry {
    fn at(&self) -> Version {
        Version { main: self.main, sub: self.sub }
    }
}

/// What one spill has added: consecutive versions.
struct Stretch {
    /// Where its first record begins.
    start: u64,
    entries: Vec<Entry>,
    keys: Vec<u8>,
}

impl Stretch {
    fn key(&self, nth: usize) -> &[u8] {
        let start = nth.checked_sub(1).map_or(0, |before| self.entries[before].key_end);
        &self.keys[index(start)..index(self.entries[nth].key_end)]
    }

    /// Where a record begins and ends.
    fn record(&self, nth: usize) -> (u64, u64) {
        let start = nth.checked_sub(1).map_or(self.start, |before| self.entries[before].record_end);
        (start, self.entries[nth].record_end)
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("32 bits fit")
}

/// Names an entry: the stretch, and the place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(u32);

impl Place {
    const NTH_BITS: u32 = 20;
    const STRETCHES_MAX: usize = 1 << (u32::BITS - Self::NTH_BITS);
    /// Where a stretch ends and the next one begins.
    const ENTRIES_MAX: usize = 1 << Self::NTH_BITS;
    const KEY_BYTES_MAX: usize = 1 << 30;

    fn new(stretch: usize, nth: usize) -> Self {
        let packed = (stretch << Self::NTH_BITS) | nth;
        Self(u32::try_from(packed).expect("runs end before they have so many stretches"))
    }

    fn stretch(self) -> usize {
        index(self.0 >> Self::NTH_BITS)
    }

    fn nth(self) -> usize {
        index(self.0) & (Self::ENTRIES_MAX - 1)
    }
}

pub(super) struct Run {
    file: Option<Arc<dyn File>>,
    stretches: Vec<Arc<Stretch>>,
    by_key: Vec<Place>,
    /// Shared by all runs of one file; an earlier one may meet what a later one has added.
    heads: Arc<Heads>,
    key_bytes: usize,
    bytes: u64,
    /// The newest revision of the store when it was spilled.
    pub(super) revision: Revision,
}

/// Looks at a version's record, and says whether to go on.
type Look<'a> = &'a mut dyn FnMut(Version, &[u8]) -> Result<bool, Fault>;

/// Makes a file for the records of a run.
pub(super) type Create<'a> = &'a dyn Fn() -> Result<Arc<dyn File>, Fault>;

impl Run {
    /// Nothing yet.
    pub(super) fn new(limits: RunLimits) -> Self {
        Self {
            file: None,
            stretches: Vec::new(),
            by_key: Vec::new(),
            heads: Arc::new(Heads::for_keys(limits.versions)),
            key_bytes: 0,
            bytes: 0,
            revision: Revision(0),
        }
    }

    /// How many versions are in it.
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether it should be written out before more is added.
    pub(super) fn is_full(&self, limits: RunLimits) -> bool {
        // Half of what there are names for: one memtable makes few.
        self.percent(limits) >= 100 || self.stretches.len() >= Place::STRETCHES_MAX / 2
    }

    /// How full it is.
    pub(super) fn percent(&self, limits: RunLimits) -> usize {
        let of = |part: usize, whole: usize| part.saturating_mul(100) / whole.max(1);
        let bytes = usize::try_from(self.bytes.saturating_mul(100) / limits.bytes.max(1));
        of(self.len(), limits.versions)
            .max(of(self.key_bytes, limits.key_bytes))
            .max(bytes.unwrap_or(usize::MAX))
    }

    /// This run and a memtable after it.
    pub(super) fn with(
        &self,
        table: &Memtable,
        revision: Revision,
        create: Create<'_>,
    ) -> Result<Self, Fault> {
        let mut grown = Self {
            file: self.file.clone(),
            stretches: self.stretches.clone(),
            by_key: Vec::new(),
            heads: Arc::clone(&self.heads),
            key_bytes: self.key_bytes,
            bytes: self.bytes,
            revision,
        };
        grown.append(table, create)?;
        grown.by_key = self.merged(table, &grown);
        Ok(grown)
    }

    /// Writes the versions of a memtable behind those that are here.
    fn append(&mut self, table: &Memtable, create: Create<'_>) -> Result<(), Fault> {
        let Some(mut next) = table.log.first() else { return Ok(()) };
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => Arc::clone(self.file.insert(create()?)),
        };
        let (mut buffer, mut row) = (Vec::with_capacity(RUN_IO_BYTES), Vec::new());
        let mut stretch = Stretch { start: self.bytes, entries: Vec::new(), keys: Vec::new() };
        loop {
            let batch = table.log.from(next, 1024);
            let Some(last) = batch.last() else { break };
            next = last.revised.revision.next();
            for (meta, dead, kv) in batch.iter().flat_map(|logged| logged.versions()) {
                let is_full = stretch.entries.len() == Place::ENTRIES_MAX
                    || stretch.keys.len() + kv.key.len() > Place::KEY_BYTES_MAX;
                if is_full {
                    let start = self.bytes;
                    let full = Stretch { start, entries: Vec::new(), keys: Vec::new() };
                    self.add(std::mem::replace(&mut stretch, full));
                }
                record::write_hist(&mut row, &meta, dead, &kv.key, &kv.value);
                self.bytes += row.len() as u64;
                self.key_bytes += kv.key.len();
                stretch.keys.extend_from_slice(&kv.key);
                stretch.entries.push(Entry {
                    main: meta.at.main,
                    sub: meta.at.sub,
                    key_end: u32::try_from(stretch.keys.len()).expect("bounded above"),
                    record_end: self.bytes,
                });
                buffer.extend_from_slice(&row);
                if buffer.len() >= RUN_IO_BYTES {
                    flush(&*file, self.bytes, &mut buffer)?;
                }
            }
        }
        if !stretch.entries.is_empty() {
            self.add(stretch);
        }
        flush(&*file, self.bytes, &mut buffer)
    }

    fn add(&mut self, mut stretch: Stretch) {
        stretch.entries.shrink_to_fit();
        stretch.keys.shrink_to_fit();
        self.stretches.push(Arc::new(stretch));
    }

    /// The order by key of this run and the memtable that `grown` has more. All versions of the
    /// memtable are newer.
    fn merged(&self, table: &Memtable, grown: &Self) -> Vec<Place> {
        let versions = grown.stretches.iter().map(|stretch| stretch.entries.len()).sum();
        let mut merged = Vec::with_capacity(versions);
        let (mut old, mut last) = (self.by_key.iter().copied().peekable(), None::<Vec<u8>>);
        table.each(&mut |key, at| {
            while let Some(place) = old.next_if(|place| self.key(*place) < key) {
                merged.push(place);
            }
            let place = grown.find(at).expect("what is in the map is in the log");
            if last.as_deref() != Some(key) {
                grown.heads.put(key, place.0, |other| grown.key(Place(other)) == key);
                last.get_or_insert_default().splice(.., key.iter().copied());
            }
            merged.push(place);
        });
        merged.extend(old);
        merged
    }

    fn key(&self, place: Place) -> &[u8] {
        self.stretches[place.stretch()].key(place.nth())
    }

    fn at(&self, place: Place) -> Version {
        self.stretches[place.stretch()].entries[place.nth()].at()
    }

    /// Where a version is.
    fn find(&self, at: Version) -> Option<Place> {
        let last = |stretch: &Arc<Stretch>| stretch.entries.last().map(Entry::at);
        let nth = self.stretches.partition_point(|stretch| last(stretch) < Some(at));
        let found = self.stretches.get(nth)?.entries.binary_search_by_key(&at, Entry::at);
        found.ok().map(|found| Place::new(nth, found))
    }

    /// Reads a record into `buffer`, which is emptied before.
    fn read<'a>(&self, place: Place, buffer: &'a mut Vec<u8>) -> Result<HistRow<'a>, Fault> {
        let stretch = &self.stretches[place.stretch()];
        let (start, end) = stretch.record(place.nth());
        self.fill(start, end, buffer)?;
        record::read_hist(stretch.entries[place.nth()].at(), buffer)
    }

    fn fill(&self, start: u64, end: u64, buffer: &mut Vec<u8>) -> Result<(), Fault> {
        let length = usize::try_from(end - start).expect("it was in memory before");
        buffer.resize(length, 0);
        let file = self.file.as_ref().expect("versions are in a file");
        let read = file.read_at(start, buffer).map_err(|error| Fault::io("read a run", error))?;
        if read < length {
            return Err(Fault::Damaged("a file of the running store was cut short".into()));
        }
        Ok(())
    }

    fn found(&self, place: Place) -> Result<Found, Fault> {
        let mut buffer = Vec::new();
        let row = self.read(place, &mut buffer)?;
        let (meta, length) = (row.meta, row.value.len());
        // The value is the end of the record, so it can stay where it is.
        let record = Bytes::from(buffer);
        Ok(Found { meta, value: record.slice(record.len() - length..) })
    }

    /// The first place of `by_key` that is not before a version of a key.
    fn seek(&self, key: &[u8], at: Version) -> usize {
        self.by_key.partition_point(|place| match self.key(*place).cmp(key) {
            Ordering::Equal => Reverse(self.at(*place)) < Reverse(at),
            order => order == Ordering::Less,
        })
    }

    /// The newest version of a key at or below a revision.
    pub(super) fn get(&self, key: &[u8], at: Revision) -> Result<Option<Found>, Fault> {
        // Nothing is known of places that came after this run.
        let is_key = |place| {
            let place = Place(place);
            (place.stretch() < self.stretches.len()).then(|| self.key(place) == key)
        };
        match self.heads.get(key, is_key) {
            Head::None => return Ok(None),
            Head::At(place) if self.at(Place(place)).main <= at => {
                return self.found(Place(place)).map(Some);
            }
            Head::At(_) | Head::Unknown => {}
        }
        let newest = self.by_key.get(self.seek(key, Version { main: at, sub: u32::MAX }));
        match newest {
            Some(place) if self.key(*place) == key => self.found(*place).map(Some),
            _ => Ok(None),
        }
    }

    /// A version by its name.
    pub(super) fn version(&self, at: Version) -> Result<Option<Found>, Fault> {
        self.find(at).map(|place| self.found(place)).transpose()
    }

    /// The bytes counted as dead after the last change of a revision.
    pub(super) fn dead(&self, at: Revision) -> Result<Option<u64>, Fault> {
        let mut dead = None;
        self.versions(at, at, &mut |row| {
            dead = Some(row.dead);
            Ok(true)
        })?;
        Ok(dead)
    }

    /// Visits the versions from one revision to another, both included, in order, for as long as
    /// `visit` answers true; whether it always did.
    pub(super) fn versions(
        &self,
        from: Revision,
        upto: Revision,
        visit: &mut dyn FnMut(&HistRow<'_>) -> Result<bool, Fault>,
    ) -> Result<bool, Fault> {
        self.records(from, upto, &mut |at, record| visit(&record::read_hist(at, record)?))
    }

    /// The same with the records as they are.
    pub(super) fn records(
        &self,
        from: Revision,
        upto: Revision,
        look: Look<'_>,
    ) -> Result<bool, Fault> {
        let mut buffer = Vec::new();
        for stretch in &self.stretches {
            let mut next = stretch.entries.partition_point(|entry| entry.main < from);
            let end = stretch.entries.partition_point(|entry| entry.main <= upto);
            while next < end {
                let (start, mut portion_end) = stretch.record(next);
                let first = next;
                next += 1;
                while next < end && stretch.record(next).1 - start <= RUN_IO_BYTES as u64 {
                    portion_end = stretch.record(next).1;
                    next += 1;
                }
                self.fill(start, portion_end, &mut buffer)?;
                for nth in first..next {
                    let place = |at: u64| usize::try_from(at - start).expect("as above");
                    let (begin, end) = stretch.record(nth);
                    let record = &buffer[place(begin)..place(end)];
                    if !look(stretch.entries[nth].at(), record)? {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Visits the newest version of each key, by key.
    pub(super) fn newest(
        &self,
        visit: &mut dyn FnMut(&HistRow<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut buffer = Vec::new();
        let mut last: Option<&[u8]> = None;
        for place in &self.by_key {
            let key = self.key(*place);
            if last != Some(key) {
                visit(&self.read(*place, &mut buffer)?)?;
                last = Some(key);
            }
        }
        Ok(())
    }

    /// Walks the keys of a range that have a version at or below a revision.
    pub(super) fn cursor(&self, range: &KeyRange, at: Revision) -> Cursor<'_> {
        let next = self.seek(range.start(), Version { main: at, sub: u32::MAX });
        let mut cursor = Cursor { run: self, range: range.clone(), at, next };
        cursor.settle();
        cursor
    }
}

fn flush(file: &dyn File, end: u64, buffer: &mut Vec<u8>) -> Result<(), Fault> {
    let start = end - buffer.len() as u64;
    file.write_at(start, buffer).map_err(|error| Fault::io("write a run", error))?;
    buffer.clear();
    Ok(())
}

/// Stands on the newest version, at or below a revision, of one key after another.
pub(super) struct Cursor<'a> {
    run: &'a Run,
    range: KeyRange,
    at: Revision,
    /// In `by_key`; at its end when there are no more.
    next: usize,
}

impl<'a> Cursor<'a> {
    /// Steps taken one by one before searching instead; see the memtable's.
    const STEPS_MAX: usize = 4;

    fn place(&self) -> Option<Place> {
        self.run.by_key.get(self.next).copied()
    }

    pub(super) fn key(&self) -> Option<&'a [u8]> {
        self.place().map(|place| self.run.key(place))
    }

    /// Reads where it stands, into `buffer`.
    pub(super) fn read<'b>(&self, buffer: &'b mut Vec<u8>) -> Result<HistRow<'b>, Fault> {
        self.run.read(self.place().expect("asked for only where there is a key"), buffer)
    }

    /// Moves to the next key.
    pub(super) fn advance(&mut self) {
        let Some(key) = self.key() else { return };
        for _ in 0..Self::STEPS_MAX {
            self.next += 1;
            if self.key() != Some(key) {
                return self.settle();
            }
        }
        self.next = self.run.seek(key, Version::NONE);
        self.settle();
    }

    /// From the first version of a key moves on to one that is old enough.
    fn settle(&mut self) {
        let mut steps = 0;
        while let Some(place) = self.place() {
            let key = self.run.key(place);
            if !self.range.contains(key) {
                self.next = self.run.by_key.len();
            } else if self.run.at(place).main <= self.at {
                return;
            } else if steps < Self::STEPS_MAX {
                steps += 1;
                self.next += 1;
            } else {
                steps = 0;
                self.next = self.run.seek(key, Version { main: self.at, sub: u32::MAX });
            }
        }
    }
}

#[cfg(test)]
mod tests;
