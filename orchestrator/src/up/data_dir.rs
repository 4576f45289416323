//! The data directory: one process at a time, and never one of a later version.
//!
//! `lock` is locked by the process that uses the directory and holds its number; the lock goes with the
//! process, however it ends. `format` says how the rest is laid out. A directory that holds files but no
//! `format` is not ours: it is neither written to nor, by `down --purge`, removed.

use std::fs;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The layout this version writes and reads.
const FORMAT: u32 = 1;
const FORMAT_PREFIX: &str = "orchestrator data ";

/// How long a process is given to let go after it was asked to.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(60);
const RELEASE_POLL: Duration = Duration::from_millis(20);

/// Why the directory cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use data directory {}", .path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("data directory {} is in use by process {holder}; stop it, or choose another with --data-dir", .path.display())]
    InUse { path: PathBuf, holder: String },
    #[error("data directory {} was written by a later version (layout {found}, this one knows {FORMAT}); use that version", .path.display())]
    Future { path: PathBuf, found: u32 },
    #[error("{} holds other files and is not a data directory of orchestrator; choose another with --data-dir", .path.display())]
    Foreign { path: PathBuf },
    #[error("process {holder} does not let go of data directory {}", .path.display())]
    Stuck { path: PathBuf, holder: String },
}

/// A data directory that is ours until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: Flock<fs::File>,
}

impl DataDir {
    /// Makes the directory if it is not there, and takes it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::prepare(path)?;
        let lock =
            try_lock(path)?.map_err(|holder| Error::InUse { path: path.to_owned(), holder })?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Makes the directory if it is not there, without taking it: for what may be done beside `up`.
    pub fn prepare(path: &Path) -> Result<(), Error> {
        let at = |source| Error::File { path: path.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at)?;
        if read_format(path)?.is_some() {
            return Ok(());
        }
        if !is_fresh(path).map_err(at)? {
            return Err(Error::Foreign { path: path.to_owned() });
        }
        let text = format!("{FORMAT_PREFIX}{FORMAT}\n");
        crate::pki::write_whole(&path.join("format"), text.as_bytes(), 0o600).map_err(at)
    }

    /// Takes an existing directory from the process that uses it, by asking that process to end.
    /// `None` when there is no such directory. `asked` hears whom it waits for.
    pub fn take_over(path: &Path, mut asked: impl FnMut(&str)) -> Result<Option<Self>, Error> {
        if !path.exists() {
            return Ok(None);
        }
        if read_format(path)?.is_none() {
            return Err(Error::Foreign { path: path.to_owned() });
        }
        let mut told = None;
        let started = Instant::now();
        loop {
            let holder = match try_lock(path)? {
                Ok(lock) => return Ok(Some(Self { path: path.to_owned(), _lock: lock })),
                Err(holder) => holder,
            };
            // The number is only ever that of the process which holds the lock right now: whoever
            // takes the lock writes it first thing. Asking twice would be the second Ctrl-C.
            if told.as_ref() != Some(&holder) {
                asked(&holder);
                if let Ok(pid) = holder.parse() {
                    ask_to_end(Pid::from_raw(pid), path)?;
                }
                told = Some(holder.clone());
            }
            if started.elapsed() > RELEASE_TIMEOUT {
                return Err(Error::Stuck { path: path.to_owned(), holder });
            }
            std::thread::sleep(RELEASE_POLL);
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory and all that is in it.
    pub fn purge(self) -> Result<(), Error> {
        // The format goes last: an interrupted purge is still recognised, and can be repeated.
        let at = |source| Error::File { path: self.path.clone(), source };
        for entry in fs::read_dir(&self.path).map_err(at)? {
            let entry = entry.map_err(at)?;
            if entry.file_name() == "format" {
                continue;
            }
            let is_dir = entry.file_type().map_err(at)?.is_dir();
            let path = entry.path();
            let gone = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.map_err(|source| Error::File { path, source })?;
        }
        fs::remove_dir_all(&self.path).map_err(at)
    }
}

fn ask_to_end(pid: Pid, path: &Path) -> Result<(), Error> {
    match kill(pid, Signal::SIGTERM) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(Error::File { path: path.to_owned(), source: errno.into() }),
    }
}

/// Takes the lock, or says which process has it.
fn try_lock(path: &Path) -> Result<Result<Flock<fs::File>, String>, Error> {
    let path = path.join("lock");
    let at = |source| Error::File { path: path.clone(), source };
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = file.open(&path).map_err(at)?;
    let mut holder = String::new();
    match Flock::lock(file.try_clone().map_err(at)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            file.set_len(0).map_err(at)?;
            file.write_all(std::process::id().to_string().as_bytes()).map_err(at)?;
            Ok(Ok(lock))
        }
        Err((_, Errno::EWOULDBLOCK)) => {
            file.rewind().map_err(at)?;
            file.read_to_string(&mut holder).map_err(at)?;
            let known = !holder.is_empty() && holder.bytes().all(|byte| byte.is_ascii_digit());
            Ok(Err(if known { holder } else { "of unknown number".to_owned() }))
        }
        Err((_, errno)) => Err(at(errno.into())),
    }
}

