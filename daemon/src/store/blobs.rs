//! Bytes in: which blobs a space holds, and where their bytes are.
//!
//! Small blobs (to [`INLINE_MAX`]) are rows, so that thousands become durable in one commit; larger ones are in the blob
//! backend, one location each. Invariants: the row of a blob is written after its bytes are durable, in the same batch as its
//! aliases and its outboard; a space is told of a blob only if it holds it; what is found `lost` counts as missing until it is
//! stored anew, at another location. How they are read is in [`super::read`].

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use provender_blobs::{BlobError, Ingest, Location, Outboard, Published, Signature, StageOptions, Staged};
use provender_core::blob::{Form, Pin, Place, Stored};
use provender_core::encode::Encoder;
use provender_core::name::Space;
use provender_core::{Digest, Timestamp, rows};
use provender_proto::convert::Invalid;
use provender_proto::rows as values;

use super::{Store, StoreError};
use crate::clock;
use crate::meta::Scan;

/// The largest blob that is kept as a row, in bytes: measured, see `docs/inline-threshold.md`.
pub const INLINE_MAX: u64 = 16 << 10;
/// How many blobs are recorded in one batch.
const BATCH: usize = 2_000;
/// The longest that a blob is kept for the asking.
const MAX_KEEP: Duration = Duration::from_secs(7 * 24 * 3600);

/// A blob on its way in. Dropping it discards it.
pub struct Upload {
    store: Store,
    space: Space,
    expected: Option<Digest>,
    /// What came so far, while it may turn out small.
    small: BytesMut,
    taken: u64,
    staged: Option<Box<dyn Staged>>,
}

/// A blob whose bytes are durable, on its way to being recorded.
pub(super) struct Fresh {
    pub(super) digest: Digest,
    pub(super) stored: Stored,
    pub(super) inline: Option<Bytes>,
    pub(super) aliases: Vec<provender_blobs::Alias>,
    pub(super) outboard: Option<Outboard>,
}

impl Store {
    /// Stores blobs of any size from memory; durable when it returns their digests, in order.
    pub async fn put_small(&self, space: &Space, blobs: Vec<Bytes>) -> Result<Vec<Digest>, StoreError> {
        let (digests, mut fresh) = (self.hash(&blobs).await?, BTreeMap::new());
        for ((digest, aliases), bytes) in digests.iter().zip(blobs) {
            let (digest, aliases) = (*digest, aliases.clone());
            if digest.size > INLINE_MAX {
                self.put_bytes(space, bytes).await?;
                continue;
            }
            let stored = stored(nonce(), Place::Inline);
            fresh.insert(digest, Fresh { digest, stored, inline: Some(bytes), aliases, outboard: None });
        }
        let inline: Vec<_> = fresh.keys().copied().collect();
        for digests in inline.chunks(BATCH) {
            self.hold(space, digests, &fresh).await?;
        }
        self.inner.metrics.bytes_in.inc_by(inline.iter().map(|digest| digest.size).sum());
        Ok(digests.into_iter().map(|(digest, _)| digest).collect())
    }

    /// Stores one blob from memory.
    pub(super) async fn put_bytes(&self, space: &Space, bytes: Bytes) -> Result<Digest, StoreError> {
        let mut upload = self.upload(space, None);
        upload.write(bytes).await?;
        upload.finish().await
    }

    /// Begins a blob; `expected` is what its bytes must come to, if that is known.
    pub fn upload(&self, space: &Space, expected: Option<Digest>) -> Upload {
        Upload { store: self.clone(), space: space.clone(), expected, small: BytesMut::new(), taken: 0, staged: None }
    }

    /// The digest of the blob with this hash, if the space holds one.
    pub async fn by_hash(&self, space: &Space, hash: &[u8; 32]) -> Result<Option<Digest>, StoreError> {
        let scan = Scan::prefix(provender_core::Table::Blob, rows::blob_prefix(hash));
        for (row, value) in self.inner.meta.scan(&scan).await?.rows {
            let Some(digest) = rows::parse_blob(&row) else { continue };
            let stored = values::blob_from(value.value).map_err(StoreError::row(digest))?;
            // Who holds what is lost is told so when reading it.
            let here = match stored.lost {
                Some(_) => self.inner.meta.get(&[rows::holding(space, &digest)]).await?.pop().flatten().is_some(),
                None => self.find_missing(space, &[digest]).await?.is_empty(),
            };
            if here {
                return Ok(Some(digest));
            }
        }
        Ok(None)
    }

