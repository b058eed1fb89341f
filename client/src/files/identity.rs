//! Identity: what tells, without reading it, that a file is still the one that was hashed.
//!
//! Invariant: two equal identities of a settled file mean equal bytes, as far as the kernel's change time can be trusted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;

/// How long before it is hashed a file must have been left alone for its identity to be trusted: a later change could
/// else fall into the same tick of the file system's clock (git's "racy" entries).
const SETTLED: Duration = Duration::from_secs(2);

/// Device, inode, size, and the times of the last change of contents and of anything, in seconds and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) modified: (i64, u32),
    pub(super) changed: (i64, u32),
}

impl Identity {
    /// The identity that `stat` shows.
    // The widths and signs of these fields differ between systems.
    #[allow(clippy::unnecessary_cast, clippy::cast_lossless)]
    pub(super) fn of(stat: &Stat) -> Identity {
        Identity {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            size: stat.st_size as u64,
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as u32),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as u32),
        }
    }

    /// Whether the last change lies at least two seconds before `now`; times in the future are never settled.
    pub(super) fn settled(&self, now: SystemTime) -> bool {
        let Some(limit) = now.duration_since(UNIX_EPOCH).ok().and_then(|now| now.checked_sub(SETTLED)) else {
            return false;
        };
        self.modified.max(self.changed) <= (limit.as_secs() as i64, limit.subsec_nanos())
    }

    /// Its 48 bytes in the cache.
    pub(super) fn to_bytes(self) -> [u8; 48] {
        let mut out = [0; 48];
        out[..8].copy_from_slice(&self.device.to_le_bytes());
        out[8..16].copy_from_slice(&self.inode.to_le_bytes());
        out[16..24].copy_from_slice(&self.size.to_le_bytes());
        for (at, (seconds, nanos)) in [(24, self.modified), (36, self.changed)] {
            out[at..at + 8].copy_from_slice(&seconds.to_le_bytes());
            out[at + 8..at + 12].copy_from_slice(&nanos.to_le_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_left_alone_for_two_seconds_is_settled() {
        let at = |modified, changed| Identity { device: 1, inode: 2, size: 3, modified, changed };
        let now = UNIX_EPOCH + Duration::new(100, 500);
        assert!(at((98, 500), (98, 500)).settled(now));
        assert!(!at((98, 501), (90, 0)).settled(now));
        assert!(!at((90, 0), (98, 501)).settled(now));
        assert!(!at((200, 0), (90, 0)).settled(now), "a time in the future");
        assert!(at((-5, 0), (-5, 0)).settled(now), "a time before 1970");
    }
}
