//! Draws a session from a seed.
//!
//! Few keys, so that steps meet; every option, alone and with others; and where an input has a
//! border, values on it and on either side: empty and inverted ranges, revisions just below the
//! compacted one and just above the newest, enums that do not exist, the extremes of every number.

use bytes::Bytes;
use proto::authpb;
use proto::etcdserverpb as pb;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::auth::AuthStep;
use super::step::{COMPACTED, CURRENT, MEMBER, PICKED, Step, Turn};
use super::{CLIENTS, STREAMS};
use pb::compare::TargetUnion;
use pb::request_op::Request as Op;

/// Names that are prefixes, neighbours and extremes of each other.
const KEYS: [&[u8]; 16] = [
    b"a",
    b"a\0",
    b"a/",
    b"a/1",
    b"a/2",
    b"a0",
    b"ab",
    b"b",
    b"b/1",
    b"c",
    b"\0",
    b"\0\0",
    b"\xff",
    b"\xff\xff",
    b"zz",
    b"z",
];
/// Nested transactions go this deep.
const DEPTH: usize = 3;
/// A value that fills several answers of a few rows each.
const BIG_VALUE: usize = 200_000;

/// The turns of a session.
pub(super) fn session(seed: u64, turns: usize) -> Vec<Turn> {
    let mut draw = Draw {
        random: StdRng::seed_from_u64(seed),
        due: Vec::new(),
        extremes: true,
        picks: seed % 4 == 3,
        users: seed % 3 == 2,
    };
    let mut session: Vec<Turn> = (0..turns).map(|_| draw.turn()).collect();
    // Once, since it takes seconds.
    if let Some(last) = session.last_mut() {
        last.step = Step::Expire(pb::PutRequest { key: draw.key(), ..Default::default() });
    }
    session
}

