//! The wire: provender's own protocol, and the only conversions between it and `core`.
//!
//! Owns the `.proto` files, the code generated from them (committed; a test holds it current) and [`convert`]. Invariant: whatever
//! a peer sends becomes a valid `core` value or a clear [`convert::Invalid`], never a panic. It must not know storage.

pub mod convert;
#[cfg(target_os = "linux")]
pub mod handover;
pub mod rows;

/// `provender.v1`: what executors and clients speak.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod v1 {
    include!("gen/provender.v1.rs");
}

/// What metadata rows hold beyond the nouns of the wire.
pub mod store {
    /// `provender.store.v1`.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    pub mod v1 {
        include!("gen/provender.store.v1.rs");
    }
}

/// The descriptors of all of it, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptors.bin");

/// The largest message that either side takes, in bytes.
pub const MAX_MESSAGE: usize = 4 << 20;
/// The most bytes of data in one piece of a stream.
pub const MAX_PIECE: usize = 1 << 20;
/// The most bytes of blobs in one batch, so that what is around them fits into a message too.
pub const MAX_BATCH_BYTES: usize = 3 << 20;
/// The most items in one batch of small blobs.
pub const MAX_BATCH_ITEMS: usize = 10_000;
/// The most digests in one question for what is missing.
pub const MAX_DIGESTS: usize = 50_000;
/// The most keys in one lookup.
pub const MAX_KEYS: usize = 10_000;
/// The nodes that a walk comes to at most, if nothing else is said.
pub const DEFAULT_LINEAGE: usize = 10_000;
/// The most nodes that a walk comes to, over all of its pages.
pub const MAX_LINEAGE: usize = 1_000_000;
/// A page of a walk ends after so many edges for each node of its limit.
pub const LINEAGE_EDGES: usize = 20;
/// The most arrivals that a page can be asked to stand behind.
pub const MAX_LINEAGE_SKIP: usize = MAX_LINEAGE * LINEAGE_EDGES;
/// The causes, and the outputs, that a comparison tells of at most, if nothing else is said.
pub const DEFAULT_DIFF: usize = 1_000;
/// The most that it can be asked to tell of.
pub const MAX_DIFF: usize = 100_000;
/// The most names in one invalidation.
pub const MAX_NAMES: usize = 1_000;
/// The most prefixes of names that one watcher asks for.
pub const MAX_PREFIXES: usize = 100;
/// The most keys that are explained in one call.
pub const MAX_EXPLAINED: usize = 1_000;
/// The most keys that are registered in one call.
pub const MAX_REGISTERED: usize = 1_000;
