//! The Raft thread: one current-thread runtime for openraft's tasks, the batcher and applying.
//!
//! Starting is a recipe: openraft on the adapters, the first membership on a pristine member, an
//! election at once where this member is the only voter. Then the thread watches for three things:
//! a durable checkpoint (it lets openraft take a snapshot, and so purge), the request to stop, and
//! openraft's own end. A storage error ends openraft and is reported as it is; a panic ends the
//! process, because state that others rely on may be half changed.

use super::handle::{Handle, ReadRequest, Stop};
use super::leadership::Progress;
use super::log_store::LogStore;
use super::machine::{Checkpoints, Machine, StateMachine};
use super::members::{self, Readdress};
use super::network::Network;
use super::propose::{self, Entries, Proposal, Unavailable};
use super::types::{Answer, Batch, Peer, Types};
use crate::limits::PROPOSALS_WAITING_MAX;
use crate::wal::writer::AbortOnPanic;
use crate::wal::{self, Wal};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{Fatal, LinearizableReadError, RaftError};
use openraft::raft::ClientWriteResult;
use openraft::{Raft, ReadPolicy, SnapshotPolicy};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Entries kept below a snapshot, for members that are only a little behind.
const ENTRIES_KEPT: u64 = 500;
/// Reads that may wait for one confirmation.
const READS_WAITING_MAX: usize = 65_536;

/// Changes of members that may wait: operators make them by hand, one at a time.
const CHANGES_WAITING_MAX: usize = 16;

/// What a member needs to take part.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// This member.
    pub id: u64,
    /// The first configuration, used only by a member that has never taken part.
    pub members: BTreeMap<u64, Peer>,
    pub heartbeat: Duration,
    /// The shortest time without a leader before a member stands for election; the longest is
    /// twice that.
    pub election_timeout: Duration,
    /// How long a caller waits for an answer.
    pub request_timeout: Duration,
    /// As in the log's own configuration: bounds an entry.
    pub segment_bytes: u64,
}

/// Why a member cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the Raft thread cannot be started")]
    Thread(#[source] io::Error),
    #[error("the stored state cannot be used")]
    State(#[source] io::Error),
    #[error(
        "the log ends at entry {last}, but the data are of entry {applied}: log files are missing"
    )]
    LogBehind { last: u64, applied: u64 },
    #[error(
        "the log begins after entry {purged}, but the data are of entry {applied}: data files are missing"
    )]
    DataBehind { purged: u64, applied: u64 },
    #[error("member {id:x} is not part of the cluster it should form")]
    NotMember { id: u64 },
    #[error("the consensus configuration is invalid: {0}")]
    Config(String),
    #[error("consensus cannot start: {0}")]
    Raft(String),
}

type Node<S> = Raft<Types, Machine<S>>;

/// Starts the member on a thread of its own and returns once it takes part.
pub async fn start<S: StateMachine>(
    config: RaftConfig,
    wal: Wal,
    machine: S,
) -> Result<Handle, StartError> {
    let (proposals, proposed) = mpsc::channel(PROPOSALS_WAITING_MAX);
    let (reads, reading) = mpsc::channel(READS_WAITING_MAX);
    let (changes, changing) = mpsc::channel(CHANGES_WAITING_MAX);
    let (report, stopped) = watch::channel(None);
    let progress = Arc::new(Progress::new(config.id));
    let stop = CancellationToken::new();
    let handle = Handle {
        proposals,
        reads,
        changes,
        progress: progress.clone(),
        request_timeout: config.request_timeout,
        stop: stop.clone(),
        stopped,
        id: config.id,
    };
    let (started, outcome) = oneshot::channel();
    let member = Member { config, wal, progress, proposed, reading, changing, stop, report };
    let spawned = thread::Builder::new().name("raft".into()).spawn(move || {
        let _guard = AbortOnPanic("the Raft thread");
        // No sockets here, so none of the poller: without it the thread sleeps on a futex, and to
        // wake it is a system call only while it does sleep.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        match runtime {
            Ok(runtime) => runtime.block_on(member.run(machine, started)),
            Err(error) => drop(started.send(Err(StartError::Thread(error)))),
        }
    });
    spawned.map_err(StartError::Thread)?;
    outcome.await.unwrap_or_else(|_| Err(StartError::Raft("its thread ended".to_owned())))?;
    Ok(handle)
}