    /// Keeps a blob, or a tree and what it refers to, for a while (at most 7 days); says until when.
    pub async fn keep(&self, space: &Space, mut pin: Pin, time: Duration) -> Result<Timestamp, StoreError> {
        StoreError::missing(self.find_missing(space, &[pin.digest]).await?, 1)?;
        let time = u64::try_from(time.min(MAX_KEEP).as_millis()).unwrap_or_default();
        let until = Timestamp::from_millis(clock::now().millis() + time);
        pin.expires = Some(until);
        // One pin an owner and blob, so that asking again prolongs it.
        let mut id = Encoder::new("provender pin 1");
        id.digest(&pin.digest).number(u64::from(pin.tree)).bytes(&pin.owner);
        let id = id.digest_of_all().hash.first_chunk().copied().unwrap_or_default();
        let (row, pin) = (&rows::pin(space, &id), &pin);
        self.transact(|mut txn| async move {
            let there = txn.get_one(row.clone()).await?.map(|there| values::pin_from(there.value));
            let there = there.transpose().map_err(StoreError::row("a pin"))?;
            // No expiry is the latest of all.
            match there.map(|there| there.expires) {
                Some(None) => return Ok((txn, Timestamp::MAX)),
                Some(Some(later)) if later >= until => return Ok((txn, later)),
                _ => txn.put(row.clone(), values::pin_to(pin)),
            }
            Ok((txn, until))
        })
        .await
    }

    /// Discards what uploads left in staging whose daemons have died.
    pub async fn sweep_staging(&self) -> Result<u64, StoreError> {
        Ok(self.inner.blobs.sweep(clock::a_day_ago()).await?)
    }

    async fn hash(&self, blobs: &[Bytes]) -> Result<Vec<(Digest, Vec<provender_blobs::Alias>)>, StoreError> {
        let hash = |blobs: Vec<Bytes>, functions: Vec<_>| {
            let each = blobs.iter().map(|bytes| {
                let mut ingest = Ingest::new(&functions);
                ingest.update(bytes);
                let hashes = ingest.finish();
                (hashes.digest, hashes.aliases)
            });
            each.collect::<Vec<_>>()
        };
        let (blobs, functions) = (blobs.to_vec(), self.inner.aliases.clone());
        if blobs.iter().map(Bytes::len).sum::<usize>() < INLINE_MAX as usize {
            return Ok(hash(blobs, functions));
        }
        let hashed = tokio::task::spawn_blocking(move || hash(blobs, functions)).await;
        hashed.map_err(|_| StoreError::Draining)
    }
}

