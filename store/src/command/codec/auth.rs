//! How senders, users and roles are written: in the log as commands, in the database as rows.

use bytes::Bytes;

use super::{DecodeError, Reader, VERSION, Writer};
use crate::command::{Access, AuthOp, Command, Login, PasswordHash, Permission, Sender, User};

/// Writes a user as a row of the database.
#[must_use]
pub fn encode_user(user: &User) -> Vec<u8> {
    let mut out = Writer { out: Vec::with_capacity(128) };
    out.byte(VERSION);
    out.text(&user.name);
    out.flags([user.no_password]);
    out.bytes(&user.hash.0);
    let roles: Vec<&String> = user.roles.iter().collect();
    out.seq(&roles, |out, role| out.text(role));
    out.out
}

/// Reads what [`encode_user`] wrote.
pub fn decode_user(row: Bytes) -> Result<User, DecodeError> {
    let mut input = Reader::of(row)?;
    let name = input.text()?;
    let [no_password] = input.flags()?;
    let hash = input.hash()?;
    let roles = input.seq(Reader::text)?.into_iter().collect();
    input.end()?;
    Ok(User { name, hash, no_password, roles })
}

/// Writes a role as a row of the database: its name and what it permits.
#[must_use]
pub fn encode_role(name: &str, permissions: &[Permission]) -> Vec<u8> {
    let mut out = Writer { out: Vec::with_capacity(128) };
    out.byte(VERSION);
    out.text(name);
    out.seq(permissions, Writer::permission);
    out.out
}

/// Reads what [`encode_role`] wrote.
pub fn decode_role(row: Bytes) -> Result<(String, Vec<Permission>), DecodeError> {
    let mut input = Reader::of(row)?;
    let name = input.text()?;
    let permissions = input.seq(Reader::permission)?;
    input.end()?;
    Ok((name, permissions))
}

// Tags of changes and senders. They are on disk: never renumber, never reuse.
const ENABLE: u8 = 1;
const DISABLE: u8 = 2;
const USER_ADD: u8 = 3;
const USER_DELETE: u8 = 4;
const USER_CHANGE_PASSWORD: u8 = 5;
const USER_GRANT_ROLE: u8 = 6;
const USER_REVOKE_ROLE: u8 = 7;
const ROLE_ADD: u8 = 8;
const ROLE_DELETE: u8 = 9;
const ROLE_GRANT_PERMISSION: u8 = 10;
const ROLE_REVOKE_PERMISSION: u8 = 11;

const STORE: u8 = 0;
const LOGIN: u8 = 1;

impl Writer {
    /// A command and who sent it; the command's own tag follows.
    pub(super) fn sent(&mut self, by: &Sender, command: &Command) {
        match by {
            Sender::Store => self.byte(STORE),
            Sender::User(Login { user, revision }) => {
                self.byte(LOGIN);
                self.text(user);
                self.unsigned(*revision);
            }
        }
        self.command(command);
    }

    pub(super) fn auth(&mut self, op: &AuthOp) {
        match op {
            AuthOp::Enable => self.byte(ENABLE),
            AuthOp::Disable => self.byte(DISABLE),
            AuthOp::UserAdd { name, hash, no_password } => {
                self.named(USER_ADD, name);
                self.flags([*no_password]);
                self.bytes(&hash.0);
            }
            AuthOp::UserDelete { name } => self.named(USER_DELETE, name),
            AuthOp::UserChangePassword { name, hash } => {
                self.named(USER_CHANGE_PASSWORD, name);
                self.bytes(&hash.0);
            }
            AuthOp::UserGrantRole { user, role } => {
                self.named(USER_GRANT_ROLE, user);
                self.text(role);
            }
            AuthOp::UserRevokeRole { user, role } => {
                self.named(USER_REVOKE_ROLE, user);
                self.text(role);
            }
            AuthOp::RoleAdd { name } => self.named(ROLE_ADD, name),
            AuthOp::RoleDelete { name } => self.named(ROLE_DELETE, name),
            AuthOp::RoleGrantPermission { role, permission } => {
                self.named(ROLE_GRANT_PERMISSION, role);
                self.permission(permission);
            }
            AuthOp::RoleRevokePermission { role, range } => {
                self.named(ROLE_REVOKE_PERMISSION, role);
                self.key_range(range);
            }
        }
    }

    fn named(&mut self, tag: u8, name: &str) {
        self.byte(tag);
        self.text(name);
    }

    fn permission(&mut self, permission: &Permission) {
        self.byte(match permission.access {
            Access::Read => 0,
            Access::Write => 1,
            Access::ReadWrite => 2,
        });
        self.key_range(&permission.range);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }
}

impl Reader {
    /// A row of the database: the version byte, and what follows it.
    fn of(row: Bytes) -> Result<Self, DecodeError> {
        let mut input = Self { rest: row };
        match input.byte()? {
            VERSION => Ok(input),
            version => Err(DecodeError::UnknownVersion(version)),
        }
    }

    fn end(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }

    /// A command has one sender: what is sent is not itself a sent command.
    pub(super) fn sent(&mut self) -> Result<Command, DecodeError> {
        let by = match self.byte()? {
            STORE => Sender::Store,
            LOGIN => Sender::User(Login { user: self.text()?, revision: self.unsigned()? }),
            tag => return Err(DecodeError::UnknownTag { what: "sender", tag }),
        };
        let tag = self.byte()?;
        Ok(self.unsent(tag)?.by(by))
    }

