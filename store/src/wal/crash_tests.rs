//! Power cuts, torn writes, failing disks and flipped bits, thousands of times.
//!
//! Goal: nothing acknowledged is ever lost, the log always opens again, and damage to what was
//! acknowledged is refused, not repaired away. Method: drive the log with random records beside a
//! plain model; cut the power at a random operation, sometimes again during recovery; what is found
//! must be the model after some prefix of the records in flight.

use super::dump;
use super::log::{Log, lock, number_of};
use super::memory::{Fault as DiskFault, MemoryDisk};
use super::record::{Header, Record};
use super::{Config, Entry, Fault, LogId, State, Vote, disk::Disk};
use bytes::Bytes;
use std::sync::Arc;

const CONFIG: Config = Config { segment_bytes: 8 << 10, cluster: 1, node: 2, salt: 0xC0FFEE };

struct Random(u64);

impl Random {
    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).expect("below 256")
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound
    }
}

/// What the log should hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    state: State,
    entries: Vec<Entry>,
}

impl Model {
    fn next(&self) -> u64 {
        self.state.last.map_or(0, |last| last.index + 1)
    }

    fn first(&self) -> u64 {
        self.state.purged.map_or(0, |purged| purged.index + 1)
    }

    fn apply(&mut self, record: &Record) {
        match record {
            Record::Checkpoint(_) => unreachable!("the log writes these by itself"),
            Record::Vote(vote) => self.state.vote = Some(*vote),
            Record::Entry(entry) => {
                self.entries.push(entry.clone());
                self.state.last = Some(entry.id);
            }
            Record::Truncate { since, last } => {
                self.entries.retain(|entry| entry.id.index < *since);
                self.state.last = *last;
            }
            Record::Purge(id) => {
                self.entries.retain(|entry| entry.id.index > id.index);
                self.state.purged = Some(*id);
                self.state.last = self.state.last.max(Some(*id));
            }
            Record::Committed(id) => self.state.committed = self.state.committed.max(Some(*id)),
        }
    }

    /// A record that may follow.
    fn propose(&self, random: &mut Random) -> Record {
        let term = self.state.vote.map_or(1, |vote| vote.term);
        match random.below(20) {
            0 => Record::Vote(Vote { term: term + 1, node: random.below(3), committed: false }),
            1 => Record::Vote(Vote { term, node: 1, committed: true }),
            2 if !self.entries.is_empty() => {
                let since = self.first() + random.below(self.next() - self.first() + 1);
                let last = since.checked_sub(1).filter(|last| *last >= self.first()).map_or(
                    self.state.purged,
                    |last| {
                        let kept = self.entries.iter().find(|entry| entry.id.index == last);
                        kept.map(|entry| entry.id)
                    },
                );
                Record::Truncate { since, last }
            }
            3 if !self.entries.is_empty() => {
                let nth = random.below(self.entries.len() as u64);
                Record::Purge(self.entries[usize::try_from(nth).expect("small")].id)
            }
            4 if self.state.last.is_some() => {
                Record::Committed(self.state.last.expect("was checked"))
            }
            _ => {
                let length = usize::try_from(random.below(700)).expect("small");
                let mut body = vec![0; length];
                body.iter_mut().for_each(|byte| *byte = random.byte());
                let id = LogId { term, index: self.next() };
                Record::Entry(Entry { id, tag: 1, body: Bytes::from(body) })
            }
        }
    }
}

/// Everything that can be read from an opened log.
fn contents(log: &Log) -> Model {
    let index = log.index();
    let state = log.state();
    let first = lock(&index).first();
    let next = lock(&index).next();
    let entries = (first..next).map(|index_of| {
        let place = lock(&index).locate(index_of).expect("every live entry has a place");
        let len = place.file.size().expect("alive") - place.offset;
        let mut bytes = vec![0; usize::try_from(len).expect("small")];
        place.file.read_at(place.offset, &mut bytes).expect("alive");
        let header = Header::parse(&bytes).expect("an entry is there");
        assert!(header.verifies(&bytes, place.seed));
        match header.decode(&bytes) {
            Some(Record::Entry(entry)) => entry,
            other => panic!("{other:?} where an entry should be"),
        }
    });
    Model { state, entries: entries.collect() }
}

