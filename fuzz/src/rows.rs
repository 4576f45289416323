//! Versions of keys in one sorted map: what the machine needs below it, without an engine.
//!
//! The engine keeps versions in memtables above a database and has tests of its own. Here the
//! evaluator alone is tried, and a hundred times as often.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;
use store::command::{KeyRange, Revision};
use store::fault::Fault;
use store::machine::rows::{Links, Meta, Piece, Row, Rows, RowsMut, Version};
use store::machine::size::Trace;

/// The versions of one key.
type Chain = BTreeMap<Version, (Meta, Bytes)>;

/// All versions ever written.
#[derive(Default)]
pub(crate) struct Versions {
    by_key: RefCell<BTreeMap<Bytes, Chain>>,
    /// What had died once a revision was made.
    dead: BTreeMap<Revision, u64>,
}

impl Versions {
    /// Notes what came with a revision.
    pub(crate) fn note(&mut self, at: Revision, traces: &[Trace]) {
        self.dead.insert(at, traces.last().expect("a revision has changes").dead);
    }
}

fn newest(versions: &Chain, at: Revision) -> Option<&(Meta, Bytes)> {
    let upto = Version { main: at, sub: u32::MAX };
    versions.range(..=upto).next_back().map(|(_, found)| found)
}

impl Rows for Versions {
    fn get(&self, key: &Bytes, at: Revision) -> Result<Option<(Meta, Bytes)>, Fault> {
        let by_key = self.by_key.borrow();
        Ok(by_key.get(key).and_then(|versions| newest(versions, at)).cloned())
    }

    fn scan(
        &self,
        range: &KeyRange,
        at: Revision,
        visit: &mut dyn FnMut(&Row<'_>) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let by_key = self.by_key.borrow();
        for (key, versions) in by_key.iter().filter(|(key, _)| range.contains(key)) {
            let Some((meta, value)) = newest(versions, at) else { continue };
            let value = Some(Piece::Shared(value));
            let row = Row { key: Piece::Shared(key), meta: *meta, value };
            if !meta.is_tombstone() && !visit(&row)? {
                break;
            }
        }
        Ok(())
    }

    fn value(&self, at: Version) -> Result<Bytes, Fault> {
        let by_key = self.by_key.borrow();
        let found = by_key.values().find_map(|versions| versions.get(&at));
        Ok(found.expect("only versions that are there are asked for").1.clone())
    }

    fn links(&self, key: &Bytes, at: Version) -> Result<Option<Links>, Fault> {
        let by_key = self.by_key.borrow();
        Ok(by_key.get(key).and_then(|versions| versions.get(&at)).map(|(meta, _)| meta.links))
    }

    fn dead(&self, at: Revision) -> Result<Option<u64>, Fault> {
        Ok(self.dead.get(&at).copied())
    }
}

impl RowsMut for Versions {
    fn insert(&self, key: Bytes, meta: Meta, value: Bytes) {
        self.by_key.borrow_mut().entry(key).or_default().insert(meta.at, (meta, value));
    }

    fn remove(&self, key: &Bytes, at: Version) {
        let mut by_key = self.by_key.borrow_mut();
        let taken = by_key.get_mut(key).and_then(|versions| versions.remove(&at));
        assert!(taken.is_some(), "only what was inserted is taken back");
    }
}
