//! Writing: the nodes of a plan into private folders, small files many at a time.
//!
//! Invariant: a file is whole and equal to its digest, or the restore fails. Files wait for their batch as names only, and
//! at most two exchanges' worth of contents is in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use provender_core::digest::Digest;
use provender_core::tree::Node;
use rustix::fs::{Mode, OFlags};

use super::beneath;
use super::plan::{BATCH_BYTES, BATCH_COUNT, Fetch, Plan, SMALL_BLOB, fetch_file, fetch_small};
use super::restore::RestoreError;

/// Paths may wait for few distinct blobs; so many wait at most.
const MAX_WAITING: usize = 10 * BATCH_COUNT;

const NEW: OFlags =
    OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder that we have made: the private one that it is built in, and its parts below that.
///
/// Not an open one, since files of a thousand folders may wait for one batch.
pub(super) struct Folder {
    base: Arc<OwnedFd>,
    below: Vec<Bytes>,
}

impl Folder {
    pub(super) fn top(base: Arc<OwnedFd>) -> Arc<Folder> {
        Arc::new(Folder { base, below: Vec::new() })
    }

    fn child(&self, name: &Bytes) -> Arc<Folder> {
        let mut below = self.below.clone();
        below.push(name.clone());
        Arc::new(Folder { base: self.base.clone(), below })
    }

    fn error(&self, name: &Bytes, source: impl Into<std::io::Error>) -> RestoreError {
        let name = [name.clone()];
        RestoreError::io(&beneath::joined(&self.below).join(beneath::joined(&name)), source.into())
    }
}

/// Where a small blob is to stand.
struct Place {
    folder: Arc<Folder>,
    name: Bytes,
    executable: bool,
}

pub(super) struct Writer<'a> {
    fetch: &'a dyn Fetch,
    plan: &'a Plan,
    waiting: BTreeMap<Digest, Vec<Place>>,
    places: usize,
    bytes: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(fetch: &'a dyn Fetch, plan: &'a Plan) -> Self {
        Writer { fetch, plan, waiting: BTreeMap::new(), places: 0, bytes: 0 }
    }

    /// Writes `node` as `name` into `folder`. Small files stand there only after [`Writer::finish`].
    pub(super) fn write(&mut self, folder: &Arc<Folder>, name: &Bytes, node: &Node) -> Result<(), RestoreError> {
        let open = beneath::descend(&folder.base, &folder.below)
            .map_err(|blocked| RestoreError::Write { source: std::io::Error::other(blocked) })?;
        self.node(folder, open.as_fd(), name, node)
    }

    fn node(
        &mut self,
        folder: &Arc<Folder>,
        open: BorrowedFd<'_>,
        name: &Bytes,
        node: &Node,
    ) -> Result<(), RestoreError> {
        let bytes: &[u8] = name;
        match node {
            Node::Symlink { target } => {
                rustix::fs::symlinkat(&target[..], open, bytes).map_err(|errno| folder.error(name, errno))
            }
            Node::File { digest, executable } if digest.size <= SMALL_BLOB => {
                let places = self.waiting.entry(*digest).or_default();
                if places.is_empty() {
                    self.bytes += digest.size;
                }
                places.push(Place { folder: folder.clone(), name: name.clone(), executable: *executable });
                self.places += 1;
                // One more blob of the largest size must still fit.
                let full = self.bytes + SMALL_BLOB > BATCH_BYTES;
                if full || self.waiting.len() >= BATCH_COUNT || self.places >= MAX_WAITING {
                    self.flush()
                } else {
                    Ok(())
                }
            }
            Node::File { digest, executable } => {
                let mut file = create(open, name, *executable).map_err(|errno| folder.error(name, errno))?;
                fetch_file(self.fetch, digest, &mut file)
            }
            Node::Directory { digest } => {
                let mode = Mode::from_raw_mode(0o755);
                let made = rustix::fs::mkdirat(open, bytes, mode).and_then(|()| beneath::open_child(open, bytes));
                let made = made.map_err(|errno| folder.error(name, errno))?;
                let inner = folder.child(name);
                for (name, node) in self.plan.tree(digest)?.iter() {
                    self.node(&inner, made.as_fd(), name, node)?;
                }
                Ok(())
            }
        }
    }

    /// Writes what still waits.
    pub(super) fn finish(mut self) -> Result<(), RestoreError> {
        self.flush()
    }

    fn flush(&mut self) -> Result<(), RestoreError> {
        (self.places, self.bytes) = (0, 0);
        let (wants, places): (Vec<_>, Vec<_>) = mem::take(&mut self.waiting).into_iter().unzip();
        if wants.is_empty() {
            return Ok(());
        }
        // The folder written to last: most often the next one too.
        let mut last: Option<(Arc<Folder>, OwnedFd)> = None;
        fetch_small(self.fetch, &wants, |index, bytes| {
            for place in &places[index] {
                let open = match last.take() {
                    Some((folder, open)) if Arc::ptr_eq(&folder, &place.folder) => open,
                    _ => beneath::descend(&place.folder.base, &place.folder.below)
                        .map_err(|blocked| place.folder.error(&place.name, std::io::Error::other(blocked)))?,
                };
                let written = create(open.as_fd(), &place.name, place.executable)
                    .map_err(std::io::Error::from)
                    .and_then(|mut file| file.write_all(bytes));
                written.map_err(|error| place.folder.error(&place.name, error))?;
                last = Some((place.folder.clone(), open));
            }
            Ok(())
        })
    }
}

fn create(folder: BorrowedFd<'_>, name: &[u8], executable: bool) -> rustix::io::Result<File> {
    let mode = if executable { 0o755 } else { 0o644 };
    Ok(rustix::fs::openat(folder, name, NEW, Mode::from_raw_mode(mode))?.into())
}
