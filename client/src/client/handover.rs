//! Handing over files: to a daemon of this machine and this user, by descriptor instead of by their bytes.
//!
//! Invariants: whatever hinders it is no failure; the bytes can go over gRPC. Only what would fail there as well is an error. Who waits
//! for the daemon, and is not wanted any more, lets go within a second.

use std::fs::File;
#[cfg(target_os = "linux")]
use std::path::Path;

use provender_core::Digest;

use super::Client;
use crate::error::ClientError;

impl Client {
    /// Gives the daemon a file that is a blob, and whose descriptor reads alone. Whether it took it; blocks, as long as it is `wanted`.
    pub fn give(&self, digest: &Digest, file: &File, wanted: &dyn Fn() -> bool) -> Result<bool, ClientError> {
        #[cfg(target_os = "linux")]
        if let Some(path) = &self.handover {
            use std::os::fd::AsFd;
            let give = Request::Give(Give { space: self.space(), digest: Some(digest_to(digest)) });
            return Ok(ask(path, give, Some(file.as_fd()), wanted)?.is_some());
        }
        let _ = (digest, file, wanted);
        Ok(false)
    }

    /// The daemon's own file of a blob, to be read alone, if it lends one; what is in it is to be checked. Blocks, as long as it is
    /// `wanted`.
    pub fn lent(&self, digest: &Digest, wanted: &dyn Fn() -> bool) -> Result<Option<File>, ClientError> {
        #[cfg(target_os = "linux")]
        if let Some(path) = &self.handover {
            let lend = Request::Lend(Lend { space: self.space(), digest: Some(digest_to(digest)) });
            return Ok(ask(path, lend, None, wanted)?.flatten().map(File::from));
        }
        let _ = (digest, wanted);
        Ok(None)
    }
}

#[cfg(target_os = "linux")]
use linux::{Give, Lend, Request, ask, digest_to};

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::os::fd::{BorrowedFd, OwnedFd};
    use std::time::Duration;

    use provender_proto::handover::{connect_to, receive, send};
    use provender_proto::v1::handover_reply::Reply;
    use provender_proto::v1::{HandoverReply, HandoverRequest};
    use tonic::Code;

    pub(super) use provender_proto::convert::digest_to;
    pub(super) use provender_proto::v1::handover_request::{Give, Lend, Request};

    use super::{ClientError, Path};

    /// How long nobody asks whether it is still wanted.
    const SLICE: Duration = Duration::from_secs(1);
    /// So many of these the daemon may take: as long as the largest file takes to be copied to a slow disk.
    const PATIENCE: u32 = 3600;

    /// Whether the daemon did it, and the descriptor that it sent.
    pub(super) fn ask(
        path: &Path,
        request: Request,
        file: Option<BorrowedFd<'_>>,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Option<Option<OwnedFd>>, ClientError> {
        let asked = patiently(wanted, || connect_to(path, SLICE)).and_then(|socket| {
            // It is the first packet of the connection, so there is room for it.
            send(&socket, &HandoverRequest { request: Some(request) }, file)?;
            patiently(wanted, || receive::<HandoverReply>(&socket))
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

    /// Tries what ends after a slice at most, as long as there is time for it and it is wanted.
    fn patiently<T>(wanted: &dyn Fn() -> bool, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        for _ in 0..PATIENCE {
            match attempt() {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                ended => return ended,
            }
            if !wanted() {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}
