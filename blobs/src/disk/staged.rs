//! A blob on its way to disk.
//!
//! Owns [`DiskStaged`]. Invariants: bytes are durable before the file gets its name under `objects`, that name is
//! durable before it is told, and what ends in any other way leaves no file, but for what has a token and is cut off. A batch of bytes is hashed and written by
//! two jobs side by side while the next one gathers; no more than those two batches are in memory. What was written is
//! synced beside that as well, so that the disk works from early on instead of from the end.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use provender_core::Digest;
use provender_core::blob::Form;
use provender_core::digest::hex;
use rustix::fs::{
    AtFlags, FallocateFlags, FlockOperation, Mode, OFlags, RenameFlags, fallocate, fchmod, flock, linkat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use tracing::warn;

use super::root::{Root, STAGING};
use super::{Store, object, shard};
use crate::blocking::{Lent, blocking};
use crate::{
    BlobError, CHUNK, Hashes, Ingest, Location, Published, Resume, ResumeToken, Signature, StageOptions, Staged,
    copy_range, share,
};

/// The most that a hint reserves: a claim of size must not fill the disk before its bytes come.
const RESERVE: u64 = 256 << 20;
/// So many bytes are synced together before the end: few enough that the disk is soon busy, enough that a sync pays.
const SYNC: u64 = 32 << 20;
/// Smaller pieces are copied together.
pub(super) const COPY: usize = 16 * 1024;

pub(super) struct DiskStaged {
    file: Lent<StagingFile>,
    ingest: Lent<Ingest>,
    /// The same open file, for syncing, once there is something to sync. A sync that fails is told to nobody else, so
    /// no blob is published without having heard of each.
    sync: Option<Lent<File>>,
    unsynced: u64,
    batch: Batch,
}

impl DiskStaged {
    /// Begins a file, or goes on with one after having read what it has.
    pub(super) fn begin(store: &Arc<Store>, options: &StageOptions) -> Result<DiskStaged, BlobError> {
        let mut ingest = Ingest::new(&options.aliases);
        let reserve = options.size_hint.unwrap_or(0).min(RESERVE);
        let kept = options.resume.map(|resume| StagingFile::resume(store, resume, &mut ingest)).transpose()?.flatten();
        let mut file = match kept {
            Some(file) => file,
            None => StagingFile::create(store)?,
        };
        file.reserve(reserve).map_err(|error| store.failed("begin a blob", error))?;
        Ok(DiskStaged::new(file, ingest))
    }

    fn new(file: StagingFile, ingest: Ingest) -> DiskStaged {
        let (file, ingest) = (Lent::new(file), Lent::new(ingest));
        DiskStaged { file, ingest, sync: None, unsynced: 0, batch: Batch::default() }
    }

    /// Has what was written synced, if it is enough and the last sync is over.
    async fn sync_some(&mut self) -> Result<(), BlobError> {
        if self.unsynced < SYNC || self.sync.as_ref().is_some_and(|sync| !sync.is_settled()) {
            return Ok(());
        }
        let StagingFile { file, store, kept, .. } = self.file.settle().await?;
        let sync = match &mut self.sync {
            Some(sync) => sync,
            sync => {
                let same = file.try_clone().map_err(|error| store.failed("sync a blob", error))?;
                sync.insert(Lent::new(same))
            }
        };
        sync.settle().await?;
        let (store, kept) = (store.clone(), kept.clone());
        sync.lend(move |file| match file.sync_data() {
            Ok(()) => Ok(file),
            Err(error) => {
                kept.store(false, SeqCst);
                // It may have been let go of already, and is told to nobody again: what is there is not to be gone on with.
                _ = file.set_len(0);
                Err(store.failed("sync a blob", error))
            }
        });
        self.unsynced = 0;
        Ok(())
    }
}

#[async_trait]
impl Staged for DiskStaged {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        if self.batch.len + bytes.len() > CHUNK && self.batch.len > 0 {
            self.ingest.settle().await?;
            self.file.settle().await?;
            self.sync_some().await?;
            self.unsynced += self.batch.len as u64;
            let to_hash = self.batch.take();
            let to_write = to_hash.clone();
            self.ingest.lend(move |ingest| Ok(hash(ingest, &to_hash)));
            self.file.lend(move |file| file.append(&to_write));
        }
        self.batch.push(bytes);
        Ok(())
    }

    /// Extents are shared where they can be. What is hashed is read back from this store's own file, beside copying the next piece.
    async fn take(&mut self, source: File, size: u64) -> Result<(), BlobError> {
        let source = Arc::new(source);
        let own = self.file.settle().await?;
        let (store, own) = (own.store.clone(), own.file.try_clone());
        let own = Arc::new(own.map_err(|error| store.failed("take a file", error))?);
        let (from, to) = (source.clone(), own.clone());
        let shared = blocking(move || {
            let failed = |error| store.failed("take a file", error);
            Ok(share(&from, &to).map_err(failed)?.then_some(to.metadata().map_err(failed)?.len()))
        });
        let shared = shared.await?;
        if shared.is_some_and(|shared| shared < size) {
            return Err(BlobError::Short { size });
        }
        let mut offset = 0;
        while offset < size {
            let len = (size - offset).min(CHUNK as u64);
            if shared.is_none() {
                let source = source.clone();
                self.file.lend(move |file| file.copy(&source, offset, len));
            }
            self.file.settle().await?;
            self.ingest.settle().await?;
            let (own, store) = (own.clone(), self.file.settle().await?.store.clone());
            self.ingest.lend(move |mut ingest| {
                let mut piece = vec![0; len as usize];
                own.read_exact_at(&mut piece, offset).map_err(|error| store.failed("take a file", error))?;
                ingest.update(&piece);
                Ok(ingest)
            });
            offset += len;
            self.unsynced += len;
            self.sync_some().await?;
        }
        // It may have had more than was announced.
        let store = self.file.settle().await?.store.clone();
        let cut = blocking(move || own.set_len(size).map_err(|error| store.failed("take a file", error)));
        cut.await
    }

    async fn publish(mut self: Box<Self>, expected: Option<Digest>) -> Result<Published, BlobError> {
        let last = self.batch.take();
        let DiskStaged { file, ingest, sync, .. } = *self;
        let (ingest, file) = (ingest.take().await?, file.take().await?);
        // Nothing of it can be relied on if this fails.
        file.kept.store(false, SeqCst);
        if let Some(sync) = sync {
            sync.take().await?;
        }
        let unclaimed = blocking(move || {
            let hashes = hash(ingest, &last).finish();
            hashes.check(expected)?;
            file.append(&last)?.publish(hashes, Form::Raw)
        });
        Ok(unclaimed.await?.claim())
    }
}

