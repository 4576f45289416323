//! A whole member, log and engine on one disk, crashed over and over.
//!
//! Goal: whatever is acknowledged survives, whatever breaks: power, the disk, its space, at any
//! operation of either file, while writing, checkpointing, cutting the log, defragmenting, or
//! recovering from the crash before. What is found is the state after some prefix of the entries
//! that covers all acknowledged ones, and it is found every time.
//!
//! Method: the log is the real one and the engine too; the member around them does what raft does
//! for a single voter, in order: write the entry, apply it, answer; after a checkpoint purge what it
//! covers. The disk counts every write, sync and rename, and fails at a number drawn beforehand. A
//! power cut keeps a random part of what was not synced, sector by sector. After each recovery
//! everything is compared with a naive model that has run the same entries.

use std::sync::Arc;

use bytes::Bytes;
use store::{
    command::{Command, DeleteRange, KeyRange, Put, RangeQuery, Revision, decode, encode},
    engine::{Engine, EngineConfig, Storage},
    fault,
    wal::{
        self, Entry, LogId, Record,
        log::{Log, lock},
        record::Header,
    },
};

use crate::{
    disk::{Disk, DiskFault},
    model::Model,
    world::{IDENTITY, config},
};

const LOG: wal::Config =
    wal::Config { segment_bytes: 16 << 10, cluster: 0xc1, node: 0xa1, salt: 0xC0FFEE };

/// Lives of one member, each ended by a crash.
const LIVES: usize = 8;

/// Entries of one life, unless it ends before.
const ENTRIES_MAX: u64 = 30;

struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn size(&mut self, bound: u64) -> usize {
        usize::try_from(self.below(bound)).unwrap()
    }
}

/// What was proposed, entry by entry; entry `n` of the log is `entries[n - 1]`.
#[derive(Default)]
struct Truth {
    entries: Vec<Vec<Command>>,
    acknowledged: usize,
}

impl Truth {
    fn model(&self) -> Model {
        let mut model = Model::default();
        self.entries.iter().flatten().for_each(|command| drop(model.apply(command)));
        model
    }
}

/// Why a member stopped, or could not start.
#[derive(Debug)]
#[expect(dead_code, reason = "shown when a test fails")]
enum Stopped {
    Log(wal::Fault),
    Engine(fault::Fault),
    Disk(std::io::Error),
}

impl From<std::io::Error> for Stopped {
    fn from(error: std::io::Error) -> Self {
        Self::Disk(error)
    }
}

impl From<wal::Fault> for Stopped {
    fn from(fault: wal::Fault) -> Self {
        Self::Log(fault)
    }
}

impl From<fault::Fault> for Stopped {
    fn from(fault: fault::Fault) -> Self {
        Self::Engine(fault)
    }
}

struct Member {
    engine: Engine,
    log: Log,
}

impl Member {
    /// Opens both and applies what the engine lacks.
    fn start(disk: &Disk, memtable_bytes: usize) -> Result<Self, Stopped> {
        let config = EngineConfig {
            storage: Storage::Disk(Arc::new(disk.clone())),
            ..config(disk, memtable_bytes)
        };
        let mut engine = Engine::open(config)?;
        assert_eq!(engine.identity(), IDENTITY);
        let log = Log::open(Arc::new(disk.clone()), LOG)?;
        let applied = engine.applied().0.unwrap_or(0);
        let state = log.state();
        let (last, purged) =
            (state.last.map_or(0, |id| id.index), state.purged.map_or(0, |id| id.index));
        assert!(applied <= last, "the data are of entry {applied}, the log ends at {last}");
        assert!(purged <= applied, "the data are of entry {applied}, the log begins at {purged}");
        for index in applied + 1..=last {
            let commands = read(&log, index)?;
            engine.apply(index, None, &commands)?;
        }
        Ok(Self { engine, log })
    }

    fn last(&self) -> usize {
        usize::try_from(self.log.state().last.map_or(0, |id| id.index)).unwrap()
    }

    /// Takes part until something breaks, or for a while.
    fn live(&mut self, truth: &mut Truth, random: &mut Random) -> Result<(), Stopped> {
        for _ in 0..random.below(ENTRIES_MAX) {
            let mut records = Vec::new();
            for _ in 0..=random.below(3) {
                let commands: Vec<_> = (0..=random.below(3)).map(|_| command(random)).collect();
                let body = Bytes::from(encode(&commands));
                truth.entries.push(commands);
                let index = truth.entries.len() as u64;
                records.push(Record::Entry(Entry { id: LogId { term: 1, index }, tag: 1, body }));
            }
            self.log.write(&records)?;
            for nth in truth.acknowledged..truth.entries.len() {
                self.engine.apply(nth as u64 + 1, None, &truth.entries[nth])?;
            }
            truth.acknowledged = truth.entries.len();
            self.keep_house(random)?;
        }
        Ok(())
    }

    /// What goes on beside writing.
    fn keep_house(&mut self, random: &mut Random) -> Result<(), Stopped> {
        if random.one_in(5) {
            self.engine.checkpoint()?;
        }
        if random.one_in(12) {
            // Where it fails without stopping the store, the store goes on with what it had.
            let _ = self.engine.reader().defragment_now();
            let fault = self.engine.reader().fault().borrow().clone();
            if let Some(fault) = fault {
                return Err(fault.into());
            }
        }
        if random.one_in(4) {
            let durable = self.engine.reader().durable().borrow().index;
            if let Some(index) = durable.filter(|index| *index > 0) {
                let purged = Record::Purge(LogId { term: 1, index });
                if self.log.state().purged.is_none_or(|purged| purged.index < index) {
                    self.log.write([&purged])?;
                }
                self.log.recycle(index)?;
            }
        }
        if random.one_in(4) && self.log.wants_spare() {
            // Costs nothing but speed, unless the disk is gone.
            if let Ok(Some(spare)) = self.log.prepare().run(|| true) {
                self.log.adopt(spare);
            }
        }
        Ok(())
    }

