//! Blobs as files, one each, in a folder that any number of processes share.
//!
//! ```text
//! DIR/provender-blobs       the marker: layout version and store id, written last
//! DIR/objects/ab/LOCATION   the blobs, 0444, whole and durable, raw or (LOCATION.zst) in frames; ab: the first byte of the hash
//! DIR/staging/NAME          on their way in, locked by their writer; NAME: random, or a token by which they are gone on with
//! ```
//! Invariants: a file under `objects` is never written to, and gets its name, which never existed before, only after
//! its bytes are durable; nothing is believed to be missing unless the marker, on the same file system, was read in
//! the same call. Nothing is kept in memory that another process could make wrong, and starting reads the marker alone.
//! All 256 folders are made with the store, so that publishing syncs one of them; 100 million blobs are 400,000 in each.

use std::fs::{File, Metadata};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use provender_core::blob::Form;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, fstatvfs, openat, unlinkat};
use rustix::io::Errno;
use tracing::debug;

use crate::blocking::blocking;
use crate::{
    BlobError, Blobs, Claim, Location, Page, Reader, ResumeToken, Signature, Space, StageOptions, Staged, Stat, StoreId,
};

mod frames;
mod layout;
mod listing;
mod marker;
mod packed;
mod reader;
mod root;
mod staged;
mod staging;
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
}

impl Disk {
    /// Opens the store in `dir`; see [`crate::open`] for `known`.
    pub async fn open(dir: &Path, known: Option<StoreId>) -> Result<Disk, BlobError> {
        let dir = dir.to_owned();
        blocking(move || {
            let dir = std::path::absolute(&dir).map_err(|error| BlobError::io(dir.display(), "open", error))?;
            let id = match known {
                Some(id) => {
                    layout::migrate(&dir, id)?;
                    Root::open(&dir, id).map(|_| id)?
                }
                None => marker::open_or_create(&dir)?,
            };
            Ok(Disk { store: Arc::new(Store { dir, id }) })
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
            // There are no packs here, so nothing is found in one.
            Form::Raw | Form::Pack { .. } => {
                self.run(move |store| reader::Cursor::open(store.clone(), location, range)).await.map(reader::stream)
            }
            Form::Frames { .. } => {
                self.run(move |store| frames::Cursor::open(store.clone(), location, range)).await.map(frames::stream)
            }
        }
    }

    async fn stage(&self, options: StageOptions) -> Result<Box<dyn Staged>, BlobError> {
        Ok(match options.frames {
            None => Box::new(self.run(move |store| staged::DiskStaged::begin(store, &options)).await?),
            Some(frames) => {
                let file = self.run(staging::StagingFile::create).await?;
                Box::new(packed::DiskPacked::new(file, &options.aliases, frames)?)
            }
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

    async fn space(&self) -> Result<Option<Space>, BlobError> {
        self.run(move |store| {
            let root = store.root()?;
            let disk = fstatvfs(&root).map_err(|error| store.failed("look how much is free", error))?;
            let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
            Ok(Some(Space { total: bytes(disk.f_blocks), free: bytes(disk.f_bavail) }))
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

    async fn staged(&self, token: ResumeToken) -> Result<Option<u64>, BlobError> {
        self.run(move |store| staging::StagingFile::staged(store, token)).await
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
}

/// A blob's path below the store's folder.
fn object(location: &Location) -> String {
    format!("{}/{location}", shard(location.digest.hash[0]))
}

/// The folder of the blobs whose hash begins with a byte.
fn shard(byte: u8) -> String {
    format!("{}/{byte:02x}", root::OBJECTS)
}
