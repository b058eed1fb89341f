//! Taking a backup, from the rows to the manifest.
//!
//! Invariants: the rows are read first, at one moment, then every blob that they name; until its manifest is there a
//! backup is nothing, and the ones before stay what they were. What a run leaves that was cut off, the next one uses.

use std::time::{Duration, SystemTime};

use provender_blobs::Blobs;
use provender_core::Timestamp;
use tokio::sync::watch;

use super::folder::Folder;
use super::manifest::Manifest;
use super::{BackupError, copy, inline, prune, rows};
use crate::store::Store;

/// Where a backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Reading rows.
    #[default]
    Rows,
    /// Copying blobs.
    Blobs,
    /// Removing what only old backups needed.
    Pruning,
}

/// How far a backup or a restore has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// What it is at.
    pub phase: Phase,
    /// Rows read so far.
    pub rows: u64,
    /// Large blobs seen to so far.
    pub blobs: u64,
    /// Of how many; 0 while that is not known.
    pub blobs_total: u64,
    /// Their bytes so far.
    pub bytes: u64,
    /// Of how many.
    pub bytes_total: u64,
}

/// Where progress is told.
pub type Telling = watch::Sender<Progress>;

/// What a backup came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Its number.
    pub number: u64,
    /// What it holds.
    pub manifest: Manifest,
    /// Blobs that were copied by this run, large ones.
    pub copied: u64,
    /// Bytes that were written by this run.
    pub written: u64,
    /// The numbers of the backups that are there now.
    pub kept: Vec<u64>,
}

impl Summary {
    /// Blobs without bytes: those known to be lost, and those that were found lost by this run.
    pub fn lost(&self) -> u64 {
        self.manifest.totals.lost + self.manifest.missing.len() as u64
    }

    /// The moment whose state it is.
    pub fn taken(&self) -> Timestamp {
        self.manifest.taken
    }
}

/// Backs the store up into a folder, with the blob store `into` within it, and keeps the newest `keep` backups there (at least one).
pub async fn take(
    store: &Store,
    folder: &Folder,
    into: &std::sync::Arc<dyn Blobs>,
    keep: usize,
    told: &Telling,
) -> Result<Summary, BackupError> {
    let in_backup = |error| BackupError::blobs(folder.dir(), error);
    // Nobody else writes here, so what is staged is of runs that died.
    into.sweep(far_future()).await.map_err(in_backup)?;
    let numbers = folder.numbers().await?;
    let previous = previous(folder, &numbers).await?;

    // Bytes are copied long after the rows were read that name them.
    let _there = store.pause_removal().await?;
    let snapshot = store.meta().snapshot().await?;
    let facts = rows::Facts::of(&*snapshot).await?;
    let mut read = rows::write(&*snapshot, folder, false, told).await?;
    let mut written = std::mem::take(&mut read.written);
    let mut manifest = rows::manifest(facts, snapshot.version(), Some(into.id()), read);
    written += inline::write(store, &*snapshot, folder, previous.as_ref(), &mut manifest).await?;
    // From here on the rows are read from the pieces: large blobs may take long, and a moment that is kept costs the engine.
    drop(snapshot);
    let number = numbers.last().map_or(1, |last| last + 1);
    let copied = copy::copy(store, folder, into, number, &mut manifest, told).await?;
    written += copied.bytes + folder.add(number, &manifest).await?;
    tracing::info!(folder = %folder.dir().display(), number, rows = manifest.totals.rows, copied = copied.blobs, written, "backed up");

    told.send_modify(|progress| progress.phase = Phase::Pruning);
    // The backup is whole whatever becomes of this; the next one tries again.
    if let Err(error) = prune::prune(folder, &**into, keep.max(1)).await {
        let error = crate::store::chain(&error);
        tracing::warn!(folder = %folder.dir().display(), error, "old backups could not be removed");
    }
    Ok(Summary { number, manifest, copied: copied.blobs, written, kept: folder.numbers().await? })
}

/// The newest backup, if it can be built upon.
async fn previous(folder: &Folder, numbers: &[u64]) -> Result<Option<Manifest>, BackupError> {
    let Some(number) = numbers.last() else { return Ok(None) };
    match folder.manifest(*number).await {
        Ok(manifest) => Ok(Some(manifest)),
        Err(error @ (BackupError::Damaged { .. } | BackupError::Newer { .. })) => {
            tracing::warn!(%error, "the last backup cannot be built upon; this one writes everything anew");
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

/// Later than any file.
pub(super) fn far_future() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40)
}
