//! Why a blob store did not do what it was asked.
//!
//! Owns [`BlobError`]. Invariant: [`BlobError::NotFound`] is said only by a store that was seen to be there.

use std::io;
use std::ops::Range;

use provender_core::Digest;
use rustix::io::Errno;

use crate::Location;

/// What a [`crate::Blobs`] answers instead of doing what it was asked. `store` names the store for people.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The store has nothing there, for sure.
    #[error("the blob {location} is not in the store")]
    NotFound {
        /// What was asked for.
        location: Location,
    },
    /// What is stored is not what was published.
    #[error("the blob {location} is corrupt: {why}")]
    Corrupt {
        /// What was read.
        location: Location,
        /// What is wrong with it.
        why: String,
    },
    /// A pack is none, so that it cannot be told what is in it.
    #[error("the pack {nonce:016x} in the blob store {store} is damaged: {why}")]
    Damaged {
        /// Which store.
        store: String,
        /// The pack.
        nonce: u64,
        /// What is wrong with it.
        why: String,
    },
    /// What was written is not what was announced.
    #[error("expected the blob {expected}, but received {found}")]
    Mismatch {
        /// As announced.
        expected: Digest,
        /// As written.
        found: Digest,
    },
    /// A file that was handed over ends too early.
    #[error("the file that is handed over has fewer than the {size} bytes that were announced")]
    Short {
        /// As announced.
        size: u64,
    },
    /// A staged blob cannot be gone on with from there.
    #[error(
        "the upload cannot go on from byte {from}, as only {staged} bytes of it are kept; ask how many there are, and go on from there"
    )]
    Behind {
        /// From where it was to go on.
        from: u64,
        /// How many bytes are there.
        staged: u64,
    },
    /// The range begins past the end of the blob, or ends before it begins.
    #[error("there are no bytes {} to {} in the blob {location}", range.start, range.end)]
    OutOfRange {
        /// What was read.
        location: Location,
        /// The bytes that were asked for.
        range: Range<u64>,
    },
    /// In frames, the blob would take more than was allowed. Nothing was stored.
    #[error("in frames the blob would take more than {most} bytes: keep it as it is")]
    Incompressible {
        /// The bytes that frames could have.
        most: u64,
    },
    /// No space or quota is left. Nothing was stored; it works again once there is space.
    #[error(
        "the disk is full: no space is left in the blob store {store} to {doing}; free some space, then it works again"
    )]
    Full {
        /// Which store.
        store: String,
        /// What failed.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The store is not there now: not mounted, replaced by another, or its marker cannot be read. Says nothing of
    /// what is in it.
    #[error("the blob store {store} is not available: {why}")]
    Unavailable {
        /// Which store.
        store: String,
        /// What is wrong.
        why: String,
    },
    /// The store was made by a newer version.
    #[error("the blob store {store} has layout {found}, but this version knows only layouts up to {known}")]
    Layout {
        /// Which store.
        store: String,
        /// The layout of its marker.
        found: u32,
        /// The newest layout known here.
        known: u32,
    },
    /// A transfer cannot go on, for a reason that was told before, or because the program is ending.
    #[error("the blob's transfer was abandoned: {why}")]
    Abandoned {
        /// What came before.
        why: &'static str,
    },
    /// Anything else that the system refused. Says nothing of what is in the store.
    #[error("cannot {doing} in the blob store {store}")]
    Io {
        /// Which store.
        store: String,
        /// What failed.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl BlobError {
    /// The system refused to do `doing` in `store`.
    pub(crate) fn io(store: impl ToString, doing: &'static str, source: impl Into<io::Error>) -> BlobError {
        let (store, source) = (store.to_string(), source.into());
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => BlobError::Full { store, doing, source },
            _ => BlobError::Io { store, doing, source },
        }
    }
}