    pub(super) fn auth(&mut self) -> Result<AuthOp, DecodeError> {
        Ok(match self.byte()? {
            ENABLE => AuthOp::Enable,
            DISABLE => AuthOp::Disable,
            USER_ADD => {
                let name = self.text()?;
                let [no_password] = self.flags()?;
                AuthOp::UserAdd { name, hash: self.hash()?, no_password }
            }
            USER_DELETE => AuthOp::UserDelete { name: self.text()? },
            USER_CHANGE_PASSWORD => {
                AuthOp::UserChangePassword { name: self.text()?, hash: self.hash()? }
            }
            USER_GRANT_ROLE => AuthOp::UserGrantRole { user: self.text()?, role: self.text()? },
            USER_REVOKE_ROLE => AuthOp::UserRevokeRole { user: self.text()?, role: self.text()? },
            ROLE_ADD => AuthOp::RoleAdd { name: self.text()? },
            ROLE_DELETE => AuthOp::RoleDelete { name: self.text()? },
            ROLE_GRANT_PERMISSION => {
                let role = self.text()?;
                AuthOp::RoleGrantPermission { role, permission: self.permission()? }
            }
            ROLE_REVOKE_PERMISSION => {
                let role = self.text()?;
                AuthOp::RoleRevokePermission { role, range: self.key_range()? }
            }
            tag => return Err(DecodeError::UnknownTag { what: "change of users and roles", tag }),
        })
    }

    fn permission(&mut self) -> Result<Permission, DecodeError> {
        let access = match self.byte()? {
            0 => Access::Read,
            1 => Access::Write,
            2 => Access::ReadWrite,
            tag => return Err(DecodeError::UnknownTag { what: "kind of access", tag }),
        };
        Ok(Permission { access, range: self.key_range()? })
    }

    /// A copy: what is kept must not hold on to the entry it came in.
    fn hash(&mut self) -> Result<PasswordHash, DecodeError> {
        Ok(PasswordHash(Bytes::copy_from_slice(&self.bytes()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_damage, hex};
    use super::*;
    use crate::command::{KeyRange, decode, encode};

    fn every_change() -> Vec<AuthOp> {
        let (user, role) = ("alice".to_owned(), "ops".to_owned());
        let hash = PasswordHash(Bytes::from_static(b"$2a$04$hash"));
        let range = KeyRange::Span(Bytes::from_static(b"a"), Bytes::from_static(b"c"));
        let permission = Permission { access: Access::ReadWrite, range: range.clone() };
        vec![
            AuthOp::Enable,
            AuthOp::Disable,
            AuthOp::UserAdd { name: user.clone(), hash: hash.clone(), no_password: true },
            AuthOp::UserDelete { name: user.clone() },
            AuthOp::UserChangePassword { name: user.clone(), hash },
            AuthOp::UserGrantRole { user: user.clone(), role: role.clone() },
            AuthOp::UserRevokeRole { user, role: role.clone() },
            AuthOp::RoleAdd { name: role.clone() },
            AuthOp::RoleDelete { name: role.clone() },
            AuthOp::RoleGrantPermission { role: role.clone(), permission },
            AuthOp::RoleRevokePermission { role, range },
        ]
    }

    fn every_command() -> Vec<Command> {
        let login = Login { user: "alice".to_owned(), revision: 300 };
        let mut commands: Vec<_> = every_change().into_iter().map(Command::Auth).collect();
        for by in [Sender::Store, Sender::User(login)] {
            let command = Box::new(Command::Compact(crate::command::Revision(5)));
            commands.push(Command::Sent { by, command });
        }
        commands
    }

    /// The bytes are on disk: this test changes only together with a new version byte.
    #[test]
    fn every_command_has_its_golden_bytes() {
        let mut lines: Vec<String> =
            every_command().into_iter().map(|command| hex(&encode(&[command]))).collect();
        let (user, permissions) = rows();
        lines.push(hex(&encode_user(&user)));
        lines.push(hex(&encode_role("ops", &permissions)));
        let lines = lines.join("\n");
        if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/command/codec/auth.hex");
            std::fs::write(path, format!("{lines}\n")).unwrap();
        }
        assert_eq!(lines, include_str!("auth.hex").trim_end());
    }

    fn rows() -> (User, Vec<Permission>) {
        let user = User {
            name: "alice".to_owned(),
            hash: PasswordHash(Bytes::from_static(b"h")),
            no_password: false,
            roles: ["a", "b"].map(str::to_owned).into(),
        };
        let range = KeyRange::From(Bytes::from_static(b"k"));
        (user, vec![Permission { access: Access::Write, range }])
    }

    #[test]
    fn decoding_gives_back_what_was_encoded() {
        let commands = every_command();
        assert_eq!(decode(encode(&commands).into()), Ok(commands));
        let (user, permissions) = rows();
        assert_eq!(decode_user(encode_user(&user).into()), Ok(user));
        let role = decode_role(encode_role("ops", &permissions).into());
        assert_eq!(role, Ok(("ops".to_owned(), permissions)));
    }

    #[test]
    fn damage_is_refused_or_canonical() {
        check_damage(&every_command());
    }

    /// Otherwise a sender could speak for another, and a damaged entry could exhaust the stack.
    #[test]
    fn a_sender_sends_no_sender() {
        let inner =
            Command::Sent { by: Sender::Store, command: Box::new(Command::Auth(AuthOp::Enable)) };
        let outer = Command::Sent { by: Sender::Store, command: Box::new(inner) };
        assert!(decode(encode(&[outer]).into()).is_err());
    }

    #[test]
    fn a_hash_is_not_shown() {
        let shown = format!("{:?}", every_change());
        assert!(!shown.contains("2a") && !shown.contains("36"), "{shown}");
    }
}
