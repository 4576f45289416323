//! Failures that are not part of the deterministic result.
//!
//! A [`Refusal`] is an answer, equal on all members. A [`Fault`] is a broken disk, a damaged
//! database or an invariant that does not hold: the node stops, because a member that goes on after
//! one may diverge from the others. The third kind, "not now" (no leader, overloaded, timed out),
//! arises at the edges and has its types there.

use std::{io, path::PathBuf, sync::Arc};

use crate::command::Refusal;

/// Why the node has to stop, or cannot start.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    #[error("{path} is in use by another process")]
    Locked { path: PathBuf },
    #[error(
        "{path} was written by a newer version of this program \
         (format {found}, this version reads up to {known})"
    )]
    NewerFormat { path: PathBuf, found: u32, known: u32 },
    #[error("the data are damaged: {0}")]
    Damaged(String),
    #[error("{what}: {source}")]
    Io { what: String, source: Arc<io::Error> },
    #[error("database: {0}")]
    Database(Arc<redb::Error>),
    #[error("the storage engine has stopped")]
    Stopped,
}

impl Fault {
    /// Gives an I/O error the name of what was being done.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source: Arc::new(source) }
    }
}

/// redb has one error type for each family of calls, each of which widens into [`redb::Error`].
macro_rules! database_errors {
    ($($error:ty),*) => {$(
        impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Self::Database(Arc::new(error.into()))
            }
        }
    )*};
}

database_errors!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::CursorError,
    redb::SetDurabilityError
);

/// What a question to the store can fail with.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Failed(#[from] Fault),
}
