//! Beneath: reaching a path below an open folder without following any symlink.
//!
//! Invariant: every step is one `openat` with `O_NOFOLLOW` from the folder before it, so that a symlink swapped in at any
//! time stops the walk instead of leading it away, and no path is too long.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Why a walk stopped, with the path walked so far, relative to where it began.
#[derive(Debug, thiserror::Error)]
pub(super) enum Blocked {
    #[error("{} is missing", path.display())]
    Missing { path: PathBuf },
    #[error("{} is a symbolic link, which is not followed here", path.display())]
    Symlink { path: PathBuf },
    #[error("{} is no folder", path.display())]
    NotFolder { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Opens the folder that the user named: symlinks in that name are the user's own.
pub(super) fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    Ok(rustix::fs::open(path, FOLDER, Mode::empty())?)
}

/// Opens the folder of that name in `folder`, but no symlink to one.
pub(super) fn open_child(folder: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(folder, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())
}

/// Opens the folder at `parts` below `base`.
pub(super) fn descend(base: impl AsFd, parts: &[Bytes]) -> Result<OwnedFd, Blocked> {
    walk(base, parts, false)
}

/// Opens the folder at `parts` below `base`, making what is missing on the way.
pub(super) fn make_folders(base: impl AsFd, parts: &[Bytes]) -> Result<OwnedFd, Blocked> {
    walk(base, parts, true)
}

/// The parts as one relative path, for messages.
pub(super) fn joined(parts: &[Bytes]) -> PathBuf {
    parts.iter().map(|part| OsStr::from_bytes(part)).collect()
}

fn walk(base: impl AsFd, parts: &[Bytes], make: bool) -> Result<OwnedFd, Blocked> {
    let io = |count: usize, source: Errno| Blocked::Io { path: joined(&parts[..count]), source: source.into() };
    let mut at = base.as_fd().try_clone_to_owned().map_err(|source| Blocked::Io { path: PathBuf::new(), source })?;
    for (index, part) in parts.iter().enumerate() {
        let part: &[u8] = part;
        let mut opened = open_child(&at, part);
        if make && matches!(opened, Err(Errno::NOENT)) {
            match rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(io(index + 1, error)),
            }
            opened = open_child(&at, part);
        }
        at = match opened {
            Ok(next) => next,
            Err(Errno::NOENT) => return Err(Blocked::Missing { path: joined(&parts[..=index]) }),
            // Linux answers "not a directory" for a symlink too, others "too many links".
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let path = joined(&parts[..=index]);
                let stat = rustix::fs::statat(&at, part, AtFlags::SYMLINK_NOFOLLOW);
                let is_link = stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
                return Err(if is_link { Blocked::Symlink { path } } else { Blocked::NotFolder { path } });
            }
            Err(error) => return Err(io(index + 1, error)),
        };
    }
    Ok(at)
}

/// The names in a folder, in no order, without `.` and `..`.
pub(super) fn names(folder: impl AsFd) -> rustix::io::Result<Vec<Bytes>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(Bytes::copy_from_slice(name));
        }
    }
    Ok(names)
}
