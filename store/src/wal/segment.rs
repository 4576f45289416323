//! The segment: one file of the log, and the verdict on how it ends.
//!
//! A segment is a 64-byte header and a chain of records. The header names the segment, the log it
//! belongs to, the seed of its checksums, and `link`: the checksum of the last record of the
//! segment before. A segment is written to a spare file, synced, and only then given its name, so
//! a file that carries a segment's name always has a sound header.
//!
//! **How a segment ends.** Reading follows the chain to the first record that does not hold. For
//! any segment but the last that place must be exactly where the next segment's `link` says the
//! chain stood; otherwise acknowledged records are gone. For the last segment two things look
//! alike: the end of what was written, perhaps with a torn write behind it, and damage in the
//! middle. The rest of the file decides. A sound record further on that belongs to a *later* write
//! than the place in question proves that the place had been durable: damage. Sound records of the
//! *same* write prove nothing, because the sectors of one write arrive in any order: a torn tail,
//! to be cut and wiped so that no leftover of it can ever continue a new chain.
//!
//! The functions here see bytes through [`Source`]; they are what the fuzz target drives.

use super::disk::File;
use super::record::{ALIGN, HEADER, Header, Record};
use std::io;
use std::sync::Arc;

/// Bytes of the segment header; the first record starts here.
pub const START: u64 = HEADER_BYTES as u64;

/// The same, as the length of an array.
pub const HEADER_BYTES: usize = 64;

const MAGIC: [u8; 8] = *b"storelog";
const VERSION: u32 = 1;

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Counts up from 1; the file is named after it.
    pub number: u64,
    /// Index of the first entry that could be in it.
    pub first: u64,
    /// Where checksums start, so that a recycled file's old records never verify.
    pub seed: u32,
    /// Checksum of the last record of the segment before.
    pub link: u32,
    /// The cluster the log belongs to.
    pub cluster: u64,
    /// The member the log belongs to.
    pub node: u64,
}

/// Why a header was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadHeader {
    /// Not ours, cut short, or damaged.
    Damaged,
    /// Written by a version of the format that this program does not know.
    Version(u32),
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.seed.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.cluster.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.node.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.link.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        let bytes = bytes.get(..HEADER_BYTES).ok_or(BadHeader::Damaged)?;
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        if bytes[..8] != MAGIC {
            return Err(BadHeader::Damaged);
        }
        // Before the checksum: another version may keep it elsewhere.
        if word(8) != VERSION {
            return Err(BadHeader::Version(word(8)));
        }
        if word(60) != crc32fast::hash(&bytes[..60]) {
            return Err(BadHeader::Damaged);
        }
        Ok(Self {
            seed: word(12),
            number: long(16),
            first: long(24),
            cluster: long(32),
            node: long(40),
            link: word(48),
        })
    }
}

/// Bytes to be scanned.
pub trait Source {
    /// How many there are.
    fn size(&self) -> u64;
    /// Up to `length` bytes at `offset`, fewer only at the end.
    fn fetch(&mut self, offset: u64, length: usize) -> io::Result<&[u8]>;
}

impl Source for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn fetch(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let start = usize::try_from(offset).map_or(self.len(), |at| at.min(self.len()));
        let end = start.saturating_add(length).min(self.len());
        Ok(&self[start..end])
    }
}

/// A file behind a window, so that recovery holds a piece of a segment and not all of it.
pub struct Window {
    file: Arc<dyn File>,
    size: u64,
    start: u64,
    bytes: Vec<u8>,
}

const WINDOW: usize = 1 << 20;

impl Window {
    pub fn new(file: Arc<dyn File>) -> io::Result<Self> {
        let size = file.size()?;
        Ok(Self { file, size, start: 0, bytes: Vec::new() })
    }
}

impl Source for Window {
    fn size(&self) -> u64 {
        self.size
    }

    fn fetch(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let available = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = length.min(available);
        let end = offset + length as u64;
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            // Never more than the file holds, so a length read from damaged bytes cannot
            // make this allocate beyond it.
            self.bytes.resize(length.max(WINDOW).min(available), 0);
            let filled = self.file.read_at(offset, &mut self.bytes)?;
            self.bytes.truncate(filled);
            self.start = offset;
        }
        let from = usize::try_from(offset - self.start).expect("inside the window");
        let until = (from + length).min(self.bytes.len());
        Ok(&self.bytes[from.min(until)..until])
    }
}

