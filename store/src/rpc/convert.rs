//! Protobuf ⇄ the words of the store, and everything about a request that can be judged without
//! looking at data. Prost types never pass this file and its neighbours in `rpc/`.
//!
//! Checks come in etcd's order, so that a request with two faults gets the same answer. A
//! transaction is judged as a tree: each level may hold what its parent left of the operation
//! budget, and no key may be changed twice on any path through it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::{authpb, mvccpb};

use crate::command::{
    Access, Compare, CompareResult, CompareTarget, DeleteAnswer, DeleteRange, Event, EventKind,
    KeyRange, KeyValue, LeaseId, Op, OpAnswer, Permission, Put, PutAnswer, RangeAnswer, RangeQuery,
    Revision, SortOrder, SortTarget, Txn, TxnAnswer,
};
use crate::limits::TXN_DEPTH_MAX;

/// Why a request is refused before it reaches the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Invalid {
    EmptyKey,
    /// A step of a transaction that says nothing.
    EmptyOp,
    SortOption,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    TooLarge,
}

pub(crate) fn range(request: pb::RangeRequest) -> Result<RangeQuery, Invalid> {
    if request.key.is_empty() {
        return Err(Invalid::EmptyKey);
    }
    let order = match pb::range_request::SortOrder::try_from(request.sort_order) {
        Ok(pb::range_request::SortOrder::None) => SortOrder::None,
        Ok(pb::range_request::SortOrder::Ascend) => SortOrder::Ascend,
        Ok(pb::range_request::SortOrder::Descend) => SortOrder::Descend,
        Err(_) => return Err(Invalid::SortOption),
    };
    let target = match pb::range_request::SortTarget::try_from(request.sort_target) {
        Ok(pb::range_request::SortTarget::Key) => SortTarget::Key,
        Ok(pb::range_request::SortTarget::Version) => SortTarget::Version,
        Ok(pb::range_request::SortTarget::Create) => SortTarget::Create,
        Ok(pb::range_request::SortTarget::Mod) => SortTarget::Modified,
        Ok(pb::range_request::SortTarget::Value) => SortTarget::Value,
        Err(_) => return Err(Invalid::SortOption),
    };
    Ok(RangeQuery {
        range: KeyRange::new(request.key, request.range_end),
        revision: Revision(request.revision),
        limit: request.limit,
        order,
        target,
        keys_only: request.keys_only,
        count_only: request.count_only,
        serializable: request.serializable,
        min_modified: Revision(request.min_mod_revision),
        max_modified: Revision(request.max_mod_revision),
        min_create: Revision(request.min_create_revision),
        max_create: Revision(request.max_create_revision),
    })
}

