//! From our three kinds of failure to gRPC: the one place that knows status codes and etcd's exact
//! words.
//!
//! Clients map errors by their *text*, so the texts are part of the interface. A [`Refusal`] is the
//! store's deterministic "no", an [`Invalid`] request never reaches it, and [`Unavailable`] means
//! that no answer could be had; of a write this can also mean that its fate is unknown.

use tonic::{Code, Status};

use super::convert::Invalid;
use crate::auth::{Denied, PasswordError};
use crate::command::{AuthRefusal, Refusal};
use crate::raft::Unavailable;
use crate::watch::CreateRefusal;

/// The words for a refusal.
pub(crate) fn refusal(refusal: Refusal) -> Status {
    let (code, text) = match refusal {
        Refusal::Compacted { .. } => {
            (Code::OutOfRange, "mvcc: required revision has been compacted")
        }
        Refusal::FutureRevision { .. } => {
            (Code::OutOfRange, "mvcc: required revision is a future revision")
        }
        Refusal::LeaseNotFound => (Code::NotFound, "requested lease not found"),
        Refusal::LeaseExists => (Code::FailedPrecondition, "lease already exists"),
        Refusal::LeaseTtlTooLarge => (Code::OutOfRange, "too large lease TTL"),
        Refusal::EmptyKey => (Code::InvalidArgument, "key is not provided"),
        Refusal::KeyNotFound => (Code::InvalidArgument, "key not found"),
        Refusal::ValueProvided => (Code::InvalidArgument, "value is provided"),
        Refusal::LeaseProvided => (Code::InvalidArgument, "lease is provided"),
        Refusal::DuplicateKey => (Code::InvalidArgument, "duplicate key given in txn request"),
        Refusal::NoSpace => (Code::ResourceExhausted, "mvcc: database space exceeded"),
        Refusal::Corrupt => (Code::DataLoss, "corrupt cluster"),
        Refusal::Auth(refusal) => return auth_refusal(refusal),
    };
    etcd(code, text)
}

/// The words for a refusal about users, roles and permissions.
fn auth_refusal(refusal: AuthRefusal) -> Status {
    let (code, text) = match refusal {
        AuthRefusal::UserNameEmpty => (Code::InvalidArgument, "user name is empty"),
        AuthRefusal::PermissionDenied => (Code::PermissionDenied, "permission denied"),
        AuthRefusal::OldRevision => (Code::InvalidArgument, "revision of auth store is old"),
        AuthRefusal::RootUserMissing => (Code::FailedPrecondition, "root user does not exist"),
        AuthRefusal::RootRoleMissing => {
            (Code::FailedPrecondition, "root user does not have root role")
        }
        AuthRefusal::InvalidManagement => (Code::InvalidArgument, "invalid auth management"),
        AuthRefusal::UserExists => (Code::FailedPrecondition, "user name already exists"),
        AuthRefusal::UserNotFound => (Code::FailedPrecondition, "user name not found"),
        AuthRefusal::RoleNameEmpty => (Code::InvalidArgument, "role name is empty"),
        AuthRefusal::RoleExists => (Code::FailedPrecondition, "role name already exists"),
        AuthRefusal::RoleNotFound => (Code::FailedPrecondition, "role name not found"),
        AuthRefusal::RoleNotGranted => {
            (Code::FailedPrecondition, "role is not granted to the user")
        }
        AuthRefusal::PermissionNotGranted => {
            (Code::FailedPrecondition, "permission is not granted to the role")
        }
    };
    etcd(code, text)
}

/// The words for not getting in. A user without a password gets a text without a documented code.
pub(crate) fn denied(denied: Denied) -> Status {
    match denied {
        Denied::InvalidToken => etcd(Code::Unauthenticated, "invalid auth token"),
        Denied::Failed => {
            etcd(Code::InvalidArgument, "authentication failed, invalid user ID or password")
        }
        Denied::NoPasswordUser => {
            Status::unknown("auth: authentication failed, password was given for no password user")
        }
        Denied::Busy => unavailable(Unavailable::Overloaded),
        Denied::VerifyOnly => Status::unknown("auth: token signing attempted with verify-only key"),
        Denied::NoTokens => auth_refusal(AuthRefusal::InvalidManagement),
    }
}

