//! Users, roles and permissions as plainly as possible: lists that are walked.
//!
//! Whether grants hold a range together is decided by points instead of spans. Keys are dense, but
//! grants are half-open and few: the first key of a range that no grant holds is either the range's
//! own first key or the one at which some grant ends. So it is enough to try those.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use store::command::{
    Access, AuthOp, AuthRefusal, Command, KeyRange, LeaseId, Op, Permission, ROOT, Sender, Txn,
    User,
};
use store::machine::auth::{Auth, needs::Act};

#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pub(crate) enabled: bool,
    pub(crate) revision: u64,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Vec<Permission>>,
}

impl Default for Guard {
    fn default() -> Self {
        Self { enabled: false, revision: 1, users: BTreeMap::new(), roles: BTreeMap::new() }
    }
}

/// The keys of a lease, as a question.
pub(crate) type KeysOf<'a> = &'a dyn Fn(LeaseId) -> Vec<Bytes>;

type Answer = Result<(), AuthRefusal>;

impl Guard {
    /// Compares everything that can be seen of the real thing.
    pub(crate) fn check(&self, real: &Auth) {
        assert_eq!((real.enabled(), real.revision()), (self.enabled, self.revision));
        let users: Vec<_> = real.users().cloned().collect();
        assert_eq!(users, self.users.values().cloned().collect::<Vec<_>>());
        let roles: Vec<_> = real
            .roles()
            .map(|(name, role)| (name.to_owned(), role.permissions().to_vec()))
            .collect();
        assert_eq!(roles, self.roles.clone().into_iter().collect::<Vec<_>>());
    }

    /// Carries out a change, and counts it if it is one.
    pub(crate) fn change(&mut self, op: &AuthOp) -> Answer {
        let before = (self.users.clone(), self.roles.clone());
        let was_enabled = self.enabled;
        self.try_change(op)?;
        // Changing a password to what it was, or granting anew, counts; a role given twice does not.
        let counts = match op {
            AuthOp::Enable => false,
            AuthOp::Disable => was_enabled,
            AuthOp::UserGrantRole { .. } => before.0 != self.users,
            _ => true,
        };
        self.revision += u64::from(counts);
        Ok(())
    }

    fn try_change(&mut self, op: &AuthOp) -> Answer {
        let guarded = |what: bool| match what && self.enabled {
            true => Err(AuthRefusal::InvalidManagement),
            false => Ok(()),
        };
        match op {
            AuthOp::Enable if self.enabled => {}
            AuthOp::Enable => {
                let root = self.users.get(ROOT).ok_or(AuthRefusal::RootUserMissing)?;
                if !root.roles.contains(ROOT) {
                    return Err(AuthRefusal::RootRoleMissing);
                }
                self.enabled = true;
            }
            AuthOp::Disable => self.enabled = false,
            AuthOp::UserAdd { name, .. } if name.is_empty() => {
                return Err(AuthRefusal::UserNameEmpty);
            }
            AuthOp::UserAdd { name, .. } if self.users.contains_key(name) => {
                return Err(AuthRefusal::UserExists);
            }
            AuthOp::UserAdd { name, hash, no_password } => {
                let mut user =
                    User { name: name.clone(), no_password: *no_password, ..User::default() };
                if !no_password {
                    user.hash = hash.clone();
                }
                self.users.insert(name.clone(), user);
            }
            AuthOp::UserDelete { name } => {
                guarded(name == ROOT)?;
                self.users.remove(name).ok_or(AuthRefusal::UserNotFound)?;
            }
            AuthOp::UserChangePassword { name, hash } => {
                let user = self.users.get_mut(name).ok_or(AuthRefusal::UserNotFound)?;
                if !user.no_password {
                    user.hash = hash.clone();
                }
            }
            AuthOp::UserGrantRole { user, role } => {
                let known = role == ROOT || self.roles.contains_key(role);
                let user = self.users.get_mut(user).ok_or(AuthRefusal::UserNotFound)?;
                known.then_some(()).ok_or(AuthRefusal::RoleNotFound)?;
                user.roles.insert(role.clone());
            }
            AuthOp::UserRevokeRole { user, role } => {
                guarded(user == ROOT && role == ROOT)?;
                let user = self.users.get_mut(user).ok_or(AuthRefusal::UserNotFound)?;
                user.roles.remove(role).then_some(()).ok_or(AuthRefusal::RoleNotGranted)?;
            }
            AuthOp::RoleAdd { name } if name.is_empty() => return Err(AuthRefusal::RoleNameEmpty),
            AuthOp::RoleAdd { name } if self.roles.contains_key(name) => {
                return Err(AuthRefusal::RoleExists);
            }
            AuthOp::RoleAdd { name } => drop(self.roles.insert(name.clone(), Vec::new())),
            AuthOp::RoleDelete { name } => {
                guarded(name == ROOT)?;
                self.roles.remove(name).ok_or(AuthRefusal::RoleNotFound)?;
                for user in self.users.values_mut() {
                    user.roles.remove(name);
                }
            }
            AuthOp::RoleGrantPermission { role, permission } => self.grant(role, permission)?,
            AuthOp::RoleRevokePermission { role, range } => self.revoke(role, range)?,
        }
        Ok(())
    }

