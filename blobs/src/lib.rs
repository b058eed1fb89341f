//! Large blobs: immutable bytes under locations that are never reused.
//!
//! Owns the [`Blobs`] seam, its backends ([`Memory`], [`Disk`], [`Bucket`]), one-pass hashing ([`Ingest`], with its [`Outboard`]), checked
//! reads ([`open_verified`]) and compression ([`recode()`]). Invariants: what a location names is whole and durable from the moment it can be seen, and a
//! location that was removed never names anything again. It must not know metadata or wire: which blobs are wanted,
//! by whom, and where small ones live, is decided above.
//!
//! Bytes are hashed once, as they come in. Whoever reads gets raw bytes from [`Blobs::open`], and checked ones from
//! [`open_verified`]; only the latter may leave the store. Backends take part in the check by their [`Signature`],
//! which tells a file that has stayed as it was published.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use provender_core::Digest;

mod blocking;
mod bucket;
pub mod cache;
mod config;
mod copy;
mod disk;
mod error;
mod frames;
pub mod held;
mod ingest;
mod location;
mod memory;
mod outboard;
mod pack;
mod reader;
mod recent;
mod recode;
mod signature;
mod verified;

pub use bucket::{Bucket, BucketConfig, Request, Requests, Settings};
pub use config::{BlobsConfig, open};
pub use copy::{copy_range, share};
pub use disk::Disk;
pub use error::BlobError;
pub use frames::Frames;
pub use ingest::{Alias, HashFunction, Hashes, Ingest};
pub use location::{Location, ParseLocationError, ParseStoreIdError, StoreId};
pub use memory::Memory;
pub use outboard::Outboard;
pub use provender_core::blob::Form;
pub use reader::Reader;
pub use recode::{SAMPLED, compresses, recode};
pub use signature::Signature;
pub use verified::{Learnt, Opened, open_verified, verified};

/// The most bytes of one chunk that a [`Reader`] yields, and the unit in which large blobs are hashed and written.
pub const CHUNK: usize = 1 << 20;

/// A store of immutable blobs. Every method may be called at any time, also while other processes use the same store.
///
/// Dropping any future of it, or a [`Staged`], leaves nothing behind.
#[async_trait]
pub trait Blobs: Send + Sync + fmt::Debug + 'static {
    /// What tells this store from any other, for as long as it lives. Kept by its user, so that a store that was
    /// swapped or lost is noticed at [`open`].
    fn id(&self) -> StoreId;

    /// Fails with [`BlobError::Unavailable`] unless the store is there now and is this one. Whoever draws a lasting conclusion
    /// from bytes that look wrong asks this first.
    async fn prove(&self) -> Result<(), BlobError>;

    /// What is at each of `locations`, in their order; `None` where nothing is.
    ///
    /// `None` and [`BlobError::NotFound`] are authoritative: a store that cannot be reached is an error instead.
    async fn stat(&self, locations: &[Location]) -> Result<Vec<Option<Stat>>, BlobError>;

    /// The bytes of `range` of the blob, whatever its form, unchecked (see [`open_verified`]). The range is cut at the blob's end.
    ///
    /// Fails with [`BlobError::NotFound`], with [`BlobError::OutOfRange`] if the range begins past the end, and with
    /// [`BlobError::Corrupt`] if what is stored has not the size that it should have, or is no frames. A blob that is removed while being
    /// read is read to its end where it is on a disk or in memory.
    async fn open(&self, location: &Location, range: Range<u64>) -> Result<Reader, BlobError>;

    /// Begins a new blob, or goes on with one ([`StageOptions::resume`]). Nothing of it can be seen before [`Staged::publish`].
    async fn stage(&self, options: StageOptions) -> Result<Box<dyn Staged>, BlobError>;

    /// Removes a blob; it is fine if it is gone already.
    async fn remove(&self, location: &Location) -> Result<(), BlobError>;

    /// The locations after `after`, in order, about `limit` of them at most.
    async fn list(&self, after: Option<&Location>, limit: usize) -> Result<Page, BlobError>;

    /// The open local file of a blob, for readers that let the kernel read by itself; `None` where there is none with its bytes
    /// as they are, or somebody has a [`Claim`] on it. Stores that have no files do not look.
    ///
    /// Its bytes are right only if the signature, taken from the open file, equals the one recorded. As long as it is open
    /// anywhere, nobody else gets a claim.
    async fn file(&self, location: &Location) -> Result<Option<(File, Signature)>, BlobError>;

    /// How many bytes are staged under a token, by whoever was cut off; `None` while somebody is writing to it. 0 where there is
    /// nothing, also in stores that keep nothing of what is cut off.
    async fn staged(&self, token: ResumeToken) -> Result<Option<u64>, BlobError>;
    /// A claim on a blob that nobody has open as a file; `None` if somebody has, or that cannot be told.
    async fn claim(&self, location: &Location) -> Result<Option<Claim>, BlobError>;

    /// The size of the disk that it is on, and what is free of it; `None` where there is none, or nobody knows.
    async fn space(&self) -> Result<Option<Space>, BlobError> {
        Ok(None)
    }

    /// What the place is called where what is published is durable.
    fn tier(&self) -> &'static str {
        "local"
    }

    /// Where small blobs are kept, if not with the metadata.
    fn packs(&self) -> Option<&dyn Packs> {
        None
    }

    /// What is asked of the service that keeps it; `None` if there is none.
    fn requests(&self) -> Option<&Arc<Requests>> {
        None
    }

    /// Discards what was staged by processes that died, and not written to since `before`. Returns how many.
    async fn sweep(&self, before: SystemTime) -> Result<u64, BlobError>;
}

