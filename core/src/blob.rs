//! What the metadata says of blobs: where their bytes are, and what keeps them.

use std::fmt;

use bytes::Bytes;

use crate::collect::References;
use crate::digest::Digest;
use crate::key::TaskKey;
use crate::name::Name;
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
    /// Among other small blobs, in the pack that the location's nonce names.
    Pack {
        /// Where in the pack its bytes begin, or those of its frame.
        at: u32,
        /// Its frame, if they are compressed.
        frame: Option<PackFrame>,
    },
}

/// Some blobs of a pack that are compressed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackFrame {
    /// The bytes that all of it takes.
    pub stored: u32,
    /// Where in it, unpacked, the blob begins.
    pub begin: u32,
}

/// What is known of a pack of which not all is wanted any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PackUse {
    /// The bytes of its blobs; 0 before it was looked through.
    pub bytes: u64,
    /// Those of its blobs that are not wanted any more.
    pub dead: u64,
    /// Whether it is about to go: nothing may be recorded to be in it.
    pub condemned: bool,
}

impl PackUse {
    /// Whether it is worth looking through: it was not yet, it may be on its way out, or half of it is dead.
    pub fn is_due(&self) -> bool {
        self.bytes == 0 || self.condemned || self.dead >= self.bytes.div_ceil(2)
    }
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
    /// By which other hashes it can be found.
    pub aliases: Vec<Alias>,
}

/// Another hash of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// The function's name in lower case, such as `sha256`.
    pub function: String,
    /// What it gives.
    pub hash: Bytes,
}

impl Stored {
    /// The bytes that it takes where it is; in a pack, before those are compressed.
    pub fn bytes(&self, digest: &Digest) -> u64 {
        match self.place {
            Place::Backend { form: Form::Frames { stored }, .. } => stored,
            Place::Backend { form: Form::Raw | Form::Pack { .. }, .. } | Place::Inline => digest.size,
        }
    }
}

/// Why something is kept from collection, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// What is kept.
    pub what: Pinned,
    /// Why, for people.
    pub reason: String,
    /// Whose it is.
    pub owner: String,
    /// When it was made.
    pub made: Timestamp,
    /// When it ends; never, if absent.
    pub expires: Option<Timestamp>,
    /// Of a tree: the blob that lists all that it refers to, as sorted 40-byte digests.
    pub closure: Option<Digest>,
}

/// What a pin keeps.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pinned {
    /// A blob.
    Blob(Digest),
    /// A tree, with all that it refers to.
    Tree(Digest),
    /// The record of a key, whichever that is.
    Key(TaskKey),
    /// The records under a name.
    Name(Name),
    /// The records under the names at and below a prefix (see [`crate::collect::rules::covers`]).
    Prefix(String),
}

impl Pinned {
    /// The blob or tree.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Pinned::Blob(digest) | Pinned::Tree(digest) => Some(*digest),
            Pinned::Key(_) | Pinned::Name(_) | Pinned::Prefix(_) => None,
        }
    }
}

impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pinned::Blob(digest) => write!(f, "blob:{}", digest.hex()),
            Pinned::Tree(digest) => write!(f, "tree:{}", digest.hex()),
            Pinned::Key(key) => write!(f, "{key}"),
            Pinned::Name(name) => write!(f, "name:{name}"),
            Pinned::Prefix(prefix) => write!(f, "{prefix}/"),
        }
    }
}

impl Pin {
    /// Whether it holds no more.
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// What it refers to by itself.
    pub fn references(&self) -> References {
        References { spec: None, blobs: self.what.digest().into_iter().collect(), closure: self.closure }
    }
}
