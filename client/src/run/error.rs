//! Why nothing was run, or nothing recorded.

use provender_core::key::KeyError;

use super::inputs::InputsError;
use crate::error::ClientError;
use crate::files::{CaptureError, RestoreError};
use crate::process::ProcessError;

/// Why nothing was run, or nothing recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The inputs cannot be taken.
    #[error(transparent)]
    Inputs(#[from] InputsError),
    /// The daemon.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Files in the way of outputs, or outputs that cannot be put in place.
    #[error("the outputs cannot be put in place: {0}")]
    Restore(#[from] RestoreError),
    /// The command cannot be supervised.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A signal came while no command was running that could have had it.
    #[error("interrupted by signal {signal}")]
    Interrupted {
        /// Its number.
        signal: i32,
    },
    /// The lease was lost while the command ran, so it was stopped.
    #[error("the command was stopped, since its lease was lost: {0}")]
    Superseded(String),
    /// The lease was lost before the command was started or after it had ended.
    #[error("the lease was lost: {0}")]
    Late(String),
    /// The outputs cannot be read.
    #[error("an output cannot be stored: {0}")]
    Capture(CaptureError),
    /// A file of the log cannot be read back.
    #[error("the command's output cannot be read back: {0}")]
    Log(std::io::Error),
    /// The key is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A thread of ours died.
    #[error("an internal task was ended: {0}")]
    Internal(String),
}

impl RunError {
    /// Whether what was asked for makes no sense, whatever the daemon and the system do.
    pub fn is_usage(&self) -> bool {
        match self {
            RunError::Inputs(error) => error.is_usage(),
            RunError::Restore(error) => matches!(error, RestoreError::InTheWay { .. }),
            _ => false,
        }
    }

    /// Whether the daemon, or what it holds, is to blame; the command could run all the same.
    pub fn is_ours(&self) -> bool {
        match self {
            RunError::Client(error) => !matches!(error, ClientError::Refused(_)),
            RunError::Restore(_) => !self.is_usage(),
            RunError::Internal(_) => true,
            _ => false,
        }
    }
}
