//! Blobs as files, one each, in a folder that any number of processes share.
//!
//! ```text
//! DIR/provender-blobs          the marker: layout version and store id, written last
//! DIR/objects/ab/cd/LOCATION   the blobs, 0444, whole and durable, raw or (LOCATION.zst) in frames; ab, cd: the first bytes of the hash
//! DIR/staging/NONCE            on their way in, locked by their writer
//! ```
//! Invariants: a file under `objects` is never written to, and gets its name, which never existed before, only after
//! its bytes are durable; nothing is believed to be missing unless the marker, on the same file system, was read in
//! the same call. Nothing is kept in memory that another process could make wrong, and starting reads the marker alone.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use provender_core::blob::Form;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, openat, unlinkat};
use rustix::io::Errno;
use tracing::debug;

use crate::blocking::blocking;
use crate::{BlobError, Blobs, Claim, Location, Page, Reader, Signature, StageOptions, Staged, Stat, StoreId};

mod frames;
mod listing;
mod marker;
mod packed;
mod reader;
mod root;
mod staged;
mod sweep;
#[cfg(test)]
mod tests;

use root::Root;

/// How files are opened: a link or a FIFO that somebody put there neither leads away nor blocks.
const PLAIN: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);

/// Blobs in a folder.
#[derive(Debug, Clone)]
pub struct Disk {
    store: Arc<Store>,
}

/// What all calls share; its methods block.
#[derive(Debug)]
struct Store {
    dir: PathBuf,
    id: StoreId,
    /// Shards whose own names were made durable by this process.
    durable_shards: Mutex<HashSet<[u8; 2]>>,
}

impl Disk {
    /// Opens the store in `dir`; see [`crate::open`] for `known`.
    pub async fn open(dir: &Path, known: Option<StoreId>) -> Result<Disk, BlobError> {
        let dir = dir.to_owned();
        blocking(move || {
            let dir = std::path::absolute(&dir).map_err(|error| BlobError::io(dir.display(), "open", error))?;
            let id = match known {
                Some(id) => Root::open(&dir, id).map(|_| id)?,
                None => marker::open_or_create(&dir)?,
            };
            Ok(Disk { store: Arc::new(Store { dir, id, durable_shards: Mutex::default() }) })
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Store>) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let store = self.store.clone();
        blocking(move || work(&store)).await
    }
}

#[async_trait]
impl Blobs for Disk {
    fn id(&self) -> StoreId {
        self.store.id
    }

    async fn prove(&self) -> Result<(), BlobError> {
        self.run(|store| store.root().map(drop)).await
    }

    async fn stat(&self, locations: &[Location]) -> Result<Vec<Option<Stat>>, BlobError> {
        let locations = locations.to_owned();
        self.run(move |store| {
            let stat = |(_, metadata): (File, Metadata)| Stat {
                size: metadata.len(),
                signature: Some(Signature::from(&metadata)),
            };
            locations.iter().map(|location| Ok(store.find(location)?.map(stat))).collect()
        })
        .await
    }

    async fn open(&self, location: &Location, range: Range<u64>) -> Result<Reader, BlobError> {
        let (location, range) = (*location, location.cut(range)?);
        match location.form {
            Form::Raw => {
                self.run(move |store| reader::Cursor::open(store.clone(), location, range)).await.map(reader::stream)
            }
            Form::Frames { .. } => {
                self.run(move |store| frames::Cursor::open(store.clone(), location, range)).await.map(frames::stream)
            }
        }
    }

    async fn stage(&self, options: StageOptions) -> Result<Box<dyn Staged>, BlobError> {
        let reserve = options.size_hint.filter(|_| options.frames.is_none());
        let file = self.run(move |store| staged::StagingFile::create(store, reserve)).await?;
        Ok(match options.frames {
            None => Box::new(staged::DiskStaged::new(file, &options.aliases)),
            Some(frames) => Box::new(packed::DiskPacked::new(file, &options.aliases, frames)?),
        })
    }

    async fn remove(&self, location: &Location) -> Result<(), BlobError> {
        let location = *location;
        self.run(move |store| {
            let root = store.root()?;
            match unlinkat(&root, object(&location), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(error) => Err(store.failed("remove a blob", error)),
            }
        })
        .await
    }

    async fn list(&self, after: Option<&Location>, limit: usize) -> Result<Page, BlobError> {
        let after = after.copied();
        self.run(move |store| listing::list(store, after.as_ref(), limit.max(1))).await
    }

    async fn file(&self, location: &Location) -> Result<Option<(File, Signature)>, BlobError> {
        let location = *location;
        self.run(move |store| {
            let (file, metadata) = store.find(&location)?.ok_or(BlobError::NotFound { location })?;
            // The lock is the open file's: it lasts until the last descriptor of it is closed, wherever that went.
            let claimed = flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK);
            let is_it = location.form == Form::Raw && !claimed;
            Ok(is_it.then(|| (file, Signature::from(&metadata))))
        })
        .await
    }

    async fn claim(&self, location: &Location) -> Result<Option<Claim>, BlobError> {
        let location = *location;
        self.run(move |store| {
            let (file, _) = store.find(&location)?.ok_or(BlobError::NotFound { location })?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(Some(Claim { _locked: Some(file) })),
                // Also where the file system has no such lock, or none on a file that is not writable, as NFS.
                Err(error) => {
                    debug!(%location, %error, "a blob is in use");
                    Ok(None)
                }
            }
        })
        .await
    }

    async fn sweep(&self, before: SystemTime) -> Result<u64, BlobError> {
        self.run(move |store| sweep::sweep(store, before)).await
    }
}

impl Store {
    /// The folder, proven to be this store's.
    fn root(&self) -> Result<Root, BlobError> {
        Root::open(&self.dir, self.id)
    }

    /// Opens the file of a blob; `None` if there is none for sure.
    fn find(&self, location: &Location) -> Result<Option<(File, Metadata)>, BlobError> {
        let flags = OFlags::RDONLY | PLAIN;
        let path = object(location);
        let mut opened = openat(CWD, self.dir.join(&path), flags, Mode::empty());
        if matches!(opened, Err(Errno::NOENT)) {
            opened = openat(self.root()?, &path, flags, Mode::empty());
        }
        let file = match opened {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(location.corrupt("its file is a link")),
            Err(error) => return Err(self.failed("open a blob", error)),
        };
        let metadata = file.metadata().map_err(|error| self.failed("open a blob", error))?;
        match metadata.is_file() {
            true => Ok(Some((file, metadata))),
            false => Err(location.corrupt("it is not a regular file")),
        }
    }

    fn failed(&self, doing: &'static str, error: impl Into<std::io::Error>) -> BlobError {
        BlobError::io(self.dir.display(), doing, error)
    }

    fn is_durable(&self, shard: [u8; 2]) -> bool {
        self.durable_shards.lock().unwrap_or_else(PoisonError::into_inner).contains(&shard)
    }

    fn set_durable(&self, shard: [u8; 2]) {
        self.durable_shards.lock().unwrap_or_else(PoisonError::into_inner).insert(shard);
    }
}

/// The two bytes whose folders a blob's file is in.
fn shard(location: &Location) -> [u8; 2] {
    [location.digest.hash[0], location.digest.hash[1]]
}

/// A blob's path below the store's folder.
fn object(location: &Location) -> String {
    let [a, b] = shard(location);
    format!("{}/{a:02x}/{b:02x}/{location}", root::OBJECTS)
}
