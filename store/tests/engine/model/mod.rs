//! What the store should do, written as plainly as possible.
//!
//! The whole history is kept as a list of changes, the newest state as a map; every answer is
//! worked out from those, slowly. Nothing is shared with the machine but the words of `command`.

mod guard;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use store::{
    command::{
        Alarm, AlarmKind, Command, Compare, CompareResult, CompareTarget, DeleteAnswer, Event,
        EventKind, KeyRange, KeyValue, LeaseId, MemberId, Op, OpAnswer, Outcome, Put, PutAnswer,
        RangeAnswer, RangeQuery, Refusal, Response, Revised, Revision, SortOrder, SortTarget, Txn,
        TxnAnswer,
    },
    limits::VERSION_BYTES_OVERHEAD,
    machine::digest::Hasher,
    machine::rows::Version,
};

use guard::Guard;

type Map = BTreeMap<Bytes, KeyValue>;

pub(crate) struct Model {
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
    current: Map,
    /// All changes ever made: name, key, and the version, or nothing for a deletion.
    changes: Vec<(Version, Bytes, Option<KeyValue>)>,
    pub(crate) leases: BTreeMap<LeaseId, (i64, i64)>,
    alarms: BTreeSet<Alarm>,
    quota: (u64, MemberId),
    pub(crate) guard: Guard,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            revision: Revision(1),
            compacted: Revision(-1),
            current: Map::new(),
            changes: Vec::new(),
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
            quota: (0, MemberId(0)),
            guard: Guard::default(),
        }
    }
}

/// A command under way: the state it has made so far, and its events.
struct Trial<'a> {
    model: &'a Model,
    map: Map,
    events: Vec<Event>,
}

impl Model {
    pub(crate) fn apply(&mut self, command: &Command) -> (Outcome, Option<Revised>) {
        let (result, revised) = match self.try_apply(command) {
            Ok((response, revised)) => (Ok(response), revised),
            Err(refusal) => (Err(refusal), None),
        };
        (Outcome { revision: self.revision, result }, revised)
    }

    fn try_apply(&mut self, command: &Command) -> Result<(Response, Option<Revised>), Refusal> {
        let (by, command) = command.parts();
        self.check_alarms(command)?;
        self.guard.authorise(by, command, &|lease| self.keys_of(lease))?;
        self.claim_space(command)?;
        let mut trial = Trial { model: self, map: self.current.clone(), events: Vec::new() };
        let response = match command {
            Command::Put(put) => Response::Put(trial.put(put)?),
            Command::Delete(delete) => {
                Response::Delete(trial.delete(&delete.range, delete.prev_kv)?)
            }
            Command::Txn(txn) => Response::Txn(trial.txn(txn)?),
            Command::LeaseRevoke(id) => {
                if !self.leases.contains_key(id) {
                    return Err(Refusal::LeaseNotFound);
                }
                let keys: Vec<_> = self.keys_of(*id);
                for key in keys {
                    trial.delete(&KeyRange::Key(key), false)?;
                }
                Response::LeaseRevoke
            }
            other => return self.apply_small(other).map(|response| (response, None)),
        };
        let Trial { map, events, .. } = trial;
        let revised = self.commit(map, events);
        if let Command::LeaseRevoke(id) = command {
            self.leases.remove(id);
        }
        Ok((response, revised))
    }

    fn apply_small(&mut self, command: &Command) -> Result<Response, Refusal> {
        Ok(match command {
            Command::Compact(upto) if *upto <= self.compacted => {
                return Err(Refusal::Compacted { compacted: self.compacted });
            }
            Command::Compact(upto) if *upto > self.revision => {
                return Err(Refusal::FutureRevision { current: self.revision });
            }
            Command::Compact(upto) => {
                self.compacted = *upto;
                Response::Compact
            }
            Command::LeaseGrant { id, .. } if self.leases.contains_key(id) => {
                return Err(Refusal::LeaseExists);
            }
            Command::LeaseGrant { id, ttl } => {
                self.leases.insert(*id, (*ttl, 0));
                Response::LeaseGrant { id: *id, ttl: *ttl }
            }
            Command::LeaseCheckpoint(remaining) => {
                for (id, seconds) in remaining {
                    if let Some(lease) = self.leases.get_mut(id) {
                        lease.1 = *seconds;
                    }
                }
                Response::LeaseCheckpoint
            }
            Command::RaiseAlarm(alarm) => {
                let raised = self.alarms.insert(*alarm);
                Response::Alarms(raised.then_some(*alarm).into_iter().collect())
            }
            Command::ClearAlarm(alarm) => {
                let cleared = self.alarms.remove(alarm);
                Response::Alarms(cleared.then_some(*alarm).into_iter().collect())
            }
            Command::Quota { bytes, member } => {
                self.quota = (*bytes, *member);
                Response::Quota
            }
            Command::MemberAttributes(_) => Response::MemberAttributes,
            Command::Auth(op) => {
                self.guard.change(op)?;
                Response::Auth
            }
            _ => unreachable!("handled by the caller"),
        })
    }

