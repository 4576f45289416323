//! etcd's own write-ahead log, read as far as one question needs: does its database hold all of it?
//!
//! etcd applies its log to the database in memory and commits now and then, so the database of a
//! process that was killed lacks what was acknowledged last. Only etcd itself can apply that rest.
//! So before a data directory is taken, its log is read: entries beyond the database's index that
//! change something mean that it was not stopped cleanly.
//!
//! ```text
//!  frame   length i64 LE (56 bits; above them the padding, if negative) · record · padding to 8
//!  record  type · CRC-32C over the data of all records so far · data
//! ```
//!
//! A zero length is preallocated space: the file ends there. What breaks off at the very end is a
//! write that was never acknowledged; anything else that does not add up is damage.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufReader, Read as _},
    path::{Path, PathBuf},
};

use super::wire::{Fields, Malformed};
use crate::limits::ETCD_RECORD_BYTES_MAX;

const METADATA: u64 = 1;
const ENTRY: u64 = 2;
const STATE: u64 = 3;
const CRC: u64 = 4;
const SNAPSHOT: u64 = 5;
/// The kind of an entry that carries requests; others change the membership.
const NORMAL: u64 = 0;

/// Why etcd's log cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("cannot read {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is damaged at offset {offset}: {what}")]
    Damaged { path: PathBuf, offset: u64, what: &'static str },
    #[error("{path} holds no log of etcd's")]
    Missing { path: PathBuf },
}

/// What the log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSummary {
    pub node: u64,
    pub cluster: u64,
    /// The last entry known to be committed.
    pub commit: u64,
    /// The last entry.
    pub last: u64,
    /// The first entry after the asked index that would change something.
    pub unapplied: Option<u64>,
}

