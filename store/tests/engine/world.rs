//! An engine on a disk, the log it applies, and the model that says what is right.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use redb::{ReadableDatabase as _, ReadableTableMetadata as _};
use store::{
    command::{
        Command, KeyRange, LeaseId, Outcome, RangeQuery, Refusal, Revised, Revision, Sender, Txn,
        decode, encode,
    },
    engine::{Budget, Engine, EngineConfig, Identity, RunLimits, Storage},
    fault::Error,
    machine::{
        auth::needs::{Act, Need},
        lease::Leases,
    },
};

use crate::{
    disk::{Disk, with_database},
    model::Model,
};

pub(crate) const IDENTITY: Identity = Identity { cluster: 0xc1, member: 0xa1 };

pub(crate) fn open(disk: &Disk, memtable_bytes: usize) -> Engine {
    Engine::open(config(disk, memtable_bytes)).expect("the disk works")
}

pub(crate) fn config(disk: &Disk, memtable_bytes: usize) -> EngineConfig {
    EngineConfig {
        memtable_bytes,
        // A few memtables, so that reads find rows at all levels.
        run: RunLimits { versions: 12, key_bytes: 1_000, bytes: 2_000 },
        age: Duration::from_secs(3600),
        idle: Duration::from_secs(3600),
        cache_bytes: 1 << 20,
        compact_slice: 3,
        compact_gather: 5,
        compact_batch: 2,
        compact_rest: Duration::ZERO,
        bucket_keys: 2,
        ..EngineConfig::new(Storage::Disk(Arc::new(disk.clone())), IDENTITY)
    }
}

struct Entry {
    commands: Vec<Command>,
    outcomes: Vec<Outcome>,
    events: Vec<Revised>,
    /// The store's revision after the entry.
    revision: Revision,
}

pub(crate) struct World {
    disk: Disk,
    memtable_bytes: usize,
    pub(crate) engine: Option<Engine>,
    pub(crate) model: Model,
    log: Vec<Entry>,
}

impl World {
    pub(crate) fn new(memtable_bytes: usize, seed: u64) -> Self {
        let disk = Disk::new(seed);
        let engine = Some(open(&disk, memtable_bytes));
        Self { disk, memtable_bytes, engine, model: Model::default(), log: Vec::new() }
    }

