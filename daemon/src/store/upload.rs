//! Bytes on their way in: uploads in pieces, those that were cut off, and files of this machine.
//!
//! Invariants: what turns out small never comes near the backend; nothing is recorded whose bytes are not durable, and nothing durable
//! is left unrecorded; of a space's uploads another space learns nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use provender_blobs::{BlobError, Location, Published, Resume, ResumeToken, StageOptions, Staged};
use provender_core::Digest;
use provender_core::encode::Encoder;
use provender_core::name::Space;
use provender_proto::convert::Invalid;

use super::blobs::{Fresh, backend, stored};
use super::collect::admit::SetAside;
use super::{Store, StoreError};
use crate::clock;

/// How often what was cut off is looked for.
const SWEEP_AT_MOST: Duration = Duration::from_secs(1);
const SWEEP_AT_LEAST: Duration = Duration::from_secs(900);
/// Smaller uploads begin anew when they are cut off, in bytes.
const RESUMABLE: u64 = 1 << 20;
/// How long to wait for an upload that was cut off to be over, and how often to look.
const CUT_OFF: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);

/// A blob on its way in. Dropping it discards it.
pub struct Upload {
    store: Store,
    space: Space,
    expected: Option<Digest>,
    /// What came so far, while it may turn out small.
    small: BytesMut,
    taken: u64,
    staged: Option<Box<dyn Staged>>,
    /// Until it is recorded.
    room: Option<SetAside>,
    /// Whether it needs none.
    is_own: bool,
}

impl Store {
    /// Begins a blob; `expected` is what its bytes must come to, if that is known.
    pub fn upload(&self, space: &Space, expected: Option<Digest>) -> Upload {
        let (store, space) = (self.clone(), space.clone());
        Upload { store, space, expected, small: BytesMut::new(), taken: 0, staged: None, room: None, is_own: false }
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
        if expected.size <= self.small_max() {
            let read = move || {
                let mut bytes = vec![0; expected.size as usize];
                file.read_exact_at(&mut bytes, 0).map(|()| bytes)
            };
            let read = tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Draining)?;
            let bytes = read.map_err(|error| Invalid::new("descriptor", format!("cannot be read: {error}")))?;
            upload.write(bytes.into()).await?;
        } else {
            upload.room = Some(self.admit(expected.size, 0).await?);
            let announced = Some(expected);
            let options = StageOptions { aliases: self.inner.aliases.clone(), announced, ..StageOptions::default() };
            let mut staged = self.inner.blobs.stage(options).await.map_err(|error| self.notice(error))?;
            staged.take(file, expected.size).await.map_err(|error| self.notice(error))?;
            self.inner.metrics.bytes_in.inc_by(expected.size);
            (upload.staged, upload.taken) = (Some(staged), expected.size);
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

    /// A disk that turns out to be full is a reason to collect.
    fn notice(&self, error: BlobError) -> StoreError {
        if matches!(error, BlobError::Full { .. }) {
            self.call_collection();
        }
        error.into()
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

    async fn record_upload(&self, space: &Space, location: &Location, fresh: Fresh) -> Result<Digest, StoreError> {
        let (digest, nonce) = (fresh.digest, location.nonce);
        let fresh = BTreeMap::from([(digest, fresh)]);
        let mut held = self.hold(space, &[digest], &fresh).await;
        // Another copy was there first. Before this one is thrown away, that one must be seen to be there; an error says nothing.
        // What was recorded is never recorded again: it may have been lost and removed since.
        let other = held.as_ref().is_ok_and(|held| !held.recorded);
        if other && !self.is_kept(&digest).await.unwrap_or(true) {
            held = self.hold(space, &[digest], &fresh).await;
        }
        let ours = match &held {
            // It may have been recorded.
            Err(StoreError::Undecided { .. }) => true,
            Err(_) => false,
            Ok(_) => self.stored(&digest).await?.is_some_and(|there| there.nonce == nonce),
        };
        if !ours {
            // Somebody else was first, or it was not recorded: this copy is nobody's.
            self.inner.blobs.remove(location).await?;
        }
        held.map(|_| digest)
    }
}

impl Upload {
    /// It needs no room, since it is the store's own.
    pub(super) fn unasked(self) -> Upload {
        Upload { is_own: true, ..self }
    }

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
            return staged.write(bytes).await.map_err(|error| self.store.notice(error));
        }
        if self.small.len() + bytes.len() <= self.store.small_max() as usize {
            self.small.extend_from_slice(&bytes);
            return Ok(());
        }
        let small = std::mem::take(&mut self.small).freeze();
        self.taken = 0;
        self.stage().await?;
        self.taken = (small.len() + bytes.len()) as u64;
        let Some(staged) = &mut self.staged else { return Ok(()) };
        for bytes in [small, bytes] {
            if !bytes.is_empty() {
                staged.write(bytes).await.map_err(|error| self.store.notice(error))?;
            }
        }
        Ok(())
    }

