//! What the metadata says of blobs: where their bytes are, and what keeps them.

use bytes::Bytes;

use crate::digest::Digest;
use crate::time::Timestamp;

/// Where a blob's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a row of [`crate::Table::Inline`].
    Inline,
    /// In the blob backend.
    Backend {
        /// What tells whether the file may have changed since it was published, in the backend's own encoding.
        signature: Option<Bytes>,
        /// How they are kept there.
        form: Form,
        /// Whether compressing them was tried, and would have saved too little.
        incompressible: bool,
    },
}

/// How a backend keeps the bytes of a blob.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// As they are.
    #[default]
    Raw,
    /// Compressed, in frames that can be read one by one.
    Frames {
        /// The bytes that they take.
        stored: u64,
    },
}

/// One stored blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Makes the location unique: it is `digest.nonce`, and never used again.
    pub nonce: u64,
    /// Where the bytes are.
    pub place: Place,
    /// When they were published.
    pub published: Timestamp,
    /// Where it stands in the log of lost digests, if its bytes were found missing or damaged there: then it counts as missing, and
    /// storing it anew replaces this.
    pub lost: Option<u64>,
}

/// Why something is kept from collection, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The blob or tree that is kept, with all that it refers to.
    pub digest: Digest,
    /// Whether `digest` is a tree.
    pub tree: bool,
    /// Why, for people.
    pub reason: String,
    /// Whose it is.
    pub owner: String,
    /// When it ends; never, if absent.
    pub expires: Option<Timestamp>,
}
