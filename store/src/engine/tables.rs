//! Memtables over the database, read as one.
//!
//! ```text
//! active ─ frozen ─ frozen ─ base        newer ──▶ older; whoever has a key first decides
//! ```
//!
//! All versions in a memtable are newer than all in the tables after it, so the first table that has
//! a version of a key at or below the revision asked for has the right one. A scan merges the
//! tables' sorted rows and takes each key from the first table that has it.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    base::{Base, Walk},
    memtable::{Cursor, Log, Logged, Memtable},
    record::{self, Place},
};
use crate::{
    command::{Event, KeyRange, Revision},
    fault::Fault,
    machine::rows::{Links, Meta, Piece, Row, Rows, RowsMut, Version},
};

/// Revisions taken from a log under one hold of its lock.
const LOGGED_AT_ONCE: usize = 1024;

/// Everything there is to read. Replaced as a whole when a memtable is frozen or written out.
pub(super) struct Tables {
    pub(super) active: Arc<Memtable>,
    /// Newest first.
    pub(super) frozen: Vec<Arc<Memtable>>,
    pub(super) base: Arc<Base>,
    /// The log of the memtable that was written out last: in the database too, but quicker here.
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

    /// By how many live keys a range has grown from one revision to a later one.
    pub(super) fn growth(
        &self,
        range: &KeyRange,
        after: Revision,
        upto: Revision,
    ) -> Result<i64, Fault> {
        let (mut growth, mut next) = (0, after.next());
        let logged_from = self.first_logged().unwrap_or_else(|| self.base.revision.next());
        let stored_upto = upto.min(Revision(logged_from.0 - 1));
        self.base.versions(next, stored_upto, &mut |row| {
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

/// The smallest key that cursors stand on, and the newest table that has it.
fn newest(cursors: &[Cursor<'_>]) -> Option<(Bytes, usize)> {
    let keys = cursors.iter().enumerate().filter_map(|(nth, cursor)| Some((cursor.key()?, nth)));
    keys.min().map(|(key, nth)| (key.clone(), nth))
}

fn visit_mem(
    cursor: &Cursor<'_>,
    visit: &mut dyn FnMut(&Row<'_>) -> Result<bool, Fault>,
) -> Result<bool, Fault> {
    match (cursor.key(), cursor.stored()) {
        (Some(key), Some(stored)) if !stored.meta.is_tombstone() => visit(&Row {
            key: Piece::Shared(key),
            meta: stored.meta,
            value: Some(Piece::Shared(&stored.value)),
        }),
        _ => Ok(true),
    }
}

impl Rows for Tables {
    fn get(&self, key: &Bytes, at: Revision) -> Result<Option<(Meta, Bytes)>, Fault> {
        match self.memtables().find_map(|table| table.get(key, at)) {
            Some(found) => Ok(Some(found)),
            None => self.base.get(key, at),
        }
    }

    fn scan(
        &self,
        range: &KeyRange,
        at: Revision,
        visit: &mut dyn FnMut(&Row<'_>) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let mut cursors: Vec<Cursor<'_>> = self
            .memtables()
            .map(|table| table.cursor(range, at))
            .filter(|cursor| cursor.key().is_some())
            .collect();
        let mut walk = self.base.walk(range)?;
        while let Some((key, nth)) = newest(&cursors) {
            while walk.key().is_some_and(|base_key| base_key < &key[..]) {
                if !self.visit_base(&walk, at, visit)? {
                    return Ok(());
                }
                walk.advance()?;
            }
            if walk.key() == Some(&key[..]) {
                walk.advance()?;
            }
            if !visit_mem(&cursors[nth], visit)? {
                return Ok(());
            }
            for cursor in &mut cursors {
                if cursor.key() == Some(&key) {
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
            None => self.base.links(at),
        }
    }

    fn dead(&self, at: Revision) -> Result<Option<u64>, Fault> {
        match self.logged(at, 1).first() {
            Some(logged) => Ok(logged.traces.last().map(|trace| trace.dead)),
            None => self.base.dead(at),
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
