//! Commands drawn from a seed.
//!
//! Few keys, so that commands meet; every option, alone and with others. Numbers that mean a point
//! in history lie around what is retained, on either side of both ends, unless the draw is `odd`:
//! then any number and any text will do, because nothing but the encoding is tried.

use std::collections::BTreeSet;

use bytes::Bytes;
use store::command::{
    Access, Alarm, AlarmKind, AuthOp, Command, Compare, CompareResult, CompareTarget, DeleteRange,
    KeyRange, LeaseId, Login, Member, MemberId, Op, PasswordHash, Permission, Put, RangeQuery,
    Revision, Sender, SortOrder, SortTarget, Txn, User,
};

use crate::Random;

/// Prefixes, neighbours and extremes of each other.
const KEYS: [&[u8]; 12] =
    [b"a", b"a\0", b"a/", b"a/1", b"a/2", b"b", b"b\xff", b"c", b"\0", b"\0\0", b"\xff\xff", b"zz"];
const TEXTS: [&str; 6] = ["", "root", "alice", "\0", "é\u{10FFFF}", "http://a:1"];
const EXTREMES: [i64; 8] = [i64::MIN, i64::MAX, -1, 0, 1, 63, 64, 1 << 32];

/// Draws.
pub(crate) struct Draw {
    pub(crate) random: Random,
    /// Between these lie the revisions that can be asked about.
    pub(crate) compacted: i64,
    pub(crate) revision: i64,
    /// How many changes users and roles have seen.
    pub(crate) auth_revision: u64,
    /// Anything goes.
    pub(crate) odd: bool,
}

impl Draw {
    /// For a new store.
    pub(crate) fn new(seed: u64) -> Self {
        let random = Random::new(seed);
        Self { random, compacted: -1, revision: 1, auth_revision: 1, odd: false }
    }

    /// For the encoding alone.
    pub(crate) fn odd(seed: u64) -> Self {
        Self { odd: true, ..Self::new(seed) }
    }

    fn flag(&mut self, n: usize) -> bool {
        self.random.once_in(n)
    }

    pub(crate) fn key(&mut self) -> Bytes {
        if self.flag(80) {
            return Bytes::new();
        }
        if self.odd && self.flag(4) {
            return vec![b'k'; self.random.below(300)].into();
        }
        Bytes::from_static(self.random.one_of(&KEYS))
    }

    fn value(&mut self) -> Bytes {
        match self.random.below(10) {
            0 => Bytes::new(),
            1 => vec![b'x'; self.random.below(1200)].into(),
            _ => Bytes::from(format!("v{}", self.random.below(12))),
        }
    }

    fn text(&mut self) -> String {
        self.random.one_of(&TEXTS).to_owned()
    }

    fn number(&mut self) -> i64 {
        match self.flag(2) {
            true => self.random.one_of(&EXTREMES),
            false => self.random.small(1 << 40) - (1 << 39),
        }
    }

    fn unsigned(&mut self) -> u64 {
        self.number().cast_unsigned()
    }

    /// Mostly the present.
    pub(crate) fn revision(&mut self) -> Revision {
        if self.odd {
            return Revision(self.number());
        }
        let lowest = self.compacted.max(0) - 2;
        let span = usize::try_from(self.revision + 5 - lowest).expect("revisions ascend");
        Revision(if self.flag(2) { 0 } else { lowest + self.random.small(span) })
    }

    fn lease(&mut self) -> LeaseId {
        LeaseId(if self.odd { self.number() } else { 1 + self.random.small(4) })
    }

    pub(crate) fn range(&mut self) -> KeyRange {
        match self.random.below(8) {
            0..=2 => KeyRange::Key(self.key()),
            3 => KeyRange::From(self.key()),
            4 => KeyRange::all(),
            _ => KeyRange::Span(self.key(), self.key()),
        }
    }

