//! Capture: a file or folder on disk as a node, with the trees beneath it and where each distinct file stands.
//!
//! Invariants: symlinks below the named path are kept as written and never followed; equal contents give equal nodes,
//! whatever the order on disk; contents are never held in memory, only names, digests and encoded folders.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use provender_core::digest::Digest;
use provender_core::tree::{MAX_DEPTH, Node, Tree, TreeError};
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::beneath::{self, Blocked};
use super::hash::{self, Hashed, LARGE, NoDigest};
use super::hash_cache::HashCache;
use super::identity::Identity;
use super::outputs::{OutputPath, Outputs};

/// Threads that hash the files of one folder, and the number of files from which they are worth starting.
const MAX_THREADS: usize = 8;
const FEW_FILES: usize = 16;

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

/// Declared outputs by their parts: what stands there, or the folders on the way.
#[derive(Default)]
struct Set {
    nodes: Vec<(Bytes, Node)>,
    folders: Vec<(Bytes, Set)>,
}

impl Set {
    /// Outputs come sorted, so a folder that is needed again is the last one made.
    fn insert(&mut self, parts: &[Bytes], node: Node) {
        match parts {
            [] => {}
            [name] => self.nodes.push((name.clone(), node)),
            [name, rest @ ..] => {
                if self.folders.last().is_none_or(|(last, _)| last != name) {
                    self.folders.push((name.clone(), Set::default()));
                }
                if let Some((_, set)) = self.folders.last_mut() {
                    set.insert(rest, node);
                }
            }
        }
    }
}

/// What an upload needs, beside the root.
#[derive(Default)]
struct Kept {
    seen: HashSet<Digest>,
    trees: Vec<(Digest, Bytes)>,
    files: HashMap<Digest, (Arc<PathBuf>, Box<[u8]>)>,
}

impl Kept {
    fn captured(self, root: Node, counts: Counts) -> Captured {
        let files = self.files.into_iter();
        let files = files.map(|(digest, (base, below))| CapturedFile { digest, base, below }).collect();
        Captured { root, trees: self.trees, files, counts }
    }
}

struct Walk<'a> {
    base: Arc<PathBuf>,
    /// Where the walk is, below `base`.
    at: Vec<Bytes>,
    /// How many folders are open around what is looked at.
    depth: usize,
    purpose: Purpose,
    cache: &'a HashCache,
    kept: Option<&'a mut Kept>,
    counts: Counts,
}

/// A file that the cache does not know.
struct Unread {
    name: Bytes,
    size: u64,
}

impl<'a> Walk<'a> {
    fn new(base: PathBuf, purpose: Purpose, cache: &'a HashCache, kept: Option<&'a mut Kept>) -> Self {
        Walk { base: Arc::new(base), at: Vec::new(), depth: 0, purpose, cache, kept, counts: Counts::default() }
    }

    /// What stands at `name` in `folder`; `None` if nothing does.
    fn named(&mut self, folder: BorrowedFd<'_>, name: &Bytes) -> Result<Option<Node>, CaptureError> {
        if matches!(rustix::fs::statat(folder, &name[..], AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT)) {
            return Ok(None);
        }
        let mut unread = Vec::new();
        match (self.entry(folder, name, &mut unread)?, unread.pop()) {
            (None, Some(file)) => {
                let hashed = self.hash(folder, &file.name)?;
                Ok(Some(self.file(&file.name, hashed)))
            }
            (node, _) => Ok(node),
        }
    }

    fn folder(&mut self, folder: BorrowedFd<'_>) -> Result<Node, CaptureError> {
        let mut names = beneath::names(folder).map_err(|errno| self.io(None, errno))?;
        names.sort_unstable();
        let (mut tree, mut unread) = (Tree::new(), Vec::new());
        for name in &names {
            if self.purpose == Purpose::Input && super::is_own_leftover(name) {
                continue;
            }
            if let Some(node) = self.entry(folder, name, &mut unread)? {
                tree.insert(name.clone(), node).map_err(|source| self.tree(source))?;
            }
        }
        for (name, hashed) in self.hash_all(folder, unread)? {
            let node = self.file(&name, hashed);
            tree.insert(name, node).map_err(|source| self.tree(source))?;
        }
        self.encode(&tree)
    }

