//! The record: the unit of the log, and the only thing whose bytes mean something.
//!
//! ```text
//!  0        4        8        12       16   17   18       24        32        40
//!  ┌────────┬────────┬────────┬────────┬────┬────┬────────┬─────────┬─────────┬──── ─ ─ ┐
//!  │ crc    │ prev   │ length │ batch  │kind│tag │ zero   │ term    │ index   │ body … 0 │
//!  └────────┴────────┴────────┴────────┴────┴────┴────────┴─────────┴─────────┴──── ─ ─ ┘
//! ```
//!
//! All integers are little-endian; a record is padded with zeros to a multiple of 8 bytes.
//! Three fields do the work of recovery:
//!
//! - `crc` covers everything after itself, padding included, and starts from the segment's own seed, so bytes that a
//!   recycled file still holds from its earlier life never verify, whatever they say.
//! - `prev` is the `crc` of the record before. It makes the log one chain: a record that was lost,
//!   doubled or moved breaks the link although it is sound in itself.
//! - `batch` is the offset, in units of 8 bytes, at which the write that carried this record began.
//!   One write is in flight at a time and the next starts only after `fdatasync`, so everything
//!   before a record's batch was durable before the record was written. That tells a torn write,
//!   whose sectors may arrive in any order, from damage to what had been acknowledged.
//!
//! Nothing here touches a file.

use super::{Entry, LogId, State, Vote};
use bytes::Bytes;

/// Bytes before the body.
pub const HEADER: usize = 40;
/// Records start at multiples of this.
pub const ALIGN: usize = 8;
/// A body longer than this is refused before it is written, and damage when it is read.
pub const MAX_BODY: usize = 32 << 20;

const CHECKPOINT_BODY: usize = 4 * 24;

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The whole state before this point; opens each segment, so that any prefix can be dropped.
    Checkpoint(State),
    /// The node's vote, replacing the one before.
    Vote(Vote),
    /// One entry, at the index right after the last one.
    Entry(Entry),
    /// Entries at `since` and after are gone; `last` is what remains.
    Truncate { since: u64, last: Option<LogId> },
    /// Entries up to this one, inclusive, are covered by the state machine's checkpoint.
    Purge(LogId),
    /// Everything up to here was committed: a hint that shortens recovery, never relied on.
    Committed(LogId),
}

/// The fixed part of a record as found in a file, before anything about it is believed.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub crc: u32,
    pub prev: u32,
    pub length: usize,
    /// Offset in bytes of the write that carried the record.
    pub batch: u64,
    kind: u8,
    tag: u8,
    term: u64,
    index: u64,
}

const CHECKPOINT: u8 = 1;
const VOTE: u8 = 2;
const ENTRY: u8 = 3;
const TRUNCATE: u8 = 4;
const PURGE: u8 = 5;
const COMMITTED: u8 = 6;

/// Bytes that a record with a body of `length` takes in the segment.
pub const fn span(length: usize) -> usize {
    (HEADER + length).next_multiple_of(ALIGN)
}

impl Record {
    /// Bytes this record takes in the segment.
    pub fn span(&self) -> usize {
        span(match self {
            Self::Entry(entry) => entry.body.len(),
            Self::Checkpoint(_) => CHECKPOINT_BODY,
            _ => 0,
        })
    }