/// The words for a password that cannot be hashed: those of Go's bcrypt.
pub(crate) fn password(error: PasswordError) -> Status {
    match error {
        PasswordError::TooLong => Status::unknown("bcrypt: password length exceeds 72 bytes"),
        PasswordError::Busy => unavailable(Unavailable::Overloaded),
    }
}

/// A permission was to be granted and none was given.
pub(crate) fn permission_not_given() -> Status {
    etcd(Code::InvalidArgument, "permission not given")
}

/// A method that has no rule who may call it.
pub(crate) fn undeclared() -> Status {
    auth_refusal(AuthRefusal::PermissionDenied)
}

/// An error as Go prints it, which is what a canceled watch gives as its reason.
pub(crate) fn go_text(status: &Status) -> String {
    let code = match status.code() {
        Code::InvalidArgument => "InvalidArgument",
        Code::PermissionDenied => "PermissionDenied",
        Code::Unauthenticated => "Unauthenticated",
        // Nothing else is said about a watch that may not be.
        _ => "Unknown",
    };
    format!("rpc error: code = {code} desc = {}", status.message())
}

/// What a service that is a client of the others tells of their refusals: the words, and of the codes
/// none. etcd's locks and elections do so, and clients go by the words.
pub(crate) fn handed_on(status: Status) -> Status {
    match status.message().starts_with("etcdserver: ") {
        true => Status::unknown(status.message()),
        false => status,
    }
}

/// The words for a request that makes no sense.
pub(crate) fn invalid(invalid: Invalid) -> Status {
    let text = match invalid {
        Invalid::EmptyKey => "key is not provided",
        Invalid::EmptyOp => "key not found",
        Invalid::SortOption => "invalid sort option",
        Invalid::ValueProvided => "value is provided",
        Invalid::LeaseProvided => "lease is provided",
        Invalid::TooManyOps => "too many operations in txn request",
        Invalid::DuplicateKey => "duplicate key given in txn request",
        Invalid::TooLarge => "request is too large",
    };
    etcd(Code::InvalidArgument, text)
}

/// The words for having no answer.
pub(crate) fn unavailable(unavailable: Unavailable) -> Status {
    match unavailable {
        Unavailable::NoLeader { .. } => etcd(Code::Unavailable, "no leader"),
        Unavailable::Stopped => etcd(Code::Unavailable, "server stopped"),
        Unavailable::Timeout | Unavailable::Unknown => etcd(Code::Unavailable, "request timed out"),
        Unavailable::Overloaded => etcd(Code::ResourceExhausted, "too many requests"),
        Unavailable::TooLarge { .. } => invalid(Invalid::TooLarge),
    }
}

/// The client's word for its version is not text.
pub(crate) fn invalid_client_version() -> Status {
    etcd(Code::InvalidArgument, "invalid client api version")
}

/// What a canceled watch gives as its reason.
pub(crate) fn watch_refusal(reason: CreateRefusal) -> &'static str {
    match reason {
        CreateRefusal::EmptyRange => "mvcc: watcher range is empty",
        CreateRefusal::DuplicateId => "mvcc: duplicate watch ID provided on the WatchStream",
        CreateRefusal::NegativeStart => "etcdserver: mvcc: required revision has been compacted",
        CreateRefusal::TooMany => "etcdserver: too many watchers on one stream",
    }
}

/// The message of a standing alarm in `Status.errors`.
pub(crate) fn no_leader_text() -> &'static str {
    "etcdserver: no leader"
}

/// Someone logs in where nobody has to.
pub(crate) fn auth_not_enabled() -> Status {
    etcd(Code::FailedPrecondition, "authentication is not enabled")
}

/// `RangeStream` cannot sort or filter: no prefix, as in etcd.
pub(crate) fn stream_unsupported(what: &str) -> Status {
    Status::unimplemented(format!("RangeStream does not support {what}"))
}

/// An RPC of etcd's that this store does not have yet.
pub(crate) fn not_built(what: &str) -> Status {
    Status::unimplemented(format!("{what} is not built yet"))
}

/// Why the members stay what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MembersRefusal {
    /// There is no such member.
    NotFound,
    /// Another member has these peer URLs.
    UrlsExist,
    /// There are none, or they are no URLs.
    UrlsInvalid,
    /// Only a learner can become a voter.
    NotLearner,
    /// Too few would be left.
    TooFewStarted,
    /// Nobody who could lead.
    BadTransferee,
}

