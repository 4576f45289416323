//! The queue behind locks and elections: who came first is first.
//!
//! Whoever wants a turn puts a key of its own below a common prefix, named after its lease. The
//! place in the queue is the key's creation revision; the turn has come when no older key is left.
//! A vanished owner's lease ends, its key goes, and the next one moves up: the same recipe that
//! etcd's client library follows, so the two can share a queue.
//!
//! All steps are made through the services as the caller would make them, with the caller's
//! credentials, so that nothing can be done here that the caller could not do by hand.

use std::sync::Arc;

use bytes::Bytes;
use http::Extensions;
use proto::etcdserverpb as pb;
use proto::mvccpb;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use super::follow::Follower;
use super::kv::Kv;
use super::lease::LeaseService;
use super::{Member, status};
use crate::command::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, EventKind, KeyRange, Op, Revision,
    Sender, Txn,
};
use crate::raft;

/// What a lease lives that the server grants by itself, in seconds. Nobody keeps it alive.
const LEASE_SECONDS: i64 = 60;

/// On whose behalf the steps are made.
pub(super) struct Asker {
    pub(super) member: Arc<Member>,
    metadata: MetadataMap,
    extensions: Extensions,
}

/// One that waits, or whose turn it is.
pub(super) struct Place {
    pub(super) key: Bytes,
    /// The creation revision of the key.
    pub(super) rev: i64,
    pub(super) header: Option<pb::ResponseHeader>,
    /// What the caller's key held, if it stood there already.
    pub(super) held: Option<mvccpb::KeyValue>,
    /// Nobody is before it.
    pub(super) first: bool,
}

impl Asker {
    /// Takes a request apart into who asks and what for.
    pub(super) fn of<T>(member: &Arc<Member>, request: Request<T>) -> (Self, T) {
        let (metadata, extensions, message) = request.into_parts();
        (Self { member: Arc::clone(member), metadata, extensions }, message)
    }

    fn ask<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), self.extensions.clone(), message)
    }

    /// The lease itself, or a new one for none.
    pub(super) async fn lease(&self, id: i64) -> Result<i64, Status> {
        use pb::lease_server::Lease;
        if id != 0 {
            return Ok(id);
        }
        let grant = pb::LeaseGrantRequest { ttl: LEASE_SECONDS, id: 0 };
        let service = LeaseService(Arc::clone(&self.member));
        let granted = service.lease_grant(self.ask(grant)).await.map_err(status::handed_on)?;
        Ok(granted.into_inner().id)
    }

    pub(super) async fn range(&self, query: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        use pb::kv_server::Kv as _;
        let answer = Kv(Arc::clone(&self.member)).range(self.ask(query)).await;
        Ok(answer.map_err(status::handed_on)?.into_inner())
    }

    pub(super) async fn txn(&self, txn: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        use pb::kv_server::Kv as _;
        let answer = Kv(Arc::clone(&self.member)).txn(self.ask(txn)).await;
        Ok(answer.map_err(status::handed_on)?.into_inner())
    }

    pub(super) async fn delete(&self, key: Bytes) -> Result<pb::DeleteRangeResponse, Status> {
        use pb::kv_server::Kv as _;
        let request = pb::DeleteRangeRequest { key, ..Default::default() };
        let answer = Kv(Arc::clone(&self.member)).delete_range(self.ask(request)).await;
        Ok(answer.map_err(status::handed_on)?.into_inner())
    }

    /// Takes a place in the queue below `prefix`, or finds the one that the lease has already.
    pub(super) async fn join(
        &self,
        prefix: &Bytes,
        lease: i64,
        value: Bytes,
    ) -> Result<Place, Status> {
        use pb::response_op::Response;
        let key = place(prefix, lease);
        let put = pb::PutRequest { key: key.clone(), value, lease, ..Default::default() };
        let own = pb::RangeRequest { key: key.clone(), ..Default::default() };
        let oldest = range_op(oldest(prefix));
        let answer = self
            .txn(pb::TxnRequest {
                compare: vec![created_at(&key, 0)],
                success: vec![put_op(put), oldest.clone()],
                failure: vec![range_op(own), oldest],
            })
            .await?;
        let mut rows = answer.responses.into_iter().map(|answer| match answer.response {
            Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
            _ => None,
        });
        let held = rows.next().flatten();
        let oldest = rows.next().flatten();
        let written = answer.header.as_ref().map_or(0, |header| header.revision);
        let rev = held.as_ref().map_or(written, |kv| kv.create_revision);
        let first = oldest.is_none_or(|kv| kv.create_revision == rev);
        Ok(Place { key, rev, header: answer.header, held, first })
    }

    /// Waits until nobody below `prefix` is older than `rev`.
    pub(super) async fn await_turn(&self, prefix: &Bytes, rev: i64) -> Result<(), Status> {
        use pb::range_request::{SortOrder, SortTarget};
        loop {
            let before = self
                .range(pb::RangeRequest {
                    key: prefix.clone(),
                    range_end: after(prefix),
                    limit: 1,
                    max_create_revision: rev - 1,
                    sort_order: SortOrder::Descend.into(),
                    sort_target: SortTarget::Create.into(),
                    ..Default::default()
                })
                .await?;
            let Some(next) = before.kvs.into_iter().next() else { return Ok(()) };
            let seen = Revision(before.header.map_or(0, |header| header.revision));
            let mut follower = Follower::new(&self.member, KeyRange::Key(next.key), seen.next());
            while !follower.next().await?.1.iter().any(|event| event.kind == EventKind::Delete) {}
        }
    }
}

