//! Gives every pod a node.

pub mod decide;
pub mod pending;
pub mod snapshot;
