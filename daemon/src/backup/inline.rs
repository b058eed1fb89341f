//! The bytes of small blobs, which are rows.
//!
//! Their keys are hashes, so new ones lie between all the old ones, and pieces cut by key would all be new each time. But such a row
//! never changes: so each backup adds the rows that are new since the one before, behind the pieces of that, and whoever restores
//! takes those that a blob's row names. Invariant: of every small blob that the rows name and that is not missing, the bytes are in
//! some piece. All is written anew once less than half of it is of use, or it lies in too many pieces, or any
//! of them was damaged.

use std::collections::BTreeSet;

use bytes::Bytes;
use provender_core::batch::{RowKey, Table};
use provender_core::blob::{Place, Stored};
use provender_core::{Digest, rows};

use super::manifest::Manifest;
use super::pieces::{Cut, Cutter, Piece};
use super::rows::blob;
use super::{BackupError, Folder};
use crate::meta::{Scan, Snapshot};
use crate::store::Store;

/// How many rows are read at once: each has 16 KiB at most.
const AT_ONCE: usize = 200;
/// What may be of no use before all is written anew, in bytes.
const SLACK: u64 = 16 << 20;
/// How many pieces are fine, however small.
const PIECES: u64 = 64;

/// Fills in what the manifest says of small blobs' bytes; says how many bytes were written.
pub(super) async fn write(
    store: &Store,
    snapshot: &dyn Snapshot,
    folder: &Folder,
    previous: Option<&Manifest>,
    manifest: &mut Manifest,
) -> Result<u64, BackupError> {
    let base = match previous.filter(|previous| can_be_added_to(previous, manifest)) {
        Some(base) if are_whole(folder, &base.inline).await? => Some(base),
        _ => None,
    };
    let since = base.map_or(0, |base| base.version.0);
    let nothing = BTreeSet::new();
    let sought = base.map_or(&nothing, |base| &base.missing);
    let mut adding =
        Adding { store, snapshot, folder, cutter: Cutter::new(Table::Inline), new: Vec::new(), written: 0 };
    let mut missing = BTreeSet::new();
    let mut scan = Scan::prefix(Table::Blob, "");
    loop {
        let page = snapshot.scan(&scan).await?;
        let mut fresh = Vec::new();
        for (key, row) in &page.rows {
            let (digest, stored) = blob(key, &row.value)?;
            let of_use = stored.place == Place::Inline && stored.lost.is_none();
            if of_use && (row.version.0 > since || sought.contains(&digest)) {
                fresh.push((digest, stored));
            }
        }
        for some in fresh.chunks(AT_ONCE) {
            missing.extend(adding.add(some).await?);
        }
        scan.after = page.rows.last().map(|(key, _)| key.clone());
        if !page.more {
            break;
        }
    }
    let (new, written) = adding.finish().await?;
    manifest.inline = base.map(|base| base.inline.clone()).unwrap_or_default();
    manifest.inline.extend(new);
    manifest.missing.extend(missing);
    Ok(written)
}

/// Whether pieces can still be read, each of which is: what was damaged since would make every backup bad that names it.
async fn are_whole(folder: &Folder, pieces: &[Piece]) -> Result<bool, BackupError> {
    for piece in pieces {
        match folder.rows(piece).await {
            Ok(_) => {}
            Err(error @ BackupError::Damaged { .. }) => {
                tracing::warn!(%error, "the bytes of small blobs are written anew, all of them");
                return Ok(false);
            }
            Err(other) => return Err(other),
        }
    }
    Ok(true)
}

/// Whether the versions of both mean the same commits, and enough of what is there is of use.
fn can_be_added_to(previous: &Manifest, now: &Manifest) -> bool {
    let packed: u64 = previous.inline.iter().map(|piece| piece.bytes).sum();
    let live = now.totals.inline_bytes;
    previous.store == now.store
        && previous.incarnation == now.incarnation
        && previous.version <= now.version
        && packed <= 2 * live + SLACK
        && previous.inline.len() as u64 <= PIECES + live / (64 << 10)
}

struct Adding<'a> {
    store: &'a Store,
    snapshot: &'a dyn Snapshot,
    folder: &'a Folder,
    cutter: Cutter,
    new: Vec<Piece>,
    written: u64,
}

impl Adding<'_> {
    /// Adds the bytes of some blobs; those of which there are none.
    async fn add(&mut self, blobs: &[(Digest, Stored)]) -> Result<Vec<Digest>, BackupError> {
        let keys: Vec<RowKey> = blobs.iter().map(|(digest, stored)| rows::inline(digest, stored.nonce)).collect();
        let found = self.snapshot.get(&keys).await?;
        let mut missing = Vec::new();
        for (((digest, stored), key), row) in blobs.iter().zip(&keys).zip(found) {
            match row.map(|row| row.value).filter(|bytes| Digest::of(bytes) == *digest) {
                Some(bytes) => self.push(&key.key, &bytes).await?,
                None => {
                    // What is wrong is wrong for everybody: the store shall know as well.
                    self.store.suspect(digest, stored).await;
                    missing.push(*digest);
                }
            }
        }
        Ok(missing)
    }

    async fn push(&mut self, key: &[u8], value: &Bytes) -> Result<(), BackupError> {
        match self.cutter.push(key, value) {
            Some(cut) => self.keep(cut).await,
            None => Ok(()),
        }
    }

    async fn keep(&mut self, cut: Cut) -> Result<(), BackupError> {
        let (piece, written) = self.folder.keep(cut).await?;
        self.new.push(piece);
        self.written += written;
        Ok(())
    }

    async fn finish(mut self) -> Result<(Vec<Piece>, u64), BackupError> {
        let last = std::mem::replace(&mut self.cutter, Cutter::new(Table::Inline)).finish();
        if let Some(cut) = last {
            self.keep(cut).await?;
        }
        Ok((self.new, self.written))
    }
}