/// The words for that.
pub(crate) fn members(refusal: MembersRefusal) -> Status {
    let (code, text) = match refusal {
        MembersRefusal::NotFound => (Code::NotFound, "member not found"),
        MembersRefusal::UrlsExist => (Code::FailedPrecondition, "Peer URLs already exists"),
        MembersRefusal::UrlsInvalid => (Code::InvalidArgument, "given member URLs are invalid"),
        MembersRefusal::NotLearner => {
            (Code::FailedPrecondition, "can only promote a learner member")
        }
        MembersRefusal::TooFewStarted => {
            (Code::FailedPrecondition, "re-configuration failed due to not enough started members")
        }
        MembersRefusal::BadTransferee => (Code::FailedPrecondition, "bad leader transferee"),
    };
    etcd(code, text)
}

/// A version that the cluster cannot go down to, or that is none.
pub(crate) fn downgrade_target(well_formed: bool) -> Status {
    let text = if well_formed {
        "invalid downgrade target version"
    } else {
        "wrong downgrade target version format"
    };
    etcd(Code::InvalidArgument, text)
}

/// An action outside the enum.
pub(crate) fn unknown_action() -> Status {
    etcd(Code::Unknown, "unknown method")
}

/// Defragmenting failed; unless the store has stopped, it goes on with what it had.
pub(crate) fn defragment(error: &dyn std::error::Error) -> Status {
    tracing::error!(%error, "defragmenting failed");
    Status::internal(format!("defragmenting failed: {error}"))
}

/// Why a lock or an election does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueRefusal {
    /// The lease ended while its owner waited for the lock.
    Expired,
    /// Nobody leads.
    NoLeader,
    /// The caller has lost the election's key.
    NotLeader,
    /// The request does not say which leader it speaks for.
    LeaderMissing,
}

/// The words for it. etcd gives them no code, and clients go by the text.
pub(crate) fn queue(refusal: QueueRefusal) -> Status {
    Status::unknown(match refusal {
        QueueRefusal::Expired => "mutex: session is expired",
        QueueRefusal::NoLeader => "election: no leader",
        QueueRefusal::NotLeader => "election: not leader",
        QueueRefusal::LeaderMissing => "\"leader\" field must be provided",
    })
}

/// A path that is nobody's, as grpc-go answers it.
pub(crate) fn unknown_method(service: &str, method: &str, known_service: bool) -> Status {
    if known_service {
        Status::unimplemented(format!("unknown method {method} for service {service}"))
    } else {
        Status::unimplemented(format!("unknown service {service}"))
    }
}

/// A service that the health protocol does not know.
pub(crate) fn unknown_health_service() -> Status {
    Status::not_found("unknown service")
}

/// tonic says OutOfRange when a message is larger than it may be; grpc-go says ResourceExhausted,
/// and clients go by that.
pub(crate) fn oversize<B>(response: &http::Response<B>, code: Code) -> Option<Status> {
    let message = response.headers().get("grpc-message")?;
    let oversize = code == Code::OutOfRange && message.as_bytes().starts_with(b"Error,%20decoded");
    oversize.then(message_too_large)
}

/// A message that is larger than it may be.
pub(crate) fn message_too_large() -> Status {
    Status::resource_exhausted("grpc: received message larger than max")
}

/// An answer that is longer than gRPC can say.
pub(crate) fn answer_too_large() -> Status {
    Status::resource_exhausted("grpc: trying to send message larger than max")
}

/// A request that ends before its message does, or without one.
pub(crate) fn incomplete(empty: bool) -> Status {
    Status::internal(if empty { "the request has no message" } else { "the message is cut short" })
}

/// Bytes that are not the message they should be.
pub(crate) fn undecodable(error: &dyn std::error::Error) -> Status {
    Status::internal(error.to_string())
}

/// A message marked as compressed in a request that names no compression, or marked as nothing.
pub(crate) fn bad_compression(mark: u8) -> Status {
    Status::internal(format!("a message is marked {mark}, but the request names no compression"))
}

/// A panic in a handler.
pub(crate) fn handler_panicked() -> Status {
    Status::internal("the request failed inside the server; it is logged there")
}

/// The disk or an invariant failed while answering.
pub(crate) fn fault(error: &dyn std::error::Error) -> Status {
    tracing::error!(%error, "a read failed");
    Status::internal("the store could not be read; see the server's log")
}

fn etcd(code: Code, text: &str) -> Status {
    Status::new(code, format!("etcdserver: {text}"))
}
