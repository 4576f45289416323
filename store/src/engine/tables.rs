//! Memtables and runs over the database, read as one.
//!
//! ```text
//! active ─ frozen ─ frozen ─ run ─ run ─ base     newer ──▶ older; whoever has a key first decides
//! ```
//!
//! All versions in a table are newer than all in the tables after it, so the first table that has
//! a version of a key at or below the revision asked for has the right one. A scan merges the
//! tables' sorted rows and takes each key from the first table that has it.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    base::{Base, Found, Walk},
    memtable::{self, Log, Logged, Memtable},
    record::{self, HistRow, Place},
    run::{self, Run},
};
use crate::{
    command::{Event, KeyRange, Revision},
    fault::Fault,
    machine::rows::{Links, Meta, Piece, Row, Rows, RowsMut, Version},
};

/// Revisions taken from a log under one hold of its lock.
const LOGGED_AT_ONCE: usize = 1024;

/// Everything there is to read. Replaced as a whole when something moves down.
#[derive(Clone)]
pub(super) struct Tables {
    pub(super) active: Arc<Memtable>,
    /// Newest first.
    pub(super) frozen: Vec<Arc<Memtable>>,
    /// Newest first: the one being filled, if any, and the one being written out, if any.
    pub(super) runs: Vec<Arc<Run>>,
    pub(super) base: Arc<Base>,
    /// The log of the memtable that was spilled last: in the run too, but quicker here.
    pub(super) recent: Arc<Log>,
}

impl Tables {
    fn memtables(&self) -> impl Iterator<Item = &Memtable> {
        std::iter::once(&*self.active).chain(self.frozen.iter().map(|table| &**table))
    }

    /// All logs, oldest first.
    fn logs(&self) -> impl Iterator<Item = &Log> {
        let frozen = self.frozen.iter().rev().map(|table| &*table.log);
        std::iter::once(&*self.recent).chain(frozen).chain(std::iter::once(&*self.active.log))
    }

    /// The first revision that is in a log; all after it are too.
    pub(super) fn first_logged(&self) -> Option<Revision> {
        self.logs().find_map(Log::first)
    }

    /// Up to `count` revisions from a given one on, as far as one log has them.
    pub(super) fn logged(&self, from: Revision, count: usize) -> Vec<Logged> {
        self.logs()
            .map(|log| log.from(from, count))
            .find(|found| !found.is_empty())
            .unwrap_or_default()
    }

    /// The newest revision that is no longer in a memtable.
    pub(super) fn stored(&self) -> Revision {
        self.runs.first().map_or(self.base.revision, |run| run.revision)
    }

