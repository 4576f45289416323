//! The events of one revision, as one shared value.
//!
//! Thousands of watchers may want the same event. They share one `Arc<Group>`, and the wire form of
//! each event is made when the first of them is sent it and kept beside it for the others; a
//! watcher that wants previous values has a form of its own.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::command::{Event, Revised, Revision};

/// Whether an event is sent with the value it replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Key and value.
    Plain = 0,
    /// Also the previous value.
    WithPrevious = 1,
}

/// One revision's changes.
#[derive(Debug)]
pub struct Group {
    revised: Arc<Revised>,
    wire: Vec<[OnceLock<Bytes>; 2]>,
    bytes: usize,
}

impl Group {
    /// Wraps the changes of a revision.
    pub fn new(revised: Arc<Revised>) -> Self {
        let wire = revised.events.iter().map(|_| Default::default()).collect();
        let bytes = revised.events.iter().map(weight).sum();
        Self { revised, wire, bytes }
    }

    /// The revision.
    pub fn revision(&self) -> Revision {
        self.revised.revision
    }

    /// The changes in the order they were made.
    pub fn events(&self) -> &[Event] {
        &self.revised.events
    }

    /// About how much memory the changes hold.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The wire form of one event, made by `encode` the first time.
    pub fn wire(&self, event: usize, form: Form, encode: impl FnOnce(&Event) -> Bytes) -> &Bytes {
        self.wire[event][form as usize].get_or_init(|| encode(&self.revised.events[event]))
    }
}

fn weight(event: &Event) -> usize {
    const OVERHEAD: usize = 64;
    let previous = event.prev.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
    event.kv.key.len() + event.kv.value.len() + previous + OVERHEAD
}