/// Where the chain ended and what lies behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Offset after the last record that holds.
    pub offset: u64,
    /// Checksum of that record.
    pub crc: u32,
    /// What the rest of the segment proves.
    pub tail: Tail,
}

/// The verdict on the bytes behind the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tail {
    /// No sound record behind: the log ends here.
    Clean,
    /// Sound records of the same write lie behind, up to this offset: a torn write.
    Torn { until: u64 },
    /// What lies here had been acknowledged.
    Damaged { reason: String },
}

/// Follows the chain and hands each record that holds, with its offset, to `each`, which may find
/// it impossible in its place. The rest of the segment is examined only when `last` is set; the
/// end of an earlier segment is judged by the `link` of the next.
pub fn scan(
    source: &mut impl Source,
    header: &SegmentHeader,
    last: bool,
    mut each: impl FnMut(u64, Record) -> Result<(), String>,
) -> io::Result<End> {
    let (mut offset, mut crc, mut batch) = (START, header.link, START);
    while let Some(found) = sound_at(source, offset, header.seed)? {
        if found.prev != crc || found.batch < batch || found.batch > offset {
            break;
        }
        let bytes = source.fetch(offset, found.span())?;
        let fault = match found.decode(bytes) {
            Some(record) => each(offset, record).err(),
            None => Some("a record of an unknown kind".to_owned()),
        };
        if let Some(reason) = fault {
            return Ok(End { offset, crc, tail: Tail::Damaged { reason } });
        }
        offset += found.span() as u64;
        (crc, batch) = (found.crc, found.batch);
    }
    let tail = if last { survey(source, offset, header.seed)? } else { Tail::Clean };
    Ok(End { offset, crc, tail })
}

/// The header of the record at `offset`, if one is there whose checksum holds.
pub(super) fn sound_at(
    source: &mut impl Source,
    offset: u64,
    seed: u32,
) -> io::Result<Option<Header>> {
    let Some(found) = Header::parse(source.fetch(offset, HEADER)?) else { return Ok(None) };
    if found.span() as u64 > source.size().saturating_sub(offset) {
        return Ok(None);
    }
    let bytes = source.fetch(offset, found.span())?;
    Ok(found.verifies(bytes, seed).then_some(found))
}

/// Looks for sound records behind `end`, where the chain stopped.
fn survey(source: &mut impl Source, end: u64, seed: u32) -> io::Result<Tail> {
    let len = source.size();
    // Each candidate costs a checksum of its claimed length. Honest files have few candidates;
    // this bounds what a hostile one can cost.
    let mut budget = 8 * len + (1 << 20);
    let (mut offset, mut until) = (end, end);
    while offset + HEADER as u64 <= len {
        let step = idle_prefix(source.fetch(offset, 64 << 10)?);
        if step > 0 {
            offset += step as u64;
            continue;
        }
        let claimed = Header::parse(source.fetch(offset, HEADER)?).map_or(0, |found| found.span());
        if claimed as u64 <= len - offset {
            budget = budget.saturating_sub(claimed as u64);
        }
        if budget == 0 {
            let reason = "too many fragments of records behind the end of the log".to_owned();
            return Ok(Tail::Damaged { reason });
        }
        match sound_at(source, offset, seed)? {
            Some(found) if found.batch > end && found.batch <= offset => {
                let reason = format!("a later write at offset {offset} is intact");
                return Ok(Tail::Damaged { reason });
            }
            Some(found) => {
                offset += found.span() as u64;
                until = offset;
            }
            None => offset += ALIGN as u64,
        }
    }
    Ok(if until > end { Tail::Torn { until } } else { Tail::Clean })
}

