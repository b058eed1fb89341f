//! Compression of cold blobs: what nobody asked for since a while is put into frames, at a bounded rate.
//!
//! Owns [`Compression`] and [`Store::compress`]. A blob is read and checked, stored anew in frames at another location; then one
//! batch moves its row there, if it still is where it was, and the old copy is removed. Invariants: at any moment its row
//! names a whole copy, so that a crash leaves a file too many at most; who reads the old copy reads it to the end; a
//! blob whose file somebody has open is left alone; what does not shrink stays as it is, and is not tried again.

use std::time::Duration;

use provender_blobs::{BlobError, Form, Frames, Location, Published, SAMPLED, compresses, recode};
use provender_core::batch::{RowKey, Table};
use provender_core::blob::{Place, Stored};
use provender_core::name::Space;
use provender_core::{Digest, Timestamp, rows};
use provender_proto::rows as values;

use super::blobs::{backend, located};
use super::hold::signed_bytes;
use super::{Store, StoreError, outboards};
use crate::clock;
use crate::meta::Scan;

/// The most that frames may take, in per cent of the blob: below that it pays to give up passthrough.
const PERCENT: u64 = 95;
/// How many blobs are looked at together.
const PAGE: usize = 1_000;
/// The shortest and the longest time between two passes.
const PAUSE: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(3600)];

/// Which blobs are compressed, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// Those that were stored so long ago, and that no upload, commit or question has touched since; reads do not count.
    pub after: Duration,
    /// Those that have so many bytes at least. Smaller than a row's they are never.
    pub min_bytes: u64,
    /// zstd's level, from 1 to 19.
    pub level: i32,
    /// How many bytes are read a second, at most.
    pub bytes_per_second: u64,
}

/// What a pass came to, in blobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compressed {
    /// In frames now.
    pub packed: u64,
    /// Would not have shrunk.
    pub incompressible: u64,
    /// Open somewhere, changed meanwhile, or not readable: left for another pass.
    pub left: u64,
}

/// What became of one blob.
enum Outcome {
    Packed { saved: u64 },
    Incompressible,
    Left,
}

impl Compression {
    fn rest(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.bytes_per_second.max(1) as f64)
    }

    /// Whether a blob may be compressed, as far as its own row tells.
    fn is_candidate(&self, digest: &Digest, stored: &Stored, cold_before: Timestamp) -> bool {
        let raw = matches!(stored.place, Place::Backend { form: Form::Raw, incompressible: false, .. });
        let wanted = digest.size >= self.min_bytes && Frames::can_hold(digest.size);
        raw && wanted && stored.lost.is_none() && stored.published <= cold_before
    }
}

impl Store {
    /// Compresses what has become cold, pass by pass; never returns.
    pub async fn compress(self, policy: Compression) {
        loop {
            match self.compress_cold(&policy).await {
                Ok(Compressed { packed: 0, .. }) => {}
                Ok(done) => tracing::info!(packed = done.packed, left = done.left, "compressed cold blobs"),
                Err(error) => {
                    tracing::warn!(error = %super::error::chain(&error), "cold blobs could not be compressed; trying again")
                }
            }
            tokio::time::sleep((policy.after / 16).clamp(PAUSE[0], PAUSE[1])).await;
        }
    }

    /// One pass over all blobs.
    pub async fn compress_cold(&self, policy: &Compression) -> Result<Compressed, StoreError> {
        let after = u64::try_from(policy.after.as_millis()).unwrap_or(u64::MAX);
        let cold_before = Timestamp::from_millis(clock::now().millis().saturating_sub(after));
        let spaces = self.spaces().await?;
        let (mut done, mut from) = (Compressed::default(), None);
        loop {
            let scan = Scan { after: from, limit: PAGE, ..Scan::prefix(Table::Blob, "") };
            let page = self.inner.meta.scan(&scan).await?;
            let mut candidates = Vec::new();
            for (key, row) in &page.rows {
                let Some(digest) = rows::parse_blob(key) else { continue };
                let stored = values::blob_from(row.value.clone()).map_err(StoreError::row(digest))?;
                if policy.is_candidate(&digest, &stored, cold_before) {
                    candidates.push((digest, stored));
                }
            }
            for (digest, stored) in candidates {
                if self.is_warm(&spaces, &digest, cold_before).await? {
                    continue;
                }
                self.compress_into(&mut done, &digest, &stored, policy).await?;
            }
            match page.rows.last() {
                Some((last, _)) if page.more => from = Some(last.clone()),
                _ => return Ok(done),
            }
        }
    }

