//! Where the daemon is: flag, variable, configuration, or a socket in the usual places.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tonic::transport::Uri;

/// The longest path of a unix socket, in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// A daemon's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket on this machine.
    Unix(PathBuf),
    /// `http://…` or `https://…`.
    Http(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Http(url) => f.write_str(url),
        }
    }
}

/// A daemon, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Where it is.
    pub address: Address,
    /// The token to show.
    pub token: Option<String>,
    /// The authority that its certificate is to be of, as PEM; else the system's.
    pub ca: Option<Vec<u8>>,
    /// Our own certificate and key, as PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Why there is no remote.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The address makes no sense.
    #[error("{text:?} is not a remote: it takes unix:PATH, http://HOST:PORT or https://HOST:PORT")]
    Address {
        /// As given.
        text: String,
    },
    /// The socket's path is too long for the system.
    #[error("the socket path {} has {} bytes, and a unix socket's path at most {MAX_SOCKET_PATH}", path.display(), path.as_os_str().len())]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// Nothing was said, and no daemon was found.
    #[error(
        "no daemon was found: there is no socket at {looked}; start provenderd, or say where it is with --remote or PROVENDER_REMOTE"
    )]
    None {
        /// Where it was looked for.
        looked: String,
    },
    /// A certificate is of no use without its key.
    #[error("{} has only one of cert and key: it takes both, or neither", path.display())]
    Pair {
        /// The configuration.
        path: PathBuf,
    },
    /// A file of the configuration cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration is not as it should be.
    #[error("{} is not valid:\n{source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong.
        source: Box<toml::de::Error>,
    },
}

/// `config.toml` of the user.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    remote: Option<String>,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Remote {
    /// The remote that `flag` names (the flag or `PROVENDER_REMOTE`), else the configuration, else the first data folder with
    /// a socket.
    pub fn find(flag: Option<&str>) -> Result<Remote, RemoteError> {
        let path = config_path();
        let file = match path.as_deref().map(std::fs::read_to_string) {
            Some(Ok(text)) => toml::from_str(&text).map_err(|source| RemoteError::Parse {
                path: path.clone().unwrap_or_default(),
                source: Box::new(source),
            })?,
            Some(Err(source)) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(RemoteError::Read { path: path.unwrap_or_default(), source });
            }
            _ => File::default(),
        };
        let address = match flag.or(file.remote.as_deref()) {
            Some(text) => parse(text)?,
            None => Address::Unix(found_socket()?),
        };
        let configured = file.remote.as_deref().and_then(|text| parse(text).ok());
        let read = |path: &Path| std::fs::read(path).map_err(|source| RemoteError::Read { path: path.into(), source });
        let token = match &file.token_file {
            Some(_) if !may_have_token(&address, configured.as_ref()) => {
                tracing::warn!(
                    "the token is not sent to {address}, which is not the configured remote, over plain http"
                );
                None
            }
            path => path.as_deref().map(read).transpose()?,
        };
        let identity = match (&file.cert, &file.key) {
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            (None, None) => None,
            _ => return Err(RemoteError::Pair { path: path.unwrap_or_default() }),
        };
        Ok(Remote {
            address,
            token: token.map(|token| String::from_utf8_lossy(&token).trim().to_owned()),
            ca: file.ca.as_deref().map(read).transpose()?,
            identity,
        })
    }
}

/// The configured token is for the configured remote; nobody on the way to another one shall read it.
fn may_have_token(address: &Address, configured: Option<&Address>) -> bool {
    configured == Some(address) || !matches!(address, Address::Http(url) if url.starts_with("http:"))
}

fn parse(text: &str) -> Result<Address, RemoteError> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
        if path.as_os_str().is_empty() {
            return Err(RemoteError::Address { text: text.into() });
        }
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(RemoteError::TooLong { path });
        }
        return Ok(Address::Unix(path));
    }
    match text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) {
        Some(host) if !host.is_empty() && text.parse::<Uri>().is_ok() => {
            Ok(Address::Http(text.trim_end_matches('/').to_owned()))
        }
        _ => Err(RemoteError::Address { text: text.into() }),
    }
}

fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn config_path() -> Option<PathBuf> {
    let base = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    base.map(|base| base.join("provender/config.toml"))
}

/// The folder for what can be made again, such as the hash cache.
pub fn cache_dir() -> Option<PathBuf> {
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    base.map(|base| base.join("provender"))
}

fn found_socket() -> Result<PathBuf, RemoteError> {
    let user = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    let folders = user.map(|base| base.join("provender")).into_iter().chain([PathBuf::from("/var/lib/provender")]);
    let sockets: Vec<_> = folders.map(|folder| folder.join("provender.sock")).collect();
    let looked = sockets.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ");
    sockets.into_iter().find(|path| path.exists()).ok_or(RemoteError::None { looked })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_goes_where_it_belongs_or_where_it_is_safe() {
        let address = |text: &str| parse(text).expect("valid");
        let configured = Some(address("http://ours:1"));
        for (text, may) in
            [("http://ours:1/", true), ("http://other:1", false), ("https://other:1", true), ("unix:/a", true)]
        {
            assert_eq!(may_have_token(&address(text), configured.as_ref()), may, "{text}");
        }
        assert!(!may_have_token(&address("http://other:1"), None));
    }

    #[test]
    fn addresses_parse_or_say_why_not() {
        assert_eq!(parse("unix:/a/b").expect("valid"), Address::Unix("/a/b".into()));
        assert_eq!(parse("unix:///a/b").expect("valid"), Address::Unix("/a/b".into()));
        assert_eq!(parse("https://h:1/").expect("valid"), Address::Http("https://h:1".into()));
        for text in ["", "h:1", "ftp://h", "unix:", "http://", "http://no such host"] {
            assert!(matches!(parse(text), Err(RemoteError::Address { .. })), "{text:?}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert!(matches!(parse(&long), Err(RemoteError::TooLong { .. })));
    }
}