/// The layout's number; `None` when the directory does not say.
fn read_format(path: &Path) -> Result<Option<u32>, Error> {
    let text = match fs::read_to_string(path.join("format")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::File { path: path.to_owned(), source }),
    };
    let number = text.strip_prefix(FORMAT_PREFIX).and_then(|rest| rest.trim().parse().ok());
    match number {
        Some(found) if found > FORMAT => Err(Error::Future { path: path.to_owned(), found }),
        Some(found) => Ok(Some(found)),
        None => Err(Error::Foreign { path: path.to_owned() }),
    }
}

/// Whether nothing is in there but what a start that was cut short leaves.
fn is_fresh(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name != "lock" && !name.to_string_lossy().starts_with("format.") {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_used_once_at_a_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("data");
        let held = DataDir::open(&path).expect("it is new");
        let error = DataDir::open(&path).expect_err("it is held");
        let says = format!("is in use by process {}", std::process::id());
        assert!(error.to_string().contains(&says), "{error}");
        drop(held);
        DataDir::open(&path).expect("it is free again");
    }

    #[test]
    fn a_later_or_foreign_directory_is_refused_untouched() {
        let dir = tempfile::tempdir().expect("a directory");
        let later = dir.path().join("later");
        fs::create_dir(&later).expect("made");
        fs::write(later.join("format"), "orchestrator data 2\n").expect("written");
        let error = DataDir::open(&later).expect_err("it is from the future").to_string();
        assert!(error.contains("a later version (layout 2, this one knows 1)"), "{error}");

        let foreign = dir.path().join("foreign");
        fs::create_dir(&foreign).expect("made");
        fs::write(foreign.join("thesis.tex"), "years of work").expect("written");
        let error = DataDir::open(&foreign).expect_err("it is somebody's").to_string();
        assert!(error.contains("holds other files"), "{error}");
        assert!(matches!(DataDir::take_over(&foreign, |_| {}), Err(Error::Foreign { .. })));
        for path in [later, foreign] {
            assert_eq!(fs::read_dir(path).expect("there").count(), 1, "nothing was written");
        }
    }

    /// Goal: `down` asks the process that holds the directory to end, once, and goes on when it did.
    #[test]
    fn a_running_process_is_asked_to_let_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("data");
        drop(DataDir::open(&path).expect("it is new"));
        // `flock` of util-linux stands for `up`: it holds the lock until it is told to end.
        let mut holder = std::process::Command::new("flock")
            .arg("--no-fork")
            .arg(path.join("lock"))
            .args(["sleep", "600"])
            .spawn()
            .expect("util-linux is there");
        while try_lock(&path).expect("readable").is_ok() {
            std::thread::sleep(RELEASE_POLL);
        }
        fs::write(path.join("lock"), holder.id().to_string()).expect("written");
        let mut asked = Vec::new();
        let taken = DataDir::take_over(&path, |pid| asked.push(pid.to_owned()));
        taken.expect("it let go").expect("it is there").purge().expect("removed");
        assert_eq!(asked, [holder.id().to_string()]);
        assert!(!holder.wait().expect("our child").success(), "it was ended by a signal");
        assert!(!path.exists());
        assert!(DataDir::take_over(&path, |_| {}).expect("nothing there").is_none());
    }
}
