//! What can go wrong between a component and the store.
//!
//! The variants are what a caller decides by, not what the wire says: a *refusal* is final and had
//! no effect, *unavailable* had no effect and may be tried again, and *unknown* may have had one,
//! so that only a caller who can read the outcome back may go on.

use tonic::Code;

/// Failure of one call to the store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// History at the asked revision is gone. `oldest` is the first revision still readable, if
    /// the store told it.
    #[error("the asked revision has been compacted")]
    Compacted {
        /// First revision still readable.
        oldest: Option<i64>,
    },
    /// The asked revision does not exist yet.
    #[error("the asked revision is in the future")]
    FutureRevision,
    /// The lease does not exist, or has ended.
    #[error("the lease does not exist")]
    LeaseNotFound,
    /// The store is full and takes no more data.
    #[error("the store is out of space")]
    NoSpace,
    /// The credentials do not allow the call.
    #[error("the store denied access: {0}")]
    Denied(String),
    /// Another final refusal, in the store's words.
    #[error("the store refused: {0}")]
    Refused(String),
    /// Not done: the store could not be asked. May be tried again.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// A write whose answer was lost: it may or may not have been done.
    #[error("the outcome of a write is unknown: {0}")]
    Unknown(String),
    /// Endpoints or certificates that cannot be used.
    #[error("bad store configuration: {0}")]
    Config(String),
}

/// Whether a lost answer leaves doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Read,
    Write,
}

impl StoreError {
    /// True when nothing was done and the same call may succeed later.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Reads a gRPC status. etcd keeps several meanings under one code, so its texts decide, as
    /// they do in every etcd client.
    pub(super) fn from_status(status: &tonic::Status, effect: Effect) -> Self {
        let text = status.message();
        if text.contains("required revision has been compacted") {
            return Self::Compacted { oldest: None };
        }
        if text.contains("required revision is a future revision") {
            return Self::FutureRevision;
        }
        if text.contains("requested lease not found") {
            return Self::LeaseNotFound;
        }
        if text.contains("database space exceeded") {
            return Self::NoSpace;
        }
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => Self::Denied(text.to_owned()),
            Code::Unavailable | Code::ResourceExhausted if never_ran(status) => {
                Self::Unavailable(text.to_owned())
            }
            Code::Unavailable
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Unknown
            | Code::Internal
            | Code::Aborted => match effect {
                Effect::Read => Self::Unavailable(text.to_owned()),
                Effect::Write => Self::Unknown(text.to_owned()),
            },
            _ => Self::Refused(text.to_owned()),
        }
    }
}

/// Whether a failed call certainly never reached the log: refused before it was proposed, or never
/// sent because no connection could be made.
fn never_ran(status: &tonic::Status) -> bool {
    const BEFORE_PROPOSAL: [&str; 3] =
        ["etcdserver: no leader", "etcdserver: too many requests", "etcdserver: server stopped"];
    if BEFORE_PROPOSAL.iter().any(|text| status.message().contains(text)) {
        return true;
    }
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_decide_before_codes() {
        let compacted =
            tonic::Status::out_of_range("etcdserver: mvcc: required revision has been compacted");
        assert!(matches!(
            StoreError::from_status(&compacted, Effect::Read),
            StoreError::Compacted { oldest: None }
        ));
        let full = tonic::Status::resource_exhausted("etcdserver: mvcc: database space exceeded");
        assert!(matches!(StoreError::from_status(&full, Effect::Write), StoreError::NoSpace));
    }

    #[test]
    fn only_a_write_can_be_in_doubt() {
        let lost = tonic::Status::unavailable("etcdserver: request timed out");
        assert!(matches!(StoreError::from_status(&lost, Effect::Write), StoreError::Unknown(_)));
        assert!(StoreError::from_status(&lost, Effect::Read).is_unavailable());
        let refused = tonic::Status::unavailable("etcdserver: no leader");
        assert!(StoreError::from_status(&refused, Effect::Write).is_unavailable());
    }
}