pub(crate) fn put(request: pb::PutRequest) -> Result<Put, Invalid> {
    if request.key.is_empty() {
        return Err(Invalid::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Invalid::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Invalid::LeaseProvided);
    }
    Ok(Put {
        key: request.key,
        value: request.value,
        lease: LeaseId(request.lease),
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

pub(crate) fn delete(request: pb::DeleteRangeRequest) -> Result<DeleteRange, Invalid> {
    if request.key.is_empty() {
        return Err(Invalid::EmptyKey);
    }
    let range = KeyRange::new(request.key, request.range_end);
    Ok(DeleteRange { range, prev_kv: request.prev_kv })
}

/// Judges and translates a transaction; `max_ops` bounds each branch.
pub(crate) fn txn(request: pb::TxnRequest, max_ops: usize) -> Result<Txn, Invalid> {
    let txn = txn_within(request, max_ops, TXN_DEPTH_MAX)?;
    changes(&txn.success)?;
    changes(&txn.failure)?;
    Ok(txn)
}

fn txn_within(request: pb::TxnRequest, budget: usize, depth: usize) -> Result<Txn, Invalid> {
    let widest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = budget.checked_sub(widest).ok_or(Invalid::TooManyOps)?;
    let depth = depth.checked_sub(1).ok_or(Invalid::TooManyOps)?;
    let branch = |steps: Vec<pb::RequestOp>| {
        steps.into_iter().map(|step| op(step, left, depth)).collect::<Result<Vec<_>, _>>()
    };
    Ok(Txn {
        compares: request.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        success: branch(request.success)?,
        failure: branch(request.failure)?,
    })
}

fn op(step: pb::RequestOp, budget: usize, depth: usize) -> Result<Op, Invalid> {
    use pb::request_op::Request;
    match step.request {
        Some(Request::RequestRange(request)) => range(request).map(Op::Range),
        Some(Request::RequestPut(request)) => put(request).map(Op::Put),
        Some(Request::RequestDeleteRange(request)) => delete(request).map(Op::Delete),
        Some(Request::RequestTxn(request)) => txn_within(request, budget, depth).map(Op::Txn),
        None => Err(Invalid::EmptyOp),
    }
}

/// An unset side of a comparison is zero, or nothing. As in etcd a number outside the enums is no
/// error: an unknown target counts as equal, an unknown result as met.
fn compare(compare: pb::Compare) -> Result<Compare, Invalid> {
    use pb::compare::{CompareResult as Wanted, CompareTarget as Target, TargetUnion as Given};
    if compare.key.is_empty() {
        return Err(Invalid::EmptyKey);
    }
    let range = KeyRange::new(compare.key, compare.range_end);
    // The side that is set counts only if it is the one that the target asks for.
    let version = match compare.target_union {
        Some(Given::Version(number)) => number,
        _ => 0,
    };
    let create = match compare.target_union {
        Some(Given::CreateRevision(number)) => number,
        _ => 0,
    };
    let modified = match compare.target_union {
        Some(Given::ModRevision(number)) => number,
        _ => 0,
    };
    let lease = match compare.target_union {
        Some(Given::Lease(number)) => number,
        _ => 0,
    };
    let result = match Wanted::try_from(compare.result) {
        Ok(Wanted::Equal) => CompareResult::Equal,
        Ok(Wanted::Greater) => CompareResult::Greater,
        Ok(Wanted::Less) => CompareResult::Less,
        Ok(Wanted::NotEqual) => CompareResult::NotEqual,
        // Met by everything, but for a value that is not there: that meets nothing.
        Err(_) if Target::try_from(compare.target) == Ok(Target::Value) => {
            let target = CompareTarget::Version(0);
            return Ok(Compare { range, target, result: CompareResult::Greater });
        }
        Err(_) => return Ok(settled(range, true)),
    };
    let target = match Target::try_from(compare.target) {
        Ok(Target::Version) => CompareTarget::Version(version),
        Ok(Target::Create) => CompareTarget::Create(Revision(create)),
        Ok(Target::Mod) => CompareTarget::Modified(Revision(modified)),
        Ok(Target::Lease) => CompareTarget::Lease(LeaseId(lease)),
        Ok(Target::Value) => CompareTarget::Value(match compare.target_union {
            Some(Given::Value(value)) => value,
            _ => Bytes::new(),
        }),
        Err(_) => return Ok(settled(range, result == CompareResult::Equal)),
    };
    Ok(Compare { range, target, result })
}

/// A comparison whose outcome is known: no version is below zero.
fn settled(range: KeyRange, holds: bool) -> Compare {
    let result = if holds { CompareResult::Greater } else { CompareResult::Less };
    Compare { range, target: CompareTarget::Version(-1), result }
}

/// The keys a list of steps puts, and the ranges it deletes; an error when a key is changed twice.
/// Reproduces etcd's rule: deletes may overlap, and the two branches of a nested transaction may
/// put the same key, for only one of them runs.
fn changes(steps: &[Op]) -> Result<(BTreeSet<&Bytes>, Spans<'_>), Invalid> {
    let mut deleted = Spans::default();
    for step in steps {
        if let Op::Delete(delete) = step {
            deleted.add(&delete.range);
        }
    }
    let mut puts = BTreeSet::new();
    for step in steps {
        let Op::Txn(nested) = step else { continue };
        let (then_puts, then_deleted) = changes(&nested.success)?;
        let (else_puts, else_deleted) = changes(&nested.failure)?;
        let either: BTreeSet<&Bytes> = then_puts.union(&else_puts).copied().collect();
        for key in either {
            if !puts.insert(key) || deleted.hold(key) {
                return Err(Invalid::DuplicateKey);
            }
        }
        deleted.join(then_deleted);
        deleted.join(else_deleted);
    }
    for step in steps {
        let Op::Put(put) = step else { continue };
        if !puts.insert(&put.key) || deleted.hold(&put.key) {
            return Err(Invalid::DuplicateKey);
        }
    }
    Ok((puts, deleted))
}

/// A union of key ranges: start → end, disjoint; no end is open.
#[derive(Default)]
struct Spans<'a> {
    spans: BTreeMap<&'a [u8], SpanEnd<'a>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SpanEnd<'a> {
    /// The key just after this one.
    After(&'a [u8]),
    Before(&'a [u8]),
    Open,
}

impl SpanEnd<'_> {
    fn covers(self, key: &[u8]) -> bool {
        match self {
            Self::After(last) => key <= last,
            Self::Before(end) => key < end,
            Self::Open => true,
        }
    }
}

impl<'a> Spans<'a> {
    fn add(&mut self, range: &'a KeyRange) {
        match range {
            _ if range.is_empty() => {}
            KeyRange::Key(key) => self.add_span(key, SpanEnd::After(key)),
            KeyRange::Span(start, end) => self.add_span(start, SpanEnd::Before(end)),
            KeyRange::From(start) => self.add_span(start, SpanEnd::Open),
        }
    }

    fn add_span(&mut self, start: &'a [u8], end: SpanEnd<'a>) {
        if self.around(start).is_some_and(|around| later(around, end) == around) {
            return;
        }
        let held: Vec<&[u8]> =
            self.spans.range(start..).map(|(s, _)| *s).take_while(|s| end.covers(s)).collect();
        let mut end = end;
        for inner in held {
            let gone = self.spans.remove(inner).expect("listed above");
            end = later(end, gone);
        }
        self.spans.insert(start, end);
    }

    /// The end of the span that holds `key`, if one does.
    fn around(&self, key: &[u8]) -> Option<SpanEnd<'a>> {
        let (_, end) = self.spans.range(..=key).next_back()?;
        end.covers(key).then_some(*end)
    }

    fn hold(&self, key: &[u8]) -> bool {
        self.around(key).is_some()
    }

    fn join(&mut self, other: Self) {
        for (start, end) in other.spans {
            self.add_span(start, end);
        }
    }
}

fn later<'a>(a: SpanEnd<'a>, b: SpanEnd<'a>) -> SpanEnd<'a> {
    let covers_more = match (a, b) {
        (SpanEnd::Open, _) => true,
        (_, SpanEnd::Open) => false,
        (_, SpanEnd::After(last)) => a.covers(last),
        (SpanEnd::After(last), SpanEnd::Before(_)) => !b.covers(last),
        (SpanEnd::Before(x), SpanEnd::Before(y)) => x >= y,
    };
    if covers_more { a } else { b }
}

// ---- answers ----

pub(crate) fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create.0,
        mod_revision: kv.modified.0,
        version: kv.version,
        value: kv.value,
        lease: kv.lease.0,
    }
}

