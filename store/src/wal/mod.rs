//! The write-ahead log: the only place where a write has to reach the disk before it is answered.
//!
//! One ordered stream holds everything Raft must remember: votes, entries, cuts of the entries'
//! tail, how far they were purged, and a hint of what was committed. One thread writes it, or a
//! caller in its place while it sleeps. All that queued while the previous `fdatasync` ran goes out
//! in one write and one `fdatasync`, and then everyone who waited is answered: batches form by
//! themselves, and nobody lingers for one.
//!
//! ```text
//!  submit ─▶ queue ─▶ [writer thread: one pwrite, one fdatasync] ─▶ done(Ok)
//!                          │
//!  segments:   0000…1.wal   0000…2.wal   0000…3.wal        spare-…
//!              checkpoint   checkpoint   checkpoint         zeros
//!              vote entry…  entry…       entry… ▮
//! ```
//!
//! - [`record`] what one record's bytes mean; [`segment`] one file, and the verdict on its end;
//!   [`index`] what the records add up to; [`log`] the files, on one thread; [`writer`] the queue
//!   and the thread; [`dump`] a segment in words.
//! - [`disk`] is the seam to files, [`memory`] the disk that loses power in tests, [`volatile`] the
//!   one of a store that keeps nothing.
//!
//! The byte format and what a crash may do to it: `docs/log.md`.
//!
//! The log does not know what an entry means: a body is bytes, with a tag that its owner chooses.

pub mod disk;
pub mod dump;
pub mod index;
pub mod log;
pub mod mend;
pub mod memory;
pub mod record;
pub mod segment;
pub(crate) mod timings;
pub mod volatile;
pub mod writer;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod writer_tests;

pub use disk::{Disk, RealDisk};
pub use record::Record;
pub use volatile::VolatileDisk;
pub use writer::Wal;

use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// The name of an entry: the term of the leader that proposed it, and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogId {
    pub term: u64,
    pub index: u64,
}

/// For whom this node voted, and whether that candidate is known to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    pub term: u64,
    pub node: u64,
    pub committed: bool,
}

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: LogId,
    /// What kind of body this is, for its owner.
    pub tag: u8,
    pub body: Bytes,
}

/// What all records up to some point add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub vote: Option<Vote>,
    /// Entries up to here are gone.
    pub purged: Option<LogId>,
    /// The last entry, or `purged` where none is left.
    pub last: Option<LogId>,
    /// A lower bound of what was committed.
    pub committed: Option<LogId>,
}

/// What a log needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Size of a segment.
    pub segment_bytes: u64,
    /// The cluster that the log belongs to; a log of another one is refused.
    pub cluster: u64,
    /// The member that the log belongs to.
    pub node: u64,
    /// Unpredictable, so that no client can craft a value which looks like a record.
    pub salt: u32,
}

/// Size of a segment outside of tests.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// Why the log cannot be opened, or cannot go on. All are final.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    #[error("cannot {action} {file}: {error}")]
    Io { action: &'static str, file: String, error: Arc<io::Error> },
    #[error(
        "the log is damaged: segment {segment} ({file}) at offset {offset}: {reason}; acknowledged \
         writes may be lost if it were cut there, so it is left as it is"
    )]
    Damaged { file: String, segment: u64, offset: u64, reason: String },
    #[error("the log is damaged: segment file {file} is missing")]
    Missing { file: String },
    #[error("the log is damaged: entries {from} up to {until} are missing")]
    Incomplete { from: u64, until: u64 },
    #[error("{file} has log format version {version}, which this program does not know")]
    Version { file: String, version: u32 },
    #[error("{file} belongs to member {node:x} of cluster {cluster:x}")]
    Foreign { file: String, cluster: u64, node: u64 },
    #[error("an entry of {bytes} bytes does not fit into the log")]
    TooLarge { bytes: usize },
    #[error("the log was told something impossible: {0}")]
    Misuse(String),
    #[error("the log is closed")]
    Closed,
}
