//! Copying large blobs into a backup, those that it has not.
//!
//! Both sides are blob stores, each with locations of its own; what they share is digests. Invariants: what is copied is hashed on
//! its way; of what is there already the size is looked at, and every [`AGAIN`]-th is read again, others each time, so that decay is found
//! and mended while the store has the bytes, and no backup costs reading all those before. A blob that is gone from where the rows say was moved meanwhile, or is lost: the
//! store is asked again, and told.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use provender_blobs::{BlobError, Blobs, Location, StageOptions};
use provender_core::batch::Table;
use provender_core::blob::{Form, Place, Stored};
use provender_core::{Digest, rows};

use super::folder::BLOBS;
use super::manifest::Manifest;
use super::rows::blob;
use super::take::Telling;
use super::{BackupError, Folder, Phase, check};
use crate::store::{Store, StoreError, located};

/// How many blobs are copied at once, so that syncing one and reading another overlap.
pub(super) const AT_ONCE: usize = 4;
/// Each blob that is there is read again by one of so many backups in a row.
const AGAIN: u64 = 7;
/// How often a blob is looked for before its trouble is an error.
const LOOKS: usize = 5;
/// How many of the blobs that are in packs are read together.
const TOGETHER: usize = 500;
/// How many locations are listed at once.
const PAGE: usize = 5_000;

/// What copying came to.
#[derive(Debug, Default)]
pub(super) struct Copied {
    pub(super) blobs: u64,
    pub(super) bytes: u64,
}

/// What became of one.
enum Fate {
    Copied(u64),
    Missing(Digest),
}

