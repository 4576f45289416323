//! The log on one thread: opening, writing, rolling, recycling. No queue and no thread of its own.
//!
//! [`Log`] does everything the writer thread does, one call at a time, so that crash tests can
//! drive it to any point and pull the plug.
//!
//! **Files.** `<number>.wal` are segments, `spare-<n>` are files filled with zeros or old records,
//! ready to become one, `preparing` is a spare in the making. A new segment is written into a spare
//! (header and checkpoint record), synced, renamed, and the directory synced. Overwriting blocks
//! that a file already owns needs no journal commit: an `fdatasync` takes 0.19 ms instead of 0.33
//! for an append. Where no spare is ready the log grows a new file rather than wait, and leaves it
//! for the first spare that appears.
//!
//! **Writing.** One buffer, one `pwrite`, one `fdatasync` for all records of a batch. Bodies are
//! copied into the buffer: the checksum has to read them anyway, the copy costs 0.1 ns a byte, and
//! a batch of many small records would otherwise exceed what one vectored write can take.
//!
//! **Failure.** Whatever the disk refuses is final. The kernel forgets which pages a failed sync
//! covered, so writing on would build on sand; the caller stops the node.

use super::disk::{Disk, File};
use super::index::{Index, Segment};
use super::record::Record;
use super::segment::{BadHeader, HEADER_BYTES, START, SegmentHeader, Tail, Window, scan};
use super::timings::Timings;
use super::{Config, Fault, State};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

const SUFFIX: &str = ".wal";
const SPARE: &str = "spare-";
const PREPARING: &str = "preparing";
/// Spares kept; more are removed.
const SPARES_MAX: usize = 2;
/// Zeros are written in steps of this, each synced, so that no sync has to flush a whole segment.
const ZERO_STEP: usize = 1 << 20;
/// Zeros in front of a file that has to be used before a spare is ready.
const GROWN_START: usize = 64 << 10;

/// The log's files and the place where the next record goes.
pub struct Log {
    disk: Arc<dyn Disk>,
    config: Config,
    index: Arc<Mutex<Index>>,
    tip: Tip,
    spares: Vec<String>,
    buffer: Vec<u8>,
    timings: Arc<Timings>,
    /// Set by the first error; everything after it answers with the same.
    failed: Option<Fault>,
}

/// The segment that is being written, and where.
struct Tip {
    file: Arc<dyn File>,
    header: SegmentHeader,
    /// Offset of the next write.
    position: u64,
    /// Checksum of the last record.
    crc: u32,
    /// Whether the segment's blocks exist already.
    preallocated: bool,
}

/// Locks an index; a poisoned lock only means that another thread is already bringing the process
/// down.
pub fn lock(index: &Mutex<Index>) -> MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn name_of(number: u64) -> String {
    format!("{number:016x}{SUFFIX}")
}

/// The number in a segment's file name.
pub fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX).filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// Turns an error of the disk into a fault that says what was being done to which file.
pub(super) fn fault<'a>(
    disk: &'a dyn Disk,
    action: &'static str,
    name: &'a str,
) -> impl FnOnce(io::Error) -> Fault + 'a {
    // Described only when it failed: this runs for every write.
    move |error| Fault::Io { action, file: disk.describe(name), error: Arc::new(error) }
}

impl Log {
    /// Opens the log in `disk`, or starts one where there is none: cuts a torn tail, refuses damage.
    pub fn open(disk: Arc<dyn Disk>, config: Config) -> Result<Self, Fault> {
        let names = disk.list().map_err(fault(&*disk, "list", ""))?;
        let numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
        let spares = Self::spares(&*disk, &config, &names)?;
        match numbers.last() {
            None => Self::create(disk, config, spares),
            Some(_) => Self::recover(disk, config, &numbers, spares),
        }
    }

    /// Spares of the right size. Others (a crash while one was made, or another segment size) go.
    fn spares(disk: &dyn Disk, config: &Config, names: &[String]) -> Result<Vec<String>, Fault> {
        let mut spares = Vec::new();
        for name in names {
            if name == PREPARING {
                disk.remove(name).map_err(fault(disk, "remove", name))?;
            } else if name.starts_with(SPARE) {
                let file = disk.open(name).map_err(fault(disk, "open", name))?;
                let len = file.size().map_err(fault(disk, "measure", name))?;
                if len == config.segment_bytes && spares.len() < SPARES_MAX {
                    spares.push(name.clone());
                } else {
                    disk.remove(name).map_err(fault(disk, "remove", name))?;
                }
            }
        }
        Ok(spares)
    }

