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
//! - a certificate speaks for the user of its common name, where `--client-cert-auth` says so and
//!   no token says otherwise.
//!
//! Passwords and tokens are never logged. A user who does not exist takes as long to refuse as a
//! wrong password, so that names cannot be found by the clock.

mod jwt;
mod keys;
mod passwords;
mod tokens;

use crate::chance::Chance;
use crate::command::{AuthOp, Command, Login, Outcome, PasswordHash};
use crate::machine::auth::Auth;

pub use jwt::TokenError;
pub(crate) use passwords::PasswordError;

use crate::config::{AuthConfig, TokenKind};
use jwt::Jwt;
use passwords::Passwords;
use tokens::Tokens;

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
    /// Whether a client's certificate says who he is.
    names_count: bool,
}

/// What tokens are made of.
enum Provider {
    Simple(Tokens),
    Jwt(Box<Jwt>),
    None,
}

impl Gate {
    /// `names_count`: a client's certificate was demanded, so its name is as good as a login.
    pub(crate) fn new(config: &AuthConfig, names_count: bool) -> Result<Self, TokenError> {
        let tokens = match &config.token {
            TokenKind::Simple => Provider::Simple(Tokens::new(config.token_ttl)),
            TokenKind::Jwt(options) => Provider::Jwt(Box::new(Jwt::new(options)?)),
            TokenKind::None => Provider::None,
        };
        Ok(Self { passwords: Passwords::new(config.bcrypt_cost), tokens, names_count })
    }

    /// Whether a client's certificate says who he is.
    pub(crate) fn names_count(&self) -> bool {
        self.names_count
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
            Provider::Jwt(jwt) => jwt.assign(&login),
            Provider::None => Err(Denied::NoTokens),
        }
    }

    /// Takes a token back that its holder has not been given. A signed one needs no taking back:
    /// what nobody has seen nobody can show.
    pub(crate) fn forget(&self, token: &str) {
        if let Provider::Simple(tokens) = &self.tokens {
            tokens.forget(token);
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
            Provider::Jwt(jwt) => jwt.recognise(token),
            Provider::None => Err(Denied::InvalidToken),
        }
    }

    /// Tokens die with the password or the user they were given for, and with the need to log in.
    pub(crate) fn observe(&self, commands: &[Command], outcomes: &[Outcome]) {
        let Provider::Simple(tokens) = &self.tokens else { return };
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