fn open(disk: &MemoryDisk) -> Result<Log, Fault> {
    Log::open(Arc::new(disk.clone()), CONFIG)
}

/// Opens, with further power cuts on the way.
fn reopen(mut disk: MemoryDisk, random: &mut Random) -> (MemoryDisk, Log) {
    for _ in 0..random.below(3) {
        disk.fail_after(random.below(6), DiskFault::PowerCut);
        match open(&disk) {
            Err(Fault::Io { .. }) => {}
            Err(other) => panic!("recovery after a power cut: {other}"),
            Ok(_) => {}
        }
        disk = disk.power_cut();
    }
    let log = open(&disk).unwrap_or_else(|fault| panic!("cannot open again: {fault}"));
    (disk, log)
}

/// Runs until the power goes; returns what was acknowledged and what was in flight.
fn live(log: &mut Log, model: &mut Model, random: &mut Random) -> Vec<Record> {
    for _ in 0..200 {
        let (mut after, mut batch) = (model.clone(), Vec::new());
        for _ in 0..=random.below(6) {
            let record = after.propose(random);
            after.apply(&record);
            batch.push(record);
        }
        if log.write(&batch).is_err() {
            assert!(log.write(&batch).is_err(), "a failed log never succeeds again");
            return batch;
        }
        *model = after;
        let purged = model.state.purged.map_or(0, |purged| purged.index);
        if log.recycle(purged).is_err() {
            return Vec::new();
        }
        if log.wants_spare() && random.below(4) == 0 {
            match log.prepare().run(|| true) {
                Ok(Some(spare)) => log.adopt(spare),
                Ok(None) => unreachable!("never told to give up"),
                // Costs nothing but speed, unless the disk is gone.
                Err(_) => {}
            }
        }
    }
    Vec::new()
}

fn cycle(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut disk = MemoryDisk::new(seed);
    let mut model = Model::default();
    let mut log = open(&disk).expect("an empty disk");
    for _ in 0..5 {
        let fault = [DiskFault::PowerCut, DiskFault::PowerCut, DiskFault::Io, DiskFault::NoSpace];
        let fault = fault[usize::try_from(random.below(4)).expect("small")];
        disk.fail_after(random.below(60), fault);
        let in_flight = live(&mut log, &mut model, &mut random);
        (disk, log) = reopen(disk.power_cut(), &mut random);
        let found = contents(&log);
        let mut candidate = model.clone();
        let mut matches = candidate == found;
        for record in &in_flight {
            if matches {
                break;
            }
            candidate.apply(record);
            matches = candidate == found;
        }
        assert!(
            matches,
            "seed {seed}: found {:?}, acknowledged {:?}, in flight {in_flight:?}",
            found.state, model.state
        );
        model = found;
    }
}

#[test]
fn nothing_acknowledged_is_lost_in_power_cuts() {
    for seed in 1..=600 {
        cycle(seed);
    }
}

/// Goal: wherever a bit flips in what is known to have been durable (all but the last write), the
/// log refuses to open and says where.
#[test]
fn a_flipped_bit_in_acknowledged_records_is_refused() {
    let mut random = Random(77);
    for seed in 1..=300 {
        let disk = MemoryDisk::new(seed);
        let mut log = open(&disk).expect("an empty disk");
        let mut model = Model::default();
        let mut before_last = Vec::new();
        for _ in 0..30 {
            before_last =
                disk.list().expect("alive").iter().map(|name| used(&disk, name)).collect();
            let record = model.propose(&mut random);
            log.write([&record]).expect("a healthy disk");
            model.apply(&record);
        }
        drop(log);
        let (name, used) = before_last
            [usize::try_from(random.below(before_last.len() as u64)).expect("small")]
        .clone();
        disk.flip(&name, random.below(used * 8));
        match open(&disk) {
            Err(Fault::Damaged { .. } | Fault::Version { .. } | Fault::Foreign { .. }) => {}
            Err(other) => panic!("seed {seed}: {other}"),
            Ok(_) => panic!("seed {seed}: damage in {name} was not noticed"),
        }
    }
}

