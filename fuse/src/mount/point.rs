//! The mount point: what may be mounted on, and how a mount is taken off it.
//!
//! Invariant: nothing but a dead mount of a provender is removed, and no check waits for ever for a file system that does not
//! answer.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::{MountError, table};

const DEVICE: &str = "/dev/fuse";
/// How many dead mounts, one over the other, are cleared.
const MAX_STALE: usize = 16;
/// How long a file system may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes sure that `point` can be mounted on, and gives its absolute path.
pub(super) fn prepare(point: &Path) -> Result<PathBuf, MountError> {
    let point = match resolve(point) {
        Err(MountError::Point { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(point).map_err(|source| MountError::Point { point: point.into(), source })?;
            resolve(point)?
        }
        resolved => resolved?,
    };
    clear(&point)?;
    if let Some(mount) = table::at(&point)? {
        return Err(MountError::Occupied { point, kind: mount.kind });
    }
    let broken = |source| MountError::Point { point: point.clone(), source };
    if !fs::metadata(&point).map_err(broken)?.is_dir() {
        return Err(MountError::NotDirectory { point });
    }
    if fs::read_dir(&point).map_err(broken)?.next().is_some() {
        return Err(MountError::NotEmpty { point });
    }
    Ok(point)
}

/// Takes the dead mounts of provenders off the top of `point`.
pub(super) fn clear(point: &Path) -> Result<(), MountError> {
    for _ in 0..MAX_STALE {
        let Some(mount) = table::at(point)? else { break };
        if !is_dead(point, &mount)? || !mount.is_provender() {
            break;
        }
        tracing::info!(point = %point.display(), "clearing the mount of a provender that has died");
        detach(point)?;
    }
    Ok(())
}

/// Whether the topmost mount at `point` is one whose connection has ended.
pub(super) fn is_dead_at(point: &Path) -> bool {
    table::at(point).is_ok_and(|mount| mount.is_some_and(|mount| is_dead(point, &mount).unwrap_or(false)))
}

/// The absolute path without symlinks, also of a dead mount.
pub(super) fn resolve(point: &Path) -> Result<PathBuf, MountError> {
    let resolved = match fs::canonicalize(point) {
        Err(error) if is_disconnected(&error) => match (point.parent(), point.file_name()) {
            (Some(parent), Some(name)) => {
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                fs::canonicalize(parent).map(|parent| parent.join(name))
            }
            _ => Err(error),
        },
        resolved => resolved,
    };
    resolved.map_err(|source| MountError::Point { point: point.into(), source })
}

/// Checks that there is a FUSE to talk to, so that its absence is told from that of fusermount3.
pub(super) fn check_device() -> Result<(), MountError> {
    match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(MountError::DevicePermission { source: error })
        }
        Err(_) => Err(MountError::NoDevice),
    }
}

/// Takes the topmost mount off `point`, also while files on it are open.
pub(super) fn detach(point: &Path) -> Result<(), MountError> {
    match rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => fusermount(point),
        Err(error) => Err(error.into()),
    }
    .map_err(|source: io::Error| MountError::Detach { point: point.into(), source })
}

fn fusermount(point: &Path) -> io::Result<()> {
    let output = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(point).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Whether the process that served a mount is gone. `statfs` tells: unlike `stat` it is never answered from a cache. It is
/// asked on a thread of its own, for it waits as long as a live but stuck process does nothing.
fn is_dead(point: &Path, mount: &table::Row) -> Result<bool, MountError> {
    let (answer, answered) = channel();
    let path = point.to_path_buf();
    std::thread::spawn(move || answer.send(rustix::fs::statfs(&path).map(|_| ())));
    match answered.recv_timeout(PATIENCE) {
        Ok(result) => Ok(result.is_err_and(|error| is_disconnected(&error.into()))),
        Err(_) => Err(MountError::Unresponsive { point: point.into(), kind: mount.kind.clone() }),
    }
}

fn is_disconnected(error: &io::Error) -> bool {
    [Errno::NOTCONN, Errno::CONNABORTED].into_iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
