//! Watches: every change, once, in order, whole revisions only, to everyone who asked.
//!
//! - [`group`]: one revision's events, shared by all watchers, encoded at most once per form.
//! - [`ranges`]: which range watchers want a key.
//! - [`message`]: what clients ask, and what they are told.
//! - [`stream`]: one client's call, its watchers and its bounded outbox.
//! - [`hub`]: who is up to date, who lags, and who is given what.
//!
//! This folder is pure: no clock, no tasks, no sockets. `rpc/watch.rs` is the shell that moves
//! requests in and messages out.

mod group;
mod ranges;
mod message;
mod stream;
mod hub;

pub use group::{Form, Group};
pub use hub::Hub;
pub use message::{CatchUp, Create, CreateRefusal, Filters, Message, Picks, Rest, StreamId};

/// A watcher's place in the hub's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Slot(u32);

#[cfg(test)]
mod tests;
