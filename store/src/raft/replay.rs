//! Applying what the log holds beyond the state machine, without taking part in anything.
//!
//! For tools that read the data of a member that does not run: its newest state is the last
//! checkpoint and the log after it. A member that is its cluster's only voter has nobody to ask, so
//! all it has is agreed on; otherwise only what is known to be committed is applied.

use super::leadership::Progress;
use super::machine::{Machine, StateMachine};
use super::run::{StartError, check_they_meet};
use super::types::from_wal;
use crate::wal::Wal;
use std::io;
use std::sync::Arc;

/// Bytes of entries read at a time.
const READ_BYTES: usize = 4 << 20;

/// Brings a state machine as far as its log goes.
pub fn replay<S: StateMachine>(id: u64, wal: &Wal, machine: S) -> Result<S, StartError> {
    let mut machine =
        Machine::new(machine, Arc::new(Progress::new(id))).map_err(StartError::State)?;
    check_they_meet(wal, &machine)?;
    let state = wal.state();
    let end = state.last.map_or(0, |last| last.index + 1);
    let committed = state.committed.map_or(0, |committed| committed.index + 1).min(end);
    let mut next = machine.applied().map_or(0, |applied| applied + 1);
    // The first entry of all says who votes.
    while next < end && (next < committed || machine.is_sole_voter(id)) {
        let entries = wal.read(next, end, READ_BYTES).map_err(io::Error::other);
        let entries = entries.map_err(StartError::State)?;
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            let index = entry.id.index;
            if index >= committed && !machine.is_sole_voter(id) {
                return Ok(machine.into_inner());
            }
            let entry = from_wal(entry).map_err(io::Error::other).map_err(StartError::State)?;
            machine.apply_one(&entry).map_err(StartError::State)?;
            next = index + 1;
        }
    }
    Ok(machine.into_inner())
}
