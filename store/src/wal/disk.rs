//! The seam below the log and the database: a directory of flat files.
//!
//! They ask little of a disk: create, open, rename, remove, list, make the directory durable; and
//! of a file: its length, read, write, sync. Three implementations exist: real files here;
//! [`super::memory`], which models what a power cut may do to writes that were not yet synced and
//! injects errors; and [`super::volatile`], for stores that keep nothing. Offsets are absolute, so no file has a position that two users could disturb.
//!
//! `sync` is `fdatasync`: the log reads back only data and length, and the length changes rarely
//! (segments are filled with zeros before they are used), so most syncs commit no journal entry.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// A directory of files, shared by the threads of one log.
pub trait Disk: Send + Sync + 'static {
    /// Names of all files, in ascending order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Creates a file, or empties the one that has the name.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// What to call `name` in a message.
    fn describe(&self, name: &str) -> String;
}

/// One open file.
pub trait File: Send + Sync + 'static {
    /// Length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Fills `into` from `offset`; fewer bytes only at the end of the file.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file, or grows it by zeros.
    fn set_size(&self, bytes: u64) -> io::Result<()>;
    /// Makes data and length durable. Where that fails, what was written since the last sync is
    /// lost, and the file shows it: otherwise the next process might build on what never arrived.
    fn sync(&self) -> io::Result<()>;
}

/// Real files in one directory, held by an exclusive lock for as long as this value lives.
pub struct RealDisk {
    dir: PathBuf,
    syncs: bool,
    _lock: fs::File,
}

/// A longer file is given back to the file system on a thread of its own: for a gigabyte that took
/// 0.4 s, and what a crash has left behind is removed before the first answer.
const REMOVED_HERE_BYTES_MAX: u64 = 128 << 20;

/// The name of the file that carries the lock.
const LOCK: &str = "LOCK";

impl RealDisk {
    /// Creates the directory where needed (readable by its owner only, as it holds every value)
    /// and takes its lock. `WouldBlock` means that another process has it.
    pub fn open(dir: &Path) -> io::Result<Self> {
        if !dir.exists() {
            let mut builder = fs::DirBuilder::new();
            std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700);
            builder.create(dir)?;
            if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                fs::File::open(parent)?.sync_all()?;
            }
        }
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(LOCK))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => io::Error::from(io::ErrorKind::WouldBlock),
            fs::TryLockError::Error(error) => error,
        })?;
        Ok(Self { dir: dir.to_path_buf(), syncs: true, _lock: lock })
    }

    /// The same, never waiting for the disk: `--unsafe-no-fsync`. A power cut may take anything.
    #[must_use]
    pub fn without_sync(self) -> Self {
        Self { syncs: false, ..self }
    }

    fn file(&self, file: fs::File) -> Arc<dyn File> {
        Arc::new(RealFile { file, syncs: self.syncs })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            // A name that is not UTF-8 is not ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Ok(self.file(options.open(self.path(name))?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(name))?;
        Ok(self.file(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        let file = fs::File::open(&path)?;
        fs::remove_file(path)?;
        if file.metadata()?.len() > REMOVED_HERE_BYTES_MAX {
            // The name is gone, and so is the file once nobody has it open. Where no thread is to be
            // had, that is here and now.
            drop(thread::Builder::new().name("remove".into()).spawn(move || drop(file)));
        }
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        if self.syncs { fs::File::open(&self.dir)?.sync_all() } else { Ok(()) }
    }

    fn describe(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

struct RealFile {
    file: fs::File,
    syncs: bool,
}

impl File for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < into.len() {
            match self.file.read_at(&mut into[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        if !self.syncs {
            return Ok(());
        }
        self.file.sync_data().inspect_err(|_| {
            // Linux takes the pages for written after it has reported once that they are not, and
            // would show them until the power goes. Dropped, they are read from the disk again.
            let dropped = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
            if let Err(error) = dropped {
                tracing::warn!(%error, "cannot drop what the disk has not written");
            }
        })
    }
}
