//! Why a call to the daemon did not succeed.

use provender_core::Digest;
use provender_proto::convert::Invalid;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// What went wrong between here and the daemon.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no answer: no daemon, or none that can be reached.
    #[error("cannot reach provenderd at {address} ({why})")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// What the system said.
        why: String,
    },
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The execution no longer holds its lease.
    #[error("{0}")]
    Fenced(String),
    /// A commit names blobs that the daemon does not have.
    #[error("{0}")]
    Missing(String),
    /// The daemon refuses the caller.
    #[error("provenderd refuses this client: {0}")]
    Denied(String),
    /// The daemon refuses the question.
    #[error("{0}")]
    Refused(String),
    /// The daemon did not take a blob.
    #[error("cannot store {what}: {source}")]
    Store {
        /// Which.
        what: String,
        /// Why.
        source: Box<ClientError>,
    },
    /// The daemon cannot now: no space, stopping, or damaged.
    #[error("provenderd cannot do this: {message}")]
    Failed {
        /// The status code.
        code: Code,
        /// Its words.
        message: String,
    },
    /// What it answers makes no sense to this version.
    #[error("provenderd answers what this version does not understand: {0}")]
    Answer(#[from] Invalid),
    /// A file changed between being hashed and being sent.
    #[error("{what} changed while it was being stored: expected {expected}, sent {found}")]
    Changed {
        /// Which.
        what: String,
        /// As hashed first.
        expected: Digest,
        /// As it was sent.
        found: Digest,
    },
    /// A blob that the daemon sent is not the one that was asked for.
    #[error("the daemon sent other bytes than those of {}", digest.hex())]
    Corrupt {
        /// Which.
        digest: Digest,
    },
    /// What came from the daemon cannot be written.
    #[error("cannot write: {0}")]
    Write(std::io::Error),
    /// A local file cannot be read.
    #[error("cannot read {what}: {source}")]
    Read {
        /// Which.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

impl ClientError {
    /// What to do about it, where that can be said.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ClientError::Unreachable { .. } => Some("start it, or say where it is with --remote"),
            ClientError::Denied(_) => {
                Some("give a token (token_file in the configuration), or ask who runs the daemon")
            }
            ClientError::Store { source, .. } => source.hint(),
            _ => None,
        }
    }

    /// What a status means. `address` is where it came from.
    pub(crate) fn of(address: &str, status: Status) -> ClientError {
        let message = status.message().to_owned();
        let violations =
            status.get_details_precondition_failure().map(|failure| failure.violations).unwrap_or_default();
        let kind = violations.first().map(|violation| violation.r#type.as_str());
        match (status.code(), kind) {
            (Code::Aborted, _) | (Code::FailedPrecondition, Some("ENDED")) => ClientError::Fenced(message),
            (Code::FailedPrecondition, Some("MISSING")) => ClientError::Missing(message),
            (Code::NotFound, _) => ClientError::NotFound(message),
            (Code::Unauthenticated | Code::PermissionDenied, _) => ClientError::Denied(message),
            (Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition, _) => ClientError::Refused(message),
            (Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal, _)
                if has_transport_source(&status) =>
            {
                ClientError::Unreachable { address: address.to_owned(), why: causes(&status) }
            }
            (code, _) => ClientError::Failed { code, message },
        }
    }

    /// Whether the daemon will say the same again to the same question.
    pub(crate) fn is_refused(&self) -> bool {
        match self {
            ClientError::Refused(_) => true,
            ClientError::Store { source, .. } => source.is_refused(),
            _ => false,
        }
    }

    /// Whether asking again later may help.
    pub fn is_passing(&self) -> bool {
        match self {
            ClientError::Unreachable { .. } | ClientError::Failed { code: Code::Unavailable, .. } => true,
            ClientError::Store { source, .. } => source.is_passing(),
            _ => false,
        }
    }
}

fn has_transport_source(status: &Status) -> bool {
    std::error::Error::source(status).is_some() || status.message().contains("transport error")
}

/// The innermost cause: that one is for people.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}
