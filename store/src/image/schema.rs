//! What etcd 3.7 keeps in its database file: the buckets' names, and how keys and values are spelled.
//!
//! | bucket | key | value |
//! |---|---|---|
//! | `key` | revision `i64` BE, `_`, place `i64` BE, `t` on a tombstone | `mvccpb.KeyValue` |
//! | `lease` | lease `i64` BE | `leasepb.Lease` |
//! | `alarm` | `AlarmMember` | – |
//! | `members` | id in hexadecimal | JSON |
//! | `members_removed` | id in hexadecimal | `removed` |
//! | `cluster` | `clusterVersion` | text |
//! | `auth` | `authEnabled`, `authRevision` | one byte; `u64` BE |
//! | `authUsers`, `authRoles` | name | `authpb.User`, `authpb.Role` |
//! | `meta` | `consistent_index`, `term` | `u64` BE |
//! | | `scheduledCompactRev`, `finishedCompactRev` | spelled as a key of `key` |
//! | | `confState` | JSON |
//! | | `storageVersion` | text |

use bytes::Bytes;
use serde_json::{Map, Value as Json, json};

use super::wire::{Fields, Malformed, put_bytes, put_message, put_number, put_signed};
use crate::{
    command::{
        Access, Alarm, AlarmKind, KeyRange, KeyValue, LeaseId, Member, MemberId, PasswordHash,
        Permission, Revision, User,
    },
    machine::rows::Version,
};

/// The version of the layout that images have: etcd 3.7 opens it as its own.
pub const STORAGE_VERSION: &str = "3.7.0";

/// The names of the buckets.
#[derive(Clone, Copy, Debug)]
pub struct Bucket;

impl Bucket {
    pub const ALARM: &'static [u8] = b"alarm";
    pub const AUTH: &'static [u8] = b"auth";
    pub const AUTH_ROLES: &'static [u8] = b"authRoles";
    pub const AUTH_USERS: &'static [u8] = b"authUsers";
    pub const CLUSTER: &'static [u8] = b"cluster";
    pub const KEY: &'static [u8] = b"key";
    pub const LEASE: &'static [u8] = b"lease";
    pub const MEMBERS: &'static [u8] = b"members";
    pub const MEMBERS_REMOVED: &'static [u8] = b"members_removed";
    pub const META: &'static [u8] = b"meta";

    /// All of them, as they sort.
    pub const ALL: [&'static [u8]; 10] = [
        Self::ALARM,
        Self::AUTH,
        Self::AUTH_ROLES,
        Self::AUTH_USERS,
        Self::CLUSTER,
        Self::KEY,
        Self::LEASE,
        Self::MEMBERS,
        Self::MEMBERS_REMOVED,
        Self::META,
    ];
}

/// The keys of single facts.
pub(super) mod fact {
    pub(in crate::image) const AUTH_ENABLED: &[u8] = b"authEnabled";
    pub(in crate::image) const AUTH_REVISION: &[u8] = b"authRevision";
    pub(in crate::image) const CLUSTER_VERSION: &[u8] = b"clusterVersion";
    pub(in crate::image) const CONF_STATE: &[u8] = b"confState";
    pub(in crate::image) const CONSISTENT_INDEX: &[u8] = b"consistent_index";
    pub(in crate::image) const FINISHED_COMPACTION: &[u8] = b"finishedCompactRev";
    pub(in crate::image) const SCHEDULED_COMPACTION: &[u8] = b"scheduledCompactRev";
    pub(in crate::image) const STORAGE_VERSION: &[u8] = b"storageVersion";
    pub(in crate::image) const TERM: &[u8] = b"term";
}

const REVISION_BYTES: usize = 17;

/// Spells a version as a key of the bucket `key`.
pub(super) fn revision_key(at: Version, is_tombstone: bool) -> Vec<u8> {
    let mut key = Vec::with_capacity(REVISION_BYTES + 1);
    key.extend_from_slice(&at.main.0.to_be_bytes());
    key.push(b'_');
    key.extend_from_slice(&u64::from(at.sub).to_be_bytes());
    if is_tombstone {
        key.push(b't');
    }
    key
}

