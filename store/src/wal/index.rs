//! What the log holds, as a fold over its records.
//!
//! Recovery and the live path apply the very same records through [`Index::apply`], so what a
//! restart will find is what the running process believes. A record that cannot follow what came
//! before (a gap between entries, a cut below what was purged) is refused here: on the live path
//! that is a bug of the caller, during recovery it is damage.
//!
//! Entries live in segments; the index remembers where each one starts. A segment's entries are
//! always one contiguous run of the log, because entries arrive in order and are cut from the end.

use super::disk::File;
use super::record::{ALIGN, Record};
use super::{LogId, State};
use std::collections::VecDeque;
use std::sync::Arc;

/// The log's state and the place of every entry.
#[derive(Default)]
pub struct Index {
    pub state: State,
    pub segments: VecDeque<Segment>,
    /// Where a log begins from which nothing was purged: wherever its first entry was.
    base: u64,
}

/// One segment and the entries in it.
pub struct Segment {
    pub number: u64,
    pub seed: u32,
    pub name: String,
    pub file: Arc<dyn File>,
    /// Index of the first entry, meaningful when there is one.
    first: u64,
    /// Where each entry starts, in units of `ALIGN`.
    offsets: Vec<u32>,
}

impl Segment {
    pub fn new(number: u64, seed: u32, name: String, file: Arc<dyn File>) -> Self {
        Self { number, seed, name, file, first: 0, offsets: Vec::new() }
    }

    /// Index after the last entry, if there are entries.
    fn end(&self) -> Option<u64> {
        (!self.offsets.is_empty()).then(|| self.first + self.offsets.len() as u64)
    }

    /// Whether everything in it is at or below `limit`.
    pub fn is_below(&self, limit: u64) -> bool {
        self.end().is_none_or(|end| end <= limit.saturating_add(1))
    }

    fn cut(&mut self, since: u64) {
        let keep = usize::try_from(since.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.offsets.truncate(keep);
    }

    fn push(&mut self, index: u64, offset: u64) {
        if self.offsets.is_empty() {
            self.first = index;
        }
        assert_eq!(self.first + self.offsets.len() as u64, index, "entries of a segment are a run");
        let unit = u32::try_from(offset / ALIGN as u64).expect("segments are far below 32 GiB");
        self.offsets.push(unit);
    }

    fn find(&self, index: u64) -> Option<u64> {
        let nth = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.offsets.get(nth).map(|unit| u64::from(*unit) * ALIGN as u64)
    }
}

impl Index {
    /// Index that the next entry must have.
    pub fn next(&self) -> u64 {
        self.state.last.map_or(0, |last| last.index + 1)
    }

    /// Index of the first entry that can still be read.
    pub fn first(&self) -> u64 {
        self.state.purged.map_or(self.base, |purged| purged.index + 1)
    }

    /// Takes one record, which stands at `offset` of the newest segment, into account.
    pub fn apply(&mut self, offset: u64, record: &Record) -> Result<(), String> {
        match record {
            Record::Checkpoint(state) => self.checkpoint(state),
            Record::Vote(vote) => {
                self.state.vote = Some(*vote);
                Ok(())
            }
            Record::Entry(entry) => self.append(offset, entry.id),
            Record::Truncate { since, last } => self.truncate(*since, *last),
            Record::Purge(id) => {
                self.purge(*id);
                Ok(())
            }
            Record::Committed(id) => {
                self.state.committed = self.state.committed.max(Some(*id));
                Ok(())
            }
        }
    }

    /// Opens a segment. All but the first one that is left must repeat what is known already.
    fn checkpoint(&mut self, state: &State) -> Result<(), String> {
        if self.segments.len() > 1 && self.state != *state {
            return Err(
                "the segment opens with a state that the log before does not lead to".into()
            );
        }
        self.state = *state;
        Ok(())
    }

    fn append(&mut self, offset: u64, id: LogId) -> Result<(), String> {
        if self.state.last.is_none() {
            self.base = id.index;
        } else if id.index != self.next() {
            return Err(format!("entry {} follows entry {:?}", id.index, self.state.last));
        }
        if self.state.last.is_some_and(|last| last.term > id.term) {
            return Err(format!("entry {} has a smaller term than the one before", id.index));
        }
        let newest = self.segments.back_mut().ok_or("an entry outside of any segment")?;
        newest.push(id.index, offset);
        self.state.last = Some(id);
        Ok(())
    }

    fn truncate(&mut self, since: u64, last: Option<LogId>) -> Result<(), String> {
        if since < self.first() || since > self.next() {
            let (first, next) = (self.first(), self.next());
            return Err(format!("a cut at {since} of a log that holds {first} up to {next}"));
        }
        for segment in self.segments.iter_mut().rev() {
            if segment.end().is_some_and(|end| end <= since) {
                break;
            }
            segment.cut(since);
        }
        self.state.last = last;
        Ok(())
    }

    fn purge(&mut self, id: LogId) {
        self.state.purged = self.state.purged.max(Some(id));
        if self.next() <= id.index {
            // The state machine is ahead of the log (a snapshot was installed): nothing of the
            // log before it counts any more.
            self.segments.iter_mut().for_each(|segment| segment.offsets.clear());
            self.state.last = Some(id);
        }
    }

    /// Checks, once all segments are read, that every entry which must be there is.
    pub fn check_complete(&self) -> Result<(), (u64, u64)> {
        let mut expected = self.first();
        for segment in &self.segments {
            match segment.end() {
                Some(_) if segment.first > expected => return Err((expected, segment.first - 1)),
                Some(end) => expected = expected.max(end),
                None => {}
            }
        }
        if expected < self.next() { Err((expected, self.next() - 1)) } else { Ok(()) }
    }

    /// The file, seed and offset of an entry that is in a segment.
    pub fn locate(&self, index: u64) -> Option<Place> {
        if index < self.first() || index >= self.next() {
            return None;
        }
        // Reads are of recent entries, mostly.
        self.segments.iter().rev().find_map(|segment| {
            let offset = segment.find(index)?;
            Some(Place {
                file: segment.file.clone(),
                name: segment.name.clone(),
                segment: segment.number,
                seed: segment.seed,
                offset,
            })
        })
    }
}

/// Where an entry stands.
pub struct Place {
    pub file: Arc<dyn File>,
    pub name: String,
    pub segment: u64,
    pub seed: u32,
    pub offset: u64,
}
