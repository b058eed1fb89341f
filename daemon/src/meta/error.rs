//! What can go wrong with metadata.
//!
//! Owns the errors of the `Meta` seam. Invariant: an error of a commit says whether the batch did not happen or might have.
//! It must not know engines: their errors are sources.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use provender_core::batch::{BatchId, RowKey, Version};
use thiserror::Error;

/// Why metadata could not be read, or not opened. Cheap to clone: one fault may answer many callers.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum MetaError {
    /// The configuration cannot work.
    #[error("the metadata configuration cannot work: {reason}")]
    Config {
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Another process has the files open.
    #[error("the metadata in {} is in use by another provenderd; stop that one first, or use another --data folder", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The stored layout is none that this program knows.
    #[error(
        "the metadata has layout {found}, this program knows {known}: run the provenderd that wrote it, or a newer one"
    )]
    Layout {
        /// What is stored.
        found: u32,
        /// What this program reads and writes.
        known: u32,
    },
    /// What is stored cannot be right.
    #[error("the metadata is damaged ({what}): restore a backup with `provenderd restore`")]
    Corrupt {
        /// What was found.
        what: String,
    },
    /// The disk is full. Reads go on; writes do again once there is space.
    #[error("the disk that holds the metadata is full: free some space; writing goes on within seconds")]
    Full {
        /// The engine's words.
        source: Source,
    },
    /// The disk is so full that what is on it cannot even be opened.
    #[error("the disk that holds the metadata in {} is full, and opening it takes some: free some space, then start provenderd again", path.display())]
    FullAtOpen {
        /// The folder.
        path: PathBuf,
        /// The engine's words.
        source: Source,
    },
    /// The engine cannot be reached, or refused.
    #[error("the metadata is not available: {doing} failed")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// The engine's words.
        source: Source,
    },
    /// The cursor stands before what the feed still holds, or beyond its end (the storage was restored): start over.
    #[error("the change feed does not reach back to this cursor; it goes on after {}", oldest.0)]
    Trimmed {
        /// The oldest cursor that is still good.
        oldest: Version,
    },
    /// The id is so old that its fate may have been forgotten.
    #[error("batch {id:?} is too old to tell what became of it")]
    Forgotten {
        /// The batch.
        id: BatchId,
    },
    /// The engine was shut down.
    #[error("the metadata engine has stopped")]
    Closed,
}

/// An engine's own error.
pub(super) type Source = Arc<dyn Error + Send + Sync>;

impl MetaError {
    pub(super) fn unavailable(doing: &'static str, source: impl Error + Send + Sync + 'static) -> MetaError {
        MetaError::Unavailable { doing, source: Arc::new(source) }
    }
}

/// Why a commit did not succeed.
#[derive(Debug, Clone, Error)]
pub enum CommitError {
    /// A row is not as the batch expects: read again and decide again. The batch did not happen.
    #[error("{key:?} was changed meanwhile")]
    Conflict {
        /// The row.
        key: RowKey,
    },
    /// The batch was aborted by [`resolve`](super::Meta::resolve), and never happens.
    #[error("batch {id:?} was aborted")]
    Aborted {
        /// The batch.
        id: BatchId,
    },
    /// This call did not commit the batch (an earlier call with the same batch may have).
    #[error("nothing was committed")]
    NotCommitted {
        /// Why.
        source: MetaError,
    },
    /// The batch might have happened: [`resolve`](super::Meta::resolve) tells, and decides.
    #[error("whether batch {id:?} was committed is unknown")]
    Unknown {
        /// The batch.
        id: BatchId,
        /// Why.
        source: MetaError,
    },
}
