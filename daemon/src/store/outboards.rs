//! Outboards: what proves parts of large blobs, kept as rows beside the blob's.
//!
//! Invariants: they are written in the batch that records the blob, or later by whoever had to read all of it because they were
//! missing, or verified it; they belong to the digest, whichever copy there is. Whatever the rows hold, an [`Outboard`] is right: one that
//! cannot be had costs time, and no blob is lost for it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use futures::TryStreamExt;
use provender_blobs::{Ingest, Outboard};
use provender_core::name::Space;
use provender_core::{Digest, RowKey, rows};

use super::{Store, StoreError, Txn, lost};
use crate::meta::MetaError;

/// The bytes of a row: so there are at most 32 for a blob.
const PIECE: usize = 64 << 10;
/// How many are kept in memory, of at most 2 MiB each: a file that is read part by part needs its own again and again.
const RECENT: usize = 8;

/// The outboards that were asked for last, the newest first.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<VecDeque<Outboard>>);

impl Recent {
    fn get(&self, digest: &Digest) -> Option<Outboard> {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().find(|outboard| outboard.digest() == digest).cloned()
    }

    fn put(&self, outboard: &Outboard) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|other| other.digest() != outboard.digest());
        recent.push_front(outboard.clone());
        recent.truncate(RECENT);
    }
}

/// Writes the outboard of a blob.
pub(super) fn put(txn: &mut Txn, outboard: &Outboard) {
    let bytes = outboard.to_bytes();
    for (key, piece) in keys(outboard.digest()).into_iter().zip(bytes.chunks(PIECE)) {
        txn.put(key, bytes.slice_ref(piece));
    }
}

/// Deletes the outboard of a blob.
pub(super) fn delete(txn: &mut Txn, digest: &Digest) {
    if Outboard::has(digest.size) {
        keys(digest).into_iter().for_each(|key| txn.delete(key));
    }
}

/// The rows of a blob's outboard.
fn keys(digest: &Digest) -> Vec<RowKey> {
    let pieces = Outboard::len(digest.size).div_ceil(PIECE);
    (0..u8::try_from(pieces).unwrap_or(u8::MAX)).map(|piece| rows::outboard(digest, piece)).collect()
}

impl Store {
    /// The outboard of a blob, if it is there and whole; why not is told to the log.
    pub(super) async fn outboard(&self, digest: &Digest) -> Option<Outboard> {
        if let Some(outboard) = self.inner.outboards.get(digest) {
            return Some(outboard);
        }
        match self.read_outboard(digest).await {
            Ok(Some(outboard)) => {
                self.inner.outboards.put(&outboard);
                Some(outboard)
            }
            Ok(None) => {
                tracing::warn!(%digest, "the outboard of a blob is missing or damaged; all of the blob is read instead");
                None
            }
            Err(error) => {
                tracing::warn!(%digest, error = %super::error::chain(&error), "the outboard of a blob cannot be read");
                None
            }
        }
    }

    /// What proves the parts of a blob that the space holds; none if it is so small that its digest does. If it is lost, all of the
    /// blob is read for it, to its end whoever gives up meanwhile, so that it is there for who asks again.
    pub async fn proof(&self, space: &Space, digest: &Digest) -> Result<Option<Outboard>, StoreError> {
        self.place(space, digest).await?;
        if !Outboard::has(digest.size) {
            return Ok(None);
        }
        if let Some(outboard) = self.outboard(digest).await {
            return Ok(Some(outboard));
        }
        let (store, space, digest) = (self.clone(), space.clone(), *digest);
        let made = tokio::spawn(async move {
            let mut reader = store.read(&space, &digest, 0..digest.size).await?;
            let mut ingest = Ingest::new(&[]);
            while let Some(piece) = reader.try_next().await.map_err(|error| lost(&digest, error))? {
                // A piece has a MiB at most: some hundred microseconds.
                ingest.update(&piece);
            }
            let outboard = ingest.finish().outboard.filter(|outboard| *outboard.digest() == digest);
            if let Some(outboard) = &outboard {
                store.write_outboard(outboard).await?;
            }
            Ok(outboard)
        });
        made.await.map_err(|_| StoreError::Draining)?
    }

    /// Writes the outboard of a blob anew, if that is still stored; whether it is.
    pub(super) async fn write_outboard(&self, outboard: &Outboard) -> Result<bool, StoreError> {
        self.transact(|mut txn| async move {
            let is_stored = txn.get_one(rows::blob(outboard.digest())).await?.is_some();
            if is_stored {
                put(&mut txn, outboard);
            }
            Ok((txn, is_stored))
        })
        .await
    }

    /// What the rows hold, if that is whole.
    pub(super) async fn read_outboard(&self, digest: &Digest) -> Result<Option<Outboard>, MetaError> {
        let pieces = self.inner.meta.get(&keys(digest)).await?;
        let bytes: Vec<u8> = pieces.into_iter().flatten().flat_map(|row| row.value).collect();
        let digest = *digest;
        if bytes.len() <= PIECE {
            return Ok(Outboard::from_bytes(&digest, &bytes));
        }
        // Some milliseconds of hashing.
        Ok(tokio::task::spawn_blocking(move || Outboard::from_bytes(&digest, &bytes)).await.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use provender_core::batch::Batch;

    use super::*;
    use crate::clock;
    use crate::meta::{Memory, Meta};
    use crate::store::tests::over;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn proofs_are_for_who_holds_the_blob_and_are_made_again_where_they_are_lost() {
        let meta: Arc<dyn Meta> = Arc::new(Memory::default());
        let (store, space) = (over(meta.clone()).await, Space::default());
        let bytes = Bytes::from(vec![7; 600_000]);
        let digest = store.put_bytes(&space, bytes.clone()).await.unwrap();
        let row = rows::outboard(&digest, 0);
        let kept = meta.get(std::slice::from_ref(&row)).await.unwrap().pop().flatten().unwrap().value;

        let mut batch = Batch::new(clock::batch_id());
        batch.delete(row.clone());
        meta.commit(batch).await.unwrap();
        let proof = store.proof(&space, &digest).await.unwrap().unwrap();
        assert_eq!((proof.digest(), proof.to_bytes()), (&digest, kept.clone()));
        assert_eq!(meta.get(&[row]).await.unwrap().pop().flatten().unwrap().value, kept, "it is there again");
        assert_eq!(store.proof(&space, &digest).await.unwrap(), Some(proof));

        let small = store.put_small(&space, vec![Bytes::from_static(b"small")]).await.unwrap()[0];
        assert_eq!(store.proof(&space, &small).await.unwrap(), None);
        let other = Space::new("other").unwrap();
        assert!(matches!(store.proof(&other, &digest).await, Err(StoreError::NotFound { .. })));
        let never = Digest { hash: [1; 32], size: u64::MAX };
        assert!(matches!(store.proof(&space, &never).await, Err(StoreError::NotFound { .. })));
    }
}
