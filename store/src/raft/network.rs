//! The way to other members. Replication is not built yet: every peer is unreachable, and says so.
//!
//! The answer matters even so. An unreachable peer must yield an error and never a granted vote,
//! and the pre-vote of openraft's default body grants: hence each call is written out here. What
//! replication will add is a connection per peer with `stream_append` over it; the factory is where
//! it hands openraft one.

use super::machine::Checkpoint;
use super::types::{Peer, Types, Vote};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, alias::SnapshotOf};
use std::future::Future;

/// Makes connections to peers.
pub(crate) struct Network;

/// One peer.
pub(crate) struct Connection {
    target: u64,
}

/// Why a peer does not answer.
#[derive(Debug, thiserror::Error)]
#[error("member {target:x} cannot be reached: this version does not replicate")]
struct NoReplication {
    target: u64,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _peer: &Peer) -> Connection {
        Connection { target }
    }
}

impl Connection {
    fn unreachable(&self) -> Unreachable<Types> {
        Unreachable::new(&NoReplication { target: self.target })
    }
}

impl RaftNetworkV2<Types> for Connection {
    type SnapshotData = Checkpoint;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn pre_vote(
        &mut self,
        _rpc: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: SnapshotOf<Types, Checkpoint>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        Err(StreamingError::Unreachable(self.unreachable()))
    }

    async fn transfer_leader(
        &mut self,
        _request: TransferLeaderRequest<Types>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }
}
