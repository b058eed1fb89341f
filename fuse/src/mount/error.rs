//! Why something cannot be mounted or unmounted, in words that say what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Why something cannot be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount point cannot be looked at or made.
    #[error("cannot use {} as a mount point", point.display())]
    Point {
        /// Where.
        point: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else than a directory is there.
    #[error("cannot mount on {}: it is not a directory", point.display())]
    NotDirectory {
        /// Where.
        point: PathBuf,
    },
    /// A directory with something in it is there, which a mount would hide.
    #[error("cannot mount on {}: the directory is not empty; give an empty or a new one", point.display())]
    NotEmpty {
        /// Where.
        point: PathBuf,
    },
    /// Something is mounted there.
    #[error("cannot mount on {}: {kind} is mounted there already; unmount it or give another directory", point.display())]
    Occupied {
        /// Where.
        point: PathBuf,
        /// The type of the file system that is there.
        kind: String,
    },
    /// Something mounted there gives no answer.
    #[error(
        "cannot mount on {}: the {kind} mounted there does not answer; end its process, or unmount it with `umount -l {}`",
        point.display(), point.display()
    )]
    Unresponsive {
        /// Where.
        point: PathBuf,
        /// The type of the file system that is there.
        kind: String,
    },
    /// No mount of provender is there.
    #[error("no provender is mounted on {}", point.display())]
    NotOurs {
        /// Where.
        point: PathBuf,
    },
    /// The kernel offers no FUSE.
    #[error(
        "cannot mount: there is no /dev/fuse; load the kernel module (`modprobe fuse`), or let the container have it \
         (`--device /dev/fuse --cap-add SYS_ADMIN`)"
    )]
    NoDevice,
    /// `/dev/fuse` may not be opened.
    #[error("cannot mount: /dev/fuse may not be opened by this user; run as root or let the user read and write it")]
    DevicePermission {
        /// Why.
        source: io::Error,
    },
    /// Neither root nor its helper.
    #[error("cannot mount: without root it takes the program fusermount3 (Debian package fuse3)")]
    NoFusermount,
    /// Other users may not be let in.
    #[error("cannot mount for other users: without root it takes the line user_allow_other in /etc/fuse.conf")]
    AllowOther,
    /// The kernel or fusermount3 refused.
    #[error("cannot mount on {}", point.display())]
    Refused {
        /// Where.
        point: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel or fusermount3 refused to unmount.
    #[error("cannot unmount {}", point.display())]
    Detach {
        /// Where.
        point: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The mount table cannot be read.
    #[error("cannot read the mount table")]
    Table {
        /// Why.
        source: io::Error,
    },
}

impl MountError {
    /// What fuser's refusal means. That `/dev/fuse` is there has been checked.
    pub(super) fn refused(point: &Path, allow_other: bool, source: io::Error) -> MountError {
        match source.kind() {
            io::ErrorKind::NotFound => MountError::NoFusermount,
            io::ErrorKind::PermissionDenied if allow_other && source.raw_os_error().is_none() => MountError::AllowOther,
            io::ErrorKind::PermissionDenied => MountError::DevicePermission { source },
            _ => MountError::Refused { point: point.into(), source },
        }
    }
}
