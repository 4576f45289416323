//! Users, roles and permissions: who may do what.
//!
//! ```text
//! user ──has──▶ roles ──permit──▶ reading or writing a range of keys
//! ```
//!
//! The user `root` with the role `root` may do everything, and cannot lose that while logging in is
//! required. Everybody else may do what his roles permit together: two ranges of two roles that
//! touch are as good as one range ([`spans`]).
//!
//! - [`Auth`] is the state, changed by the commands of [`AuthOp`] and by nothing else. Each change
//!   takes the next auth revision, which has nothing to do with the revision of the keys.
//! - [`needs`] says what a request needs: the *normalised request*. It is the only place that knows
//!   that an overwritten value asked for back is a value read, or that attaching a key to a lease
//!   gives its owner power over it.
//! - [`Auth::permits`] says whether somebody may.
//!
//! Both the edge (before a request costs anything) and the machine (when a command is applied) ask
//! the same two questions, so that they cannot disagree.

pub mod needs;
pub mod spans;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::needs::{Act, Need};
use self::spans::Spans;
use super::lease::Leases;
use crate::command::{
    Access, AuthOp, AuthRefusal, KeyRange, PasswordHash, Permission, ROOT, Sender, User,
};

/// All users and roles, and whether logging in is required.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    enabled: bool,
    revision: u64,
    // Shared, because every change copies the maps: readers hold the state before it.
    users: BTreeMap<String, Arc<User>>,
    roles: BTreeMap<String, Arc<Role>>,
}

impl Default for Auth {
    fn default() -> Self {
        Self { enabled: false, revision: 1, users: BTreeMap::new(), roles: BTreeMap::new() }
    }
}

/// What holders of a role may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// As they were granted, by first key.
    permissions: Vec<Permission>,
    /// The same, merged.
    readable: Spans,
    writable: Spans,
}

impl Role {
    #[must_use]
    pub fn new(permissions: Vec<Permission>) -> Self {
        let spans = |wanted: Access| {
            permissions
                .iter()
                .filter(|permission| [wanted, Access::ReadWrite].contains(&permission.access))
                .map(|permission| &permission.range)
                .collect()
        };
        let (readable, writable) = (spans(Access::Read), spans(Access::Write));
        Self { permissions, readable, writable }
    }

    /// What was granted.
    #[must_use]
    pub fn permissions(&self) -> &[Permission] {
        &self.permissions
    }
}

impl Auth {
    /// Puts back what a checkpoint kept.
    #[must_use]
    pub fn restore(
        enabled: bool,
        revision: u64,
        users: impl IntoIterator<Item = User>,
        roles: impl IntoIterator<Item = (String, Vec<Permission>)>,
    ) -> Self {
        let users = users.into_iter().map(|user| (user.name.clone(), Arc::new(user))).collect();
        let roles =
            roles.into_iter().map(|(name, granted)| (name, Arc::new(Role::new(granted)))).collect();
        Self { enabled, revision, users, roles }
    }

