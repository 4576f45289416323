//! What can be done to a database that nobody has open: shrink it, check it, print it.
//!
//! Everything takes the directory's lock, so a running server is never disturbed, and none of it
//! makes a directory that is not there.

use std::{fmt::Write as _, fs, path::Path, sync::Arc};

use bytes::Bytes;
use redb::{Database, ReadableDatabase as _, ReadableTableMetadata as _};

use super::{
    backend::{Home, Storage, Store},
    base::{ALARM, AUTH_ROLE, AUTH_USER, CUR, HIST, LEASE, LEASE_KEYS, MEMBER},
    meta,
    record::{self, Place, hist_key, read_hist_key},
};
use crate::{
    command::{self, LeaseId, Revision},
    fault::Fault,
    limits::CACHE_BYTES,
    machine::rows::Version,
};

/// Whether a directory holds a database.
#[must_use]
pub fn exists(directory: &Path) -> bool {
    directory.join(Home::DATABASE).is_file()
}

fn home(directory: &Path) -> Result<Home, Fault> {
    if !exists(directory) {
        let path = directory.display();
        return Err(Fault::Damaged(format!("{path} holds no database")));
    }
    Home::open(Storage::Directory(directory.into()), CACHE_BYTES)
}

fn open(directory: &Path) -> Result<Arc<Store>, Fault> {
    home(directory)?.database(meta::Identity::default())
}

/// Gives back what the database does not need, and says how long its file was and is.
pub fn shrink(directory: &Path) -> Result<(u64, u64), Fault> {
    let path = directory.join(Home::DATABASE);
    let length = || -> Result<u64, Fault> {
        let metadata = fs::metadata(&path);
        Ok(metadata.map_err(|error| Fault::io("measure the database", error))?.len())
    };
    let before = length()?;
    let store = Arc::into_inner(open(directory)?).expect("nobody else has it yet");
    store.pace.hurry(true);
    let mut database = store.database;
    // Moves pages towards the front until none can be moved.
    while database.compact().map_err(|error| Fault::Database(Arc::new(error.into())))? {}
    drop(database);
    Ok((before, length()?))
}

/// What a check of the database went through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    pub identity: meta::Identity,
    pub applied: Option<u64>,
    pub raft: Bytes,
    pub revision: Revision,
    pub compacted: Revision,
    pub versions: u64,
    pub keys: u64,
    pub leases: u64,
    /// What is wrong, one line each; the first few only.
    pub problems: Vec<String>,
}

const PROBLEMS_MAX: usize = 20;

impl Checked {
    fn problem(&mut self, text: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(text);
        }
    }
}

/// Reads all of a database and checks that it says the same everywhere.
pub fn check(directory: &Path, progress: &mut dyn FnMut(u64)) -> Result<Checked, Fault> {
    let store = home(directory)?.existing()?;
    let found = meta::open(&store.database)?;
    let mut checked = Checked {
        identity: found.identity,
        applied: found.applied,
        raft: found.raft,
        revision: found.state.revision,
        compacted: found.state.compacted,
        leases: found.state.leases.iter().count() as u64,
        ..Checked::default()
    };
    check_history(&store.database, &mut checked, progress)?;
    check_current(&store.database, &mut checked)?;
    for (id, lease) in found.state.leases.iter() {
        for key in &lease.keys {
            check_attached(&store.database, &mut checked, id, key)?;
        }
    }
    Ok(checked)
}

