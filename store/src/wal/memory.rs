//! A disk in memory that can lose power and fail.
//!
//! It models what POSIX leaves open. Bytes written but not synced may arrive in part, in any
//! order, sector by sector (512 bytes). Creations, renames and removals reach the directory in the
//! order in which they were made, but only a directory sync promises it; a file whose name never
//! arrived is gone with all its bytes. After a failed sync the writes it covered are lost in part,
//! for good, although a second sync reports success, as on Linux.
//!
//! Faults are chosen by the test: after a number of operations, one kind of failure. Randomness is
//! a seed, so that every run can be repeated.

use super::disk::{Disk, File};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SECTOR: usize = 512;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device reports an error.
    Io,
    /// The file system is full; part of the write may have happened.
    NoSpace,
    /// The machine stops; nothing after this point happens.
    PowerCut,
    /// The next sync reports success and does nothing.
    Lie,
}

/// A directory in memory. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    files: BTreeMap<u64, Data>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Directory changes since the last directory sync.
    journal: Vec<NameChange>,
    next_file: u64,
    fault: Option<(u64, Fault)>,
    dead: bool,
    lies: bool,
    random: u64,
    /// Counts every operation that changes the disk.
    operations: u64,
}

#[derive(Default)]
struct Data {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

/// What was done to a file and not yet synced.
enum Change {
    Written(usize, Vec<u8>),
    Resized(usize),
}

enum NameChange {
    Link(String, u64),
    Rename(String, String),
    Unlink(String),
}

struct MemoryFile {
    disk: MemoryDisk,
    id: u64,
}

impl MemoryDisk {
    /// An empty disk whose random choices follow from `seed`.
    pub fn new(seed: u64) -> Self {
        let disk = Self::default();
        disk.lock().random = seed.wrapping_mul(2).wrapping_add(1);
        disk
    }

    /// Lets `operations` more changes succeed, then fails once with `fault`.
    pub fn fail_after(&self, operations: u64, fault: Fault) {
        self.lock().fault = Some((operations, fault));
    }

    /// How many changes were made so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// What is left after the power comes back: durable bytes, and an arbitrary part of the rest.
    /// Files that were open before are cut off.
    pub fn power_cut(&self) -> Self {
        let mut inner = self.lock();
        inner.dead = true;
        let mut random = inner.random;
        let mut names = inner.durable_names.clone();
        let arrived = below(&mut random, inner.journal.len() as u64 + 1);
        for change in inner.journal.iter().take(usize::try_from(arrived).expect("small")) {
            match change {
                NameChange::Link(name, id) => drop(names.insert(name.clone(), *id)),
                NameChange::Rename(from, to) => {
                    let id = names.remove(from).expect("changes arrive in order");
                    names.insert(to.clone(), id);
                }
                NameChange::Unlink(name) => drop(names.remove(name)),
            }
        }
        let mut files = BTreeMap::new();
        for id in names.values() {
            let data = &inner.files[id];
            let bytes = settle(data, &mut random);
            files.insert(*id, Data { bytes: bytes.clone(), durable: bytes, pending: Vec::new() });
        }
        let next_file = inner.next_file;
        let durable_names = names.clone();
        let fresh = Inner { files, names, durable_names, next_file, random, ..Inner::default() };
        Self(Arc::new(Mutex::new(fresh)))
    }

    /// What the next process finds when this one is killed: all that was written. What was not
    /// synced is still not: a later power cut may take it. Files that were open are cut off.
    pub fn killed(&self) -> Self {
        let mut inner = self.lock();
        inner.dead = true;
        let fresh = Inner {
            files: std::mem::take(&mut inner.files),
            names: std::mem::take(&mut inner.names),
            durable_names: std::mem::take(&mut inner.durable_names),
            journal: std::mem::take(&mut inner.journal),
            next_file: inner.next_file,
            random: inner.random,
            ..Inner::default()
        };
        Self(Arc::new(Mutex::new(fresh)))
    }

    /// Flips one bit of a file, durably.
    pub fn flip(&self, name: &str, bit: u64) {
        let mut inner = self.lock();
        let id = inner.names[name];
        let data = inner.files.get_mut(&id).expect("named files exist");
        let at = usize::try_from(bit / 8).expect("small");
        data.bytes[at] ^= 1 << (bit % 8);
        data.durable = data.bytes.clone();
    }

    /// A copy of a file's bytes.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let inner = self.lock();
        inner.files[&inner.names[name]].bytes.clone()
    }

