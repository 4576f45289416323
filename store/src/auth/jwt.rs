//! Signed tokens: `--auth-token jwt,sign-method=…,pub-key=…,priv-key=…,ttl=…`.
//!
//! A token says who its holder is, at which revision of users and roles he proved it, and until
//! when it is good. Nothing is kept: any member with the public key can check it, and it survives a
//! restart. Nothing can be taken back either, which is why any change of users or roles makes all
//! older tokens worthless for keys: their holders log in again.
//!
//! Only the one configured algorithm counts. What a token says about its own algorithm is compared
//! with that, never followed: `none`, or HMAC with a public key as the secret, get nowhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};

use super::Denied;
use super::keys::{KeyError, Keys};
use crate::command::Login;
use crate::config::duration;

/// How long a token is good if no `ttl` is given; etcd's.
const TTL_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// The options there are. etcd only warns of others.
const OPTIONS: [&str; 4] = ["sign-method", "pub-key", "priv-key", "ttl"];

/// What is wrong with `--auth-token`: one line.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A value makes no sense.
    #[error("auth: invalid auth options (--auth-token: {0})")]
    Option(String),
    /// A key file cannot be read.
    #[error("--auth-token: {path}: {source}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The keys are no good.
    #[error("--auth-token: {0}")]
    Key(&'static str),
}

impl From<KeyError> for TokenError {
    fn from(error: KeyError) -> Self {
        Self::Key(match error {
            KeyError::Missing => "a key is needed: priv-key, or pub-key to check tokens only",
            KeyError::Private => "priv-key holds no private key that fits the sign-method",
            KeyError::Public => "pub-key holds no public key that fits the sign-method",
            KeyError::Mismatch => "pub-key and priv-key do not belong together",
        })
    }
}

/// Makes and checks signed tokens.
pub(super) struct Jwt {
    algorithm: Algorithm,
    keys: Keys,
    ttl: Duration,
    validation: Validation,
}

/// What a token says, in etcd's words.
#[derive(Serialize)]
struct Claims<'a> {
    username: &'a str,
    revision: u64,
    /// Seconds since 1970.
    exp: u64,
}

/// The same from anybody's token: numbers may be written as fractions, and nothing is sure to be
/// there.
#[derive(Deserialize)]
struct Claimed {
    username: Option<String>,
    revision: Option<serde_json::Number>,
}

impl Jwt {
    /// From the options by name; reads the key files.
    pub(super) fn new(options: &BTreeMap<String, String>) -> Result<Self, TokenError> {
        let unknown = options.keys().filter(|name| !OPTIONS.contains(&name.as_str()));
        for name in unknown {
            tracing::warn!(name, "--auth-token: an option that is not known is ignored");
        }
        let bad = |what: String| TokenError::Option(what);
        let method = options.get("sign-method").map_or("", String::as_str);
        let algorithm = match method {
            "ES512" => {
                return Err(bad("sign-method ES512 is not built; ES384 is the strongest".into()));
            }
            method => Algorithm::from_str(method)
                .map_err(|_| bad(format!("sign-method {method:?} is none")))?,
        };
        let ttl = match options.get("ttl") {
            None => TTL_DEFAULT,
            Some(text) => duration::parse(text).ok_or_else(|| bad(format!("ttl {text:?}")))?,
        };
        let file = |name: &str| options.get(name).filter(|path| !path.is_empty()).map(read);
        let (private, public) = (file("priv-key").transpose()?, file("pub-key").transpose()?);
        let keys = Keys::new(algorithm, private.as_deref(), public.as_deref())?;
        Ok(Self { algorithm, keys, ttl, validation: validation(algorithm) })
    }

    pub(super) fn assign(&self, login: &Login) -> Result<String, Denied> {
        let key = self.keys.sign.as_ref().ok_or(Denied::VerifyOnly)?;
        let exp = jsonwebtoken::get_current_timestamp().saturating_add(self.ttl.as_secs());
        let claims = Claims { username: &login.user, revision: login.revision, exp };
        let token = jsonwebtoken::encode(&Header::new(self.algorithm), &claims, key);
        Ok(token.expect("the keys were tried out at the start"))
    }

    /// Whose token it is. What is wrong with a bad one is told to the log, not to its holder.
    pub(super) fn recognise(&self, token: &str) -> Result<Login, Denied> {
        let checked = jsonwebtoken::decode::<Claimed>(token, &self.keys.verify, &self.validation);
        let claims = checked.map_err(|error| {
            tracing::warn!(%error, "failed to parse a JWT token");
            Denied::InvalidToken
        })?;
        let Claimed { username, revision } = claims.claims;
        let revision = revision.and_then(|number| whole(&number));
        match (username, revision) {
            (Some(user), Some(revision)) => Ok(Login { user, revision }),
            _ => {
                tracing::warn!("a JWT token names no user or no revision");
                Err(Denied::InvalidToken)
            }
        }
    }
}

/// As etcd checks: this algorithm alone; not after `exp` and not before `nbf`, where given.
fn validation(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.leeway = 0;
    validation.validate_nbf = true;
    validation.validate_aud = false;
    validation
}

/// Some JSON writers write whole numbers as fractions.
fn whole(number: &serde_json::Number) -> Option<u64> {
    number.as_u64().or_else(|| {
        let number = number.as_f64()?;
        const EXACT: f64 = 9_007_199_254_740_992.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "within what a fraction holds exactly"
        )]
        (0.0..=EXACT).contains(&number).then_some(number as u64)
    })
}

fn read(path: &String) -> Result<Vec<u8>, TokenError> {
    std::fs::read(path)
        .map_err(|source| TokenError::File { path: Path::new(path).to_owned(), source })
}

#[cfg(test)]
mod tests;
