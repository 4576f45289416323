//! The language of a session: who asks what, with the numbers left open that only a running server
//! knows.
//!
//! A session is drawn whole, before any server is asked, and must still make sense when the
//! shrinker takes steps out of it. So a request may hold *symbols* where etcd wants a number: "five
//! revisions before the newest", "the second lease whose id the server picked". They are numbers of
//! ranges that nothing else uses, and [`Known`] replaces them just before the request is sent, for
//! each server by what that server has told so far.

use std::collections::BTreeMap;

use proto::etcdserverpb as pb;

use super::auth::AuthStep;
use pb::request_op::Request as Op;

/// This symbol plus `n` is the newest revision plus `n`.
pub(super) const CURRENT: i64 = 1 << 56;
/// This symbol plus `n` is the revision of the last compaction plus `n`.
pub(super) const COMPACTED: i64 = 1 << 57;
/// This symbol plus `n` is the `n`-th lease whose id the server picked.
pub(super) const PICKED: i64 = 1 << 58;
/// The server's own member id.
pub(super) const MEMBER: u64 = 1 << 59;
/// How far a symbol reaches in each direction.
const REACH: i64 = 1 << 20;

/// One client's request.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// Which connection it is sent on.
    pub client: usize,
    /// What is asked.
    pub step: Step,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// `KV.Range`.
    Range(pb::RangeRequest),
    /// `KV.RangeStream`, its pieces merged.
    RangeStream(pb::RangeRequest),
    /// `KV.Put`.
    Put(pb::PutRequest),
    /// `KV.DeleteRange`.
    Delete(pb::DeleteRangeRequest),
    /// `KV.Txn`.
    Txn(pb::TxnRequest),
    /// `KV.Compact`.
    Compact(pb::CompactionRequest),
    /// `Lease.LeaseGrant`.
    Grant(pb::LeaseGrantRequest),
    /// A grant and its revocation at once: for leases too short to be left alone.
    Brief(pb::LeaseGrantRequest),
    /// `Lease.LeaseRevoke`.
    Revoke(pb::LeaseRevokeRequest),
    /// One message on a stream of `Lease.LeaseKeepAlive`.
    KeepAlive(pb::LeaseKeepAliveRequest),
    /// `Lease.LeaseTimeToLive`.
    TimeToLive(pb::LeaseTimeToLiveRequest),
    /// `Lease.LeaseLeases`.
    Leases,
    /// A lease that holds this key and is left to end by itself, awaited.
    Expire(pb::PutRequest),
    /// `Cluster.MemberList`.
    Members(pb::MemberListRequest),
    /// `Maintenance.Status`.
    Status,
    /// `Maintenance.HashKV`.
    HashKv(pb::HashKvRequest),
    /// `Maintenance.Alarm`.
    Alarm(pb::AlarmRequest),
    /// `Maintenance.Defragment`.
    Defragment,
    /// A watch on one of the session's streams.
    Watch(usize, pb::WatchCreateRequest),
    /// The end of a watch, by its id on that stream.
    Cancel(usize, i64),
    /// A request for progress.
    Progress(usize),
    /// The end of a stream; the next watch opens it again.
    Close(usize),
    /// Nothing is asked: all that watchers have yet to hear is awaited.
    Settle,
    /// One request of the Auth service.
    Auth(AuthStep),
}

impl Step {
    /// Whether what watchers hear depends on when this is done, so that they must have heard
    /// everything before it.
    pub(super) fn disturbs_watchers(&self) -> bool {
        matches!(
            self,
            Self::Compact(_)
                | Self::Cancel(..)
                | Self::Progress(_)
                | Self::Close(_)
                | Self::Settle
                | Self::Expire(_)
        )
    }
}

