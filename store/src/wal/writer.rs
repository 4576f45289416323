//! The queue in front of the log, and the thread behind it.
//!
//! A caller submits records and a function to call when they are durable. The order of submission
//! is the order on disk, for votes and entries alike. The thread takes all that is queued (up to a
//! bound), writes it with one sync, calls the functions, and looks again.
//!
//! **Writing without the thread.** Waking the thread and being woken by it costs a lone client two
//! switches, more than the write itself costs the processor. A caller that has nothing better to do
//! than wait for its records therefore writes them itself ([`Wal::write_here`]) when the thread
//! sleeps and nothing is queued. It has taken the files before it lets go of the queue, so whatever is
//! submitted meanwhile comes after it on the disk too.
//!
//! The queue is bounded in bytes: who submits into a full one waits. In practice the proposer's own
//! bound on entries in flight is reached long before.
//!
//! Spares are filled with zeros by a second, short-lived thread, in steps with pauses, and only
//! once the first records were answered: a fresh node serves before it reserves.

use super::disk::Disk;
use super::index::{Index, Place};
use super::log::{self, Log};
use super::record::{self, Header, Record};
use super::timings::Timings;
use super::{Config, Entry, Fault, LogId, State};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::time::Instant;

/// Called once, by whoever wrote the records, when they are durable or never will be.
pub type Done = Box<dyn FnOnce(Result<(), Fault>) + Send>;

/// Bytes of records that may wait; more make the submitter wait.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Bytes of records that one write takes, beyond its first request.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Between steps of filling a spare, so that syncs of the log come first.
const PREPARE_PAUSE: Duration = Duration::from_millis(3);
/// How long to leave it after a spare could not be filled.
const PREPARE_AGAIN: Duration = Duration::from_secs(30);

/// A running log. Clones share it; the thread ends with [`Wal::close`] or with the last clone.
#[derive(Clone)]
pub struct Wal {
    shared: Arc<Shared>,
    thread: Arc<Thread>,
}

/// The writer thread, joined when the last owner goes.
struct Thread {
    shared: Arc<Shared>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// The writer waits on this for work.
    work: Condvar,
    /// Submitters wait on this for room.
    room: Condvar,
    /// Who holds it may take `queue`; who holds `queue` may only try.
    writer: Mutex<Writer>,
    index: Arc<Mutex<Index>>,
    /// Requests up to this one are durable.
    completed: AtomicU64,
    /// What the state machine's durable checkpoint covers, plus one.
    durable: AtomicU64,
    counts: Counts,
    timings: Arc<Timings>,
}

/// What the log has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Batches: one write and one `fdatasync` each.
    pub syncs: u64,
    pub records: u64,
    /// Time spent in writing and syncing.
    pub busy_nanos: u64,
}

#[derive(Default)]
struct Counts {
    syncs: AtomicU64,
    records: AtomicU64,
    busy_nanos: AtomicU64,
}

#[derive(Default)]
struct Queue {
    requests: VecDeque<Request>,
    bytes: usize,
    submitted: u64,
    committed: Option<LogId>,
    /// The writer waits for work. Waking it costs a system call, so only then.
    idle: bool,
    /// A finished spare.
    spare: Option<String>,
    closed: bool,
    failed: Option<Fault>,
}

struct Request {
    records: Vec<Record>,
    bytes: usize,
    done: Option<Done>,
}