    pub(crate) fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().expect("between steps there is an engine")
    }

    /// Applies an entry to both and compares what they say. The commands take the way through the
    /// log's encoding.
    pub(crate) fn apply(&mut self, commands: Vec<Command>) {
        let commands = decode(Bytes::from(encode(&commands))).expect("just encoded");
        let mut entry = Entry {
            outcomes: Vec::new(),
            events: Vec::new(),
            revision: self.model.revision,
            commands,
        };
        for command in &entry.commands {
            let (outcome, revised) = self.model.apply(command);
            entry.outcomes.push(outcome);
            entry.events.extend(revised);
        }
        entry.revision = self.model.revision;
        self.log.push(entry);
        self.replay(self.log.len() - 1);
    }

    fn replay(&mut self, nth: usize) {
        let index = nth as u64;
        let raft = Bytes::copy_from_slice(&index.to_le_bytes());
        let entry = &self.log[nth];
        let engine = self.engine.as_mut().expect("between steps there is an engine");
        let applied = engine.apply(index, Some(raft), &entry.commands).expect("the disk works");
        assert_eq!(applied.index, index);
        for (nth, command) in entry.commands.iter().enumerate() {
            assert_eq!(applied.outcomes[nth], entry.outcomes[nth], "{command:?}");
        }
        let events: Vec<_> = applied.events.into_iter().map(Arc::unwrap_or_clone).collect();
        assert_eq!(events, entry.events);
    }

    pub(crate) fn checkpoint(&mut self) {
        self.engine().checkpoint().expect("the disk works");
    }

    /// Gives unused space back; everything is as before, and a restart finds it.
    pub(crate) fn defragment(&mut self) {
        self.engine().reader().defragment_now().expect("the disk works");
    }

    /// Stops as a killed process does, and starts again.
    pub(crate) fn reopen(&mut self) {
        let durable = self.durable();
        self.engine = None;
        self.recover(durable);
    }

    fn durable(&mut self) -> Option<u64> {
        self.engine().reader().durable().borrow().index
    }

    /// Cuts the power and starts again from what is left on the disk.
    pub(crate) fn power_cut(&mut self) {
        let durable = self.durable();
        let left = self.disk.power_cut();
        self.engine = None;
        self.disk = left;
        self.recover(durable);
    }

    /// Opens what is there, which must be exactly the state after some entry, and applies the rest
    /// of the log again: everything must come out as the first time.
    fn recover(&mut self, durable: Option<u64>) {
        let engine = self.engine.insert(open(&self.disk, self.memtable_bytes));
        assert_eq!(engine.identity(), IDENTITY);
        let (applied, raft) = engine.applied();
        assert!(applied >= durable, "what was told to be durable is gone");
        let next = applied.map_or(0, |index| index + 1);
        assert!(next <= self.log.len() as u64, "the database is ahead of the log");
        if let Some(index) = applied {
            assert_eq!(raft, Bytes::copy_from_slice(&index.to_le_bytes()));
        }
        let view = engine.reader().view();
        let nth = usize::try_from(next).unwrap();
        let expected = nth.checked_sub(1).map_or(Revision(1), |last| self.log[last].revision);
        assert_eq!(view.revision(), expected);
        for nth in nth..self.log.len() {
            self.replay(nth);
        }
        let view = self.engine().reader().view();
        self.model.guard.check(view.auth());
    }

    /// Waits until compaction has been carried out, and looks at the tables: exactly what the model
    /// keeps is there.
    pub(crate) fn check_tables(&mut self) {
        self.checkpoint();
        let compacted = self.model.compacted;
        let mut durable = self.engine().reader().durable();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(durable.wait_for(|durable| durable.compacted >= compacted)).unwrap();
        self.engine = None;
        with_database(&self.disk, |database| {
            let read = database.begin_read().unwrap();
            let cur = redb::TableDefinition::<&[u8], &[u8]>::new("cur");
            let hist = redb::TableDefinition::<&[u8; 12], &[u8]>::new("hist");
            let (keys, versions) = self.model.retained_rows();
            assert_eq!(read.open_table(hist).unwrap().len().unwrap(), versions);
            assert_eq!(read.open_table(cur).unwrap().len().unwrap(), keys);
        });
        self.engine = Some(open(&self.disk, self.memtable_bytes));
    }

    pub(crate) fn check_range(&mut self, query: &RangeQuery) {
        let answer = refused(self.engine().reader().view().range(query));
        assert_eq!(answer, self.model.range(query), "{query:?}");
    }

    pub(crate) fn check_txn(&mut self, txn: &Txn) {
        let answer = refused(self.engine().reader().view().txn(txn));
        assert_eq!(answer, self.model.ask(txn), "{txn:?}");
    }

    /// Compares whether somebody may read or write a range.
    pub(crate) fn check_permission(&mut self, by: Option<&Sender>, act: Act, range: &KeyRange) {
        let view = self.engine().reader().view();
        let told = view.auth().permits(by, Need::Keys(act, range), &Leases::default());
        let expected = self.model.guard.permits(by, act, range);
        assert_eq!(told, expected, "{by:?} {act:?} {range:?} by {:?}", self.model.guard);
    }

    /// Reads all history from a revision on, in portions, and compares.
    pub(crate) fn check_history(&mut self, from: Revision, budget: Budget) {
        let view = self.engine().reader().view();
        let mut expected = self.model.history(from).map(Vec::into_iter);
        let mut next = from;
        loop {
            match (refused(view.history(next, budget)), &mut expected) {
                (Ok(history), Ok(expected)) => {
                    if history.revised.is_empty() {
                        assert_eq!(expected.next(), None, "history from {next} ends early");
                        return;
                    }
                    for revised in &history.revised {
                        assert_eq!(Some(&**revised), expected.next().as_ref());
                    }
                    next = history.next;
                }
                (Err(refusal), Err(expected)) => return assert_eq!(refusal, *expected),
                (got, expected) => panic!("{got:?} is not {expected:?}"),
            }
        }
    }

    pub(crate) fn check_hash(&mut self, upto: Revision) {
        let digest = refused(self.engine().reader().view().hash_kv(upto));
        match digest {
            Ok(digest) => assert_eq!(digest.hash, self.model.hash_kv(digest.revision)),
            Err(Refusal::Compacted { compacted }) => assert!(upto < compacted),
            Err(Refusal::FutureRevision { current }) => assert!(upto > current),
            Err(other) => panic!("{other}"),
        }
    }

    pub(crate) fn check_small(&mut self) {
        let reader = self.engine().reader();
        let view = reader.view();
        assert_eq!(view.revision(), self.model.revision);
        assert_eq!(view.compacted(), self.model.compacted);
        assert_eq!(view.alarms(), self.model.alarms());
        self.model.guard.check(view.auth());
        assert_eq!(view.sizes().retained, self.model.retained());
        assert_eq!(view.sizes().keys, self.model.live_keys());
        let leases: Vec<(LeaseId, i64, i64)> =
            self.model.leases.iter().map(|(id, (ttl, left))| (*id, *ttl, *left)).collect();
        assert_eq!(reader.leases(), leases);
        for (id, ..) in leases {
            let keys: Vec<_> = reader.lease(id).expect("listed").keys.into_iter().collect();
            assert_eq!(keys, self.model.keys_of(id));
        }
    }
}

fn refused<T>(answer: Result<T, Error>) -> Result<T, Refusal> {
    match answer {
        Ok(answer) => Ok(answer),
        Err(Error::Refused(refusal)) => Err(refusal),
        Err(Error::Failed(fault)) => panic!("{fault}"),
    }
}
