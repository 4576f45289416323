//! A revision in the making.
//!
//! The steps of a command write their versions at the next revision as they go, so that later steps
//! read what earlier ones wrote by simply reading at that revision. Nobody else sees them: readers
//! read at published revisions. A command that is refused half-way takes its versions back.
//!
//! Within one revision a key changes at most once. Clients' transactions are checked for that
//! before they are proposed; here it is enforced, since two versions of one name cannot be kept.

use bytes::Bytes;

use super::{
    lease::Leases,
    links, range,
    rows::{Meta, RowsMut, Version},
};
use crate::{
    command::{
        DeleteAnswer, DeleteRange, Event, EventKind, KeyRange, KeyValue, LeaseId, Put, PutAnswer,
        RangeAnswer, RangeQuery, Refusal, Revision,
    },
    fault::{Error, Fault},
};

/// A change that has been made.
pub(super) struct Change {
    pub(super) event: Event,
    pub(super) meta: Meta,
}

pub(super) struct Draft<'a, R> {
    pub(super) rows: &'a R,
    pub(super) leases: &'a Leases,
    pub(super) compacted: Revision,
    /// The revision before this one.
    pub(super) base: Revision,
    pub(super) changes: Vec<Change>,
}

impl<R: RowsMut> Draft<'_, R> {
    /// The revision being made.
    fn next(&self) -> Revision {
        self.base.next()
    }

    /// The newest revision that the steps so far can see.
    fn current(&self) -> Revision {
        if self.changes.is_empty() { self.base } else { self.next() }
    }

    pub(super) fn range(&self, query: &RangeQuery) -> Result<RangeAnswer, Error> {
        let at = match query.revision {
            Revision(0) => self.current(),
            // Judged by the state before the transaction, as in etcd.
            asked if asked > self.base => {
                return Err(Refusal::FutureRevision { current: self.base }.into());
            }
            asked if asked < self.compacted => {
                return Err(Refusal::Compacted { compacted: self.compacted }.into());
            }
            // Of negative numbers only −1, and only before the first compaction.
            asked if asked.0 < 0 => self.current(),
            asked => asked,
        };
        let count = |range: &KeyRange| self.count(range, at);
        let mut kept = range::Kept::default();
        let summary = range::write(self.rows, at, query, &count, &mut kept)?;
        Ok(kept.answer(self.current(), summary))
    }

    /// Counts are kept of finished revisions; what this one has made and deleted comes on top.
    fn count(&self, range: &KeyRange, at: Revision) -> Result<u64, Fault> {
        let finished = self.rows.count(range, at.min(self.base))?;
        if at <= self.base {
            return Ok(finished);
        }
        let changed = self.changes.iter().filter(|change| range.contains(&change.event.kv.key));
        let more: i64 = changed.map(|change| change.event.growth()).sum();
        Ok(finished.checked_add_signed(more).expect("only live keys are deleted"))
    }

    pub(super) fn put(&mut self, put: &Put) -> Result<PutAnswer, Error> {
        self.check(put)?;
        let prior = self.rows.get(&put.key, self.next())?;
        if prior.as_ref().is_some_and(|(meta, _)| meta.at.main == self.next()) {
            return Err(Refusal::DuplicateKey.into());
        }
        let live = prior.as_ref().filter(|(meta, _)| !meta.is_tombstone());
        if (put.ignore_value || put.ignore_lease) && live.is_none() {
            return Err(Refusal::KeyNotFound.into());
        }
        let lease = live.filter(|_| put.ignore_lease).map_or(put.lease, |(meta, _)| meta.lease);
        let (create, version) = match live {
            Some((meta, _)) => (meta.create, meta.version + 1),
            None => (self.next(), 1),
        };
        // Copies, because the command is a slice of a whole batch that would stay in memory.
        let key = Bytes::copy_from_slice(&put.key);
        let value = match live {
            Some((_, value)) if put.ignore_value => value.clone(),
            _ => Bytes::copy_from_slice(&put.value),
        };
        let meta = Meta { create, version, lease, ..self.successor(&key, prior.as_ref())? };
        let prev = live.map(|(meta, value)| meta.with(key.clone(), value.clone()));
        let answer =
            PutAnswer { revision: self.next(), prev: prev.clone().filter(|_| put.prev_kv) };
        let kv = meta.with(key, value);
        self.record(meta, Event { kind: EventKind::Put, kv, prev });
        Ok(answer)
    }

    fn check(&self, put: &Put) -> Result<(), Refusal> {
        if put.key.is_empty() {
            return Err(Refusal::EmptyKey);
        }
        if put.ignore_value && !put.value.is_empty() {
            return Err(Refusal::ValueProvided);
        }
        if put.ignore_lease && put.lease != LeaseId::NONE {
            return Err(Refusal::LeaseProvided);
        }
        if put.lease != LeaseId::NONE && !self.leases.contains(put.lease) {
            return Err(Refusal::LeaseNotFound);
        }
        Ok(())
    }

    pub(super) fn delete(&mut self, delete: &DeleteRange) -> Result<DeleteAnswer, Error> {
        let doomed = self.live(&delete.range)?;
        // Deleting again what this revision has deleted is fine: it is no longer there.
        if doomed.iter().any(|(meta, ..)| meta.at.main == self.next()) {
            return Err(Refusal::DuplicateKey.into());
        }
        let mut answer = DeleteAnswer::default();
        for (meta, key, value) in doomed {
            let prev = self.bury(meta, key, value)?;
            answer.deleted += 1;
            if delete.prev_kv {
                answer.prevs.push(prev);
            }
        }
        answer.revision = self.current();
        Ok(answer)
    }

    fn live(&self, range: &KeyRange) -> Result<Vec<(Meta, Bytes, Bytes)>, Fault> {
        if let KeyRange::Key(key) = range {
            let newest = self.rows.get(key, self.next())?;
            let live = newest.filter(|(meta, _)| !meta.is_tombstone());
            return Ok(live.map(|(meta, value)| (meta, key.clone(), value)).into_iter().collect());
        }
        let (mut found, mut arena) = (Vec::new(), range::Arena::default());
        self.rows.scan(range, self.next(), &mut |row| {
            let kv = arena.keep(self.rows, row, true)?;
            found.push((row.meta, kv.key, kv.value));
            Ok(true)
        })?;
        Ok(found)
    }

    /// Deletes one live key and gives back what it was.
    fn bury(&mut self, live: Meta, key: Bytes, value: Bytes) -> Result<KeyValue, Fault> {
        let key = Bytes::copy_from_slice(&key);
        let prev = live.with(key.clone(), value.clone());
        let meta = self.successor(&key, Some(&(live, value)))?;
        let kv = KeyValue { key, modified: meta.at.main, ..KeyValue::default() };
        self.record(meta, Event { kind: EventKind::Delete, kv, prev: Some(prev.clone()) });
        Ok(prev)
    }

    /// The name and the links of a new version.
    fn successor(&self, key: &Bytes, prior: Option<&(Meta, Bytes)>) -> Result<Meta, Fault> {
        let sub = u32::try_from(self.changes.len()).expect("a revision changes fewer keys");
        let at = Version { main: self.next(), sub };
        let links = links::after(prior.map(|(meta, _)| meta), |older| self.rows.links(key, older))?;
        Ok(Meta { at, links, ..Meta::default() })
    }

    fn record(&mut self, meta: Meta, event: Event) {
        self.rows.insert(event.kv.key.clone(), meta, event.kv.value.clone());
        self.changes.push(Change { event, meta });
    }

    /// Takes everything back.
    pub(super) fn undo(self) {
        for change in self.changes {
            self.rows.remove(&change.event.kv.key, change.meta.at);
        }
    }
}