impl Wal {
    /// Opens the log and starts its thread.
    pub fn open(disk: Arc<dyn Disk>, config: Config) -> Result<Self, Fault> {
        let log = Log::open(disk, config)?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            index: log.index(),
            completed: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            counts: Counts::default(),
            timings: log.timings(),
            writer: Mutex::new(Writer { hinted: log.state().committed, log, filling: None }),
        });
        let run = shared.clone();
        let spawned = thread::Builder::new().name("wal".into()).spawn(move || {
            let _guard = AbortOnPanic("the log thread");
            run.write_all();
        });
        let thread = spawned.map_err(|error| Fault::Io {
            action: "start the thread of",
            file: "the log".to_owned(),
            error: Arc::new(error),
        })?;
        let thread = Thread { shared: shared.clone(), handle: Mutex::new(Some(thread)) };
        Ok(Self { shared, thread: Arc::new(thread) })
    }

    /// Queues records that become durable together and returns the request's number, to be
    /// compared with [`Wal::completed`].
    pub fn submit(&self, records: Vec<Record>, done: Option<Done>) -> u64 {
        let bytes: usize = records.iter().map(Record::span).sum();
        let mut queue = self.shared.lock();
        while queue.bytes > QUEUE_BYTES_MAX && !queue.closed && queue.failed.is_none() {
            queue = self.shared.room.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let refused = if queue.closed { Some(Fault::Closed) } else { queue.failed.clone() };
        if let Some(fault) = refused {
            drop(queue);
            if let Some(done) = done {
                done(Err(fault));
            }
            return u64::MAX;
        }
        queue.submitted += 1;
        queue.bytes += bytes;
        queue.requests.push_back(Request { records, bytes, done });
        let (number, idle) = (queue.submitted, queue.idle);
        drop(queue);
        if idle {
            self.shared.work.notify_one();
        }
        number
    }

    /// As [`Self::submit`], but where the thread has nothing to do the caller writes by itself, and
    /// is back only when the records are durable.
    pub fn write_here(&self, records: Vec<Record>, done: Done) -> u64 {
        let mut queue = self.shared.lock();
        let free =
            queue.idle && queue.requests.is_empty() && !queue.closed && queue.failed.is_none();
        let writer = if free { self.shared.writer.try_lock().ok() } else { None };
        let Some(mut writer) = writer else {
            drop(queue);
            return self.submit(records, Some(done));
        };
        queue.submitted += 1;
        let (number, committed) = (queue.submitted, queue.committed);
        drop(queue);
        let requests = vec![Request { records, bytes: 0, done: Some(done) }];
        let outcome = writer.write(&requests, committed, &self.shared.counts);
        drop(writer);
        self.shared.settle(requests, outcome);
        number
    }

    /// Queues records and waits until they are durable.
    pub fn submit_wait(&self, records: Vec<Record>) -> Result<(), Fault> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let done: Done = Box::new(move |outcome| drop(sender.send(outcome)));
        self.submit(records, Some(done));
        receiver.recv().unwrap_or(Err(Fault::Closed))
    }

    /// Requests up to this number are durable.
    pub fn completed(&self) -> u64 {
        self.shared.completed.load(Ordering::Acquire)
    }

    /// Notes what is committed. It travels with the next record that is written anyway.
    pub fn hint_committed(&self, id: LogId) {
        let mut queue = self.shared.lock();
        queue.committed = queue.committed.max(Some(id));
    }

    /// Notes that the state machine's own durable checkpoint covers the log up to `index`.
    /// Only segments below it are ever let go, whatever was purged.
    pub fn covered(&self, index: u64) {
        self.shared.durable.fetch_max(index.saturating_add(1), Ordering::AcqRel);
    }

    /// The state that submitted records lead to, once the thread has reached them.
    pub fn state(&self) -> State {
        log::lock(&self.shared.index).state
    }

    /// How long the disk took so far.
    pub(crate) fn timings(&self) -> Arc<Timings> {
        Arc::clone(&self.shared.timings)
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        let counts = &self.shared.counts;
        Counters {
            syncs: counts.syncs.load(Ordering::Relaxed),
            records: counts.records.load(Ordering::Relaxed),
            busy_nanos: counts.busy_nanos.load(Ordering::Relaxed),
        }
    }

    /// Reads entries `from..until` from the segments: as many as are there from the start of the
    /// range, and at least one, but no more than about `bytes_max`.
    pub fn read(&self, from: u64, until: u64, bytes_max: usize) -> Result<Vec<Entry>, Fault> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let from = from.max(log::lock(&self.shared.index).first());
        for index in from..until {
            let place = log::lock(&self.shared.index).locate(index);
            let Some(place) = place else { break };
            match read_entry(&place, index) {
                Ok(entry) => {
                    bytes += entry.body.len();
                    entries.push(entry);
                }
                // Purged and recycled between the look-up and the read.
                Err(_) if log::lock(&self.shared.index).locate(index).is_none() => break,
                Err(fault) => return Err(fault),
            }
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(entries)
    }

    /// Writes what is queued, then ends the thread.
    pub fn close(&self) {
        self.thread.close();
    }
}

