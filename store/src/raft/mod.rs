//! Raft: one order for all commands, agreed on by a majority, durable before anyone is answered.
//!
//! openraft does the agreeing. This folder is its whole frame, and its type parameters stop here:
//!
//! ```text
//!  Handle::propose ─▶ bounded queue ─▶ batcher ─▶ openraft core ─▶ log_store ─▶ WAL thread
//!        ▲                             └───────── the Raft thread ──────┐            │ fdatasync
//!        └──── answers ◀── machine (apply) ◀── openraft core ◀──────────┴────────────┘
//! ```
//!
//! - [`types`]: what an entry is and how it is written; [`log_store`]: openraft's log on our
//!   write-ahead log; [`machine`]: its state machine on ours, which is [`applier`]; [`network`]: the way to peers;
//!   [`propose`]: many commands, one entry; [`answers`]: one wake-up for many answers;
//!   [`leadership`]: who leads, may we read; [`run`]: the
//!   thread that all of it runs on.
//! - A write crosses threads four times: caller → Raft → WAL → Raft → caller. Each crossing costs a
//!   client 15–30 µs, so batcher, core and apply share one thread. A lone voter has nobody to talk
//!   to while its disk works: there the Raft thread writes to the log by itself, and a write
//!   crosses threads twice.
//!
//! A single voter elects itself at once and then confirms reads without asking anyone.

mod answers;
mod applier;
mod describe;
mod handle;
mod leadership;
mod log_store;
mod machine;
mod members;
mod network;
mod propose;
mod replay;
mod run;
mod types;

#[cfg(test)]
mod tests;

/// Which of openraft's own log lines are told. Of a failing disk it tells three times in its own
/// words; the node says it once, with what to look at.
pub const LOG_FILTER: &str =
    "openraft=error,openraft::storage=off,openraft::core::raft_core=off,openraft::core::sm=off";

pub(crate) use answers::courier;
pub use applier::Applier;
pub use describe::{Described, DescribedMember, describe};
pub use handle::{Handle, Status, Stop};
pub use leadership::Leadership;
pub use machine::{Checkpoint, Checkpoints, Failure, StateMachine};
pub use propose::Unavailable;
pub use replay::replay;
pub use run::{RaftConfig, StartError, start};
pub use types::Peer;
