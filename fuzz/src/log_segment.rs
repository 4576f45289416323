//! The decoder of the write-ahead log: records and segments. The commands inside of entries are
//! [`crate::codec`]'s.
//!
//! A valid segment is written, damaged in one place, and read. What must come out depends on where
//! the damage is: inside the last write it may be a torn tail and must be cut, before the last
//! write it must be refused; either way exactly the records in front of it are delivered. The
//! source that the scanner reads from fails the run when more is asked for than there is, which is
//! how an allocation after a damaged length would show.

use crate::Random;
use crate::draw::Draw;
use std::io;
use store::command;
use store::wal::record::{ALIGN, Header, MAX_BODY, Record};
use store::wal::segment::{START, SegmentHeader, Source, Tail, scan};
use store::wal::{Entry, LogId, State, Vote, dump};

const HEADER: SegmentHeader =
    SegmentHeader { number: 4, first: 10, seed: 0xFEED_5EED, link: 0x1234, cluster: 5, node: 6 };

/// Bytes that refuse to be asked for more than they are.
struct Bounded<'a>(&'a [u8]);

impl Source for Bounded<'_> {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn fetch(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        assert!(length <= self.0.len().max(64 << 10), "asked for {length} bytes at {offset}");
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let rest = &self.0[start..];
        Ok(&rest[..length.min(rest.len())])
    }
}

/// A segment as it was written.
struct Written {
    bytes: Vec<u8>,
    /// Each record with its place.
    records: Vec<(usize, Record)>,
    /// For each record, where the write that carried it began.
    batches: Vec<usize>,
    /// Where the records end.
    end: usize,
}

/// Anything at all, as a segment and as a record: no panic, no unbounded work.
pub fn bytes(data: &[u8]) {
    let header = SegmentHeader::decode(data).unwrap_or(HEADER);
    for last in [true, false] {
        scan(&mut Bounded(data), &header, last, |_, _| Ok(())).expect("memory does not fail");
    }
    dump::segment(&mut Bounded(data), |_| {}).expect("memory does not fail");
    if let Some(header) = Header::parse(data) {
        assert!(header.length <= MAX_BODY);
        header.decode(data);
    }
}

/// A valid segment with one damage, judged by where that is.
pub fn seed(seed: u64) {
    let mut random = Random::new(seed);
    let written = write(&mut random);
    let whole = read(&written.bytes);
    assert_eq!(whole.0.len(), written.records.len(), "seed {seed}: not all is read");
    assert_eq!((whole.1, &whole.2), (written.end, &Tail::Clean), "seed {seed}");

    let mut damaged = written.bytes.clone();
    let touched = damage(&mut damaged, &written, &mut random);
    bytes(&damaged);
    let Some((first, copied)) = touched else { return };
    let (found, end, tail) = read(&damaged);

    // Exactly what stands in front of the damage.
    let sound = written.records.iter().take_while(|(at, record)| at + record.span() <= first);
    let sound: Vec<_> = sound.cloned().collect();
    assert_eq!(found, sound, "seed {seed}: damage at {first}");
    let place = sound.last().map_or_else(start, |(at, record)| at + record.span());
    assert_eq!(end, place, "seed {seed}: damage at {first}");
    // What proves that the place had been durable: a record of a later write, left whole.
    let proof = written.records.iter().zip(&written.batches).any(|((at, record), batch)| {
        let span = *at..at + record.span();
        *batch > place && damaged[span.clone()] == written.bytes[span]
    });
    let refused = matches!(tail, Tail::Damaged { .. });
    // A sound record that was copied here from a later write proves as much.
    let right = refused == proof || (refused && copied);
    assert!(right, "seed {seed}: damage at {first} is judged as {tail:?}");
}

/// A short one of anything at all.
pub fn seed_bytes(seed: u64) {
    let mut random = Random::new(seed);
    let byte = |random: &mut Random| u8::try_from(random.below(256)).expect("below 256");
    let data: Vec<u8> = (0..random.below(600)).map(|_| byte(&mut random)).collect();
    bytes(&data);
}

