//! From commands to entries and back to answers.
//!
//! All commands that wait when the batcher looks become one entry, bounded in number and bytes; a
//! few entries are in flight at a time, so that the disk works on the next one while the last is
//! applied. Under load entries fill by themselves, and without load a command goes out alone and at
//! once. openraft's own cost, and that of the log, is paid per entry.
//!
//! The batcher runs on the Raft thread: handing an entry to openraft and taking its answer back
//! then costs no thread switch.
//!
//! **What a caller may conclude.** Refusals before an entry is made are certain: the command was
//! not and will not be carried out. After that only an answer is: who stops waiting, or loses the
//! leader, must take the outcome for unknown.

use super::answers::{Caller, Delivery};
use super::types::{Answer, Batch, Types};
use crate::command::{Command, CompareTarget, Op, Txn, encode};
use crate::limits::{ENTRIES_IN_FLIGHT_MAX, PROPOSAL_BYTES_PER_ENTRY, PROPOSALS_PER_ENTRY_MAX};
use crate::wal::writer::{AbortOnPanic, check_size};
use bytes::Bytes;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Why a command was not answered. Nothing here is deterministic: another attempt may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Too much waits already. Not carried out.
    #[error("too many requests")]
    Overloaded,
    /// This member does not lead. Not carried out.
    #[error("this member does not lead")]
    NoLeader { leader: Option<u64> },
    /// Larger than an entry of the log may be. Not carried out.
    #[error("a command of {bytes} bytes does not fit into the log")]
    TooLarge { bytes: usize },
    /// A question was not answered in time.
    #[error("timed out")]
    Timeout,
    /// The command may or may not have been carried out, or may yet be.
    #[error("the outcome is unknown")]
    Unknown,
    /// The node is stopping. Not carried out.
    #[error("the node has stopped")]
    Stopped,
}

/// Commands that stay together, and who waits for them.
pub(crate) struct Proposal {
    pub(crate) commands: Vec<Command>,
    pub(crate) caller: Caller,
}

/// Where entries go.
pub(crate) trait Entries {
    /// Hands over one entry; the answer comes by `answer`, or never if the node stops.
    fn write(
        &self,
        batch: Batch,
        answer: Answer<ClientWriteResult<Types>>,
    ) -> impl Future<Output = bool>;
}

/// Turns proposals into entries until the last sender is gone.
pub(crate) async fn batch(
    mut proposals: mpsc::Receiver<Proposal>,
    entries: impl Entries,
    segment_bytes: u64,
) {
    let _guard = AbortOnPanic("the batcher");
    let in_flight = Arc::new(Semaphore::new(ENTRIES_IN_FLIGHT_MAX));
    let bytes_max = usize::try_from(segment_bytes / 8).unwrap_or(usize::MAX);
    let bytes_max = bytes_max.min(PROPOSAL_BYTES_PER_ENTRY);
    let mut held: Option<Proposal> = None;
    loop {
        let permit = in_flight.clone().acquire_owned().await.expect("never closed");
        let first = match held.take() {
            Some(proposal) => proposal,
            None => match proposals.recv().await {
                Some(proposal) => proposal,
                None => return,
            },
        };
        let mut gathered = Gathered { bytes_max, ..Gathered::default() };
        gathered.take(first);
        while gathered.has_room() {
            let Ok(next) = proposals.try_recv() else { break };
            if !gathered.fits(&next) {
                held = Some(next);
                break;
            }
            gathered.take(next);
        }
        gathered.send(&entries, permit, segment_bytes).await;
    }
}

/// Commands for one entry.
#[derive(Default)]
struct Gathered {
    commands: Vec<Command>,
    bytes: usize,
    bytes_max: usize,
    waiting: Vec<Waiting>,
}

struct Waiting {
    commands: usize,
    caller: Caller,
}

impl Gathered {
    fn has_room(&self) -> bool {
        self.commands.len() < PROPOSALS_PER_ENTRY_MAX && self.bytes < self.bytes_max
    }