fn hash(mut ingest: Ingest, pieces: &[Bytes]) -> Ingest {
    pieces.iter().for_each(|piece| ingest.update(piece));
    ingest
}

/// Pieces that gather until there are enough for a job.
#[derive(Default)]
struct Batch {
    pieces: Vec<Bytes>,
    small: BytesMut,
    len: usize,
}

impl Batch {
    fn push(&mut self, bytes: Bytes) {
        self.len += bytes.len();
        if bytes.len() < COPY {
            self.small.extend_from_slice(&bytes);
        } else {
            self.seal();
            self.pieces.push(bytes);
        }
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push(self.small.split().freeze());
        }
    }

    fn take(&mut self) -> Vec<Bytes> {
        self.seal();
        mem::take(self).pieces
    }
}

/// A file that nobody was told of yet: dropping it removes it, under whatever name it has by then, unless it has a token.
#[derive(Debug)]
pub(super) struct StagingFile {
    store: Arc<Store>,
    root: Root,
    file: File,
    /// Below the root; `None` once the file is to stay.
    path: Option<String>,
    /// Whether it has a token, so that it stays if it is dropped.
    kept: Arc<AtomicBool>,
    reserved: u64,
}

impl StagingFile {
    pub(super) fn create(store: &Arc<Store>) -> Result<StagingFile, BlobError> {
        let failed = |error| store.failed("begin a blob", error);
        loop {
            let path = format!("{STAGING}/{:016x}", getrandom::u64().map_err(|error| failed(error.into()))?);
            let root = store.root()?;
            // No file: a sweep took it before it was locked.
            if let Some(file) = open_locked(&root, &path, OFlags::CREATE | OFlags::EXCL).map_err(failed)? {
                return Ok(StagingFile {
                    store: store.clone(),
                    root,
                    file,
                    path: Some(path),
                    kept: Arc::default(),
                    reserved: 0,
                });
            }
        }
    }

