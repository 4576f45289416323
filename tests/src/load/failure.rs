//! Why a measurement has no figures.

use std::fmt;

/// What went wrong.
#[derive(Debug)]
pub enum Failure {
    /// The endpoint cannot be used as written.
    Endpoint(String),
    /// A socket said no.
    Io(std::io::Error),
    /// The server ended the connection.
    Closed,
    /// The server answers this call with an error; what it is, a complete client has asked again.
    Refused(String),
    /// The server does not know the call.
    NotBuilt(String),
    /// It takes longer than the measurement may.
    Late(String),
    /// Answers came, and were wrong.
    Wrong(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(what) => write!(f, "the endpoint cannot be used: {what}"),
            Self::Io(error) => write!(f, "the connection failed: {error}"),
            Self::Closed => f.write_str("the server closed the connection"),
            Self::Refused(status) => write!(f, "refused: {status}"),
            Self::NotBuilt(what) => write!(f, "not built: {what}"),
            Self::Late(what) => write!(f, "gave up: {what}"),
            Self::Wrong(what) => write!(f, "wrong answer: {what}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        match status.code() {
            tonic::Code::Unimplemented => Self::NotBuilt(status.message().to_owned()),
            code => Self::Refused(format!("{code:?}: {}", status.message())),
        }
    }
}