/// Reads a key of the bucket `key`: the version, and whether it is a tombstone.
pub(super) fn read_revision_key(key: &[u8]) -> Result<(Version, bool), Malformed> {
    let (at, mark) = key.split_at_checked(REVISION_BYTES).ok_or(Malformed)?;
    let number = |bytes: &[u8]| i64::from_be_bytes(bytes.try_into().expect("eight bytes"));
    let (main, sub) = (number(&at[..8]), number(&at[9..]));
    let is_tombstone = match mark {
        [] => false,
        [b't'] => true,
        _ => return Err(Malformed),
    };
    let sub = u32::try_from(sub).map_err(|_| Malformed)?;
    if at[8] != b'_' || main < 0 || main == i64::MAX {
        return Err(Malformed);
    }
    Ok((Version { main: Revision(main), sub }, is_tombstone))
}

/// One version of one key, borrowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored<'a> {
    pub(super) key: &'a [u8],
    pub(super) create: i64,
    pub(super) modified: i64,
    pub(super) version: i64,
    pub(super) value: &'a [u8],
    pub(super) lease: i64,
}

impl Stored<'_> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        put_bytes(out, 1, self.key);
        put_signed(out, 2, self.create);
        put_signed(out, 3, self.modified);
        put_signed(out, 4, self.version);
        put_bytes(out, 5, self.value);
        put_signed(out, 6, self.lease);
    }

    pub(super) fn owned(&self) -> KeyValue {
        KeyValue {
            key: Bytes::copy_from_slice(self.key),
            value: Bytes::copy_from_slice(self.value),
            create: Revision(self.create),
            modified: Revision(self.modified),
            version: self.version,
            lease: LeaseId(self.lease),
        }
    }
}

/// Reads a value of the bucket `key`.
pub(super) fn read_stored(bytes: &[u8]) -> Result<Stored<'_>, Malformed> {
    let mut stored = Stored::default();
    for field in Fields(bytes) {
        match field? {
            (1, value) => stored.key = value.bytes()?,
            (2, value) => stored.create = value.signed()?,
            (3, value) => stored.modified = value.signed()?,
            (4, value) => stored.version = value.signed()?,
            (5, value) => stored.value = value.bytes()?,
            (6, value) => stored.lease = value.signed()?,
            _ => {}
        }
    }
    Ok(stored)
}

/// A lease: its id, the seconds granted, the seconds that remain (0 where nobody noted them).
pub(super) type Lease = (LeaseId, i64, i64);

pub(super) fn lease_key(id: LeaseId) -> [u8; 8] {
    id.0.to_be_bytes()
}

pub(super) fn encode_lease((id, ttl, remaining): Lease) -> Vec<u8> {
    let mut out = Vec::new();
    put_signed(&mut out, 1, id.0);
    put_signed(&mut out, 2, ttl);
    put_signed(&mut out, 3, remaining);
    out
}

pub(super) fn read_lease(bytes: &[u8]) -> Result<Lease, Malformed> {
    let (mut id, mut ttl, mut remaining) = (0, 0, 0);
    for field in Fields(bytes) {
        match field? {
            (1, value) => id = value.signed()?,
            (2, value) => ttl = value.signed()?,
            (3, value) => remaining = value.signed()?,
            _ => {}
        }
    }
    if id == 0 { Err(Malformed) } else { Ok((LeaseId(id), ttl, remaining)) }
}

pub(super) fn encode_alarm(alarm: Alarm) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, 1, alarm.member.0);
    let kind = match alarm.kind {
        AlarmKind::NoSpace => 1,
        AlarmKind::Corrupt => 2,
    };
    put_number(&mut out, 2, kind);
    out
}

/// Reads a key of the bucket `alarm`; none for a kind that says nothing.
pub(super) fn read_alarm(bytes: &[u8]) -> Result<Option<Alarm>, Malformed> {
    let (mut member, mut kind) = (0, 0);
    for field in Fields(bytes) {
        match field? {
            (1, value) => member = value.number()?,
            (2, value) => kind = value.number()?,
            _ => {}
        }
    }
    let kind = match kind {
        1 => AlarmKind::NoSpace,
        2 => AlarmKind::Corrupt,
        _ => return Ok(None),
    };
    Ok(Some(Alarm { member: MemberId(member), kind }))
}

