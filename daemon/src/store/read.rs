//! Bytes out: a blob as a stream, in part or whole, from memory or as an open file, each checked.
//!
//! Invariants: a space is told of a blob only if it holds it; what is missing or damaged is noted before that is told; what
//! reading all of a blob has taught is written down, so that the next reader need not. A blob that is moved by
//! [`super::compress`] is followed to where it went.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;

use bytes::Bytes;
use futures::stream;
use provender_blobs::{BlobError, Learnt, Opened, Reader, Signature, open_verified};
use provender_core::batch::Row;
use provender_core::blob::{Place, Stored};
use provender_core::name::Space;
use provender_core::{Digest, RowKey, rows};
use provender_proto::convert::Invalid;
use provender_proto::rows as values;

use super::blobs::{located, signed};
use super::small::pack_of;
use super::{Store, StoreError, lost, outboards};
use crate::meta::MetaError;

/// How often a reader goes after a blob that is being moved.
const MOVES: usize = 3;
/// The largest blob that is handed out from memory where there is no file to hand out.
const IN_MEMORY: u64 = 4 << 20;

/// The row of a small blob's bytes, `None` if there is none; or how it is damaged.
pub(super) type Inline = Result<Option<Bytes>, String>;

/// The bytes of one blob, for a reader that wants a file.
#[derive(Debug)]
pub enum Content {
    /// The bytes themselves.
    Bytes(Bytes),
    /// A file that holds them and nothing else, and has been found unchanged.
    File(File),
    /// Neither: too many bytes for the memory, and no file of them as they are. [`Store::read`] gives them part by part.
    Parts,
}

impl Store {
    /// The bytes of `range` of a blob, cut at its end, checked as they go.
    pub async fn read(&self, space: &Space, digest: &Digest, range: Range<u64>) -> Result<Reader, StoreError> {
        if range.start > digest.size {
            return Err(Invalid::new("offset", format!("{} is past the end of {digest}", range.start)).into());
        }
        let range = range.start..range.end.clamp(range.start, digest.size);
        let mut moves = 0;
        loop {
            let (stored, inline) = self.place(space, digest).await?;
            if let Some(bytes) = inline {
                let part = bytes.slice(range.start as usize..range.end as usize);
                return Ok(Reader::new(None, stream::iter((!part.is_empty()).then_some(Ok(part)))));
            }
            let (location, recorded) = located(digest, &stored);
            let outboard = self.outboard(digest);
            let opened = open_verified(&*self.inner.blobs, &location, recorded.as_ref(), outboard, range.clone()).await;
            match opened {
                Ok(Opened { reader, learnt }) => {
                    // All of it was read, and is right.
                    if let Some(learnt) = learnt {
                        self.remember(digest, &stored, &learnt).await?;
                    }
                    return Ok(self.noticing(digest, &stored, reader));
                }
                Err(BlobError::NotFound { .. }) if moves < MOVES && self.has_moved(digest, &stored).await? => {
                    moves += 1
                }
                Err(error) => return Err(self.refused(digest, &stored, error).await),
            }
        }
    }

    /// Whether a blob that was not found is somewhere else by now, since it was stored in another form.
    pub(super) async fn has_moved(&self, digest: &Digest, stored: &Stored) -> Result<bool, StoreError> {
        let there = self.stored(digest).await?;
        Ok(there.is_some_and(|there| there.nonce != stored.nonce && there.lost.is_none()))
    }

    /// The bytes of a short range of a blob, in memory.
    pub async fn read_part(&self, space: &Space, digest: &Digest, range: Range<u64>) -> Result<Bytes, StoreError> {
        let reader = self.read(space, digest, range).await?;
        reader.into_bytes().await.map_err(|error| lost(digest, error))
    }

    /// All bytes of a blob that is expected to be small: more than `most` is refused.
    pub async fn read_whole(&self, space: &Space, digest: &Digest, most: u64) -> Result<Bytes, StoreError> {
        if digest.size > most {
            return Err(StoreError::TooLarge { what: format!("the blob {digest} has more than {most} bytes") });
        }
        let reader = self.read(space, digest, 0..digest.size).await?;
        reader.into_bytes().await.map_err(|error| lost(digest, error))
    }

    /// Many small blobs, in order, `None` where the space holds none.
    pub async fn read_small(&self, space: &Space, digests: &[Digest]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let wanted: Vec<_> =
            digests.iter().flat_map(|digest| [rows::holding(space, digest), rows::blob(digest)]).collect();
        let found = self.inner.meta.get(&wanted).await?;
        let (mut inline, mut packed) = (Vec::new(), Vec::new());
        for (digest, pair) in digests.iter().zip(found.chunks_exact(2)) {
            let [Some(_), Some(row)] = pair else { continue };
            let stored = values::blob_from(row.value.clone()).map_err(StoreError::row(digest))?;
            if stored.lost.is_some() {
                continue;
            }
            if pack_of(&stored).is_some() {
                packed.push(located(digest, &stored).0);
            } else if stored.place == Place::Inline {
                inline.push((digest, stored));
            }
        }
        let keys: Vec<RowKey> = inline.iter().map(|(digest, stored)| rows::inline(digest, stored.nonce)).collect();
        let values = self.inline(&keys).await?;
        let mut bytes = BTreeMap::new();
        for ((digest, stored), found) in inline.iter().zip(values) {
            bytes.insert(**digest, self.checked(digest, stored, found).await?);
        }
        // What is not right there is read by itself, which follows what was moved, and notes what is lost.
        bytes.extend(self.read_packed(&packed).await?);
        let mut out = Vec::with_capacity(digests.len());
        for (digest, pair) in digests.iter().zip(found.chunks_exact(2)) {
            out.push(match (bytes.get(digest), pair) {
                (Some(bytes), _) => Some(bytes.clone()),
                (None, [Some(_), Some(_)]) => Some(self.read_whole(space, digest, digest.size).await?),
                _ => None,
            });
        }
        Ok(out)
    }