    /// What a command may take at most, and whether it changes data.
    fn cost(command: &Command) -> (u64, bool) {
        fn cost(ops: &[Op]) -> u64 {
            let mut sum = 0;
            for op in ops {
                sum += match op {
                    Op::Put(put) => put_cost(put),
                    Op::Txn(txn) => cost(&txn.success).max(cost(&txn.failure)),
                    _ => 0,
                };
            }
            sum
        }
        fn put_cost(put: &Put) -> u64 {
            VERSION_BYTES_OVERHEAD + (put.key.len() + put.value.len()) as u64
        }
        match command {
            Command::Put(put) => (put_cost(put), true),
            Command::LeaseGrant { .. } => (64, true),
            Command::Txn(txn) => (cost(&txn.success).max(cost(&txn.failure)), true),
            Command::Delete(_) | Command::LeaseRevoke(_) | Command::Compact(_) => (0, true),
            _ => (0, false),
        }
    }

    fn check_alarms(&self, command: &Command) -> Result<(), Refusal> {
        let has = |kind| self.alarms.iter().any(|alarm| alarm.kind == kind);
        let (cost, writes) = Self::cost(command);
        if writes && has(AlarmKind::Corrupt) {
            return Err(Refusal::Corrupt);
        }
        if cost > 0 && has(AlarmKind::NoSpace) {
            return Err(Refusal::NoSpace);
        }
        Ok(())
    }

    /// Asked last: what its sender may not do anyway raises no alarm.
    fn claim_space(&mut self, command: &Command) -> Result<(), Refusal> {
        let (cost, _) = Self::cost(command);
        if cost > 0 && self.quota.0 != 0 && self.retained() + cost >= self.quota.0 {
            self.alarms.insert(Alarm { member: self.quota.1, kind: AlarmKind::NoSpace });
            return Err(Refusal::NoSpace);
        }
        Ok(())
    }

    fn commit(&mut self, map: Map, events: Vec<Event>) -> Option<Revised> {
        if events.is_empty() {
            return None;
        }
        self.revision = self.revision.next();
        self.current = map;
        for (sub, event) in (0..).zip(&events) {
            let at = Version { main: self.revision, sub };
            let kv = (event.kind == EventKind::Put).then(|| event.kv.clone());
            self.changes.push((at, event.kv.key.clone(), kv));
        }
        Some(Revised { revision: self.revision, events })
    }

    pub(crate) fn keys_of(&self, lease: LeaseId) -> Vec<Bytes> {
        let attached = self.current.values().filter(|kv| kv.lease == lease);
        attached.map(|kv| kv.key.clone()).collect()
    }

    pub(crate) fn live_keys(&self) -> u64 {
        self.current.len() as u64
    }

    pub(crate) fn alarms(&self) -> Vec<Alarm> {
        self.alarms.iter().copied().collect()
    }

    fn state_at(&self, at: Revision) -> Map {
        let mut map = Map::new();
        for (_, key, kv) in self.changes.iter().take_while(|(version, ..)| version.main <= at) {
            match kv {
                Some(kv) => drop(map.insert(key.clone(), kv.clone())),
                None => drop(map.remove(key)),
            }
        }
        map
    }

    pub(crate) fn range(&self, query: &RangeQuery) -> Result<RangeAnswer, Refusal> {
        let at = if query.revision.0 <= 0 { self.revision } else { query.revision };
        if at > self.revision {
            return Err(Refusal::FutureRevision { current: self.revision });
        }
        if at < self.compacted {
            return Err(Refusal::Compacted { compacted: self.compacted });
        }
        Ok(range(&self.state_at(at), query, self.revision))
    }

    /// A transaction that only asks, outside the log.
    pub(crate) fn ask(&self, txn: &Txn) -> Result<TxnAnswer, Refusal> {
        Trial { model: self, map: self.current.clone(), events: Vec::new() }.txn(txn)
    }

    /// All changes from a revision on.
    pub(crate) fn history(&self, from: Revision) -> Result<Vec<Revised>, Refusal> {
        if from < self.compacted {
            return Err(Refusal::Compacted { compacted: self.compacted });
        }
        let mut revised: Vec<Revised> = Vec::new();
        let mut state = Map::new();
        for (at, key, kv) in &self.changes {
            let prev = match kv {
                Some(kv) => state.insert(key.clone(), kv.clone()),
                None => state.remove(key),
            };
            if at.main < from {
                continue;
            }
            if revised.last().is_none_or(|last| last.revision != at.main) {
                revised.push(Revised { revision: at.main, events: Vec::new() });
            }
            let prev = prev.filter(|_| at.main > self.compacted);
            let deleted = KeyValue { key: key.clone(), modified: at.main, ..KeyValue::default() };
            let event = match kv {
                Some(kv) => Event { kind: EventKind::Put, kv: kv.clone(), prev },
                None => Event { kind: EventKind::Delete, kv: deleted, prev },
            };
            revised.last_mut().unwrap().events.push(event);
        }
        Ok(revised)
    }

