//! The walk of a capture: folder by folder, depth first, each relative to the open one around it.
//!
//! Invariant: a folder is encoded once all beneath it is known, so trees come after what they refer to. Only the hashing
//! of one folder's files is done side by side.

use std::collections::{HashMap, HashSet};
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use provender_core::digest::Digest;
use provender_core::tree::{MAX_DEPTH, Node, Tree, TreeError};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::{CaptureError, Captured, CapturedFile, Counts, Purpose};
use crate::files::beneath;
use crate::files::hash::{self, Hashed, LARGE, NoDigest};
use crate::files::hash_cache::HashCache;
use crate::files::identity::Identity;
use crate::files::is_own_leftover;

/// Threads that hash the files of one folder, and the number of files from which they are worth starting.
const MAX_THREADS: usize = 8;
const FEW_FILES: usize = 16;

/// Declared outputs by their parts: what stands there, or the folders on the way.
#[derive(Default)]
pub(super) struct Set {
    nodes: Vec<(Bytes, Node)>,
    folders: Vec<(Bytes, Set)>,
}

impl Set {
    /// Outputs come sorted, so a folder that is needed again is the last one made.
    pub(super) fn insert(&mut self, parts: &[Bytes], node: Node) {
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
pub(super) struct Kept {
    seen: HashSet<Digest>,
    trees: Vec<(Digest, Bytes)>,
    files: HashMap<Digest, (Arc<PathBuf>, Box<[u8]>)>,
}

impl Kept {
    pub(super) fn captured(self, root: Node, counts: Counts) -> Captured {
        let files = self.files.into_iter();
        let files = files.map(|(digest, (base, below))| CapturedFile { digest, base, below }).collect();
        Captured { root, trees: self.trees, files, counts }
    }
}

pub(super) struct Walk<'a> {
    base: Arc<PathBuf>,
    /// Where the walk is, below `base`.
    pub(super) at: Vec<Bytes>,
    /// How many folders are open around what is looked at.
    pub(super) depth: usize,
    purpose: Purpose,
    cache: &'a HashCache,
    kept: Option<&'a mut Kept>,
    pub(super) counts: Counts,
}

/// A file that the cache does not know.
struct Unread {
    name: Bytes,
    size: u64,
}

impl<'a> Walk<'a> {
    pub(super) fn new(base: PathBuf, purpose: Purpose, cache: &'a HashCache, kept: Option<&'a mut Kept>) -> Self {
        Walk { base: Arc::new(base), at: Vec::new(), depth: 0, purpose, cache, kept, counts: Counts::default() }
    }

    /// What stands at `name` in `folder`; `None` if nothing does.
    pub(super) fn named(&mut self, folder: BorrowedFd<'_>, name: &Bytes) -> Result<Option<Node>, CaptureError> {
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

    pub(super) fn folder(&mut self, folder: BorrowedFd<'_>) -> Result<Node, CaptureError> {
        let mut names = beneath::names(folder).map_err(|errno| self.io(None, errno))?;
        names.sort_unstable();
        let (mut tree, mut unread) = (Tree::new(), Vec::new());
        for name in &names {
            if self.purpose == Purpose::Input && is_own_leftover(name) {
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
    pub(super) fn set(&mut self, set: Set) -> Result<Node, CaptureError> {
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
