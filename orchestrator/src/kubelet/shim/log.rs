//! Container output in the format every Kubernetes log reader knows:
//!
//! ```text
//! 2026-11-24T20:26:00.123456789Z stdout F a whole line
//! 2026-11-24T20:26:00.123456789Z stderr P the first 16 KiB of a longer one
//! ```
//!
//! A file is renamed aside at 10 MiB and four older ones are kept, so that a chatty container cannot
//! fill the disk. Output that cannot be written is dropped: a full disk must not stop the container.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A line is cut into parts of at most this many bytes.
const PART_BYTES: usize = 16 << 10;
/// A log file is set aside at this size,
const FILE_BYTES_MAX: u64 = 10 << 20;
/// and this many of those are kept.
const OLD_FILES: u32 = 4;

/// Cuts a byte stream into log entries; keeps the unfinished rest.
#[derive(Debug, Default)]
pub(super) struct LineCutter {
    rest: Vec<u8>,
}

impl LineCutter {
    /// Takes more bytes and hands out every entry they complete: its text, and whether it ends a
    /// line.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut entry: impl FnMut(&[u8], bool)) {
        while !bytes.is_empty() {
            let room = PART_BYTES - self.rest.len();
            let window = &bytes[..room.min(bytes.len())];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                self.rest.extend_from_slice(&window[..end]);
                entry(&self.rest, true);
                self.rest.clear();
                bytes = &bytes[end + 1..];
                continue;
            }
            self.rest.extend_from_slice(window);
            bytes = &bytes[window.len()..];
            // A line of exactly the limit may still end with the very next byte.
            if self.rest.len() == PART_BYTES && bytes.first().is_none_or(|next| *next != b'\n') {
                entry(&self.rest, false);
                self.rest.clear();
            } else if self.rest.len() == PART_BYTES {
                entry(&self.rest, true);
                self.rest.clear();
                bytes = &bytes[1..];
            }
        }
    }

    /// The stream ended: hands out what is left, as the line it would have become.
    pub(super) fn finish(&mut self, mut entry: impl FnMut(&[u8], bool)) {
        if !self.rest.is_empty() {
            entry(&self.rest, true);
            self.rest.clear();
        }
    }
}

/// The log of one container.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    /// Writes entries already formatted by [`format_entry`].
    pub(super) fn write(&mut self, entries: &[u8]) {
        if self.bytes >= FILE_BYTES_MAX && self.rotate().is_err() {
            // The old file is still open: go on with it, and try again once it has grown more.
            self.bytes = FILE_BYTES_MAX / 2;
        }
        if self.file.write_all(entries).is_ok() {
            self.bytes += entries.len() as u64;
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let old = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..OLD_FILES).rev() {
            match std::fs::rename(old(number), old(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, old(1))?;
        *self = Self::open(&self.path)?;
        Ok(())
    }
}

/// Appends one entry in CRI format.
pub(super) fn format_entry(out: &mut Vec<u8>, time: &str, stream: &str, text: &[u8], full: bool) {
    let tag = if full { "F" } else { "P" };
    for part in [time.as_bytes(), b" ", stream.as_bytes(), b" ", tag.as_bytes(), b" ", text, b"\n"]
    {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<(usize, bool)> {
        let mut cutter = LineCutter::default();
        let mut entries = Vec::new();
        for chunk in chunks {
            cutter.push(chunk, |text, full| entries.push((text.len(), full)));
        }
        cutter.finish(|text, full| entries.push((text.len(), full)));
        entries
    }

    #[test]
    fn lines_are_cut_wherever_reads_end() {
        assert_eq!(
            cut(&[b"ab\ncd", b"e\n", b"\n", b"f"]),
            [(2, true), (3, true), (0, true), (1, true)]
        );
        assert_eq!(cut(&[b""]), []);
    }

    #[test]
    fn long_lines_become_partial_entries() {
        let long = vec![b'x'; PART_BYTES * 2 + 5];
        assert_eq!(cut(&[&long, b"\n"]), [(PART_BYTES, false), (PART_BYTES, false), (5, true)]);
        let mut exact = vec![b'x'; PART_BYTES];
        exact.extend_from_slice(b"\ny\n");
        assert_eq!(cut(&[&exact]), [(PART_BYTES, true), (1, true)]);
    }

    #[test]
    fn a_full_file_is_set_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path).expect("opens");
        for _ in 0..6 {
            log.bytes = FILE_BYTES_MAX;
            log.write(b"entry\n");
        }
        let mut names: Vec<String> = std::fs::read_dir(dir.path())
            .expect("lists")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.1", "0.log.2", "0.log.3", "0.log.4"]);
    }
}
