//! Removing old backups, and what only they needed.
//!
//! Invariant: manifests go first, then what none of those that are left names; if one of those cannot be read, nothing else goes.

use std::collections::{BTreeSet, VecDeque};

use provender_blobs::Blobs;
use provender_core::Digest;
use provender_core::batch::Table;
use provender_core::blob::Place;
use provender_core::digest::unhex;

use super::copy::Present;
use super::folder::{ROWS, manifest_path};
use super::manifest::Manifest;
use super::pieces::Piece;
use super::rows::blob;
use super::{BackupError, Folder};

/// Keeps the newest `keep` backups.
pub(super) async fn prune(folder: &Folder, blobs: &dyn Blobs, keep: usize) -> Result<(), BackupError> {
    let numbers = folder.numbers().await?;
    let (old, kept) = numbers.split_at(numbers.len().saturating_sub(keep));
    if old.is_empty() {
        return Ok(());
    }
    for number in old {
        folder.remove(&manifest_path(*number)).await?;
    }
    let mut manifests = Vec::new();
    for number in kept {
        manifests.push(folder.manifest(*number).await?);
    }
    pieces(folder, &manifests).await?;
    large(folder, blobs, &manifests).await
}

async fn pieces(folder: &Folder, manifests: &[Manifest]) -> Result<(), BackupError> {
    let named: BTreeSet<[u8; 32]> = manifests.iter().flat_map(Manifest::pieces).map(|piece| piece.hash).collect();
    for shard in folder.list(ROWS).await? {
        for name in folder.list(&format!("{ROWS}/{shard}")).await? {
            if unhex(&name).is_none_or(|hash| !named.contains(&hash)) {
                folder.remove(&format!("{ROWS}/{shard}/{name}")).await?;
            }
        }
    }
    Ok(())
}

/// All backups' blobs side by side, in order.
async fn large(folder: &Folder, blobs: &dyn Blobs, manifests: &[Manifest]) -> Result<(), BackupError> {
    let in_backup = |error| BackupError::blobs(folder.dir(), error);
    let mut named: Vec<_> = manifests.iter().map(|manifest| Named::new(folder, manifest)).collect();
    let mut there = Present::new(blobs);
    while let Some(location) = there.next().await.map_err(in_backup)? {
        let mut is_named = false;
        for one in &mut named {
            is_named |= one.has(&location.digest).await?;
        }
        if !is_named {
            blobs.remove(&location).await.map_err(in_backup)?;
        }
    }
    Ok(())
}

/// The large blobs that one backup names, in order.
struct Named<'a> {
    folder: &'a Folder,
    pieces: VecDeque<Piece>,
    digests: VecDeque<Digest>,
}

impl<'a> Named<'a> {
    fn new(folder: &'a Folder, manifest: &Manifest) -> Named<'a> {
        Named { folder, pieces: manifest.of(Table::Blob).copied().collect(), digests: VecDeque::new() }
    }

    /// Whether it names this one. Digests must be asked for in order.
    async fn has(&mut self, digest: &Digest) -> Result<bool, BackupError> {
        loop {
            while self.digests.front().is_some_and(|front| front < digest) {
                self.digests.pop_front();
            }
            if let Some(front) = self.digests.front() {
                return Ok(front == digest);
            }
            let Some(piece) = self.pieces.pop_front() else { return Ok(false) };
            for (key, value) in self.folder.rows(&piece).await? {
                let (digest, stored) = blob(&key, &value)?;
                if stored.place != Place::Inline && stored.lost.is_none() {
                    self.digests.push_back(digest);
                }
            }
        }
    }
}
