//! Words for users, roles and permissions, and for who sends a command.
//!
//! A user has a name, a password (as a hash, never as it was typed) and roles; a role has
//! permissions on ranges of keys. What changes them are the commands of [`AuthOp`], agreed on by
//! the log like any other, so that all members judge a request alike.
//!
//! While logging in is required, every command in the log says who sent it ([`Sender`]) and which
//! revision of the users and roles that was judged by. The machine judges again when it applies the
//! command: between sending and applying a right may have been taken away.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;

use super::KeyRange;

/// Who is behind a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The store itself: expired leases, automatic compaction.
    Store,
    User(Login),
}

/// A user who has proved who he is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    /// The revision of users and roles that his proof speaks of. What has changed since then makes
    /// it worthless.
    pub revision: u64,
}

/// The name of the user, and of the role, that may do everything.
pub const ROOT: &str = "root";

/// What a permission allows on its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    Read,
    Write,
    ReadWrite,
}

/// Access to a range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    pub access: Access,
    pub range: KeyRange,
}

/// A bcrypt hash as text, or nothing: then no password fits.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PasswordHash(pub Bytes);

/// Not even a hash belongs into a log line or a panic.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

/// Somebody who may log in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub hash: PasswordHash,
    /// Can be recognised by a certificate only.
    pub no_password: bool,
    pub roles: BTreeSet<String>,
}

/// A change of users, roles, or of whether logging in is required.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthOp {
    Enable,
    Disable,
    UserAdd { name: String, hash: PasswordHash, no_password: bool },
    UserDelete { name: String },
    UserChangePassword { name: String, hash: PasswordHash },
    UserGrantRole { user: String, role: String },
    UserRevokeRole { user: String, role: String },
    RoleAdd { name: String },
    RoleDelete { name: String },
    RoleGrantPermission { role: String, permission: Permission },
    RoleRevokePermission { role: String, range: KeyRange },
}

impl AuthOp {
    /// The bytes of the keys it names.
    #[must_use]
    pub fn range_bytes(&self) -> usize {
        let range = match self {
            Self::RoleGrantPermission { permission, .. } => &permission.range,
            Self::RoleRevokePermission { range, .. } => range,
            _ => return 0,
        };
        match range {
            KeyRange::Key(key) | KeyRange::From(key) => key.len(),
            KeyRange::Span(start, end) => start.len() + end.len(),
        }
    }
}

/// Why a change of users and roles, or a request for want of a right, was not carried out. Equal on
/// every member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthRefusal {
    #[error("the sender is not named, or a user was given no name")]
    UserNameEmpty,
    #[error("permission denied")]
    PermissionDenied,
    #[error("users and roles have changed since the sender proved who he is")]
    OldRevision,
    #[error("there is no user root")]
    RootUserMissing,
    #[error("the user root does not have the role root")]
    RootRoleMissing,
    #[error("root cannot lose this while logging in is required, or the range makes no sense")]
    InvalidManagement,
    #[error("the user exists already")]
    UserExists,
    #[error("no such user")]
    UserNotFound,
    #[error("a role was given no name")]
    RoleNameEmpty,
    #[error("the role exists already")]
    RoleExists,
    #[error("no such role")]
    RoleNotFound,
    #[error("the user does not have the role")]
    RoleNotGranted,
    #[error("the role does not have the permission")]
    PermissionNotGranted,
}