    fn create(disk: Arc<dyn Disk>, config: Config, mut spares: Vec<String>) -> Result<Self, Fault> {
        let mut index = Index::default();
        let tip = next_segment(&*disk, &config, &mut index, &mut spares, 1, config.salt)?;
        Ok(Self::assemble(disk, config, index, tip, spares))
    }

    fn assemble(
        disk: Arc<dyn Disk>,
        config: Config,
        index: Index,
        tip: Tip,
        spares: Vec<String>,
    ) -> Self {
        let index = Arc::new(Mutex::new(index));
        let (buffer, timings) = (Vec::new(), Arc::default());
        Self { disk, config, index, tip, spares, buffer, timings, failed: None }
    }

    fn recover(
        disk: Arc<dyn Disk>,
        config: Config,
        numbers: &[u64],
        spares: Vec<String>,
    ) -> Result<Self, Fault> {
        let headers = read_headers(&*disk, &config, numbers)?;
        let mut index = Index::default();
        let mut end = None;
        for (nth, (header, file)) in headers.iter().enumerate() {
            let name = name_of(header.number);
            let segment = Segment::new(header.number, header.seed, name.clone(), file.clone());
            index.segments.push_back(segment);
            let next = headers.get(nth + 1).map(|(next, _)| next);
            end = Some(read_segment(&*disk, &name, header, file, next, &mut index)?);
        }
        let end = end.expect("there is at least one segment");
        index.check_complete().map_err(|(from, until)| Fault::Incomplete { from, until })?;
        let (header, file) = headers.last().expect("there is at least one segment").clone();
        let name = name_of(header.number);
        let len = file.size().map_err(fault(&*disk, "measure", &name))?;
        if let Tail::Torn { until } = end.tail {
            wipe(&*file, end.offset, until).map_err(fault(
                &*disk,
                "wipe the torn tail of",
                &name,
            ))?;
            tracing::warn!(
                segment = name,
                offset = end.offset,
                bytes = until - end.offset,
                "cut the tail of a write that a crash interrupted; it was never acknowledged"
            );
        }
        // What was found, name and contents, may be in memory only: a process that was killed does
        // not sync. From here on it is built on, and no power cut may take it.
        file.sync().map_err(fault(&*disk, "sync", &name))?;
        disk.sync_dir().map_err(fault(&*disk, "sync the directory of", &name))?;
        let preallocated = len >= config.segment_bytes;
        let tip = Tip { file, header, position: end.offset, crc: end.crc, preallocated };
        Ok(Self::assemble(disk, config, index, tip, spares))
    }

    /// The state and places of entries, shared with readers.
    pub fn index(&self) -> Arc<Mutex<Index>> {
        self.index.clone()
    }

    /// How long the disk took so far.
    pub(crate) fn timings(&self) -> Arc<Timings> {
        Arc::clone(&self.timings)
    }

    /// The state that the log has reached.
    pub fn state(&self) -> State {
        lock(&self.index).state
    }

    /// Writes records in order and returns once all of them are durable.
    pub fn write<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Result<(), Fault> {
        if let Some(fault) = &self.failed {
            return Err(fault.clone());
        }
        self.try_write(records).inspect_err(|fault| self.failed = Some(fault.clone()))
    }

