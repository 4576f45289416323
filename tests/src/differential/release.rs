//! Which etcd is compared with.
//!
//! Our store answers as etcd 3.7 does. Where there is no Go to build that, Debian's 3.4 is a peer
//! that can still tell a lost event from a kept one. What it does not know is not asked of either
//! server, and what it says otherwise is taken out of both answers; everything else must be equal.

use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use tonic::Code;

use super::answer::Answer;
use super::auth::AuthStep;
use super::step::Step;
use crate::server::Program;
use pb::request_op::Request as Op;

/// A release of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The one whose answers are ours.
    V3_7,
    /// The one that Debian has.
    V3_4,
}

/// A server to compare with.
#[derive(Clone, Debug)]
pub struct Peer {
    /// How it is started.
    pub program: Program,
    /// What it knows.
    pub release: Release,
}

/// Within so long a watcher of etcd's has read what it missed: it looks ten times a second.
const CATCH_UP: Duration = Duration::from_millis(300);

impl Release {
    /// How long watchers of the past take, where asking for progress does not tell: 3.4 tells it
    /// ahead of events that it still owes.
    pub(super) fn catches_up_in(self) -> Option<Duration> {
        (self == Self::V3_4).then_some(CATCH_UP)
    }

    /// Cuts a step to what this release knows; `compacted` is where history begins.
    pub(super) fn limit(self, step: &mut Step, compacted: i64) {
        if self == Self::V3_7 {
            return;
        }
        match step {
            Step::RangeStream(request) => {
                range(request);
                *step = Step::Range(request.clone());
            }
            Step::Range(request) => range(request),
            Step::Txn(request) => {
                flatten_wide(request);
                txn(request);
            }
            // It takes a negative start for the present, loses a deletion at the very revision that was
            // compacted to, and tells progress ahead of events.
            Step::Watch(_, request) => {
                request.start_revision = request.start_revision.max(0);
                if request.start_revision == compacted {
                    request.start_revision += 1;
                }
            }
            Step::Progress(_) => *step = Step::Settle,
            Step::Auth(asked) => auth(asked),
            // An alarm of no kind ends it; one of space lets puts of nested transactions through.
            Step::Alarm(request) => request.action = 0,
            _ => {}
        }
    }

    /// Takes out of an answer what this release says otherwise, or cannot say.
    pub(super) fn settle(self, step: &Step, answer: &mut Answer) {
        if self == Self::V3_7 {
            return;
        }
        match (step, answer) {
            // Of several reasons for a "no" it tells another one first.
            (Step::Txn(_) | Step::Put(_) | Step::Auth(_), Answer::Refused(code, text)) => {
                (*code, *text) = (Code::Unknown, String::new());
            }
            // It hashes other bytes.
            (_, Answer::HashKv(answer)) => (answer.hash, answer.hash_revision) = (0, 0),
            (_, Answer::Status(answer)) => {
                answer.db_size_quota = 0;
                answer.downgrade_info = None;
                answer.errors.iter_mut().for_each(|error| *error = error.trim_end().to_owned());
            }
            (_, Answer::Alarm(answer)) => answer.header = None,
            _ => {}
        }
    }
}

/// What it does not know for an enum it takes for something.
fn known(number: &mut i32, kinds: i32) {
    if !(0..kinds).contains(number) {
        *number = 0;
    }
}

fn range(request: &mut pb::RangeRequest) {
    known(&mut request.sort_order, 3);
    known(&mut request.sort_target, 5);
}

fn txn(request: &mut pb::TxnRequest) {
    for compare in &mut request.compare {
        known(&mut compare.result, 4);
        known(&mut compare.target, 5);
    }
    for op in request.success.iter_mut().chain(&mut request.failure) {
        match &mut op.request {
            Some(Op::RequestRange(request)) => range(request),
            Some(Op::RequestTxn(request)) => txn(request),
            _ => {}
        }
    }
}

/// Users and roles are kept alike, but what they let through is not: in 3.4 there are holes that were
/// found later. So logging in is never required.
fn auth(asked: &mut AuthStep) {
    match asked {
        AuthStep::Enable | AuthStep::Status | AuthStep::Permit(_, None) => {
            *asked = AuthStep::UserList;
        }
        // It takes a permission for no key, and lists them in another order.
        AuthStep::Permit(_, Some(permission)) if permission.key.is_empty() => {
            permission.key = Bytes::from_static(b"a");
        }
        AuthStep::RoleGet(_) => *asked = AuthStep::RoleList,
        _ => {}
    }
}

/// It counts the operations of each level by themselves: a transaction with one too many in two
/// levels becomes one of one level.
fn flatten_wide(txn: &mut pb::TxnRequest) {
    let [pb::RequestOp { request: Some(Op::RequestTxn(inner)) }] = &mut txn.success[..] else {
        return;
    };
    if inner.failure.len() > 100 {
        *txn = std::mem::take(inner);
    }
}