    /// Takes up the file of a token, having hashed what it has up to where it goes on. `None` if another one writes to it, and
    /// nothing of it is asked for.
    fn resume(store: &Arc<Store>, resume: Resume, ingest: &mut Ingest) -> Result<Option<StagingFile>, BlobError> {
        let Resume { token, from } = resume;
        let failed = |error| store.failed("go on with a blob", error);
        let (root, path) = (store.root()?, token_path(token));
        let Some(file) = open_locked(&root, &path, OFlags::CREATE).map_err(failed)? else {
            return if from == 0 { Ok(None) } else { Err(BlobError::Behind { from, staged: 0 }) };
        };
        // From here on it is kept whatever happens, but for what fails.
        let mut staging = StagingFile {
            store: store.clone(),
            root,
            file,
            path: Some(path),
            kept: Arc::new(true.into()),
            reserved: 0,
        };
        let staged = staging.file.metadata().map_err(failed)?.len();
        if staged < from {
            return Err(BlobError::Behind { from, staged });
        }
        let mut read = 0;
        let mut piece = vec![0; from.min(CHUNK as u64) as usize];
        while read < from {
            let want = (from - read).min(CHUNK as u64) as usize;
            staging.file.read_exact(&mut piece[..want]).map_err(failed)?;
            ingest.update(&piece[..want]);
            read += want as u64;
        }
        staging.file.set_len(from).map_err(failed)?;
        Ok(Some(staging))
    }

    /// How many bytes the file of a token has; `None` while it is being written.
    pub(super) fn staged(store: &Arc<Store>, token: ResumeToken) -> Result<Option<u64>, BlobError> {
        let failed = |error| store.failed("look for a blob to go on with", error);
        match open_locked(&store.root()?, &token_path(token), OFlags::empty()) {
            Ok(Some(file)) => Ok(Some(file.metadata().map_err(failed)?.len())),
            Ok(None) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(0)),
            Err(error) => Err(failed(error)),
        }
    }

    /// Reserves space where the file system can, so that a large file lies in one piece.
    fn reserve(&mut self, bytes: u64) -> Result<(), Errno> {
        if bytes <= CHUNK as u64 {
            return Ok(());
        }
        let reserved = fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, bytes);
        if matches!(reserved, Ok(()) | Err(Errno::NOSPC | Errno::DQUOT)) {
            // What found no room may have taken what there was.
            self.reserved = bytes;
            return reserved;
        }
        Ok(())
    }

    pub(super) fn append(mut self, pieces: &[Bytes]) -> Result<StagingFile, BlobError> {
        for piece in pieces {
            if let Err(error) = self.file.write_all(piece) {
                return Err(self.give_up("write a blob", error));
            }
        }
        Ok(self)
    }

    fn copy(self, source: &File, offset: u64, len: u64) -> Result<StagingFile, BlobError> {
        match copy_range(source, &self.file, offset, len) {
            Ok(some) if some < len => Err(BlobError::Short { size: offset + len }),
            Ok(_) => Ok(self),
            Err(error) => Err(self.give_up("take a file", error)),
        }
    }

    /// A full disk is not to be kept full: what is there is given back before anybody is told, even while another job has it open, so that
    /// who is told finds room to say so.
    fn give_up(&self, doing: &'static str, error: io::Error) -> BlobError {
        self.kept.store(false, SeqCst);
        // The file goes with its last user in any case.
        _ = self.file.set_len(0);
        self.store.failed(doing, error)
    }

    pub(super) fn publish(mut self, hashes: Hashes, form: Form) -> Result<Unclaimed, BlobError> {
        let location = Location::fresh(hashes.digest, form);
        let location = location.map_err(|error| self.store.failed("publish a blob", error))?;
        self.seal(location.stored()).map_err(|error| self.store.failed("sync a blob", error))?;
        let signature = self.rename(&location).map_err(|error| self.store.failed("publish a blob", error))?;
        let Hashes { aliases, outboard, .. } = hashes;
        let published = Published { location, signature: Some(signature), aliases, outboard };
        Ok(Unclaimed { file: self, published })
    }

    /// Makes the bytes final and durable.
    fn seal(&mut self, size: u64) -> io::Result<()> {
        if self.reserved > size {
            self.file.set_len(size)?;
        }
        fchmod(&self.file, Mode::RUSR | Mode::RGRP | Mode::ROTH)?;
        self.file.sync_all()
    }

    /// Gives the file its name under `objects`, durably.
    fn rename(&mut self, location: &Location) -> io::Result<Signature> {
        let to = object(location);
        rename_new(&self.root, self.path.as_deref().unwrap_or_default(), &to)?;
        self.path = Some(to);
        self.root.sync(&shard(location.digest.hash[0]))?;
        Signature::of(&self.file)
    }
}