fn start() -> usize {
    usize::try_from(START).expect("64")
}

fn read(bytes: &[u8]) -> (Vec<(usize, Record)>, usize, Tail) {
    let mut found = Vec::new();
    let end = scan(&mut Bounded(bytes), &HEADER, true, |offset, record| {
        found.push((usize::try_from(offset).expect("small"), record));
        Ok(())
    })
    .expect("memory does not fail");
    (found, usize::try_from(end.offset).expect("small"), end.tail)
}

fn write(random: &mut Random) -> Written {
    let mut bytes = HEADER.encode().to_vec();
    let (mut crc, mut records, mut batches) = (HEADER.link, Vec::new(), Vec::new());
    for write in 0..=random.below(6) {
        let batch = bytes.len();
        for _ in 0..=random.below(4) {
            let opening = write == 0 && records.is_empty();
            let record =
                if opening { Record::Checkpoint(State::default()) } else { record(random) };
            let at = bytes.len();
            crc = record.encode(&mut bytes, HEADER.seed, crc, batch as u64);
            records.push((at, record));
            batches.push(batch);
        }
    }
    let end = bytes.len();
    // Behind it lies what a recycled file holds: zeros, or records of another life.
    let rest = random.below(4) * 512;
    if random.below(2) == 0 {
        let from = bytes.len();
        while bytes.len() < from + rest {
            let batch = bytes.len() as u64;
            crc = record(random).encode(&mut bytes, HEADER.seed ^ 1, crc, batch);
        }
    } else {
        bytes.resize(bytes.len() + rest, 0);
    }
    Written { bytes, records, batches, end }
}

fn record(random: &mut Random) -> Record {
    let id = LogId { term: random.below(9) as u64, index: random.below(1 << 20) as u64 };
    match random.below(8) {
        0 => Record::Vote(Vote { term: id.term, node: id.index, committed: random.below(2) == 0 }),
        1 => Record::Purge(id),
        2 => Record::Committed(id),
        3 => Record::Truncate { since: 0, last: None },
        4 => Record::Truncate {
            since: id.index + 1,
            last: Some(LogId { term: id.term, index: id.index }),
        },
        _ => {
            let body: Vec<u8> = match random.below(3) {
                0 => Vec::new(),
                1 => command::encode(&[Draw::odd(random.below(1 << 30) as u64).any()]),
                // A value may hold anything, even a record that claims to be of a later write.
                _ => {
                    let mut inner = vec![0; random.below(8) * ALIGN];
                    Record::Purge(id).encode(
                        &mut inner,
                        u32::try_from(random.below(9)).expect("small"),
                        0,
                        1 << 20,
                    );
                    inner
                }
            };
            Record::Entry(Entry { id, tag: 1, body: body.into() })
        }
    }
}

/// Does one damage behind the segment's header and returns where the first changed byte is, and
/// whether bytes of another place stand there now.
fn damage(bytes: &mut Vec<u8>, written: &Written, random: &mut Random) -> Option<(usize, bool)> {
    let used = written.end;
    let at = start() + random.below(used - start());
    let kind = random.below(5);
    match kind {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at..used.min(at + 512)].fill(0),
        2 => {
            let sector = at / 512 * 512;
            let from = sector.max(start());
            bytes[from..used.min(sector + 512)].fill(0);
        }
        3 => {
            let length = (1 + random.below(64)).min(used - at);
            let from = start() + random.below(used - start() - length + 1);
            bytes.copy_within(from..from + length, at);
        }
        _ => {
            // The file ends early: whether records are missing is for the next segment to say.
            bytes.truncate(at);
            let found = read(bytes);
            assert!(!matches!(found.2, Tail::Damaged { .. }), "a shorter file is not damage");
            return None;
        }
    }
    let first = (0..used).find(|at| bytes[*at] != written.bytes[*at])?;
    Some((first, kind == 3))
}