    /// Visits the versions that are no longer in memtables, from one revision to another, both
    /// included, in order, for as long as `visit` answers true.
    pub(super) fn versions(
        &self,
        from: Revision,
        upto: Revision,
        visit: &mut dyn FnMut(&HistRow<'_>) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let mut goes_on = true;
        self.base.versions(from, upto.min(self.base.revision), &mut |row| {
            goes_on = visit(row)?;
            Ok(goes_on)
        })?;
        for run in self.runs.iter().rev() {
            if !goes_on {
                break;
            }
            goes_on = run.versions(from, upto, visit)?;
        }
        Ok(())
    }

    /// The run that has a revision which is not in the base.
    fn run_of(&self, revision: Revision) -> Option<&Run> {
        self.runs.iter().rev().find(|run| revision <= run.revision).map(|run| &**run)
    }

    /// One of them by its name, if it is retained.
    pub(super) fn version(&self, at: Version) -> Result<Option<Found>, Fault> {
        if at.main <= self.base.revision {
            return self.base.version(at);
        }
        self.run_of(at.main).map_or(Ok(None), |run| run.version(at))
    }

    /// By how many live keys a range has grown from one revision to a later one.
    pub(super) fn growth(
        &self,
        range: &KeyRange,
        after: Revision,
        upto: Revision,
    ) -> Result<i64, Fault> {
        let (mut growth, mut next) = (0, after.next());
        let logged_from = self.first_logged().unwrap_or_else(|| self.stored().next());
        let stored_upto = upto.min(Revision(logged_from.0 - 1));
        self.versions(next, stored_upto, &mut |row| {
            if range.contains(row.key) {
                growth += match row.meta.version {
                    0 => -1,
                    1 => 1,
                    _ => 0,
                };
            }
            Ok(true)
        })?;
        next = next.max(logged_from);
        while next <= upto {
            let batch = self.logged(next, LOGGED_AT_ONCE);
            let Some(last) = batch.last() else { break };
            let revisions = batch.iter().map(|logged| &logged.revised);
            let events = revisions.take_while(|r| r.revision <= upto).flat_map(|r| &r.events);
            let inside = events.filter(|event| range.contains(&event.kv.key));
            growth += inside.map(Event::growth).sum::<i64>();
            next = last.revised.revision.next();
        }
        Ok(growth)
    }

    fn visit_base(
        &self,
        walk: &Walk,
        at: Revision,
        visit: &mut dyn FnMut(&Row<'_>) -> Result<bool, Fault>,
    ) -> Result<bool, Fault> {
        let (Some(key), Some(row)) = (walk.key(), walk.row()) else { return Ok(true) };
        let (meta, place) = record::read_cur(row)?;
        let key = Piece::Borrowed(key);
        if meta.at.main > at {
            return match self.base.older(&meta, at)? {
                Some(found) if !found.meta.is_tombstone() => {
                    let value = Some(Piece::Shared(&found.value));
                    visit(&Row { key, meta: found.meta, value })
                }
                _ => Ok(true),
            };
        }
        if meta.is_tombstone() {
            return Ok(true);
        }
        let value = match place {
            Place::Inline(value) => Some(Piece::Borrowed(value)),
            Place::History => None,
        };
        visit(&Row { key, meta, value })
    }
}

/// A place in a table above the base.
enum Cursor<'a> {
    Memtable(memtable::Cursor<'a>),
    Run(run::Cursor<'a>),
}

impl Cursor<'_> {
    fn key(&self) -> Option<&[u8]> {
        match self {
            Self::Memtable(cursor) => cursor.key().map(|key| &key[..]),
            Self::Run(cursor) => cursor.key(),
        }
    }

    fn advance(&mut self) {
        match self {
            Self::Memtable(cursor) => cursor.advance(),
            Self::Run(cursor) => cursor.advance(),
        }
    }

    fn visit(
        &self,
        buffer: &mut Vec<u8>,
        visit: &mut dyn FnMut(&Row<'_>) -> Result<bool, Fault>,
    ) -> Result<bool, Fault> {
        match self {
            Self::Memtable(cursor) => match (cursor.key(), cursor.stored()) {
                (Some(key), Some(stored)) if !stored.meta.is_tombstone() => visit(&Row {
                    key: Piece::Shared(key),
                    meta: stored.meta,
                    value: Some(Piece::Shared(&stored.value)),
                }),
                _ => Ok(true),
            },
            Self::Run(cursor) => match cursor.read(buffer)? {
                row if row.meta.is_tombstone() => Ok(true),
                HistRow { meta, key, value, .. } => visit(&Row {
                    key: Piece::Borrowed(key),
                    meta,
                    value: Some(Piece::Borrowed(value)),
                }),
            },
        }
    }
}

/// The newest of the tables that stand on the smallest key.
fn newest(cursors: &[Cursor<'_>]) -> Option<usize> {
    let keys = cursors.iter().enumerate().filter_map(|(nth, cursor)| Some((cursor.key()?, nth)));
    keys.min().map(|(_, nth)| nth)
}

impl Rows for Tables {
    fn get(&self, key: &Bytes, at: Revision) -> Result<Option<(Meta, Bytes)>, Fault> {
        if let Some(found) = self.memtables().find_map(|table| table.get(key, at)) {
            return Ok(Some(found));
        }
        for run in &self.runs {
            if let Some(found) = run.get(key, at)? {
                return Ok(Some((found.meta, found.value)));
            }
        }
        self.base.get(key, at)
    }

    fn scan(
        &self,
        range: &KeyRange,
        at: Revision,
        visit: &mut dyn FnMut(&Row<'_>) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let memtables = self.memtables().map(|table| Cursor::Memtable(table.cursor(range, at)));
        let runs = self.runs.iter().map(|run| Cursor::Run(run.cursor(range, at)));
        let mut cursors: Vec<Cursor<'_>> =
            memtables.chain(runs).filter(|cursor| cursor.key().is_some()).collect();
        let mut walk = self.base.walk(range)?;
        let (mut key, mut buffer) = (Vec::new(), Vec::new());
        while let Some(nth) = newest(&cursors) {
            key.clear();
            key.extend_from_slice(cursors[nth].key().expect("it stands on the smallest key"));
            while walk.key().is_some_and(|base_key| base_key < &key[..]) {
                if !self.visit_base(&walk, at, visit)? {
                    return Ok(());
                }
                walk.advance()?;
            }
            if walk.key() == Some(&key[..]) {
                walk.advance()?;
            }
            if !cursors[nth].visit(&mut buffer, visit)? {
                return Ok(());
            }
            for cursor in &mut cursors {
                if cursor.key() == Some(&key[..]) {
                    cursor.advance();
                }
            }
        }
        while walk.key().is_some() {
            if !self.visit_base(&walk, at, visit)? {
                return Ok(());
            }
            walk.advance()?;
        }
        Ok(())
    }

    fn value(&self, at: Version) -> Result<Bytes, Fault> {
        self.base.value(at)
    }

    fn links(&self, key: &Bytes, at: Version) -> Result<Option<Links>, Fault> {
        match self.memtables().find_map(|table| table.version(key, at)) {
            Some(meta) => Ok(Some(meta.links)),
            None if at.main <= self.base.revision => self.base.links(at),
            None => Ok(self.version(at)?.map(|found| found.meta.links)),
        }
    }

    fn dead(&self, at: Revision) -> Result<Option<u64>, Fault> {
        match self.logged(at, 1).first() {
            Some(logged) => Ok(logged.traces.last().map(|trace| trace.dead)),
            None if at <= self.base.revision => self.base.dead(at),
            None => self.run_of(at).map_or(Ok(None), |run| run.dead(at)),
        }
    }
}

impl RowsMut for Tables {
    fn insert(&self, key: Bytes, meta: Meta, value: Bytes) {
        self.active.insert(key, meta, value);
    }

    fn remove(&self, key: &Bytes, at: Version) {
        self.active.remove(key, at);
    }
}
