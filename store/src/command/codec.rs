//! How commands are written in the log.
//!
//! An entry is one version byte, the number of commands, and the commands. A command is a tag byte
//! and its fields in order: integers as LEB128 (signed ones zigzag first), byte strings as length
//! and bytes, sequences as count and items, flags packed into one byte. There are no field tags:
//! the version byte governs all, and a change of the layout is a new version that still reads the
//! old ones.
//!
//! The decoder trusts nothing, since a log can be damaged in ways a checksum does not see and is a
//! fuzzing target: lengths are checked against what is left, counts reserve nothing in advance,
//! depth is bounded, and each value has exactly one accepted encoding. Keys and values are slices
//! of the entry, not copies.

mod auth;

use bytes::{Buf, Bytes};

pub use auth::{decode_role, decode_user, encode_role, encode_user};

use super::{
    Alarm, AlarmKind, Command, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange,
    LeaseId, Member, MemberId, Op, Put, RangeQuery, Revision, SortOrder, SortTarget, Txn,
};
use crate::limits::TXN_DEPTH_MAX;
use crate::varint;

/// The layout written by this version of the program.
const VERSION: u8 = 1;

/// Why bytes are not an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("entry of layout {0}, but only layouts up to {VERSION} are known")]
    UnknownVersion(u8),
    #[error("the entry ends early")]
    Truncated,
    #[error("{0} bytes follow the last command")]
    Trailing(usize),
    #[error("{tag} is no {what}")]
    UnknownTag { what: &'static str, tag: u8 },
    #[error("an integer is too long")]
    Integer,
    #[error("a text is not UTF-8")]
    Text,
    #[error("transactions are nested more than {TXN_DEPTH_MAX} deep")]
    TooDeep,
}

/// Writes an entry.
#[must_use]
pub fn encode(commands: &[Command]) -> Vec<u8> {
    let mut out = Writer { out: Vec::with_capacity(64 + 64 * commands.len()) };
    out.byte(VERSION);
    out.seq(commands, Writer::command);
    out.out
}

/// Reads an entry that [`encode`] wrote.
pub fn decode(entry: Bytes) -> Result<Vec<Command>, DecodeError> {
    let mut input = Reader { rest: entry };
    match input.byte()? {
        VERSION => {}
        version => return Err(DecodeError::UnknownVersion(version)),
    }
    let commands = input.seq(Reader::command)?;
    match input.rest.len() {
        0 => Ok(commands),
        left => Err(DecodeError::Trailing(left)),
    }
}

// Tags. They are on disk: never renumber, never reuse.
const PUT: u8 = 1;
const DELETE: u8 = 2;
const TXN: u8 = 3;
const COMPACT: u8 = 4;
const LEASE_GRANT: u8 = 5;
const LEASE_REVOKE: u8 = 6;
const LEASE_CHECKPOINT: u8 = 7;
const RAISE_ALARM: u8 = 8;
const CLEAR_ALARM: u8 = 9;
const MEMBER_ATTRIBUTES: u8 = 10;
const QUOTA: u8 = 11;
const AUTH: u8 = 12;
const SENT: u8 = 13;
/// A step of a transaction only; the other steps use the tags of commands.
const RANGE: u8 = 64;

struct Writer {
    out: Vec<u8>,
}

impl Writer {
    fn command(&mut self, command: &Command) {
        match command {
            Command::Put(put) => self.put(put),
            Command::Delete(delete) => self.delete(delete),
            Command::Txn(txn) => self.txn(txn),
            Command::Compact(revision) => {
                self.byte(COMPACT);
                self.signed(revision.0);
            }
            Command::LeaseGrant { id, ttl } => {
                self.byte(LEASE_GRANT);
                self.signed(id.0);
                self.signed(*ttl);
            }
            Command::LeaseRevoke(id) => {
                self.byte(LEASE_REVOKE);
                self.signed(id.0);
            }
            Command::LeaseCheckpoint(remaining) => {
                self.byte(LEASE_CHECKPOINT);
                self.seq(remaining, |out, (id, seconds)| {
                    out.signed(id.0);
                    out.signed(*seconds);
                });
            }
            Command::RaiseAlarm(alarm) => self.alarm(RAISE_ALARM, *alarm),
            Command::ClearAlarm(alarm) => self.alarm(CLEAR_ALARM, *alarm),
            Command::MemberAttributes(member) => {
                self.byte(MEMBER_ATTRIBUTES);
                self.unsigned(member.id.0);
                self.bytes(member.name.as_bytes());
                self.seq(&member.client_urls, |out, url| out.bytes(url.as_bytes()));
            }
            Command::Quota { bytes, member } => {
                self.byte(QUOTA);
                self.unsigned(*bytes);
                self.unsigned(member.0);
            }
            Command::Auth(op) => {
                self.byte(AUTH);
                self.auth(op);
            }
            Command::Sent { by, command } => {
                self.byte(SENT);
                self.sent(by, command);
            }
        }
    }

