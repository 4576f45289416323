//! Where the process's log goes: a bounded file beside the data, or standard error.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

/// The log starts anew at this size; the one before is kept as `….1`.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Logs to a file, so that the terminal stays with the person who reads it.
pub fn to_file(path: &Path, level: &str) -> anyhow::Result<()> {
    let file = BoundedFile::open(path, FILE_BYTES_MAX)
        .with_context(|| format!("cannot open log {}", path.display()))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(level)?)
        .with_ansi(false)
        .with_writer(Mutex::new(file))
        .finish();
    tracing::subscriber::set_global_default(subscriber).context("a log is set up already")
}

/// Logs to standard error.
pub fn to_stderr(level: &str) -> anyhow::Result<()> {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(level)?)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .finish();
    tracing::subscriber::set_global_default(subscriber).context("a log is set up already")
}

/// Checks `--log-level` without starting a log.
pub fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    let known = |word: &str| {
        ["error", "warn", "info", "debug", "trace", "off"]
            .contains(&word.to_ascii_lowercase().as_str())
    };
    // A bare unknown word would be taken for the name of a module, and silence everything else.
    for part in level.split(',') {
        let word = part.rsplit('=').next().unwrap_or(part).trim();
        anyhow::ensure!(
            known(word),
            "--log-level {level:?}: {word:?} is none of error, warn, info, debug, trace, off"
        );
    }
    // Consensus tells each of its steps at `info`, which nobody reads unless it was asked for.
    let quieted = format!("openraft=warn,{level}");
    let level = if level.contains("openraft") { level } else { &quieted };
    EnvFilter::try_new(level).with_context(|| format!("--log-level {level:?}"))
}

/// A file that is set aside and begun anew when it has grown enough.
struct BoundedFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
}

impl BoundedFile {
    fn open(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let file = append(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, bytes_max })
    }
}

fn append(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

impl Write for BoundedFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.bytes >= self.bytes_max {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".1");
            fs::rename(&self.path, aside)?;
            self.file = append(&self.path)?;
            self.bytes = 0;
        }
        let written = self.file.write(line)?;
        self.bytes += u64::try_from(written).expect("a line is no longer than memory");
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_is_set_aside() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let mut file = BoundedFile::open(&path, 10).expect("opened");
        for line in ["first\n", "second\n", "third\n"] {
            file.write_all(line.as_bytes()).expect("written");
        }
        assert_eq!(fs::read_to_string(&path).expect("there"), "third\n");
        let aside = fs::read_to_string(dir.path().join("log.1")).expect("there");
        assert_eq!(aside, "first\nsecond\n");
    }

    #[test]
    fn unknown_levels_are_refused() {
        for good in ["info", "warn,orchestrator::proxy=debug", "TRACE"] {
            filter(good).expect(good);
        }
        for bad in ["loud", "info,orchestrator", "orchestrator=loud", ""] {
            filter(bad).expect_err(bad);
        }
    }
}