/// A member with what raft knows of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StoredMember {
    pub(super) attributes: Member,
    pub(super) peer_urls: Vec<String>,
    pub(super) is_learner: bool,
}

pub(super) fn member_key(id: MemberId) -> Vec<u8> {
    format!("{:x}", id.0).into_bytes()
}

impl StoredMember {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut member = Map::new();
        member.insert("id".into(), self.attributes.id.0.into());
        member.insert("peerURLs".into(), json!(self.peer_urls));
        if self.is_learner {
            member.insert("isLearner".into(), true.into());
        }
        if !self.attributes.name.is_empty() {
            member.insert("name".into(), json!(self.attributes.name));
        }
        if !self.attributes.client_urls.is_empty() {
            member.insert("clientURLs".into(), json!(self.attributes.client_urls));
        }
        Json::Object(member).to_string().into_bytes()
    }
}

pub(super) fn read_member(bytes: &[u8]) -> Result<StoredMember, Malformed> {
    let json: Json = serde_json::from_slice(bytes).map_err(|_| Malformed)?;
    let list = |name: &str| -> Result<Vec<String>, Malformed> {
        match &json[name] {
            Json::Null => Ok(Vec::new()),
            Json::Array(urls) => {
                urls.iter().map(|url| url.as_str().map(str::to_owned).ok_or(Malformed)).collect()
            }
            _ => Err(Malformed),
        }
    };
    let id = json["id"].as_u64().ok_or(Malformed)?;
    let name = json["name"].as_str().unwrap_or_default().to_owned();
    Ok(StoredMember {
        attributes: Member { id: MemberId(id), name, client_urls: list("clientURLs")? },
        peer_urls: list("peerURLs")?,
        is_learner: json["isLearner"].as_bool().unwrap_or(false),
    })
}

/// A value of the bucket `authUsers`.
pub(super) fn encode_user(user: &User) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, user.name.as_bytes());
    put_bytes(&mut out, 2, &user.hash.0);
    user.roles.iter().for_each(|role| put_bytes(&mut out, 3, role.as_bytes()));
    let mut options = Vec::new();
    put_number(&mut options, 1, user.no_password.into());
    // Present even if empty: etcd takes it for granted.
    put_message(&mut out, 4, &options);
    out
}

pub(super) fn read_user(bytes: &[u8]) -> Result<User, Malformed> {
    let mut user = User::default();
    for field in Fields(bytes) {
        match field? {
            (1, value) => user.name = value.text()?,
            (2, value) => user.hash = PasswordHash(Bytes::copy_from_slice(value.bytes()?)),
            (3, value) => {
                user.roles.insert(value.text()?);
            }
            (4, value) => {
                for option in Fields(value.bytes()?) {
                    if let (1, value) = option? {
                        user.no_password = value.number()? != 0;
                    }
                }
            }
            _ => {}
        }
    }
    if user.name.is_empty() { Err(Malformed) } else { Ok(user) }
}

/// A value of the bucket `authRoles`.
pub(super) fn encode_role(name: &str, permissions: &[Permission]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, name.as_bytes());
    for Permission { access, range } in permissions {
        let mut permission = Vec::new();
        let kind = match access {
            Access::Read => 0,
            Access::Write => 1,
            Access::ReadWrite => 2,
        };
        put_number(&mut permission, 1, kind);
        put_bytes(&mut permission, 2, range.start());
        match range {
            KeyRange::Key(_) => {}
            KeyRange::Span(_, end) => put_bytes(&mut permission, 3, end),
            KeyRange::From(_) => put_bytes(&mut permission, 3, &[0]),
        }
        put_message(&mut out, 2, &permission);
    }
    out
}

