//! A data directory of a server that does not run.
//!
//! Its newest state is in two places: the database holds the last checkpoint, the log what came
//! after. Tools that need all of it open both, under their locks, and apply the rest of the log,
//! which is what the server would do when it starts.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use super::{Context, DataDir, Failure};
use crate::{
    chance::Chance,
    command::Command,
    engine::{Applied, Engine, EngineConfig, Identity, Moment, Reader, Storage, upkeep},
    fault::Fault,
    raft,
    wal::{self, RealDisk, Wal},
};

/// Between two attempts to take a lock that another process holds.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

impl DataDir {
    pub(super) fn db(&self) -> PathBuf {
        self.data_dir.join("member").join("db")
    }

    pub(super) fn wal(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.data_dir.join("member").join("wal"))
    }

    /// Refuses what is no data directory of ours, and says what it is instead.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if upkeep::exists(&self.db()) {
            return Ok(());
        }
        let dir = self.data_dir.display();
        if self.data_dir.join("member/snap/db").exists() {
            let text =
                format!("{dir} is a data directory of etcd's: `store import {dir}` takes it");
            return Err(Failure::new(text));
        }
        Err(Failure::new(format!("{dir} holds no data of a store (no {})", self.db().display())))
    }

    /// Takes the log's lock. Nothing where there is no log.
    pub(super) fn disk(&self, context: &Context) -> Result<Option<RealDisk>, Failure> {
        let wal = self.wal();
        if !wal.is_dir() {
            return Ok(None);
        }
        let disk = patiently(context, || {
            RealDisk::open(&wal).map_err(|error| match error.kind() {
                std::io::ErrorKind::WouldBlock => Fault::Locked { path: wal.clone() },
                _ => Fault::io(format!("open {}", wal.display()), error),
            })
        });
        disk.map(Some)
    }

    /// Everything as of the last entry.
    pub(super) fn open(&self, context: &Context) -> Result<Stopped, Failure> {
        self.check()?;
        let engine = patiently(context, || {
            let storage = Storage::Directory(self.db());
            Engine::open(EngineConfig::new(storage, Identity::default()))
        })?;
        let (identity, reader) = (engine.identity(), engine.reader());
        let Some(disk) = self.disk(context)? else {
            let text = format!("the log is missing: {} is no directory", self.wal().display());
            return Err(Failure::new(text));
        };
        let wal = Wal::open(Arc::new(disk), log_config(identity))?;
        Context::tell("applying what the log holds beyond the last checkpoint");
        let machine = raft::Applier::new(engine, ignore as Ignore);
        let machine = raft::replay(identity.member, &wal, machine);
        wal.close();
        Ok(Stopped { reader, _machine: machine? })
    }
}

/// How the log of these data is read.
pub(super) fn log_config(identity: Identity) -> wal::Config {
    wal::Config {
        segment_bytes: wal::SEGMENT_BYTES,
        cluster: identity.cluster,
        node: identity.member,
        salt: Chance::from_system().salt(),
    }
}

/// Opens what another process may hold, trying again until time is up.
pub(super) fn patiently<T>(
    context: &Context,
    mut open: impl FnMut() -> Result<T, Fault>,
) -> Result<T, Failure> {
    let mut waited = Duration::ZERO;
    loop {
        match open() {
            Err(fault @ Fault::Locked { .. }) => {
                if !context.timeout.is_zero() && waited >= context.timeout {
                    return Err(Failure::new(format!("{fault}; stop the server first")));
                }
                if waited.is_zero() {
                    Context::tell(&format!("{fault}; waiting for it"));
                }
                thread::sleep(LOCK_PAUSE);
                waited += LOCK_PAUSE;
            }
            opened => return Ok(opened?),
        }
    }
}

/// Nobody has to hear of what is applied again.
type Ignore = fn(&[Command], &mut Applied, Duration);

fn ignore(_: &[Command], _: &mut Applied, _: Duration) {}

/// The newest state of a server that does not run.
pub(super) struct Stopped {
    pub(super) reader: Reader,
    /// Keeps the database open and locked.
    _machine: raft::Applier<Ignore>,
}

impl Stopped {
    pub(super) fn moment(&self) -> Moment {
        self.reader.moment()
    }
}

/// Whether a path is a directory, for commands that take files too.
pub(super) fn is_directory(path: &Path) -> bool {
    path.is_dir()
}