    /// Reads all of a blob whose file looks other than it did, and notes what it looks like now.
    async fn check_file(
        &self,
        space: &Space,
        digest: &Digest,
        stored: &Stored,
        signature: Signature,
    ) -> Result<(), StoreError> {
        let mut reader = self.read(space, digest, 0..digest.size).await?;
        while let Some(piece) = futures::StreamExt::next(&mut reader).await {
            piece.map_err(|error| lost(digest, error))?;
        }
        if reader.signature() != Some(&signature) {
            return Err(StoreError::Lost { digest: *digest, why: "its file changes while it is read".into() });
        }
        self.remember(digest, stored, &Learnt { signature: Some(signature), outboard: None }).await
    }

    /// A blob as bytes or as an open file that is as it was published, if there is one.
    pub async fn content(&self, space: &Space, digest: &Digest) -> Result<Content, StoreError> {
        let (stored, inline) = self.place(space, digest).await?;
        if let Some(bytes) = inline {
            return Ok(Content::Bytes(bytes));
        }
        let (location, recorded) = located(digest, &stored);
        let opened = match self.inner.blobs.file(&location).await {
            Ok(opened) => opened,
            // Where it went, it is in frames.
            Err(BlobError::NotFound { .. }) if self.has_moved(digest, &stored).await? => None,
            Err(error) => return Err(self.refused(digest, &stored, error).await),
        };
        match opened {
            Some((file, signature)) if recorded == Some(signature) => Ok(Content::File(file)),
            Some((file, signature)) => {
                // To its end whoever gives up meanwhile, so that a large one need not be read over and over.
                let (store, space, digest) = (self.clone(), space.clone(), *digest);
                let checked = tokio::spawn(async move { store.check_file(&space, &digest, &stored, signature).await });
                checked.await.map_err(|_| StoreError::Draining)??;
                Ok(Content::File(file))
            }
            None if digest.size <= IN_MEMORY => Ok(Content::Bytes(self.read_whole(space, digest, digest.size).await?)),
            None => Ok(Content::Parts),
        }
    }

    /// Notes what a file looks like whose bytes have just been found right, as after a reboot that renumbered its device, and
    /// the outboard that was lost, so that it need not be read as a whole again.
    async fn remember(&self, digest: &Digest, stored: &Stored, learnt: &Learnt) -> Result<(), StoreError> {
        let row = &rows::blob(digest);
        let now = &signed(stored.clone(), learnt.signature.as_ref());
        if now == stored && learnt.outboard.is_none() {
            return Ok(());
        }
        self.transact(|mut txn| async move {
            let there = txn.get_one(row.clone()).await?.map(|there| values::blob_from(there.value));
            if there.transpose().map_err(StoreError::row(digest))?.as_ref() == Some(stored) {
                learnt.outboard.iter().for_each(|outboard| outboards::put(&mut txn, outboard));
                if now != stored {
                    txn.put(row.clone(), values::blob_to(now));
                }
            }
            Ok((txn, ()))
        })
        .await
    }

    /// Where a blob is that the space holds, and its bytes if they are a row.
    pub(super) async fn place(&self, space: &Space, digest: &Digest) -> Result<(Stored, Option<Bytes>), StoreError> {
        let found = self.inner.meta.get(&[rows::holding(space, digest), rows::blob(digest)]).await?;
        let [Some(holding), Some(row)] = &found[..] else {
            return Err(StoreError::NotFound { what: format!("the blob {digest}") });
        };
        let stored = values::blob_from(row.value.clone()).map_err(StoreError::row(digest))?;
        self.renew(space, digest, holding)?;
        if let Some(position) = stored.lost {
            return Err(self.is_lost(digest, position).await);
        }
        if stored.place != Place::Inline {
            return Ok((stored, None));
        }
        let found = self.inline(&[rows::inline(digest, stored.nonce)]).await?.pop().unwrap_or(Ok(None));
        let bytes = self.checked(digest, &stored, found).await?;
        Ok((stored, Some(bytes)))
    }

    /// The bytes of a row, if they are there and right.
    async fn checked(&self, digest: &Digest, stored: &Stored, found: Inline) -> Result<Bytes, StoreError> {
        let why = match found {
            Ok(Some(bytes)) if Digest::of(&bytes) == *digest => return Ok(bytes),
            Ok(Some(_)) => "its row holds other bytes".into(),
            Ok(None) => "its row is missing".into(),
            Err(why) => why,
        };
        Err(self.lost_or_gone(digest, stored, StoreError::Lost { digest: *digest, why }).await)
    }

    /// The bytes of small blobs, by their rows. What the engine finds damaged is lost like what is missing, and no fault of the others.
    pub(super) async fn inline(&self, keys: &[RowKey]) -> Result<Vec<Inline>, StoreError> {
        let value = |row: Option<Row>| row.map(|row| row.value);
        match self.inner.meta.get(keys).await {
            Ok(found) => return Ok(found.into_iter().map(|row| Ok(value(row))).collect()),
            Err(MetaError::Corrupt { .. }) => {}
            Err(other) => return Err(other.into()),
        }
        let mut all = Vec::with_capacity(keys.len());
        for key in keys {
            all.push(match self.inner.meta.get(std::slice::from_ref(key)).await {
                Ok(mut found) => Ok(value(found.pop().flatten())),
                Err(MetaError::Corrupt { what }) => Err(format!("its row is damaged: {what}")),
                Err(other) => return Err(other.into()),
            });
        }
        Ok(all)
    }
}