    fn op(&mut self, op: &Op) {
        match op {
            Op::Range(query) => self.range_query(query),
            Op::Put(put) => self.put(put),
            Op::Delete(delete) => self.delete(delete),
            Op::Txn(txn) => self.txn(txn),
        }
    }

    fn put(&mut self, put: &Put) {
        self.byte(PUT);
        self.flags([put.prev_kv, put.ignore_value, put.ignore_lease]);
        self.bytes(&put.key);
        self.bytes(&put.value);
        self.signed(put.lease.0);
    }

    fn delete(&mut self, delete: &DeleteRange) {
        self.byte(DELETE);
        self.flags([delete.prev_kv]);
        self.key_range(&delete.range);
    }

    fn txn(&mut self, txn: &Txn) {
        self.byte(TXN);
        self.seq(&txn.compares, Self::compare);
        self.seq(&txn.success, Self::op);
        self.seq(&txn.failure, Self::op);
    }

    fn compare(&mut self, compare: &Compare) {
        self.key_range(&compare.range);
        self.byte(match compare.result {
            CompareResult::Equal => 0,
            CompareResult::Greater => 1,
            CompareResult::Less => 2,
            CompareResult::NotEqual => 3,
        });
        let (tag, number) = match &compare.target {
            CompareTarget::Version(version) => (0, *version),
            CompareTarget::Create(revision) => (1, revision.0),
            CompareTarget::Modified(revision) => (2, revision.0),
            CompareTarget::Lease(lease) => (3, lease.0),
            CompareTarget::Value(value) => {
                self.byte(4);
                return self.bytes(value);
            }
        };
        self.byte(tag);
        self.signed(number);
    }

    fn range_query(&mut self, query: &RangeQuery) {
        self.byte(RANGE);
        self.key_range(&query.range);
        self.signed(query.revision.0);
        self.signed(query.limit);
        self.byte(match query.order {
            SortOrder::None => 0,
            SortOrder::Ascend => 1,
            SortOrder::Descend => 2,
        });
        self.byte(match query.target {
            SortTarget::Key => 0,
            SortTarget::Version => 1,
            SortTarget::Create => 2,
            SortTarget::Modified => 3,
            SortTarget::Value => 4,
        });
        self.flags([query.keys_only, query.count_only, query.serializable]);
        self.signed(query.min_modified.0);
        self.signed(query.max_modified.0);
        self.signed(query.min_create.0);
        self.signed(query.max_create.0);
    }

    fn key_range(&mut self, range: &KeyRange) {
        match range {
            KeyRange::Key(key) => {
                self.byte(0);
                self.bytes(key);
            }
            KeyRange::Span(start, end) => {
                self.byte(1);
                self.bytes(start);
                self.bytes(end);
            }
            KeyRange::From(start) => {
                self.byte(2);
                self.bytes(start);
            }
        }
    }

    fn alarm(&mut self, tag: u8, alarm: Alarm) {
        self.byte(tag);
        self.unsigned(alarm.member.0);
        self.byte(match alarm.kind {
            AlarmKind::NoSpace => 1,
            AlarmKind::Corrupt => 2,
        });
    }