/// The name of a segment with the bytes of it that are in use.
fn used(disk: &MemoryDisk, name: &str) -> (String, u64) {
    let bytes = disk.bytes(name);
    let mut last = 0;
    dump::segment(&mut &*bytes, |line| {
        if let Some(offset) = line.split_whitespace().next().and_then(|word| word.parse().ok()) {
            last = offset;
        }
    })
    .expect("memory");
    assert!(number_of(name).is_some());
    (name.to_owned(), last)
}

#[test]
fn a_missing_segment_and_a_foreign_log_are_refused() {
    let disk = MemoryDisk::new(1);
    let mut log = open(&disk).expect("an empty disk");
    for index in 0..60 {
        let body = Bytes::from(vec![1; 500]);
        let entry = Entry { id: LogId { term: 1, index }, tag: 1, body };
        log.write([&Record::Entry(entry)]).expect("a healthy disk");
    }
    drop(log);
    let foreign = Config { cluster: 9, ..CONFIG };
    let opened = Log::open(Arc::new(disk.clone()), foreign);
    assert!(matches!(opened.err(), Some(Fault::Foreign { cluster: 1, node: 2, .. })));
    disk.remove(&format!("{:016x}.wal", 2)).expect("there are several");
    assert!(matches!(open(&disk).err(), Some(Fault::Missing { .. })));
    disk.remove(&format!("{:016x}.wal", 1)).expect("there are several");
    assert!(matches!(open(&disk).err(), Some(Fault::Incomplete { from: 0, .. })));
}

/// Goal: a log that is purged stays small, and its files are used again.
#[test]
fn segments_are_recycled() {
    let disk = MemoryDisk::new(1);
    let mut log = open(&disk).expect("an empty disk");
    for index in 0..2_000 {
        let id = LogId { term: 1, index };
        let entry = Entry { id, tag: 1, body: Bytes::from(vec![1; 100]) };
        log.write([&Record::Entry(entry), &Record::Purge(id)]).expect("a healthy disk");
        log.recycle(index).expect("a healthy disk");
        if log.wants_spare() {
            let spare = log.prepare().run(|| true).expect("a healthy disk");
            log.adopt(spare.expect("never told to give up"));
        }
        assert!(disk.list().expect("alive").len() <= 4);
    }
}

/// Goal: a spare that was long in the making is a file of its own, though the segment beside which
/// it was begun has become a spare too, and though it was made twice.
#[test]
fn a_late_spare_takes_no_other_name() {
    let disk = MemoryDisk::new(1);
    let mut log = open(&disk).expect("an empty disk");
    let (mut index, mut late) = (0, vec![log.prepare(), log.prepare()]);
    // A segment takes a dozen of these.
    let mut fill = |log: &mut Log, entries: u64| {
        for _ in 0..entries {
            let id = LogId { term: 1, index };
            let entry = Entry { id, tag: 1, body: Bytes::from(vec![1; 500]) };
            log.write([&Record::Entry(entry), &Record::Purge(id)]).expect("its files are there");
            index += 1;
        }
        index - 1
    };
    let last = fill(&mut log, 20);
    log.recycle(last).expect("a healthy disk");
    while let Some(preparation) = late.pop() {
        let spare = preparation.run(|| true).expect("a healthy disk");
        log.adopt(spare.expect("never told to give up"));
    }
    fill(&mut log, 70);
}

#[test]
fn nothing_is_recycled_before_the_checkpoint_covers_it() {
    let disk = MemoryDisk::new(1);
    let mut log = open(&disk).expect("an empty disk");
    for index in 0..100 {
        let id = LogId { term: 1, index };
        let entry = Entry { id, tag: 1, body: Bytes::from(vec![1; 500]) };
        log.write([&Record::Entry(entry), &Record::Purge(id)]).expect("a healthy disk");
        log.recycle(0).expect("a healthy disk");
    }
    let segments =
        disk.list().expect("alive").iter().filter(|name| number_of(name).is_some()).count();
    assert!(segments > 5, "{segments} segments");
}
