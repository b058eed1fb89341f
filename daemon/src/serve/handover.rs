//! The side socket: files of this machine as blobs, and blobs as files, by descriptor.
//!
//! Invariants: only processes of the daemon's own user are answered; nothing is opened by a path; bytes are taken into the store's own file and
//! hashed there, so that whatever is done to the file meanwhile, a blob is what it was announced as; what is lent is open for reading alone, and
//! each connection has one question and one thread, of which there are few. Who is refused for a lack of these goes on over gRPC.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use provender_core::Digest;
use provender_core::name::Space;
use provender_proto::convert::{self, Invalid};
use provender_proto::handover::{limit, listen_at, receive, send};
use provender_proto::v1::handover_reply::{Given, Lent, Refused, Reply};
use provender_proto::v1::handover_request::{Give, Lend, Request};
use provender_proto::v1::{HandoverReply, HandoverRequest};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::ListenError;
use super::listen::Unix;
use super::status::{counted, invalid};
use crate::store::{Content, Store, StoreError};

/// How many connections are answered at once.
const AT_ONCE: usize = 32;
/// How long a peer may take to ask, and to take an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The side socket.
#[derive(Debug)]
pub struct Handover {
    listener: UnixListener,
    path: PathBuf,
}

impl Handover {
    /// Binds the socket; whoever holds the data folder's lock owns what stands there.
    pub fn bind(path: &Path) -> Result<Handover, ListenError> {
        Unix::check(path)?;
        let bound = || {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = listen_at(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            // Accepting is the same for sockets of packets.
            let listener = std::os::unix::net::UnixListener::from(listener);
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener)
        };
        let listener = bound().map_err(|source| ListenError::Io { on: path.display().to_string(), source })?;
        Ok(Handover { listener, path: path.into() })
    }

    /// Answers until `stop`, then finishes what is under way.
    pub async fn serve(self, store: Store, stop: CancellationToken) {
        let free = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted.and_then(|(peer, _)| blocking(peer)),
            };
            let peer = match accepted {
                Ok(peer) => peer,
                Err(error) => {
                    // As for want of descriptors: it may be over in a while.
                    tracing::warn!(%error, "a connection to the side socket was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(permit) = free.clone().try_acquire_owned() else {
                let busy = refusal(Code::Unimplemented, "too many files are being handed over: send the bytes");
                tokio::task::spawn_blocking(move || _ = limit(&peer, PATIENCE).and_then(|()| send(&peer, &busy, None)));
                continue;
            };
            let (store, runtime) = (store.clone(), Handle::current());
            tokio::task::spawn_blocking(move || {
                if let Err(error) = converse(&peer, &store, &runtime) {
                    tracing::debug!(%error, "a handover ended early");
                }
                drop(permit);
            });
        }
        _ = std::fs::remove_file(&self.path);
        _ = free.acquire_many(AT_ONCE as u32).await;
    }
}

/// The same connection for calls that block.
fn blocking(peer: UnixStream) -> io::Result<OwnedFd> {
    let peer = peer.into_std()?;
    peer.set_nonblocking(false)?;
    Ok(peer.into())
}

/// One question, one answer.
fn converse(peer: &OwnedFd, store: &Store, runtime: &Handle) -> io::Result<()> {
    limit(peer, PATIENCE)?;
    let uid = socket_peercred(peer)?.uid;
    if uid != rustix::process::geteuid() {
        tracing::debug!(?uid, "a file was not taken from another user");
        let why = "files are handed over by processes of the daemon's own user alone: send the bytes";
        return send(peer, &refusal(Code::Unimplemented, why), None);
    }
    let Some((HandoverRequest { request }, file)) = receive(peer)? else { return Ok(()) };
    let answered = runtime.block_on(async {
        match request {
            Some(Request::Give(give)) => counted(store.metrics(), "Give", take(store, &give, file)).await,
            Some(Request::Lend(lend)) => counted(store.metrics(), "Lend", lent(store, &lend)).await,
            None => Err(invalid(Invalid::new("request", "is of a kind that this version does not know"))),
        }
    });
    match answered.map(tonic::Response::into_inner) {
        Ok(file) => {
            let reply = match file {
                Some(_) => Reply::Lent(Lent {}),
                None => Reply::Given(Given { durable_in: store.tier().into() }),
            };
            send(peer, &HandoverReply { reply: Some(reply) }, file.as_ref().map(File::as_fd))
        }
        Err(status) => send(peer, &refusal(status.code(), status.message()), None),
    }
}

async fn take(store: &Store, give: &Give, file: Option<OwnedFd>) -> Result<Option<File>, StoreError> {
    let (space, digest) = addressed(&give.space, give.digest.as_ref())?;
    let file = file.ok_or_else(|| Invalid::new("descriptor", "is missing: it comes with the message"))?;
    let file = readable(file)?;
    let size = file.metadata().map_err(|error| Invalid::new("descriptor", error.to_string()))?.len();
    if size != digest.size {
        return Err(Invalid::new("descriptor", format!("is of a file of {size} bytes, and not of {digest}")).into());
    }
    store.take(&space, digest, file).await.map(|()| None)
}

async fn lent(store: &Store, lend: &Lend) -> Result<Option<File>, StoreError> {
    let (space, digest) = addressed(&lend.space, lend.digest.as_ref())?;
    match store.content(&space, &digest).await? {
        Content::File(file) => {
            store.metrics().bytes_out.inc_by(digest.size);
            Ok(Some(file))
        }
        Content::Bytes(_) | Content::Parts => Err(StoreError::NoFile { digest }),
    }
}

fn addressed(space: &str, digest: Option<&provender_proto::v1::Digest>) -> Result<(Space, Digest), StoreError> {
    Ok((convert::space(space)?, convert::needed_digest("digest", digest)?))
}

/// A descriptor as a file that can be read but not written through it.
fn readable(file: OwnedFd) -> Result<File, StoreError> {
    let refused = |why: &str| StoreError::from(Invalid::new("descriptor", why));
    let failed = |error: Errno| refused(&format!("cannot be used: {error}"));
    let flags = fcntl_getfl(&file).map_err(failed)?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file).map_err(failed)?.st_mode);
    if kind != rustix::fs::FileType::RegularFile {
        return Err(refused("is of no regular file"));
    }
    if flags.contains(OFlags::PATH) || flags & OFlags::RWMODE != OFlags::RDONLY {
        return Err(refused("is not open for reading alone"));
    }
    Ok(File::from(file))
}

fn refusal(code: Code, message: &str) -> HandoverReply {
    let refused = Refused { code: code as i32, message: message.to_owned() };
    HandoverReply { reply: Some(Reply::Refused(refused)) }
}
