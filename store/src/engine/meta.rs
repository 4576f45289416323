//! The facts that go with a checkpoint: what it contains, and the small state.
//!
//! They are written in the transaction that writes the versions, so a database always says truly up
//! to which log entry it holds everything, and holds nothing beyond.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use redb::{
    Database, ReadTransaction, ReadableDatabase as _, ReadableTable, TableError, WriteTransaction,
};

use super::base::{
    self, ALARM, AUTH_ROLE, AUTH_USER, COUNT, CUR, HIST, LEASE, LEASE_KEYS, MEMBER, META,
};
use super::{counts::Counts, record};
use crate::{
    command::{self, Alarm, AlarmKind, Command, Member, MemberId, Revision},
    fault::Fault,
    machine::{Quota, State, auth::Auth, lease::Touched, rows::Version, size::Sizes},
};

/// The layout this version of the program writes. An older one is brought up to it when it is
/// opened: format 1 had no counts of keys.
pub(super) const FORMAT: u32 = 2;

/// Who the data belong to; settled when the database is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub cluster: u64,
    pub member: u64,
}

/// How far removing compacted versions has come. The target is fixed while a walk lasts, so that a
/// tombstone at exactly the target is met again by the next walk, which begins there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// All is removed up to here.
    pub(super) done: Revision,
    /// What the present walk goes to; equal to `done` between walks.
    pub(super) target: Revision,
    /// The first version not yet looked at.
    pub(super) next: Version,
}

impl Default for Progress {
    fn default() -> Self {
        let none = Revision(-1);
        Self { done: none, target: none, next: Version::NONE }
    }
}

/// What was true when a memtable was frozen.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    /// The last log entry applied, if any.
    pub(super) applied: Option<u64>,
    /// What raft wants kept with it.
    pub(super) raft: Bytes,
    pub(super) revision: Revision,
    pub(super) compacted: Revision,
    pub(super) sizes: Sizes,
    pub(super) counts: Counts,
    pub(super) quota: Quota,
    pub(super) touched: Touched,
    pub(super) alarms: BTreeSet<Alarm>,
    pub(super) members: Vec<Member>,
    pub(super) auth: Arc<Auth>,
}

/// What a database says when it is opened.
pub(super) struct Opened {
    pub(super) identity: Identity,
    pub(super) applied: Option<u64>,
    pub(super) raft: Bytes,
    pub(super) state: State,
    pub(super) counts: Counts,
    pub(super) progress: Progress,
}

pub(super) fn write(
    transaction: &WriteTransaction,
    cut: &Cut,
    progress: Progress,
) -> Result<(), Fault> {
    let mut meta = transaction.open_table(META)?;
    if let Some(applied) = cut.applied {
        meta.insert("applied", &applied.to_le_bytes()[..])?;
    }
    meta.insert("raft", &cut.raft[..])?;
    meta.insert("revision", &cut.revision.0.to_le_bytes()[..])?;
    meta.insert("compacted", &cut.compacted.0.to_le_bytes()[..])?;
    let Sizes { written, dead, tombstones, freed } = cut.sizes;
    meta.insert("sizes", &numbers([written, dead, tombstones, freed])[..])?;
    meta.insert("quota", &numbers([cut.quota.bytes, cut.quota.member.0])[..])?;
    let next = progress.next;
    let progress = [progress.done, progress.target, next.main].map(|at| at.0.cast_unsigned());
    let [done, target, main] = progress;
    meta.insert("compaction", &numbers([done, target, main, next.sub.into()])[..])?;
    drop(meta);
    write_small(transaction, cut)
}