    /// The node of one entry, or none and the entry in `unread` if it is a file that must be read first.
    fn entry(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &Bytes,
        unread: &mut Vec<Unread>,
    ) -> Result<Option<Node>, CaptureError> {
        let bytes: &[u8] = name;
        let stat = rustix::fs::statat(folder, bytes, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|errno| self.io(Some(name), errno))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let identity = Identity::of(&stat);
                let Some(digest) = self.cache.get(&identity) else {
                    unread.push(Unread { name: name.clone(), size: identity.size });
                    return Ok(None);
                };
                return Ok(Some(self.file(name, Hashed { digest, executable: hash::is_executable(&stat) })));
            }
            FileType::Directory => {
                let child = beneath::open_child(folder, name).map_err(|errno| self.io(Some(name), errno))?;
                self.at.push(name.clone());
                if self.depth > MAX_DEPTH {
                    return Err(CaptureError::TooDeep { path: self.path(None) });
                }
                self.depth += 1;
                let node = self.folder(child.as_fd())?;
                self.depth -= 1;
                self.at.pop();
                return Ok(Some(node));
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(folder, bytes, Vec::new());
                let target = target.map_err(|errno| self.io(Some(name), errno))?.into_bytes().into();
                self.counts.symlinks += 1;
                return Ok(Some(Node::Symlink { target }));
            }
            FileType::Fifo => "FIFO",
            FileType::Socket => "socket",
            FileType::CharacterDevice | FileType::BlockDevice => "device",
            _ => "special file",
        };
        Err(CaptureError::Kind { path: self.path(Some(name)), kind })
    }

    /// Hashes files of one folder: large ones one after the other on all cores, the rest side by side.
    fn hash_all(&self, folder: BorrowedFd<'_>, unread: Vec<Unread>) -> Result<Vec<(Bytes, Hashed)>, CaptureError> {
        let (large, small): (Vec<_>, Vec<_>) = unread.into_iter().partition(|file| file.size >= LARGE);
        let one = |file: Unread| {
            let hashed = self.hash(folder, &file.name)?;
            Ok((file.name, hashed))
        };
        let mut done: Vec<_> = large.into_iter().map(one).collect::<Result<_, CaptureError>>()?;
        if small.len() < FEW_FILES && small.iter().map(|file| file.size).sum::<u64>() < LARGE / 4 {
            for file in small {
                done.push(one(file)?);
            }
            return Ok(done);
        }
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS).min(small.len());
        let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(small.len())));
        let (base, at, cache) = (&self.base, &self.at, self.cache);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(file) = small.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let hashed = hash::hash(folder, &file.name, cache);
                        let hashed = hashed.map_err(|error| no_digest(path_of(base, at, Some(&file.name)), error));
                        // After a failure nobody needs the rest.
                        if hashed.is_err() {
                            next.store(small.len(), Ordering::Relaxed);
                        }
                        let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                        results.push(hashed.map(|hashed| (file.name.clone(), hashed)));
                    }
                });
            }
        });
        for result in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
            done.push(result?);
        }
        Ok(done)
    }

    fn hash(&self, folder: BorrowedFd<'_>, name: &Bytes) -> Result<Hashed, CaptureError> {
        hash::hash(folder, name, self.cache).map_err(|error| no_digest(self.path(Some(name)), error))
    }

    fn file(&mut self, name: &Bytes, hashed: Hashed) -> Node {
        self.counts.files += 1;
        self.counts.bytes += hashed.digest.size;
        if let Some(kept) = &mut self.kept {
            let (base, at) = (&self.base, &self.at);
            kept.files.entry(hashed.digest).or_insert_with(|| {
                let parts: Vec<&[u8]> = at.iter().chain([name]).map(|part| &part[..]).collect();
                (base.clone(), parts.join(&b'/').into())
            });
        }
        Node::File { digest: hashed.digest, executable: hashed.executable }
    }

    /// The folders on the way to declared outputs, and the root over them.
    fn set(&mut self, set: Set) -> Result<Node, CaptureError> {
        let mut tree = Tree::new();
        for (name, node) in set.nodes {
            tree.insert(name, node).map_err(|source| self.tree(source))?;
        }
        for (name, set) in set.folders {
            let node = self.set(set)?;
            tree.insert(name, node).map_err(|source| self.tree(source))?;
        }
        self.encode(&tree)
    }

    fn encode(&mut self, tree: &Tree) -> Result<Node, CaptureError> {
        let bytes = tree.encode().map_err(|source| self.tree(source))?;
        let digest = Digest::of(&bytes);
        self.counts.directories += 1;
        if let Some(kept) = &mut self.kept
            && kept.seen.insert(digest)
        {
            kept.trees.push((digest, bytes));
        }
        Ok(Node::Directory { digest })
    }

    fn path(&self, name: Option<&Bytes>) -> PathBuf {
        path_of(&self.base, &self.at, name)
    }

    fn io(&self, name: Option<&Bytes>, errno: Errno) -> CaptureError {
        CaptureError::Io { path: self.path(name), source: errno.into() }
    }

    fn tree(&self, source: TreeError) -> CaptureError {
        CaptureError::Tree { path: self.path(None), source }
    }
}

fn path_of(base: &Path, at: &[Bytes], name: Option<&Bytes>) -> PathBuf {
    let path = base.join(beneath::joined(at));
    name.map_or(path.clone(), |name| path.join(std::ffi::OsStr::from_bytes(name)))
}

fn no_digest(path: PathBuf, error: NoDigest) -> CaptureError {
    match error {
        NoDigest::Changes => CaptureError::Changes { path },
        NoDigest::NotRegular => CaptureError::Kind { path, kind: "special file" },
        NoDigest::Io(errno) => CaptureError::Io { path, source: errno.into() },
    }
}

#[cfg(test)]
mod tests;