/// What a server has told so far: the meaning of the symbols.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// The newest revision.
    pub(super) revision: i64,
    /// The revision of the last compaction.
    pub(super) compacted: i64,
    /// All revisions that were compacted to.
    pub(super) compactions: Vec<i64>,
    /// The server's member id.
    pub(super) member: u64,
    /// Leases whose id the server picked, in order.
    pub(super) picked: Vec<i64>,
    /// The same, from id to symbol.
    names: BTreeMap<i64, i64>,
}

impl Known {
    /// Remembers a lease that the server named.
    pub(super) fn name_lease(&mut self, id: i64) {
        let nth = i64::try_from(self.picked.len()).expect("a session is short");
        self.names.insert(id, PICKED + nth);
        self.picked.push(id);
    }

    /// The symbol of a lease that the server named; any other id is its own symbol.
    pub(super) fn lease_symbol(&self, id: i64) -> i64 {
        self.names.get(&id).copied().unwrap_or(id)
    }

    fn revision(&self, number: &mut i64) {
        for (symbol, value) in [(CURRENT, self.revision), (COMPACTED, self.compacted)] {
            let offset = number.wrapping_sub(symbol);
            if (-REACH..REACH).contains(&offset) {
                *number = value + offset;
                return;
            }
        }
    }

    fn lease(&self, number: &mut i64) {
        let offset = number.wrapping_sub(PICKED);
        if (0..REACH).contains(&offset) {
            // One that was never granted keeps its symbol, which is as good as any unknown id.
            let nth = usize::try_from(offset).expect("within reach");
            *number = self.picked.get(nth).copied().unwrap_or(*number);
        }
    }

    /// Replaces every symbol in `step`.
    pub(super) fn resolve(&self, step: &mut Step) {
        match step {
            Step::Range(request) | Step::RangeStream(request) => self.range(request),
            Step::Put(request) | Step::Expire(request) => self.lease(&mut request.lease),
            Step::Txn(request) => self.txn(request),
            Step::Compact(request) => self.revision(&mut request.revision),
            Step::Grant(request) | Step::Brief(request) => self.lease(&mut request.id),
            Step::Revoke(request) => self.lease(&mut request.id),
            Step::KeepAlive(request) => self.lease(&mut request.id),
            Step::TimeToLive(request) => self.lease(&mut request.id),
            Step::HashKv(request) => self.revision(&mut request.revision),
            Step::Watch(_, request) => self.revision(&mut request.start_revision),
            Step::Alarm(request) if request.member_id == MEMBER => request.member_id = self.member,
            Step::Alarm(_)
            | Step::Delete(_)
            | Step::Leases
            | Step::Members(_)
            | Step::Status
            | Step::Defragment
            | Step::Cancel(..)
            | Step::Progress(_)
            | Step::Close(_)
            | Step::Settle
            | Step::Auth(_) => {}
        }
    }

    fn range(&self, request: &mut pb::RangeRequest) {
        for number in [
            &mut request.revision,
            &mut request.min_mod_revision,
            &mut request.max_mod_revision,
            &mut request.min_create_revision,
            &mut request.max_create_revision,
        ] {
            self.revision(number);
        }
    }

    fn txn(&self, request: &mut pb::TxnRequest) {
        use pb::compare::TargetUnion;
        for compare in &mut request.compare {
            match &mut compare.target_union {
                Some(TargetUnion::CreateRevision(number) | TargetUnion::ModRevision(number)) => {
                    self.revision(number);
                }
                Some(TargetUnion::Lease(number)) => self.lease(number),
                Some(TargetUnion::Version(_) | TargetUnion::Value(_)) | None => {}
            }
        }
        for op in request.success.iter_mut().chain(&mut request.failure) {
            match &mut op.request {
                Some(Op::RequestRange(request)) => self.range(request),
                Some(Op::RequestPut(request)) => self.lease(&mut request.lease),
                Some(Op::RequestTxn(request)) => self.txn(request),
                Some(Op::RequestDeleteRange(_)) | None => {}
            }
        }
    }
}