/// Reads the log in a directory; `applied` is the last entry that the database holds.
pub fn read(directory: &Path, applied: u64) -> Result<LogSummary, LogError> {
    let fail = |source| LogError::Io { path: directory.into(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.extension().is_some_and(|extension| extension == "wal") {
            files.push(path);
        }
    }
    // Named after their sequence and first index, in hexadecimal of fixed width.
    files.sort_unstable();
    if files.is_empty() {
        return Err(LogError::Missing { path: directory.into() });
    }
    let mut log = Log { applied, ..Log::default() };
    for (nth, path) in files.iter().enumerate() {
        log.file(path, nth + 1 == files.len())?;
    }
    log.summary.unapplied = log.changing.first().copied();
    Ok(log.summary)
}

#[derive(Default)]
struct Log {
    applied: u64,
    crc: u32,
    summary: LogSummary,
    /// Entries beyond the applied one that change something.
    changing: BTreeSet<u64>,
}

/// How reading a frame ended.
enum Frame {
    Record(Vec<u8>),
    /// Preallocated space, or the end of the file.
    End,
    /// It breaks off.
    Torn,
}

impl Log {
    fn file(&mut self, path: &Path, is_last: bool) -> Result<(), LogError> {
        let fail = |source| LogError::Io { path: path.into(), source };
        let file = File::open(path).map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        let (mut reader, mut offset) = (BufReader::new(file), 0);
        loop {
            let damaged = |what| Err(LogError::Damaged { path: path.into(), offset, what });
            let (frame, length) = frame(&mut reader, size - offset).map_err(fail)?;
            let record = match frame {
                Frame::Record(record) => record,
                Frame::End => return Ok(()),
                Frame::Torn if is_last => return Ok(()),
                Frame::Torn => return damaged("a record breaks off"),
            };
            match self.record(&record) {
                Ok(true) => offset += length,
                // Sectors that never arrived are zeros; then the record was never acknowledged.
                Ok(false) | Err(Malformed) if is_last && has_hole(&record) => return Ok(()),
                Ok(false) => return damaged("a checksum does not hold"),
                Err(Malformed) => return damaged("a record makes no sense"),
            }
        }
    }

    /// Takes a record; false if its checksum does not hold.
    fn record(&mut self, record: &[u8]) -> Result<bool, Malformed> {
        let (mut kind, mut crc, mut data) = (0, 0, &[][..]);
        for field in Fields(record) {
            match field? {
                (1, value) => kind = value.number()?,
                (2, value) => crc = value.number()?,
                (3, value) => data = value.bytes()?,
                _ => {}
            }
        }
        let crc = u32::try_from(crc).map_err(|_| Malformed)?;
        if kind == CRC {
            // Opens each file: where the one before stood.
            let continues = self.crc == 0 || self.crc == crc;
            self.crc = crc;
            return Ok(continues);
        }
        self.crc = crc32c::crc32c_append(self.crc, data);
        if self.crc != crc {
            return Ok(false);
        }
        match kind {
            METADATA => self.metadata(data)?,
            ENTRY => self.entry(data)?,
            STATE => self.state(data)?,
            SNAPSHOT => {}
            _ => return Err(Malformed),
        }
        Ok(true)
    }

    fn metadata(&mut self, data: &[u8]) -> Result<(), Malformed> {
        for field in Fields(data) {
            match field? {
                (1, value) => self.summary.node = value.number()?,
                (2, value) => self.summary.cluster = value.number()?,
                _ => {}
            }
        }
        Ok(())
    }

    fn state(&mut self, data: &[u8]) -> Result<(), Malformed> {
        for field in Fields(data) {
            if let (3, value) = field? {
                self.summary.commit = value.number()?;
            }
        }
        Ok(())
    }

    /// An entry replaces what stood at its index, and all after it.
    fn entry(&mut self, data: &[u8]) -> Result<(), Malformed> {
        let (mut kind, mut index, mut is_empty) = (NORMAL, 0, true);
        for field in Fields(data) {
            match field? {
                (1, value) => kind = value.number()?,
                (3, value) => index = value.number()?,
                (4, value) => is_empty = value.bytes()?.is_empty(),
                _ => {}
            }
        }
        drop(self.changing.split_off(&index));
        self.summary.last = index;
        if index > self.applied && (kind != NORMAL || !is_empty) {
            self.changing.insert(index);
        }
        Ok(())
    }
}

/// Reads the next frame, and says how long it is.
fn frame(reader: &mut impl io::Read, left: u64) -> io::Result<(Frame, u64)> {
    let mut length = [0; 8];
    if left < 8 {
        return Ok((Frame::End, 0));
    }
    reader.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length == 0 {
        return Ok((Frame::End, 0));
    }
    let padding = if length >> 63 == 1 { (length >> 56) & 7 } else { 0 };
    let bytes = length & ((1 << 56) - 1);
    let whole = bytes + padding;
    if whole > left - 8 || whole > ETCD_RECORD_BYTES_MAX {
        return Ok((Frame::Torn, 0));
    }
    let mut record = Vec::new();
    reader.take(bytes).read_to_end(&mut record)?;
    io::copy(&mut reader.take(padding), &mut io::sink())?;
    Ok((Frame::Record(record), 8 + whole))
}

/// Whether a run of zeros as long as half a sector is in the record: some sector of it, wherever the
/// record begins in one, or none that real data has.
fn has_hole(record: &[u8]) -> bool {
    record.chunks(256).any(|chunk| chunk.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::wire::{put_bytes, put_number};

    /// Writes records as etcd does.
    #[derive(Default)]
    struct Writer {
        bytes: Vec<u8>,
        crc: u32,
    }

    impl Writer {
        fn record(&mut self, kind: u64, data: &[u8]) {
            let mut record = Vec::new();
            put_number(&mut record, 1, kind);
            self.crc = crc32c::crc32c_append(self.crc, data);
            put_number(&mut record, 2, u64::from(self.crc));
            put_bytes(&mut record, 3, data);
            let padding = record.len().next_multiple_of(8) - record.len();
            let mut length = record.len() as u64;
            if padding != 0 {
                length |= (0x80 | padding as u64) << 56;
            }
            self.bytes.extend_from_slice(&length.to_le_bytes());
            self.bytes.extend_from_slice(&record);
            self.bytes.resize(self.bytes.len() + padding, 0);
        }

        fn entry(&mut self, kind: u64, index: u64, data: &[u8]) {
            let mut entry = Vec::new();
            put_number(&mut entry, 1, kind);
            put_number(&mut entry, 2, 7);
            put_number(&mut entry, 3, index);
            put_bytes(&mut entry, 4, data);
            self.record(ENTRY, &entry);
        }
    }

    fn log() -> Writer {
        let mut writer = Writer::default();
        writer.record(CRC, b"");
        let mut metadata = Vec::new();
        put_number(&mut metadata, 1, 0xabc);
        put_number(&mut metadata, 2, 0xdef);
        writer.record(METADATA, &metadata);
        writer.entry(1, 1, b"conf");
        writer.entry(0, 2, b"");
        writer.entry(0, 3, b"put");
        writer.entry(0, 4, b"put");
        // A new leader replaces what the old one had not committed.
        writer.entry(0, 4, b"");
        let mut state = Vec::new();
        put_number(&mut state, 3, 4);
        writer.record(STATE, &state);
        writer
    }

    fn judge(bytes: &[u8], applied: u64) -> Result<LogSummary, LogError> {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        fs::write(dir.path().join("0-0.wal"), bytes).expect("a file can be written");
        read(dir.path(), applied)
    }

    #[test]
    fn what_is_not_applied_is_found() {
        let mut bytes = log().bytes;
        bytes.resize(bytes.len() + 4096, 0);
        let expected =
            LogSummary { node: 0xabc, cluster: 0xdef, commit: 4, last: 4, unapplied: None };
        assert_eq!(judge(&bytes, 3).expect("sound"), expected, "the last entry is empty");
        assert_eq!(judge(&bytes, 2).expect("sound").unapplied, Some(3));
        assert_eq!(judge(&bytes, 0).expect("sound").unapplied, Some(1), "members change too");
    }

    #[test]
    fn every_wrong_bit_is_damage_and_every_cut_a_torn_end() {
        let bytes = log().bytes;
        for length in 0..bytes.len() {
            let cut = judge(&bytes[..length], 0).expect("what broke off was not acknowledged");
            assert!(cut.last <= 4);
        }
        let mut damaged = 0;
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            damaged += usize::from(judge(&bytes, 0).is_err());
        }
        // Lengths may look like a torn end, and padding means nothing.
        assert!(damaged * 2 > bytes.len(), "{damaged} of {} noticed", bytes.len());
    }

    #[test]
    fn a_directory_without_a_log_is_none() {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        assert!(matches!(read(dir.path(), 0), Err(LogError::Missing { .. })));
    }
}
