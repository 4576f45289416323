//! Looking at a log without changing it, and cutting a damaged one on demand.
//!
//! Opening cuts by itself only what a crash can leave: the torn end of the last write. Damage before
//! that means that acknowledged writes are unreadable, so the log refuses to open, and a person has
//! to decide. What they need to know for it is computed here: up to where the log is sound, and what
//! is behind that place. Cutting there loses exactly that.

use std::io;
use std::sync::Arc;

use super::disk::Disk;
use super::index::{Index, Segment};
use super::log::{self, Found, fault, name_of, number_of, read_segment};
use super::record::{ALIGN, Record};
use super::segment::{
    BadHeader, HEADER_BYTES, START, SegmentHeader, Source as _, Tail, Window, sound_at,
};
use super::{Config, Fault, LogId, State};

/// A log as it is.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// What the sound part adds up to.
    pub state: State,
    /// Index of the first entry that can be read.
    pub first: u64,
    /// Segments that are sound from end to end.
    pub segments: usize,
    /// The end of a write that a crash interrupted: file, offset and length. Harmless.
    pub torn: Option<(String, u64, u64)>,
    /// Why the log cannot be opened.
    pub damage: Option<Damage>,
}

/// Where a log stops making sense.
#[derive(Clone, Debug)]
pub struct Damage {
    pub fault: Fault,
    /// Names of the segments from the damaged one on, in order.
    pub files: Vec<String>,
    /// Of the first of those, what can be kept; nothing if none of it.
    pub keep: Option<u64>,
    pub lost: Lost,
}

/// What lies behind the damage and is sound in itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    pub entries: u64,
    /// The least and the greatest index among them.
    pub range: Option<(u64, u64)>,
    /// Bytes from the damage to the end of what was written.
    pub bytes: u64,
}

/// Reads a whole log, up to where it is damaged.
pub fn inspect(disk: &dyn Disk, config: &Config) -> Result<Inspection, Fault> {
    let names = disk.list().map_err(fault(disk, "list", ""))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    let mut inspection = Inspection::default();
    let mut index = Index::default();
    for (nth, number) in numbers.iter().enumerate() {
        let rest = &numbers[nth..];
        let before = index.state;
        match one(disk, config, rest, nth, &mut index) {
            Ok(torn) => {
                inspection.segments += 1;
                inspection.torn = torn.map(|(at, length)| (name_of(*number), at, length));
            }
            Err(fault @ Fault::Io { .. }) => return Err(fault),
            Err(fault) => {
                let keep = match &fault {
                    Fault::Damaged { segment, offset, .. }
                        if segment == number && *offset > START =>
                    {
                        Some(*offset)
                    }
                    _ => None,
                };
                if keep.is_none() {
                    index.state = before;
                }
                let lost = lost(disk, rest, keep).map_err(log::fault(disk, "read", ""))?;
                let files = rest.iter().map(|number| name_of(*number)).collect();
                inspection.damage = Some(Damage { fault, files, keep, lost });
                break;
            }
        }
    }
    if inspection.damage.is_none() {
        index.check_complete().map_err(|(from, until)| Fault::Incomplete { from, until })?;
    }
    inspection.state = index.state;
    inspection.first = index.first();
    Ok(inspection)
}

/// Reads the first of the numbered segments, the `nth` of all, and says where its end is torn.
fn one(
    disk: &dyn Disk,
    config: &Config,
    numbers: &[u64],
    nth: usize,
    index: &mut Index,
) -> Result<Option<(u64, u64)>, Fault> {
    let number = numbers[0];
    if let (Some(previous), true) = (index.segments.back(), nth > 0)
        && previous.number + 1 != number
    {
        return Err(Fault::Missing { file: disk.describe(&name_of(previous.number + 1)) });
    }
    let (header, file): Found = log::read_headers(disk, config, &[number])?.remove(0);
    // A next segment that cannot be read is its own damage; this one is then judged as the last.
    let next = numbers.get(1).and_then(|next| log::read_headers(disk, config, &[*next]).ok());
    let next = next.map(|mut found| found.remove(0).0).filter(|next| next.number == number + 1);
    let name = name_of(number);
    index.segments.push_back(Segment::new(number, header.seed, name.clone(), Arc::clone(&file)));
    let end = read_segment(disk, &name, &header, &file, next.as_ref(), index)?;
    Ok(match end.tail {
        Tail::Torn { until } => Some((end.offset, until - end.offset)),
        _ => None,
    })
}

