//! The space that must be free on the disk before anything is written.
//!
//! RocksDB gets over a log or a sorted file that found no room, but not over a log that could not even be made: that stops it until it is
//! opened anew. So the disk is looked at before each write, and what is written always finds room for all that has to be sorted later.
//! Invariant: whoever else fills the disk, reads go on, and writes do as soon as there is room again. It must not know what is written.

use std::fmt;
use std::path::Path;

use rustix::fs::StatVfs;

use super::RocksConfig;

/// So many files can be made: sorted files and blob files of all families at once, and logs.
const FILES: u64 = 64;
/// What must be free.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    write: u64,
    sort: u64,
}

/// What is lacking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scarce {
    Bytes { free: u64, needed: u64 },
    Files { free: u64 },
}

impl Room {
    pub(super) fn of(config: &RocksConfig) -> Room {
        let buffers = config.write_buffer_bytes as u64;
        // All that is in memory may have to be sorted, while logs take their space ahead; and that merged with as much on the disk.
        Room { write: buffers.saturating_add(buffers / 8), sort: buffers.saturating_mul(2) }
    }

    /// What is lacking for a write.
    pub(super) fn lacks(&self, dir: &Path) -> Option<Scarce> {
        lacks(&statvfs(dir)?, self.write)
    }

    /// Whether RocksDB may be behind with sorting because there is no space for it.
    pub(super) fn hinders_sorting(&self, dir: &Path) -> bool {
        statvfs(dir).is_some_and(|disk| lacks(&disk, self.sort).is_some())
    }
}

/// A disk that cannot be asked lacks nothing: the write will tell.
fn statvfs(dir: &Path) -> Option<StatVfs> {
    rustix::fs::statvfs(dir).ok()
}

fn lacks(disk: &StatVfs, needed: u64) -> Option<Scarce> {
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < needed {
        return Some(Scarce::Bytes { free, needed });
    }
    // Some file systems have no limit, and say that they have no files at all.
    (disk.f_files > 0 && disk.f_favail < FILES).then_some(Scarce::Files { free: disk.f_favail })
}

impl fmt::Display for Scarce {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        match self {
            Scarce::Bytes { free, needed } => {
                write!(
                    out,
                    "No space left on device but {} MiB, and at least {} MiB are needed",
                    free >> 20,
                    mib(*needed)
                )
            }
            Scarce::Files { free } => {
                write!(out, "No space left on device for more than {free} files, and at least {FILES} are needed")
            }
        }
    }
}

impl std::error::Error for Scarce {}
