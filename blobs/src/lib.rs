//! Large blobs: immutable bytes under locations that are never reused.
//!
//! Owns the [`Blobs`] seam, its backends ([`Memory`], [`Disk`]), one-pass hashing ([`Ingest`], with its [`Outboard`]), checked
//! reads ([`open_verified`]) and compression ([`recode()`]). Invariants: what a location names is whole and durable from the moment it can be seen, and a
//! location that was removed never names anything again. It must not know metadata or wire: which blobs are wanted,
//! by whom, and where small ones live, is decided above.
//!
//! Bytes are hashed once, as they come in. Whoever reads gets raw bytes from [`Blobs::open`], and checked ones from
//! [`open_verified`]; only the latter may leave the store. Backends take part in the check by their [`Signature`],
//! which tells a file that has stayed as it was published.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use provender_core::Digest;

mod blocking;
mod config;
mod disk;
mod error;
mod frames;
mod ingest;
mod location;
mod memory;
mod outboard;
mod reader;
mod recode;
mod signature;
mod verified;

pub use config::{BlobsConfig, open};
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
    /// read is read to its end.
    async fn open(&self, location: &Location, range: Range<u64>) -> Result<Reader, BlobError>;

    /// Begins a new blob. Nothing of it can be seen before [`Staged::publish`].
    async fn stage(&self, options: StageOptions) -> Result<Box<dyn Staged>, BlobError>;

    /// Removes a blob; it is fine if it is gone already.
    async fn remove(&self, location: &Location) -> Result<(), BlobError>;

    /// The locations after `after`, in order, about `limit` of them at most.
    async fn list(&self, after: Option<&Location>, limit: usize) -> Result<Page, BlobError>;

    /// The open local file of a blob, for readers that let the kernel read by itself; `None` where there is none with its bytes
    /// as they are, or somebody has a [`Claim`] on it.
    ///
    /// Its bytes are right only if the signature, taken from the open file, equals the one recorded. As long as it is open
    /// anywhere, nobody else gets a claim.
    async fn file(&self, location: &Location) -> Result<Option<(File, Signature)>, BlobError>;

    /// A claim on a blob that nobody has open as a file; `None` if somebody has, or that cannot be told.
    async fn claim(&self, location: &Location) -> Result<Option<Claim>, BlobError>;

    /// Discards what was staged by processes that died, and not written to since `before`. Returns how many.
    async fn sweep(&self, before: SystemTime) -> Result<u64, BlobError>;
}

/// A blob on its way in. Dropping it discards it.
#[async_trait]
pub trait Staged: Send + 'static {
    /// Appends. If the future is dropped before it is ready, nothing was appended; after an error, only dropping is
    /// left to do.
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError>;

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
    /// Hash functions to compute in the same pass, for [`Published::aliases`].
    pub aliases: Vec<HashFunction>,
    /// To be kept in frames; else as it is.
    pub frames: Option<Frames>,
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
