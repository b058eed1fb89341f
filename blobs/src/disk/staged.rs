//! A blob on its way to disk.
//!
//! Owns [`DiskStaged`]: the order of things. A batch of bytes is hashed and written by two jobs side by side while the next one gathers; no more
//! than those two batches are in memory. What was written is synced beside that as well, so that the disk works from early on instead of from
//! the end. Invariant: no blob is published without having heard of each sync.

use std::fs::File;
use std::mem;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use provender_core::Digest;
use provender_core::blob::Form;

use super::Store;
use super::staging::StagingFile;
use crate::blocking::{Lent, blocking};
use crate::{BlobError, CHUNK, Ingest, Published, StageOptions, Staged, share};

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

#[cfg(test)]
mod tests {
    use std::io;

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
