//! An image, as the contents of a fresh store.
//!
//! What etcd's restore does: the history, leases, alarms, users and roles are taken, the members
//! are not, for the store begins a cluster of its own. The history keeps its revisions, so watchers
//! and clients find what they knew; compacted revisions stay compacted.
//!
//! Everything is read through [`super::read`], and every version is checked against what the store
//! relies on before it is loaded.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use super::{
    read::{Entry, Image, ReadError, Source},
    schema::{self, Bucket, Lease, Stored, StoredMember, fact},
    summary::{Compaction, SummaryError, compaction},
    wire::Malformed,
};
use crate::{
    command::{Alarm, LeaseId, Permission, Revision, User},
    engine::{Identity, LoadedFacts, Loader, Storage},
    fault::Fault,
    machine::{auth::Auth, rows::Version},
};

/// What to do with a file beside reading it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Adds this to the newest revision and marks all before as compacted, so that no client ever
    /// sees a revision twice; 0 leaves revisions as they are.
    pub bump_revision: u64,
}

/// What was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    pub revision: i64,
    pub compacted: i64,
    pub versions: u64,
    pub leases: usize,
}

/// Why a file was not loaded. What had been written of the new store is worthless then.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("snapshot missing hash but --skip-hash-check=false")]
    NoDigest,
    #[error("expected sha256 {expected}, got {found}: the file was damaged after it was saved")]
    Digest { expected: String, found: String },
    #[error("the file's entry in the bucket `{bucket}` makes no sense")]
    Entry { bucket: String },
    #[error("the file's version at revision {revision} makes no sense: {what}")]
    Version { revision: i64, what: &'static str },
    #[error("the new store cannot be written")]
    Store(#[from] Fault),
}

impl From<SummaryError> for ImportError {
    fn from(error: SummaryError) -> Self {
        match error {
            SummaryError::Read(error) => Self::Read(error),
            _ => Self::Entry { bucket: "meta".to_owned() },
        }
    }
}

/// Compares a file with the digest that follows it.
pub fn check_digest(image: &Image<impl Source>) -> Result<(), ImportError> {
    let expected = image.digest().ok_or(ImportError::NoDigest)?;
    let mut digest = Sha256::new();
    image.bytes(&mut |bytes| {
        digest.update(bytes);
        Ok::<(), ImportError>(())
    })?;
    let found: [u8; 32] = digest.finalize().into();
    if found == expected {
        return Ok(());
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Err(ImportError::Digest { expected: hex(&expected), found: hex(&found) })
}

/// The small buckets of a file.
#[derive(Clone, Debug, Default)]
pub struct Small {
    pub(super) leases: BTreeMap<LeaseId, (i64, i64)>,
    pub(super) alarms: BTreeSet<Alarm>,
    pub(super) members: Vec<StoredMember>,
    auth_enabled: bool,
    auth_revision: u64,
    users: Vec<User>,
    roles: Vec<(String, Vec<Permission>)>,
    /// The last entry of etcd's log that is in it.
    pub consistent_index: u64,
    pub term: u64,
}

impl Small {
    /// Reads everything but the versions.
    pub fn read(image: &Image<impl Source>) -> Result<Self, ImportError> {
        let mut small = Self::default();
        for bucket in Bucket::ALL.iter().filter(|bucket| **bucket != Bucket::KEY) {
            image.walk_only(bucket, &mut |entry: &Entry<'_>| {
                let (Some(value), [_]) = (entry.value, entry.path) else { return Ok(()) };
                small.take(bucket, entry.key, value).map_err(|Malformed| ImportError::Entry {
                    bucket: String::from_utf8_lossy(bucket).into_owned(),
                })
            })?;
        }
        Ok(small)
    }

    fn take(&mut self, bucket: &[u8], key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        match bucket {
            Bucket::LEASE => {
                let (id, ttl, remaining): Lease = schema::read_lease(value)?;
                self.leases.insert(id, (ttl, remaining));
            }
            Bucket::ALARM => self.alarms.extend(schema::read_alarm(key)?),
            Bucket::MEMBERS => self.members.push(schema::read_member(value)?),
            Bucket::AUTH_USERS => self.users.push(schema::read_user(value)?),
            Bucket::AUTH_ROLES => self.roles.push(schema::read_role(value)?),
            Bucket::AUTH if key == fact::AUTH_ENABLED => self.auth_enabled = value == [1],
            Bucket::AUTH if key == fact::AUTH_REVISION => {
                self.auth_revision = schema::read_number(value)?;
            }
            Bucket::META if key == fact::CONSISTENT_INDEX => {
                self.consistent_index = schema::read_number(value)?;
            }
            Bucket::META if key == fact::TERM => self.term = schema::read_number(value)?,
            _ => {}
        }
        Ok(())
    }

    /// The member that the file is of, if it was the only one: its id, name and peer URLs.
    #[must_use]
    pub fn only_member(&self) -> Option<(u64, &str, &[String])> {
        match &self.members[..] {
            [only] => {
                let attributes = &only.attributes;
                Some((attributes.id.0, &attributes.name, &only.peer_urls))
            }
            _ => None,
        }
    }
}

/// Loads a file into a fresh store. `progress` is called now and then with the number of versions.
pub fn import(
    image: &Image<impl Source>,
    storage: Storage,
    identity: Identity,
    options: Options,
    progress: &mut dyn FnMut(u64),
) -> Result<Imported, ImportError> {
    let small = Small::read(image)?;
    let bump = i64::try_from(options.bump_revision).unwrap_or(i64::MAX);
    let Compaction { at: mut compacted, is_finished: mut is_swept } = compaction(image)?;
    let mut revision = Revision(newest(image)?.max(compacted.0).max(Revision::FIRST.0));
    if bump > 0 {
        let sum = revision.0.checked_add(bump).filter(|sum| *sum < i64::MAX);
        let what = "it cannot be increased by so much";
        revision = Revision(sum.ok_or(ImportError::Version { revision: revision.0, what })?);
        // Which forgets versions that are still in the file.
        (is_swept, compacted) = (false, revision);
    }
    let mut loader = Loader::create(storage, identity, compacted)?;
    let (mut versions, mut last) = (0, Version::NONE);
    image.walk_only(Bucket::KEY, &mut |entry: &Entry<'_>| {
        let (Some(value), [_]) = (entry.value, entry.path) else { return Ok(()) };
        let (at, is_tombstone, stored) = version(entry.key, value, last)?;
        last = at;
        if is_revision_mark(&stored) {
            return Ok(());
        }
        let mut kv = stored.owned();
        if is_tombstone {
            (kv.version, kv.create, kv.lease) = (0, Revision(0), LeaseId::NONE);
        }
        loader.push(at, kv)?;
        versions += 1;
        if versions % 10_000 == 0 {
            progress(versions);
        }
        Ok::<(), ImportError>(())
    })?;
    // etcd counts changes from one; a file of an old version may hold no number.
    let auth = small.auth_revision.max(1);
    let auth = Auth::restore(small.auth_enabled, auth, small.users, small.roles);
    let (leases, alarms) = (small.leases, small.alarms);
    let count = leases.len();
    loader.finish(LoadedFacts { revision, is_swept, leases, alarms, auth })?;
    Ok(Imported { revision: revision.0, compacted: compacted.0, versions, leases: count })
}