/// The key of a lease's place: Go's `%x`, which gives a negative number a sign.
fn place(prefix: &Bytes, lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    [prefix, format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat().into()
}

/// The prefix of a name's queue.
pub(super) fn prefix(name: &Bytes) -> Bytes {
    [name, &b"/"[..]].concat().into()
}

/// Where a prefix that ends with a slash ends.
pub(super) fn after(prefix: &Bytes) -> Bytes {
    let mut end = prefix.to_vec();
    *end.last_mut().expect("a prefix ends with a slash") += 1;
    end.into()
}

/// The question for the first in the queue.
pub(super) fn oldest(prefix: &Bytes) -> pb::RangeRequest {
    use pb::range_request::{SortOrder, SortTarget};
    pb::RangeRequest {
        key: prefix.clone(),
        range_end: after(prefix),
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    }
}

/// The condition that a key was created at a revision; 0: that there is none.
pub(super) fn created_at(key: &Bytes, rev: i64) -> pb::Compare {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(rev)),
        ..Default::default()
    }
}

pub(super) fn put_op(put: pb::PutRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
}

pub(super) fn range_op(range: pb::RangeRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(range)) }
}

pub(super) fn delete_op(key: Bytes) -> pb::RequestOp {
    let delete = pb::DeleteRangeRequest { key, ..Default::default() };
    pb::RequestOp { request: Some(pb::request_op::Request::RequestDeleteRange(delete)) }
}

/// A place that was left before its turn came.
#[derive(Debug)]
pub(crate) struct Left {
    key: Bytes,
    rev: i64,
}

/// Leaves the queue when it is dropped: the caller hung up or failed while waiting, and those
/// behind it must not wait for its lease to end.
pub(super) struct Waiting {
    left: Option<Left>,
    queue: mpsc::Sender<Left>,
}

impl Waiting {
    pub(super) fn new(member: &Member, place: &Place) -> Self {
        let left = Left { key: place.key.clone(), rev: place.rev };
        Self { left: Some(left), queue: member.left_queues.clone() }
    }

    /// The turn has come: the place is kept.
    pub(super) fn keep(mut self) {
        self.left = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(left) = self.left.take() else { return };
        if self.queue.try_send(left).is_err() {
            tracing::warn!(
                "too many callers leave queues at once; a place stays until its lease ends"
            );
        }
    }
}

/// Removes the places of those who left, until told to stop.
pub(crate) async fn remove_left(
    mut left: mpsc::Receiver<Left>,
    raft: raft::Handle,
    stop: CancellationToken,
) {
    loop {
        let Left { key, rev } = tokio::select! {
            left = left.recv() => match left {
                Some(left) => left,
                None => return,
            },
            () = stop.cancelled() => return,
        };
        let range = KeyRange::Key(key);
        let still_its_own = Compare {
            range: range.clone(),
            result: CompareResult::Equal,
            target: CompareTarget::Create(Revision(rev)),
        };
        let delete = Op::Delete(DeleteRange { range, prev_kv: false });
        let txn = Txn { compares: vec![still_its_own], success: vec![delete], failure: Vec::new() };
        if let Err(error) = raft.propose(Command::Txn(txn).by(Sender::Store)).await {
            tracing::debug!(%error, "a left place in a queue stays until its lease ends");
        }
    }
}