    /// Compresses one blob, cold or not, unless that was done or tried before.
    pub async fn compress_blob(&self, digest: &Digest, policy: &Compression) -> Result<Compressed, StoreError> {
        let mut done = Compressed::default();
        if let Some(stored) = self.stored(digest).await?
            && policy.is_candidate(digest, &stored, Timestamp::MAX)
        {
            self.compress_into(&mut done, digest, &stored, policy).await?;
        }
        Ok(done)
    }

    async fn compress_into(
        &self,
        done: &mut Compressed,
        digest: &Digest,
        stored: &Stored,
        policy: &Compression,
    ) -> Result<(), StoreError> {
        match self.compress_one(digest, stored, policy).await {
            Ok(Outcome::Packed { saved }) => {
                done.packed += 1;
                self.inner.metrics.compressed.inc();
                self.inner.metrics.saved.inc_by(saved);
            }
            Ok(Outcome::Incompressible) => done.incompressible += 1,
            // What was lost is noted, and no reason not to go on.
            Ok(Outcome::Left) | Err(StoreError::Lost { .. } | StoreError::Blobs(BlobError::Io { .. })) => {
                done.left += 1
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Every space that holds anything.
    async fn spaces(&self) -> Result<Vec<Space>, StoreError> {
        let (mut spaces, mut after) = (Vec::new(), None);
        loop {
            let scan = Scan { after, limit: 1, ..Scan::prefix(Table::Holding, "") };
            let Some((key, _)) = self.inner.meta.scan(&scan).await?.rows.pop() else { return Ok(spaces) };
            let space = key.split_first().and_then(|(len, rest)| rest.get(..usize::from(*len)));
            let space = space.and_then(|space| Space::new(std::str::from_utf8(space).ok()?).ok());
            let damaged =
                || StoreError::Row { what: format!("{key:?}"), why: "its key is not one of a holding".into() };
            let space = space.ok_or_else(damaged)?;
            // Beyond whatever it may hold.
            after = Some(rows::holding(&space, &Digest { hash: [0xff; 32], size: u64::MAX }).key);
            spaces.push(space);
        }
    }

    /// Whether some space has relied on a blob of late.
    async fn is_warm(&self, spaces: &[Space], digest: &Digest, cold_before: Timestamp) -> Result<bool, StoreError> {
        let holdings: Vec<RowKey> = spaces.iter().map(|space| rows::holding(space, digest)).collect();
        for row in self.inner.meta.get(&holdings).await?.into_iter().flatten() {
            if values::holding_from(row.value).map_err(StoreError::row(digest))? > cold_before {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn compress_one(
        &self,
        digest: &Digest,
        stored: &Stored,
        policy: &Compression,
    ) -> Result<Outcome, StoreError> {
        let (location, _) = located(digest, stored);
        match self.pack(&location, policy).await {
            Ok(Some(published)) => {
                let saved = digest.size.saturating_sub(published.location.stored());
                // From here on to the end whatever becomes of the caller, so that no file is left that nothing refers to.
                let (store, stored) = (self.clone(), stored.clone());
                let moved = tokio::spawn(async move { store.move_row(&stored, &location, published).await });
                let moved = moved.await.map_err(|_| StoreError::Draining)??;
                Ok(if moved { Outcome::Packed { saved } } else { Outcome::Left })
            }
            Ok(None) => Ok(Outcome::Left),
            Err(BlobError::Incompressible { .. }) => {
                self.settle_raw(digest, stored).await?;
                Ok(Outcome::Incompressible)
            }
            // It was moved, or removed, by somebody else.
            Err(BlobError::NotFound { .. }) if self.has_moved(digest, stored).await? => Ok(Outcome::Left),
            Err(error) => Err(self.refused(digest, stored, error).await),
        }
    }

    /// Stores a blob anew in frames, if nobody has its file open.
    async fn pack(&self, location: &Location, policy: &Compression) -> Result<Option<Published>, BlobError> {
        let blobs = &*self.inner.blobs;
        // Only looked at here: readers would have to do without passthrough meanwhile.
        if blobs.claim(location).await?.is_none() {
            return Ok(None);
        }
        let (size, level) = (location.digest.size, policy.level);
        let most = size / 100 * PERCENT;
        let shrinks = compresses(blobs, location, level, PERCENT).await?;
        // What was looked at counts as well.
        tokio::time::sleep(policy.rest(size.min(SAMPLED) as usize)).await;
        if !shrinks {
            return Err(BlobError::Incompressible { most });
        }
        recode(blobs, location, Some(Frames { size, level, most }), |bytes| policy.rest(bytes)).await.map(Some)
    }

    /// Makes the blob's row name its new copy, if it is where it was and nobody has it open, and removes the copy that nobody
    /// needs any more.
    async fn move_row(&self, was: &Stored, old: &Location, published: Published) -> Result<bool, StoreError> {
        let blobs = &*self.inner.blobs;
        let (digest, new) = (&old.digest, published.location);
        // Held until the old copy is gone, so that nobody opens a file that is about to go.
        let claim = blobs.claim(old).await;
        let moved = match &claim {
            Ok(Some(_)) => {
                let place = &backend(new.form, published.signature.as_ref());
                let outboard = &published.outboard;
                let moved = self.transact(|mut txn| async move {
                    let row = txn.get_one(rows::blob(digest)).await?;
                    let there = row.map(|row| values::blob_from(row.value)).transpose();
                    let there = there.map_err(StoreError::row(digest))?;
                    let Some(there) = there.filter(|there| there.nonce == was.nonce && there.lost.is_none()) else {
                        return Ok((txn, false));
                    };
                    outboard.iter().for_each(|outboard| outboards::put(&mut txn, outboard));
                    let now = Stored { nonce: new.nonce, place: place.clone(), ..there };
                    txn.grown(signed_bytes(digest, &now) - signed_bytes(digest, was));
                    txn.put(rows::blob(digest), values::blob_to(&now));
                    Ok((txn, true))
                });
                moved.await
            }
            _ => Ok(false),
        };
        let needless = match &moved {
            Ok(true) => Some(old),
            // Either may be the one that is referred to.
            Err(StoreError::Undecided { .. }) => None,
            Ok(false) | Err(_) => Some(&new),
        };
        // A failure leaves what the next collection finds.
        if let Some(location) = needless
            && let Err(error) = blobs.remove(location).await
        {
            tracing::warn!(%location, error = %super::error::chain(&error), "a copy that nobody needs could not be removed");
        }
        drop(claim);
        moved
    }

    /// Notes that a blob does not shrink.
    async fn settle_raw(&self, digest: &Digest, was: &Stored) -> Result<(), StoreError> {
        self.transact(|mut txn| async move {
            let row = txn.get_one(rows::blob(digest)).await?;
            let there = row.map(|row| values::blob_from(row.value)).transpose().map_err(StoreError::row(digest))?;
            if let Some(mut there) = there.filter(|there| there.nonce == was.nonce)
                && let Place::Backend { incompressible, .. } = &mut there.place
            {
                *incompressible = true;
                txn.put(rows::blob(digest), values::blob_to(&there));
            }
            Ok((txn, ()))
        })
        .await
    }
}

#[cfg(test)]
mod tests;
