//! Which blobs a space holds, and where their bytes are.
//!
//! Small blobs (to [`INLINE_MAX`]) are rows, so that thousands become durable in one commit, or (to [`PACKED_MAX`]) in packs if the
//! backend has those ([`super::small`]); larger ones are in the blob backend, one location each. Invariants: the row of a blob is written after its bytes are durable, in the same batch as its
//! aliases and its outboard; a space is told of a blob only if it holds it; what is found `lost` counts as missing until it is
//! stored anew, at another location. How large ones come in is in [`super::upload`], and how all are read in [`super::read`].

use std::collections::BTreeMap;

use bytes::Bytes;
use provender_blobs::{Blobs, Ingest, Location, Outboard, Signature};
use provender_core::blob::{Form, Place, Stored};
use provender_core::name::Space;
use provender_core::{Digest, rows};
use provender_proto::rows as values;

use super::{Store, StoreError};
use crate::clock;
use crate::meta::Scan;

/// The largest blob that is kept as a row, in bytes: measured, see `docs/inline-threshold.md`.
pub const INLINE_MAX: u64 = 16 << 10;
/// The largest blob that is kept in a pack, in bytes: it has no outboard, and costs no request of its own.
const PACKED_MAX: u64 = 256 << 10;

/// A blob on its way to being recorded.
pub(super) struct Fresh {
    pub(super) digest: Digest,
    /// Where its bytes are durable; `None` if they are only at hand, for as long as they seem to be stored already.
    pub(super) stored: Option<Stored>,
    /// Those of a small one.
    pub(super) bytes: Option<Bytes>,
    pub(super) aliases: Vec<provender_blobs::Alias>,
    pub(super) outboard: Option<Outboard>,
}

impl Store {
    /// The largest blob, in bytes, that is not an object of the backend by itself.
    pub(crate) fn small_max(&self) -> u64 {
        small_max(&*self.inner.blobs)
    }

    /// Stores blobs of any size from memory; durable when it returns their digests, in order.
    pub async fn put_small(&self, space: &Space, blobs: Vec<Bytes>) -> Result<Vec<Digest>, StoreError> {
        let (digests, mut small) = (self.hash(&blobs).await?, BTreeMap::new());
        for ((digest, aliases), bytes) in digests.iter().zip(blobs) {
            let (digest, aliases) = (*digest, aliases.clone());
            if digest.size > self.small_max() {
                let mut upload = self.upload(space, None);
                upload.write(bytes).await?;
                upload.finish().await?;
                continue;
            }
            small.insert(digest, Fresh { digest, stored: None, bytes: Some(bytes), aliases, outboard: None });
        }
        let fresh: Vec<_> = small.keys().copied().collect();
        let bytes = |digests: &[Digest]| digests.iter().map(|digest| digest.size).sum();
        let _room = match self.admit_now(bytes(&fresh), 0) {
            Some(room) => room,
            // What is there already needs none.
            None => self.admit(bytes(&self.find_missing(space, &fresh).await?), 0).await?,
        };
        self.record_small(space, small).await?;
        self.inner.metrics.bytes_in.inc_by(fresh.iter().map(|digest| digest.size).sum());
        Ok(digests.into_iter().map(|(digest, _)| digest).collect())
    }

    /// Stores one blob of the store's own from memory, whether there is room for it or not: what is done is not to fail by that.
    pub(super) async fn put_bytes(&self, space: &Space, bytes: Bytes) -> Result<Digest, StoreError> {
        let mut upload = self.upload(space, None).unasked();
        upload.write(bytes).await?;
        upload.finish().await
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

    /// What the metadata says of a blob, whoever holds it.
    pub(crate) async fn stored(&self, digest: &Digest) -> Result<Option<Stored>, StoreError> {
        let row = self.inner.meta.get(&[rows::blob(digest)]).await?.pop().flatten();
        row.map(|row| values::blob_from(row.value)).transpose().map_err(StoreError::row(digest))
    }

    pub(super) async fn hash(&self, blobs: &[Bytes]) -> Result<Vec<(Digest, Vec<provender_blobs::Alias>)>, StoreError> {
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

/// The largest blob, in bytes, that is not an object of its own in such a backend.
pub(crate) fn small_max(blobs: &dyn Blobs) -> u64 {
    if blobs.packs().is_some() { PACKED_MAX } else { INLINE_MAX }
}

/// A blob that is just published.
pub(super) fn stored(nonce: u64, place: Place) -> Stored {
    Stored { nonce, place, published: clock::now(), lost: None, aliases: Vec::new() }
}

pub(super) fn nonce() -> u64 {
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
pub(crate) fn backend(form: Form, signature: Option<&Signature>) -> Place {
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