/// Sees to it that every large blob that the manifest's rows name is in the backup's blob store.
pub(super) async fn copy(
    store: &Store,
    folder: &Folder,
    into: &Arc<dyn Blobs>,
    number: u64,
    manifest: &mut Manifest,
    told: &Telling,
) -> Result<Copied, BackupError> {
    let in_backup = |error| BackupError::blobs(folder.dir(), error);
    let totals = manifest.totals;
    told.send_modify(|progress| {
        progress.phase = Phase::Blobs;
        (progress.blobs_total, progress.bytes_total) = (totals.blobs, totals.blob_bytes);
    });
    let seen = |digest: &Digest| {
        told.send_modify(|progress| {
            (progress.blobs, progress.bytes) = (progress.blobs + 1, progress.bytes + digest.size)
        });
    };
    let copying = Arc::new(Copying { store: store.clone(), into: into.clone(), folder: folder.clone() });
    let (mut there, mut copied) = (Present::new(&**into), Copied::default());
    for piece in manifest.of(Table::Blob).copied().collect::<Vec<_>>() {
        let (mut wanted, mut present) = (Vec::new(), Vec::new());
        for (key, value) in folder.rows(&piece).await? {
            let (digest, stored) = blob(&key, &value)?;
            if stored.lost.is_some() || stored.place == Place::Inline {
                continue;
            }
            match there.find(&digest).await.map_err(in_backup)? {
                Some(location) => present.push((location, stored)),
                None => wanted.push((digest, stored)),
            }
        }
        let locations: Vec<_> = present.iter().map(|(location, _)| *location).collect();
        let stats = into.stat(&locations).await.map_err(in_backup)?;
        let looks = present.into_iter().zip(stats).map(|((location, stored), stat)| {
            let (folder, into) = (folder.clone(), into.clone());
            async move {
                let whole = match stat.is_some_and(|stat| stat.size == location.digest.size) {
                    true if is_read_again(&location.digest, number) => check::read(&folder, &*into, &location).await,
                    true => Ok(()),
                    false => Err(folder.damaged(BLOBS, "it has not the size that it was written with")),
                };
                (location, stored, whole)
            }
        });
        let mut looks = stream::iter(looks).buffer_unordered(AT_ONCE);
        while let Some((location, stored, whole)) = looks.next().await {
            match whole {
                Ok(()) => seen(&location.digest),
                Err(error @ BackupError::Damaged { .. }) => {
                    tracing::warn!(%location, %error, "a blob in the backup is not as it was written; it is copied anew");
                    into.remove(&location).await.map_err(in_backup)?;
                    wanted.push((location.digest, stored));
                }
                Err(other) => return Err(other),
            }
        }
        for wanted in wanted.chunks(TOGETHER) {
            let places: Vec<_> = wanted.iter().map(|(digest, stored)| located(digest, stored).0).collect();
            let mut packed: HashMap<_, _> = store.read_packed(&places).await?.into_iter().collect();
            let copies = wanted.iter().map(|(digest, stored)| {
                let (copying, digest, stored, bytes) =
                    (copying.clone(), *digest, stored.clone(), packed.remove(digest));
                async move { copying.copy(digest, stored, bytes).await.map(|fate| (digest, fate)) }
            });
            let mut copies = stream::iter(copies.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
            while let Some((digest, fate)) = copies.try_next().await? {
                match fate {
                    Fate::Copied(bytes) => (copied.blobs, copied.bytes) = (copied.blobs + 1, copied.bytes + bytes),
                    Fate::Missing(digest) => _ = manifest.missing.insert(digest),
                }
                seen(&digest);
            }
        }
    }
    Ok(copied)
}

/// Whether it is this backup's turn to read a blob that is there.
fn is_read_again(digest: &Digest, number: u64) -> bool {
    (u64::from(digest.hash[31]) + number).is_multiple_of(AGAIN)
}

struct Copying {
    store: Store,
    into: Arc<dyn Blobs>,
    folder: Folder,
}

impl Copying {
    /// Copies a blob, of which the bytes may be at hand.
    async fn copy(&self, digest: Digest, mut stored: Stored, bytes: Option<Bytes>) -> Result<Fate, BackupError> {
        if let Some(bytes) = bytes {
            let put = provender_blobs::put(&*self.into, bytes, Some(digest)).await;
            return put
                .map(|_| Fate::Copied(digest.size))
                .map_err(|error| BackupError::blobs(self.folder.dir(), error));
        }
        let mut why = String::new();
        for _ in 0..LOOKS {
            let brought = match stored.place {
                Place::Inline => self.bring_row(&digest, &stored).await?,
                Place::Backend { .. } => self.bring(&located(&digest, &stored).0).await?,
            };
            match brought {
                Ok(()) => return Ok(Fate::Copied(digest.size)),
                Err(error) => why = error,
            }
            self.store.suspect(&digest, &stored).await;
            match self.store.stored(&digest).await? {
                // Stored anew, or at another place; or it is right, and only seemed wrong.
                Some(now) if now.lost.is_none() => stored = now,
                _ => {
                    tracing::warn!(%digest, why, "the bytes of a blob are lost; the backup goes without them");
                    return Ok(Fate::Missing(digest));
                }
            }
        }
        Err(StoreError::Lost { digest, why }.into())
    }

    /// Copies a file; why not, if its bytes are not there or not right.
    async fn bring(&self, location: &Location) -> Result<Result<(), String>, BackupError> {
        let in_backup = |error| BackupError::blobs(self.folder.dir(), error);
        let size = location.digest.size;
        let mut reader = match self.store.blobs().open(location, 0..size).await {
            Ok(reader) => reader,
            Err(error) => return lost(error),
        };
        let options =
            StageOptions { size_hint: Some(size), announced: Some(location.digest), ..StageOptions::default() };
        let mut staged = self.into.stage(options).await.map_err(in_backup)?;
        while let Some(piece) = reader.next().await {
            match piece {
                Ok(piece) => staged.write(piece).await.map_err(in_backup)?,
                Err(error) => return lost(error),
            }
        }
        match staged.publish(Some(location.digest)).await {
            Ok(_) => Ok(Ok(())),
            Err(error @ BlobError::Mismatch { .. }) => Ok(Err(error.to_string())),
            Err(error) => Err(in_backup(error)),
        }
    }

    /// The same of a blob that is a row by now.
    async fn bring_row(&self, digest: &Digest, stored: &Stored) -> Result<Result<(), String>, BackupError> {
        let row = self.store.meta().get(&[rows::inline(digest, stored.nonce)]).await?.pop().flatten();
        let Some(row) = row else { return Ok(Err("its row is missing".into())) };
        match provender_blobs::put(&*self.into, row.value, Some(*digest)).await {
            Ok(_) => Ok(Ok(())),
            Err(error @ BlobError::Mismatch { .. }) => Ok(Err(error.to_string())),
            Err(error) => Err(BackupError::blobs(self.folder.dir(), error)),
        }
    }
}

/// What the store's own backend says of bytes that are not there or not right; anything else is no news of them.
fn lost<T>(error: BlobError) -> Result<Result<T, String>, BackupError> {
    match error {
        BlobError::NotFound { .. } | BlobError::Corrupt { .. } => Ok(Err(error.to_string())),
        other => Err(StoreError::Blobs(other).into()),
    }
}

/// What a blob store holds, asked for in order of digests.
pub(super) struct Present<'a> {
    blobs: &'a dyn Blobs,
    page: std::vec::IntoIter<Location>,
    at: Option<Location>,
    next: Option<Location>,
    ended: bool,
}

impl<'a> Present<'a> {
    pub(super) fn new(blobs: &'a dyn Blobs) -> Present<'a> {
        Present { blobs, page: Vec::new().into_iter(), at: None, next: None, ended: false }
    }

    /// Passes over what comes before this digest; before anything was asked for.
    pub(super) fn begin_at(&mut self, digest: &Digest) {
        // What is listed comes after it; nonces are random, so none is 0.
        self.next = Some(Location { digest: *digest, nonce: 0, form: Form::Raw });
    }

    /// A copy of a blob. Digests must be asked for in order.
    pub(super) async fn find(&mut self, digest: &Digest) -> Result<Option<Location>, BlobError> {
        while self.at.is_none_or(|at| at.digest < *digest) {
            if !self.advance().await? {
                return Ok(None);
            }
        }
        Ok(self.at.filter(|at| at.digest == *digest))
    }

    /// The next location of all.
    pub(super) async fn next(&mut self) -> Result<Option<Location>, BlobError> {
        Ok(if self.advance().await? { self.at } else { None })
    }

    async fn advance(&mut self) -> Result<bool, BlobError> {
        loop {
            if let Some(location) = self.page.next() {
                self.at = Some(location);
                return Ok(true);
            }
            if self.ended {
                return Ok(false);
            }
            let page = self.blobs.list(self.next.as_ref(), PAGE).await?;
            (self.page, self.ended) = (page.locations.into_iter(), page.next.is_none());
            self.next = page.next;
        }
    }
}