    pub(crate) fn query(&mut self) -> RangeQuery {
        let orders = [SortOrder::None, SortOrder::None, SortOrder::Ascend, SortOrder::Descend];
        let targets = [
            SortTarget::Key,
            SortTarget::Version,
            SortTarget::Create,
            SortTarget::Modified,
            SortTarget::Value,
        ];
        let mut query = RangeQuery::new(self.range());
        query.revision = self.revision();
        query.limit = if self.odd { self.number() } else { self.random.small(6) };
        query.order = self.random.one_of(&orders);
        query.target = self.random.one_of(&targets);
        query.keys_only = self.flag(6);
        query.count_only = self.flag(8);
        query.serializable = self.flag(4);
        let bounds = [
            &mut query.min_modified,
            &mut query.max_modified,
            &mut query.min_create,
            &mut query.max_create,
        ];
        for bound in bounds {
            if self.flag(8) {
                *bound = self.revision();
            }
        }
        query
    }

    fn put(&mut self) -> Put {
        let mut put = Put { key: self.key(), value: self.value(), ..Put::default() };
        put.prev_kv = self.flag(3);
        if self.flag(4) {
            put.lease = self.lease();
        }
        match self.random.below(14) {
            0 => (put.ignore_value, put.value) = (true, Bytes::new()),
            1 => (put.ignore_lease, put.lease) = (true, LeaseId::NONE),
            2 => put.ignore_value = true,
            3 => put.ignore_lease = true,
            _ => {}
        }
        put
    }

    fn delete(&mut self) -> DeleteRange {
        // Wide ones are rare, or there would be nothing to read.
        let range = if self.flag(3) { self.range() } else { KeyRange::Key(self.key()) };
        DeleteRange { range, prev_kv: self.flag(2) }
    }

    fn compare(&mut self) -> Compare {
        let results = [
            CompareResult::Equal,
            CompareResult::Greater,
            CompareResult::Less,
            CompareResult::NotEqual,
        ];
        let target = match self.random.below(5) {
            0 if self.odd => CompareTarget::Version(self.number()),
            0 => CompareTarget::Version(self.random.small(4)),
            1 => CompareTarget::Create(self.revision()),
            2 => CompareTarget::Modified(self.revision()),
            3 => CompareTarget::Lease(self.lease()),
            _ => CompareTarget::Value(self.value()),
        };
        Compare { range: self.range(), target, result: self.random.one_of(&results) }
    }

    fn op(&mut self, depth: usize) -> Op {
        match self.random.below(12) {
            0..=4 => Op::Put(self.put()),
            5 => Op::Delete(self.delete()),
            6..=8 => Op::Range(self.query()),
            _ if depth > 0 => Op::Txn(self.txn(depth - 1)),
            _ => Op::Put(self.put()),
        }
    }

    /// A transaction with others in it, down to `depth` levels.
    pub(crate) fn txn(&mut self, depth: usize) -> Txn {
        let mut txn = Txn::default();
        txn.compares.extend((0..self.random.below(3)).map(|_| self.compare()));
        txn.success.extend((0..self.random.below(5)).map(|_| self.op(depth)));
        txn.failure.extend((0..self.random.below(4)).map(|_| self.op(depth)));
        txn
    }

    /// A transaction that only asks.
    pub(crate) fn question(&mut self) -> Txn {
        let mut txn = Txn::default();
        txn.compares.extend((0..self.random.below(3)).map(|_| self.compare()));
        txn.success.extend((0..1 + self.random.below(2)).map(|_| Op::Range(self.query())));
        txn.failure.extend((0..self.random.below(3)).map(|_| Op::Range(self.query())));
        txn
    }

    fn leases(&mut self) -> Command {
        match self.random.below(6) {
            0..=2 => Command::LeaseGrant {
                id: self.lease(),
                ttl: if self.odd { self.number() } else { self.random.small(100) },
            },
            3 | 4 => Command::LeaseRevoke(self.lease()),
            _ => {
                let left = (0..self.random.below(3)).map(|_| (self.lease(), 5));
                Command::LeaseCheckpoint(left.collect())
            }
        }
    }

