//! The storage engine: memtables and runs over a database, checkpointed in the background.
//!
//! The log is what makes a write durable; the engine only has to reach the disk before the log is
//! cut. So applying a command touches memory alone: it reads the newest versions, writes new ones
//! into a memtable, and publishes the new revision to readers. A full memtable is frozen, and a
//! thread spills it into a *run*, which takes little memory. When the run is large or old, the
//! thread writes it into the database, sorted, in one transaction that also says up to which log
//! entry the database now goes. After a crash that entry is where replay begins.
//!
//! - [`Engine`] applies; there is one, on one thread.
//! - [`Reader`] gives consistent [`View`]s to anyone, without waiting for the applier.
//! - `worker` is the thread; `checkpoint` and `compact` run on it, and are the only writers of the
//!   database. `docs/format.md` says what they write.
//!
//! An I/O error on that thread is final: it is told through [`Reader::fault`], and `apply` fails
//! from then on.

mod backend;
mod base;
mod checkpoint;
mod compact;
mod counters;
mod counts;
mod defragment;
mod filter;
mod heads;
mod history;
mod inspect;
mod load;
mod memtable;
mod meta;
mod moment;
mod record;
mod run;
mod shared;
mod snapshot;
mod tables;
pub mod upkeep;
mod view;
mod worker;

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use bytes::Bytes;

use self::{
    backend::Home,
    base::Base,
    checkpoint::{Retired, Writer},
    memtable::{Log, Memtable},
    meta::Cut,
    shared::{Core, Current, Facts, Shared},
    snapshot::Snapshot,
    tables::Tables,
    worker::{Cadence, Worker},
};
pub use self::{
    backend::Storage,
    history::{Budget, History},
    inspect::{Inspection, inspect, inspect_image},
    load::{Facts as LoadedFacts, Loader},
    meta::Identity,
    moment::{Moment, Retained},
    run::RunLimits,
    shared::Durable,
    view::{Reader, StoreSizes, View},
};
use crate::{
    command::{Command, Outcome, Revised},
    fault::Fault,
    limits,
    machine::{self, lease::Touched},
};

/// How to open an engine.
#[derive(Debug)]
pub struct EngineConfig {
    pub storage: Storage,
    /// Written into a new database; an old one keeps its own.
    pub identity: Identity,
    pub memtable_bytes: usize,
    pub run: RunLimits,
    /// The longest that a change is in the log only.
    pub age: Duration,
    /// After so long without a change everything is written out.
    pub idle: Duration,
    pub cache_bytes: usize,
    /// Versions removed by compaction in one transaction.
    pub compact_slice: usize,
    /// Names of versions it gathers before it removes any.
    pub compact_gather: usize,
    /// Versions it removes before it rests, and how long it rests.
    pub compact_batch: usize,
    pub compact_rest: Duration,
    /// Live keys counted together: what a count may have to walk at each end of a range.
    pub bucket_keys: u64,
}

impl EngineConfig {
    #[must_use]
    pub fn new(storage: Storage, identity: Identity) -> Self {
        // Without a disk a run saves no memory: it takes some.
        let is_volatile = matches!(storage, Storage::Memory);
        let run_bytes = if is_volatile { limits::VOLATILE_RUN_BYTES } else { limits::RUN_BYTES };
        Self {
            storage,
            identity,
            memtable_bytes: limits::MEMTABLE_BYTES,
            run: RunLimits {
                versions: limits::RUN_VERSIONS,
                key_bytes: limits::RUN_KEY_BYTES,
                bytes: run_bytes,
            },
            age: limits::CHECKPOINT_AGE,
            idle: limits::CHECKPOINT_IDLE,
            cache_bytes: limits::CACHE_BYTES,
            compact_slice: limits::COMPACT_SLICE_VERSIONS,
            compact_gather: limits::COMPACT_GATHER_VERSIONS,
            compact_batch: limits::COMPACT_BATCH_VERSIONS,
            compact_rest: limits::COMPACT_REST,
            bucket_keys: limits::BUCKET_KEYS_MAX,
        }
    }
}

/// What applying an entry of the log gave.
#[derive(Clone, Debug)]
pub struct Applied {
    pub index: u64,
    /// One for each command.
    pub outcomes: Vec<Outcome>,
    /// The revisions made, in order.
    pub events: Vec<Arc<Revised>>,
}

/// Applies the log. Dropping it stops the checkpoint thread where it stands, which is safe: what is
/// not on disk is in the log.
pub struct Engine {
    reader: Reader,
    identity: Identity,
    checkpointer: Option<JoinHandle<()>>,
}

