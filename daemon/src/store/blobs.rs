//! Bytes in and out: which blobs a space holds, where their bytes are, and reading them checked.
//!
//! Small blobs (to [`INLINE_MAX`]) are rows, so that thousands become durable in one commit; larger ones are in the blob
//! backend, one location each. Invariants: the row of a blob is written after its bytes are durable, in the same batch as its
//! aliases; a space is told of a blob only if it holds it; every byte that leaves is checked; what is found `lost`
//! counts as missing until it is stored anew, at another location.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream;
use provender_blobs::{
    BlobError, Ingest, Learnt, Location, Opened, Outboard, Published, Reader, Resume, ResumeToken, Signature,
    StageOptions, Staged, open_verified,
};
use provender_core::blob::{Form, Pin, Place, Stored};
use provender_core::encode::Encoder;
use provender_core::name::Space;
use provender_core::{Digest, RowKey, Timestamp, rows};
use provender_proto::convert::Invalid;
use provender_proto::rows as values;

use super::{Store, StoreError, lost, outboards};
use crate::clock;
use crate::meta::Scan;

/// The largest blob that is kept as a row, in bytes: measured, see `docs/inline-threshold.md`.
pub const INLINE_MAX: u64 = 16 << 10;
/// How often what was cut off is looked for.
const SWEEP_AT_MOST: Duration = Duration::from_secs(1);
const SWEEP_AT_LEAST: Duration = Duration::from_secs(900);
/// How many blobs are recorded in one batch.
const BATCH: usize = 2_000;
/// Smaller uploads begin anew when they are cut off, in bytes.
const RESUMABLE: u64 = 1 << 20;
/// How long to wait for an upload that was cut off to be over, and how often to look.
const CUT_OFF: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);
/// The longest that a blob is kept for the asking.
const MAX_KEEP: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often a reader goes after a blob that is being moved.
const MOVES: usize = 3;
/// The largest blob that is handed out from memory where there is no file to hand out.
const IN_MEMORY: u64 = 4 << 20;

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

    /// Goes on with an upload that was cut off, from a byte that [`Store::query_upload`] told. Fails with [`BlobError::Behind`] if
    /// that is not kept any more.
    pub async fn resume(&self, space: &Space, expected: Digest, from: u64) -> Result<Upload, StoreError> {
        if from > expected.size {
            return Err(Invalid::new("offset", format!("{from} is past the end of {expected}")).into());
        }
        let mut upload = self.upload(space, Some(expected));
        if from > 0 {
            upload.taken = from;
            upload.stage().await?;
            tracing::info!(digest = %expected, from, "an upload that was cut off goes on");
        }
        Ok(upload)
    }

    /// Stores the bytes of a file of this machine. It may change meanwhile: what is stored is what was announced, or it fails.
    pub async fn take(&self, space: &Space, expected: Digest, file: File) -> Result<(), StoreError> {
        if self.find_missing(space, &[expected]).await?.is_empty() {
            return Ok(());
        }
        let mut upload = self.upload(space, Some(expected));
        if expected.size <= INLINE_MAX {
            let read = move || {
                let mut bytes = vec![0; expected.size as usize];
                file.read_exact_at(&mut bytes, 0).map(|()| bytes)
            };
            let read = tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Draining)?;
            let bytes = read.map_err(|error| Invalid::new("descriptor", format!("cannot be read: {error}")))?;
            upload.write(bytes.into()).await?;
        } else {
            let options = StageOptions { aliases: self.inner.aliases.clone(), ..StageOptions::default() };
            let mut staged = self.inner.blobs.stage(options).await?;
            staged.take(file, expected.size).await?;
            self.inner.metrics.bytes_in.inc_by(expected.size);
            upload.staged = Some(staged);
        }
        upload.finish().await.map(drop)
    }

    /// From where an upload of a blob can go on; `None` if the space holds the blob.
    pub async fn query_upload(&self, space: &Space, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let until = clock::monotonic() + CUT_OFF;
        loop {
            if self.find_missing(space, &[*digest]).await?.is_empty() {
                return Ok(None);
            }
            // Whoever asks has been cut off, but that may not be known here yet.
            match self.inner.blobs.staged(token(space, digest)).await? {
                Some(staged) => return Ok(Some(staged.min(digest.size))),
                None if clock::monotonic() >= until => return Ok(Some(0)),
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

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
        let mut inline = Vec::new();
        for (digest, pair) in digests.iter().zip(found.chunks_exact(2)) {
            let [Some(_), Some(row)] = pair else { continue };
            let stored = values::blob_from(row.value.clone()).map_err(StoreError::row(digest))?;
            if stored.place == Place::Inline && stored.lost.is_none() {
                inline.push((digest, stored));
            }
        }
        let keys: Vec<RowKey> = inline.iter().map(|(digest, stored)| rows::inline(digest, stored.nonce)).collect();
        let values = self.inner.meta.get(&keys).await?;
        let mut bytes = BTreeMap::new();
        for ((digest, stored), row) in inline.iter().zip(values) {
            bytes.insert(**digest, self.checked(digest, stored, row.map(|row| row.value)).await?);
        }
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
                let mut reader = self.read(space, digest, 0..digest.size).await?;
                while let Some(piece) = futures::StreamExt::next(&mut reader).await {
                    piece.map_err(|error| lost(digest, error))?;
                }
                if reader.signature() != Some(&signature) {
                    return Err(StoreError::Lost { digest: *digest, why: "its file changes while it is read".into() });
                }
                self.remember(digest, &stored, &Learnt { signature: Some(signature), outboard: None }).await?;
                Ok(Content::File(file))
            }
            None if digest.size <= IN_MEMORY => Ok(Content::Bytes(self.read_whole(space, digest, digest.size).await?)),
            None => Ok(Content::Parts),
        }
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

    /// Notes what a file looks like whose bytes have just been found right, as after a reboot that renumbered its device, and
    /// the outboard that was lost, so that it need not be read as a whole again.
    async fn remember(&self, digest: &Digest, stored: &Stored, learnt: &Learnt) -> Result<(), StoreError> {
        let row = &rows::blob(digest);
        let now = &signed(stored.clone(), learnt.signature.as_ref());
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

    /// Discards, now and then, what was cut off so long ago that nobody will go on with it.
    pub async fn sweep_uploads(self, keep: Duration) {
        loop {
            match self.inner.blobs.sweep(clock::ago(keep)).await {
                Ok(0) => {}
                Ok(swept) => tracing::info!(swept, "discarded uploads that were cut off"),
                Err(error) => {
                    tracing::warn!(error = %super::error::chain(&error), "cut-off uploads could not be discarded");
                }
            }
            tokio::time::sleep((keep / 4).clamp(SWEEP_AT_MOST, SWEEP_AT_LEAST)).await;
        }
    }

    /// Where a blob is that the space holds, and its bytes if they are a row.
    async fn place(&self, space: &Space, digest: &Digest) -> Result<(Stored, Option<Bytes>), StoreError> {
        let found = self.inner.meta.get(&[rows::holding(space, digest), rows::blob(digest)]).await?;
        let [Some(_), Some(row)] = &found[..] else {
            return Err(StoreError::NotFound { what: format!("the blob {digest}") });
        };
        let stored = values::blob_from(row.value.clone()).map_err(StoreError::row(digest))?;
        if let Some(position) = stored.lost {
            return Err(self.is_lost(digest, position).await);
        }
        if stored.place != Place::Inline {
            return Ok((stored, None));
        }
        let row = self.inner.meta.get(&[rows::inline(digest, stored.nonce)]).await?.pop().flatten();
        let bytes = self.checked(digest, &stored, row.map(|row| row.value)).await?;
        Ok((stored, Some(bytes)))
    }

    /// The bytes of a row, if they are there and right.
    async fn checked(&self, digest: &Digest, stored: &Stored, bytes: Option<Bytes>) -> Result<Bytes, StoreError> {
        let why = match bytes {
            Some(bytes) if Digest::of(&bytes) == *digest => return Ok(bytes),
            Some(_) => "its row holds other bytes",
            None => "its row is missing",
        };
        self.suspect(digest, stored).await;
        Err(StoreError::Lost { digest: *digest, why: why.into() })
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
        let small = std::mem::take(&mut self.small).freeze();
        self.taken = 0;
        let staged = self.stage().await?;
        if !small.is_empty() {
            staged.write(small.clone()).await?;
        }
        let taken = small.len() + bytes.len();
        staged.write(bytes).await?;
        self.taken = taken as u64;
        Ok(())
    }

    /// Stages what follows upon the bytes that were taken.
    async fn stage(&mut self) -> Result<&mut Box<dyn Staged>, StoreError> {
        let resumable = self.expected.filter(|expected| expected.size >= RESUMABLE);
        let options = StageOptions {
            size_hint: self.expected.map(|expected| expected.size),
            aliases: self.store.inner.aliases.clone(),
            frames: None,
            resume: resumable.map(|digest| Resume { token: token(&self.space, &digest), from: self.taken }),
        };
        Ok(self.staged.insert(self.store.inner.blobs.stage(options).await?))
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
                // Whoever was cut off after the last byte finds it stored.
                let published = tokio::spawn(staged.publish(expected)).await.map_err(|_| StoreError::Draining)??;
                let Published { location, signature, aliases, outboard } = published;
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
    pub(crate) async fn stored(&self, digest: &Digest) -> Result<Option<Stored>, StoreError> {
        let row = self.inner.meta.get(&[rows::blob(digest)]).await?.pop().flatten();
        row.map(|row| values::blob_from(row.value)).transpose().map_err(StoreError::row(digest))
    }
}

/// The name of a blob on its way into a space; what is on the way into one is none of another's business.
fn token(space: &Space, digest: &Digest) -> ResumeToken {
    let mut token = Encoder::new("provender upload 1");
    token.bytes(space.as_str()).digest(digest);
    ResumeToken(token.digest_of_all().hash.first_chunk().copied().unwrap_or_default())
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