impl Upload {
    /// Appends.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.store.inner.metrics.bytes_in.inc_by(bytes.len() as u64);
        self.taken += bytes.len() as u64;
        if let Some(expected) = self.expected.filter(|expected| self.taken > expected.size) {
            return Err(
                Invalid::new("data", format!("there are more bytes than the {} of {expected}", expected.size)).into()
            );
        }
        if let Some(staged) = &mut self.staged {
            return Ok(staged.write(bytes).await?);
        }
        if self.small.len() + bytes.len() <= INLINE_MAX as usize {
            self.small.extend_from_slice(&bytes);
            return Ok(());
        }
        let size_hint = self.expected.map(|expected| expected.size);
        let options = StageOptions { size_hint, aliases: self.store.inner.aliases.clone(), frames: None };
        let mut staged = self.store.inner.blobs.stage(options).await?;
        if !self.small.is_empty() {
            staged.write(std::mem::take(&mut self.small).freeze()).await?;
        }
        staged.write(bytes).await?;
        self.staged = Some(staged);
        Ok(())
    }

    /// Makes it durable and recorded; fails if it is not what was expected.
    pub async fn finish(self) -> Result<Digest, StoreError> {
        let Upload { store, space, expected, small, staged, .. } = self;
        let fresh = match staged {
            None => {
                let bytes = small.freeze();
                let (digest, aliases) = store.hash(std::slice::from_ref(&bytes)).await?.swap_remove(0);
                if let Some(expected) = expected.filter(|expected| *expected != digest) {
                    return Err(BlobError::Mismatch { expected, found: digest }.into());
                }
                let stored = stored(nonce(), Place::Inline);
                Fresh { digest, stored, inline: Some(bytes), aliases, outboard: None }
            }
            Some(staged) => {
                let Published { location, signature, aliases, outboard } = staged.publish(expected).await?;
                let stored = stored(location.nonce, backend(location.form, signature.as_ref()));
                Fresh { digest: location.digest, stored, inline: None, aliases, outboard }
            }
        };
        // From here on to the end whatever becomes of the call, so that no file is left that nothing refers to.
        let recorded = tokio::spawn(async move { store.record_upload(&space, fresh).await });
        recorded.await.map_err(|_| StoreError::Draining)?
    }
}

impl Store {
    async fn record_upload(&self, space: &Space, fresh: Fresh) -> Result<Digest, StoreError> {
        let (digest, nonce, inline) = (fresh.digest, fresh.stored.nonce, fresh.inline.is_some());
        let (location, _) = located(&digest, &fresh.stored);
        let fresh = BTreeMap::from([(digest, fresh)]);
        let mut held = self.hold(space, &[digest], &fresh).await;
        // Another copy was there first. Before this one is thrown away, that one must be seen to be there; an error says nothing.
        // What was recorded is never recorded again: it may have been lost and removed since.
        let other = !inline && held.as_ref().is_ok_and(|held| !held.recorded);
        if other && !self.is_kept(&digest).await.unwrap_or(true) {
            held = self.hold(space, &[digest], &fresh).await;
        }
        let ours = match &held {
            // It may have been recorded.
            Err(StoreError::Undecided { .. }) => true,
            Err(_) => false,
            Ok(_) => inline || self.stored(&digest).await?.is_some_and(|there| there.nonce == nonce),
        };
        if !inline && !ours {
            // Somebody else was first, or it was not recorded: this copy is nobody's.
            self.inner.blobs.remove(&location).await?;
        }
        held.map(|_| digest)
    }
}

impl Store {
    /// What the metadata says of a blob, whoever holds it.
    pub(super) async fn stored(&self, digest: &Digest) -> Result<Option<Stored>, StoreError> {
        let row = self.inner.meta.get(&[rows::blob(digest)]).await?.pop().flatten();
        row.map(|row| values::blob_from(row.value)).transpose().map_err(StoreError::row(digest))
    }
}

/// A blob that is just published.
fn stored(nonce: u64, place: Place) -> Stored {
    Stored { nonce, place, published: clock::now(), lost: None }
}

fn nonce() -> u64 {
    u64::from_be_bytes(clock::random())
}

/// Where a blob is in the backend, and what its file looked like when it was known to be right.
pub fn located(digest: &Digest, stored: &Stored) -> (Location, Option<Signature>) {
    let (form, signature) = match &stored.place {
        Place::Backend { signature, form, .. } => (*form, signature.as_deref().and_then(Signature::from_bytes)),
        Place::Inline => (Form::Raw, None),
    };
    (Location { digest: *digest, nonce: stored.nonce, form }, signature)
}

/// The place of a blob that the backend has just published.
pub(super) fn backend(form: Form, signature: Option<&Signature>) -> Place {
    let signature = signature.map(|signature| Bytes::copy_from_slice(&signature.to_bytes()));
    Place::Backend { signature, form, incompressible: false }
}

/// The same blob, with what its file looks like now.
pub(super) fn signed(mut stored: Stored, now: Option<&Signature>) -> Stored {
    if let (Place::Backend { signature, .. }, Some(now)) = (&mut stored.place, now) {
        *signature = Some(Bytes::copy_from_slice(&now.to_bytes()));
    }
    stored
}
