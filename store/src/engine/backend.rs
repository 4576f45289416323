//! Where the database lives: a locked directory, or any backend that redb can use.
//!
//! The seam is redb's own `StorageBackend`. Tests and simulations bring memory, or a disk that
//! loses what was not synced; production brings a directory.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use redb::{BackendError, Database, StorageBackend, backends::FileBackend};

use super::meta::{self, FORMAT, Identity};
use crate::fault::Fault;

type BackendIoError = std::io::Error;

/// Where the database lives.
#[derive(Debug)]
pub enum Storage {
    /// A directory of its own, made if need be, used by one process at a time.
    Directory(PathBuf),
    Backend(Box<dyn StorageBackend>),
}

impl Storage {
    /// Nothing on disk: for tests.
    #[must_use]
    pub fn memory() -> Self {
        Self::Backend(Box::new(redb::backends::InMemoryBackend::new()))
    }
}

/// An open database, and what must be kept with it.
pub(super) struct Opened {
    pub(super) database: Database,
    /// The length of the file.
    pub(super) bytes: Arc<AtomicU64>,
    /// Holds the directory's lock for as long as it is open.
    pub(super) lock: Option<File>,
}

const DATABASE: &str = "state.redb";
const LOCK: &str = "LOCK";

pub(super) fn open(
    storage: Storage,
    cache_bytes: usize,
    identity: Identity,
) -> Result<Opened, Fault> {
    let (path, lock, backend): (PathBuf, _, Box<dyn StorageBackend>) = match storage {
        Storage::Directory(directory) => {
            let lock = lock(&directory)?;
            let path = directory.join(DATABASE);
            let backend = Box::new(open_file(&directory, &path)?);
            (path, Some(lock), backend)
        }
        Storage::Backend(backend) => ("(backend)".into(), None, backend),
    };
    let bytes = Arc::new(AtomicU64::new(0));
    let metered = Metered { inner: backend, bytes: bytes.clone() };
    metered.len().map_err(|error| Fault::io(format!("read {}", path.display()), error))?;
    let database = redb::Builder::new()
        .set_cache_size(cache_bytes)
        .create_with_backend(metered)
        .map_err(|error| database_fault(&path, error))?;
    match meta::format(&database)? {
        None => meta::initialise(&database, identity)?,
        Some(FORMAT) => {}
        Some(found) => return Err(Fault::NewerFormat { path, found, known: FORMAT }),
    }
    Ok(Opened { database, bytes, lock })
}

fn lock(directory: &Path) -> Result<File, Fault> {
    make_directory(directory)
        .map_err(|error| Fault::io(format!("make {}", directory.display()), error))?;
    let path = directory.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| Fault::io(format!("open {}", path.display()), error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Fault::Locked { path: directory.into() }),
        Err(TryLockError::Error(error)) => {
            Err(Fault::io(format!("lock {}", path.display()), error))
        }
    }
}

/// For the owner's eyes only: what is stored may be secret.
fn make_directory(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn open_file(directory: &Path, path: &Path) -> Result<FileBackend, Fault> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let open = || {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        // A new file's name must survive a power cut as its contents do.
        File::open(directory)?.sync_all()?;
        Ok(file)
    };
    let file = open().map_err(|error| Fault::io(format!("open {}", path.display()), error))?;
    FileBackend::new(file).map_err(|error| database_fault(path, error))
}

fn database_fault(path: &Path, error: redb::DatabaseError) -> Fault {
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => Fault::Locked { path: path.into() },
        error => Fault::Database(Arc::new(error.into())),
    }
}

/// Keeps account of the file's length; everything else passes through.
#[derive(Debug)]
struct Metered {
    inner: Box<dyn StorageBackend>,
    bytes: Arc<AtomicU64>,
}

impl StorageBackend for Metered {
    fn len(&self) -> Result<u64, BackendIoError> {
        let bytes = self.inner.len()?;
        self.bytes.store(bytes, Ordering::Relaxed);
        Ok(bytes)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BackendIoError> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, bytes: u64) -> Result<(), BackendIoError> {
        self.inner.set_len(bytes)?;
        self.bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), BackendIoError> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BackendIoError> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> Result<(), BackendIoError> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
