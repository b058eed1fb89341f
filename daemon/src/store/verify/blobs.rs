//! The part of verifying that looks at blobs, and at the outboards of large ones.
//!
//! Invariant: nothing is lost for a damaged outboard; it is written anew of the bytes that were read and are right.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use provender_blobs::{BlobError, Ingest, Outboard, Stat, verified};
use provender_core::batch::Table;
use provender_core::blob::{Form, Place, Stored};
use provender_core::{Digest, rows};
use provender_proto::rows as values;

use super::{Verified, Verify};
use crate::meta::Scan;
use crate::store::blobs::located;
use crate::store::{Store, StoreError};

/// How many blobs are looked at together.
const PAGE: usize = 1_000;

impl Store {
    /// Looks at the blobs behind one; the last of them, if there are more.
    pub(super) async fn verify_blobs(
        &self,
        after: Option<Digest>,
        how: Verify,
        done: &mut Verified,
        told: &mut (impl FnMut(&Verified) + Send),
    ) -> Result<Option<Digest>, StoreError> {
        let after = after.map(|digest| rows::blob(&digest).key);
        let scan = Scan { after, limit: PAGE, ..Scan::prefix(Table::Blob, "") };
        let page = self.inner.meta.scan(&scan).await?;
        let (mut small, mut packed, mut large, mut last) = (Vec::new(), Vec::new(), Vec::new(), None);
        for (key, row) in page.rows {
            let Some(digest) = rows::parse_blob(&key) else { continue };
            last = Some(digest);
            // A row that says nothing is found among the rows.
            let Ok(stored) = values::blob_from(row.value) else { continue };
            match (&stored.lost, &stored.place) {
                (Some(_), _) => (done.blobs, done.lost) = (done.blobs + 1, done.lost + 1),
                (None, Place::Inline) => small.push((digest, stored)),
                (None, Place::Backend { form: Form::Pack { .. }, .. }) => packed.push((digest, stored)),
                (None, Place::Backend { .. }) => large.push((digest, stored)),
            }
        }
        self.verify_small(&small, how, done).await?;
        self.verify_packed(&packed, how, done).await?;
        told(done);
        self.verify_large(&large, how, done, told).await?;
        Ok(last.filter(|_| page.more))
    }

    async fn verify_small(
        &self,
        blobs: &[(Digest, Stored)],
        how: Verify,
        done: &mut Verified,
    ) -> Result<(), StoreError> {
        let keys: Vec<_> = blobs.iter().map(|(digest, stored)| rows::inline(digest, stored.nonce)).collect();
        let found = self.inline(&keys).await?;
        let mut read = 0;
        for ((digest, stored), bytes) in blobs.iter().zip(found) {
            let bytes = bytes.ok().flatten();
            read += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
            let right = bytes.is_some_and(|bytes| Digest::of(&bytes) == *digest);
            self.judge(digest, stored, right, done).await?;
        }
        done.read += read;
        tokio::time::sleep(how.rest(read)).await;
        Ok(())
    }

    async fn verify_packed(
        &self,
        blobs: &[(Digest, Stored)],
        how: Verify,
        done: &mut Verified,
    ) -> Result<(), StoreError> {
        let locations: Vec<_> = blobs.iter().map(|(digest, stored)| located(digest, stored).0).collect();
        let right: BTreeSet<Digest> = match how.deep {
            true => self.read_packed(&locations).await?.into_iter().map(|(digest, _)| digest).collect(),
            false => {
                let found = self.inner.blobs.stat(&locations).await?;
                let there = |stat: &Option<Stat>, digest: &Digest| stat.is_some_and(|stat| stat.size == digest.size);
                let right = locations.iter().zip(&found).filter(|(location, found)| there(found, &location.digest));
                right.map(|(location, _)| location.digest).collect()
            }
        };
        let read = if how.deep { right.iter().map(|digest| digest.size).sum() } else { 0 };
        for (digest, stored) in blobs {
            self.judge(digest, stored, right.contains(digest), done).await?;
        }
        done.read += read;
        tokio::time::sleep(how.rest(read)).await;
        Ok(())
    }

    async fn verify_large(
        &self,
        blobs: &[(Digest, Stored)],
        how: Verify,
        done: &mut Verified,
        told: &mut (impl FnMut(&Verified) + Send),
    ) -> Result<(), StoreError> {
        let places: Vec<_> = blobs.iter().map(|(digest, stored)| located(digest, stored)).collect();
        let locations: Vec<_> = places.iter().map(|(location, _)| *location).collect();
        let found = self.inner.blobs.stat(&locations).await?;
        for (((digest, stored), (location, signature)), found) in blobs.iter().zip(places).zip(found) {
            let as_stored = found.is_some_and(|found| {
                found.size == location.stored() && (signature.is_none() || found.signature == signature)
            });
            let right = match as_stored && how.deep {
                false => as_stored,
                true => self.verify_bytes(digest, stored, how, done).await?,
            };
            self.judge(digest, stored, right, done).await?;
            told(done);
        }
        Ok(())
    }

    /// Whether all bytes of a large blob are right; if so, its outboard is too, at the latest from now on.
    async fn verify_bytes(
        &self,
        digest: &Digest,
        stored: &Stored,
        how: Verify,
        done: &mut Verified,
    ) -> Result<bool, StoreError> {
        let has_none = !Outboard::has(digest.size);
        let is_whole = has_none || self.read_outboard(digest).await.is_ok_and(|outboard| outboard.is_some());
        // Hashed once more, which is rare.
        let mut anew = (!is_whole).then(|| Ingest::new(&[]));
        let location = located(digest, stored).0;
        let read = async {
            let mut reader = verified(location, self.inner.blobs.open(&location, 0..digest.size).await?);
            while let Some(piece) = reader.try_next().await? {
                done.read += piece.len() as u64;
                if let Some(ingest) = &mut anew {
                    ingest.update(&piece);
                }
                tokio::time::sleep(how.rest(piece.len() as u64)).await;
            }
            Ok(())
        };
        match read.await {
            Ok(()) => {}
            Err(BlobError::NotFound { .. } | BlobError::Corrupt { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        if !has_none {
            done.outboards += 1;
            self.inner.metrics.verified_outboards.inc();
        }
        if let Some(outboard) = anew.and_then(|ingest| ingest.finish().outboard)
            && self.write_outboard(&outboard).await?
        {
            tracing::warn!(%digest, "the outboard of a blob was missing or damaged, and is written anew");
            done.mended += 1;
        }
        Ok(true)
    }

    /// Counts a blob; one that seems wrong is looked at again by what notes losses. One that only was moved meanwhile, or touched, is right.
    async fn judge(
        &self,
        digest: &Digest,
        stored: &Stored,
        right: bool,
        done: &mut Verified,
    ) -> Result<(), StoreError> {
        done.blobs += 1;
        done.bytes += digest.size;
        self.inner.metrics.verified.inc();
        if !right {
            self.suspect(digest, stored).await;
            if self.stored(digest).await?.is_some_and(|there| there.lost.is_some()) {
                (done.lost, done.found) = (done.lost + 1, done.found + 1);
            }
        }
        Ok(())
    }
}
