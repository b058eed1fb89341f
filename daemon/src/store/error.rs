//! Why the store did not do what it was asked. One kind each; the front turns kinds into status codes.

use provender_blobs::BlobError;
use provender_core::Digest;
use provender_core::transition::Refused;
use provender_core::tree::TreeError;
use provender_proto::convert::Invalid;
use provender_proto::rows::RowError;

use crate::meta::MetaError;

/// What the store answers instead.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The question makes no sense.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// There is no such thing.
    #[error("{what} is not in the store")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// The executor has no say (any more).
    #[error("{0}")]
    Refused(#[from] Refused),
    /// What is asked refers to blobs that are not there: upload them, then ask again.
    #[error("{count} of the blobs that this refers to are not in the store; upload them first, such as {}", missing.first().map(Digest::to_string).unwrap_or_default())]
    Missing {
        /// How many.
        count: usize,
        /// Some of them.
        missing: Vec<Digest>,
    },
    /// Bytes that should be a tree are none.
    #[error("{digest} is not a tree that can be stored: {source}")]
    Tree {
        /// The blob.
        digest: Digest,
        /// What is wrong with it.
        source: TreeError,
    },
    /// More than the store takes at once.
    #[error("{what}")]
    TooLarge {
        /// What, and the bound.
        what: String,
    },
    /// The bytes are lost or damaged; they are not served.
    #[error("the blob {digest} is lost or damaged: {why}")]
    Lost {
        /// The blob.
        digest: Digest,
        /// What was found.
        why: String,
    },
    /// Too many others changed the same rows.
    #[error("the same rows were changed by others {attempts} times in a row; try again")]
    Contended {
        /// How often it was tried.
        attempts: u32,
    },
    /// Whether it was committed could not be found out in time.
    #[error("whether this was recorded could not be found out: {}", chain(source))]
    Undecided {
        /// Why.
        source: MetaError,
    },
    /// A watch cannot go on from where it was.
    #[error("this watch cannot go on from its cursor: {why}; look the keys up, and watch from now")]
    Cursor {
        /// Why.
        why: String,
    },
    /// More would be stored than may be, and what is there is protected.
    #[error("no space is left for it: {what}")]
    Full {
        /// What is stored, and what to do.
        what: String,
    },
    /// Another daemon has gone on with a collection that stood still.
    #[error("another provenderd collects now; ask again")]
    Collecting,
    /// The daemon is stopping.
    #[error("the daemon is stopping; ask another one, or again once it is back")]
    Draining,
    /// The store was written by another version.
    #[error(
        "the store has layout {found}, and this version knows {known}: use the version that wrote it, or a newer one; what it was before it was migrated is in the folder `snapshots` of the data folder of the provenderd that did it, for this version's `provenderd restore`"
    )]
    Layout {
        /// What is stored.
        found: u32,
        /// What is known.
        known: u32,
    },
    /// It is on its way to another layout.
    #[error(
        "the store is being migrated from layout {from} to {to} by another provenderd: wait for its end, then start this one with the same version"
    )]
    Migrating {
        /// Where it is.
        from: u32,
        /// Where it goes.
        to: u32,
    },
    /// A restore has not come to its end.
    #[error(
        "the store is being restored, or that was cut off: run `provenderd restore` again, which goes on from there"
    )]
    Restoring,
    /// The metadata belongs to another blob store.
    #[error(
        "the metadata belongs to the blob store {expected}, but the configured folder holds {found}: configure the folder that it was used with"
    )]
    OtherBlobs {
        /// The one it knows.
        expected: String,
        /// The one it found.
        found: String,
    },
    /// A file was asked for.
    #[error("the blob {digest} is not kept as a file: ask for its bytes")]
    NoFile {
        /// Which.
        digest: Digest,
    },
    /// A stored row cannot be read.
    #[error("{what} cannot be read from the metadata: {why}")]
    Row {
        /// Which row.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// The metadata engine.
    #[error("{}", chain(.0))]
    Meta(#[from] MetaError),
    /// The blob backend.
    #[error("{}", chain(.0))]
    Blobs(#[from] BlobError),
}

impl StoreError {
    /// What is missing, if anything is.
    pub(super) fn missing(mut missing: Vec<Digest>, named: usize) -> Result<(), StoreError> {
        let count = missing.len();
        missing.truncate(named);
        if count == 0 { Ok(()) } else { Err(StoreError::Missing { count, missing }) }
    }

    /// A row that cannot be decoded.
    pub(crate) fn row(what: impl ToString) -> impl FnOnce(RowError) -> StoreError {
        move |error| StoreError::Row { what: what.to_string(), why: chain(&error) }
    }
}

/// An error and its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