struct Draw {
    random: StdRng,
    /// Steps that must follow soon: an alarm that is raised is taken back.
    due: Vec<Step>,
    /// Whether a part may be drawn that makes the whole request a faulty one.
    extremes: bool,
    /// Whether the servers pick ids of leases. They end up in values and so in hashes, which then
    /// cannot be compared; most sessions do without.
    picks: bool,
    /// Whether the session is about users too.
    users: bool,
}

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.random.random_range(0..bound)
    }

    /// True once in `n` times.
    fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn small(&mut self, bound: usize) -> i64 {
        i64::try_from(self.below(bound)).expect("small")
    }

    fn turn(&mut self) -> Turn {
        let client = self.below(CLIENTS);
        if !self.due.is_empty() && self.once_in(4) {
            return Turn { client, step: self.due.remove(0) };
        }
        if self.users && self.once_in(5) {
            return Turn { client, step: Step::Auth(self.auth()) };
        }
        Turn { client, step: self.step() }
    }

    fn step(&mut self) -> Step {
        match self.below(1000) {
            0..=209 => Step::Put(self.put()),
            210..=279 => Step::Delete(self.delete()),
            280..=479 => Step::Range(self.range()),
            480..=529 => Step::RangeStream(self.range_for_stream()),
            530..=729 => Step::Txn(self.whole_txn()),
            730..=739 => Step::Compact(self.compact()),
            740..=789 => self.lease_step(),
            790..=799 => Step::Members(pb::MemberListRequest { linearizable: self.once_in(2) }),
            800..=809 => Step::Status,
            810..=824 => Step::HashKv(pb::HashKvRequest { revision: self.revision() }),
            825..=834 => self.alarm(),
            835..=894 => Step::Watch(self.below(STREAMS), self.watch()),
            895..=909 => Step::Cancel(self.below(STREAMS), self.watch_id()),
            910..=914 => Step::Progress(self.below(STREAMS)),
            915..=917 => Step::Close(self.below(STREAMS)),
            918..=924 => Step::Settle,
            925 => Step::Txn(self.wide_txn()),
            926 => Step::Put(pb::PutRequest {
                value: Bytes::from(vec![b'v'; BIG_VALUE]),
                ..self.put()
            }),
            _ => Step::Range(self.plain_range()),
        }
    }

    fn auth(&mut self) -> AuthStep {
        let user = ["root", "alice", "bob", ""][self.below(37) / 12].to_string();
        let role = ["root", "r1", "r2", ""][self.below(37) / 12].to_string();
        let password = ["pw", "pw", "pw", "other", ""][self.below(5)].to_string();
        match self.below(40) {
            0..=2 => AuthStep::Enable,
            3 => AuthStep::Disable,
            4 | 5 => AuthStep::Status,
            6..=13 => AuthStep::Login(user, password),
            14..=17 => AuthStep::UserAdd(user, password, self.once_in(8)),
            // Of a user without a name etcd takes whoever has none for that user (differences.md).
            18 if !user.is_empty() => AuthStep::UserGet(user),
            19 => AuthStep::UserList,
            20 => AuthStep::UserDelete(user),
            21 => AuthStep::Password(user, password),
            22..=26 => AuthStep::Grant(user, role),
            27 => AuthStep::Revoke(user, role),
            28..=30 => AuthStep::RoleAdd(role),
            31 => AuthStep::RoleGet(role),
            32 => AuthStep::RoleList,
            33 => AuthStep::RoleDelete(role),
            34..=38 => AuthStep::Permit(role, self.permission()),
            _ => {
                let key = self.key();
                let range_end = self.range_end(&key);
                AuthStep::Forbid(role, key, range_end)
            }
        }
    }

    fn permission(&mut self) -> Option<authpb::Permission> {
        if self.once_in(20) {
            return None;
        }
        let key = self.key();
        let range_end = self.range_end(&key);
        Some(authpb::Permission { perm_type: self.random.random_range(0..3), key, range_end })
    }

    // ---- parts ----

    fn key(&mut self) -> Bytes {
        if self.extremes && self.once_in(60) {
            return Bytes::new();
        }
        if self.once_in(4) {
            return Bytes::from(format!("k{:02}", self.below(25)));
        }
        Bytes::from_static(KEYS[self.below(KEYS.len())])
    }

    fn range_end(&mut self, key: &Bytes) -> Bytes {
        let end = match self.below(10) {
            0..=3 => Bytes::new(),
            4 => Bytes::from_static(b"\0"),
            5 | 6 => prefix_end(key),
            7 => key.clone(),
            _ => self.key(),
        };
        // Who may ask for keys that cannot be, etcd leaves to chance (differences.md).
        let inverted = end <= *key && end[..] != [0];
        if self.users && inverted { Bytes::new() } else { end }
    }

    fn value(&mut self) -> Bytes {
        match self.below(12) {
            0 => Bytes::new(),
            1 => Bytes::from(vec![b'x'; self.below(2000)]),
            _ => Bytes::from(format!("v{}", self.below(30))),
        }
    }

    /// A number that means nothing, at an end of its range.
    fn extreme(&mut self) -> i64 {
        [-1, i64::MIN, i64::MAX, i64::from(u32::MAX), -100][self.below(5)]
    }

    fn revision(&mut self) -> i64 {
        match self.below(20) {
            0..=9 => 0,
            10..=13 => CURRENT - self.small(40),
            14 => CURRENT + 1 + self.small(3),
            15..=17 => COMPACTED - 2 + self.small(5),
            18 => self.small(10),
            _ => self.extreme(),
        }
    }

    fn filter(&mut self) -> i64 {
        if self.once_in(8) { self.revision() } else { 0 }
    }

    fn limit(&mut self) -> i64 {
        match self.below(10) {
            0..=5 => 0,
            6..=8 => 1 + self.small(6),
            _ => self.extreme(),
        }
    }

    fn lease_id(&mut self) -> i64 {
        match self.below(20) {
            0..=11 => 1 + self.small(6),
            12..=17 => PICKED + self.small(12),
            18 => self.small(1_000_000),
            _ => self.extreme(),
        }
    }

    fn watch_id(&mut self) -> i64 {
        match self.below(30) {
            0..=27 => self.small(16),
            28 => 1000,
            _ => self.extreme(),
        }
    }

    /// A value of an enum, rarely one that does not exist.
    fn choice(&mut self, number: i32) -> i32 {
        if self.extremes && self.once_in(80) {
            return [-1, number, i32::MAX][self.below(3)];
        }
        self.random.random_range(0..number)
    }

    // ---- requests ----

    fn range(&mut self) -> pb::RangeRequest {
        let key = self.key();
        let sorted = self.once_in(2);
        pb::RangeRequest {
            range_end: self.range_end(&key),
            key,
            limit: self.limit(),
            revision: self.revision(),
            sort_order: if sorted { self.choice(3) } else { 0 },
            sort_target: if sorted { self.choice(5) } else { 0 },
            serializable: self.once_in(4),
            keys_only: self.once_in(8),
            count_only: self.once_in(10),
            min_mod_revision: self.filter(),
            max_mod_revision: self.filter(),
            min_create_revision: self.filter(),
            max_create_revision: self.filter(),
        }
    }

    fn plain_range(&mut self) -> pb::RangeRequest {
        let key = self.key();
        pb::RangeRequest { range_end: self.range_end(&key), key, ..Default::default() }
    }

    fn range_for_stream(&mut self) -> pb::RangeRequest {
        let mut range = self.range();
        if range.sort_order == 0 {
            // etcd sorts each piece and loses its place between them; ours refuses (differences.md).
            range.sort_target = 0;
        }
        if self.once_in(4) {
            return range;
        }
        pb::RangeRequest {
            sort_order: 0,
            sort_target: 0,
            min_mod_revision: 0,
            max_mod_revision: 0,
            min_create_revision: 0,
            max_create_revision: 0,
            ..range
        }
    }

    fn put(&mut self) -> pb::PutRequest {
        let mut put = pb::PutRequest {
            key: self.key(),
            value: self.value(),
            lease: if self.once_in(4) { self.lease_id() } else { 0 },
            prev_kv: self.once_in(3),
            ..Default::default()
        };
        match self.below(16) {
            0 => (put.ignore_value, put.value) = (true, Bytes::new()),
            1 => (put.ignore_lease, put.lease) = (true, 0),
            2 => put.ignore_value = true,
            3 => put.ignore_lease = true,
            _ => {}
        }
        put
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let key = self.key();
        pb::DeleteRangeRequest {
            // Wide deletes are rare, or there would be nothing to read.
            range_end: if self.once_in(3) { self.range_end(&key) } else { Bytes::new() },
            key,
            prev_kv: self.once_in(2),
        }
    }

    fn compact(&mut self) -> pb::CompactionRequest {
        let revision = match self.below(8) {
            0 => self.revision(),
            1 => CURRENT,
            2 => COMPACTED,
            3..=5 => COMPACTED + 1 + self.small(60),
            _ => CURRENT - 10 - self.small(200),
        };
        pb::CompactionRequest { revision, physical: self.once_in(5) }
    }

    fn compare(&mut self) -> pb::Compare {
        let key = self.key();
        let target_union = match self.below(6) {
            0 => Some(TargetUnion::Version(self.small(4))),
            1 => Some(TargetUnion::CreateRevision(self.revision())),
            2 => Some(TargetUnion::ModRevision(self.revision())),
            3 => Some(TargetUnion::Value(self.value())),
            4 => Some(TargetUnion::Lease(self.lease_id())),
            _ => None,
        };
        // Mostly the target that the union speaks of.
        let fitting = match &target_union {
            Some(TargetUnion::Version(_)) | None => 0,
            Some(TargetUnion::CreateRevision(_)) => 1,
            Some(TargetUnion::ModRevision(_)) => 2,
            Some(TargetUnion::Value(_)) => 3,
            Some(TargetUnion::Lease(_)) => 4,
        };
        // Ids that the servers picked are not in any order.
        let picked = |id: &i64| (PICKED..PICKED + 100).contains(id);
        let result = match &target_union {
            Some(TargetUnion::Lease(id)) if picked(id) => [0, 3][self.below(2)],
            _ => self.choice(4),
        };
        pb::Compare {
            result,
            target: if self.once_in(10) { self.choice(5) } else { fitting },
            range_end: if self.once_in(3) { self.range_end(&key) } else { Bytes::new() },
            key,
            target_union,
        }
    }

    fn op(&mut self, depth: usize) -> pb::RequestOp {
        let request = match self.below(40) {
            0..=19 => Some(Op::RequestPut(self.put())),
            20..=25 => Some(Op::RequestDeleteRange(self.delete())),
            26..=33 => Some(Op::RequestRange(self.range())),
            34..=38 if depth > 0 => Some(Op::RequestTxn(self.txn(depth - 1))),
            39 if self.extremes => None,
            _ => Some(Op::RequestRange(self.plain_range())),
        };
        pb::RequestOp { request }
    }

    fn ops(&mut self, depth: usize) -> Vec<pb::RequestOp> {
        (0..self.below(4)).map(|_| self.op(depth)).collect()
    }

    /// etcd's check for keys that are changed twice takes a delete without end for an empty one, and
    /// does not hold a delete against what a nested transaction before it puts; ours does both
    /// (differences.md). Such deletes are taken out.
    fn whole_txn(&mut self) -> pb::TxnRequest {
        let mut txn = self.txn(DEPTH);
        if has_put(&txn) {
            close_deletes(&mut txn);
        }
        part_siblings(&mut txn);
        txn
    }

    /// Most of its parts are free of faults, or hardly any transaction would be carried out.
    fn txn(&mut self, depth: usize) -> pb::TxnRequest {
        let outer = std::mem::replace(&mut self.extremes, false);
        self.extremes = outer && self.once_in(6);
        let txn = pb::TxnRequest {
            compare: (0..self.below(3)).map(|_| self.compare()).collect(),
            success: self.ops(depth),
            failure: self.ops(depth),
        };
        self.extremes = outer;
        txn
    }

    /// About as many operations as a transaction may have, in one place or in two levels.
    fn wide_txn(&mut self) -> pb::TxnRequest {
        let put = |n: usize| pb::RequestOp {
            request: Some(Op::RequestPut(pb::PutRequest {
                key: Bytes::from(format!("w{n:03}")),
                ..Default::default()
            })),
        };
        let total = 126 + self.below(5);
        if self.once_in(2) {
            return pb::TxnRequest { success: (0..total).map(put).collect(), ..Default::default() };
        }
        let inner = pb::TxnRequest { failure: (1..total).map(put).collect(), ..Default::default() };
        let nested = pb::RequestOp { request: Some(Op::RequestTxn(inner)) };
        pb::TxnRequest { success: vec![nested], ..Default::default() }
    }

    fn lease_step(&mut self) -> Step {
        let id = self.lease_id();
        match self.below(12) {
            0..=3 => {
                let id = if self.picks && self.once_in(2) { 0 } else { id };
                let ttl = if self.once_in(10) {
                    [9_000_000_000, 9_000_000_001, i64::MAX][self.below(3)]
                } else {
                    600 + self.small(1000)
                };
                Step::Grant(pb::LeaseGrantRequest { ttl, id })
            }
            4 => {
                let ttl = [0, 1, 2, -1, i64::MIN][self.below(5)];
                Step::Brief(pb::LeaseGrantRequest { ttl, id: 5_000_000 + self.small(9) })
            }
            5 | 6 => Step::Revoke(pb::LeaseRevokeRequest { id }),
            7 => Step::KeepAlive(pb::LeaseKeepAliveRequest { id }),
            8..=10 => Step::TimeToLive(pb::LeaseTimeToLiveRequest { id, keys: self.once_in(2) }),
            _ => Step::Leases,
        }
    }

    fn alarm(&mut self) -> Step {
        let member_id = match self.below(4) {
            0 => 0,
            1 => 77,
            _ => MEMBER,
        };
        // One that does not exist ends etcd.
        let action = if self.once_in(3) { self.random.random_range(0..3) } else { 0 };
        // etcd keeps an alarm of a kind that does not exist (differences.md).
        let alarm = if action == 0 { self.choice(3) } else { self.random.random_range(0..3) };
        if action == 1 {
            // Under an alarm most steps are refused, so it does not last.
            let off = pb::AlarmRequest { action: 2, member_id, alarm };
            self.due.push(Step::Alarm(off));
        }
        Step::Alarm(pb::AlarmRequest { action, member_id, alarm })
    }

    fn watch(&mut self) -> pb::WatchCreateRequest {
        let key = self.key();
        pb::WatchCreateRequest {
            range_end: self.range_end(&key),
            key,
            start_revision: match self.below(10) {
                0..=3 => 0,
                4 | 5 => CURRENT - self.small(60),
                6 => COMPACTED - 2 + self.small(5),
                7 => CURRENT + 1 + self.small(30),
                // Whether it may watch is asked first here, and afterwards in etcd (differences.md).
                9 if !self.users => self.extreme(),
                _ => self.small(10),
            },
            progress_notify: self.once_in(6),
            filters: match self.below(8) {
                0 => vec![0],
                1 => vec![1],
                2 => vec![0, 1],
                _ => Vec::new(),
            },
            prev_kv: self.once_in(2),
            watch_id: if self.once_in(5) { self.watch_id() } else { 0 },
            fragment: self.once_in(4),
        }
    }
}