    fn fits(&self, proposal: &Proposal) -> bool {
        let bytes: usize = proposal.commands.iter().map(weight).sum();
        self.commands.len() + proposal.commands.len() <= PROPOSALS_PER_ENTRY_MAX
            && self.bytes + bytes <= self.bytes_max
    }

    fn take(&mut self, proposal: Proposal) {
        // Who has left already never learns of it; a command that nobody waits for is not made.
        if proposal.caller.has_left() {
            return;
        }
        self.bytes += proposal.commands.iter().map(weight).sum::<usize>();
        self.waiting.push(Waiting { commands: proposal.commands.len(), caller: proposal.caller });
        self.commands.extend(proposal.commands);
    }

    async fn send(self, entries: &impl Entries, permit: OwnedSemaphorePermit, segment_bytes: u64) {
        let waiting = self.waiting;
        if waiting.is_empty() {
            return;
        }
        let encoded = Bytes::from(encode(&self.commands));
        if check_size(encoded.len(), segment_bytes).is_err() {
            let bytes = encoded.len();
            return refuse(waiting, Unavailable::TooLarge { bytes });
        }
        let batch = Batch { encoded, commands: Some(Arc::new(self.commands)) };
        // The permit goes with the answer, whichever way that goes.
        let answer = Answer(Box::new(move |result: ClientWriteResult<Types>| {
            drop(permit);
            distribute(waiting, result);
        }));
        // Should the node stop, the answer is dropped, and with it the senders: whoever waits
        // takes that for an unknown outcome.
        if !entries.write(batch, answer).await {
            tracing::debug!("an entry came too late: the node stops");
        }
    }
}

fn refuse(waiting: Vec<Waiting>, why: Unavailable) {
    let mut delivery = Delivery::default();
    for waiting in waiting {
        delivery.add(waiting.caller, Err(why));
    }
    delivery.send();
}

/// Gives each caller the outcomes of its own commands.
fn distribute(waiting: Vec<Waiting>, result: ClientWriteResult<Types>) {
    match result {
        Ok(response) => {
            let mut outcomes = response.data.into_iter();
            let mut delivery = Delivery::default();
            for waiting in waiting {
                let own: Vec<_> = outcomes.by_ref().take(waiting.commands).collect();
                delivery.add(waiting.caller, Ok(own));
            }
            delivery.send();
        }
        Err(ClientWriteError::ForwardToLeader(forward)) => {
            refuse(waiting, Unavailable::NoLeader { leader: forward.leader_id });
        }
        // The entry was cut from the log when the leader changed, and may live on elsewhere; the
        // remaining errors belong to changes of the membership and cannot come here.
        Err(_) => refuse(waiting, Unavailable::Unknown),
    }
}

/// About how many bytes a command takes in the log: its keys and values, and a little for the rest.
fn weight(command: &Command) -> usize {
    const FIXED: usize = 32;
    FIXED
        + match command {
            Command::Put(put) => put.key.len() + put.value.len(),
            Command::Txn(txn) => weigh_txn(txn),
            Command::LeaseCheckpoint(leases) => leases.len() * 16,
            Command::MemberAttributes(member) => {
                member.name.len() + member.client_urls.iter().map(String::len).sum::<usize>()
            }
            Command::Delete(_)
            | Command::Compact(_)
            | Command::LeaseGrant { .. }
            | Command::LeaseRevoke(_)
            | Command::RaiseAlarm(_)
            | Command::ClearAlarm(_)
            | Command::Quota { .. } => 64,
            // Names and a hash; a range's keys may be as long as any.
            Command::Auth(op) => 512 + op.range_bytes(),
            Command::Sent { command, .. } => 64 + weight(command),
        }
}

fn weigh_txn(txn: &Txn) -> usize {
    let compares = txn.compares.iter().map(|compare| match &compare.target {
        CompareTarget::Value(value) => 64 + value.len(),
        _ => 64,
    });
    let steps = txn.success.iter().chain(&txn.failure).map(|op| match op {
        Op::Put(put) => 32 + put.key.len() + put.value.len(),
        Op::Txn(txn) => weigh_txn(txn),
        Op::Range(_) | Op::Delete(_) => 96,
    });
    compares.sum::<usize>() + steps.sum::<usize>()
}