    fn try_write<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Result<(), Fault> {
        let first = START + Record::Checkpoint(State::default()).span() as u64;
        if !self.tip.preallocated && !self.spares.is_empty() {
            self.roll()?;
        }
        for record in records {
            let mut offset = self.tip.position + self.buffer.len() as u64;
            if offset + record.span() as u64 > self.config.segment_bytes && offset > first {
                self.flush()?;
                self.roll()?;
                offset = self.tip.position;
            }
            lock(&self.index).apply(offset, record).map_err(Fault::Misuse)?;
            let tip = &mut self.tip;
            tip.crc = record.encode(&mut self.buffer, tip.header.seed, tip.crc, tip.position);
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Fault> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let (disk, tip) = (&*self.disk, &mut self.tip);
        let name = || name_of(tip.header.number);
        let begun = Instant::now();
        tip.file
            .write_at(tip.position, &self.buffer)
            .map_err(|error| fault(disk, "write to", &name())(error))?;
        let written = Instant::now();
        tip.file.sync().map_err(|error| fault(disk, "sync", &name())(error))?;
        self.timings.write.observe_time(written - begun);
        self.timings.sync.observe_time(written.elapsed());
        self.timings.wrote(self.buffer.len());
        tip.position += self.buffer.len() as u64;
        self.buffer.clear();
        // One large batch should not hold its memory for ever.
        self.buffer.shrink_to(1 << 20);
        Ok(())
    }

    fn roll(&mut self) -> Result<(), Fault> {
        let (number, link) = (self.tip.header.number + 1, self.tip.crc);
        let mut index = lock(&self.index);
        let (disk, config) = (&*self.disk, &self.config);
        self.tip = next_segment(disk, config, &mut index, &mut self.spares, number, link)?;
        Ok(())
    }

    /// Lets go of leading segments that hold nothing above what was purged, nor above `durable`,
    /// the index that the state machine's own checkpoint covers. They become spares.
    pub fn recycle(&mut self, durable: u64) -> Result<(), Fault> {
        let freed = {
            let mut index = lock(&self.index);
            let Some(purged) = index.state.purged else { return Ok(()) };
            let limit = purged.index.min(durable);
            let mut freed = Vec::new();
            while index.segments.len() > 1 && index.segments[0].is_below(limit) {
                freed.extend(index.segments.pop_front());
            }
            freed
        };
        if freed.is_empty() {
            return Ok(());
        }
        let disk = self.disk.clone();
        for segment in freed {
            let name = segment.name;
            let len = segment.file.size().map_err(fault(&*disk, "measure", &name))?;
            if len == self.config.segment_bytes && self.spares.len() < SPARES_MAX {
                let spare = format!("{SPARE}{:016x}", segment.number);
                disk.rename(&name, &spare).map_err(fault(&*disk, "rename", &name))?;
                self.spares.push(spare);
            } else {
                disk.remove(&name).map_err(fault(&*disk, "remove", &name))?;
            }
        }
        // Before a spare is overwritten its old name must be gone for good.
        disk.sync_dir().map_err(fault(&*disk, "sync the directory of", ""))
    }

    /// Whether a spare should be made.
    pub fn wants_spare(&self) -> bool {
        self.spares.is_empty() && self.failed.is_none()
    }

    /// A job that fills a spare with zeros, to be run beside the log. It may take so long that the
    /// present segment has become a spare meanwhile, so that one's name is not taken.
    pub fn prepare(&self) -> Preparation {
        let name = format!("{SPARE}zeros-{:016x}", self.tip.header.number);
        Preparation { disk: self.disk.clone(), bytes: self.config.segment_bytes, name }
    }

    /// Takes a spare that a [`Preparation`] has made.
    pub fn adopt(&mut self, spare: String) {
        // One made twice beside the same segment is one file.
        if !self.spares.contains(&spare) {
            self.spares.push(spare);
        }
    }

    /// The fault that stopped the log.
    pub fn failed(&self) -> Option<&Fault> {
        self.failed.as_ref()
    }
}

/// Opens the next segment: in a spare where there is one, in a growing file otherwise.
fn next_segment(
    disk: &dyn Disk,
    config: &Config,
    index: &mut Index,
    spares: &mut Vec<String>,
    number: u64,
    link: u32,
) -> Result<Tip, Fault> {
    let (from, file, preallocated) = match spares.pop() {
        Some(spare) => {
            let file = disk.open(&spare).map_err(fault(disk, "open", &spare))?;
            (spare, file, true)
        }
        None => {
            let file = disk.create(PREPARING).map_err(fault(disk, "create", PREPARING))?;
            (PREPARING.to_owned(), file, false)
        }
    };
    let seed = seed(config.salt, number, link);
    let (first, cluster, node) = (index.next(), config.cluster, config.node);
    let header = SegmentHeader { number, first, seed, link, cluster, node };
    let checkpoint = Record::Checkpoint(index.state);
    let mut bytes = header.encode().to_vec();
    let crc = checkpoint.encode(&mut bytes, seed, link, START);
    let position = bytes.len() as u64;
    if !preallocated {
        let zeros = usize::try_from(config.segment_bytes).unwrap_or(usize::MAX).min(GROWN_START);
        bytes.resize(bytes.len().max(zeros), 0);
    }
    let name = name_of(number);
    file.write_at(0, &bytes).map_err(fault(disk, "write to", &from))?;
    file.sync().map_err(fault(disk, "sync", &from))?;
    disk.rename(&from, &name).map_err(fault(disk, "rename", &from))?;
    disk.sync_dir().map_err(fault(disk, "sync the directory of", &name))?;
    index.segments.push_back(Segment::new(number, seed, name, file.clone()));
    index.apply(START, &checkpoint).expect("a state leads to itself");
    Ok(Tip { file, header, position, crc, preallocated })
}

/// A spare to be made.
pub struct Preparation {
    disk: Arc<dyn Disk>,
    bytes: u64,
    name: String,
}

/// The name under which a [`Preparation`] works, apart from the one `roll` uses.
const FILLING: &str = "spare-filling";

impl Preparation {
    /// Writes the zeros, calling `pause` between steps, and returns the name of the spare. A pause
    /// that returns `false` gives up. What was written in vain is removed: on a full disk it would
    /// take the room that the log itself needs.
    pub fn run(self, pause: impl FnMut() -> bool) -> io::Result<Option<String>> {
        let outcome = self.fill(pause);
        if !matches!(outcome, Ok(Some(_))) {
            // May fail for the same reason; the next start of the log removes it then.
            drop(self.disk.remove(FILLING));
        }
        outcome
    }

