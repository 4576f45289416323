//! The database below the memtables: tables, and reading versions from them.
//!
//! A [`Base`] is one read transaction, so everything read through it belongs to one checkpoint.

use std::{ops::Bound, sync::Arc};

use bytes::Bytes;
use redb::{AccessGuard, Database, ReadOnlyTable, ReadableDatabase as _, TableDefinition};

use super::backend::Store;
use super::record::{self, HistKey, Place, hist_key, read_hist_key};
use crate::{
    command::{KeyRange, LeaseId, Revision},
    fault::Fault,
    machine::{
        links,
        rows::{Links, Meta, Version},
    },
};

/// Key → newest version, tombstones included.
pub(super) const CUR: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("cur");
/// Version → its record, for all retained versions.
pub(super) const HIST: TableDefinition<'_, &HistKey, &[u8]> = TableDefinition::new("hist");
/// Where a bucket of live keys begins → how many are in it; see `counts`.
pub(super) const COUNT: TableDefinition<'_, &[u8], u32> = TableDefinition::new("count");
/// Lease → (seconds granted, seconds remaining).
pub(super) const LEASE: TableDefinition<'_, i64, (i64, i64)> = TableDefinition::new("lease");
/// Keys attached to leases.
pub(super) const LEASE_KEYS: TableDefinition<'_, (i64, &[u8]), ()> =
    TableDefinition::new("lease_keys");
/// (Member, kind of alarm).
pub(super) const ALARM: TableDefinition<'_, (u64, u8), ()> = TableDefinition::new("alarm");
/// Member → its attributes, as the command that set them.
pub(super) const MEMBER: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("member");
/// User → the user. See `command::encode_user`.
pub(super) const AUTH_USER: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("auth_user");
/// Role → the role. See `command::encode_role`.
pub(super) const AUTH_ROLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("auth_role");
/// Single facts by name; see `meta`.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

type CurEntry = (AccessGuard<'static, &'static [u8]>, AccessGuard<'static, &'static [u8]>);

/// One checkpoint, open for reading.
pub(super) struct Base {
    /// Nothing once the engine has been closed.
    stored: Option<Stored>,
    /// The newest revision in it.
    pub(super) revision: Revision,
}

struct Stored {
    cur: ReadOnlyTable<&'static [u8], &'static [u8]>,
    hist: ReadOnlyTable<&'static HistKey, &'static [u8]>,
    /// Open for as long as somebody reads from it.
    store: Arc<Store>,
}

/// A version with its value, from `hist`.
pub(super) struct Found {
    pub(super) meta: Meta,
    pub(super) value: Bytes,
}

impl Base {
    pub(super) fn open(store: &Arc<Store>, revision: Revision) -> Result<Arc<Self>, Fault> {
        let read = store.database.begin_read()?;
        let (cur, hist) = (read.open_table(CUR)?, read.open_table(HIST)?);
        let stored = Some(Stored { cur, hist, store: Arc::clone(store) });
        Ok(Arc::new(Self { stored, revision }))
    }

    /// Stands in for a checkpoint that must no longer be read.
    pub(super) fn closed(revision: Revision) -> Arc<Self> {
        Arc::new(Self { stored: None, revision })
    }

    fn stored(&self) -> Result<&Stored, Fault> {
        self.stored.as_ref().ok_or(Fault::Stopped)
    }

    /// The database it is in.
    pub(super) fn store(&self) -> Result<&Arc<Store>, Fault> {
        Ok(&self.stored()?.store)
    }

    /// The length of the database's file.
    pub(super) fn file_bytes(&self) -> u64 {
        self.stored.as_ref().map_or(0, |stored| stored.store.file_bytes())
    }

    /// The newest version of a key at or below a revision.
    pub(super) fn get(&self, key: &[u8], at: Revision) -> Result<Option<(Meta, Bytes)>, Fault> {
        let Some(row) = self.stored()?.cur.get(key)? else { return Ok(None) };
        let (meta, place) = record::read_cur(row.value())?;
        if meta.at.main > at {
            return Ok(self.older(&meta, at)?.map(|found| (found.meta, found.value)));
        }
        let value = match place {
            Place::Inline(value) => Bytes::copy_from_slice(value),
            Place::History => self.value(meta.at)?,
        };
        Ok(Some((meta, value)))
    }

    /// Follows the chain from a version that is too new. Where the chain ends or the row is gone
    /// (compaction removes a tombstone below the compacted revision), there was no such key.
    pub(super) fn older(&self, newer: &Meta, at: Revision) -> Result<Option<Found>, Fault> {
        let mut links = newer.links;
        loop {
            let next = links::towards(&links, at);
            if next == Version::NONE {
                return Ok(None);
            }
            let Some(row) = self.stored()?.hist.get(&hist_key(next))? else { return Ok(None) };
            let row = record::read_hist(next, row.value())?;
            if next.main <= at {
                return Ok(Some(Found { meta: row.meta, value: row.value() }));
            }
            links = row.meta.links;
        }
    }