    /// Versions that compaction keeps.
    fn kept(&self) -> impl Iterator<Item = &(Version, Bytes, Option<KeyValue>)> {
        self.changes.iter().filter(|(at, key, kv)| {
            let replaced = self.changes.iter().any(|(later, other, _)| {
                other == key && later > at && later.main <= self.compacted
            });
            let old_tombstone = kv.is_none() && at.main < self.compacted;
            !replaced && !old_tombstone
        })
    }

    /// How many keys and how many versions compaction keeps, tombstones included.
    pub(crate) fn retained_rows(&self) -> (u64, u64) {
        let keys: BTreeSet<_> = self.kept().map(|(_, key, _)| key).collect();
        (keys.len() as u64, self.kept().count() as u64)
    }

    pub(crate) fn retained(&self) -> u64 {
        self.kept()
            .map(|(_, key, kv)| {
                let value = kv.as_ref().map_or(0, |kv| kv.value.len());
                VERSION_BYTES_OVERHEAD + (key.len() + value) as u64
            })
            .sum()
    }

    /// etcd's algorithm, word for word.
    pub(crate) fn hash_kv(&self, upto: Revision) -> u32 {
        let keep: BTreeSet<_> =
            self.state_at(upto).values().map(|kv| (kv.key.clone(), kv.modified)).collect();
        let mut hasher = Hasher::default();
        for (at, key, kv) in self.kept().filter(|(at, ..)| at.main <= upto) {
            let kept = keep.is_empty() || keep.contains(&(key.clone(), at.main));
            if at.main <= self.compacted && !kept {
                continue;
            }
            match kv {
                Some(kv) => hasher.live(*at, kv),
                None if at.main == self.compacted => {}
                None => hasher.tombstone(*at, key),
            }
        }
        hasher.finish()
    }
}

impl Trial<'_> {
    fn now(&self) -> Revision {
        self.model.revision.next()
    }

    fn seen(&self) -> Revision {
        if self.events.is_empty() { self.model.revision } else { self.now() }
    }

    fn changed(&self, key: &Bytes) -> bool {
        self.events.iter().any(|event| event.kv.key == key)
    }

    fn put(&mut self, put: &Put) -> Result<PutAnswer, Refusal> {
        if put.key.is_empty() {
            return Err(Refusal::EmptyKey);
        }
        if put.ignore_value && !put.value.is_empty() {
            return Err(Refusal::ValueProvided);
        }
        if put.ignore_lease && put.lease.0 != 0 {
            return Err(Refusal::LeaseProvided);
        }
        if put.lease.0 != 0 && !self.model.leases.contains_key(&put.lease) {
            return Err(Refusal::LeaseNotFound);
        }
        if self.changed(&put.key) {
            return Err(Refusal::DuplicateKey);
        }
        let old = self.map.get(&put.key).cloned();
        if (put.ignore_value || put.ignore_lease) && old.is_none() {
            return Err(Refusal::KeyNotFound);
        }
        let mut kv = KeyValue {
            key: put.key.clone(),
            value: put.value.clone(),
            create: self.now(),
            modified: self.now(),
            version: 1,
            lease: put.lease,
        };
        if let Some(old) = &old {
            kv.create = old.create;
            kv.version = old.version + 1;
            if put.ignore_value {
                kv.value = old.value.clone();
            }
            if put.ignore_lease {
                kv.lease = old.lease;
            }
        }
        self.map.insert(kv.key.clone(), kv.clone());
        self.events.push(Event { kind: EventKind::Put, kv, prev: old.clone() });
        Ok(PutAnswer { revision: self.now(), prev: old.filter(|_| put.prev_kv) })
    }

    fn delete(&mut self, range: &KeyRange, prev_kv: bool) -> Result<DeleteAnswer, Refusal> {
        let doomed: Vec<_> =
            self.map.values().filter(|kv| within(range, &kv.key)).cloned().collect();
        if doomed.iter().any(|kv| self.changed(&kv.key)) {
            return Err(Refusal::DuplicateKey);
        }
        for prev in &doomed {
            self.map.remove(&prev.key);
            let kv =
                KeyValue { key: prev.key.clone(), modified: self.now(), ..KeyValue::default() };
            self.events.push(Event { kind: EventKind::Delete, kv, prev: Some(prev.clone()) });
        }
        Ok(DeleteAnswer {
            revision: self.seen(),
            deleted: i64::try_from(doomed.len()).unwrap(),
            prevs: if prev_kv { doomed } else { Vec::new() },
        })
    }

    fn range(&self, query: &RangeQuery) -> Result<RangeAnswer, Refusal> {
        let Model { revision, compacted, .. } = *self.model;
        if query.revision > revision {
            return Err(Refusal::FutureRevision { current: revision });
        }
        if query.revision.0 != 0 && query.revision < compacted {
            return Err(Refusal::Compacted { compacted });
        }
        Ok(match query.revision.0 {
            ..=0 => range(&self.map, query, self.seen()),
            _ => range(&self.model.state_at(query.revision), query, self.seen()),
        })
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnAnswer, Refusal> {
        let before = self.model;
        let succeeded = txn.compares.iter().all(|compare| holds(&before.current, compare));
        let mut answers = Vec::new();
        for op in if succeeded { &txn.success } else { &txn.failure } {
            answers.push(match op {
                Op::Range(query) => OpAnswer::Range(self.range(query)?),
                Op::Put(put) => OpAnswer::Put(self.put(put)?),
                Op::Delete(delete) => OpAnswer::Delete(self.delete(&delete.range, delete.prev_kv)?),
                Op::Txn(txn) => OpAnswer::Txn(self.txn(txn)?),
            });
        }
        Ok(TxnAnswer { succeeded, answers })
    }
}