fn write_small(transaction: &WriteTransaction, cut: &Cut) -> Result<(), Fault> {
    let mut leases = transaction.open_table(LEASE)?;
    for (id, lease) in &cut.touched.leases {
        match lease {
            Some(seconds) => drop(leases.insert(id.0, *seconds)?),
            None => drop(leases.remove(id.0)?),
        }
    }
    let mut keys = transaction.open_table(LEASE_KEYS)?;
    for ((id, key), attached) in &cut.touched.keys {
        let row = (id.0, &key[..]);
        if *attached { drop(keys.insert(row, ())?) } else { drop(keys.remove(row)?) }
    }
    let mut alarms = transaction.open_table(ALARM)?;
    alarms.retain(|_, ()| false)?;
    for alarm in &cut.alarms {
        alarms.insert((alarm.member.0, alarm_number(alarm.kind)), ())?;
    }
    let mut members = transaction.open_table(MEMBER)?;
    for member in &cut.members {
        let command = Command::MemberAttributes(member.clone());
        members.insert(member.id.0, &command::encode(&[command])[..])?;
    }
    drop(members);
    write_auth(transaction, &cut.auth)
}

/// Users and roles are few and change rarely: if anything about them changed, and the revision that
/// counts their changes says so, all are written anew.
fn write_auth(transaction: &WriteTransaction, auth: &Auth) -> Result<(), Fault> {
    let facts = numbers([u64::from(auth.enabled()), auth.revision()]);
    let mut meta = transaction.open_table(META)?;
    if meta.get("auth")?.is_some_and(|row| row.value() == facts) {
        return Ok(());
    }
    meta.insert("auth", &facts[..])?;
    let mut users = transaction.open_table(AUTH_USER)?;
    users.retain(|_, _| false)?;
    for user in auth.users() {
        users.insert(user.name.as_str(), &command::encode_user(user)[..])?;
    }
    let mut roles = transaction.open_table(AUTH_ROLE)?;
    roles.retain(|_, _| false)?;
    for (name, role) in auth.roles() {
        roles.insert(name, &command::encode_role(name, role.permissions())[..])?;
    }
    Ok(())
}

/// A database from before there were users has none.
fn read_auth(transaction: &ReadTransaction) -> Result<Auth, Fault> {
    let meta = transaction.open_table(META)?;
    if meta.get("auth")?.is_none() {
        return Ok(Auth::default());
    }
    let [enabled, revision] = read(&meta, "auth", u64::from_le_bytes)?;
    let (mut users, mut roles) = (Vec::new(), Vec::new());
    for row in transaction.open_table(AUTH_USER)?.range::<&str>(..)? {
        let row = Bytes::copy_from_slice(row?.1.value());
        users.push(command::decode_user(row).map_err(|_| missing("user"))?);
    }
    for row in transaction.open_table(AUTH_ROLE)?.range::<&str>(..)? {
        let row = Bytes::copy_from_slice(row?.1.value());
        roles.push(command::decode_role(row).map_err(|_| missing("role"))?);
    }
    Ok(Auth::restore(enabled != 0, revision, users, roles))
}

/// Makes the tables of a new database.
pub(super) fn initialise(database: &Database, identity: Identity) -> Result<(), Fault> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert("format", &FORMAT.to_le_bytes()[..])?;
        meta.insert("identity", &numbers([identity.cluster, identity.member])[..])?;
        transaction.open_table(CUR)?;
        transaction.open_table(HIST)?;
    }
    let state = State::default();
    let cut = Cut {
        applied: None,
        raft: Bytes::new(),
        revision: state.revision,
        compacted: state.compacted,
        sizes: state.sizes,
        counts: Counts::default(),
        quota: state.quota,
        touched: Touched::default(),
        alarms: state.alarms,
        members: Vec::new(),
        auth: state.auth,
    };
    cut.counts.write(&transaction, None)?;
    write(&transaction, &cut, Progress::default())?;
    Ok(transaction.commit()?)
}

/// Brings a database of format 1 up to this one.
pub(super) fn upgrade(database: &Database) -> Result<(), Fault> {
    let mut counts = Counts::default();
    for row in database.begin_read()?.open_table(CUR)?.range::<&[u8]>(..)? {
        let (key, row) = row?;
        if !record::read_cur(row.value())?.0.is_tombstone() {
            counts.push(key.value());
        }
    }
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    counts.write(&transaction, None)?;
    transaction.open_table(META)?.insert("format", &FORMAT.to_le_bytes()[..])?;
    Ok(transaction.commit()?)
}