    fn seq<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.unsigned(items.len() as u64);
        for item in items {
            write(self, item);
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.unsigned(bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    fn flags<const N: usize>(&mut self, flags: [bool; N]) {
        const { assert!(N <= 8) };
        self.byte(
            flags.iter().enumerate().fold(0, |byte, (nth, flag)| byte | u8::from(*flag) << nth),
        );
    }

    fn signed(&mut self, number: i64) {
        self.unsigned(((number << 1) ^ (number >> 63)).cast_unsigned());
    }

    fn unsigned(&mut self, number: u64) {
        varint::put(&mut self.out, number);
    }

    fn byte(&mut self, byte: u8) {
        self.out.push(byte);
    }
}

struct Reader {
    rest: Bytes,
}

impl Reader {
    fn command(&mut self) -> Result<Command, DecodeError> {
        match self.byte()? {
            SENT => self.sent(),
            tag => self.unsent(tag),
        }
    }

    /// A command that does not say who sent it.
    fn unsent(&mut self, tag: u8) -> Result<Command, DecodeError> {
        Ok(match tag {
            PUT => Command::Put(self.put()?),
            DELETE => Command::Delete(self.delete()?),
            TXN => Command::Txn(self.txn(1)?),
            COMPACT => Command::Compact(self.revision()?),
            LEASE_GRANT => Command::LeaseGrant { id: self.lease()?, ttl: self.signed()? },
            LEASE_REVOKE => Command::LeaseRevoke(self.lease()?),
            LEASE_CHECKPOINT => {
                Command::LeaseCheckpoint(self.seq(|input| Ok((input.lease()?, input.signed()?)))?)
            }
            RAISE_ALARM => Command::RaiseAlarm(self.alarm()?),
            CLEAR_ALARM => Command::ClearAlarm(self.alarm()?),
            MEMBER_ATTRIBUTES => Command::MemberAttributes(Member {
                id: MemberId(self.unsigned()?),
                name: self.text()?,
                client_urls: self.seq(Self::text)?,
            }),
            QUOTA => Command::Quota { bytes: self.unsigned()?, member: MemberId(self.unsigned()?) },
            AUTH => Command::Auth(self.auth()?),
            tag => return Err(DecodeError::UnknownTag { what: "command", tag }),
        })
    }

    fn op(&mut self, depth: usize) -> Result<Op, DecodeError> {
        Ok(match self.byte()? {
            RANGE => Op::Range(self.range_query()?),
            PUT => Op::Put(self.put()?),
            DELETE => Op::Delete(self.delete()?),
            TXN => Op::Txn(self.txn(depth + 1)?),
            tag => return Err(DecodeError::UnknownTag { what: "step of a transaction", tag }),
        })
    }

    fn put(&mut self) -> Result<Put, DecodeError> {
        let [prev_kv, ignore_value, ignore_lease] = self.flags()?;
        let (key, value) = (self.bytes()?, self.bytes()?);
        Ok(Put { key, value, lease: self.lease()?, prev_kv, ignore_value, ignore_lease })
    }

    fn delete(&mut self) -> Result<DeleteRange, DecodeError> {
        let [prev_kv] = self.flags()?;
        Ok(DeleteRange { range: self.key_range()?, prev_kv })
    }

    fn txn(&mut self, depth: usize) -> Result<Txn, DecodeError> {
        if depth > TXN_DEPTH_MAX {
            return Err(DecodeError::TooDeep);
        }
        Ok(Txn {
            compares: self.seq(Self::compare)?,
            success: self.seq(|input| input.op(depth))?,
            failure: self.seq(|input| input.op(depth))?,
        })
    }

    fn compare(&mut self) -> Result<Compare, DecodeError> {
        let range = self.key_range()?;
        let result = match self.byte()? {
            0 => CompareResult::Equal,
            1 => CompareResult::Greater,
            2 => CompareResult::Less,
            3 => CompareResult::NotEqual,
            tag => return Err(DecodeError::UnknownTag { what: "comparison", tag }),
        };
        let target = match self.byte()? {
            0 => CompareTarget::Version(self.signed()?),
            1 => CompareTarget::Create(self.revision()?),
            2 => CompareTarget::Modified(self.revision()?),
            3 => CompareTarget::Lease(self.lease()?),
            4 => CompareTarget::Value(self.bytes()?),
            tag => return Err(DecodeError::UnknownTag { what: "target of a comparison", tag }),
        };
        Ok(Compare { range, target, result })
    }

    fn range_query(&mut self) -> Result<RangeQuery, DecodeError> {
        let mut query = RangeQuery::new(self.key_range()?);
        query.revision = self.revision()?;
        query.limit = self.signed()?;
        query.order = match self.byte()? {
            0 => SortOrder::None,
            1 => SortOrder::Ascend,
            2 => SortOrder::Descend,
            tag => return Err(DecodeError::UnknownTag { what: "sort order", tag }),
        };
        query.target = match self.byte()? {
            0 => SortTarget::Key,
            1 => SortTarget::Version,
            2 => SortTarget::Create,
            3 => SortTarget::Modified,
            4 => SortTarget::Value,
            tag => return Err(DecodeError::UnknownTag { what: "sort target", tag }),
        };
        [query.keys_only, query.count_only, query.serializable] = self.flags()?;
        query.min_modified = self.revision()?;
        query.max_modified = self.revision()?;
        query.min_create = self.revision()?;
        query.max_create = self.revision()?;
        Ok(query)
    }

    fn key_range(&mut self) -> Result<KeyRange, DecodeError> {
        Ok(match self.byte()? {
            0 => KeyRange::Key(self.bytes()?),
            1 => KeyRange::Span(self.bytes()?, self.bytes()?),
            2 => KeyRange::From(self.bytes()?),
            tag => return Err(DecodeError::UnknownTag { what: "key range", tag }),
        })
    }

    fn alarm(&mut self) -> Result<Alarm, DecodeError> {
        let member = MemberId(self.unsigned()?);
        let kind = match self.byte()? {
            1 => AlarmKind::NoSpace,
            2 => AlarmKind::Corrupt,
            tag => return Err(DecodeError::UnknownTag { what: "alarm", tag }),
        };
        Ok(Alarm { member, kind })
    }

    /// The count is checked against what is left (an item takes a byte at least), and nothing is
    /// reserved for it: memory grows only with items that were really there.
    fn seq<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.length()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(read(self)?);
        }
        Ok(items)
    }

    fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.length()?;
        Ok(self.rest.split_to(length))
    }

    fn text(&mut self) -> Result<String, DecodeError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| DecodeError::Text)
    }

    fn length(&mut self) -> Result<usize, DecodeError> {
        let length = usize::try_from(self.unsigned()?).map_err(|_| DecodeError::Truncated)?;
        if length > self.rest.len() { Err(DecodeError::Truncated) } else { Ok(length) }
    }

    fn flags<const N: usize>(&mut self) -> Result<[bool; N], DecodeError> {
        const { assert!(N < 8) };
        match self.byte()? {
            byte if byte >> N == 0 => Ok(std::array::from_fn(|nth| byte >> nth & 1 == 1)),
            tag => Err(DecodeError::UnknownTag { what: "set of flags", tag }),
        }
    }

    fn revision(&mut self) -> Result<Revision, DecodeError> {
        self.signed().map(Revision)
    }

    fn lease(&mut self) -> Result<LeaseId, DecodeError> {
        self.signed().map(LeaseId)
    }

    fn signed(&mut self) -> Result<i64, DecodeError> {
        let number = self.unsigned()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    fn unsigned(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit; a final zero byte says nothing.
            if (shift == 63 && bits > 1) || (shift > 0 && byte == 0) {
                return Err(DecodeError::Integer);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DecodeError::Integer)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        self.rest.try_get_u8().map_err(|_| DecodeError::Truncated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_command() -> Vec<Command> {
        let key = Bytes::from_static(b"k");
        let mut query = RangeQuery::new(KeyRange::Span(key.clone(), Bytes::from_static(b"z")));
        query.revision = Revision(7);
        query.limit = 300;
        query.order = SortOrder::Descend;
        query.target = SortTarget::Modified;
        query.keys_only = true;
        query.max_create = Revision(i64::MAX);
        let put = Put {
            key: key.clone(),
            value: Bytes::from_static(b"value"),
            lease: LeaseId(-2),
            prev_kv: true,
            ignore_value: false,
            ignore_lease: true,
        };
        let delete = DeleteRange { range: KeyRange::From(key.clone()), prev_kv: true };
        let targets = [
            CompareTarget::Version(1),
            CompareTarget::Create(Revision(2)),
            CompareTarget::Modified(Revision(3)),
            CompareTarget::Lease(LeaseId(4)),
            CompareTarget::Value(Bytes::from_static(b"v")),
        ];
        let txn = Txn {
            compares: targets
                .into_iter()
                .map(|target| Compare {
                    range: KeyRange::Key(key.clone()),
                    target,
                    result: CompareResult::NotEqual,
                })
                .collect(),
            success: vec![Op::Range(query), Op::Txn(Txn::default())],
            failure: vec![Op::Put(put.clone()), Op::Delete(delete.clone())],
        };
        vec![
            Command::Put(put),
            Command::Delete(delete),
            Command::Txn(txn),
            Command::Compact(Revision(5)),
            Command::LeaseGrant { id: LeaseId(i64::MIN), ttl: 60 },
            Command::LeaseRevoke(LeaseId(i64::MAX)),
            Command::LeaseCheckpoint(vec![(LeaseId(1), 2)]),
            Command::RaiseAlarm(Alarm { member: MemberId(u64::MAX), kind: AlarmKind::NoSpace }),
            Command::ClearAlarm(Alarm { member: MemberId(0), kind: AlarmKind::Corrupt }),
            Command::MemberAttributes(Member {
                id: MemberId(3),
                name: "m".into(),
                client_urls: vec!["http://h:1".into()],
            }),
            Command::Quota { bytes: 1 << 31, member: MemberId(9) },
        ]
    }

    pub(super) fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The bytes are on disk: this test changes only together with a new version byte.
    #[test]
    fn every_command_has_its_golden_bytes() {
        let lines: Vec<String> =
            every_command().into_iter().map(|command| hex(&encode(&[command]))).collect();
        assert_eq!(lines.join("\n"), include_str!("golden.hex").trim_end());
    }

    #[test]
    fn decoding_gives_back_what_was_encoded() {
        let commands = every_command();
        assert_eq!(decode(encode(&commands).into()), Ok(commands));
        assert_eq!(decode(encode(&[]).into()), Ok(vec![]));
    }

    /// Each prefix is refused, and each changed byte gives an error or a command that encodes to
    /// exactly these bytes: there is no second spelling, and nothing panics.
    #[test]
    fn damage_is_refused_or_canonical() {
        check_damage(&every_command());
    }

    /// For every set of commands that has a codec of its own.
    pub(super) fn check_damage(commands: &[Command]) {
        let bytes = encode(commands);
        for length in 0..bytes.len() {
            assert!(decode(Bytes::copy_from_slice(&bytes[..length])).is_err());
        }
        for at in 0..bytes.len() {
            for flip in 1..=255 {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                if let Ok(commands) = decode(Bytes::copy_from_slice(&damaged)) {
                    assert_eq!(encode(&commands), damaged);
                }
            }
        }
    }

    #[test]
    fn counts_and_lengths_beyond_the_entry_are_refused() {
        let huge = [VERSION, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(decode(Bytes::copy_from_slice(&huge)), Err(DecodeError::Truncated));
        assert_eq!(decode(Bytes::from_static(&[9, 0])), Err(DecodeError::UnknownVersion(9)));
        assert_eq!(decode(Bytes::from_static(&[VERSION, 0, 0])), Err(DecodeError::Trailing(1)));
    }

    #[test]
    fn deep_nesting_is_refused() {
        let nest = |depth| {
            (1..depth).fold(Txn::default(), |txn, _| Txn {
                success: vec![Op::Txn(txn)],
                ..Txn::default()
            })
        };
        let fits = vec![Command::Txn(nest(TXN_DEPTH_MAX))];
        assert_eq!(decode(encode(&fits).into()), Ok(fits));
        let deep = [Command::Txn(nest(TXN_DEPTH_MAX + 1))];
        assert_eq!(decode(encode(&deep).into()), Err(DecodeError::TooDeep));
    }
}