    pub(super) fn value(&self, at: Version) -> Result<Bytes, Fault> {
        let row = self.stored()?.hist.get(&hist_key(at))?.ok_or_else(|| {
            Fault::Damaged(format!("the history lacks revision {}, which is in use", at.main))
        })?;
        Ok(record::read_hist(at, row.value())?.value())
    }

    pub(super) fn links(&self, at: Version) -> Result<Option<Links>, Fault> {
        let Some(row) = self.stored()?.hist.get(&hist_key(at))? else { return Ok(None) };
        Ok(Some(record::read_hist(at, row.value())?.meta.links))
    }

    /// The bytes counted as dead after the last change of a revision.
    pub(super) fn dead(&self, at: Revision) -> Result<Option<u64>, Fault> {
        let last = hist_key(Version { main: at, sub: u32::MAX });
        let first = hist_key(Version { main: at, sub: 0 });
        let Some(row) = self.stored()?.hist.range::<&HistKey>(&first..=&last)?.next_back() else {
            return Ok(None);
        };
        let (key, row) = row?;
        Ok(Some(record::read_hist(read_hist_key(key.value()), row.value())?.dead))
    }

    /// Walks the newest versions of a range, by key.
    pub(super) fn walk(&self, range: &KeyRange) -> Result<Walk, Fault> {
        let start = range.start().as_ref();
        let (lower, upper) = match range {
            _ if range.is_empty() => return Ok(Walk { rows: None, row: None }),
            KeyRange::Key(_) => (Bound::Included(start), Bound::Included(start)),
            KeyRange::Span(_, end) => (Bound::Included(start), Bound::Excluded(end.as_ref())),
            KeyRange::From(_) => (Bound::Included(start), Bound::Unbounded),
        };
        let rows = self.stored()?.cur.range::<&[u8]>((lower, upper))?;
        let mut walk = Walk { rows: Some(rows), row: None };
        walk.advance()?;
        Ok(walk)
    }

    /// Visits the versions of `hist` from one revision to another, both included, in order, for as
    /// long as `visit` answers true.
    pub(super) fn versions(
        &self,
        from: Revision,
        upto: Revision,
        visit: &mut dyn FnMut(&record::HistRow<'_>) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        if from > upto {
            return Ok(());
        }
        let first = hist_key(Version { main: from, sub: 0 });
        let last = hist_key(Version { main: upto, sub: u32::MAX });
        for row in self.stored()?.hist.range::<&HistKey>(&first..=&last)? {
            let (key, row) = row?;
            if !visit(&record::read_hist(read_hist_key(key.value()), row.value())?)? {
                break;
            }
        }
        Ok(())
    }

    /// A version by its name, if it is retained.
    pub(super) fn version(&self, at: Version) -> Result<Option<Found>, Fault> {
        self.look_at(at, |row| Found { meta: row.meta, value: row.value() })
    }

    /// Shows a row of the history, if it is there.
    pub(super) fn look_at<T>(
        &self,
        at: Version,
        look: impl FnOnce(&record::HistRow<'_>) -> T,
    ) -> Result<Option<T>, Fault> {
        let Some(row) = self.stored()?.hist.get(&hist_key(at))? else { return Ok(None) };
        Ok(Some(look(&record::read_hist(at, row.value())?)))
    }
}

/// Stands on one row of `cur` after another.
pub(super) struct Walk {
    rows: Option<redb::Range<'static, &'static [u8], &'static [u8]>>,
    row: Option<CurEntry>,
}

impl Walk {
    pub(super) fn key(&self) -> Option<&[u8]> {
        self.row.as_ref().map(|(key, _)| key.value())
    }

    pub(super) fn row(&self) -> Option<&[u8]> {
        self.row.as_ref().map(|(_, row)| row.value())
    }

    pub(super) fn advance(&mut self) -> Result<(), Fault> {
        self.row = match &mut self.rows {
            Some(rows) => rows.next().transpose()?,
            None => None,
        };
        Ok(())
    }
}

/// Leases and their keys as the last checkpoint left them.
pub(super) fn read_leases(database: &Database) -> Result<crate::machine::lease::Leases, Fault> {
    let read = database.begin_read()?;
    let mut leases = crate::machine::lease::Leases::default();
    for row in read.open_table(LEASE)?.range::<i64>(..)? {
        let (id, row) = row?;
        let (ttl, remaining) = row.value();
        leases.restore(LeaseId(id.value()), ttl, remaining);
    }
    for row in read.open_table(LEASE_KEYS)?.range::<(i64, &[u8])>(..)? {
        let (row, _) = row?;
        let (id, key) = row.value();
        if !leases.restore_key(LeaseId(id), Bytes::copy_from_slice(key)) {
            return Err(Fault::Damaged(format!("keys are attached to lease {id}, which is gone")));
        }
    }
    Ok(leases)
}