/// The format of a database, or none if it is new.
pub(super) fn format(database: &Database) -> Result<Option<u32>, Fault> {
    match database.begin_read()?.open_table(META) {
        Ok(meta) => {
            let [format] = read(&meta, "format", u32::from_le_bytes)?;
            Ok(Some(format))
        }
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The newest revision that a database holds.
pub(super) fn revision(transaction: &ReadTransaction) -> Result<Revision, Fault> {
    let [revision] = read(&transaction.open_table(META)?, "revision", i64::from_le_bytes)?;
    Ok(Revision(revision))
}

pub(super) fn open(database: &Database) -> Result<Opened, Fault> {
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    let applied = match meta.get("applied")? {
        Some(_) => Some(read(&meta, "applied", u64::from_le_bytes)?).map(|[index]| index),
        None => None,
    };
    let raft = meta.get("raft")?.ok_or_else(|| missing("raft"))?;
    let [revision] = read(&meta, "revision", i64::from_le_bytes)?.map(Revision);
    let [compacted] = read(&meta, "compacted", i64::from_le_bytes)?.map(Revision);
    let [written, dead, tombstones, freed] = read(&meta, "sizes", u64::from_le_bytes)?;
    let [quota_bytes, quota_member] = read(&meta, "quota", u64::from_le_bytes)?;
    let [cluster, member] = read(&meta, "identity", u64::from_le_bytes)?;
    let [done, target, main, sub] = read(&meta, "compaction", i64::from_le_bytes)?;
    let sub = u32::try_from(sub).map_err(|_| missing("compaction"))?;
    let mut state = State {
        revision,
        compacted,
        sizes: Sizes { written, dead, tombstones, freed },
        quota: Quota { bytes: quota_bytes, member: MemberId(quota_member) },
        leases: base::read_leases(database)?,
        auth: Arc::new(read_auth(&transaction)?),
        ..State::default()
    };
    for row in transaction.open_table(ALARM)?.range::<(u64, u8)>(..)? {
        let (member, kind) = row?.0.value();
        let kind = alarm_kind(kind).ok_or_else(|| missing("alarm"))?;
        state.alarms.insert(Alarm { member: MemberId(member), kind });
    }
    for row in transaction.open_table(MEMBER)?.range::<u64>(..)? {
        let row = Bytes::copy_from_slice(row?.1.value());
        match command::decode(row).as_deref() {
            Ok([Command::MemberAttributes(member)]) => {
                state.members.insert(member.id, member.clone());
            }
            _ => return Err(missing("member")),
        }
    }
    Ok(Opened {
        identity: Identity { cluster, member },
        applied,
        raft: Bytes::copy_from_slice(raft.value()),
        state,
        counts: Counts::read(&transaction.open_table(COUNT)?)?,
        progress: Progress {
            done: Revision(done),
            target: Revision(target),
            next: Version { main: Revision(main), sub },
        },
    })
}

fn alarm_number(kind: AlarmKind) -> u8 {
    match kind {
        AlarmKind::NoSpace => 1,
        AlarmKind::Corrupt => 2,
    }
}

fn alarm_kind(number: u8) -> Option<AlarmKind> {
    [AlarmKind::NoSpace, AlarmKind::Corrupt].into_iter().find(|kind| alarm_number(*kind) == number)
}

fn numbers<const N: usize>(numbers: [u64; N]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn read<T, const N: usize, const WIDTH: usize>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
    number: impl Fn([u8; WIDTH]) -> T,
) -> Result<[T; N], Fault> {
    let row = meta.get(name)?.ok_or_else(|| missing(name))?;
    let (chunks, rest) = row.value().as_chunks::<WIDTH>();
    let numbers: Vec<T> = chunks.iter().map(|chunk| number(*chunk)).collect();
    match numbers.try_into() {
        Ok(numbers) if rest.is_empty() => Ok(numbers),
        _ => Err(missing(name)),
    }
}

fn missing(name: &str) -> Fault {
    Fault::Damaged(format!("the database's record of `{name}` is missing or makes no sense"))
}