impl Engine {
    /// Opens or makes a database. Replay begins after [`Self::applied`].
    pub fn open(config: EngineConfig) -> Result<Self, Fault> {
        let home = Home::open(config.storage, config.cache_bytes)?;
        let store = home.database(config.identity)?;
        let found = meta::open(&store.database)?;
        let counts = found.counts.in_buckets_of(config.bucket_keys);
        let state = found.state;
        let last = Cut {
            applied: found.applied,
            raft: found.raft.clone(),
            revision: state.revision,
            compacted: state.compacted,
            sizes: state.sizes,
            counts: counts.clone(),
            quota: state.quota,
            touched: Touched::default(),
            alarms: state.alarms.clone(),
            members: state.members.values().cloned().collect(),
            auth: state.auth.clone(),
        };
        let durable = Durable {
            index: found.applied,
            raft: found.raft.clone(),
            revision: state.revision,
            compacted: found.progress.done,
        };
        let tables = Arc::new(Tables {
            active: Arc::new(Memtable::default()),
            frozen: Vec::new(),
            runs: Vec::new(),
            base: Base::open(&store, state.revision)?,
            recent: Arc::new(Log::default()),
        });
        let current = Current {
            tables,
            revision: state.revision,
            compacted: state.compacted,
            sizes: state.sizes,
            counts: counts.clone(),
            facts: Arc::new(Facts::of(&state)),
        };
        let core = Core { state, counts, applied: found.applied, raft: found.raft, dirty: false };
        let shared = Arc::new(Shared::new(core, current, durable, config.memtable_bytes));
        let writer = Writer {
            store,
            progress: found.progress,
            last,
            compact_slice: config.compact_slice.max(1),
            compact_gather: config.compact_gather.max(1),
            gathered: None,
            compact_batch: config.compact_batch.max(1),
            compact_rest: config.compact_rest,
            retired: Retired::default(),
            counters: Arc::clone(&shared.counters),
        };
        let cadence = Cadence { run: config.run, age: config.age, idle: config.idle };
        let worker = Worker::new(Arc::clone(&shared), home.clone(), writer, cadence);
        let checkpointer = start_checkpointer(worker)?;
        Ok(Self {
            reader: Reader { shared, home },
            identity: found.identity,
            checkpointer: Some(checkpointer),
        })
    }

    /// Who the data belong to.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The last entry applied, and what raft gave with it: after opening, those of the checkpoint.
    #[must_use]
    pub fn applied(&self) -> (Option<u64>, Bytes) {
        let core = self.reader.shared.core();
        (core.applied, core.raft.clone())
    }

    #[must_use]
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Applies one committed entry of the log: all its commands, in order. `raft`, if given, is what
    /// to keep with the entry for raft's own use.
    ///
    /// Waits when the checkpoint thread has fallen behind by as many memtables as may be frozen.
    ///
    /// # Panics
    /// If the entry was applied before: the log and the database disagree.
    pub fn apply(
        &mut self,
        index: u64,
        raft: Option<Bytes>,
        commands: &[Command],
    ) -> Result<Applied, Fault> {
        let shared = &self.reader.shared;
        shared.make_room()?;
        let mut guard = shared.core();
        let core = &mut *guard;
        assert!(core.applied.is_none_or(|applied| applied < index), "entry {index} applied twice");
        let tables = shared.current().tables;
        let mut applied =
            Applied { index, outcomes: Vec::with_capacity(commands.len()), events: Vec::new() };
        core.dirty = true;
        let touched = core.state.leases.touched().len();
        for command in commands {
            if let Err(fault) = apply_one(core, &tables, command, &mut applied) {
                // Half an entry must not be written; `core` is still held, so nobody has frozen it.
                shared.fail(fault.clone());
                return Err(fault);
            }
        }
        let touched = core.state.leases.touched().len().saturating_sub(touched);
        tables.active.count(touched * TOUCHED_BYTES);
        core.applied = Some(index);
        if let Some(raft) = raft {
            core.raft = raft;
        }
        shared.publish(core);
        Ok(applied)
    }

    /// Waits until all that has been applied is on disk.
    pub fn checkpoint(&self) -> Result<(), Fault> {
        let wanted = self.reader.request_checkpoint();
        self.reader.shared.wait_for_durable(wanted)
    }

    /// Puts everything on disk and stops, so that the next start has nothing to replay.
    pub fn close(self) -> Result<(), Fault> {
        self.checkpoint()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.reader.shared.stop();
        if let Some(thread) = self.checkpointer.take()
            && thread.join().is_err()
        {
            // The thread's own panic has been reported; there is nothing left to stop.
            std::process::abort();
        }
        self.reader.shared.close();
    }
}

fn apply_one(
    core: &mut Core,
    tables: &Tables,
    command: &Command,
    applied: &mut Applied,
) -> Result<(), Fault> {
    let revision = core.state.revision;
    let rows = Snapshot { tables, counts: &core.counts, revision };
    let done = machine::apply(&mut core.state, &rows, command)?;
    applied.outcomes.push(done.outcome);
    if let Some((revised, traces)) = done.revised {
        snapshot::note(&mut core.counts, tables, &revised)?;
        tables.active.push(revised.clone(), traces);
        applied.events.push(revised);
    }
    Ok(())
}

/// Memory of a note that a lease or one of its keys has changed.
const TOUCHED_BYTES: usize = 128;

/// A panic on this thread is a broken invariant of the data, so it ends the process.
fn start_checkpointer(worker: Worker) -> Result<JoinHandle<()>, Fault> {
    struct AbortOnPanic;
    impl Drop for AbortOnPanic {
        fn drop(&mut self) {
            if std::thread::panicking() {
                std::process::abort();
            }
        }
    }
    std::thread::Builder::new()
        .name("checkpoint".into())
        .spawn(move || {
            let _guard = AbortOnPanic;
            worker.run();
        })
        .map_err(|error| Fault::io("start the checkpoint thread", error))
}