impl Thread {
    fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
        self.shared.room.notify_all();
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last clone may go inside of a `Done`, on the very thread; it ends by itself then.
        if let Some(handle) = handle.filter(|handle| handle.thread().id() != thread::current().id())
        {
            // It ends by returning: a panic on it aborts the process.
            drop(handle.join());
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.close();
    }
}

/// Reads and verifies one entry.
fn read_entry(place: &Place, index: u64) -> Result<Entry, Fault> {
    let damaged = |reason: &str| Fault::Damaged {
        file: place.name.clone(),
        segment: place.segment,
        offset: place.offset,
        reason: reason.to_owned(),
    };
    let io = |error| Fault::Io { action: "read", file: place.name.clone(), error: Arc::new(error) };
    // Most entries fit into one read.
    let mut bytes = vec![0; 4096];
    let filled = place.file.read_at(place.offset, &mut bytes).map_err(io)?;
    bytes.truncate(filled);
    let header = Header::parse(&bytes).ok_or_else(|| damaged("no record where an entry was"))?;
    if header.span() > bytes.len() {
        bytes.resize(header.span(), 0);
        let filled = place.file.read_at(place.offset, &mut bytes).map_err(io)?;
        bytes.truncate(filled);
    }
    if !header.verifies(&bytes, place.seed) {
        return Err(damaged("the checksum of an entry does not hold"));
    }
    match header.decode(&bytes) {
        Some(Record::Entry(entry)) if entry.id.index == index => Ok(entry),
        _ => Err(damaged("another record where an entry was")),
    }
}

/// A panic in the log would leave others waiting for ever, or worse, going on without it.
pub(crate) struct AbortOnPanic(pub(crate) &'static str);

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("{} panicked; the process cannot go on", self.0);
            std::process::abort();
        }
    }
}

/// The log, and what its writers remember from one write to the next.
struct Writer {
    log: Log,
    /// The newest hint of what is committed that was written.
    hinted: Option<LogId>,
    /// The thread that fills a spare, and when it was started.
    filling: Option<(JoinHandle<()>, Instant)>,
}

impl Writer {
    /// One write and one sync for all of it.
    fn write(
        &mut self,
        requests: &[Request],
        committed: Option<LogId>,
        counts: &Counts,
    ) -> Result<(), Fault> {
        let hint =
            committed.filter(|committed| Some(*committed) > self.hinted).map(Record::Committed);
        self.hinted = self.hinted.max(committed);
        let started = Instant::now();
        let records = requests.iter().flat_map(|request| &request.records).chain(&hint);
        let outcome = self.log.write(records);
        let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let records: usize = requests.iter().map(|request| request.records.len()).sum();
        counts.syncs.fetch_add(1, Ordering::Relaxed);
        counts.records.fetch_add(records as u64, Ordering::Relaxed);
        counts.busy_nanos.fetch_add(nanos, Ordering::Relaxed);
        outcome
    }