/// Opens a file in staging, and locks it; `None` if it has no name any more or another one has locked it.
fn open_locked(root: &Root, path: &str, flags: OFlags) -> io::Result<Option<File>> {
    let open = || root.file(path, flags | OFlags::RDWR, Mode::RUSR | Mode::WUSR);
    let file = match open() {
        // It was sealed by who was killed before it had its name: whoever is not root may not even open it to write.
        Err(Errno::ACCESS) => {
            let sealed = root.file(path, OFlags::RDONLY, Mode::empty())?;
            match flock(&sealed, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => fchmod(&sealed, Mode::RUSR | Mode::WUSR)?,
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            drop(sealed);
            open()?
        }
        opened => opened?,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    // Swept, or published, before it was locked.
    let (named, inode) = (statat(root, path, AtFlags::SYMLINK_NOFOLLOW), file.metadata()?.ino());
    Ok(named.is_ok_and(|named| named.st_ino == inode).then_some(file))
}

/// Where the file of a token stands.
fn token_path(token: ResumeToken) -> String {
    format!("{STAGING}/{}", hex(&token.0))
}

/// Renames, never over another file.
pub(super) fn rename_new(root: &Root, from: &str, to: &str) -> Result<(), Errno> {
    match renameat_with(root, from, root, to, RenameFlags::NOREPLACE) {
        // NFS and others do not know the flag.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => link_new(root, from, to),
        renamed => renamed,
    }
}

pub(super) fn link_new(root: &Root, from: &str, to: &str) -> Result<(), Errno> {
    linkat(root, from, root, to, AtFlags::empty())?;
    unlinkat(root, from, AtFlags::empty())
}

impl Drop for StagingFile {
    fn drop(&mut self) {
        let len = self.file.metadata().map_or(0, |file| file.len());
        let kept = self.kept.load(SeqCst) && len > 0;
        if kept && self.reserved > len {
            // Space that was only announced is not kept as well.
            _ = self.file.set_len(len);
        }
        if let (Some(path), false) = (&self.path, kept)
            && let Err(error) = unlinkat(&self.root, path, AtFlags::empty())
            && error != Errno::NOENT
        {
            // A sweep, or the collection of what nothing refers to, finds it later.
            warn!(path, %error, "cannot remove a discarded blob");
        }
    }
}

/// A published blob whose publisher may have gone: unless claimed, it is removed again.
pub(super) struct Unclaimed {
    file: StagingFile,
    published: Published,
}

impl Unclaimed {
    pub(super) fn claim(mut self) -> Published {
        self.file.path = None;
        self.published
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Blobs, Disk};

    #[tokio::test]
    async fn a_sync_that_failed_midway_fails_the_blob() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(&dir.path().join("blobs"), None).await.unwrap();
        for (syncable, last) in [(true, 0), (false, 0), (false, SYNC)] {
            let create = disk.run(|store| DiskStaged::begin(store, &StageOptions::default()));
            let mut staged = Box::new(create.await.unwrap());
            if !syncable {
                // A pipe cannot be synced.
                staged.sync = Some(Lent::new(File::from(std::os::fd::OwnedFd::from(io::pipe().unwrap().0))));
            }
            let piece = Bytes::from(vec![7; CHUNK]);
            let pieces = (SYNC + last) / CHUNK as u64 + 3;
            let stored = async {
                for _ in 0..pieces {
                    staged.write(piece.clone()).await?;
                }
                assert!(staged.unsynced < SYNC, "no sync was begun");
                staged.publish(None).await
            };
            match stored.await.map(|published| published.location.digest.size) {
                Ok(size) => assert!(syncable && size == pieces * CHUNK as u64),
                Err(error) => assert!(!syncable && matches!(error, BlobError::Io { .. }), "{error:?}"),
            }
        }
        assert_eq!(disk.list(None, 9).await.unwrap().locations.len(), 1);
    }
}