    fn revoke(&mut self, role: &str, range: &KeyRange) -> Answer {
        let granted = self.roles.get_mut(role).ok_or(AuthRefusal::RoleNotFound)?;
        let before = granted.len();
        granted.retain(|permission| permission.range != *range);
        (granted.len() < before).then_some(()).ok_or(AuthRefusal::PermissionNotGranted)
    }

    /// Kept by first key. What has the same first key stays in order of being granted, and only the
    /// first of those is looked at for being the same range.
    fn grant(&mut self, role: &str, permission: &Permission) -> Answer {
        let start = permission.range.start();
        if start.is_empty() || permission.range.is_empty() {
            return Err(AuthRefusal::InvalidManagement);
        }
        let granted = self.roles.get_mut(role).ok_or(AuthRefusal::RoleNotFound)?;
        let first = granted.iter_mut().find(|other| other.range.start() == start);
        if let Some(same) = first.filter(|first| first.range == permission.range) {
            same.access = permission.access;
            return Ok(());
        }
        granted.push(permission.clone());
        granted.sort_by(|a, b| a.range.start().cmp(b.range.start()));
        Ok(())
    }

    /// Whether `by` may have this command carried out.
    pub(crate) fn authorise(
        &self,
        by: Option<&Sender>,
        command: &Command,
        keys: KeysOf<'_>,
    ) -> Answer {
        if !self.enabled {
            return Ok(());
        }
        let asker = Asker { guard: self, by, keys };
        match command {
            Command::Put(put) => asker.op(&Op::Put(put.clone())),
            Command::Delete(delete) => asker.op(&Op::Delete(delete.clone())),
            Command::Txn(txn) => asker.txn(txn),
            Command::LeaseGrant { .. } => asker.logged_in().map(drop),
            Command::LeaseRevoke(id) => {
                asker.logged_in()?;
                asker.lease(*id)
            }
            Command::Compact(_)
            | Command::RaiseAlarm(_)
            | Command::ClearAlarm(_)
            | Command::Auth(_) => match asker.logged_in()? {
                None => Ok(()),
                Some((user, _)) => decided(self.is_root(user)),
            },
            Command::LeaseCheckpoint(_) | Command::MemberAttributes(_) | Command::Quota { .. } => {
                Ok(())
            }
            Command::Sent { .. } => unreachable!("taken apart by the caller"),
        }
    }

    /// Whether `by` may read or write a range.
    pub(crate) fn permits(&self, by: Option<&Sender>, act: Act, range: &KeyRange) -> Answer {
        if !self.enabled {
            return Ok(());
        }
        Asker { guard: self, by, keys: &|_| Vec::new() }.keys(act, range)
    }

    fn is_root(&self, user: &str) -> bool {
        self.users.get(user).is_some_and(|user| user.roles.contains(ROOT))
    }

