//! Passwords: hashing and checking, which is slow on purpose.
//!
//! bcrypt takes tens of milliseconds of one core, so that who steals the hashes learns little. It
//! runs on threads that may block, and no more of it at a time than there are cores: a storm of
//! logins must not take the processor from everybody else. A bounded number may wait; beyond it a
//! login is refused at once.
//!
//! A name that is not known is checked against a hash that no password fits, at the cost that new
//! hashes have: both refusals take the same time.

use std::sync::Arc;

use bcrypt::{HashParts, Version};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Denied;
use crate::command::PasswordHash;
use crate::limits::LOGINS_WAITING_MAX;

/// Go's bcrypt, and so etcd, refuses longer ones instead of cutting them.
const PASSWORD_BYTES_MAX: usize = 72;

/// Why a password cannot be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PasswordError {
    #[error("the password is longer than {PASSWORD_BYTES_MAX} bytes")]
    TooLong,
    #[error("too many are logging in")]
    Busy,
}

pub(super) struct Passwords {
    cost: u32,
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Passwords {
    pub(super) fn new(cost: u32) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            cost,
            running: Arc::new(Semaphore::new(cores)),
            waiting: Arc::new(Semaphore::new(LOGINS_WAITING_MAX)),
        }
    }

    /// Hashes a password with a salt that nobody can guess.
    pub(super) async fn hash(
        &self,
        password: String,
        salt: [u8; 16],
    ) -> Result<PasswordHash, PasswordError> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(PasswordError::TooLong);
        }
        let cost = self.cost;
        let hashed = self.slowly(move || hash(&password, cost, salt)).await;
        hashed.ok_or(PasswordError::Busy)
    }

    /// Whether the password fits the hash; no hash stands for no user.
    pub(super) async fn check(
        &self,
        password: String,
        hash: Option<PasswordHash>,
    ) -> Result<PasswordHash, Denied> {
        let cost = self.cost;
        let checked = self.slowly(move || match hash {
            Some(hash) if fits(&password, &hash) => Ok(hash),
            Some(_) => Err(Denied::Failed),
            None => {
                // The time is what counts, not the result.
                let _nobodys = bcrypt::hash_with_salt(password, cost, [0; 16]);
                Err(Denied::Failed)
            }
        });
        checked.await.unwrap_or(Err(Denied::Busy))
    }

    /// Runs where it may take its time; nothing if too many wait.
    async fn slowly<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let place = Arc::clone(&self.waiting).try_acquire_owned().ok()?;
        let turn = Arc::clone(&self.running).acquire_owned().await.expect("never closed");
        let held: (OwnedSemaphorePermit, OwnedSemaphorePermit) = (place, turn);
        let done = tokio::task::spawn_blocking(move || {
            let _held = held;
            work()
        });
        Some(done.await.expect("hashing does not panic"))
    }
}

fn hash(password: &str, cost: u32, salt: [u8; 16]) -> PasswordHash {
    let parts = bcrypt::hash_with_salt(password, cost, salt).expect("the cost was checked");
    // The name that Go gives to the same algorithm, which etcd's hashes bear.
    PasswordHash(Bytes::from(parts.format_for_version(Version::TwoA)))
}

/// An empty or a foreign hash fits no password.
fn fits(password: &str, hash: &PasswordHash) -> bool {
    let text = std::str::from_utf8(&hash.0).unwrap_or_default();
    text.parse::<HashParts>().is_ok() && bcrypt::verify(password, text).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_fits_its_hash_and_no_other() {
        let passwords = Passwords::new(4);
        let hash = passwords.hash("secret".to_owned(), [7; 16]).await.unwrap();
        assert!(hash.0.starts_with(b"$2a$04$"));
        let check = |password: &str, hash| passwords.check(password.to_owned(), hash);
        assert_eq!(check("secret", Some(hash.clone())).await, Ok(hash.clone()));
        assert_eq!(check("Secret", Some(hash)).await, Err(Denied::Failed));
        assert_eq!(check("secret", None).await, Err(Denied::Failed));
        assert_eq!(check("", Some(PasswordHash::default())).await, Err(Denied::Failed));
        let foreign = PasswordHash(Bytes::from_static(b"plain"));
        assert_eq!(check("plain", Some(foreign)).await, Err(Denied::Failed));
    }

    /// Made by etcd 3.7.3 from `pw` and cost 4: people bring such hashes along.
    #[test]
    fn hashes_of_etcd_fit() {
        let hash = "$2a$04$kuc5uYlETJM5Suojq00wnOwu.n2WugeKX1NP/88gImHm9ec8yz3a6";
        let hash = PasswordHash(Bytes::from_static(hash.as_bytes()));
        assert!(fits("pw", &hash) && !fits("pv", &hash));
    }

    #[tokio::test]
    async fn what_go_refuses_is_refused() {
        let passwords = Passwords::new(4);
        let long = |length| passwords.hash("x".repeat(length), [0; 16]);
        assert!(long(PASSWORD_BYTES_MAX).await.is_ok());
        assert_eq!(long(PASSWORD_BYTES_MAX + 1).await, Err(PasswordError::TooLong));
    }

    #[tokio::test]
    async fn a_storm_is_refused_and_not_queued_without_end() {
        let passwords = Passwords::new(4);
        let _all = passwords.waiting.acquire_many(u32::try_from(LOGINS_WAITING_MAX).unwrap()).await;
        let hashed = passwords.hash("x".to_owned(), [0; 16]).await;
        assert_eq!(hashed, Err(PasswordError::Busy));
        assert_eq!(passwords.check("x".to_owned(), None).await, Err(Denied::Busy));
    }
}
