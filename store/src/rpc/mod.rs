//! The gRPC services, one file each, and the router in front of them.
//!
//! - [`convert`]: protobuf ⇄ the store's words, with every check that needs no data.
//! - [`status`]: the one place that knows gRPC codes and etcd's texts.
//! - [`authorise`]: who may do what; every RPC passes there first.
//! - [`Member`]: what a service needs: the reader, the way into the log, watches, leases.
//! - [`unary`]: the short way for calls of one message each way; [`rows`]: what a range answers.
//! - [`Router`]: from an HTTP request to a service, with the rules that cut across all of them:
//!   `hasleader`, panics that become errors, counters.

mod auth;
mod authorise;
mod cluster;
pub(crate) mod convert;
mod counted;
mod election;
mod follow;
mod gateway;
mod hashes;
mod health;
mod kv;
mod lease;
mod lock;
mod maintenance;
pub(crate) mod queue;
mod router;
mod rows;
pub(crate) mod snapshot;
pub(crate) mod status;
mod unary;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use proto::etcdserverpb as pb;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::Status;

pub(crate) use authorise::{Caller, Credentials};
pub(crate) use gateway::ThroughGateway;
pub(crate) use hashes::Told;
pub(crate) use lease::{Leases, observe};
pub use maintenance::{API_VERSION, SERVER_VERSION};
pub(crate) use router::{Answering, Reply, Router, Surface};
pub(crate) use watch::Watching;

use crate::auth::Gate;
use crate::chance::Chance;
use crate::command::{Command, Outcome, Response, Revision};
use crate::config::{FeatureGates, MemberConfig, RequestConfig};
use crate::engine::Reader;
use crate::fault::Error;
use crate::ids::Ids;
use crate::limits::SLOW_READS_MAX;
use crate::raft::{self, Unavailable};
use crate::wal::timings::Timings;

/// What every service works with.
pub(crate) struct Member {
    pub(crate) ids: Ids,
    pub(crate) config: MemberConfig,
    pub(crate) requests: RequestConfig,
    pub(crate) quota_bytes: Option<u64>,
    /// The shortest time to live a lease is granted, in seconds.
    pub(crate) lease_ttl_min: i64,
    pub(crate) reader: Reader,
    pub(crate) raft: raft::Handle,
    pub(crate) wal: Arc<Timings>,
    pub(crate) hashes: Told,
    pub(crate) gates: FeatureGates,
    pub(crate) watching: Arc<Watching>,
    pub(crate) leases: Arc<Leases>,
    /// Places in queues that nobody waits on any more.
    pub(crate) left_queues: mpsc::Sender<queue::Left>,
    pub(crate) stopping: CancellationToken,
    pub(crate) slow_reads: Arc<Semaphore>,
    /// Snapshots being sent.
    pub(crate) snapshots: Arc<Semaphore>,
    pub(crate) chance: Chance,
    pub(crate) gate: Arc<Gate>,
    /// How long a request may wait for an answer.
    pub(crate) deadline: Duration,
}

impl Member {
    /// A header that names a revision.
    pub(crate) fn header(&self, revision: Revision) -> pb::ResponseHeader {
        pb::ResponseHeader {
            cluster_id: self.ids.cluster,
            member_id: self.ids.member.0,
            revision: revision.0,
            raft_term: self.raft.status().term,
        }
    }

    /// A header with the newest revision.
    fn header_now(&self) -> pb::ResponseHeader {
        self.header(self.reader.view().revision())
    }

    /// Puts a caller's command through the log. `bytes` is the request's size on the wire.
    async fn propose(
        &self,
        caller: Caller,
        command: Command,
        bytes: usize,
    ) -> Result<(Revision, Response), Status> {
        if bytes > self.requests.max_bytes {
            return Err(status::invalid(convert::Invalid::TooLarge));
        }
        if self.check(&caller, &command).is_err() {
            // What was granted a moment ago may not have reached this member yet.
            self.linearize().await.map_err(status::unavailable)?;
            self.allow(&caller, &command)?;
        }
        let command = match caller.into_sender() {
            Some(sender) => command.by(sender),
            None => command,
        };
        let proposed = self.raft.propose(command).await;
        let Outcome { revision, result } = proposed.map_err(status::unavailable)?;
        let response = result.map_err(status::refusal)?;
        Ok((revision, response))
    }

    /// After this, what this member holds includes every write acknowledged before the call.
    pub(crate) async fn linearize(&self) -> Result<(), Unavailable> {
        self.raft.read_index().await
    }

    /// Runs a read that may take long or touch the disk, beside the runtimes that serve clients.
    /// At most [`SLOW_READS_MAX`] run at a time; the others wait their turn.
    pub(crate) async fn slow_read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let turn = Arc::clone(&self.slow_reads).acquire_owned().await.expect("never closed");
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            read()
        });
        done.await.map_err(|_| status::handler_panicked())
    }
}

/// As many turns as slow reads may run at a time.
pub(crate) fn slow_reads() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(SLOW_READS_MAX))
}

/// The words for a failed question.
fn read_error(error: Error) -> Status {
    match error {
        Error::Refused(refusal) => status::refusal(refusal),
        Error::Failed(fault) => status::fault(&fault),
    }
}