/// Length of the run of leading positions at which no record can start, judged by one word each.
fn idle_prefix(bytes: &[u8]) -> usize {
    let mut at = 0;
    while at + HEADER <= bytes.len() {
        let word = u64::from_le_bytes(bytes[at + 16..at + 24].try_into().expect("8 bytes"));
        if word & !0xFFFF == 0 && word & 0xFF != 0 {
            break;
        }
        at += ALIGN;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::super::{Entry, LogId, Vote};
    use super::*;
    use bytes::Bytes;

    const SEED: u32 = 0x5EED;

    fn header() -> SegmentHeader {
        SegmentHeader { number: 3, first: 8, seed: SEED, link: 77, cluster: 1, node: 2 }
    }

    /// Lays records out as `writes`, each one batch, and returns the bytes with the offset of each.
    fn segment(writes: &[usize], padding: usize) -> (Vec<u8>, Vec<u64>) {
        let mut bytes = header().encode().to_vec();
        let (mut crc, mut starts, mut index) = (header().link, Vec::new(), 8);
        for records in writes {
            let batch = bytes.len() as u64;
            for _ in 0..*records {
                starts.push(bytes.len() as u64);
                let body = Bytes::from(vec![0xAB; 100]);
                let entry = Entry { id: LogId { term: 1, index }, tag: 1, body };
                crc = Record::Entry(entry).encode(&mut bytes, SEED, crc, batch);
                index += 1;
            }
        }
        bytes.resize(bytes.len() + padding, 0);
        (bytes, starts)
    }

    fn end(bytes: &[u8]) -> (usize, End) {
        let mut count = 0;
        let end = scan(&mut &*bytes, &header(), true, |_, _| {
            count += 1;
            Ok(())
        });
        (count, end.expect("memory does not fail"))
    }

    #[test]
    fn header_survives_and_names_a_foreign_version() {
        let bytes = header().encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header()));
        let mut newer = bytes;
        newer[8] = 2;
        assert_eq!(SegmentHeader::decode(&newer), Err(BadHeader::Version(2)));
        let mut damaged = bytes;
        damaged[20] ^= 1;
        assert_eq!(SegmentHeader::decode(&damaged), Err(BadHeader::Damaged));
        assert_eq!(SegmentHeader::decode(&bytes[..63]), Err(BadHeader::Damaged));
    }

    #[test]
    fn a_whole_segment_is_clean() {
        let (bytes, _) = segment(&[1, 3, 2], 4096);
        let (count, end) = end(&bytes);
        assert_eq!((count, end.tail), (6, Tail::Clean));
        assert_eq!(end.offset, bytes.len() as u64 - 4096);
    }

    /// Goal: sectors of one write may arrive in any order; the part that arrived is cut, not
    /// taken for damage.
    #[test]
    fn a_hole_inside_the_last_write_is_a_torn_tail() {
        let (mut bytes, starts) = segment(&[1, 3], 4096);
        let hole = usize::try_from(starts[1]).expect("small");
        bytes[hole..hole + 64].fill(0);
        let (count, end) = end(&bytes);
        assert_eq!((count, end.offset), (1, starts[1]));
        assert_eq!(end.tail, Tail::Torn { until: bytes.len() as u64 - 4096 });
    }

    /// Goal: the same hole before a later write is damage, because that write began only after the
    /// earlier one was durable.
    #[test]
    fn a_hole_before_a_later_write_is_damage() {
        let (mut bytes, starts) = segment(&[1, 3, 1], 4096);
        let hole = usize::try_from(starts[2]).expect("small");
        bytes[hole + 50] ^= 1;
        let (count, end) = end(&bytes);
        assert_eq!((count, end.offset), (2, starts[2]));
        assert!(matches!(end.tail, Tail::Damaged { .. }));
    }

    #[test]
    fn records_of_an_earlier_life_are_not_seen() {
        let (old, _) = segment(&[1; 20], 0);
        let mut bytes = header().encode().to_vec();
        let vote = Vote { term: 1, node: 2, committed: false };
        Record::Vote(vote).encode(&mut bytes, SEED ^ 1, 77, START);
        let keep = bytes.len();
        bytes.extend_from_slice(&old[keep..]);
        let header = SegmentHeader { seed: SEED ^ 1, ..header() };
        let end = scan(&mut &*bytes, &header, true, |_, _| Ok(())).expect("memory");
        assert_eq!((end.offset, end.tail), (keep as u64, Tail::Clean));
    }

    #[test]
    fn a_record_impossible_in_its_place_is_damage() {
        let (bytes, starts) = segment(&[1, 1], 0);
        let end = scan(&mut &*bytes, &header(), true, |offset, _| {
            if offset == starts[1] { Err("no".to_owned()) } else { Ok(()) }
        })
        .expect("memory");
        assert_eq!((end.offset, end.tail), (starts[1], Tail::Damaged { reason: "no".to_owned() }));
    }
}