/// Everything the thread owns.
struct Member {
    config: RaftConfig,
    wal: Wal,
    progress: Arc<Progress>,
    proposed: mpsc::Receiver<Proposal>,
    reading: mpsc::Receiver<ReadRequest>,
    changing: mpsc::Receiver<Readdress>,
    stop: CancellationToken,
    report: watch::Sender<Option<Stop>>,
}

impl Member {
    async fn run<S: StateMachine>(
        self,
        machine: S,
        started: oneshot::Sender<Result<(), StartError>>,
    ) {
        let checkpoints = machine.checkpoints();
        let raft = match self.take_part(machine).await {
            Ok(raft) => raft,
            Err(error) => {
                self.wal.close();
                return drop(started.send(Err(error)));
            }
        };
        let batcher = tokio::task::spawn(propose::batch(
            self.proposed,
            Writes(raft.clone()),
            self.config.segment_bytes,
        ));
        let reader = tokio::task::spawn(confirm_reads(self.reading, raft.clone()));
        let changer =
            tokio::task::spawn(members::change(self.changing, raft.clone(), self.config.id));
        // Nobody left to tell means that the caller gave up; then the token is cancelled too.
        drop(started.send(Ok(())));
        let stop = watch_over(&raft, &self.wal, checkpoints, self.stop).await;
        batcher.abort();
        reader.abort();
        changer.abort();
        if let Err(error) = raft.shutdown().await {
            tracing::error!(%error, "a consensus task panicked; the process cannot go on");
            std::process::abort();
        }
        drop(raft);
        self.wal.close();
        self.report.send_replace(Some(stop));
    }

    /// Builds openraft on the adapters and makes sure that there is a configuration.
    async fn take_part<S: StateMachine>(&self, machine: S) -> Result<Node<S>, StartError> {
        let id = self.config.id;
        let config = Arc::new(openraft_config(&self.config)?);
        if let Some(checkpoint) = machine.checkpoints().durable() {
            self.wal.covered(checkpoint.index);
        }
        let log = LogStore::new(self.wal.clone(), self.progress.clone());
        let machine = Machine::new(machine, self.progress.clone()).map_err(StartError::State)?;
        check_they_meet(&self.wal, &machine)?;
        let raft = Raft::new(id, config, Network, log, machine)
            .await
            .map_err(|error| StartError::Raft(fatal_text(&error)))?;
        let initialized = raft.is_initialized().await;
        if !initialized.map_err(|error| StartError::Raft(fatal_text(&error)))? {
            if !self.config.members.contains_key(&id) {
                return Err(StartError::NotMember { id });
            }
            // A lone voter elects itself with it. openraft's own list of voters trails by a turn of
            // its loop, so it cannot be asked here.
            let formed = raft.initialize(self.config.members.clone()).await;
            formed.map_err(|error| StartError::Raft(error.to_string()))?;
            self.progress.configured(self.config.members.keys().copied());
            return Ok(raft);
        }
        let voters: Vec<u64> = raft.voter_ids().collect();
        self.progress.configured(voters.iter().copied());
        if voters == [id] {
            // Nobody else can lead: there is no reason to wait for a timeout.
            let elected = raft.trigger().elect(false).await;
            elected.map_err(|error| StartError::Raft(fatal_text(&error)))?;
        }
        Ok(raft)
    }
}

/// Refuses a log and data that do not meet: entries between them are lost, or one of the two is
/// not the one that belongs here.
pub(super) fn check_they_meet<S: StateMachine>(
    wal: &Wal,
    machine: &Machine<S>,
) -> Result<(), StartError> {
    let state = wal.state();
    let last = state.last.map_or(0, |last| last.index);
    let applied = machine.applied().unwrap_or(0);
    match state.purged {
        _ if applied > last => Err(StartError::LogBehind { last, applied }),
        Some(wal::LogId { index: purged, .. }) if purged > applied => {
            Err(StartError::DataBehind { purged, applied })
        }
        _ => Ok(()),
    }
}