pub(super) fn read_role(bytes: &[u8]) -> Result<(String, Vec<Permission>), Malformed> {
    let (mut name, mut permissions) = (String::new(), Vec::new());
    for field in Fields(bytes) {
        match field? {
            (1, value) => name = value.text()?,
            (2, value) => permissions.push(read_permission(value.bytes()?)?),
            _ => {}
        }
    }
    if name.is_empty() { Err(Malformed) } else { Ok((name, permissions)) }
}

fn read_permission(bytes: &[u8]) -> Result<Permission, Malformed> {
    let (mut kind, mut key, mut end) = (0, &[][..], &[][..]);
    for field in Fields(bytes) {
        match field? {
            (1, value) => kind = value.number()?,
            (2, value) => key = value.bytes()?,
            (3, value) => end = value.bytes()?,
            _ => {}
        }
    }
    let access = match kind {
        0 => Access::Read,
        1 => Access::Write,
        2 => Access::ReadWrite,
        _ => return Err(Malformed),
    };
    let range = KeyRange::new(Bytes::copy_from_slice(key), Bytes::copy_from_slice(end));
    Ok(Permission { access, range })
}

/// The voters and learners, as raft's library of etcd writes them down.
pub(super) fn conf_state(voters: &[u64], learners: &[u64]) -> Vec<u8> {
    let mut state = Map::new();
    state.insert("voters".into(), json!(voters));
    if !learners.is_empty() {
        state.insert("learners".into(), json!(learners));
    }
    state.insert("auto_leave".into(), false.into());
    Json::Object(state).to_string().into_bytes()
}

/// A number of the bucket `meta` or `auth`.
pub(super) fn read_number(bytes: &[u8]) -> Result<u64, Malformed> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let at = Version { main: Revision(300), sub: 7 };
        for is_tombstone in [false, true] {
            let key = revision_key(at, is_tombstone);
            assert_eq!(read_revision_key(&key), Ok((at, is_tombstone)));
        }
        let stored =
            Stored { key: b"k", create: 2, modified: 300, version: 3, value: b"v", lease: -1 };
        let mut bytes = Vec::new();
        stored.encode(&mut bytes);
        assert_eq!(read_stored(&bytes), Ok(stored));
        let lease = (LeaseId(-5), 60, 12);
        assert_eq!(read_lease(&encode_lease(lease)), Ok(lease));
        let alarm = Alarm { member: MemberId(u64::MAX), kind: AlarmKind::Corrupt };
        assert_eq!(read_alarm(&encode_alarm(alarm)), Ok(Some(alarm)));
        let member = StoredMember {
            attributes: Member {
                id: MemberId(u64::MAX),
                name: "na\"me".into(),
                client_urls: vec!["http://a".into()],
            },
            peer_urls: vec!["http://b".into(), "http://c".into()],
            is_learner: true,
        };
        assert_eq!(read_member(&member.encode()), Ok(member));
        for no_password in [false, true] {
            let user = User {
                name: "u".into(),
                hash: PasswordHash(Bytes::from_static(b"hash")),
                no_password,
                roles: ["a".to_owned(), "b".to_owned()].into(),
            };
            assert_eq!(read_user(&encode_user(&user)), Ok(user));
        }
        let key = || Bytes::from_static(b"k");
        let permissions = vec![
            Permission { access: Access::Read, range: KeyRange::Key(key()) },
            Permission { access: Access::Write, range: KeyRange::From(key()) },
            Permission { access: Access::ReadWrite, range: KeyRange::Span(key(), key()) },
        ];
        let role = encode_role("r", &permissions);
        assert_eq!(read_role(&role), Ok(("r".to_owned(), permissions)));
    }

    #[test]
    fn keys_that_are_no_revisions_are_refused() {
        let good = revision_key(Version { main: Revision(1), sub: 0 }, true);
        for length in (0..good.len() - 1).filter(|length| *length != REVISION_BYTES) {
            assert_eq!(read_revision_key(&good[..length]), Err(Malformed));
        }
        for (place, byte) in [(0, 0x80), (8, b'-'), (9, 0x80), (12, 1), (17, b'u')] {
            let mut bad = good.clone();
            bad[place] = byte;
            assert_eq!(read_revision_key(&bad), Err(Malformed), "{place}");
        }
    }
}
