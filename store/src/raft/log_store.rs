//! openraft's log storage, on the write-ahead log.
//!
//! openraft reads every entry again when it applies it, so recent entries stay in memory, bounded in
//! bytes; only what is durable may leave. Older entries are read from segments. The decoded commands
//! go to the first reader, which is the one that applies them: they are slices of the clients'
//! request frames, which are many times larger and would otherwise live as long as the entry.
//! The state that openraft asks for is kept here too, because the log's own view trails by what is
//! still queued.

use super::leadership::Progress;
use super::types::{self, Entry, LogId, Types, Vote, from_wal, to_wal, wal_id};
use crate::wal::writer::Done;
use crate::wal::{Fault, Record, State, Wal};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Encoded bytes of recent entries kept in memory.
const CACHE_BYTES_MAX: usize = 8 << 20;
/// Entries kept in memory, whatever their size.
const CACHE_ENTRIES_MAX: usize = 4096;
/// Bytes that one answer to a replication task may have: below what a peer accepts in a message.
const READ_BYTES_MAX: usize = 4 << 20;

/// The log, shared by openraft's core, its apply worker and its replication tasks.
#[derive(Clone)]
pub(crate) struct LogStore {
    wal: Wal,
    shared: Arc<Mutex<Shared>>,
    progress: Arc<Progress>,
}

struct Shared {
    state: State,
    cache: Cache,
}

/// The newest entries, in one run up to the last.
#[derive(Default)]
struct Cache {
    entries: VecDeque<Cached>,
    bytes: usize,
}

struct Cached {
    entry: Entry,
    bytes: usize,
    /// The request that makes it durable.
    request: u64,
}

impl LogStore {
    pub(crate) fn new(wal: Wal, progress: Arc<Progress>) -> Self {
        let state = wal.state();
        progress.restarted(state.vote.map_or(0, |vote| vote.term));
        progress.cut(state.last.map_or(0, |last| last.index + 1));
        let shared = Shared { state, cache: Cache::default() };
        Self { wal, shared: Arc::new(Mutex::new(shared)), progress }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries of `from..until` that the log holds, at least one, up to about `bytes_max`.
    fn read(&self, from: u64, until: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let (from, until, cached) = {
            let mut shared = self.lock();
            let from = from.max(shared.state.purged.map_or(0, |purged| purged.index + 1));
            let until = until.min(shared.state.last.map_or(0, |last| last.index + 1));
            let cached = shared.cache.read(from, until, bytes_max);
            (from, until, cached)
        };
        let cached_from = cached.first().map_or(until, RaftEntry::index);
        if from >= cached_from {
            return Ok(cached);
        }
        let stored = self.wal.read(from, cached_from, bytes_max).map_err(io::Error::other)?;
        let bytes: usize = stored.iter().map(|entry| entry.body.len()).sum();
        // Nothing in front of what is cached: the log begins there, or was just purged up to there.
        let whole = stored.last().is_none_or(|last| last.id.index + 1 == cached_from);
        let stored = stored.into_iter().map(|entry| from_wal(entry).map_err(io::Error::other));
        let mut entries = stored.collect::<io::Result<Vec<_>>>()?;
        if whole && bytes < bytes_max {
            entries.extend(cached);
        }
        Ok(entries)
    }

    /// Queues records whose fate shows in what follows them: a failed log fails every later write.
    fn note(&self, record: Record) {
        self.wal.submit(vec![record], None);
    }
}

impl Cache {
    fn push(&mut self, cached: Cached, completed: u64) {
        self.bytes += cached.bytes;
        self.entries.push_back(cached);
        while self.bytes > CACHE_BYTES_MAX || self.entries.len() > CACHE_ENTRIES_MAX {
            match self.entries.front() {
                Some(oldest) if oldest.request <= completed => self.bytes -= oldest.bytes,
                _ => break,
            }
            self.entries.pop_front();
        }
    }

    fn first(&self) -> Option<u64> {
        self.entries.front().map(|cached| cached.entry.index())
    }

    fn read(&mut self, from: u64, until: u64, bytes_max: usize) -> Vec<Entry> {
        let Some(first) = self.first() else { return Vec::new() };
        let skip = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        let count = usize::try_from(until.saturating_sub(from.max(first))).unwrap_or(usize::MAX);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for cached in self.entries.iter_mut().skip(skip).take(count) {
            entries.push(cached.entry.clone());
            if let EntryPayload::Normal(batch) = &mut cached.entry.payload {
                batch.commands = None;
            }
            bytes += cached.bytes;
            if bytes >= bytes_max {
                break;
            }
        }
        entries
    }

    fn truncate(&mut self, since: u64) {
        while self.entries.back().is_some_and(|cached| cached.entry.index() >= since) {
            self.bytes -= self.entries.pop_back().map_or(0, |cached| cached.bytes);
        }
    }

    fn purge(&mut self, upto: u64) {
        while self.first().is_some_and(|first| first <= upto) {
            self.bytes -= self.entries.pop_front().map_or(0, |cached| cached.bytes);
        }
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let until = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(until) => *until,
        Bound::Unbounded => u64::MAX,
    };
    (from, until)
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (from, until) = bounds(&range);
        self.read(from, until, usize::MAX)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, READ_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.lock().state.vote.map(types::vote))
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let state = self.lock().state;
        Ok(LogState {
            last_purged_log_id: state.purged.map(types::log_id),
            last_log_id: state.last.map(types::log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let saved = types::wal_vote(vote);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let done: Done = Box::new(move |outcome| drop(sender.send(outcome)));
        self.wal.submit(vec![Record::Vote(saved)], Some(done));
        receiver.await.unwrap_or(Err(Fault::Closed)).map_err(io::Error::other)?;
        self.lock().state.vote = Some(saved);
        self.progress.voted(vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(id) = committed {
            self.progress.commit(id.index);
            self.wal.hint_committed(wal_id(&id));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let state = self.lock().state;
        // The hint may have outlived entries of a write that a crash tore.
        Ok(state.committed.min(state.last).map(types::log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let records: Vec<_> = entries.iter().map(|entry| Record::Entry(to_wal(entry))).collect();
        let sizes: Vec<_> = records.iter().map(Record::span).collect();
        let done: Done =
            Box::new(move |outcome| callback.io_completed(outcome.map_err(io::Error::other)));
        // Where no other member could be working meanwhile, this thread has nothing to do but wait.
        let request = if self.progress.alone() {
            self.wal.write_here(records, done)
        } else {
            self.wal.submit(records, Some(done))
        };
        let completed = self.wal.completed();
        let mut shared = self.lock();
        for (entry, bytes) in entries.into_iter().zip(sizes) {
            self.progress.appended(&entry);
            shared.state.last = Some(wal_id(&entry.log_id));
            shared.cache.push(Cached { entry, bytes, request }, completed);
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let mut shared = self.lock();
        let last = last.as_ref().map(wal_id).max(shared.state.purged);
        let since = last.map_or(0, |last| last.index + 1);
        if shared.state.last.is_none_or(|newest| newest.index < since) {
            return Ok(());
        }
        shared.cache.truncate(since);
        shared.state.last = last;
        self.progress.cut(since);
        drop(shared);
        self.note(Record::Truncate { since, last });
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let id = wal_id(&upto);
        let mut shared = self.lock();
        shared.cache.purge(id.index);
        shared.state.purged = shared.state.purged.max(Some(id));
        shared.state.last = shared.state.last.max(Some(id));
        self.progress.cut(shared.state.last.map_or(0, |last| last.index + 1));
        drop(shared);
        self.note(Record::Purge(id));
        Ok(())
    }
}
