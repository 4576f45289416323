//! The Election service: [`queue`], the first in it leads.
//!
//! The leader's key holds what it proclaims. `Observe` tells each leader and each proclamation, in
//! order, for as long as the client listens.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use proto::etcdserverpb as kv;
use proto::v3electionpb as pb;
use tonic::{Request, Response, Status};

use super::follow::Follower;
use super::queue::{self, Asker, Waiting};
use super::status::{self, QueueRefusal};
use super::{Member, convert};
use crate::command::{EventKind, KeyRange, Revision};

pub(super) struct Election(pub(super) Arc<Member>);

#[tonic::async_trait]
impl pb::election_server::Election for Election {
    async fn campaign(
        &self,
        request: Request<pb::CampaignRequest>,
    ) -> Result<Response<pb::CampaignResponse>, Status> {
        let (asker, request) = Asker::of(&self.0, request);
        let lease = asker.lease(request.lease).await?;
        let prefix = queue::prefix(&request.name);
        let place = asker.join(&prefix, lease, request.value.clone()).await?;
        let waiting = Waiting::new(&self.0, &place);
        let leader = pb::LeaderKey { name: request.name, key: place.key, rev: place.rev, lease };
        if place.held.is_some_and(|held| held.value != request.value) {
            proclaim(&asker, &leader, lease, request.value).await?;
        }
        if !place.first {
            asker.await_turn(&prefix, place.rev).await?;
        }
        waiting.keep();
        Ok(Response::new(pb::CampaignResponse { header: place.header, leader: Some(leader) }))
    }

    async fn proclaim(
        &self,
        request: Request<pb::ProclaimRequest>,
    ) -> Result<Response<pb::ProclaimResponse>, Status> {
        let (asker, request) = Asker::of(&self.0, request);
        let leader = request.leader.ok_or_else(leader_missing)?;
        let lease = asker.lease(leader.lease).await?;
        let header = proclaim(&asker, &leader, lease, request.value).await?;
        Ok(Response::new(pb::ProclaimResponse { header }))
    }

    async fn leader(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<pb::LeaderResponse>, Status> {
        let (asker, request) = Asker::of(&self.0, request);
        let answer = asker.range(queue::oldest(&queue::prefix(&request.name))).await?;
        let first = answer.kvs.into_iter().next();
        let kv = Some(first.ok_or_else(|| status::queue(QueueRefusal::NoLeader))?);
        Ok(Response::new(pb::LeaderResponse { header: answer.header, kv }))
    }

    type ObserveStream = BoxStream<'static, Result<pb::LeaderResponse, Status>>;

    async fn observe(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let (asker, request) = Asker::of(&self.0, request);
        let prefix = queue::prefix(&request.name);
        let observer = Observer { asker, prefix, leader: None, told: VecDeque::new() };
        let leaders = stream::unfold(Some(observer), |observer| async move {
            let mut observer = observer?;
            match observer.next().await {
                Ok(leader) => Some((Ok(leader), Some(observer))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(leaders.boxed()))
    }

    async fn resign(
        &self,
        request: Request<pb::ResignRequest>,
    ) -> Result<Response<pb::ResignResponse>, Status> {
        let (asker, request) = Asker::of(&self.0, request);
        let leader = request.leader.ok_or_else(leader_missing)?;
        // One who leads no more has nothing to resign from: that is no error.
        let answer = asker
            .txn(kv::TxnRequest {
                compare: vec![queue::created_at(&leader.key, leader.rev)],
                success: vec![queue::delete_op(leader.key)],
                failure: Vec::new(),
            })
            .await?;
        Ok(Response::new(pb::ResignResponse { header: answer.header }))
    }
}

/// Writes the leader's value while it still leads.
async fn proclaim(
    asker: &Asker,
    leader: &pb::LeaderKey,
    lease: i64,
    value: Bytes,
) -> Result<Option<kv::ResponseHeader>, Status> {
    let key = leader.key.clone();
    let put = kv::PutRequest { key, value, lease, ..Default::default() };
    let answer = asker
        .txn(kv::TxnRequest {
            compare: vec![queue::created_at(&leader.key, leader.rev)],
            success: vec![queue::put_op(put)],
            failure: Vec::new(),
        })
        .await?;
    if !answer.succeeded {
        return Err(status::queue(QueueRefusal::NotLeader));
    }
    Ok(answer.header)
}

fn leader_missing() -> Status {
    status::queue(QueueRefusal::LeaderMissing)
}

/// One Observe call.
struct Observer {
    asker: Asker,
    prefix: Bytes,
    /// What happens to the key of the leader that was told last.
    leader: Option<Follower>,
    told: VecDeque<pb::LeaderResponse>,
}

impl Observer {
    async fn next(&mut self) -> Result<pb::LeaderResponse, Status> {
        loop {
            if let Some(leader) = self.told.pop_front() {
                return Ok(leader);
            }
            match &mut self.leader {
                None => self.look().await?,
                Some(follower) => {
                    let (revision, events) = follower.next().await?;
                    for event in events {
                        if event.kind == EventKind::Delete {
                            self.leader = None;
                            break;
                        }
                        let header = Some(self.asker.member.header(revision));
                        let kv = Some(convert::key_value(event.kv));
                        self.told.push_back(pb::LeaderResponse { header, kv });
                    }
                }
            }
        }
    }

    /// Finds who leads now, or waits for the first who comes.
    async fn look(&mut self) -> Result<(), Status> {
        let answer = self.asker.range(queue::oldest(&self.prefix)).await?;
        let now = Revision(answer.header.as_ref().map_or(0, |header| header.revision));
        let (seen, leader) = match answer.kvs.into_iter().next() {
            Some(kv) => (now, pb::LeaderResponse { header: answer.header, kv: Some(kv) }),
            None => self.await_first(now).await?,
        };
        let key = leader.kv.as_ref().map_or_else(Bytes::new, |kv| kv.key.clone());
        let range = KeyRange::Key(key);
        self.leader = Some(Follower::new(&self.asker.member, range, seen.next()));
        self.told.push_back(leader);
        Ok(())
    }

    async fn await_first(&self, now: Revision) -> Result<(Revision, pb::LeaderResponse), Status> {
        let range = KeyRange::Span(self.prefix.clone(), queue::after(&self.prefix));
        let mut follower = Follower::new(&self.asker.member, range, now.next());
        loop {
            let (revision, events) = follower.next().await?;
            let put = events.into_iter().find(|event| event.kind == EventKind::Put);
            if let Some(event) = put {
                let header = Some(self.asker.member.header(revision));
                let kv = Some(convert::key_value(event.kv));
                return Ok((revision, pb::LeaderResponse { header, kv }));
            }
        }
    }
}