    /// Stages what follows upon the bytes that were taken.
    async fn stage(&mut self) -> Result<(), StoreError> {
        let size = self.expected.map_or(self.store.small_max(), |expected| expected.size);
        if !self.is_own {
            self.room = Some(self.store.admit(size, self.taken).await?);
        }
        let resumable = self.expected.filter(|expected| expected.size >= RESUMABLE);
        let options = StageOptions {
            size_hint: self.expected.map(|expected| expected.size),
            announced: self.expected,
            aliases: self.store.inner.aliases.clone(),
            frames: None,
            resume: resumable.map(|digest| Resume { token: token(&self.space, &digest), from: self.taken }),
        };
        let staged = self.store.inner.blobs.stage(options).await;
        self.staged = Some(staged.map_err(|error| self.store.notice(error))?);
        Ok(())
    }

    /// Makes it durable and recorded; fails if it is not what was expected. It comes to its end whatever becomes of the call, so that no
    /// file is left that nothing refers to, and who was cut off after the last byte finds it stored. Before, it can be gone on with:
    /// a call that was cancelled looks as if it had come to its end.
    pub async fn finish(self) -> Result<Digest, StoreError> {
        if let Some(expected) = self.expected.filter(|expected| self.taken < expected.size) {
            let why = format!("it ended after {} of the {} bytes of {expected}", self.taken, expected.size);
            return Err(Invalid::new("data", why).into());
        }
        tokio::spawn(self.settle()).await.map_err(|_| StoreError::Draining)?
    }

    async fn settle(self) -> Result<Digest, StoreError> {
        let Upload { store, space, expected, small, staged, taken, mut room, is_own } = self;
        // How large it would be was not known before.
        if !is_own && (expected.is_none() || room.is_none()) {
            let there = if staged.is_some() { taken } else { 0 };
            drop(room.take());
            room = Some(store.admit(taken, there).await?);
        }
        let recorded = match staged {
            None => {
                let bytes = small.freeze();
                let (digest, aliases) = store.hash(std::slice::from_ref(&bytes)).await?.swap_remove(0);
                if let Some(expected) = expected.filter(|expected| *expected != digest) {
                    return Err(BlobError::Mismatch { expected, found: digest }.into());
                }
                let fresh = Fresh { digest, stored: None, bytes: Some(bytes), aliases, outboard: None };
                store.record_small(&space, BTreeMap::from([(digest, fresh)])).await.map(|()| digest)
            }
            Some(staged) => {
                let Published { location, signature, aliases, outboard } =
                    staged.publish(expected).await.map_err(|error| store.notice(error))?;
                let stored = Some(stored(location.nonce, backend(location.form, signature.as_ref())));
                let fresh = Fresh { digest: location.digest, stored, bytes: None, aliases, outboard };
                store.record_upload(&space, &location, fresh).await
            }
        };
        drop(room);
        recorded
    }
}

/// The name of a blob on its way into a space; what is on the way into one is none of another's business.
fn token(space: &Space, digest: &Digest) -> ResumeToken {
    let mut token = Encoder::new("provender upload 1");
    token.bytes(space.as_str()).digest(digest);
    ResumeToken(token.digest_of_all().hash.first_chunk().copied().unwrap_or_default())
}