    /// Appends the record to `out` and returns its checksum, the next record's `prev`.
    pub fn encode(&self, out: &mut Vec<u8>, seed: u32, prev: u32, batch: u64) -> u32 {
        let start = out.len();
        let (kind, tag, term, index) = self.fixed();
        let unit = u32::try_from(batch / ALIGN as u64).expect("segments are far below 32 GiB");
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&prev.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&unit.to_le_bytes());
        out.extend_from_slice(&[kind, tag, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&term.to_le_bytes());
        out.extend_from_slice(&index.to_le_bytes());
        match self {
            Self::Entry(entry) => out.extend_from_slice(&entry.body),
            Self::Checkpoint(state) => encode_state(state, out),
            _ => {}
        }
        let length = out.len() - start - HEADER;
        assert!(length <= MAX_BODY, "a body of {length} bytes passed the check at submission");
        let length = u32::try_from(length).expect("bounded by MAX_BODY");
        out[start + 8..start + 12].copy_from_slice(&length.to_le_bytes());
        out.resize(start + (out.len() - start).next_multiple_of(ALIGN), 0);
        let crc = checksum(seed, &out[start + 4..]);
        out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    fn fixed(&self) -> (u8, u8, u64, u64) {
        match self {
            Self::Checkpoint(_) => (CHECKPOINT, 0, 0, 0),
            Self::Vote(vote) => (VOTE, u8::from(vote.committed), vote.term, vote.node),
            Self::Entry(entry) => (ENTRY, entry.tag, entry.id.term, entry.id.index),
            Self::Truncate { since, last } => {
                (TRUNCATE, u8::from(last.is_some()), last.map_or(0, |last| last.term), *since)
            }
            Self::Purge(id) => (PURGE, 0, id.term, id.index),
            Self::Committed(id) => (COMMITTED, 0, id.term, id.index),
        }
    }
}

impl Header {
    /// Reads the fixed part, or nothing where these bytes cannot be one (too few, or a kind,
    /// length or padding that no version wrote). Says nothing about the checksum.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER)?;
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let length = word(8) as usize;
        let kind = bytes[16];
        let fits = match kind {
            ENTRY => length <= MAX_BODY,
            CHECKPOINT => length == CHECKPOINT_BODY,
            VOTE | TRUNCATE | PURGE | COMMITTED => length == 0,
            _ => false,
        };
        if !fits || bytes[18..24] != [0; 6] {
            return None;
        }
        Some(Self {
            crc: word(0),
            prev: word(4),
            length,
            batch: u64::from(word(12)) * ALIGN as u64,
            kind,
            tag: bytes[17],
            term: long(24),
            index: long(32),
        })
    }

    /// Bytes of the whole record.
    pub const fn span(&self) -> usize {
        span(self.length)
    }

    /// Whether `bytes`, which start at this header, carry the checksum that it claims.
    pub fn verifies(&self, bytes: &[u8], seed: u32) -> bool {
        bytes.get(4..self.span()).is_some_and(|covered| checksum(seed, covered) == self.crc)
    }

    /// The record, from bytes whose checksum holds. `None` is a record that no version wrote.
    pub fn decode(&self, bytes: &[u8]) -> Option<Record> {
        let body = bytes.get(HEADER..HEADER + self.length)?;
        let id = LogId { term: self.term, index: self.index };
        Some(match (self.kind, self.tag) {
            (CHECKPOINT, 0) => Record::Checkpoint(decode_state(body)?),
            (VOTE, flag @ (0 | 1)) => {
                Record::Vote(Vote { term: self.term, node: self.index, committed: flag == 1 })
            }
            (ENTRY, tag) => Record::Entry(Entry { id, tag, body: Bytes::copy_from_slice(body) }),
            (TRUNCATE, 0) if self.term == 0 => Record::Truncate { since: self.index, last: None },
            (TRUNCATE, 1) => {
                let index = self.index.checked_sub(1)?;
                Record::Truncate { since: self.index, last: Some(LogId { term: self.term, index }) }
            }
            (PURGE, 0) => Record::Purge(id),
            (COMMITTED, 0) => Record::Committed(id),
            _ => return None,
        })
    }
}

/// CRC-32 of the covered bytes, started from the segment's seed.
fn checksum(seed: u32, covered: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(covered);
    hasher.finalize()
}

