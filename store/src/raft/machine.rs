//! openraft's state machine, on ours.
//!
//! [`StateMachine`] is what Raft needs of the engine; tests put a recorder in its place. Applying
//! happens on the Raft thread, one whole entry at a time, and the callers of that entry are
//! answered right after it.
//!
//! **Snapshots.** The engine writes checkpoints by itself and reports each one that has become
//! durable. A snapshot in openraft's sense is the newest of them: nothing is copied to "build" one.
//! openraft purges the log only up to a snapshot, so only up to what the engine holds durably.
//!
//! Raft's own part of the applied state (term and membership) is stored by the engine as opaque
//! bytes, in the transaction that stores the data. It is handed over only when it changes.

use super::leadership::Progress;
use super::types::{AppliedState, Entry, LogId, StoredMembership, Types, log_id};
use crate::command::{Command, Outcome};
use crate::wal;
use crate::wal::writer::AbortOnPanic;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use std::future::Future;
use std::io;
use std::sync::Arc;

/// A point of the log with Raft's part of the state there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub index: u64,
    /// What [`StateMachine::apply`] was given last, up to this index.
    pub raft_state: Bytes,
}

/// A failure of the state machine, which stops the node.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What Raft asks of the state machine.
pub trait StateMachine: Send + Sync + 'static {
    /// A way to ask for checkpoints from beside.
    type Checkpoints: Checkpoints;

    /// How far it has got, counting what is not durable yet; nothing when it is pristine.
    fn applied(&self) -> Option<Checkpoint>;

    /// Applies one entry. `raft_state` replaces the one before; `None` leaves it.
    fn apply(
        &mut self,
        index: u64,
        raft_state: Option<Bytes>,
        commands: &[Command],
    ) -> Result<Vec<Outcome>, Failure>;

    fn checkpoints(&self) -> Self::Checkpoints;
}

/// The durable side of a state machine.
pub trait Checkpoints: Clone + Send + Sync + 'static {
    /// The newest durable checkpoint.
    fn durable(&self) -> Option<Checkpoint>;

    /// Waits for the next checkpoint that becomes durable, or for the failure after which none will.
    fn next(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Makes all that is applied durable, now.
    fn force(&self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The adapter.
pub(crate) struct Machine<S: StateMachine> {
    inner: S,
    applied: Option<LogId>,
    state: AppliedState,
    progress: Arc<Progress>,
}

/// What cannot be done with a snapshot yet.
#[derive(Debug, thiserror::Error)]
#[error("a snapshot of another member cannot be installed: this version does not replicate")]
struct NoInstall;

/// Reads openraft's view of a checkpoint.
fn read(checkpoint: Option<&Checkpoint>) -> io::Result<(Option<LogId>, AppliedState)> {
    let Some(checkpoint) = checkpoint else { return Ok((None, AppliedState::default())) };
    let state = AppliedState::decode(checkpoint.raft_state.clone()).map_err(io::Error::other)?;
    let id = wal::LogId { term: state.term, index: checkpoint.index };
    Ok((Some(log_id(id)), state))
}

fn snapshot(checkpoint: Checkpoint) -> io::Result<SnapshotOf<Types, Checkpoint>> {
    let (last_log_id, state) = read(Some(&checkpoint))?;
    let meta = SnapshotMetaOf::<Types> { last_log_id, last_membership: state.membership };
    Ok(SnapshotOf::<Types, Checkpoint> { meta, snapshot: checkpoint })
}

impl<S: StateMachine> Machine<S> {
    pub(crate) fn new(inner: S, progress: Arc<Progress>) -> io::Result<Self> {
        let (applied, state) = read(inner.applied().as_ref())?;
        if let Some(applied) = &applied {
            progress.apply(applied.leader_id.term, applied.index);
            progress.commit(applied.index);
            progress.found_at(state.membership.membership().nodes());
        }
        Ok(Self { inner, applied, state, progress })
    }

    /// Index of the last entry that is applied.
    pub(crate) fn applied(&self) -> Option<u64> {
        self.applied.as_ref().map(|applied| applied.index)
    }

    pub(super) fn into_inner(self) -> S {
        self.inner
    }

    /// Whether a member needs nobody's agreement, as far as the applied entries say. Before the first
    /// one nobody else can have been told of anything.
    pub(super) fn is_sole_voter(&self, id: u64) -> bool {
        self.state.membership.membership().voter_ids().all(|voter| voter == id)
    }

    /// Applies one entry and returns what became of its commands.
    pub(super) fn apply_one(&mut self, entry: &Entry) -> io::Result<Vec<Outcome>> {
        let _guard = AbortOnPanic("applying an entry");
        let (term, index) = (entry.log_id.leader_id.term, entry.log_id.index);
        assert!(
            self.applied.as_ref().is_none_or(|applied| applied.index < index),
            "entry {index} applied twice"
        );
        let mut changed = self.state.term != term || self.applied.is_none();
        self.state.term = term;
        let commands = match &entry.payload {
            EntryPayload::Blank => Arc::default(),
            EntryPayload::Normal(batch) => batch.commands().map_err(io::Error::other)?,
            EntryPayload::Membership(membership) => {
                self.progress.found_at(membership.nodes());
                self.state.membership =
                    StoredMembership::new(Some(entry.log_id), membership.clone());
                changed = true;
                Arc::default()
            }
        };
        let raft_state = changed.then(|| self.state.encode());
        let outcomes = self.inner.apply(index, raft_state, &commands).map_err(io::Error::other)?;
        assert_eq!(outcomes.len(), commands.len(), "one outcome for each command");
        self.applied = Some(entry.log_id);
        self.progress.apply(term, index);
        Ok(outcomes)
    }
}

impl<S: StateMachine> RaftStateMachine<Types> for Machine<S> {
    type SnapshotData = Checkpoint;
    type SnapshotBuilder = Builder<S::Checkpoints>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.state.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let outcomes = self.apply_one(&entry)?;
            if let Some(responder) = responder {
                responder.send(outcomes);
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Self::SnapshotBuilder> {
        let checkpoints = self.inner.checkpoints();
        // Without `force` openraft follows a checkpoint that was just reported.
        (force || checkpoints.durable().is_some()).then_some(Builder { checkpoints, force })
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        Builder { checkpoints: self.inner.checkpoints(), force: true }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<Types>,
        _snapshot: Checkpoint,
    ) -> Result<(), io::Error> {
        Err(io::Error::other(NoInstall))
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Types, Checkpoint>>, io::Error> {
        self.inner.checkpoints().durable().map(snapshot).transpose()
    }
}

/// Names the newest durable checkpoint, after making one if that was asked for.
pub(crate) struct Builder<C> {
    checkpoints: C,
    force: bool,
}

impl<C: Checkpoints> RaftSnapshotBuilder<Types> for Builder<C> {
    type SnapshotData = Checkpoint;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, Checkpoint>, io::Error> {
        if self.force {
            self.checkpoints.force().await.map_err(io::Error::other)?;
        }
        match self.checkpoints.durable() {
            Some(checkpoint) => snapshot(checkpoint),
            // Nothing is applied yet: the snapshot of an empty state.
            None => {
                let raft_state = AppliedState::default().encode();
                let (index, meta) = (0, SnapshotMetaOf::<Types>::default());
                let snapshot = Checkpoint { index, raft_state };
                Ok(SnapshotOf::<Types, Checkpoint> { meta, snapshot })
            }
        }
    }
}
