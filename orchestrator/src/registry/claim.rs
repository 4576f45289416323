//! Whose store it is.
//!
//! Two kinds of API server on one store would each misread what the other wrote. A key names the
//! format of ours: an empty store is marked with it, a store with another mark or with foreign
//! objects is refused, and nothing in it is touched.

use super::key;
use crate::client::etcd::{Range, Store, StoreError, Txn};

/// The format this version writes.
const FORMAT: &str = "1";

/// Why a store is not ours to use.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// It holds objects of another server.
    #[error(
        "the store holds objects of another API server (for example {0}): use an empty store, or \
         the one this cluster was made with"
    )]
    Foreign(String),
    /// It was written by a version with another format.
    #[error("the store has format {0}, this version reads and writes format {FORMAT}")]
    Format(String),
    /// It could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes sure that the store is ours: marks an empty one, refuses one that holds another server's
/// objects.
pub async fn claim(store: &Store) -> Result<(), ClaimError> {
    if let Some(entry) = store.get(key::FORMAT).await? {
        return check(&entry.value);
    }
    let objects = Range { limit: 1, keys_only: true, ..Range::prefix(key::REGISTRY) };
    if let Some(entry) = store.range(&objects).await?.entries.first() {
        return Err(ClaimError::Foreign(String::from_utf8_lossy(&entry.key).into_owned()));
    }
    let mark = Txn::new()
        .when_absent(key::FORMAT)
        .put(key::FORMAT, FORMAT)
        .else_read(&Range::key(key::FORMAT));
    let answer = store.txn(mark).await?;
    match answer.entry(0) {
        Some(entry) if !answer.succeeded => check(&entry.value),
        _ => Ok(()),
    }
}

fn check(mark: &[u8]) -> Result<(), ClaimError> {
    if mark == FORMAT.as_bytes() {
        Ok(())
    } else {
        Err(ClaimError::Format(String::from_utf8_lossy(mark).into_owned()))
    }
}
