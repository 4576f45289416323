//! The Maintenance service: how the member is, whether members agree, and alarms.

use std::sync::Arc;

use proto::etcdserverpb as pb;
use tonic::{Request, Response, Status};

use super::{Caller, Member, read_error, snapshot, status};
use crate::command::{Alarm, AlarmKind, Command, MemberId, Response as Answer, Revision};
use crate::machine::auth::needs::Need;

/// The release of etcd that this store answers like. Clients and scripts ask a server for it, and
/// compare it with their own. Plain numbers: they split it on dots.
pub const SERVER_VERSION: &str = "3.7.3";

/// The level of etcd's API and storage that this is, as etcd writes it: releases share one.
pub const API_VERSION: &str = "3.7.0";

/// The same, as a cluster's version is given.
const API_LEVEL: &str = "3.7";

pub(super) struct Maintenance(pub(super) Arc<Member>);

#[tonic::async_trait]
impl pb::maintenance_server::Maintenance for Maintenance {
    async fn alarm(
        &self,
        request: Request<pb::AlarmRequest>,
    ) -> Result<Response<pb::AlarmResponse>, Status> {
        use pb::alarm_request::AlarmAction;
        let caller = self.0.caller(&request)?;
        let request = request.into_inner();
        let action = AlarmAction::try_from(request.action);
        let asks = matches!(action, Ok(AlarmAction::Get));
        self.0.allow(&caller, if asks { &Need::Login } else { &Need::Root })?;
        let kind = match pb::AlarmType::try_from(request.alarm) {
            Ok(pb::AlarmType::Nospace) => Some(AlarmKind::NoSpace),
            Ok(pb::AlarmType::Corrupt) => Some(AlarmKind::Corrupt),
            Ok(pb::AlarmType::None) => None,
            // There are none of a kind that does not exist.
            Err(_) => {
                let header = Some(self.0.header_now());
                return Ok(Response::new(pb::AlarmResponse { header, alarms: Vec::new() }));
            }
        };
        let member = MemberId(request.member_id);
        let alarms = match (action, kind) {
            (Ok(AlarmAction::Get), kind) => {
                self.0.linearize().await.map_err(status::unavailable)?;
                let view = self.0.reader.view();
                let standing = view.alarms();
                let wanted = |alarm: &&Alarm| kind.is_none_or(|kind| alarm.kind == kind);
                standing.iter().filter(wanted).copied().collect()
            }
            (Ok(AlarmAction::Activate), Some(kind)) => {
                self.change(caller, Command::RaiseAlarm(Alarm { member, kind })).await?
            }
            (Ok(AlarmAction::Deactivate), Some(kind)) => {
                self.change(caller, Command::ClearAlarm(Alarm { member, kind })).await?
            }
            // Nothing is named, so nothing changes: etcd says so without an error.
            (Ok(_), None) | (Err(_), _) => Vec::new(),
        };
        let alarms = alarms.into_iter().map(alarm_member).collect();
        Ok(Response::new(pb::AlarmResponse { header: Some(self.0.header_now()), alarms }))
    }

