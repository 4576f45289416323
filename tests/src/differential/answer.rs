//! What a server says to a step, made comparable.
//!
//! Three kinds of things differ between two correct servers and are taken out here: numbers that
//! the server picks or that grow with time (lease ids, terms, sizes, seconds left), the order of
//! rows that compare equal, which etcd leaves to an unstable sort, and the differences listed in
//! `store/docs/differences.md`. Everything else is compared to the byte.

use proto::etcdserverpb as pb;
use proto::mvccpb::{Event, KeyValue};
use tonic::Status;

use super::step::Known;
use pb::request_op::Request as Op;
use pb::response_op::Response as OpAnswer;

/// Go sorts this many rows by insertion, which keeps the order of equals.
const STABLE_ROWS: usize = 12;
/// A lease with fewer seconds left than this much below its full time has lost more than a session
/// can take.
const SESSION_SECONDS: i64 = 240;

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To a range, and to a streamed one, merged.
    Range(pb::RangeResponse),
    /// To a put.
    Put(pb::PutResponse),
    /// To a delete.
    Delete(pb::DeleteRangeResponse),
    /// To a transaction.
    Txn(pb::TxnResponse),
    /// To a compaction.
    Compact(pb::CompactionResponse),
    /// To a grant.
    Grant(pb::LeaseGrantResponse),
    /// To a revocation.
    Revoke(pb::LeaseRevokeResponse),
    /// To a keepalive; nothing where the stream ended without an answer.
    KeepAlive(Option<pb::LeaseKeepAliveResponse>),
    /// To a question about a lease.
    TimeToLive(pb::LeaseTimeToLiveResponse),
    /// To a question about all leases.
    Leases(pb::LeaseLeasesResponse),
    /// To a member list.
    Members(pb::MemberListResponse),
    /// To a status.
    Status(pb::StatusResponse),
    /// To a hash.
    HashKv(pb::HashKvResponse),
    /// To an alarm request.
    Alarm(pb::AlarmResponse),
    /// To a defragmentation.
    Defragment(pb::DefragmentResponse),
    /// To a watch request: `created`, or `canceled`.
    Watch(Option<pb::WatchResponse>),
    /// The revision of a progress message, if one came.
    Progress(Option<i64>),
    /// What each watcher has heard since the last time.
    Heard(Vec<Heard>),
    /// Nothing is said to this.
    Nothing,
    /// The server's "no": code and text.
    Refused(tonic::Code, String),
    /// To a request of the Auth service: the header, and the rest as text.
    Auth(Option<pb::ResponseHeader>, String),
    /// A rule is broken that a server must keep without being compared to another.
    Broken(String),
}

/// What one watcher has heard.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// Its stream, and its place among all watchers of that stream.
    pub watcher: (usize, usize),
    /// The events, however they were batched.
    pub events: Vec<Event>,
    /// The message that ended it.
    pub ended: Option<pb::WatchResponse>,
}

impl From<Status> for Answer {
    fn from(status: Status) -> Self {
        Self::Refused(status.code(), status.message().to_string())
    }
}

impl Answer {
    /// The header, where this kind of answer has one.
    pub(super) fn header(&self) -> Option<&pb::ResponseHeader> {
        match self {
            Self::Range(answer) => answer.header.as_ref(),
            Self::Put(answer) => answer.header.as_ref(),
            Self::Delete(answer) => answer.header.as_ref(),
            Self::Txn(answer) => answer.header.as_ref(),
            Self::Compact(answer) => answer.header.as_ref(),
            Self::Grant(answer) => answer.header.as_ref(),
            Self::Revoke(answer) => answer.header.as_ref(),
            Self::KeepAlive(answer) => answer.as_ref()?.header.as_ref(),
            Self::TimeToLive(answer) => answer.header.as_ref(),
            Self::Leases(answer) => answer.header.as_ref(),
            Self::Members(answer) => answer.header.as_ref(),
            Self::Status(answer) => answer.header.as_ref(),
            Self::HashKv(answer) => answer.header.as_ref(),
            Self::Alarm(answer) => answer.header.as_ref(),
            Self::Defragment(answer) => answer.header.as_ref(),
            Self::Watch(answer) => answer.as_ref()?.header.as_ref(),
            Self::Auth(header, _) => header.as_ref(),
            Self::Progress(_)
            | Self::Heard(_)
            | Self::Nothing
            | Self::Refused(..)
            | Self::Broken(_) => None,
        }
    }