/// Versions ascend, link backwards only, and none is newer than the store.
fn check_history(
    database: &Database,
    checked: &mut Checked,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Fault> {
    let (mut last, mut dead) = (Version::NONE, 0);
    let hist = database.begin_read()?.open_table(HIST)?;
    for row in hist.range::<&record::HistKey>(..)? {
        let (key, row) = row?;
        let at = read_hist_key(key.value());
        let name = format!("version {}/{}", at.main, at.sub);
        checked.versions += 1;
        if checked.versions.is_multiple_of(100_000) {
            progress(checked.versions);
        }
        match record::read_hist(at, row.value()) {
            Err(_) => checked.problem(format!("{name} cannot be read")),
            Ok(row) => {
                let links = row.meta.links;
                if links.prev >= at || links.jump > links.prev {
                    checked.problem(format!("{name} links forward"));
                }
                if row.dead < dead {
                    checked.problem(format!("{name} has smaller totals than the one before"));
                }
                dead = row.dead;
                if row.key.is_empty() {
                    checked.problem(format!("{name} has no key"));
                }
            }
        }
        last = at;
    }
    if last.main > checked.revision {
        checked.problem(format!("version {} is newer than the store", last.main));
    }
    Ok(())
}

/// Every newest version is in the history, the same there.
fn check_current(database: &Database, checked: &mut Checked) -> Result<(), Fault> {
    let read = database.begin_read()?;
    let (cur, hist) = (read.open_table(CUR)?, read.open_table(HIST)?);
    for row in cur.range::<&[u8]>(..)? {
        let (key, row) = row?;
        let Ok((meta, place)) = record::read_cur(row.value()) else {
            checked.problem("the row of a key cannot be read".into());
            continue;
        };
        let name = format!("version {}/{}", meta.at.main, meta.at.sub);
        checked.keys += u64::from(!meta.is_tombstone());
        let Some(row) = hist.get(&hist_key(meta.at))? else {
            checked.problem(format!("{name} is a key's newest and not in the history"));
            continue;
        };
        let Ok(stored) = record::read_hist(meta.at, row.value()) else { continue };
        let same_value = match place {
            Place::Inline(value) => value == stored.value,
            Place::History => true,
        };
        if stored.meta != meta || stored.key != key.value() || !same_value {
            checked.problem(format!("{name} is another one in the history"));
        }
    }
    Ok(())
}

fn check_attached(
    database: &Database,
    checked: &mut Checked,
    id: LeaseId,
    key: &[u8],
) -> Result<(), Fault> {
    let cur = database.begin_read()?.open_table(CUR)?;
    let lease = match cur.get(key)? {
        Some(row) => record::read_cur(row.value()).map(|(meta, _)| meta.lease).ok(),
        None => None,
    };
    if lease != Some(id) {
        checked.problem(format!("lease {:x} has a key that does not carry it", id.0));
    }
    Ok(())
}

/// The tables that [`dump`] can print.
pub const TABLES: [&str; 9] =
    ["alarm", "auth_role", "auth_user", "cur", "hist", "lease", "lease_keys", "member", "meta"];

/// Prints one table, a line for each row; values as they are only on demand, for they may be secret.
pub fn dump(
    directory: &Path,
    table: &str,
    values: bool,
    line: &mut dyn FnMut(&str) -> bool,
) -> Result<(), Fault> {
    let store = open(directory)?;
    let read = store.database.begin_read()?;
    let show = |value: &[u8]| {
        if values { value.escape_ascii().to_string() } else { format!("({} bytes)", value.len()) }
    };
    match table {
        "cur" => {
            for row in read.open_table(CUR)?.range::<&[u8]>(..)? {
                let (key, row) = row?;
                let (meta, place) = record::read_cur(row.value())?;
                let value = match place {
                    Place::Inline(value) => show(value),
                    Place::History => "(in hist)".into(),
                };
                if !line(&version_line(&meta, key.value(), &value)) {
                    break;
                }
            }
        }
        "hist" => {
            for row in read.open_table(HIST)?.range::<&record::HistKey>(..)? {
                let (key, row) = row?;
                let row = record::read_hist(read_hist_key(key.value()), row.value())?;
                if !line(&version_line(&row.meta, row.key, &show(row.value))) {
                    break;
                }
            }
        }
        _ => dump_small(&store.database, table, line)?,
    }
    Ok(())
}

fn version_line(meta: &crate::machine::rows::Meta, key: &[u8], value: &str) -> String {
    let Version { main, sub } = meta.at;
    let mut text = format!("{main}/{sub} {}", key.escape_ascii());
    let written = if meta.is_tombstone() {
        write!(text, " deleted")
    } else {
        let (create, version, lease) = (meta.create, meta.version, meta.lease.0);
        write!(text, " create={create} version={version} lease={lease:x} value={value}")
    };
    written.expect("a string takes everything");
    let Version { main, sub } = meta.links.prev;
    write!(text, " prev={main}/{sub}").expect("a string takes everything");
    text
}

fn damaged(error: command::DecodeError) -> Fault {
    Fault::Damaged(error.to_string())
}

fn dump_small(
    database: &Database,
    table: &str,
    line: &mut dyn FnMut(&str) -> bool,
) -> Result<(), Fault> {
    let read = database.begin_read()?;
    match table {
        "lease" => {
            for row in read.open_table(LEASE)?.range::<i64>(..)? {
                let (id, row) = row?;
                let (ttl, remaining) = row.value();
                line(&format!("{:x} granted={ttl} remaining={remaining}", id.value()));
            }
        }
        "lease_keys" => {
            for row in read.open_table(LEASE_KEYS)?.range::<(i64, &[u8])>(..)? {
                let row = row?.0;
                let (id, key) = row.value();
                line(&format!("{id:x} {}", key.escape_ascii()));
            }
        }
        "alarm" => {
            for row in read.open_table(ALARM)?.range::<(u64, u8)>(..)? {
                let (member, kind) = row?.0.value();
                line(&format!("{member:x} {}", if kind == 1 { "NOSPACE" } else { "CORRUPT" }));
            }
        }
        "member" => {
            for row in read.open_table(MEMBER)?.range::<u64>(..)? {
                let row = Bytes::copy_from_slice(row?.1.value());
                let commands = command::decode(row).map_err(damaged)?;
                for command in &commands {
                    line(&format!("{command:?}"));
                }
            }
        }
        "auth_user" => {
            for row in read.open_table(AUTH_USER)?.range::<&str>(..)? {
                let row = Bytes::copy_from_slice(row?.1.value());
                let user = command::decode_user(row).map_err(damaged)?;
                line(&format!("{user:?}"));
            }
        }
        "auth_role" => {
            for row in read.open_table(AUTH_ROLE)?.range::<&str>(..)? {
                let row = Bytes::copy_from_slice(row?.1.value());
                let role = command::decode_role(row).map_err(damaged)?;
                line(&format!("{role:?}"));
            }
        }
        "meta" => {
            let found = meta::open(database)?;
            let state = &found.state;
            let identity = found.identity;
            line(&format!("cluster {:x}", identity.cluster));
            line(&format!("member {:x}", identity.member));
            line(&format!("applied {:?}", found.applied));
            line(&format!("revision {}", state.revision));
            line(&format!("compacted {}", state.compacted));
            line(&format!("{:?}", state.sizes));
            line(&format!("{:?}", state.quota));
            line(&format!("versions {}", read.open_table(HIST)?.len()?));
        }
        _ => return Err(Fault::Damaged(format!("there is no table `{table}`"))),
    }
    Ok(())
}