/// A restore that raised the revision leaves an empty pair at the new one.
fn is_revision_mark(stored: &Stored<'_>) -> bool {
    stored.key.is_empty()
}

fn newest(image: &Image<impl Source>) -> Result<i64, ImportError> {
    let mut newest = 0;
    image.walk_only(Bucket::KEY, &mut |entry: &Entry<'_>| {
        let (Some(_), [_]) = (entry.value, entry.path) else { return Ok(()) };
        let what = "its name is none";
        let read = schema::read_revision_key(entry.key);
        newest = read.map_err(|_| ImportError::Version { revision: newest, what })?.0.main.0;
        Ok::<(), ImportError>(())
    })?;
    Ok(newest)
}

/// Reads a version and checks what the store relies on.
fn version<'a>(
    key: &[u8],
    value: &'a [u8],
    last: Version,
) -> Result<(Version, bool, Stored<'a>), ImportError> {
    let wrong = |what| ImportError::Version { revision: last.main.0, what };
    let (at, is_tombstone) =
        schema::read_revision_key(key).map_err(|_| wrong("its name is none"))?;
    let wrong = |what| Err(ImportError::Version { revision: at.main.0, what });
    let Ok(stored) = schema::read_stored(value) else { return wrong("its value is none") };
    if at <= last {
        return wrong("it does not come after the one before");
    }
    if is_tombstone && stored.key.is_empty() {
        return wrong("it deletes no key");
    }
    if is_tombstone || is_revision_mark(&stored) {
        return Ok((at, is_tombstone, stored));
    }
    let main = at.main.0;
    if stored.modified != main || stored.create < 1 || stored.create > main || stored.version < 1 {
        return wrong("its revisions contradict each other");
    }
    Ok((at, is_tombstone, stored))
}
