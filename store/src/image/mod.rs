//! The image: the whole store as one file that etcd can open.
//!
//! etcd keeps its data in a bbolt file: pages of 4 KiB, B+ trees (*buckets*) inside a B+ tree, two
//! meta pages in front. Its backups are copies of that file. So that people can move in and out,
//! and so that etcd's own tools work on our backups, this folder writes such a file from a moment
//! of the store, and reads such a file into a fresh store.
//!
//! ```text
//!  engine::Moment ─▶ export ─▶ schema ─▶ write ─▶ tree ─▶ page ─▶ bytes (Snapshot, `store export`)
//!  engine::Loader ◀─ import ◀─ schema ◀──────── read ◀── page ◀── file  (`restore`, `import`)
//!                        └──── etcd_log: has etcd applied all of its own log?
//! ```
//!
//! - [`page`], [`tree`], [`mod@write`], [`read`] know bbolt and nothing of etcd; [`schema`] and [`wire`]
//!   know what etcd puts into it; [`mod@export`] and [`mod@import`] know the store.
//! - Writing streams: a first pass over the versions only counts, because the length and the root
//!   stand in front of the file and are told to clients beforehand. Memory is a page per level.
//! - Reading trusts nothing: see [`read`].
//!
//! `docs/image.md` says what is in the file.

mod etcd_log;
mod export;
mod import;
mod page;
mod read;
mod schema;
mod summary;
mod tree;
mod wire;
mod write;

#[cfg(test)]
mod tests;

pub use etcd_log::{LogError, LogSummary, read as read_etcd_log};
pub use export::Export;
pub use import::{ImportError, Imported, Options, Small, check_digest, import};
pub use read::{Entry, Image, ReadError, Source};
pub use schema::{Bucket, STORAGE_VERSION};
pub use summary::{HashKv, Status, SummaryError, hash_kv, status};
pub use write::Sink;

use crate::fault::Fault;

/// Why writing an image ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] Fault),
    /// What takes the bytes failed.
    #[error("the image cannot be written")]
    Sink(#[from] std::io::Error),
    /// Nobody takes the bytes any more.
    #[error("nobody takes the image any more")]
    Gone,
}
