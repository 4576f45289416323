//! Reading a database that may be damaged, from end to end.
//!
//! Serving trusts what it reads: checking every page at every start would cost what the start is
//! to save. This is the opposite: redb verifies the checksum of every page, and then every row is
//! read and compared with what else says the same: the newest version of each key with the history,
//! the history with itself, the counts with the keys. Nothing is changed but what redb itself
//! repairs, and no thread is started, so damage ends in an error and never in more damage.
//!
//! For `verify`, and for fuzzing: any bytes must give an error or a description, in bounded memory.

use std::{panic::AssertUnwindSafe, sync::Arc};

use super::{
    backend::{Home, Storage},
    base::Base,
    counts::Counts,
    meta::{self, Identity},
    record::{self, Place},
};
use crate::{
    command::{KeyRange, Revision},
    fault::Fault,
    wal::{Disk as _, VolatileDisk},
};

/// What a database holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    pub identity: Identity,
    /// The last log entry in it.
    pub applied: Option<u64>,
    pub revision: Revision,
    pub compacted: Revision,
    /// Live keys.
    pub keys: u64,
    /// Retained versions, tombstones included.
    pub versions: u64,
}

/// Reads everything, or says what is wrong.
pub fn inspect(storage: Storage) -> Result<Inspection, Fault> {
    // redb asserts where it does not expect damage; that is an answer too.
    let inspected = std::panic::catch_unwind(AssertUnwindSafe(|| read(storage)));
    inspected.unwrap_or_else(|_| {
        Err(Fault::Damaged("the database's structure makes no sense; see the panic above".into()))
    })
}

/// The same for the bytes of a database file.
pub fn inspect_image(image: &[u8]) -> Result<Inspection, Fault> {
    let disk = VolatileDisk::default();
    let written = disk.create(Home::DATABASE).and_then(|file| file.write_at(0, image));
    written.map_err(|error| Fault::io("copy the image", error))?;
    inspect(Storage::Disk(Arc::new(disk)))
}

fn read(storage: Storage) -> Result<Inspection, Fault> {
    const CACHE_BYTES: usize = 16 << 20;
    let store = Home::open(storage, CACHE_BYTES)?.existing()?;
    let found = meta::open(&store.database)?;
    let state = &found.state;
    let base = Base::open(&store, state.revision)?;
    let versions = read_history(&base, state.revision)?;
    let mut counted = Counter { counts: found.counts, bucket: 0, inside: 0, keys: 0 };
    let mut walk = base.walk(&KeyRange::all())?;
    while let (Some(key), Some(row)) = (walk.key(), walk.row()) {
        let (meta, place) = record::read_cur(row)?;
        let same = base.look_at(meta.at, |kept| {
            let same_value = match place {
                Place::Inline(value) => kept.value == value,
                Place::History => true,
            };
            kept.meta == meta && kept.key == key && same_value
        })?;
        match same {
            Some(true) => {}
            Some(false) => return Err(wrong("the history tells it otherwise", meta.at.main)),
            None => return Err(wrong("the history lacks a newest version", meta.at.main)),
        }
        if !meta.is_tombstone() {
            counted.meet(key)?;
        }
        walk.advance()?;
    }
    let keys = counted.finish()?;
    Ok(Inspection {
        identity: found.identity,
        applied: found.applied,
        revision: state.revision,
        compacted: state.compacted,
        keys,
        versions,
    })
}

fn wrong(what: &str, at: Revision) -> Fault {
    Fault::Damaged(format!("{what} (revision {at})"))
}

/// Reads all versions and says how many there are.
fn read_history(base: &Base, revision: Revision) -> Result<u64, Fault> {
    let mut versions = 0;
    base.versions(Revision(0), Revision(i64::MAX), &mut |row| {
        versions += 1;
        let (meta, links) = (&row.meta, &row.meta.links);
        if meta.at.main > revision {
            return Err(wrong("a version is newer than the store", meta.at.main));
        }
        if links.prev >= meta.at || links.jump > links.prev {
            return Err(wrong("a version follows itself", meta.at.main));
        }
        Ok(true)
    })?;
    Ok(versions)
}

/// Compares the counts with the keys that are met, in ascending order.
struct Counter {
    counts: Counts,
    bucket: usize,
    inside: u64,
    keys: u64,
}

impl Counter {
    fn meet(&mut self, key: &[u8]) -> Result<(), Fault> {
        while self.counts.bucket(key) > self.bucket {
            self.leave()?;
        }
        self.inside += 1;
        self.keys += 1;
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Fault> {
        if self.counts.live(self.bucket) != Some(self.inside) {
            return Err(Fault::Damaged("the counts of keys do not fit the keys".into()));
        }
        (self.bucket, self.inside) = (self.bucket + 1, 0);
        Ok(())
    }

    fn finish(mut self) -> Result<u64, Fault> {
        while self.counts.live(self.bucket).is_some() {
            self.leave()?;
        }
        Ok(self.keys)
    }
}
