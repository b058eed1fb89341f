//! A blob on its way to disk.
//!
//! Owns [`DiskStaged`]. Invariants: bytes are durable before the file gets its name under `objects`, that name is
//! durable before it is told, and what ends in any other way leaves no file. A batch of bytes is hashed and written by
//! two jobs side by side while the next one gathers; no more than those two batches are in memory. What was written is
//! synced beside that as well, so that the disk works from early on instead of from the end.

use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use provender_core::Digest;
use provender_core::blob::Form;
use rustix::fs::{
    AtFlags, FallocateFlags, FlockOperation, Mode, OFlags, RenameFlags, fallocate, fchmod, flock, linkat, mkdirat,
    renameat_with, unlinkat,
};
use rustix::io::Errno;
use tracing::warn;

use super::root::{OBJECTS, Root, STAGING};
use super::{Store, object, shard};
use crate::blocking::{Lent, blocking};
use crate::{BlobError, CHUNK, HashFunction, Hashes, Ingest, Location, Published, Signature, Staged};

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
    pub(super) fn new(file: StagingFile, aliases: &[HashFunction]) -> DiskStaged {
        let ingest = Lent::new(Ingest::new(aliases));
        DiskStaged { file: Lent::new(file), ingest, sync: None, unsynced: 0, batch: Batch::default() }
    }

    /// Has what was written synced, if it is enough and the last sync is over.
    async fn sync_some(&mut self) -> Result<(), BlobError> {
        if self.unsynced < SYNC || self.sync.as_ref().is_some_and(|sync| !sync.is_settled()) {
            return Ok(());
        }
        let StagingFile { file, store, .. } = self.file.settle().await?;
        let sync = match &mut self.sync {
            Some(sync) => sync,
            sync => {
                let same = file.try_clone().map_err(|error| store.failed("sync a blob", error))?;
                sync.insert(Lent::new(same))
            }
        };
        sync.settle().await?;
        let store = store.clone();
        sync.lend(move |file| match file.sync_data() {
            Ok(()) => Ok(file),
            Err(error) => Err(store.failed("sync a blob", error)),
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

    async fn publish(mut self: Box<Self>, expected: Option<Digest>) -> Result<Published, BlobError> {
        let last = self.batch.take();
        let DiskStaged { file, ingest, sync, .. } = *self;
        let (ingest, file) = (ingest.take().await?, file.take().await?);
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

/// A file that nobody was told of yet: dropping it removes it, under whatever name it has by then.
#[derive(Debug)]
pub(super) struct StagingFile {
    store: Arc<Store>,
    root: Root,
    file: File,
    /// Below the root; `None` once the file is to stay.
    path: Option<String>,
    reserved: u64,
}

impl StagingFile {
    pub(super) fn create(store: &Arc<Store>, size_hint: Option<u64>) -> Result<StagingFile, BlobError> {
        let begin = |root: &Root| -> io::Result<(String, File)> {
            let path = format!("{STAGING}/{:016x}", getrandom::u64()?);
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
            Ok((path.clone(), root.file(&path, flags, Mode::RUSR | Mode::WUSR)?))
        };
        let failed = |error| store.failed("begin a blob", error);
        let root = store.root()?;
        let (path, file) = begin(&root).map_err(failed)?;
        let mut staging = StagingFile { store: store.clone(), root, file, path: Some(path), reserved: 0 };
        flock(&staging.file, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        if staging.file.metadata().map_err(failed)?.nlink() == 0 {
            // A sweep took it before it was locked.
            return StagingFile::create(store, size_hint);
        }
        staging.reserve(size_hint.unwrap_or(0).min(RESERVE)).map_err(|error| failed(error.into()))?;
        Ok(staging)
    }

    /// Reserves space where the file system can, so that a large file lies in one piece.
    fn reserve(&mut self, bytes: u64) -> Result<(), Errno> {
        if bytes <= CHUNK as u64 {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, bytes) {
            Ok(()) => self.reserved = bytes,
            Err(error @ (Errno::NOSPC | Errno::DQUOT)) => return Err(error),
            Err(_) => {}
        }
        Ok(())
    }

    pub(super) fn append(mut self, pieces: &[Bytes]) -> Result<StagingFile, BlobError> {
        for piece in pieces {
            self.file.write_all(piece).map_err(|error| self.store.failed("write a blob", error))?;
        }
        Ok(self)
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
        let shard = shard(location);
        let inner = format!("{OBJECTS}/{:02x}/{:02x}", shard[0], shard[1]);
        let outer = &inner[..inner.len() - 3];
        let mut new_shard = !self.store.is_durable(shard);
        let (from, to) = (self.path.clone().unwrap_or_default(), object(location));
        let mut renamed = rename_new(&self.root, &from, &to);
        if renamed == Err(Errno::NOENT) {
            new_shard = true;
            for dir in [outer, &inner] {
                match mkdirat(&self.root, dir, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            renamed = rename_new(&self.root, &from, &to);
        }
        renamed?;
        self.path = Some(to);
        self.root.sync(&inner)?;
        // Whoever made the folders may not have come to this yet.
        if new_shard {
            self.root.sync(outer)?;
            self.root.sync(OBJECTS)?;
            self.store.set_durable(shard);
        }
        Signature::of(&self.file)
    }
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
        if let Some(path) = &self.path
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
            let create = disk.run(|store| StagingFile::create(store, None));
            let mut staged = Box::new(DiskStaged::new(create.await.unwrap(), &[]));
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