pub(crate) fn event(event: &Event, with_previous: bool) -> mvccpb::Event {
    let kind = match event.kind {
        EventKind::Put => mvccpb::event::EventType::Put,
        EventKind::Delete => mvccpb::event::EventType::Delete,
    };
    mvccpb::Event {
        r#type: kind.into(),
        kv: Some(key_value(event.kv.clone())),
        prev_kv: event.prev.clone().filter(|_| with_previous).map(key_value),
    }
}

pub(crate) fn range_answer(answer: RangeAnswer, header: pb::ResponseHeader) -> pb::RangeResponse {
    pb::RangeResponse {
        header: Some(header),
        kvs: answer.kvs.into_iter().map(key_value).collect(),
        more: answer.more,
        count: answer.count,
    }
}

pub(crate) fn put_answer(answer: PutAnswer, header: pb::ResponseHeader) -> pb::PutResponse {
    pb::PutResponse { header: Some(header), prev_kv: answer.prev.map(key_value) }
}

pub(crate) fn delete_answer(
    answer: DeleteAnswer,
    header: pb::ResponseHeader,
) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header: Some(header),
        deleted: answer.deleted,
        prev_kvs: answer.prevs.into_iter().map(key_value).collect(),
    }
}

pub(crate) fn txn_answer(answer: TxnAnswer, header: pb::ResponseHeader) -> pb::TxnResponse {
    pb::TxnResponse {
        header: Some(header),
        succeeded: answer.succeeded,
        responses: answer.answers.into_iter().map(op_answer).collect(),
    }
}

/// Inside a transaction an answer's header holds a revision and nothing else; that of a nested
/// transaction not even that.
fn op_answer(answer: OpAnswer) -> pb::ResponseOp {
    use pb::response_op::Response;
    let at = |revision: Revision| pb::ResponseHeader { revision: revision.0, ..Default::default() };
    let response = match answer {
        OpAnswer::Range(answer) => {
            let header = at(answer.revision);
            Response::ResponseRange(range_answer(answer, header))
        }
        OpAnswer::Put(answer) => {
            let header = at(answer.revision);
            Response::ResponsePut(put_answer(answer, header))
        }
        OpAnswer::Delete(answer) => {
            let header = at(answer.revision);
            Response::ResponseDeleteRange(delete_answer(answer, header))
        }
        OpAnswer::Txn(answer) => Response::ResponseTxn(txn_answer(answer, Default::default())),
    };
    pb::ResponseOp { response: Some(response) }
}

// ---- permissions ----

/// Nothing for a kind of access that is none.
pub(crate) fn granted(permission: authpb::Permission) -> Option<Permission> {
    use authpb::permission::Type;
    let access = match Type::try_from(permission.perm_type) {
        Ok(Type::Read) => Access::Read,
        Ok(Type::Write) => Access::Write,
        Ok(Type::Readwrite) => Access::ReadWrite,
        Err(_) => return None,
    };
    // Copies: what is kept must not hold on to the request's frame.
    let [key, end] = [permission.key, permission.range_end].map(|key| Bytes::copy_from_slice(&key));
    Some(Permission { access, range: KeyRange::new(key, end) })
}

pub(crate) fn permission(permission: &Permission) -> authpb::Permission {
    use authpb::permission::Type;
    let perm_type = match permission.access {
        Access::Read => Type::Read,
        Access::Write => Type::Write,
        Access::ReadWrite => Type::Readwrite,
    };
    let (key, range_end) = match permission.range.clone() {
        KeyRange::Key(key) => (key, Bytes::new()),
        KeyRange::Span(key, end) => (key, end),
        KeyRange::From(key) => (key, Bytes::from_static(&[0])),
    };
    authpb::Permission { perm_type: perm_type.into(), key, range_end }
}
