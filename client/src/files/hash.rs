//! Hashing one file of a folder, once and in constant memory.
//!
//! Invariant: the digest is of bytes that stood still: the file's identity is equal before and after the reading. Only
//! regular files are read; a FIFO or device put in the place of one is never waited for.

use std::os::fd::{AsFd, OwnedFd};
use std::time::SystemTime;

use provender_core::digest::Digest;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::hash_cache::HashCache;
use super::identity::Identity;

/// Opens a file for reading without following a symlink, waiting for a writer, or gaining a terminal.
pub(super) const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// From this size on a file is hashed on all cores.
pub(super) const LARGE: u64 = 16 << 20;

const BUFFER: usize = 1 << 20;
const TRIES: usize = 5;

/// Why a file has no digest.
#[derive(Debug)]
pub(super) enum NoDigest {
    /// It was another each time that it was read.
    Changes,
    /// It is no regular file.
    NotRegular,
    Io(Errno),
}

impl From<Errno> for NoDigest {
    fn from(errno: Errno) -> Self {
        NoDigest::Io(errno)
    }
}

/// What one file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hashed {
    pub(super) digest: Digest,
    pub(super) executable: bool,
}

/// Whether its owner may run a file.
pub(super) fn is_executable(stat: &Stat) -> bool {
    Mode::from_raw_mode(stat.st_mode).contains(Mode::XUSR)
}

/// Hashes the file `name` in `folder`, or takes its digest from the cache.
pub(super) fn hash(folder: impl AsFd, name: &[u8], cache: &HashCache) -> Result<Hashed, NoDigest> {
    for _ in 0..TRIES {
        // Before the first look: a change during the reading is then later than this.
        let now = now();
        let file = rustix::fs::openat(&folder, name, READ, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(NoDigest::NotRegular);
        }
        let (identity, executable) = (Identity::of(&stat), is_executable(&stat));
        if let Some(digest) = cache.get(&identity) {
            return Ok(Hashed { digest, executable });
        }
        let digest = read(&file, identity.size)?;
        if Identity::of(&rustix::fs::fstat(&file)?) == identity && digest.size == identity.size {
            if identity.settled(now) {
                cache.put(&identity, &digest, now);
            }
            return Ok(Hashed { digest, executable });
        }
    }
    Err(NoDigest::Changes)
}

/// The time of day, as the file system stamps it on files.
#[allow(clippy::disallowed_methods)]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Reads to the end, or a little beyond `size` if the file has grown.
fn read(file: &OwnedFd, size: u64) -> Result<Digest, Errno> {
    let mut hasher = blake3::Hasher::new();
    // One more than the size, so that a small file's end is seen by the second read.
    let mut buffer = vec![0; BUFFER.min(size as usize + 1)];
    let mut total = 0;
    while total <= size {
        let count = rustix::io::retry_on_intr(|| rustix::io::read(file, &mut buffer[..]))?;
        if count == 0 {
            break;
        }
        total += count as u64;
        if size >= LARGE {
            hasher.update_rayon(&buffer[..count]);
        } else {
            hasher.update(&buffer[..count]);
        }
    }
    Ok(Digest { hash: *hasher.finalize().as_bytes(), size: total })
}
