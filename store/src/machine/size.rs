//! How much the store holds, counted alike on all members.
//!
//! The size is that of the retained versions, not of the file: files differ between members, and a
//! decision taken by the log (the space alarm) must not. Versions are removed by compaction, which
//! each member carries out in its own time, so the count is not taken there. Instead each change
//! records how many bytes have died so far; the number recorded with the last change of the
//! compacted revision is what compaction frees.
//!
//! A version dies when it is replaced; a tombstone dies with the revision after it, because one at
//! exactly the compacted revision is kept for watchers.

use super::rows::Version;
use crate::limits::VERSION_BYTES_OVERHEAD;

/// Running totals since the store was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub written: u64,
    /// Of what was written, what the next compaction at the newest revision frees, but for the
    /// newest revision's tombstones.
    pub dead: u64,
    /// Tombstones of the newest revision.
    pub tombstones: u64,
    /// Of what has died, what compaction has freed.
    pub freed: u64,
}

impl Sizes {
    /// Bytes of all retained versions.
    #[must_use]
    pub fn retained(&self) -> u64 {
        self.written - self.freed
    }

    /// Bytes that the current state needs.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.written - self.dead - self.tombstones
    }

    /// Begins a revision.
    pub(crate) fn next_revision(&mut self) {
        self.dead += std::mem::take(&mut self.tombstones);
    }

    /// Counts a change: the bytes of the new version, and of the live one it replaces.
    pub(crate) fn change(&mut self, new: u64, replaced: Option<u64>, is_tombstone: bool) {
        self.written += new;
        self.dead += replaced.unwrap_or(0);
        if is_tombstone {
            self.tombstones += new;
        }
        assert!(self.freed <= self.dead && self.dead + self.tombstones <= self.written);
    }
}

/// What one version counts.
#[must_use]
pub fn cost(key: &[u8], value: &[u8]) -> u64 {
    VERSION_BYTES_OVERHEAD + key.len() as u64 + value.len() as u64
}

/// What is kept of a change beside its event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    pub links: super::rows::Links,
    /// [`Sizes::dead`] after the change.
    pub dead: u64,
}

const _: () = assert!(size_of::<Version>() <= 16, "links are copied with every row");