/// A store that keeps small blobs, many in one pack. A blob has a location of its own there, for [`Blobs::open`] and [`Blobs::stat`], but it is
/// there as long as its pack: to remove it alone does nothing, and no listing tells of it.
#[async_trait]
pub trait Packs: Send + Sync {
    /// Stores blobs of 256 KiB at most, together with those of whoever else is about to; durable when it returns their locations, in
    /// order. Their digests are the caller's to have computed.
    async fn put(&self, blobs: Vec<(Digest, Bytes)>) -> Result<Vec<Location>, BlobError>;

    /// The bytes of many, unchecked, in order. Fails of each as [`Blobs::open`] does.
    async fn get(&self, locations: &[Location]) -> Vec<Result<Bytes, BlobError>>;

    /// The packs after `after`, in order, about `limit` of them at most; with the last one's number, if there are more.
    async fn list(&self, after: Option<u64>, limit: usize) -> Result<(Vec<Pack>, Option<u64>), BlobError>;

    /// What is in a pack; `None` if there is no such pack. Fails with [`BlobError::Damaged`] if it is none.
    async fn contents(&self, nonce: u64) -> Result<Option<Vec<Location>>, BlobError>;

    /// Removes a pack with all that is in it; it is fine if it is gone already.
    async fn remove(&self, nonce: u64) -> Result<(), BlobError>;
}

/// A pack as it is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pack {
    /// Its number: the nonce of each location in it.
    pub nonce: u64,
    /// Its bytes.
    pub size: u64,
    /// When it was made.
    pub made: SystemTime,
}

/// A blob on its way in. Dropping it discards it, unless it has a token under which it can be gone on with.
#[async_trait]
pub trait Staged: Send + 'static {
    /// Appends. If the future is dropped before it is ready, nothing was appended; after an error, only dropping is
    /// left to do.
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError>;

    /// Takes the bytes of a local file, `size` of them from its beginning; nothing else is written before or after. What is hashed is what was
    /// taken, whatever becomes of the file meanwhile. Fails with [`BlobError::Short`] if it ends before.
    async fn take(&mut self, file: File, size: u64) -> Result<(), BlobError> {
        let file = Arc::new(file);
        let mut offset = 0;
        while offset < size {
            let (file, want) = (file.clone(), (size - offset).min(CHUNK as u64) as usize);
            let piece = blocking::blocking(move || {
                let mut piece = vec![0; want];
                match file.read_exact_at(&mut piece, offset) {
                    Ok(()) => Ok(Bytes::from(piece)),
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(BlobError::Short { size }),
                    Err(error) => Err(BlobError::io("that is taken from", "read a file", error)),
                }
            });
            self.write(piece.await?).await?;
            offset += want as u64;
        }
        Ok(())
    }

    /// Makes the blob durable, then visible under a fresh location.
    ///
    /// Fails with [`BlobError::Mismatch`] if `expected` is given and is not the digest of what was written. After any
    /// failure nothing is left.
    async fn publish(self: Box<Self>, expected: Option<Digest>) -> Result<Published, BlobError>;
}

/// How a blob is to be staged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StageOptions {
    /// How many bytes to expect. A hint only: it may be wrong.
    pub size_hint: Option<u64>,
    /// What they are to come to, if that is known. Some stores have them go straight to their place by it; then to publish anything else
    /// fails with [`BlobError::Mismatch`].
    pub announced: Option<Digest>,
    /// Hash functions to compute in the same pass, for [`Published::aliases`].
    pub aliases: Vec<HashFunction>,
    /// To be kept in frames; else as it is.
    pub frames: Option<Frames>,
    /// Keeps what is staged if it is cut off, and goes on with what was kept. What is to be in frames is not kept.
    pub resume: Option<Resume>,
}

/// Names a blob on its way in, whichever process it comes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResumeToken(pub [u8; 16]);

/// What a staged blob goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume {
    /// Its name.
    pub token: ResumeToken,
    /// How many of the bytes that are staged under it to go on from. What is staged beyond is forgotten. With fewer, and
    /// while another one writes to it, staging fails with [`BlobError::Behind`]; but from 0 it begins anew, under no name if need be.
    pub from: u64,
}

/// While it is held, [`Blobs::file`] gives nobody the file of a blob.
#[derive(Debug)]
pub struct Claim {
    _locked: Option<File>,
}

/// A blob that is durable and visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Where it is.
    pub location: Location,
    /// What its file looks like, if it is a file.
    pub signature: Option<Signature>,
    /// Its other hashes, as [`StageOptions::aliases`] asked.
    pub aliases: Vec<Alias>,
    /// What proves its parts, for [`open_verified`]; none if it is so small that the digest does. Worth keeping, but can be had
    /// again.
    pub outboard: Option<Outboard>,
}

/// What a store has at a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The bytes that are there; other than [`Location::stored`], if they were tampered with.
    pub size: u64,
    /// What the file looks like now, if it is a file.
    pub signature: Option<Signature>,
}

/// How much fits into a store, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// In all.
    pub total: u64,
    /// What is free of that for this user.
    pub free: u64,
}

/// A part of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// In order, without repetition.
    pub locations: Vec<Location>,
    /// Where to go on: the next call's `after`. `None` at the end.
    pub next: Option<Location>,
}

/// Stores `bytes` as one blob.
pub async fn put(blobs: &dyn Blobs, bytes: Bytes, expected: Option<Digest>) -> Result<Published, BlobError> {
    let mut staged =
        blobs.stage(StageOptions { size_hint: Some(bytes.len() as u64), ..StageOptions::default() }).await?;
    staged.write(bytes).await?;
    staged.publish(expected).await
}