fn branches(txn: &pb::TxnRequest) -> impl Iterator<Item = &Op> {
    txn.success.iter().chain(&txn.failure).filter_map(|op| op.request.as_ref())
}

fn has_put(txn: &pb::TxnRequest) -> bool {
    branches(txn).any(|op| match op {
        Op::RequestPut(_) => true,
        Op::RequestTxn(txn) => has_put(txn),
        Op::RequestRange(_) | Op::RequestDeleteRange(_) => false,
    })
}

fn close_deletes(txn: &mut pb::TxnRequest) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Op::RequestDeleteRange(delete)) if delete.range_end[..] == [0] => {
                delete.range_end = Bytes::new();
            }
            Some(Op::RequestTxn(txn)) => close_deletes(txn),
            _ => {}
        }
    }
}

/// Turns deletes into reads in nested transactions that follow one that puts.
fn part_siblings(txn: &mut pb::TxnRequest) {
    for branch in [&mut txn.success, &mut txn.failure] {
        let mut puts = false;
        for op in branch {
            let Some(Op::RequestTxn(nested)) = &mut op.request else { continue };
            part_siblings(nested);
            if puts {
                read_deletes(nested);
            }
            puts |= has_put(nested);
        }
    }
}

fn read_deletes(txn: &mut pb::TxnRequest) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Op::RequestDeleteRange(delete)) => {
                let (key, range_end) = (delete.key.clone(), delete.range_end.clone());
                let range = pb::RangeRequest { key, range_end, ..Default::default() };
                op.request = Some(Op::RequestRange(range));
            }
            Some(Op::RequestTxn(txn)) => read_deletes(txn),
            _ => {}
        }
    }
}

/// The end of the range of all keys that begin with `key`.
fn prefix_end(key: &Bytes) -> Bytes {
    let mut end = key.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}