    fn header_mut(&mut self) -> Option<&mut pb::ResponseHeader> {
        match self {
            Self::Range(answer) => answer.header.as_mut(),
            Self::Put(answer) => answer.header.as_mut(),
            Self::Delete(answer) => answer.header.as_mut(),
            Self::Txn(answer) => answer.header.as_mut(),
            Self::Compact(answer) => answer.header.as_mut(),
            Self::Grant(answer) => answer.header.as_mut(),
            Self::Revoke(answer) => answer.header.as_mut(),
            Self::KeepAlive(answer) => answer.as_mut()?.header.as_mut(),
            Self::TimeToLive(answer) => answer.header.as_mut(),
            Self::Leases(answer) => answer.header.as_mut(),
            Self::Members(answer) => answer.header.as_mut(),
            Self::Status(answer) => answer.header.as_mut(),
            Self::HashKv(answer) => answer.header.as_mut(),
            Self::Alarm(answer) => answer.header.as_mut(),
            Self::Defragment(answer) => answer.header.as_mut(),
            Self::Watch(answer) => answer.as_mut()?.header.as_mut(),
            Self::Auth(header, _) => header.as_mut(),
            Self::Progress(_)
            | Self::Heard(_)
            | Self::Nothing
            | Self::Refused(..)
            | Self::Broken(_) => None,
        }
    }

    /// Takes out what differs between two correct servers.
    pub(super) fn normalise(&mut self, known: &Known) {
        if let Some(header) = self.header_mut() {
            header.raft_term = 0;
        }
        match self {
            Self::Range(answer) => key_values(&mut answer.kvs, known),
            Self::Put(answer) => answer.prev_kv.iter_mut().for_each(|kv| key_value(kv, known)),
            Self::Delete(answer) => key_values(&mut answer.prev_kvs, known),
            Self::Txn(answer) => txn(answer, known),
            Self::Grant(answer) => answer.id = known.lease_symbol(answer.id),
            Self::KeepAlive(Some(answer)) => answer.id = known.lease_symbol(answer.id),
            Self::TimeToLive(answer) => {
                answer.id = known.lease_symbol(answer.id);
                // etcd tells them in the order of a hash map.
                answer.keys.sort();
                let sane = answer.granted_ttl - SESSION_SECONDS..=answer.granted_ttl;
                if answer.ttl > 0 && sane.contains(&answer.ttl) {
                    answer.ttl = 1;
                }
            }
            Self::Leases(answer) => {
                let leases = &mut answer.leases;
                leases.iter_mut().for_each(|lease| lease.id = known.lease_symbol(lease.id));
                // In order of deadlines, which are equal or almost so for many of them.
                leases.sort_by_key(|lease| lease.id);
            }
            Self::Members(answer) => {
                // Each server has a client port of its own.
                for member in &mut answer.members {
                    member.client_ur_ls.iter_mut().for_each(|url| *url = without_port(url));
                }
            }
            Self::Status(answer) => status(answer),
            Self::Heard(heard) => {
                for ended in heard.iter_mut().filter_map(|heard| heard.ended.as_mut()) {
                    ended.header.iter_mut().for_each(|header| header.raft_term = 0);
                }
                for event in heard.iter_mut().flat_map(|heard| &mut heard.events) {
                    event.kv.iter_mut().for_each(|kv| key_value(kv, known));
                    event.prev_kv.iter_mut().for_each(|kv| key_value(kv, known));
                }
            }
            Self::Compact(_)
            | Self::Revoke(_)
            | Self::KeepAlive(None)
            | Self::HashKv(_)
            | Self::Alarm(_)
            | Self::Defragment(_)
            | Self::Watch(_)
            | Self::Progress(_)
            | Self::Nothing
            | Self::Auth(..)
            | Self::Refused(..)
            | Self::Broken(_) => {}
        }
    }
}

fn without_port(url: &str) -> String {
    url.trim_end_matches(|c: char| c.is_ascii_digit()).to_string()
}

fn status(answer: &mut pb::StatusResponse) {
    // Go's text form of a message has one space or two between fields: each build of etcd decides,
    // so that nobody relies on it.
    answer.errors.iter_mut().for_each(|error| *error = error.replace("  ", " "));
    answer.version = String::new();
    answer.storage_version = String::new();
    (answer.db_size, answer.db_size_in_use) = (0, 0);
    (answer.raft_index, answer.raft_term, answer.raft_applied_index) = (0, 0, 0);
}

