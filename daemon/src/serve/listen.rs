//! Listening: the unix socket, open to its owner, and TCP, as far as it is safe.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::service::{InterceptorLayer, Routes};
use tonic::transport::ServerTlsConfig;

use super::auth::Tokens;

/// The longest path of a unix socket, in bytes, on Linux (`sun_path` less its final zero).
pub(super) const MAX_SOCKET_PATH: usize = 107;

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The path does not fit into a socket address.
    #[error(
        "the socket path {} has {} bytes, and a unix socket's path at most {MAX_SOCKET_PATH}: choose a shorter data folder with --data",
        path.display(), path.as_os_str().len()
    )]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// The group of `socket_group` does not exist.
    #[error("socket_group: there is no group {group:?} on this machine")]
    NoGroup {
        /// The name.
        group: String,
    },
    /// The system refused.
    #[error("cannot listen on {on}: {source}")]
    Io {
        /// Where.
        on: String,
        /// Why.
        source: io::Error,
    },
    /// TCP without protection.
    #[error(
        "--listen {address}: without TLS and tokens anybody who reaches it could read and write; configure [tls] and tokens_file, or give --insecure (loopback only)"
    )]
    Unprotected {
        /// The address.
        address: SocketAddr,
    },
    /// `--insecure` on an address that others reach.
    #[error("--listen {address}: --insecure is for loopback addresses only; configure [tls] and tokens_file")]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
}

/// The unix socket.
#[derive(Debug)]
pub struct Unix {
    listener: UnixListener,
    path: PathBuf,
    group: Option<u32>,
}

impl Unix {
    /// Whether a socket can stand at this path, asked before anything is made there.
    pub fn check(path: &Path) -> Result<(), ListenError> {
        match path.as_os_str().len() {
            0..=MAX_SOCKET_PATH => Ok(()),
            _ => Err(ListenError::TooLong { path: path.into() }),
        }
    }

    /// Binds the socket; whoever holds the data folder's lock owns what stands there.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Unix, ListenError> {
        Unix::check(path)?;
        let group = group.map(group_id).transpose()?;
        let failed = |source| ListenError::Io { on: path.display().to_string(), source };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        if let Some(group) = group {
            std::os::unix::fs::chown(path, None, Some(group)).map_err(failed)?;
        }
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
        Ok(Unix { listener, path: path.into(), group })
    }

    /// Serves until `stop`, then finishes what is under way.
    pub async fn serve(self, routes: Routes, stop: CancellationToken) -> Result<(), tonic::transport::Error> {
        let own = rustix::process::geteuid().as_raw();
        let open = self.group.is_some();
        // The mode of the socket admits; the peer's uid is looked at as well, since some systems ignore that mode.
        let admitted = UnixListenerStream::new(self.listener).filter(move |stream| {
            // An error of the listener is passed on; a peer that cannot be told is not let in.
            let uid = stream.as_ref().map(|stream| stream.peer_cred().map(|peer| peer.uid()).ok()).unwrap_or(Some(own));
            let admit = open || uid.is_some_and(|uid| uid == own || uid == 0);
            if !admit {
                tracing::warn!(uid, "a connection of another user was refused; socket_group would admit its group");
            }
            futures::future::ready(admit)
        });
        let served = super::server().add_routes(routes).serve_with_incoming_shutdown(admitted, stop.cancelled()).await;
        _ = std::fs::remove_file(self.path);
        served
    }
}

/// A TCP listener, as far as its protection allows.
#[derive(Debug)]
pub struct Tcp {
    listener: TcpListener,
    /// Where it listens.
    pub address: SocketAddr,
    tls: Option<ServerTlsConfig>,
    tokens: Option<Tokens>,
    protected: bool,
}

impl Tcp {
    /// Whether only those are heard whom the configuration knows.
    pub fn is_protected(&self) -> bool {
        self.protected
    }

    /// Binds an address. Protection is TLS with tokens, or TLS with client certificates (`client_ca`).
    pub async fn bind(
        address: SocketAddr,
        tls: Option<ServerTlsConfig>,
        client_ca: bool,
        tokens: Option<Tokens>,
        insecure: bool,
    ) -> Result<Tcp, ListenError> {
        let protected = tls.is_some() && (client_ca || tokens.is_some());
        match (protected, insecure, address.ip().is_loopback()) {
            (true, ..) => {}
            (false, false, _) => return Err(ListenError::Unprotected { address }),
            (false, true, false) => return Err(ListenError::NotLoopback { address }),
            (false, true, true) => {
                tracing::warn!(%address, "listening without TLS and tokens: every user of this machine can read and write");
            }
        }
        let failed = |source| ListenError::Io { on: address.to_string(), source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Tcp { listener, address, tls, tokens, protected })
    }

    /// Serves until `stop`, then finishes what is under way.
    pub async fn serve(self, routes: Routes, stop: CancellationToken) -> Result<(), tonic::transport::Error> {
        let mut server = super::server();
        if let Some(tls) = self.tls {
            server = server.tls_config(tls)?;
        }
        let incoming = TcpListenerStream::new(self.listener);
        match self.tokens {
            Some(tokens) => {
                let mut server = server.layer(InterceptorLayer::new(tokens));
                server.add_routes(routes).serve_with_incoming_shutdown(incoming, stop.cancelled()).await
            }
            None => server.add_routes(routes).serve_with_incoming_shutdown(incoming, stop.cancelled()).await,
        }
    }
}

/// The id of a group, from the system's group file.
fn group_id(group: &str) -> Result<u32, ListenError> {
    let missing = || ListenError::NoGroup { group: group.into() };
    if let Ok(id) = group.parse() {
        return Ok(id);
    }
    let file = std::fs::read_to_string("/etc/group").map_err(|_| missing())?;
    let mut lines = file.lines().map(|line| line.split(':'));
    let id = lines.find_map(|mut parts| (parts.next() == Some(group)).then(|| parts.nth(1)).flatten());
    id.and_then(|id| id.parse().ok()).ok_or_else(missing)
}
