//! Changing what the cluster knows about its members.
//!
//! Members and their addresses are Raft's own: an entry of the log that counts from where it stands.
//! There is one member in this version, so what can change is the address at which others would find
//! it. Changes go one at a time, as Raft demands.

use std::collections::BTreeMap;

use openraft::errors::RaftError;
use openraft::{ChangeMembers, Raft};
use tokio::sync::{mpsc, oneshot};

use super::machine::{Machine, StateMachine};
use super::propose::Unavailable;
use super::types::{Peer, Types};
use crate::wal::writer::AbortOnPanic;

/// New addresses of this member, and who waits for them to be agreed on.
pub(crate) struct Readdress {
    pub(super) urls: Vec<String>,
    pub(super) done: oneshot::Sender<Result<(), Unavailable>>,
}

/// Carries out changes until the member stops.
pub(super) async fn change<S: StateMachine>(
    mut changes: mpsc::Receiver<Readdress>,
    raft: Raft<Types, Machine<S>>,
    id: u64,
) {
    let _guard = AbortOnPanic("changing members");
    while let Some(Readdress { urls, done }) = changes.recv().await {
        let nodes = BTreeMap::from([(id, Peer { urls })]);
        let outcome = match raft.change_membership(ChangeMembers::SetNodes(nodes), true).await {
            Ok(_) => Ok(()),
            Err(RaftError::Fatal(_)) => Err(Unavailable::Stopped),
            Err(RaftError::APIError(_)) => Err(Unavailable::NoLeader { leader: None }),
        };
        // A failure to send means that nobody waits any more.
        let _gone = done.send(outcome);
    }
}
