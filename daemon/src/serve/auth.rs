//! Who may call over TCP: bearer tokens.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use tonic::service::Interceptor;
use tonic::{Request, Status};

/// The tokens that are good, as hashes, so that neither comparing nor a core dump gives one away.
#[derive(Debug, Clone)]
pub struct Tokens {
    hashes: HashSet<[u8; 32]>,
}

/// Why a token file is refused.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It cannot be read.
    #[error("the token file {} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others can read it.
    #[error("the token file {} can be read by others: chmod 600 it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// It has no good token.
    #[error("the token file {} needs one token a line, each of at least 16 characters", path.display())]
    Short {
        /// The file.
        path: PathBuf,
    },
}

impl Tokens {
    /// Reads a file of one token a line; empty lines and those that begin with `#` are passed over.
    pub fn read(path: &Path) -> Result<Tokens, TokensError> {
        use std::os::unix::fs::PermissionsExt;
        let failed = |source| TokensError::Read { path: path.into(), source };
        let text = std::fs::read_to_string(path).map_err(failed)?;
        if std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o077 != 0 {
            return Err(TokensError::Open { path: path.into() });
        }
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let tokens: Vec<_> = lines.collect();
        if tokens.is_empty() || tokens.iter().any(|token| token.len() < 16) {
            return Err(TokensError::Short { path: path.into() });
        }
        Ok(Tokens { hashes: tokens.iter().map(|token| hash(token)).collect() })
    }
}

impl Interceptor for Tokens {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = header.and_then(|header| header.strip_prefix("Bearer "));
        match token {
            Some(token) if self.hashes.contains(&hash(token)) => Ok(request),
            Some(_) => Err(Status::unauthenticated("the token is not one that this daemon takes")),
            None => Err(Status::unauthenticated("this daemon takes calls with a token only: configure token_file")),
        }
    }
}

fn hash(token: &str) -> [u8; 32] {
    *blake3::hash(token.as_bytes()).as_bytes()
}