fn key_value(kv: &mut KeyValue, known: &Known) {
    kv.lease = known.lease_symbol(kv.lease);
}

fn key_values(kvs: &mut [KeyValue], known: &Known) {
    kvs.iter_mut().for_each(|kv| key_value(kv, known));
}

fn txn(answer: &mut pb::TxnResponse, known: &Known) {
    for op in &mut answer.responses {
        match &mut op.response {
            Some(OpAnswer::ResponseRange(answer)) => key_values(&mut answer.kvs, known),
            Some(OpAnswer::ResponsePut(answer)) => {
                answer.prev_kv.iter_mut().for_each(|kv| key_value(kv, known));
            }
            Some(OpAnswer::ResponseDeleteRange(answer)) => key_values(&mut answer.prev_kvs, known),
            Some(OpAnswer::ResponseTxn(answer)) => txn(answer, known),
            None => {}
        }
    }
}

/// Takes out of a range's answer what the question leaves open.
pub(super) fn settle_range(request: &pb::RangeRequest, answer: &mut pb::RangeResponse) {
    if request.keys_only {
        // etcd 3.7.3 answers `keys_only` from its index, which knows no leases: differences.md.
        answer.kvs.iter_mut().for_each(|kv| kv.lease = 0);
    }
    let by_key = request.sort_target == i32::from(pb::range_request::SortTarget::Key);
    if by_key || usize::try_from(answer.count).is_ok_and(|count| count <= STABLE_ROWS) {
        return;
    }
    let cut = request.limit > 0 && answer.more;
    let of_target =
        |kv: &KeyValue| match pb::range_request::SortTarget::try_from(request.sort_target) {
            Ok(pb::range_request::SortTarget::Version) => {
                KeyValue { version: kv.version, ..empty() }
            }
            Ok(pb::range_request::SortTarget::Create) => {
                KeyValue { create_revision: kv.create_revision, ..empty() }
            }
            Ok(pb::range_request::SortTarget::Value) => {
                KeyValue { value: kv.value.clone(), ..empty() }
            }
            // Two keys have the same revision where one transaction wrote both.
            _ => KeyValue { mod_revision: kv.mod_revision, ..empty() },
        };
    if cut {
        // Which of the equals are inside the limit is open too.
        answer.kvs.iter_mut().for_each(|kv| *kv = of_target(kv));
        return;
    }
    let kvs = std::mem::take(&mut answer.kvs);
    let mut rest = kvs.as_slice();
    while let Some(first) = rest.first() {
        let target = of_target(first);
        let equals = rest.iter().take_while(|kv| of_target(kv) == target).count();
        let mut group = rest[..equals].to_vec();
        group.sort_by(|a, b| a.key.cmp(&b.key));
        answer.kvs.extend(group);
        rest = &rest[equals..];
    }
}

/// Takes out of a hash's answer what the question leaves open.
pub(super) fn settle_hash(request: &pb::HashKvRequest, answer: &mut Answer, known: &Known) {
    if known.compactions.contains(&request.revision) {
        // etcd remembers some hashes of the revisions it has compacted to, and tells those instead
        // as soon as it has them: differences.md.
        *answer = Answer::Nothing;
    }
    if let Answer::HashKv(answer) = answer
        && !known.picked.is_empty()
    {
        // Ids of leases are hashed too.
        answer.hash = 0;
    }
}

fn empty() -> KeyValue {
    KeyValue::default()
}

/// The same for the ranges of a transaction, along the branches that were taken.
pub(super) fn settle_txn(request: &pb::TxnRequest, answer: &mut pb::TxnResponse) {
    let branch = if answer.succeeded { &request.success } else { &request.failure };
    for (op, answer) in branch.iter().zip(&mut answer.responses) {
        match (&op.request, &mut answer.response) {
            (Some(Op::RequestRange(request)), Some(OpAnswer::ResponseRange(answer))) => {
                settle_range(request, answer);
            }
            (Some(Op::RequestTxn(request)), Some(OpAnswer::ResponseTxn(answer))) => {
                settle_txn(request, answer);
            }
            _ => {}
        }
    }
}