/// Four slots of {flag, 7 zeros | a | b}: vote, purged, last, committed.
fn encode_state(state: &State, out: &mut Vec<u8>) {
    let mut slot = |value: Option<(u8, u64, u64)>| {
        let (flag, a, b) = value.unwrap_or((0, 0, 0));
        out.extend_from_slice(&u64::from(flag).to_le_bytes());
        out.extend_from_slice(&a.to_le_bytes());
        out.extend_from_slice(&b.to_le_bytes());
    };
    slot(state.vote.map(|vote| (1 + u8::from(vote.committed), vote.term, vote.node)));
    for id in [state.purged, state.last, state.committed] {
        slot(id.map(|id| (1, id.term, id.index)));
    }
}

fn decode_state(body: &[u8]) -> Option<State> {
    let slot = |nth: usize| {
        let long = |at: usize| {
            u64::from_le_bytes(body[nth * 24 + at..][..8].try_into().expect("length was checked"))
        };
        (long(0), long(8), long(16))
    };
    let id = |nth: usize| match slot(nth) {
        (0, 0, 0) => Some(None),
        (1, term, index) => Some(Some(LogId { term, index })),
        _ => None,
    };
    let vote = match slot(0) {
        (0, 0, 0) => None,
        (flag @ (1 | 2), term, node) => Some(Vote { term, node, committed: flag == 2 }),
        _ => return None,
    };
    Some(State { vote, purged: id(1)?, last: id(2)?, committed: id(3)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Record> {
        let id = |term, index| LogId { term, index };
        vec![
            Record::Checkpoint(State::default()),
            Record::Checkpoint(State {
                vote: Some(Vote { term: 3, node: 9, committed: true }),
                purged: Some(id(1, 4)),
                last: Some(id(2, 7)),
                committed: Some(id(2, 6)),
            }),
            Record::Vote(Vote { term: 1, node: 2, committed: false }),
            Record::Entry(Entry { id: id(2, 0), tag: 1, body: Bytes::from_static(b"hello") }),
            Record::Truncate { since: 0, last: None },
            Record::Truncate { since: 6, last: Some(id(1, 5)) },
            Record::Purge(id(2, 6)),
            Record::Committed(id(2, 7)),
        ]
    }

    /// Goal: what is written is what is read, for every kind.
    #[test]
    fn every_kind_survives_encoding() {
        for record in samples() {
            let mut bytes = Vec::new();
            let crc = record.encode(&mut bytes, 7, 99, 4096);
            assert_eq!(bytes.len(), record.span());
            let header = Header::parse(&bytes).expect("own header");
            assert_eq!((header.crc, header.prev, header.batch), (crc, 99, 4096));
            assert!(header.verifies(&bytes, 7) && !header.verifies(&bytes, 8));
            assert_eq!(header.decode(&bytes), Some(record));
        }
    }

    /// Goal: the bytes on disk do not change unnoticed; a change needs a new format version.
    #[test]
    fn golden_bytes() {
        let mut bytes = Vec::new();
        let entry =
            Entry { id: LogId { term: 2, index: 5 }, tag: 1, body: Bytes::from_static(b"put") };
        Record::Entry(entry).encode(&mut bytes, 0x1234_5678, 0xAABB_CCDD, 4096);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            &hex[8..],
            concat!(
                "ddccbbaa",
                "03000000",
                "00020000",
                "0301000000000000",
                "0200000000000000",
                "0500000000000000",
                "7075740000000000"
            )
        );
        assert_eq!(&hex[..8], GOLDEN_CRC);
    }

    const GOLDEN_CRC: &str = "8d8aac1a";

    /// Goal: every single flipped bit of the covered bytes is noticed.
    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut bytes = Vec::new();
        Record::Vote(Vote { term: 1, node: 2, committed: true }).encode(&mut bytes, 7, 1, 64);
        for bit in 0..HEADER * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let sound = Header::parse(&damaged)
                .is_some_and(|header| header.span() <= 4096 && header.verifies(&damaged, 7));
            assert!(!sound, "bit {bit}");
        }
    }
}
