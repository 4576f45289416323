//! The past, for watchers that are behind: changes from a revision on.
//!
//! Recent revisions come from the memtables' logs, shared and ready-made; older ones are put
//! together from runs and the database. Which of the two serves a revision cannot be seen in the answer.

use std::sync::Arc;

use super::tables::Tables;
use crate::{
    command::{Event, EventKind, KeyValue, Revised, Revision},
    fault::Fault,
    machine::rows::Version,
};

/// How much history to give at once. At least one revision is given, however large.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub revisions: usize,
    pub bytes: usize,
}

/// A stretch of history.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Consecutive revisions, oldest first.
    pub revised: Vec<Arc<Revised>>,
    /// Where to go on; beyond the view's revision when there is no more.
    pub next: Revision,
}

/// Reads from `from` to at most `upto`; `from` has been checked to be retained.
pub(super) fn read(
    tables: &Tables,
    from: Revision,
    upto: Revision,
    compacted: Revision,
    budget: Budget,
) -> Result<History, Fault> {
    let mut history = History { revised: Vec::new(), next: from };
    let mut bytes = 0;
    while history.next <= upto && history.revised.len() < budget.revisions.max(1) {
        let wanted = budget.revisions.max(1) - history.revised.len();
        let more = if tables.first_logged().is_some_and(|first| history.next >= first) {
            let logged = tables.logged(history.next, wanted.min(128));
            logged.into_iter().map(|logged| logged.revised).collect::<Vec<_>>()
        } else {
            let left = budget.bytes.saturating_sub(bytes);
            from_stored(tables, history.next, compacted, wanted, left)?
        };
        // An import may have raised the revision and compacted up to it, so that nothing is there.
        let begins_after = more.first().is_none_or(|first| first.revision > compacted);
        if history.next == compacted && begins_after {
            history.next = compacted.next();
            continue;
        }
        if more.is_empty() {
            let lost = format!("the history lacks revision {}", history.next);
            return Err(Fault::Damaged(lost));
        }
        for revised in more.into_iter().take_while(|revised| revised.revision <= upto) {
            assert_eq!(revised.revision, history.next, "history has no gaps");
            bytes += size(&revised);
            history.next = revised.revision.next();
            history.revised.push(without_forgotten(revised, compacted));
            if bytes >= budget.bytes {
                return Ok(history);
            }
        }
    }
    Ok(history)
}

/// What was replaced at the compacted revision is forgotten, though memory may still have it.
fn without_forgotten(revised: Arc<Revised>, compacted: Revision) -> Arc<Revised> {
    if revised.revision > compacted {
        return revised;
    }
    let mut revised = Arc::unwrap_or_clone(revised);
    revised.events.iter_mut().for_each(|event| event.prev = None);
    Arc::new(revised)
}

fn from_stored(
    tables: &Tables,
    from: Revision,
    compacted: Revision,
    revisions_max: usize,
    bytes_max: usize,
) -> Result<Vec<Arc<Revised>>, Fault> {
    let mut found: Vec<Revised> = Vec::new();
    let (mut bytes, mut prevs) = (0, Vec::new());
    tables.versions(from, tables.stored(), &mut |row| {
        let revision = row.meta.at.main;
        if found.last().is_none_or(|last| last.revision != revision) {
            if found.len() == revisions_max || bytes >= bytes_max && !found.is_empty() {
                return Ok(false);
            }
            found.push(Revised { revision, events: Vec::new() });
        }
        let key = bytes::Bytes::copy_from_slice(row.key);
        bytes += row.key.len() + row.value.len();
        let event = if row.meta.is_tombstone() {
            let kv = KeyValue { key, modified: revision, ..KeyValue::default() };
            Event { kind: EventKind::Delete, kv, prev: None }
        } else {
            Event { kind: EventKind::Put, kv: row.meta.with(key, row.value()), prev: None }
        };
        prevs.push(row.meta.links.prev);
        found.last_mut().expect("pushed above").events.push(event);
        Ok(true)
    })?;
    let events = found.iter_mut().flat_map(|revised| {
        let wanted = revised.revision > compacted;
        revised.events.iter_mut().map(move |event| (event, wanted))
    });
    for ((event, wanted), prev) in events.zip(prevs) {
        if wanted && prev != Version::NONE {
            event.prev = tables
                .version(prev)?
                .filter(|found| !found.meta.is_tombstone())
                .map(|found| found.meta.with(event.kv.key.clone(), found.value));
        }
    }
    Ok(found.into_iter().map(Arc::new).collect())
}

fn size(revised: &Revised) -> usize {
    let kv_size = |kv: &KeyValue| kv.key.len() + kv.value.len();
    revised
        .events
        .iter()
        .map(|event| kv_size(&event.kv) + event.prev.as_ref().map_or(0, kv_size))
        .sum()
}