    fn alarm(&mut self) -> Alarm {
        let kind =
            self.random.one_of(&[AlarmKind::NoSpace, AlarmKind::NoSpace, AlarmKind::Corrupt]);
        Alarm { member: MemberId(if self.odd { self.unsigned() } else { 7 }), kind }
    }

    /// A command about keys and what belongs to them.
    pub(crate) fn command(&mut self) -> Command {
        match self.random.below(100) {
            0..=34 => Command::Put(self.put()),
            35..=46 => Command::Delete(self.delete()),
            47..=76 => Command::Txn(self.txn(3)),
            77..=81 => Command::Compact(self.point()),
            82..=93 => self.leases(),
            94 => Command::RaiseAlarm(self.alarm()),
            95..=97 => Command::ClearAlarm(self.alarm()),
            98 if self.odd => Command::MemberAttributes(Member {
                id: MemberId(self.unsigned()),
                name: self.text(),
                client_urls: (0..self.random.below(3)).map(|_| self.text()).collect(),
            }),
            98 => Command::Quota { bytes: self.random.below(60_000) as u64, member: MemberId(7) },
            _ => Command::Quota { bytes: 0, member: MemberId(7) },
        }
    }

    /// Where to compact: mostly a little further than the last time, so that history is left.
    fn point(&mut self) -> Revision {
        match self.revision() {
            far if self.odd || self.flag(3) => far,
            _ => Revision(self.compacted.max(0) + self.random.small(6)),
        }
    }

    fn user(&mut self) -> String {
        self.random.one_of(&["root", "root", "alice", "alice", "alice", "bob", ""]).to_owned()
    }

    fn role(&mut self) -> String {
        self.random.one_of(&["root", "r1", "r1", "r1", "r2", "r2", ""]).to_owned()
    }

    fn hash(&mut self) -> PasswordHash {
        PasswordHash(vec![b'h'; self.random.below(3)].into())
    }

    /// Somebody with a proof that is sometimes of the past.
    pub(crate) fn sender(&mut self) -> Sender {
        if self.flag(6) {
            return Sender::Store;
        }
        let revision = match self.odd {
            true => self.unsigned(),
            false => self.auth_revision.saturating_sub(u64::from(self.flag(8))),
        };
        Sender::User(Login { user: self.user(), revision })
    }

    pub(crate) fn permission(&mut self) -> Permission {
        let kinds = [Access::Read, Access::Write, Access::ReadWrite];
        Permission { access: self.random.one_of(&kinds), range: self.range() }
    }

    /// A change of users and roles.
    pub(crate) fn auth(&mut self) -> AuthOp {
        match self.random.below(40) {
            0 | 1 => AuthOp::Enable,
            2 => AuthOp::Disable,
            3..=7 => {
                AuthOp::UserAdd { name: self.user(), hash: self.hash(), no_password: self.flag(4) }
            }
            8 => AuthOp::UserDelete { name: self.user() },
            9 | 10 => AuthOp::UserChangePassword { name: self.user(), hash: self.hash() },
            11..=16 => AuthOp::UserGrantRole { user: self.user(), role: self.role() },
            17 => AuthOp::UserRevokeRole { user: self.user(), role: self.role() },
            18..=21 => AuthOp::RoleAdd { name: self.role() },
            22 => AuthOp::RoleDelete { name: self.role() },
            23..=35 => {
                AuthOp::RoleGrantPermission { role: self.role(), permission: self.permission() }
            }
            _ => AuthOp::RoleRevokePermission { role: self.role(), range: self.range() },
        }
    }

    /// Any command, sent by somebody or not.
    pub(crate) fn any(&mut self) -> Command {
        let command = if self.flag(4) { Command::Auth(self.auth()) } else { self.command() };
        if self.flag(3) { command } else { command.by(self.sender()) }
    }

    /// A user as the database keeps him.
    pub(crate) fn kept_user(&mut self) -> User {
        let roles: BTreeSet<_> = (0..self.random.below(4)).map(|_| self.text()).collect();
        User { name: self.text(), hash: self.hash(), no_password: self.flag(2), roles }
    }
}
