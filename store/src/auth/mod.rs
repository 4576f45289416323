//! Proving who one is: passwords, tokens, certificates.
//!
//! A client logs in once with name and password and gets a token, which it shows with every request
//! from then on. What a user may do is not decided here but in `machine::auth`; this folder only
//! finds out who he is.
//!
//! - [`passwords`]: bcrypt, on threads that may block, a few at a time.
//! - [`tokens`]: random tokens in this member's memory, good while they are used. They are nowhere
//!   else: not in the log of changes, not on disk, not in what is logged.
//! - [`jwt`]: signed tokens, which any member with the key can check.
//! - a certificate speaks for the user of its common name ([`CertificateName`]).
//!
//! Passwords and tokens are never logged. A user who does not exist takes as long to refuse as a
//! wrong password, so that names cannot be found by the clock.

mod passwords;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use crate::chance::Chance;
use crate::command::{AuthOp, Command, Login, Outcome, PasswordHash};
use crate::machine::auth::Auth;

pub(crate) use passwords::PasswordError;
use passwords::Passwords;
use tokens::Tokens;

/// The common name of the certificate by which a connection's client was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateName(pub(crate) Arc<str>);

/// Why somebody did not get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// No such token, or not any more.
    #[error("invalid token")]
    InvalidToken,
    /// Wrong name or password; which of the two is not told.
    #[error("wrong name or password")]
    Failed,
    /// The user has no password to log in with.
    #[error("the user has no password")]
    NoPasswordUser,
    /// Too many are logging in at this moment.
    #[error("too many are logging in")]
    Busy,
    /// This member can check tokens and cannot make any.
    #[error("this member cannot make tokens")]
    VerifyOnly,
    /// No tokens at all.
    #[error("tokens are turned off")]
    NoTokens,
}

/// What a member needs to recognise its clients.
pub(crate) struct Gate {
    passwords: Passwords,
    tokens: Provider,
}

/// What tokens are made of.
enum Provider {
    Simple(Tokens),
}

impl Gate {
    pub(crate) fn new(bcrypt_cost: u32, token_ttl: Duration) -> Self {
        Self {
            passwords: Passwords::new(bcrypt_cost),
            tokens: Provider::Simple(Tokens::new(token_ttl)),
        }
    }

    /// Hashes a new password.
    pub(crate) async fn hash(
        &self,
        password: String,
        chance: &Chance,
    ) -> Result<PasswordHash, PasswordError> {
        self.passwords.hash(password, chance.secret()).await
    }

    /// Checks a name and a password against users as they are. Answers the hash that fitted: who
    /// hands out a token must see that it still stands.
    pub(crate) async fn check(
        &self,
        auth: &Auth,
        name: &str,
        password: String,
    ) -> Result<PasswordHash, Denied> {
        let user = auth.user(name);
        if user.is_some_and(|user| user.no_password) {
            return Err(Denied::NoPasswordUser);
        }
        let hash = user.map(|user| user.hash.clone());
        self.passwords.check(password, hash).await
    }

    /// Makes a token for somebody who has proved who he is.
    pub(crate) fn token(
        &self,
        login: Login,
        index: u64,
        chance: &Chance,
    ) -> Result<String, Denied> {
        match &self.tokens {
            Provider::Simple(tokens) => Ok(tokens.assign(login.user, index, chance)),
        }
    }

    /// Takes a token back.
    pub(crate) fn forget(&self, token: &str) {
        match &self.tokens {
            Provider::Simple(tokens) => tokens.forget(token),
        }
    }

    /// Whose token it is.
    pub(crate) fn recognise(&self, token: &str, auth: &Auth) -> Result<Login, Denied> {
        match &self.tokens {
            // Kept up to date by `observe`, so good for users and roles as they are now.
            Provider::Simple(tokens) => match tokens.user(token) {
                Some(user) => Ok(Login { user, revision: auth.revision() }),
                None => Err(Denied::InvalidToken),
            },
        }
    }

    /// Tokens die with the password or the user they were given for, and with the need to log in.
    pub(crate) fn observe(&self, commands: &[Command], outcomes: &[Outcome]) {
        let Provider::Simple(tokens) = &self.tokens;
        for (command, outcome) in commands.iter().zip(outcomes) {
            let Command::Auth(op) = command.parts().1 else { continue };
            if outcome.result.is_err() {
                continue;
            }
            match op {
                AuthOp::Disable => tokens.forget_all(),
                AuthOp::UserDelete { name } | AuthOp::UserChangePassword { name, .. } => {
                    tokens.forget_user(name);
                }
                AuthOp::Enable
                | AuthOp::UserAdd { .. }
                | AuthOp::UserGrantRole { .. }
                | AuthOp::UserRevokeRole { .. }
                | AuthOp::RoleAdd { .. }
                | AuthOp::RoleDelete { .. }
                | AuthOp::RoleGrantPermission { .. }
                | AuthOp::RoleRevokePermission { .. } => {}
            }
        }
    }
}