    /// What each role of a user lets him do.
    fn grants(&self, user: &str, act: Act) -> Vec<Vec<KeyRange>> {
        let none = BTreeSet::new();
        let roles = self.users.get(user).map_or(&none, |user| &user.roles);
        let fits = |permission: &&Permission| match permission.access {
            Access::ReadWrite => true,
            Access::Read => act == Act::Read,
            Access::Write => act == Act::Write,
        };
        let ranges = |granted: &Vec<Permission>| {
            granted.iter().filter(fits).map(|permission| permission.range.clone()).collect()
        };
        roles.iter().filter_map(|role| self.roles.get(role)).map(ranges).collect()
    }
}

/// Who asks, and whom.
struct Asker<'a> {
    guard: &'a Guard,
    by: Option<&'a Sender>,
    keys: KeysOf<'a>,
}

fn decided(allowed: bool) -> Answer {
    allowed.then_some(()).ok_or(AuthRefusal::PermissionDenied)
}

impl<'a> Asker<'a> {
    /// The user and the revision of his proof; nothing for the store itself.
    fn logged_in(&self) -> Result<Option<(&'a str, u64)>, AuthRefusal> {
        match self.by {
            None => Err(AuthRefusal::UserNameEmpty),
            Some(Sender::Store) => Ok(None),
            Some(Sender::User(login)) => Ok(Some((&login.user, login.revision))),
        }
    }

    fn keys(&self, act: Act, range: &KeyRange) -> Answer {
        let Some((user, revision)) = self.logged_in()? else { return Ok(()) };
        if revision < self.guard.revision {
            return Err(AuthRefusal::OldRevision);
        }
        let grants = self.guard.grants(user, act);
        decided(self.guard.is_root(user) || held(&grants, range))
    }

    fn lease(&self, id: LeaseId) -> Answer {
        let Some((user, _)) = self.logged_in()? else { return Ok(()) };
        if self.guard.is_root(user) {
            return Ok(());
        }
        (self.keys)(id).into_iter().try_for_each(|key| self.keys(Act::Write, &KeyRange::Key(key)))
    }

    fn op(&self, op: &Op) -> Answer {
        match op {
            Op::Range(query) => self.keys(Act::Read, &query.range),
            Op::Put(put) => {
                let key = KeyRange::Key(put.key.clone());
                self.keys(Act::Write, &key)?;
                if put.lease != LeaseId::NONE {
                    self.lease(put.lease)?;
                }
                if put.prev_kv { self.keys(Act::Read, &key) } else { Ok(()) }
            }
            Op::Delete(delete) => {
                self.keys(Act::Write, &delete.range)?;
                if delete.prev_kv { self.keys(Act::Read, &delete.range) } else { Ok(()) }
            }
            Op::Txn(txn) => self.txn(txn),
        }
    }

    fn txn(&self, txn: &Txn) -> Answer {
        txn.compares.iter().try_for_each(|compare| self.keys(Act::Read, &compare.range))?;
        txn.success.iter().chain(&txn.failure).try_for_each(|op| self.op(op))
    }
}

/// Whether the grants of several roles hold a range.
fn held(roles: &[Vec<KeyRange>], range: &KeyRange) -> bool {
    if !range.is_empty() {
        return all_held(&roles.concat(), range);
    }
    // No key can be in it. It counts as held where the grants of one role hold everything from
    // somewhere before its end up to its start.
    let KeyRange::Span(start, end) = range else { unreachable!("only spans are empty") };
    let upto = Bytes::from([start, &[0][..]].concat());
    roles.iter().any(|grants| {
        let begins = grants.iter().filter(|grant| !grant.is_empty()).map(KeyRange::start);
        begins
            .filter(|begin| *begin < end)
            .any(|begin| all_held(grants, &KeyRange::Span(begin.clone(), upto.clone())))
    })
}

fn all_held(grants: &[KeyRange], range: &KeyRange) -> bool {
    let ends = grants.iter().filter_map(|grant| match grant {
        KeyRange::Key(key) => Some(Bytes::from([key, &[0][..]].concat())),
        KeyRange::Span(_, end) => Some(end.clone()),
        KeyRange::From(_) => None,
    });
    let mut points = ends.chain([range.start().clone()]).filter(|point| range.contains(point));
    points.all(|point| grants.iter().any(|grant| grant.contains(&point)))
}
