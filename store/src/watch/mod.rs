//! Watches: every change, once, in order, whole revisions only, to everyone who asked.
//!
//! - [`group`]: one revision's events, shared by all watchers, encoded at most once per form.
//! - [`ranges`]: which range watchers want a key.
//! - [`hub`]: who is up to date, who lags, and what waits in each stream's outbox.
//!
//! This folder is pure: no clock, no tasks, no sockets. `rpc/watch.rs` is the shell that moves
//! requests in and messages out.

mod group;
mod hub;
mod ranges;

pub use group::{Form, Group};
pub use hub::{CatchUp, Create, CreateRefusal, Filters, Hub, Message, Picks, StreamId};

/// A watcher's place in the hub's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Slot(u32);

#[cfg(test)]
mod tests;