    /// What can wait until after the answers: letting go of segments, asking for a spare.
    fn tidy(&mut self, requests: &[Request], shared: &Arc<Shared>) -> Result<(), Fault> {
        let mut records = requests.iter().flat_map(|request| &request.records);
        if records.any(|record| matches!(record, Record::Purge(_))) {
            let durable = shared.durable.load(Ordering::Acquire);
            if let Some(covered) = durable.checked_sub(1) {
                self.log.recycle(covered)?;
            }
        }
        if self.filling.is_some()
            && let Some(spare) = shared.lock().spare.take()
        {
            self.log.adopt(spare);
            self.filling = None;
        }
        // One that ended and left no spare has failed, and will for some time.
        let may_fill = self
            .filling
            .as_ref()
            .is_none_or(|(thread, since)| thread.is_finished() && since.elapsed() > PREPARE_AGAIN);
        if may_fill && self.log.wants_spare() {
            self.fill(shared.clone());
        }
        Ok(())
    }

    /// Starts to fill a spare beside the log. A failure costs speed only: the log can grow files.
    fn fill(&mut self, shared: Arc<Shared>) {
        let preparation = self.log.prepare();
        let spawned = thread::Builder::new().name("wal-spare".into()).spawn(move || {
            let pause = || {
                thread::sleep(PREPARE_PAUSE);
                !shared.lock().closed
            };
            match preparation.run(pause) {
                Ok(spare) => shared.lock().spare = spare,
                Err(error) => tracing::warn!(%error, "cannot prepare a segment of the log ahead"),
            }
        });
        match spawned {
            Ok(thread) => self.filling = Some((thread, Instant::now())),
            Err(error) => tracing::warn!(%error, "cannot prepare a segment of the log ahead"),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread.
    fn write_all(self: &Arc<Self>) {
        while let Some((requests, committed)) = self.next() {
            let outcome = self.writer().write(&requests, committed, &self.counts);
            self.settle(requests, outcome);
        }
        let filling = self.writer().filling.take();
        if let Some((filling, _)) = filling {
            drop(filling.join());
        }
    }

    /// Waits for work and takes it. Nothing means: closed, and all is written.
    fn next(&self) -> Option<(Vec<Request>, Option<LogId>)> {
        let mut queue = self.lock();
        while queue.requests.is_empty() {
            if queue.closed {
                return None;
            }
            queue.idle = true;
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle = false;
        }
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(request) = queue.requests.front() {
            if !taken.is_empty() && bytes + request.bytes > BATCH_BYTES_MAX {
                break;
            }
            bytes += request.bytes;
            taken.extend(queue.requests.pop_front());
        }
        let full = queue.bytes > QUEUE_BYTES_MAX;
        queue.bytes -= bytes;
        let committed = queue.committed;
        drop(queue);
        if full {
            self.room.notify_all();
        }
        Some((taken, committed))
    }

    /// After a write: tells who waits for it. No lock is held, for they may do anything.
    fn settle(self: &Arc<Self>, mut requests: Vec<Request>, outcome: Result<(), Fault>) {
        let settled = outcome.and_then(|()| {
            self.completed.fetch_add(requests.len() as u64, Ordering::AcqRel);
            for request in &mut requests {
                if let Some(done) = request.done.take() {
                    done(Ok(()));
                }
            }
            self.writer().tidy(&requests, self)
        });
        if let Err(fault) = settled {
            self.fail(requests, fault);
        }
    }

    /// Tells everyone, now and later.
    fn fail(&self, requests: Vec<Request>, fault: Fault) {
        // Whoever runs the node tells its end, and why: `Node::failed`.
        tracing::debug!(%fault, "the log failed; this node cannot go on");
        let mut queue = self.lock();
        queue.failed = Some(fault.clone());
        let waiting = std::mem::take(&mut queue.requests);
        queue.bytes = 0;
        drop(queue);
        self.room.notify_all();
        for request in requests.into_iter().chain(waiting) {
            if let Some(done) = request.done {
                done(Err(fault.clone()));
            }
        }
    }
}

/// Whether a body of this many bytes can be logged at all.
pub fn check_size(bytes: usize, segment_bytes: u64) -> Result<(), Fault> {
    if bytes > record::MAX_BODY || record::span(bytes) as u64 > segment_bytes / 2 {
        return Err(Fault::TooLarge { bytes });
    }
    Ok(())
}
