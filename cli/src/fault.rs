//! What went wrong, and the exit code that says so.

use std::process::ExitCode;

use provender_client::ClientError;
use provender_client::remote::RemoteError;
use provender_core::execution::Exit;

/// No, or invalid input.
pub(crate) const NO: u8 = 1;
/// Wrong usage.
pub(crate) const USAGE: u8 = 2;
/// No daemon, or a fault of provender's.
pub(crate) const OURS: u8 = 125;

/// An error on its way to standard error.
#[derive(Debug)]
pub(crate) struct Fault {
    code: u8,
    message: String,
}

impl Fault {
    /// A negative answer, or input that cannot be used.
    pub(crate) fn no(message: impl ToString) -> Fault {
        Fault { code: NO, message: message.to_string() }
    }

    /// Arguments that make no sense.
    pub(crate) fn usage(message: impl ToString) -> Fault {
        Fault { code: USAGE, message: message.to_string() }
    }

    /// A fault of provender's.
    pub(crate) fn ours(message: impl ToString) -> Fault {
        Fault { code: OURS, message: message.to_string() }
    }

    /// The same with exit code 125: what else it could be is the command's own.
    pub(crate) fn of_run(self) -> Fault {
        Fault { code: OURS, ..self }
    }

    /// A signal ended it.
    pub(crate) fn interrupted(signal: i32) -> Fault {
        let code = Exit::Signal(signal).shell_code();
        Fault { code, message: format!("interrupted by signal {signal}") }
    }

    /// Prints it; the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        crate::print::note(format_args!("provender: {}", self.message));
        self.code.into()
    }
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Fault {
        match error {
            ClientError::Store { ref source, .. } if matches!(**source, ClientError::Refused(_)) => Fault::no(error),
            ClientError::NotFound(_)
            | ClientError::Refused(_)
            | ClientError::Read { .. }
            | ClientError::Changed { .. } => Fault::no(error),
            ClientError::Write(source) => Fault::ours(format!("cannot write to standard output: {source}")),
            _ => match error.hint() {
                Some(hint) => Fault::ours(format!("{error}: {hint}")),
                None => Fault::ours(error),
            },
        }
    }
}

impl From<RemoteError> for Fault {
    fn from(error: RemoteError) -> Fault {
        match error {
            RemoteError::Address { .. } => Fault::usage(error),
            _ => Fault::ours(error),
        }
    }
}

/// An error and its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
