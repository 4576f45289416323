//! What the machine reads and writes: versions of keys.
//!
//! Every write of a key makes a *version*, named by the revision it was made at and its place among
//! the changes of that revision. Versions are never changed. A deletion is a version too, a
//! tombstone. The state at revision R is, for each key, its newest version at or below R, unless
//! that is a tombstone.
//!
//! Versions of one key form a chain by their back pointers ([`Links`]), with jumps that make any
//! old version reachable in a logarithmic number of steps.
//!
//! The traits are the line between this pure folder and the engine, which keeps versions in
//! memtables above a database.

use bytes::Bytes;

use crate::{
    command::{KeyRange, KeyValue, LeaseId, Revision},
    fault::Fault,
};

/// Names a version: the revision, and the place among that revision's changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub main: Revision,
    pub sub: u32,
}

impl Version {
    /// Stands for "there is none": nothing was ever written at revision 0.
    pub const NONE: Self = Self { main: Revision(0), sub: 0 };
}

/// Where a version's predecessors are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Position in the chain of the key's versions, tombstones included, from 1.
    pub depth: u32,
    /// The version before this one.
    pub prev: Version,
    /// A version further back; see [`super::links`].
    pub jump: Version,
}

/// All of a version but its key and value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    pub at: Version,
    pub create: Revision,
    /// Writes since the key was created, from 1; 0 marks a tombstone.
    pub version: i64,
    pub lease: LeaseId,
    pub links: Links,
}

impl Meta {
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    /// The version as clients see it.
    #[must_use]
    pub fn with(&self, key: Bytes, value: Bytes) -> KeyValue {
        KeyValue {
            key,
            value,
            create: self.create,
            modified: self.at.main,
            version: self.version,
            lease: self.lease,
        }
    }
}

/// Bytes that are shared already, or still inside a page of the database.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    Shared(&'a Bytes),
    Borrowed(&'a [u8]),
}

impl Piece<'_> {
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Piece::Shared(bytes) => bytes,
            Piece::Borrowed(bytes) => bytes,
        }
    }
}

/// A live key met by a scan.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub key: Piece<'a>,
    pub meta: Meta,
    /// Absent when the value is kept in the history only: see [`Rows::value`].
    pub value: Option<Piece<'a>>,
}

/// Read access to versions.
pub trait Rows {
    /// The newest version of a key at or below a revision, tombstones included.
    fn get(&self, key: &Bytes, at: Revision) -> Result<Option<(Meta, Bytes)>, Fault>;

    /// Visits the live keys of a range at a revision in ascending order, for as long as `visit`
    /// answers true.
    fn scan(
        &self,
        range: &KeyRange,
        at: Revision,
        visit: &mut dyn FnMut(&Row<'_>) -> Result<bool, Fault>,
    ) -> Result<(), Fault>;

    /// How many live keys a range has at a revision. This walks; a store that keeps counts knows.
    fn count(&self, range: &KeyRange, at: Revision) -> Result<u64, Fault> {
        let mut count = 0;
        self.scan(range, at, &mut |_| {
            count += 1;
            Ok(true)
        })?;
        Ok(count)
    }

    /// The value of a version that is known to be retained.
    fn value(&self, at: Version) -> Result<Bytes, Fault>;

    /// The links of one version of a key, unless compaction has removed it.
    fn links(&self, key: &Bytes, at: Version) -> Result<Option<Links>, Fault>;

    /// What [`super::size`] had counted as dead once the last change of a revision was made;
    /// nothing for a revision without changes.
    fn dead(&self, at: Revision) -> Result<Option<u64>, Fault>;
}

/// Write access to versions. Readers do not see a version before its revision is published.
pub trait RowsMut: Rows {
    fn insert(&self, key: Bytes, meta: Meta, value: Bytes);

    /// Takes back a version of the revision being made.
    fn remove(&self, key: &Bytes, at: Version);
}