    fn fill(&self, mut pause: impl FnMut() -> bool) -> io::Result<Option<String>> {
        let file = self.disk.create(FILLING)?;
        let zeros = vec![0; ZERO_STEP.min(usize::try_from(self.bytes).unwrap_or(ZERO_STEP))];
        let mut offset = 0;
        while offset < self.bytes {
            let left = usize::try_from(self.bytes - offset).unwrap_or(usize::MAX);
            let step = &zeros[..zeros.len().min(left)];
            file.write_at(offset, step)?;
            file.sync()?;
            offset += step.len() as u64;
            if !pause() {
                return Ok(None);
            }
        }
        self.disk.rename(FILLING, &self.name)?;
        self.disk.sync_dir()?;
        Ok(Some(self.name.clone()))
    }
}

/// A segment's header, and its open file.
pub(super) type Found = (SegmentHeader, Arc<dyn File>);

/// Opens all segments and checks that their headers belong together.
pub(super) fn read_headers(
    disk: &dyn Disk,
    config: &Config,
    numbers: &[u64],
) -> Result<Vec<Found>, Fault> {
    let mut headers: Vec<Found> = Vec::new();
    for number in numbers {
        let name = name_of(*number);
        let described = disk.describe(&name);
        if let Some((previous, _)) = headers.last()
            && previous.number + 1 != *number
        {
            return Err(Fault::Missing { file: disk.describe(&name_of(previous.number + 1)) });
        }
        let file = disk.open(&name).map_err(fault(disk, "open", &name))?;
        let mut bytes = [0; HEADER_BYTES];
        let filled = file.read_at(0, &mut bytes).map_err(fault(disk, "read", &name))?;
        let header = match SegmentHeader::decode(&bytes[..filled]) {
            Ok(header) if header.number == *number => header,
            Err(BadHeader::Version(version)) => {
                return Err(Fault::Version { file: described, version });
            }
            Ok(_) | Err(BadHeader::Damaged) => {
                let reason = "its header is not the one of this segment".to_owned();
                return Err(Fault::Damaged {
                    file: described,
                    segment: *number,
                    offset: 0,
                    reason,
                });
            }
        };
        if (header.cluster, header.node) != (config.cluster, config.node) {
            let (cluster, node) = (header.cluster, header.node);
            return Err(Fault::Foreign { file: described, cluster, node });
        }
        headers.push((header, file));
    }
    Ok(headers)
}

/// Folds one segment into the index and judges its end.
pub(super) fn read_segment(
    disk: &dyn Disk,
    name: &str,
    header: &SegmentHeader,
    file: &Arc<dyn File>,
    next: Option<&SegmentHeader>,
    index: &mut Index,
) -> Result<super::segment::End, Fault> {
    let mut window = Window::new(file.clone()).map_err(fault(disk, "read", name))?;
    let mut opened = false;
    let end = scan(&mut window, header, next.is_none(), |offset, record| {
        if !opened && !matches!(record, Record::Checkpoint(_)) {
            return Err("the segment does not open with a checkpoint".to_owned());
        }
        opened = true;
        index.apply(offset, &record)
    })
    .map_err(fault(disk, "read", name))?;
    let reason = match &end.tail {
        Tail::Damaged { reason } => Some(reason.clone()),
        _ if !opened => Some("the checkpoint that opens the segment is unreadable".to_owned()),
        _ => next
            .filter(|next| next.link != end.crc)
            .map(|_| "the next segment does not continue here".to_owned()),
    };
    match reason {
        None => Ok(end),
        Some(reason) => Err(Fault::Damaged {
            file: disk.describe(name),
            segment: header.number,
            offset: end.offset,
            reason,
        }),
    }
}

pub(super) fn wipe(file: &dyn File, from: u64, until: u64) -> io::Result<()> {
    let bytes = usize::try_from(until - from).expect("a torn write was once a buffer");
    file.write_at(from, &vec![0; bytes])?;
    file.sync()
}

/// A seed that no other life of the same file has had.
fn seed(salt: u32, number: u64, link: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&number.to_le_bytes());
    hasher.update(&link.to_le_bytes());
    hasher.finalize()
}
