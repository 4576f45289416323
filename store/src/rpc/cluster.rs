//! The Cluster service: who the members are. Changing them is not built yet.
//!
//! As in etcd the headers here carry no revision.

use std::sync::Arc;

use proto::etcdserverpb as pb;
use tonic::{Request, Response, Status};

use super::{Member, status};
use crate::command::Revision;

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
        let view = self.0.reader.view();
        let told = view.members().iter().find(|member| member.id == self.0.ids.member);
        let peer_urls =
            self.0.config.advertise_peer_urls.iter().map(|url| url.as_str().to_owned()).collect();
        let member = pb::Member {
            id: self.0.ids.member.0,
            name: told.map_or_else(String::new, |member| member.name.clone()),
            peer_ur_ls: peer_urls,
            client_ur_ls: told.map_or_else(Vec::new, |member| member.client_urls.clone()),
            is_learner: false,
        };
        let header = Some(self.0.header(Revision(0)));
        Ok(Response::new(pb::MemberListResponse { header, members: vec![member] }))
    }

    async fn member_add(
        &self,
        _: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(status::not_built("MemberAdd"))
    }

    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(status::not_built("MemberRemove"))
    }

    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(status::not_built("MemberUpdate"))
    }

    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(status::not_built("MemberPromote"))
    }
}
