//! All of the store at one instant, for those who copy it whole.
//!
//! A [`View`] has the versions of keys and the small facts. Leases and raft's part are read beside
//! it as they are now, which is enough for questions about them; a copy needs all of it from the
//! same instant. So a moment is taken under the lock that applying takes, which costs the writers
//! the time to copy the list of leases.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    record::HistRow,
    view::{Reader, View},
};
use crate::{
    command::{LeaseId, Revision},
    fault::Fault,
    machine::{
        auth::Auth,
        rows::{Meta, Rows as _},
    },
};

/// The store as of one log entry.
pub struct Moment {
    pub view: View,
    /// By id: seconds granted, and remaining where the leader has noted them.
    pub leases: Vec<(LeaseId, i64, i64)>,
    /// The last entry applied.
    pub applied: Option<u64>,
    /// What raft keeps with it.
    pub raft: Bytes,
    pub auth: Arc<Auth>,
}

/// A version that compaction has not forgotten.
#[derive(Clone, Copy, Debug)]
pub struct Retained<'a> {
    pub meta: Meta,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

impl Reader {
    /// Everything as of the last entry applied.
    #[must_use]
    pub fn moment(&self) -> Moment {
        // Before the view: what the database has done by then, the view's database has done.
        let swept = self.shared.durable.borrow().compacted;
        let core = self.shared.core();
        let leases = core.state.leases.iter();
        let leases = leases.map(|(id, lease)| (id, lease.ttl, lease.remaining)).collect();
        Moment {
            view: View { swept, ..self.view() },
            leases,
            applied: core.applied,
            raft: core.raft.clone(),
            auth: core.state.auth.clone(),
        }
    }
}

impl View {
    /// Visits all versions that are not forgotten, by revision. The same every time.
    pub fn retained<E: From<Fault>>(
        &self,
        visit: &mut dyn FnMut(&Retained<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut stopped = None;
        self.each_version(self.revision(), &mut |row| {
            if stopped.is_none() && !self.is_forgotten(row)? {
                let retained = Retained { meta: row.meta, key: row.key, value: row.value };
                stopped = visit(&retained).err();
            }
            Ok(stopped.is_none())
        })?;
        stopped.map_or(Ok(()), Err)
    }

    /// Versions are forgotten by a mark and removed later, so rows of forgotten ones are met.
    fn is_forgotten(&self, row: &HistRow<'_>) -> Result<bool, Fault> {
        let (at, compacted) = (row.meta.at, self.compacted());
        if at.main > compacted || self.swept == compacted {
            return Ok(false);
        }
        if row.meta.is_tombstone() {
            return Ok(at.main < compacted);
        }
        let key = Bytes::copy_from_slice(row.key);
        let newest = self.current.tables.get(&key, compacted)?;
        Ok(newest.is_none_or(|(newest, _)| newest.at != at))
    }
}

/// What a view of which nothing is known says: no compaction has been carried out.
pub(super) const NOT_SWEPT: Revision = Revision(i64::MIN);
