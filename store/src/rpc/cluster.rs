//! The Cluster service: who the members are.
//!
//! There is one, whose peer addresses can be changed. What is asked about another one, or of this
//! one what it cannot be, gets etcd's answer; a second member is not built yet.
//!
//! As in etcd the headers here carry no revision.

use std::sync::Arc;

use proto::etcdserverpb as pb;
use tonic::{Request, Response, Status};

use super::status::MembersRefusal;
use super::{Member, status};
use crate::command::Revision;
use crate::config::Url;

pub(super) struct Cluster(pub(super) Arc<Member>);

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Cluster {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        if request.into_inner().linearizable {
            self.0.linearize().await.map_err(status::unavailable)?;
        }
        let header = Some(self.0.header(Revision(0)));
        Ok(Response::new(pb::MemberListResponse { header, members: vec![self.own()] }))
    }

    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        let urls = peer_urls(&request.into_inner().peer_ur_ls)?;
        let own = self.0.raft.peer_urls();
        if urls.iter().any(|url| own.contains(url)) {
            return Err(status::members(MembersRefusal::UrlsExist));
        }
        Err(status::not_built("MemberAdd"))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.is_own(request.into_inner().id)?;
        Err(status::members(MembersRefusal::TooFewStarted))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        let request = request.into_inner();
        let urls = peer_urls(&request.peer_ur_ls)?;
        self.is_own(request.id)?;
        if urls != self.0.raft.peer_urls() {
            tracing::info!(?urls, "this member's peer URLs change");
            self.0.raft.set_peer_urls(urls).await.map_err(status::unavailable)?;
        }
        let header = Some(self.0.header(Revision(0)));
        Ok(Response::new(pb::MemberUpdateResponse { header, members: vec![self.own()] }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.is_own(request.into_inner().id)?;
        Err(status::members(MembersRefusal::NotLearner))
    }
}

impl Cluster {
    fn own(&self) -> pb::Member {
        let view = self.0.reader.view();
        let told = view.members().iter().find(|member| member.id == self.0.ids.member);
        pb::Member {
            id: self.0.ids.member.0,
            name: told.map_or_else(String::new, |member| member.name.clone()),
            peer_ur_ls: self.0.raft.peer_urls(),
            client_ur_ls: told.map_or_else(Vec::new, |member| member.client_urls.clone()),
            is_learner: false,
        }
    }

    fn is_own(&self, id: u64) -> Result<(), Status> {
        let own = id == self.0.ids.member.0;
        own.then_some(()).ok_or_else(|| status::members(MembersRefusal::NotFound))
    }
}

/// At least one, in order.
fn peer_urls(urls: &[String]) -> Result<Vec<String>, Status> {
    let bad = || status::members(MembersRefusal::UrlsInvalid);
    if urls.is_empty() {
        return Err(bad());
    }
    let mut urls =
        urls.iter().map(|url| Url::parse(url)).collect::<Result<Vec<_>, _>>().map_err(|_| bad())?;
    urls.sort();
    urls.dedup();
    Ok(urls.iter().map(|url| url.as_str().to_owned()).collect())
}
