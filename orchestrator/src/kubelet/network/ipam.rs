//! Which pod holds which address: a small pool, written to disk at each change.
//!
//! The node's range gives all but its first address (the network), its second (the bridge) and its
//! last (broadcast). A freed address is used again as late as possible, because somebody may still
//! be talking to its last holder.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::api::Cidr;

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Record {
    /// Pod uid → address.
    held: BTreeMap<String, Ipv4Addr>,
    /// Where the last search ended.
    last: u64,
}

/// The addresses of one node.
#[derive(Debug)]
pub struct Pool {
    range: Cidr,
    path: PathBuf,
    record: Mutex<Record>,
}

impl Pool {
    /// Opens the pool recorded at `path`, or starts an empty one. Addresses outside `range`, from
    /// before it was changed, are forgotten.
    pub fn open(range: Cidr, path: &Path) -> io::Result<Self> {
        let mut record: Record = match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Record::default(),
            Err(error) => return Err(error),
        };
        record.held.retain(|_, address| range.contains(*address));
        Ok(Self { range, path: path.to_owned(), record: Mutex::new(record) })
    }

    /// The bridge's own address.
    pub fn gateway(&self) -> Ipv4Addr {
        self.range.nth(1).unwrap_or_else(|| self.range.network())
    }

    /// The address of `uid`: the one it holds, else the next free one; `None` if none is left.
    pub fn assign(&self, uid: &str) -> io::Result<Option<Ipv4Addr>> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(address) = record.held.get(uid) {
            return Ok(Some(*address));
        }
        let Some((position, address)) = next_free(self.range, &record) else { return Ok(None) };
        let mut changed = record.clone();
        changed.held.insert(uid.to_owned(), address);
        changed.last = position;
        self.save(&changed)?;
        *record = changed;
        Ok(Some(address))
    }

    /// Frees the address of `uid`, if it holds one.
    pub fn release(&self, uid: &str) -> io::Result<()> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = record.clone();
        if changed.held.remove(uid).is_some() {
            self.save(&changed)?;
            *record = changed;
        }
        Ok(())
    }

    fn save(&self, record: &Record) -> io::Result<()> {
        let staged = self.path.with_extension("new");
        std::fs::write(&staged, serde_json::to_vec(record)?)?;
        std::fs::rename(staged, &self.path)
    }
}

/// The first free address after the last one given out, going round once.
fn next_free(range: Cidr, record: &Record) -> Option<(u64, Ipv4Addr)> {
    const FIRST: u64 = 2;
    let usable = range.size().checked_sub(FIRST + 1).filter(|count| *count > 0)?;
    let held: BTreeSet<Ipv4Addr> = record.held.values().copied().collect();
    let start = record.last.max(FIRST - 1) + 1 - FIRST;
    (0..usable)
        .map(|step| FIRST + (start + step) % usable)
        .filter_map(|position| range.nth(position).map(|address| (position, address)))
        .find(|(_, address)| !held.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(dir: &tempfile::TempDir, range: &str) -> Pool {
        let range = range.parse().expect("a range");
        Pool::open(range, &dir.path().join("addresses.json")).expect("opens")
    }

    #[test]
    fn a_pod_keeps_its_address_over_restarts() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let first = pool(&dir, "10.9.0.0/24").assign("a").expect("writes").expect("is free");
        assert_eq!(first, Ipv4Addr::new(10, 9, 0, 2));
        let again = pool(&dir, "10.9.0.0/24");
        assert_eq!(again.assign("a").expect("writes"), Some(first));
        assert_eq!(again.gateway(), Ipv4Addr::new(10, 9, 0, 1));
    }

    #[test]
    fn freed_addresses_come_back_last_and_no_other_is_given() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let pool = pool(&dir, "10.9.0.0/29");
        let address = |uid: &str| pool.assign(uid).expect("writes").map(|ip| ip.octets()[3]);
        assert_eq!([address("a"), address("b")], [Some(2), Some(3)]);
        pool.release("a").expect("writes");
        let rest: Vec<_> = ["c", "d", "e", "f"].into_iter().map(address).collect();
        assert_eq!(rest, [Some(4), Some(5), Some(6), Some(2)]);
        assert_eq!(address("g"), None, "network, bridge and broadcast are not for pods");
    }
}
