//! The tables at one revision, with the counts that belong to it.
//!
//! The tables alone can answer everything; the counts make "how many" cheap. At the newest revision
//! they are asked directly. At an older one the history in between tells which keys came and went
//! since: a client that lists page by page stays at the revision of its first page, usually not far
//! back. Where more was changed since than there is to walk, walking is quicker.

use bytes::Bytes;

use super::{counts::Counts, tables::Tables};
use crate::{
    command::{KeyRange, Revised, Revision},
    fault::Fault,
    machine::rows::{Links, Meta, Row, Rows, RowsMut, Version},
};

#[derive(Clone, Copy)]
pub(super) struct Snapshot<'a> {
    pub(super) tables: &'a Tables,
    pub(super) counts: &'a Counts,
    /// What the counts are of.
    pub(super) revision: Revision,
}

impl Snapshot<'_> {
    fn count_now(&self, range: &KeyRange) -> Result<u64, Fault> {
        self.counts.count(range, &|part| self.tables.count(part, self.revision))
    }
}

/// Brings counts up to date with a revision that has just been made in the tables.
pub(super) fn note(counts: &mut Counts, tables: &Tables, revised: &Revised) -> Result<(), Fault> {
    counts.note(revised, &|range, half| nth_key(tables, range, revised.revision, half))
}

fn nth_key(
    tables: &Tables,
    range: &KeyRange,
    at: Revision,
    nth: u64,
) -> Result<Option<Bytes>, Fault> {
    let (mut passed, mut found) = (0, None);
    tables.scan(range, at, &mut |row| {
        if passed == nth {
            found = Some(Bytes::copy_from_slice(row.key.as_slice()));
        }
        passed += 1;
        Ok(found.is_none())
    })?;
    Ok(found)
}

impl Rows for Snapshot<'_> {
    fn get(&self, key: &Bytes, at: Revision) -> Result<Option<(Meta, Bytes)>, Fault> {
        self.tables.get(key, at)
    }

    fn scan(
        &self,
        range: &KeyRange,
        at: Revision,
        visit: &mut dyn FnMut(&Row<'_>) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        self.tables.scan(range, at, visit)
    }

    fn count(&self, range: &KeyRange, at: Revision) -> Result<u64, Fault> {
        let later = self.revision.0.saturating_sub(at.0).max(0).cast_unsigned();
        if later == 0 {
            return self.count_now(range);
        }
        if later > self.counts.at_most(range) {
            return self.tables.count(range, at);
        }
        let grown = self.tables.growth(range, at, self.revision)?;
        let then = self.count_now(range)?.checked_add_signed(-grown);
        then.ok_or_else(|| Fault::Damaged("more keys were created than there are".into()))
    }

    fn value(&self, at: Version) -> Result<Bytes, Fault> {
        self.tables.value(at)
    }

    fn links(&self, key: &Bytes, at: Version) -> Result<Option<Links>, Fault> {
        self.tables.links(key, at)
    }

    fn dead(&self, at: Revision) -> Result<Option<u64>, Fault> {
        self.tables.dead(at)
    }
}

impl RowsMut for Snapshot<'_> {
    fn insert(&self, key: Bytes, meta: Meta, value: Bytes) {
        self.tables.insert(key, meta, value);
    }

    fn remove(&self, key: &Bytes, at: Version) {
        self.tables.remove(key, at);
    }
}
