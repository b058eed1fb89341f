//! Looking whether backups are whole: every byte that a restore would read is read and hashed.
//!
//! Invariant: nothing is changed; what is found is told file by file, as far as it goes on. What is in memory is bounded, however many
//! small blobs there are: they are looked through in several passes.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use provender_blobs::{BlobError, Blobs, Location, verified};
use provender_core::Digest;
use provender_core::batch::Table;
use provender_core::blob::Place;

use super::copy::{AT_ONCE, Present};
use super::folder::{BLOBS, Folder};
use super::manifest::Manifest;
use super::rows::blob;
use super::take::Telling;
use super::{BackupError, Phase};

/// How many small blobs are looked for in one pass.
const PASS: u64 = 2_000_000;
/// How many faults are told.
const MOST: usize = 100;

/// What is wrong with a backup; nothing if it can be restored as a whole. An error is no news of it.
pub async fn check(folder: &Folder, manifest: &Manifest, told: &Telling) -> Result<Vec<BackupError>, BackupError> {
    let blobs = folder.blobs().await?;
    let mut faults = Faults::default();
    told.send_modify(|progress| progress.phase = Phase::Rows);
    for piece in manifest.pieces() {
        if let Some(rows) = faults.note(folder.rows(piece).await)? {
            told.send_modify(|progress| progress.rows += rows.len() as u64);
        }
    }
    // What cannot be read names nothing.
    if faults.0.is_empty() {
        small(folder, manifest, &mut faults).await?;
    }
    if let (Some(blobs), true) = (blobs, faults.0.is_empty()) {
        large(folder, &blobs, manifest, &mut faults, told).await?;
    }
    faults.0.truncate(MOST);
    Ok(faults.0)
}

#[derive(Default)]
struct Faults(Vec<BackupError>);

impl Faults {
    fn note<T>(&mut self, result: Result<T, BackupError>) -> Result<Option<T>, BackupError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error @ BackupError::Damaged { .. }) => {
                self.0.push(error);
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }
}

/// Whether the bytes of all small blobs are somewhere.
async fn small(folder: &Folder, manifest: &Manifest, faults: &mut Faults) -> Result<(), BackupError> {
    let passes = manifest.totals.inline.div_ceil(PASS).max(1);
    for pass in 0..passes {
        let mut wanted = HashSet::new();
        for piece in manifest.of(Table::Blob) {
            for (key, value) in folder.rows(piece).await? {
                let (digest, stored) = blob(&key, &value)?;
                let of_use = stored.place == Place::Inline && stored.lost.is_none();
                if of_use && !manifest.missing.contains(&digest) && u64::from(digest.hash[31]) % passes == pass {
                    wanted.insert(provender_core::rows::inline(&digest, stored.nonce).key);
                }
            }
        }
        for piece in manifest.of(Table::Inline).chain(&manifest.inline) {
            for (key, value) in folder.rows(piece).await? {
                let right = key.get(1..41).and_then(Digest::from_bytes) == Some(Digest::of(&value));
                if right {
                    wanted.remove(&key);
                }
            }
        }
        if !wanted.is_empty() {
            let why = format!("the bytes of {} small blobs are in none of its pieces", wanted.len());
            faults.0.push(folder.damaged("rows", why));
        }
    }
    Ok(())
}

/// Reads every large blob.
async fn large(
    folder: &Folder,
    blobs: &Arc<dyn Blobs>,
    manifest: &Manifest,
    faults: &mut Faults,
    told: &Telling,
) -> Result<(), BackupError> {
    let in_backup = |error| BackupError::blobs(folder.dir(), error);
    let totals = manifest.totals;
    told.send_modify(|progress| {
        progress.phase = Phase::Blobs;
        (progress.blobs_total, progress.bytes_total) = (totals.blobs, totals.blob_bytes);
    });
    let mut there = Present::new(&**blobs);
    for piece in manifest.of(Table::Blob) {
        let mut found = Vec::new();
        for (key, value) in folder.rows(piece).await? {
            let (digest, stored) = blob(&key, &value)?;
            if stored.place == Place::Inline || stored.lost.is_some() || manifest.missing.contains(&digest) {
                continue;
            }
            match there.find(&digest).await.map_err(in_backup)? {
                Some(location) => found.push(location),
                None => faults.0.push(folder.damaged(BLOBS, format!("it has no file of the blob {digest}"))),
            }
        }
        let mut reads = stream::iter(found)
            .map(|location| {
                let (folder, blobs) = (folder.clone(), blobs.clone());
                async move { (location, read(&folder, &*blobs, &location).await) }
            })
            .buffer_unordered(AT_ONCE);
        while let Some((location, read)) = reads.next().await {
            faults.note(read)?;
            told.send_modify(|progress| {
                (progress.blobs, progress.bytes) = (progress.blobs + 1, progress.bytes + location.digest.size);
            });
        }
    }
    Ok(())
}

/// Reads a large blob of a backup.
pub(super) async fn read(folder: &Folder, blobs: &dyn Blobs, location: &Location) -> Result<(), BackupError> {
    let read = async {
        let mut reader = verified(*location, blobs.open(location, 0..location.digest.size).await?);
        while reader.try_next().await?.is_some() {}
        Ok(())
    };
    read.await.map_err(|error| damaged(folder, location, error))
}

/// What the backup's blob store says of a file that it lists.
pub(super) fn damaged(folder: &Folder, location: &Location, error: BlobError) -> BackupError {
    // Where below it is the blob store's own affair.
    let path = format!("{BLOBS}/…/{location}");
    match error {
        BlobError::NotFound { .. } => folder.damaged(&path, "it is missing"),
        BlobError::Corrupt { why, .. } => folder.damaged(&path, why),
        BlobError::Mismatch { .. } => folder.damaged(&path, "its bytes are not those that were written"),
        other => BackupError::Blobs(other),
    }
}
