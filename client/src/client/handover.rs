//! Handing over files: to a daemon of this machine and this user, by descriptor instead of by their bytes.
//!
//! Invariant: whatever hinders it is no failure; the bytes can go over gRPC. Only what would fail there as well is an error.

use std::fs::File;
#[cfg(target_os = "linux")]
use std::path::Path;
#[cfg(target_os = "linux")]
use std::time::Duration;

use provender_core::Digest;

use super::Client;
use crate::error::ClientError;

/// How long the daemon may take: as long as the largest file takes to be copied to a slow disk.
#[cfg(target_os = "linux")]
const PATIENCE: Duration = Duration::from_secs(3600);

impl Client {
    /// Gives the daemon a file that is a blob, and whose descriptor reads alone. Whether it took it; blocks.
    pub fn give(&self, digest: &Digest, file: &File) -> Result<bool, ClientError> {
        #[cfg(target_os = "linux")]
        if let Some(path) = &self.handover {
            use std::os::fd::AsFd;
            let give = Request::Give(Give { space: self.space(), digest: Some(digest_to(digest)) });
            return Ok(ask(path, give, Some(file.as_fd()))?.is_some());
        }
        let _ = (digest, file);
        Ok(false)
    }

    /// The daemon's own file of a blob, to be read alone, if it lends one; what is in it is to be checked. Blocks.
    pub fn lent(&self, digest: &Digest) -> Result<Option<File>, ClientError> {
        #[cfg(target_os = "linux")]
        if let Some(path) = &self.handover {
            let lend = Request::Lend(Lend { space: self.space(), digest: Some(digest_to(digest)) });
            return Ok(ask(path, lend, None)?.flatten().map(File::from));
        }
        let _ = digest;
        Ok(None)
    }
}

#[cfg(target_os = "linux")]
use linux::{Give, Lend, Request, ask, digest_to};

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::{BorrowedFd, OwnedFd};

    use provender_proto::handover::{connect_to, receive, send};
    use provender_proto::v1::handover_reply::Reply;
    use provender_proto::v1::{HandoverReply, HandoverRequest};
    use tonic::Code;

    pub(super) use provender_proto::convert::digest_to;
    pub(super) use provender_proto::v1::handover_request::{Give, Lend, Request};

    use super::{ClientError, PATIENCE, Path};

    /// Whether the daemon did it, and the descriptor that it sent.
    pub(super) fn ask(
        path: &Path,
        request: Request,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Option<Option<OwnedFd>>, ClientError> {
        let asked = connect_to(path, PATIENCE).and_then(|socket| {
            send(&socket, &HandoverRequest { request: Some(request) }, file)?;
            receive::<HandoverReply>(&socket)
        });
        let (reply, file) = match asked {
            Ok(Some((HandoverReply { reply: Some(reply) }, file))) => (reply, file),
            Ok(_) => return Ok(None),
            Err(error) => {
                tracing::debug!(%error, "no file was handed over");
                return Ok(None);
            }
        };
        match reply {
            Reply::Given(_) | Reply::Lent(_) => Ok(Some(file)),
            Reply::Refused(refused) => match Code::from(refused.code) {
                // The disk is as full, and the blob as lost, for whoever asks over gRPC.
                code @ (Code::ResourceExhausted | Code::DataLoss) => {
                    Err(ClientError::Failed { code, message: refused.message })
                }
                code => {
                    tracing::debug!(?code, why = refused.message, "no file was handed over");
                    Ok(None)
                }
            },
        }
    }
}