fn within(range: &KeyRange, key: &Bytes) -> bool {
    match range {
        KeyRange::Key(only) => key == only,
        KeyRange::Span(start, end) => start <= key && key < end,
        KeyRange::From(start) => start <= key,
    }
}

fn holds(map: &Map, compare: &Compare) -> bool {
    let kvs: Vec<_> = map.values().filter(|kv| within(&compare.range, &kv.key)).collect();
    if kvs.is_empty() {
        let on_value = matches!(compare.target, CompareTarget::Value(_));
        return !on_value && meets(&KeyValue::default(), compare);
    }
    kvs.iter().all(|kv| meets(kv, compare))
}

fn meets(kv: &KeyValue, compare: &Compare) -> bool {
    fn check<T: Ord>(result: CompareResult, stored: &T, given: &T) -> bool {
        match result {
            CompareResult::Equal => stored == given,
            CompareResult::NotEqual => stored != given,
            CompareResult::Greater => stored > given,
            CompareResult::Less => stored < given,
        }
    }
    let result = compare.result;
    match &compare.target {
        CompareTarget::Version(given) => check(result, &kv.version, given),
        CompareTarget::Create(given) => check(result, &kv.create, given),
        CompareTarget::Modified(given) => check(result, &kv.modified, given),
        CompareTarget::Lease(given) => check(result, &kv.lease, given),
        CompareTarget::Value(given) => check(result, &kv.value, given),
    }
}

fn range(map: &Map, query: &RangeQuery, revision: Revision) -> RangeAnswer {
    let all: Vec<_> = map.values().filter(|kv| within(&query.range, &kv.key)).cloned().collect();
    let count = i64::try_from(all.len()).unwrap();
    if query.count_only {
        return RangeAnswer { revision, kvs: Vec::new(), more: false, count };
    }
    let mut kvs = all;
    let limit = usize::try_from(query.limit).unwrap_or(0);
    if query.order == SortOrder::None && !query.has_filters() && limit > 0 {
        kvs.truncate(limit + 1);
    }
    kvs.retain(|kv| {
        let inside = |at: Revision, min: Revision, max: Revision| {
            (min.0 == 0 || min <= at) && (max.0 == 0 || at <= max)
        };
        inside(kv.modified, query.min_modified, query.max_modified)
            && inside(kv.create, query.min_create, query.max_create)
    });
    // A stable sort of rows in key order, by the negated number for descending.
    let sign = if query.order == SortOrder::Descend { -1 } else { 1 };
    match query.target {
        SortTarget::Key if sign < 0 => kvs.reverse(),
        SortTarget::Key => {}
        SortTarget::Version => kvs.sort_by_key(|kv| sign * kv.version),
        SortTarget::Create => kvs.sort_by_key(|kv| sign * kv.create.0),
        SortTarget::Modified => kvs.sort_by_key(|kv| sign * kv.modified.0),
        SortTarget::Value if sign < 0 => kvs.sort_by(|a, b| b.value.cmp(&a.value)),
        SortTarget::Value => kvs.sort_by(|a, b| a.value.cmp(&b.value)),
    }
    let more = limit > 0 && kvs.len() > limit;
    if more {
        kvs.truncate(limit);
    }
    if query.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    RangeAnswer { revision, kvs, more, count }
}