    /// Compares everything with what should be there.
    fn check(&self, truth: &mut Truth, seed: u64) {
        let last = self.last();
        assert!(
            truth.acknowledged <= last && last <= truth.entries.len(),
            "seed {seed}: entries up to {last} are there, {} were acknowledged, {} written",
            truth.acknowledged,
            truth.entries.len(),
        );
        truth.entries.truncate(last);
        truth.acknowledged = last;
        let model = truth.model();
        let view = self.engine.reader().view();
        assert_eq!(view.revision(), model.revision, "seed {seed}");
        assert_eq!(view.compacted(), model.compacted, "seed {seed}");
        assert_eq!(view.sizes().retained, model.retained(), "seed {seed}");
        assert_eq!(view.sizes().keys, model.live_keys(), "seed {seed}");
        let query = RangeQuery::new(KeyRange::all());
        assert_eq!(view.range(&query).unwrap(), model.range(&query).unwrap(), "seed {seed}");
        let digest = view.hash_kv(Revision(0)).unwrap();
        assert_eq!(digest.hash, model.hash_kv(digest.revision), "seed {seed}");
    }
}

fn read(log: &Log, index: u64) -> Result<Vec<Command>, std::io::Error> {
    let place = lock(&log.index()).locate(index).expect("every live entry has a place");
    let len = place.file.size()? - place.offset;
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    place.file.read_at(place.offset, &mut bytes)?;
    let header = Header::parse(&bytes).expect("an entry is there");
    assert!(header.verifies(&bytes, place.seed));
    match header.decode(&bytes) {
        Some(Record::Entry(entry)) => Ok(decode(entry.body).expect("written so")),
        other => panic!("{other:?} where an entry should be"),
    }
}

fn command(random: &mut Random) -> Command {
    let key = |n: u64| Bytes::from(format!("key/{n}"));
    match random.below(20) {
        0..=1 => {
            let range = KeyRange::Span(key(random.below(8)), key(random.below(8)));
            Command::Delete(DeleteRange { range, prev_kv: false })
        }
        2 => {
            let range = KeyRange::Key(key(random.below(8)));
            Command::Delete(DeleteRange { range, prev_kv: false })
        }
        // Refused more often than not, which is an outcome like any other.
        3..=4 => Command::Compact(Revision(1 + i64::try_from(random.below(60)).unwrap())),
        5 => Command::Put(Put {
            key: key(random.below(8)),
            // More than the file has room for, now and then.
            value: vec![b'w'; 3_000 + random.size(9_000)].into(),
            ..Put::default()
        }),
        _ => Command::Put(Put {
            key: key(random.below(8)),
            value: vec![b'v'; random.size(600)].into(),
            ..Put::default()
        }),
    }
}

/// Starts a member again, with further crashes on the way.
fn restart(
    mut disk: Disk,
    memtable_bytes: usize,
    random: &mut Random,
    honest: bool,
    seed: u64,
) -> (Disk, Member) {
    for _ in 0..random.below(3) {
        disk.fail_after(random.below(25), fault(random, honest));
        // It may as well get through before its turn comes.
        drop(Member::start(&disk, memtable_bytes));
        disk = crashed(&disk, honest, random);
    }
    let member = Member::start(&disk, memtable_bytes)
        .unwrap_or_else(|stopped| panic!("seed {seed}: cannot start again: {stopped:?}"));
    (disk, member)
}

/// A disk that keeps its word fails, fills up, or loses power. One that lies about a sync may be
/// anything after a power cut; but processes on it may be killed, and lose nothing.
fn fault(random: &mut Random, honest: bool) -> DiskFault {
    match (honest, random.below(4)) {
        (true, 0) => DiskFault::Io,
        (true, 1) => DiskFault::NoSpace,
        (false, 0..=1) => DiskFault::Lie,
        _ => DiskFault::PowerCut,
    }
}

/// What the next process finds. Whatever was the matter, the process may have been killed only: then
/// all that was written is there, synced or not.
fn crashed(disk: &Disk, honest: bool, random: &mut Random) -> Disk {
    if honest && !random.one_in(4) { disk.power_cut() } else { disk.killed() }
}

/// One member's lives; returns how often it recovered.
fn lives(seed: u64) -> u64 {
    let mut random = Random::new(seed);
    let memtable_bytes = if random.one_in(4) { 4_000 } else { 1 << 30 };
    let honest = !random.one_in(8);
    let mut disk = Disk::new(seed);
    let mut truth = Truth::default();
    let mut member = Member::start(&disk, memtable_bytes).expect("an empty, healthy disk");
    for _ in 0..LIVES {
        disk.fail_after(random.below(90), fault(&mut random, honest));
        // Whether it stopped or was still well, it ends here.
        drop(member.live(&mut truth, &mut random));
        let left = crashed(&disk, honest, &mut random);
        drop(member);
        (disk, member) = restart(left, memtable_bytes, &mut random, honest, seed);
        member.check(&mut truth, seed);
    }
    LIVES as u64
}

/// Half of the recoveries; the other half runs beside it.
fn crash(seeds: impl Iterator<Item = u64>) {
    let recoveries: u64 = seeds.map(|seed| lives(seed + crate::other_seeds())).sum();
    assert!(recoveries >= 7_500, "only {recoveries} recoveries");
}

#[test]
fn nothing_acknowledged_is_lost_in_crashes() {
    crash(1..=940);
}

#[test]
fn nothing_acknowledged_is_lost_in_more_crashes() {
    crash(10_001..=10_940);
}
