//! What a file holds, in a few numbers: for `snapshot status` and `hashkv`.
//!
//! Both go through the file once or twice and keep sixteen bytes and a little for each key ever
//! met, instead of the keys themselves.

use std::collections::HashMap;

use sha1::{Digest as _, Sha1};

use super::{
    read::{Entry, Image, ReadError, Source},
    schema::{self, Bucket, fact},
};
use crate::{
    command::Revision,
    machine::{digest::Hasher, rows::Version},
};

/// What `snapshot status` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// CRC-32C of all buckets' names, keys and values.
    pub hash: u32,
    pub revision: i64,
    /// Keys that are alive.
    pub total_keys: u64,
    pub total_bytes: u64,
    /// Empty for files of etcd before 3.6.
    pub version: String,
}

/// What `hashkv` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    pub hash: u32,
    pub revision: i64,
    pub compacted: i64,
}

/// Why a file has no summary.
#[derive(Debug, thiserror::Error)]
pub enum SummaryError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the file holds a version that makes no sense, after revision {after}")]
    Version { after: i64 },
    #[error("the revision has been compacted; the oldest is {compacted}")]
    Compacted { compacted: i64 },
    #[error("the revision lies in the future; the newest is {current}")]
    Future { current: i64 },
}

/// Names a key: collisions of this many bits do not happen by chance.
type Name = [u8; 16];

fn name(key: &[u8]) -> Name {
    Sha1::digest(key)[..16].try_into().expect("SHA-1 gives twenty bytes")
}

/// Checks all of a file and sums it up.
pub fn status(image: &Image<impl Source>) -> Result<Status, SummaryError> {
    let mut crc = 0;
    let mut newest: HashMap<Name, bool> = HashMap::new();
    let mut status = Status {
        hash: 0,
        revision: 0,
        total_keys: 0,
        total_bytes: image.used(),
        version: String::new(),
    };
    image.check(&mut |entry: &Entry<'_>| -> Result<(), SummaryError> {
        // Of a bucket inside a bucket only the name counts, as in the original.
        if entry.path.len() > 1 {
            return Ok(());
        }
        crc = crc32c::crc32c_append(crc, entry.key);
        let (Some(value), [bucket]) = (entry.value, entry.path) else { return Ok(()) };
        crc = crc32c::crc32c_append(crc, value);
        if bucket == Bucket::KEY {
            let (at, is_tombstone, key) = version(entry.key, value, status.revision)?;
            status.revision = at.main.0;
            newest.insert(name(key), !is_tombstone);
        } else if bucket == Bucket::META && entry.key == fact::STORAGE_VERSION {
            status.version = String::from_utf8_lossy(value).into_owned();
        }
        Ok(())
    })?;
    status.hash = crc;
    status.total_keys = newest.values().filter(|alive| **alive).count() as u64;
    Ok(status)
}

fn version<'a>(
    key: &[u8],
    value: &'a [u8],
    after: i64,
) -> Result<(Version, bool, &'a [u8]), SummaryError> {
    let wrong = |_| SummaryError::Version { after };
    let (at, is_tombstone) = schema::read_revision_key(key).map_err(wrong)?;
    let stored = schema::read_stored(value).map_err(wrong)?;
    Ok((at, is_tombstone, stored.key))
}

/// The digest of the history up to a revision (0: all of it), as servers compute it.
pub fn hash_kv(image: &Image<impl Source>, upto: i64) -> Result<HashKv, SummaryError> {
    let compacted = compaction(image)?.at.0;
    let mut current = compacted.max(1);
    image.walk_only(Bucket::KEY, &mut |entry| {
        let (Some(value), [_]) = (entry.value, entry.path) else { return Ok(()) };
        current = current.max(version(entry.key, value, current)?.0.main.0);
        Ok::<(), SummaryError>(())
    })?;
    let upto = if upto == 0 { current } else { upto };
    if upto < compacted {
        return Err(SummaryError::Compacted { compacted });
    }
    if upto > current {
        return Err(SummaryError::Future { current });
    }
    let needed = needed(image, upto)?;
    let any_alive = needed.values().any(|(_, alive)| *alive);
    let mut hasher = Hasher::default();
    image.walk_only(Bucket::KEY, &mut |entry| {
        let (Some(value), [_]) = (entry.value, entry.path) else { return Ok(()) };
        let (at, is_tombstone, key) = version(entry.key, value, current)?;
        let is_newest = || needed.get(&name(key)).is_some_and(|(newest, _)| *newest == at);
        let counts = at.main.0 > compacted || !is_tombstone && (!any_alive || is_newest());
        if at.main.0 <= upto && counts {
            hasher.raw(entry.key, value);
        }
        Ok::<(), SummaryError>(())
    })?;
    Ok(HashKv { hash: hasher.finish(), revision: upto, compacted })
}

/// The newest version of each key at a revision, and whether it is alive.
fn needed(
    image: &Image<impl Source>,
    upto: i64,
) -> Result<HashMap<Name, (Version, bool)>, SummaryError> {
    let mut needed = HashMap::new();
    image.walk_only(Bucket::KEY, &mut |entry| {
        let (Some(value), [_]) = (entry.value, entry.path) else { return Ok(()) };
        let (at, is_tombstone, key) = version(entry.key, value, upto)?;
        if at.main.0 <= upto {
            needed.insert(name(key), (at, !is_tombstone));
        }
        Ok::<(), SummaryError>(())
    })?;
    Ok(needed)
}

/// How far a file's history is compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Compaction {
    /// The oldest revision that can be read; −1 if there never was a compaction.
    pub(super) at: Revision,
    /// What is forgotten is gone from the file. One that etcd has scheduled and not finished it
    /// would finish when it starts.
    pub(super) is_finished: bool,
}

pub(super) fn compaction(image: &Image<impl Source>) -> Result<Compaction, SummaryError> {
    let (mut scheduled, mut finished) = (Revision(-1), Revision(-1));
    image.walk_only(Bucket::META, &mut |entry| {
        let (Some(value), [_]) = (entry.value, entry.path) else { return Ok(()) };
        let place = match entry.key {
            fact::SCHEDULED_COMPACTION => &mut scheduled,
            fact::FINISHED_COMPACTION => &mut finished,
            _ => return Ok(()),
        };
        let read = schema::read_revision_key(value);
        *place = read.map_err(|_| SummaryError::Version { after: 0 })?.0.main;
        Ok::<(), SummaryError>(())
    })?;
    Ok(Compaction { at: scheduled.max(finished), is_finished: scheduled <= finished })
}
