//! Where the database lives: files on some disk, and how they come to it gently.
//!
//! The seam is the log's own, [`crate::wal::Disk`]: a real directory in production, memory for a volatile
//! store, and in tests a disk that loses what was not synced. One implementation of redb's
//! `StorageBackend` stands on it.
//!
//! A checkpoint writes up to a hundred megabytes and then syncs. On a disk that the log shares, that
//! one sync would hold up the log's. So the backend syncs early, every few hundred kilobytes, and
//! rests in between: what is left for anybody's sync to wait for stays small. Syncing early never
//! harms: what is written before the commit's own sync is not referred to until then.

use std::{
    io,
    ops::Bound,
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use redb::{BackendError, Database, StorageBackend};

use super::meta::{self, FORMAT, Identity};
use crate::{
    fault::Fault,
    limits::{CHECKPOINT_REST_MAX, CHECKPOINT_SYNC_BYTES},
    wal::{Disk, RealDisk, VolatileDisk, disk::File},
};

/// Where the database lives.
#[derive(Clone)]
pub enum Storage {
    /// A directory of its own, made if need be, used by one process at a time.
    Directory(PathBuf),
    /// Nothing on disk; gone when the engine is.
    Memory,
    /// Any disk, which must not be shared.
    Disk(Arc<dyn Disk>),
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "Directory({})", path.display()),
            Self::Memory => f.write_str("Memory"),
            Self::Disk(disk) => write!(f, "Disk({})", disk.describe("")),
        }
    }
}

impl Storage {
    /// Nothing on disk.
    #[must_use]
    pub fn memory() -> Self {
        Self::Memory
    }

    fn disk(self) -> Result<Arc<dyn Disk>, Fault> {
        match self {
            Self::Disk(disk) => Ok(disk),
            Self::Memory => Ok(Arc::new(VolatileDisk::default())),
            Self::Directory(path) => match RealDisk::open(&path) {
                Ok(disk) => Ok(Arc::new(disk)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    Err(Fault::Locked { path })
                }
                Err(error) => Err(Fault::io(format!("open {}", path.display()), error)),
            },
        }
    }
}

/// A database that is open, with the file it is in.
pub(super) struct Store {
    pub(super) database: Database,
    /// The length of the file.
    bytes: Arc<AtomicU64>,
    pub(super) pace: Arc<Pace>,
}

impl Store {
    pub(super) fn file_bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// The directory of the database, and what is done to whole files in it.
#[derive(Clone)]
pub(super) struct Home {
    disk: Arc<dyn Disk>,
    cache_bytes: usize,
}

/// What a defragmentation writes; one left behind by a crash is worth nothing.
const COPY: &str = "state.redb.copy";

/// The name that a run has for a moment.
const RUN: &str = "state.run";

impl Home {
    pub(super) const DATABASE: &str = "state.redb";

    pub(super) fn open(storage: Storage, cache_bytes: usize) -> Result<Self, Fault> {
        Ok(Self { disk: storage.disk()?, cache_bytes })
    }

    fn fault(&self, what: &str, name: &str, error: io::Error) -> Fault {
        Fault::io(format!("{what} {}", self.disk.describe(name)), error)
    }

    /// Opens or makes the database.
    pub(super) fn database(&self, identity: Identity) -> Result<Arc<Store>, Fault> {
        self.discard_copy()?;
        self.discard(RUN)?;
        let names = self.disk.list().map_err(|error| self.fault("list", "", error))?;
        let file = if names.iter().any(|name| name == Self::DATABASE) {
            self.disk.open(Self::DATABASE)
        } else {
            self.disk.create(Self::DATABASE)
        };
        // The file's name must survive a power cut as its contents do, be it new or given by a
        // process that was killed before it could see to that.
        let file = file.and_then(|file| self.disk.sync_dir().map(|()| file));
        let file = file.map_err(|error| self.fault("open", Self::DATABASE, error))?;
        let store = self.store(Self::DATABASE, file, false)?;
        match meta::format(&store.database)? {
            None => meta::initialise(&store.database, identity)?,
            Some(FORMAT) => {}
            Some(1) => meta::upgrade(&store.database)?,
            Some(found) => return Err(self.other_format(found)),
        }
        Ok(store)
    }

    /// Opens a database that must be there, with every page of it checked.
    pub(super) fn existing(&self) -> Result<Arc<Store>, Fault> {
        let file = self.disk.open(Self::DATABASE);
        let file = file.map_err(|error| self.fault("open", Self::DATABASE, error))?;
        let store = self.store(Self::DATABASE, file, true)?;
        match meta::format(&store.database)? {
            None => Err(Fault::Damaged("it holds no store".into())),
            Some(FORMAT) => Ok(store),
            Some(found) => Err(self.other_format(found)),
        }
    }

