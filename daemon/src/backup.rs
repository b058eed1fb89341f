//! Backups: the whole store at one moment, in a folder of its own, while it serves.
//!
//! Owns the folder's format ([`Folder`], [`Manifest`]), taking a backup ([`take()`]), looking whether one is whole ([`check()`]), and
//! restoring one ([`restore()`]). It stands on the two seams alone, so what one engine backed up another restores. Invariants: the
//! rows are of one commit, and every blob that they name was hashed on its way into the backup, and is again on its way out; a backup counts
//! once its manifest does, which is written last; a store that is restored in part is never served. It must not know what
//! records mean.
//!
//! Each backup is whole by itself, and yet writes only what is new: rows are cut into pieces by what they are, so that
//! equal runs of rows are equal files; large blobs stand under their digests; bytes of small blobs, which never change, are added
//! behind those of the backup before.

mod check;
mod copy;
mod error;
mod files;
mod folder;
mod inline;
mod manifest;
mod open;
mod pieces;
mod prune;
mod restore;
mod rows;
mod take;

pub use check::check;
pub use error::BackupError;
pub use files::{Files, Local};
pub use folder::{Folder, Listed};
pub use manifest::{FORMAT, Manifest, Totals};
pub use open::{Target, open};
pub use pieces::Piece;
pub use restore::{Restored, came_through, has_begun, restore};
pub use rows::snapshot_rows;
pub use take::{Phase, Progress, Summary, Telling, take};

/// How many backups a folder keeps, if nothing else is said.
pub const KEEP: usize = 7;

#[cfg(test)]
mod tests;