    /// Replaces a file's bytes, durably.
    pub fn replace(&self, name: &str, bytes: Vec<u8>) {
        let mut inner = self.lock();
        let id = inner.names[name];
        inner.files.insert(id, Data { durable: bytes.clone(), bytes, pending: Vec::new() });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Applies a random subset of the sectors that were written and not synced.
fn settle(data: &Data, random: &mut u64) -> Vec<u8> {
    let mut bytes = data.durable.clone();
    // A crash in which everything, or nothing, arrived is as likely as one in between.
    let mood = below(random, 3);
    for change in &data.pending {
        let (offset, written) = match change {
            Change::Written(offset, written) => (offset, written),
            // Lengths are metadata: they arrive whole or not.
            Change::Resized(len) => {
                if mood == 0 || (mood == 1 && below(random, 2) == 0) {
                    bytes.resize(*len, 0);
                }
                continue;
            }
        };
        let mut at = 0;
        while at < written.len() {
            let boundary = SECTOR - (offset + at) % SECTOR;
            let end = (at + boundary).min(written.len());
            if mood == 0 || (mood == 1 && below(random, 2) == 0) {
                put(&mut bytes, offset + at, &written[at..end]);
            }
            at = end;
        }
    }
    bytes
}

fn redo(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Written(offset, written) => put(bytes, *offset, written),
        Change::Resized(len) => bytes.resize(*len, 0),
    }
}

/// Writes into a byte vector as into a file.
fn put(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    let end = offset + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(written);
}

/// A number below `bound`, by xorshift.
fn below(state: &mut u64, bound: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound
}

impl Inner {
    /// Accounts for one change, and fails when its turn has come.
    fn step(&mut self) -> io::Result<()> {
        self.alive()?;
        self.operations += 1;
        match self.fault {
            None => Ok(()),
            Some((0, Fault::Lie)) => {
                (self.fault, self.lies) = (None, true);
                Ok(())
            }
            Some((0, fault)) => {
                self.fault = None;
                self.dead = fault == Fault::PowerCut;
                Err(match fault {
                    Fault::Io => io::Error::other("injected device error"),
                    Fault::NoSpace => io::ErrorKind::StorageFull.into(),
                    Fault::PowerCut | Fault::Lie => io::ErrorKind::BrokenPipe.into(),
                })
            }
            Some((left, fault)) => {
                self.fault = Some((left - 1, fault));
                Ok(())
            }
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

impl Disk for MemoryDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let inner = self.lock();
        inner.alive()?;
        Ok(inner.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut inner = self.lock();
        inner.step()?;
        let id = inner.next_file;
        inner.next_file += 1;
        inner.files.insert(id, Data::default());
        inner.names.insert(name.to_owned(), id);
        inner.journal.push(NameChange::Link(name.to_owned(), id));
        Ok(Arc::new(MemoryFile { disk: self.clone(), id }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let inner = self.lock();
        inner.alive()?;
        let id = *inner.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemoryFile { disk: self.clone(), id }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.step()?;
        let id = inner.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        inner.names.insert(to.to_owned(), id);
        inner.journal.push(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.step()?;
        inner.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        inner.journal.push(NameChange::Unlink(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut inner = self.lock();
        inner.step()?;
        inner.durable_names = inner.names.clone();
        inner.journal.clear();
        Ok(())
    }

    fn describe(&self, name: &str) -> String {
        format!("memory:{name}")
    }
}

impl File for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        let inner = self.disk.lock();
        inner.alive()?;
        Ok(inner.files[&self.id].bytes.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let inner = self.disk.lock();
        inner.alive()?;
        let bytes = &inner.files[&self.id].bytes;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let count = into.len().min(bytes.len() - start);
        into[..count].copy_from_slice(&bytes[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.disk.lock();
        inner.alive()?;
        let outcome = inner.step();
        let mut random = inner.random;
        // A write that fails may have written a part.
        let written = match &outcome {
            Ok(()) => bytes.len(),
            Err(_) => usize::try_from(below(&mut random, bytes.len() as u64 + 1)).expect("a part"),
        };
        inner.random = random;
        let start = usize::try_from(offset).expect("memory files are small");
        let data = inner.files.get_mut(&self.id).expect("open files exist");
        put(&mut data.bytes, start, &bytes[..written]);
        data.pending.push(Change::Written(start, bytes[..written].to_vec()));
        outcome
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        let mut inner = self.disk.lock();
        inner.step()?;
        let len = usize::try_from(bytes).expect("memory files are small");
        let data = inner.files.get_mut(&self.id).expect("open files exist");
        data.bytes.resize(len, 0);
        data.pending.push(Change::Resized(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.lock();
        inner.alive()?;
        let outcome = inner.step();
        if outcome.is_ok() && std::mem::take(&mut inner.lies) {
            return Ok(());
        }
        let mut random = inner.random;
        let data = inner.files.get_mut(&self.id).expect("open files exist");
        match &outcome {
            Ok(()) => {
                for change in &data.pending {
                    redo(&mut data.durable, change);
                }
            }
            // What did not arrive never will, and is not shown any more.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                data.durable = settle(data, &mut random);
                data.bytes = data.durable.clone();
            }
            Err(_) => return outcome,
        }
        data.pending.clear();
        inner.random = random;
        outcome
    }
}
