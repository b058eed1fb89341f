//! Capture: a file or folder on disk as a node, with the trees beneath it and where each distinct file stands.
//!
//! Invariants: symlinks below the named path are kept as written and never followed; equal contents give equal nodes,
//! whatever the order on disk; contents are never held in memory, only names, digests and encoded folders.

mod walk;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use provender_core::digest::Digest;
use provender_core::tree::{MAX_DEPTH, Node, TreeError};
use rustix::fs::{FileType, Mode};

use super::beneath::{self, Blocked};
use super::hash;
use super::hash_cache::HashCache;
use super::outputs::{OutputPath, Outputs};

use walk::{Kept, Set, Walk};

/// What a capture is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To know what a command reads: a symlink given as the path itself is resolved, since its target is what is read,
    /// and folders that a dying provender has left behind are passed over.
    Input,
    /// To give back later exactly what stands there.
    Output,
}

/// What was found at a path.
#[derive(Debug, Clone)]
pub struct Captured {
    /// The path itself.
    pub root: Node,
    /// Each distinct folder once, encoded, with what it refers to before it.
    pub trees: Vec<(Digest, Bytes)>,
    /// Each distinct file once, in no order.
    pub files: Vec<CapturedFile>,
    /// Sums over all paths.
    pub counts: Counts,
}

/// Where a blob can be read again; see [`open_captured`].
#[derive(Debug, Clone)]
pub struct CapturedFile {
    /// What it held when it was hashed.
    pub digest: Digest,
    base: Arc<PathBuf>,
    below: Box<[u8]>,
}

impl CapturedFile {
    /// The path, for messages.
    pub fn path(&self) -> PathBuf {
        self.base.join(std::ffi::OsStr::from_bytes(&self.below))
    }
}

/// How much there is, each path counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Regular files.
    pub files: u64,
    /// Folders, the root included.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Bytes in all files together.
    pub bytes: u64,
}

/// Why nothing was captured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The system refused something.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Declared outputs are not there: all of them, sorted.
    #[error("not there: {}", paths.iter().map(|path| path.to_string()).collect::<Vec<_>>().join(", "))]
    Missing {
        /// The missing ones.
        paths: Vec<OutputPath>,
    },
    /// A FIFO, socket or device.
    #[error("{} is a {kind}: only files, folders and symbolic links can be stored", path.display())]
    Kind {
        /// Where.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A file was another each time that it was read.
    #[error("{} changes while it is read", path.display())]
    Changes {
        /// Where.
        path: PathBuf,
    },
    /// Folders are nested beyond [`MAX_DEPTH`].
    #[error("{} lies deeper than {MAX_DEPTH} folders", path.display())]
    TooDeep {
        /// The first folder too deep.
        path: PathBuf,
    },
    /// A folder that a tree cannot express.
    #[error("{} cannot be stored: {source}", path.display())]
    Tree {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: TreeError,
    },
    /// A symlink stands where a folder on the way to a declared output should.
    #[error("{} is a symbolic link: an output path must not lead through one", path.display())]
    ThroughLink {
        /// The link.
        path: PathBuf,
    },
}

/// Captures what stands at `path`.
pub fn capture(path: &Path, purpose: Purpose, cache: &HashCache) -> Result<Captured, CaptureError> {
    let mut kept = Kept::default();
    let (root, counts) = walk_path(path, purpose, cache, Some(&mut kept))?;
    Ok(kept.captured(root, counts))
}

/// Looks at `path` as [`capture`] does, but keeps the root alone: equal roots mean equal contents.
pub fn signature(path: &Path, purpose: Purpose, cache: &HashCache) -> Result<Node, CaptureError> {
    Ok(walk_path(path, purpose, cache, None)?.0)
}

/// Captures the declared outputs in the folder `base`, as a folder that holds exactly those paths.
pub fn capture_set(base: &Path, outputs: &Outputs, cache: &HashCache) -> Result<Captured, CaptureError> {
    let mut kept = Kept::default();
    let folder = beneath::open_folder(base).map_err(|source| CaptureError::Io { path: base.into(), source })?;
    let mut walk = Walk::new(base.into(), Purpose::Output, cache, Some(&mut kept));
    let mut missing = Vec::new();
    let mut set = Set::default();
    for output in outputs.iter() {
        let (parts, name) = output.split();
        (walk.at, walk.depth) = (parts.to_vec(), output.parts().len());
        let found = match beneath::descend(&folder, parts) {
            Ok(parent) => walk.named(parent.as_fd(), name)?,
            Err(Blocked::Missing { .. }) => None,
            Err(Blocked::Symlink { path }) => return Err(CaptureError::ThroughLink { path: base.join(path) }),
            Err(Blocked::NotFolder { .. }) => None,
            Err(Blocked::Io { path, source }) => return Err(CaptureError::Io { path: base.join(path), source }),
        };
        match found {
            Some(node) => set.insert(output.parts(), node),
            None => missing.push(output.clone()),
        }
    }
    if !missing.is_empty() {
        return Err(CaptureError::Missing { paths: missing });
    }
    walk.at.clear();
    let root = walk.set(set)?;
    let counts = walk.counts;
    Ok(kept.captured(root, counts))
}

/// Opens a captured file for reading, still without following symlinks below the path that was captured.
///
/// What is read may have changed since, so the reader must compare it with the digest; another size is an error at once.
pub fn open_captured(file: &CapturedFile) -> io::Result<File> {
    let mut parts: Vec<_> = file.below.split(|&byte| byte == b'/').map(Bytes::copy_from_slice).collect();
    let name = parts.pop().unwrap_or_default();
    let folder = beneath::descend(beneath::open_folder(&file.base)?, &parts).map_err(io::Error::other)?;
    let opened = rustix::fs::openat(folder, &name[..], hash::READ, Mode::empty())?;
    let stat = rustix::fs::fstat(&opened)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_size as u64 != file.digest.size {
        return Err(io::Error::other(format!("{} has changed since it was hashed", file.path().display())));
    }
    Ok(opened.into())
}

fn walk_path(
    path: &Path,
    purpose: Purpose,
    cache: &HashCache,
    kept: Option<&mut Kept>,
) -> Result<(Node, Counts), CaptureError> {
    let io = |source| CaptureError::Io { path: path.into(), source };
    let resolved;
    let path = match (purpose, path.file_name()) {
        (Purpose::Output, Some(_)) => path,
        // `.`, `..` and `/` have no name in a parent; what they stand for mostly has.
        _ => {
            resolved = path.canonicalize().map_err(io)?;
            &resolved
        }
    };
    let base = path.parent().unwrap_or(Path::new("/"));
    let mut walk = Walk::new(base.into(), purpose, cache, kept);
    let folder = beneath::open_folder(base).map_err(io)?;
    let root = match path.file_name() {
        Some(name) => walk.named(folder.as_fd(), &Bytes::copy_from_slice(name.as_bytes()))?,
        None => Some(walk.folder(folder.as_fd())?),
    };
    let root = root.ok_or_else(|| io(io::ErrorKind::NotFound.into()))?;
    Ok((root, walk.counts))
}

#[cfg(test)]
mod tests;
