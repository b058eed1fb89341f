//! Files: how a folder becomes a tree of digests, and how a tree becomes a folder again.
//!
//! Invariants: no symlink is ever followed below the path that the user named; what is restored is what was captured, byte
//! for byte; nothing half-done is seen at a destination. Everything here blocks, and is called from blocking threads.
//! It must not know gRPC: what it needs of a store is [`Fetch`].

mod aside;
mod beneath;
mod capture;
mod claims;
mod hash;
mod hash_cache;
mod identity;
mod outputs;
mod plan;
mod restore;
mod staging;
mod write;

pub use aside::{Aside, move_aside};
pub use capture::{
    CaptureError, Captured, CapturedFile, Counts, Purpose, capture, capture_set, open_captured, signature,
};
pub use claims::{Claimed, Claims, HELD_VARIABLE};
pub use hash_cache::HashCache;
pub use outputs::{OutputPath, Outputs, OutputsError};
pub use plan::{BATCH_BYTES, BATCH_COUNT, Fetch, FetchError, SMALL_BLOB};
pub use restore::{RestoreError, RestoreOptions, restore, restore_set};

/// How the names of folders begin that hold what stood at an output path while a command runs.
pub const ASIDE_PREFIX: &str = ".provender-aside-";
/// How the names of folders begin in which a restore is built.
pub const RESTORE_PREFIX: &str = ".provender-restore-";

/// Whether a name is one that provender gives to its own temporary folders.
fn is_own_leftover(name: &[u8]) -> bool {
    name.starts_with(ASIDE_PREFIX.as_bytes()) || name.starts_with(RESTORE_PREFIX.as_bytes())
}
