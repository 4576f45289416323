//! Transactions: compare, then do one thing or the other, at one revision.
//!
//! Nothing in the orchestrator writes any other way. A put is a transaction without a compare.

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;

use super::{Entry, Range, entry};

/// A transaction under construction.
#[derive(Debug, Clone, Default)]
pub struct Txn {
    request: pb::TxnRequest,
}

/// What a transaction did.
#[derive(Debug, Clone)]
pub struct TxnAnswer {
    /// The compares held and the `then` operations were done.
    pub succeeded: bool,
    /// The store's revision after it: of its own writes, if it wrote.
    pub revision: i64,
    /// The answers of its reads, in their order.
    pub reads: Vec<Vec<Entry>>,
    /// Keys its deletes removed.
    pub deleted: i64,
}

impl Txn {
    /// An empty transaction.
    pub fn new() -> Self {
        Self::default()
    }

    fn compare(mut self, key: Bytes, target: CompareTarget, operand: TargetUnion) -> Self {
        self.request.compare.push(pb::Compare {
            result: CompareResult::Equal.into(),
            target: target.into(),
            key,
            target_union: Some(operand),
            range_end: Bytes::new(),
        });
        self
    }

    /// Holds while the key was last written at `revision`; 0 means that it does not exist.
    #[must_use]
    pub fn when_modified_at(self, key: impl Into<Bytes>, revision: i64) -> Self {
        self.compare(key.into(), CompareTarget::Mod, TargetUnion::ModRevision(revision))
    }

    /// Holds while the key does not exist.
    #[must_use]
    pub fn when_absent(self, key: impl Into<Bytes>) -> Self {
        self.when_modified_at(key, 0)
    }

    /// Holds while the key has been put `version` times in its present life; 0 means never.
    #[must_use]
    pub fn when_version(self, key: impl Into<Bytes>, version: i64) -> Self {
        self.compare(key.into(), CompareTarget::Version, TargetUnion::Version(version))
    }

    /// Holds while the key has exactly this value.
    #[must_use]
    pub fn when_value(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.compare(key.into(), CompareTarget::Value, TargetUnion::Value(value.into()))
    }

    fn then(mut self, request: Request) -> Self {
        self.request.success.push(pb::RequestOp { request: Some(request) });
        self
    }

    /// Then: writes a key.
    #[must_use]
    pub fn put(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.put_with_lease(key, value, 0)
    }

    /// Then: writes a key that goes when the lease ends.
    #[must_use]
    pub fn put_with_lease(
        self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        lease: i64,
    ) -> Self {
        let put = pb::PutRequest {
            key: key.into(),
            value: value.into(),
            lease,
            ..pb::PutRequest::default()
        };
        self.then(Request::RequestPut(put))
    }

    /// Then: removes a key.
    #[must_use]
    pub fn delete(self, key: impl Into<Bytes>) -> Self {
        let delete =
            pb::DeleteRangeRequest { key: key.into(), ..pb::DeleteRangeRequest::default() };
        self.then(Request::RequestDeleteRange(delete))
    }

    /// Then: reads a range.
    #[must_use]
    pub fn read(self, range: &Range) -> Self {
        self.then(Request::RequestRange(range.request()))
    }

    /// Otherwise, when a compare did not hold: reads a range.
    #[must_use]
    pub fn else_read(mut self, range: &Range) -> Self {
        let request = Some(Request::RequestRange(range.request()));
        self.request.failure.push(pb::RequestOp { request });
        self
    }

    /// A transaction that cannot change anything may be repeated freely.
    pub(super) fn is_read_only(&self) -> bool {
        let reads = |op: &pb::RequestOp| matches!(op.request, Some(Request::RequestRange(_)));
        self.request.success.iter().chain(&self.request.failure).all(reads)
    }

    pub(super) fn request(&self) -> pb::TxnRequest {
        self.request.clone()
    }
}

impl TxnAnswer {
    pub(super) fn from_wire(answer: pb::TxnResponse) -> Self {
        let mut read = Self {
            succeeded: answer.succeeded,
            revision: answer.header.map_or(0, |header| header.revision),
            reads: Vec::new(),
            deleted: 0,
        };
        for response in answer.responses.into_iter().filter_map(|op| op.response) {
            match response {
                Response::ResponseRange(range) => {
                    read.reads.push(range.kvs.into_iter().map(entry).collect());
                }
                Response::ResponseDeleteRange(done) => read.deleted += done.deleted,
                Response::ResponsePut(_) | Response::ResponseTxn(_) => {}
            }
        }
        read
    }

    /// The first entry of the nth read.
    pub fn entry(&self, nth: usize) -> Option<&Entry> {
        self.reads.get(nth).and_then(|entries| entries.first())
    }
}