/// Counts what is sound from the damage on: in the first file behind what is kept, in the others all.
fn lost(disk: &dyn Disk, numbers: &[u64], keep: Option<u64>) -> io::Result<Lost> {
    let mut lost = Lost::default();
    for (nth, number) in numbers.iter().enumerate() {
        let file = disk.open(&name_of(*number))?;
        let mut window = Window::new(file)?;
        let header = match SegmentHeader::decode(window.fetch(0, HEADER_BYTES)?) {
            Ok(header) => header,
            Err(BadHeader::Damaged | BadHeader::Version(_)) => {
                lost.bytes += window.size();
                continue;
            }
        };
        let start = if nth == 0 { keep.unwrap_or(START) } else { START };
        let (mut offset, mut end) = (start, start);
        while offset < window.size() {
            let Some(found) = sound_at(&mut window, offset, header.seed)? else {
                offset += ALIGN as u64;
                continue;
            };
            let bytes = window.fetch(offset, found.span())?;
            if let Some(Record::Entry(entry)) = found.decode(bytes) {
                let LogId { index, .. } = entry.id;
                lost.entries += 1;
                let (least, greatest) = lost.range.unwrap_or((index, index));
                lost.range = Some((least.min(index), greatest.max(index)));
            }
            offset += found.span() as u64;
            end = offset;
        }
        lost.bytes += end - start;
    }
    Ok(lost)
}

/// Cuts the log where the damage begins, for good. Whoever calls this has kept a copy.
pub fn cut(disk: &dyn Disk, damage: &Damage) -> Result<(), Fault> {
    let kept = usize::from(damage.keep.is_some());
    // From the end, so that what a crash leaves is damaged in the same place.
    for name in damage.files[kept..].iter().rev() {
        disk.remove(name).map_err(fault(disk, "remove", name))?;
    }
    disk.sync_dir().map_err(fault(disk, "sync the directory of", ""))?;
    let (Some(offset), Some(name)) = (damage.keep, damage.files.first()) else { return Ok(()) };
    let file = disk.open(name).map_err(fault(disk, "open", name))?;
    let size = file.size().map_err(fault(disk, "measure", name))?;
    log::wipe(&*file, offset, size).map_err(fault(disk, "wipe the damaged end of", name))
}

#[cfg(test)]
mod tests {
    use super::super::log::Log;
    use super::super::memory::MemoryDisk;
    use super::super::{Entry, Vote};
    use super::*;
    use bytes::Bytes;

    const CONFIG: Config = Config { segment_bytes: 8 << 10, cluster: 1, node: 2, salt: 3 };

    fn entry(index: u64) -> Record {
        let body = Bytes::from(vec![0xAB; 500]);
        Record::Entry(Entry { id: LogId { term: 1, index }, tag: 1, body })
    }

    /// Three segments of entries from 1 on.
    fn written() -> Arc<MemoryDisk> {
        let disk = Arc::new(MemoryDisk::default());
        let mut log = Log::open(disk.clone(), CONFIG).expect("a new log opens");
        log.write([&Record::Vote(Vote { term: 1, node: 2, committed: true })]).expect("memory");
        for index in 1..=40 {
            log.write([&entry(index)]).expect("memory");
        }
        disk
    }

    fn flip(disk: &MemoryDisk, name: &str, offset: u64) {
        let file = disk.open(name).expect("it exists");
        let mut byte = [0];
        file.read_at(offset, &mut byte).expect("memory");
        file.write_at(offset, &[byte[0] ^ 1]).expect("memory");
    }

    #[test]
    fn a_sound_log_has_no_damage() {
        let found = inspect(&*written(), &CONFIG).expect("memory");
        assert!(found.damage.is_none() && found.segments > 2);
        assert_eq!(found.state.last, Some(LogId { term: 1, index: 40 }));
    }

    #[test]
    fn cutting_keeps_what_stands_before_the_damage_and_the_log_opens_again() {
        for place in [START + 1000, 5000] {
            let disk = written();
            flip(&disk, &name_of(2), place);
            let found = inspect(&*disk, &CONFIG).expect("memory");
            let damage = found.damage.expect("a flipped bit is noticed");
            let last = found.state.last.expect("the first segment is whole").index;
            assert!(Log::open(disk.clone(), CONFIG).is_err(), "it refuses to open by itself");
            let (least, greatest) = damage.lost.range.expect("entries follow");
            assert_eq!((least, greatest), (last + 2, 40), "one entry is damaged itself");
            assert_eq!(damage.lost.entries, 40 - last - 1);
            cut(&*disk, &damage).expect("memory");
            let log = Log::open(disk, CONFIG).expect("what is left is sound");
            assert_eq!(log.state().last.map(|last| last.index), Some(last));
        }
    }

    #[test]
    fn a_missing_segment_costs_all_after_it() {
        let disk = written();
        disk.remove(&name_of(2)).expect("it exists");
        let found = inspect(&*disk, &CONFIG).expect("memory");
        let damage = found.damage.expect("a gap is noticed");
        assert!(matches!(damage.fault, Fault::Missing { .. }) && damage.keep.is_none());
        cut(&*disk, &damage).expect("memory");
        let log = Log::open(disk, CONFIG).expect("what is left is sound");
        assert_eq!(log.state().last, found.state.last);
    }
}