    fn other_format(&self, found: u32) -> Fault {
        let path = self.disk.describe(Self::DATABASE).into();
        Fault::NewerFormat { path, found, known: FORMAT }
    }

    /// Makes an empty database beside the one in use.
    pub(super) fn copy(&self) -> Result<Arc<Store>, Fault> {
        let file = self.disk.create(COPY).map_err(|error| self.fault("create", COPY, error))?;
        self.store(COPY, file, false)
    }

    /// Removes a copy that is not to be used.
    pub(super) fn discard_copy(&self) -> Result<(), Fault> {
        self.discard(COPY)
    }

    fn discard(&self, name: &str) -> Result<(), Fault> {
        match self.disk.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.fault("remove", name, error))
            }
            _ => Ok(()),
        }
    }

    /// Makes a file that is gone when nobody has it open any more.
    pub(super) fn run(&self) -> Result<Arc<dyn File>, Fault> {
        let file = self.disk.create(RUN).map_err(|error| self.fault("create", RUN, error))?;
        self.disk.remove(RUN).map_err(|error| self.fault("remove", RUN, error))?;
        Ok(file)
    }

    /// Puts the copy, which is complete and synced, in place of the database. An error leaves it
    /// open which of the two a restart would find.
    pub(super) fn adopt_copy(&self) -> Result<(), Fault> {
        let adopted = self.disk.rename(COPY, Self::DATABASE).and_then(|()| self.disk.sync_dir());
        adopted.map_err(|error| self.fault("rename", COPY, error))
    }

    fn store(&self, name: &str, file: Arc<dyn File>, check: bool) -> Result<Arc<Store>, Fault> {
        let (bytes, pace) = (Arc::new(AtomicU64::new(0)), Arc::new(Pace::default()));
        let file = DatabaseFile {
            file,
            bytes: Arc::clone(&bytes),
            pace: Arc::clone(&pace),
            _disk: Arc::clone(&self.disk),
        };
        file.len().map_err(|error| self.fault("read", name, error))?;
        let mut builder = redb::Builder::new();
        builder.set_cache_size(self.cache_bytes).set_check_integrity_on_open(check);
        // redb checks what it opens by assertions, in parts.
        let open = AssertUnwindSafe(|| builder.create_with_backend(file));
        let opened = std::panic::catch_unwind(open).map_err(|_| {
            let name = self.disk.describe(name);
            Fault::Damaged(format!("{name} makes no sense; `store verify` looks closer"))
        })?;
        let database = opened.map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => {
                Fault::Locked { path: self.disk.describe(name).into() }
            }
            error => Fault::Database(Arc::new(error.into())),
        })?;
        Ok(Arc::new(Store { database, bytes, pace }))
    }
}

/// How gently a file is written.
#[derive(Default)]
pub(super) struct Pace {
    unsynced: AtomicU64,
    hurry: AtomicBool,
    /// A sync has failed. The system may then take for written what is not, and tell the next sync
    /// that all is well; so none succeeds any more.
    failed: AtomicBool,
}

impl Pace {
    /// Whether to write without rest: others wait for what is being written.
    pub(super) fn hurry(&self, hurry: bool) {
        self.hurry.store(hurry, Ordering::Relaxed);
    }

    fn wrote(&self, bytes: usize, file: &dyn File) -> io::Result<()> {
        let unsynced = self.unsynced.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if unsynced < CHECKPOINT_SYNC_BYTES {
            return Ok(());
        }
        let started = Instant::now();
        self.sync(file)?;
        if !self.hurry.load(Ordering::Relaxed) {
            std::thread::sleep(started.elapsed().min(CHECKPOINT_REST_MAX));
        }
        Ok(())
    }

    fn sync(&self, file: &dyn File) -> io::Result<()> {
        self.unsynced.store(0, Ordering::Relaxed);
        if self.failed.load(Ordering::Relaxed) {
            return Err(io::Error::other("an earlier sync has failed"));
        }
        let synced = file.sync();
        if synced.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        synced
    }
}

/// A file as redb wants it. Its locks always succeed: the directory as a whole is locked, for as
/// long as any file in it is open.
struct DatabaseFile {
    file: Arc<dyn File>,
    bytes: Arc<AtomicU64>,
    pace: Arc<Pace>,
    _disk: Arc<dyn Disk>,
}

impl std::fmt::Debug for DatabaseFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseFile").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl StorageBackend for DatabaseFile {
    fn len(&self) -> io::Result<u64> {
        let bytes = self.file.size()?;
        self.bytes.store(bytes, Ordering::Relaxed);
        Ok(bytes)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.file.read_at(offset, out)? < out.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_size(bytes)?;
        self.bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.pace.sync(&*self.file)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, data)?;
        self.pace.wrote(data.len(), &*self.file)
    }

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn try_lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn query_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(false)
    }
}