    async fn status(
        &self,
        _: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let raft = self.0.raft.status();
        let view = self.0.reader.view();
        let mut errors = Vec::new();
        if raft.leader.is_none() {
            errors.push(status::no_leader_text().to_owned());
        }
        errors.extend(view.alarms().iter().copied().map(alarm_text));
        let sizes = view.sizes();
        Ok(Response::new(pb::StatusResponse {
            header: Some(self.0.header(view.revision())),
            version: SERVER_VERSION.to_owned(),
            // Never 0: etcdctl divides by it, and in JSON it would be missing.
            db_size: bytes(sizes.retained).max(1),
            leader: raft.leader.unwrap_or_default(),
            raft_index: raft.committed,
            raft_term: raft.term,
            raft_applied_index: raft.applied,
            errors,
            // What could be given back without a compaction is no part of the first.
            db_size_in_use: bytes(sizes.retained).max(1),
            is_learner: false,
            storage_version: API_VERSION.to_owned(),
            db_size_quota: self.0.quota_bytes.map_or(-1, bytes),
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        let at = Revision(request.into_inner().revision);
        let member = Arc::clone(&self.0);
        let hash = move || {
            let view = member.reader.view();
            let told = Some(view.compacted()).filter(|compacted| at == *compacted);
            let digest = match told.and_then(|compacted| member.hashes.before(compacted)) {
                Some(digest) => digest,
                None => view.hash_kv(at)?,
            };
            member.hashes.remember(digest);
            Ok::<_, crate::fault::Error>((view.revision(), digest))
        };
        let (revision, digest) = self.0.slow_read(hash).await?.map_err(read_error)?;
        Ok(Response::new(pb::HashKvResponse {
            header: Some(self.0.header(revision)),
            hash: digest.hash,
            compact_revision: digest.compacted.0,
            hash_revision: digest.revision.0,
        }))
    }

    async fn defragment(
        &self,
        _: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        self.0.reader.defragment().await.map_err(|fault| status::defragment(&fault))?;
        // Without a header, as in etcd.
        Ok(Response::new(pb::DefragmentResponse { header: None }))
    }

    async fn hash(
        &self,
        _: Request<pb::HashRequest>,
    ) -> Result<Response<pb::HashResponse>, Status> {
        let reader = self.0.reader.clone();
        let hash = move || {
            let view = reader.view();
            view.hash().map(|hash| (view.revision(), hash))
        };
        let (revision, hash) = self.0.slow_read(hash).await?.map_err(read_error)?;
        Ok(Response::new(pb::HashResponse { header: Some(self.0.header(revision)), hash }))
    }

    type SnapshotStream = snapshot::Blobs;

    async fn snapshot(
        &self,
        _: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        snapshot::stream(&self.0).map(Response::new)
    }

    /// To itself a member can always hand over; there is nobody else. As in etcd without a header.
    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        if request.into_inner().target_id != self.0.ids.member.0 {
            return Err(status::members(status::MembersRefusal::BadTransferee));
        }
        Ok(Response::new(pb::MoveLeaderResponse { header: None }))
    }

    /// There is no older version of this store to go down to, so every target is a wrong one, in
    /// etcd's words; nothing is ever under way, so cancelling always succeeds.
    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        use pb::downgrade_request::DowngradeAction;
        let request = request.into_inner();
        match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Cancel) => Ok(Response::new(pb::DowngradeResponse {
                header: Some(self.0.header_now()),
                version: API_LEVEL.to_owned(),
            })),
            Ok(DowngradeAction::Validate | DowngradeAction::Enable) => {
                Err(status::downgrade_target(is_version(&request.version)))
            }
            Err(_) => Err(status::unknown_action()),
        }
    }
}

/// `X.Y` or `X.Y.Z`.
fn is_version(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    let is_number =
        |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (2..=3).contains(&parts.len()) && parts.iter().all(is_number)
}

impl Maintenance {
    async fn change(&self, caller: Caller, command: Command) -> Result<Vec<Alarm>, Status> {
        match self.0.propose(caller, command, 16).await? {
            (_, Answer::Alarms(alarms)) => Ok(alarms),
            (_, other) => unreachable!("an alarm was answered with {other:?}"),
        }
    }
}

fn bytes(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn alarm_type(kind: AlarmKind) -> pb::AlarmType {
    match kind {
        AlarmKind::NoSpace => pb::AlarmType::Nospace,
        AlarmKind::Corrupt => pb::AlarmType::Corrupt,
    }
}

fn alarm_member(alarm: Alarm) -> pb::AlarmMember {
    pb::AlarmMember { member_id: alarm.member.0, alarm: alarm_type(alarm.kind).into() }
}

/// As Go prints the message: a field that is zero is left out.
fn alarm_text(alarm: Alarm) -> String {
    let kind = alarm_type(alarm.kind).as_str_name();
    match alarm.member.0 {
        0 => format!("alarm:{kind}"),
        member => format!("memberID:{member} alarm:{kind}"),
    }
}