    /// Whether logging in is required.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Counts changes of users and roles, from 1.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name).map(|user| &**user)
    }

    #[must_use]
    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name).map(|role| &**role)
    }

    /// All users, by name.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values().map(|user| &**user)
    }

    /// All roles, by name.
    pub fn roles(&self) -> impl Iterator<Item = (&str, &Role)> {
        self.roles.iter().map(|(name, role)| (name.as_str(), &**role))
    }

    /// Whether somebody may have what a request needs. Nobody needs anything while logging in is
    /// not required; a sender that is not named is a client that has not logged in.
    pub fn permits(
        &self,
        by: Option<&Sender>,
        need: Need<'_>,
        leases: &Leases,
    ) -> Result<(), AuthRefusal> {
        if !self.enabled {
            return Ok(());
        }
        let login = match by {
            None => return Err(AuthRefusal::UserNameEmpty),
            Some(Sender::Store) => return Ok(()),
            Some(Sender::User(login)) => login,
        };
        let user = self.user(&login.user);
        let is_root = user.is_some_and(|user| user.roles.contains(ROOT));
        let decided = |allowed: bool| match allowed {
            true => Ok(()),
            false => Err(AuthRefusal::PermissionDenied),
        };
        match need {
            Need::Login => Ok(()),
            Need::Root => decided(is_root),
            Need::User(name) => decided(is_root || name == login.user),
            Need::Role(name) => decided(is_root || user.is_some_and(|u| u.roles.contains(name))),
            // Rights on keys are as of the revision the user proved himself at, no other.
            Need::Key(..) | Need::Keys(..) if login.revision < self.revision => {
                Err(AuthRefusal::OldRevision)
            }
            Need::Key(..) | Need::Keys(..) | Need::Lease(..) if is_root => Ok(()),
            Need::Key(act, key) => decided(self.sets(user, act).any(|set| set.contains(key))),
            Need::Keys(act, range) => decided(spans::cover(self.sets(user, act), range)),
            Need::Lease(act, id) => {
                let Some(lease) = leases.get(id) else { return Ok(()) };
                let mut keys = lease.keys.iter();
                keys.try_for_each(|key| self.permits(by, Need::Key(act, key), leases))
            }
        }
    }

    /// What each role of a user lets him do.
    fn sets<'a>(
        &'a self,
        user: Option<&'a User>,
        act: Act,
    ) -> impl Iterator<Item = &'a Spans> + Clone {
        let roles = user.into_iter().flat_map(|user| &user.roles);
        roles.filter_map(|name| self.role(name)).map(move |role| match act {
            Act::Read => &role.readable,
            Act::Write => &role.writable,
        })
    }

    /// Carries out a change. What is refused has changed nothing.
    pub(super) fn change(&mut self, op: &AuthOp) -> Result<(), AuthRefusal> {
        match op {
            AuthOp::Enable => return self.enable(),
            AuthOp::Disable if !self.enabled => return Ok(()),
            AuthOp::Disable => self.enabled = false,
            AuthOp::UserAdd { name, hash, no_password } => {
                self.user_add(name, hash, *no_password)?;
            }
            AuthOp::UserDelete { name } => self.user_delete(name)?,
            AuthOp::UserChangePassword { name, hash } => {
                let user = self.user_mut(name)?;
                user.hash = if user.no_password { PasswordHash::default() } else { hash.clone() };
            }
            AuthOp::UserGrantRole { user, role } => {
                let known = role == ROOT || self.roles.contains_key(role);
                let user = self.user_mut(user)?;
                if !known {
                    return Err(AuthRefusal::RoleNotFound);
                }
                if !user.roles.insert(role.clone()) {
                    // Granting again is no error, and no change.
                    return Ok(());
                }
            }
            AuthOp::UserRevokeRole { user, role } => self.user_revoke(user, role)?,
            AuthOp::RoleAdd { name } => self.role_add(name)?,
            AuthOp::RoleDelete { name } => self.role_delete(name)?,
            AuthOp::RoleGrantPermission { role, permission } => self.grant(role, permission)?,
            AuthOp::RoleRevokePermission { role, range } => self.revoke(role, range)?,
        }
        self.revision += 1;
        Ok(())
    }

    /// Takes no revision, as in etcd: users and roles are the same as before.
    fn enable(&mut self) -> Result<(), AuthRefusal> {
        if self.enabled {
            return Ok(());
        }
        let root = self.user(ROOT).ok_or(AuthRefusal::RootUserMissing)?;
        if !root.roles.contains(ROOT) {
            return Err(AuthRefusal::RootRoleMissing);
        }
        self.enabled = true;
        Ok(())
    }

    fn user_add(
        &mut self,
        name: &str,
        hash: &PasswordHash,
        no_password: bool,
    ) -> Result<(), AuthRefusal> {
        if name.is_empty() {
            return Err(AuthRefusal::UserNameEmpty);
        }
        if self.users.contains_key(name) {
            return Err(AuthRefusal::UserExists);
        }
        let hash = if no_password { PasswordHash::default() } else { hash.clone() };
        let user = User { name: name.to_owned(), hash, no_password, ..User::default() };
        self.users.insert(user.name.clone(), Arc::new(user));
        Ok(())
    }

    fn user_delete(&mut self, name: &str) -> Result<(), AuthRefusal> {
        if self.enabled && name == ROOT {
            return Err(AuthRefusal::InvalidManagement);
        }
        self.users.remove(name).map(drop).ok_or(AuthRefusal::UserNotFound)
    }

    fn user_revoke(&mut self, user: &str, role: &str) -> Result<(), AuthRefusal> {
        if self.enabled && user == ROOT && role == ROOT {
            return Err(AuthRefusal::InvalidManagement);
        }
        match self.user_mut(user)?.roles.remove(role) {
            true => Ok(()),
            false => Err(AuthRefusal::RoleNotGranted),
        }
    }

    fn role_add(&mut self, name: &str) -> Result<(), AuthRefusal> {
        if name.is_empty() {
            return Err(AuthRefusal::RoleNameEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(AuthRefusal::RoleExists);
        }
        self.roles.insert(name.to_owned(), Arc::default());
        Ok(())
    }

    /// Whoever has the role loses it.
    fn role_delete(&mut self, name: &str) -> Result<(), AuthRefusal> {
        if self.enabled && name == ROOT {
            return Err(AuthRefusal::InvalidManagement);
        }
        self.roles.remove(name).ok_or(AuthRefusal::RoleNotFound)?;
        for user in self.users.values_mut().filter(|user| user.roles.contains(name)) {
            Arc::make_mut(user).roles.remove(name);
        }
        Ok(())
    }

    /// A grant for exactly the same keys replaces the one before, if that is the first that begins
    /// at its key; otherwise it comes as a further one, and they permit together. That is etcd's
    /// way of looking for it, and lists of permissions show it.
    fn grant(&mut self, role: &str, permission: &Permission) -> Result<(), AuthRefusal> {
        if permission.range.start().is_empty() || permission.range.is_empty() {
            return Err(AuthRefusal::InvalidManagement);
        }
        let mut granted = self.granted(role)?;
        let start = permission.range.start();
        let at = granted.partition_point(|other| other.range.start() < start);
        match granted.get_mut(at) {
            Some(same) if same.range == permission.range => same.access = permission.access,
            _ => {
                let after = granted.partition_point(|other| other.range.start() <= start);
                granted.insert(after, permission.clone());
            }
        }
        self.roles.insert(role.to_owned(), Arc::new(Role::new(granted)));
        Ok(())
    }

    fn revoke(&mut self, role: &str, range: &KeyRange) -> Result<(), AuthRefusal> {
        let mut granted = self.granted(role)?;
        let before = granted.len();
        granted.retain(|permission| permission.range != *range);
        if granted.len() == before {
            return Err(AuthRefusal::PermissionNotGranted);
        }
        self.roles.insert(role.to_owned(), Arc::new(Role::new(granted)));
        Ok(())
    }

    fn granted(&self, role: &str) -> Result<Vec<Permission>, AuthRefusal> {
        Ok(self.role(role).ok_or(AuthRefusal::RoleNotFound)?.permissions.clone())
    }

    fn user_mut(&mut self, name: &str) -> Result<&mut User, AuthRefusal> {
        self.users.get_mut(name).map(Arc::make_mut).ok_or(AuthRefusal::UserNotFound)
    }
}

#[cfg(test)]
mod tests;