fn openraft_config(config: &RaftConfig) -> Result<openraft::Config, StartError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let election_timeout_min = millis(config.election_timeout);
    let election_timeout_max = election_timeout_min.saturating_mul(2);
    let config = openraft::Config {
        heartbeat_interval: millis(config.heartbeat),
        election_timeout_min,
        election_timeout_max,
        // A checkpoint that became durable asks for a snapshot; a count of entries never does.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: ENTRIES_KEPT,
        purge_batch_size: ENTRIES_KEPT,
        // Our state machine is durable only as far as its last checkpoint.
        enable_leader_restore: Some(false),
        enable_pre_vote: Some(true),
        // Without it the heartbeats of a leader that lost its majority can keep a connected
        // majority from electing another.
        quorum_loss_probe_interval: Some(election_timeout_max.saturating_mul(2)),
        ..openraft::Config::default()
    };
    config.validate().map_err(|error| StartError::Config(error.to_string()))
}

/// Where the batcher's entries go.
struct Writes<S: StateMachine>(Node<S>);

impl<S: StateMachine> Entries for Writes<S> {
    async fn write(&self, batch: Batch, answer: Answer<ClientWriteResult<Types>>) -> bool {
        self.0.client_write_ff(batch, Some(answer)).await.is_ok()
    }
}

/// Answers reads that local knowledge does not settle: one confirmation for all that wait.
async fn confirm_reads<S: StateMachine>(mut reads: mpsc::Receiver<ReadRequest>, raft: Node<S>) {
    let _guard = AbortOnPanic("confirming reads");
    let mut waiting = Vec::new();
    while reads.recv_many(&mut waiting, READS_WAITING_MAX).await > 0 {
        let outcome = confirm(&raft).await;
        for read in waiting.drain(..) {
            // A failure to send means that nobody waits any more.
            let _gone = read.send(outcome);
        }
    }
}

async fn confirm<S: StateMachine>(raft: &Node<S>) -> Result<(), Unavailable> {
    match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
        Ok(linearizer) => {
            let ready = linearizer.await_ready(raft).await;
            ready.map(drop).map_err(|_| Unavailable::Stopped)
        }
        Err(RaftError::Fatal(_)) => Err(Unavailable::Stopped),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
            Err(Unavailable::NoLeader { leader: forward.leader_id })
        }
        Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
            Err(Unavailable::NoLeader { leader: None })
        }
    }
}

/// Follows checkpoints until the member is to stop or cannot go on.
async fn watch_over<S: StateMachine>(
    raft: &Node<S>,
    wal: &Wal,
    mut checkpoints: S::Checkpoints,
    stop: CancellationToken,
) -> Stop {
    let mut metrics = raft.server_metrics();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Stop::Asked,
            // Ends only with openraft's core.
            changed = metrics.changed() => if changed.is_err() {
                return Stop::Failed(why_ended(raft));
            },
            next = checkpoints.next() => {
                if let Err(failure) = next {
                    return Stop::Failed(failure.to_string());
                }
                if let Some(durable) = checkpoints.durable() {
                    wal.covered(durable.index);
                }
                // An error means that the core has ended, which the next turn reports.
                drop(raft.trigger().snapshot().await);
            }
        }
    }
}

/// Why openraft's core is gone, from the last thing it said.
fn why_ended<S: StateMachine>(raft: &Node<S>) -> String {
    match &raft.metrics().borrow_watched().running_state {
        Err(error) => fatal_text(error),
        Ok(()) => "consensus has ended".to_owned(),
    }
}

fn fatal_text(error: &Fatal<Types>) -> String {
    match error {
        // What it was doing is for those who read its code; the fault is what the disk said.
        Fatal::StorageError(error) => {
            let text = error.to_string();
            text.rsplit_once("Error: ").map_or(&*text, |(_, fault)| fault).to_owned()
        }
        Fatal::Panicked => "a consensus task panicked".to_owned(),
        Fatal::Stopped => "consensus was stopped".to_owned(),
    }
}
