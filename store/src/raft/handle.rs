//! What the rest of the store sees of Raft.

use super::answers::Caller;
use super::leadership::{Counts, Leadership, Progress};
use super::members::Readdress;
use super::propose::{Proposal, Unavailable};
use crate::command::{Command, Outcome};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Entries that may be agreed on and not yet applied before new ones are refused; etcd's figure.
const BACKLOG_MAX: u64 = 5_000;

/// A running member. Clones share it.
#[derive(Clone)]
pub struct Handle {
    pub(super) proposals: mpsc::Sender<Proposal>,
    pub(super) reads: mpsc::Sender<ReadRequest>,
    pub(super) changes: mpsc::Sender<Readdress>,
    pub(super) progress: Arc<Progress>,
    pub(super) request_timeout: Duration,
    pub(super) stop: CancellationToken,
    pub(super) stopped: watch::Receiver<Option<Stop>>,
    pub(super) id: u64,
}

/// Who waits for leave to read.
pub(crate) type ReadRequest = oneshot::Sender<Result<(), Unavailable>>;

/// How the node came to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It was asked to.
    Asked,
    /// It cannot go on; the text says why.
    Failed(String),
}

/// A member's view of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub id: u64,
    pub term: u64,
    pub leader: Option<u64>,
    /// This member leads and has caught up with what earlier leaders acknowledged.
    pub is_leader: bool,
    /// Index of the last entry.
    pub last: u64,
    pub committed: u64,
    pub applied: u64,
}

impl Handle {
    /// Agrees on one command and applies it.
    pub async fn propose(&self, command: Command) -> Result<Outcome, Unavailable> {
        let mut outcomes = self.propose_many(vec![command]).await?;
        Ok(outcomes.pop().expect("one outcome for each command"))
    }

    /// Agrees on commands that stay together, in order, in one entry, and applies them. Each has
    /// its own revision and may be refused by itself.
    pub async fn propose_many(&self, commands: Vec<Command>) -> Result<Vec<Outcome>, Unavailable> {
        let proposed = self.try_propose(commands).await;
        if proposed.is_err() {
            self.progress.counts.proposals_failed.fetch_add(1, Ordering::Relaxed);
        }
        proposed
    }

    async fn try_propose(&self, commands: Vec<Command>) -> Result<Vec<Outcome>, Unavailable> {
        if self.progress.backlog() > BACKLOG_MAX {
            return Err(Unavailable::Overloaded);
        }
        let (caller, outcome) = Caller::here();
        self.proposals.try_send(Proposal { commands, caller }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Unavailable::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Unavailable::Stopped,
        })?;
        match timeout(self.request_timeout, outcome).await {
            Ok(Ok(outcome)) => outcome,
            // The sender went with the node, or is still somewhere on the way.
            Ok(Err(_)) | Err(_) => Err(Unavailable::Unknown),
        }
    }

    /// Returns once everything that was acknowledged before the call can be read from local state.
    pub async fn read_index(&self) -> Result<(), Unavailable> {
        if self.progress.may_read() {
            return Ok(());
        }
        let asked = self.ask_leave().await;
        if let Err(unavailable) = asked {
            let counts = &self.progress.counts;
            counts.reads_failed.fetch_add(1, Ordering::Relaxed);
            let late = u64::from(unavailable == Unavailable::Timeout);
            counts.reads_late.fetch_add(late, Ordering::Relaxed);
        }
        asked
    }

    async fn ask_leave(&self) -> Result<(), Unavailable> {
        let (answer, leave) = oneshot::channel();
        self.reads.try_send(answer).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Unavailable::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Unavailable::Stopped,
        })?;
        match timeout(self.request_timeout, leave).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Unavailable::Stopped),
            Err(_) => Err(Unavailable::Timeout),
        }
    }

    /// Where other members find this one.
    pub fn peer_urls(&self) -> Vec<String> {
        self.progress.urls()
    }

    /// Agrees on other addresses of this member.
    pub async fn set_peer_urls(&self, urls: Vec<String>) -> Result<(), Unavailable> {
        let (done, outcome) = oneshot::channel();
        self.changes.try_send(Readdress { urls, done }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Unavailable::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Unavailable::Stopped,
        })?;
        match timeout(self.request_timeout, outcome).await {
            Ok(Ok(outcome)) => outcome,
            // The sender went with the node, or is still somewhere on the way.
            Ok(Err(_)) | Err(_) => Err(Unavailable::Unknown),
        }
    }

    /// What happened since the start.
    pub(crate) fn counts(&self) -> &Counts {
        &self.progress.counts
    }

    /// Proposals that wait to become an entry, and entries that wait to be applied.
    pub(crate) fn pending(&self) -> u64 {
        let waiting = self.proposals.max_capacity() - self.proposals.capacity();
        waiting as u64 + self.progress.last().saturating_sub(self.progress.applied())
    }

    /// This member's view of itself.
    pub fn status(&self) -> Status {
        let Leadership { term, leader, ready } = self.progress.leadership();
        Status {
            id: self.id,
            term,
            leader,
            is_leader: ready,
            last: self.progress.last(),
            committed: self.progress.committed(),
            applied: self.progress.applied(),
        }
    }

    /// Changes with every change of the leader.
    pub fn subscribe(&self) -> watch::Receiver<Leadership> {
        self.progress.subscribe()
    }

    /// Waits until this member leads and may serve, or has stopped.
    pub async fn ready(&self) -> Result<(), Unavailable> {
        let mut leadership = self.subscribe();
        let mut stopped = self.stopped.clone();
        tokio::select! {
            ready = leadership.wait_for(|now| now.ready) => {
                ready.map(drop).map_err(|_| Unavailable::Stopped)
            }
            _ = stopped.wait_for(Option::is_some) => Err(Unavailable::Stopped),
        }
    }

    /// Waits until the member has stopped, and says why.
    pub async fn stopped(&self) -> Stop {
        let mut stopped = self.stopped.clone();
        match stopped.wait_for(Option::is_some).await {
            Ok(stop) => stop.clone().expect("was waited for"),
            Err(_) => Stop::Failed("the Raft thread is gone".to_owned()),
        }
    }

    /// Stops the member: takes no more proposals, ends openraft, writes what the log has queued.
    pub async fn shutdown(&self) -> Stop {
        self.stop.cancel();
        self.stopped().await
    }
}
