//! Mounts: putting a view at a path, and taking it away.
//!
//! Owns [`Mount`], whose drop unmounts. Invariants: what is unmounted is our own mount and no other that has come to the same
//! path; unmounting never waits for those who still have files open. It must not know what the view shows.

mod error;
mod point;
mod table;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use self::error::MountError;
use crate::adapter::Adapter;
use crate::source::Source;
use crate::view::{Settings, View};

/// What stands in the mount table as source and subtype: a mount is ours if it says so.
const FILE_SYSTEM: &str = "provender";

/// How to mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Whether other users may look in too. Without root it takes `user_allow_other` in `/etc/fuse.conf`.
    pub allow_other: bool,
    /// How many requests are answered at once.
    pub threads: usize,
    /// How the view behaves.
    pub settings: Settings,
}

impl Default for Options {
    fn default() -> Options {
        Options { allow_other: false, threads: 8, settings: Settings::default() }
    }
}

/// A mounted view. Dropping it unmounts: at once for newcomers, while files that are open stay readable until they are
/// closed or this process ends.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
    /// Tells this mount from another at the same path, until [`Mount::is_over`].
    device: String,
    /// The connection to the kernel.
    connection: OwnedFd,
    session: Option<BackgroundSession>,
    ended: Receiver<()>,
}

impl Mount {
    /// Mounts a view of `source` at `point`: an empty directory, made with its parents if it is missing. A mount of a
    /// provender that has died there is cleared first.
    pub fn new(source: Arc<dyn Source>, point: &Path, options: &Options) -> Result<Mount, MountError> {
        let point = point::prepare(point)?;
        point::check_device()?;
        let (alive, ended) = channel();
        let adapter = Adapter {
            view: View::new(source, options.settings),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            _ended: alive,
        };
        let refused = |source| MountError::refused(&point, options.allow_other, source);
        let session = Session::new(adapter, &point, &config(options)).map_err(refused)?;
        let connection = session.as_fd().try_clone_to_owned().map_err(refused)?;
        let device = table::at(&point)?.map(|mount| mount.device).unwrap_or_default();
        let session = session.spawn().map_err(refused)?;
        tracing::info!(point = %point.display(), "mounted");
        Ok(Mount { point, device, connection, session: Some(session), ended })
    }

    /// Where it is mounted, as an absolute path without symlinks.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Unmounts, then waits at most `grace` for those who still have files open. Says whether all is over, the source
    /// dropped; if not, the view lives on for them until they are done or this process ends.
    pub fn unmount(mut self, grace: Duration) -> Result<bool, MountError> {
        self.detach()?;
        Ok(self.ended.recv_timeout(grace) == Err(RecvTimeoutError::Disconnected))
    }

    fn detach(&mut self) -> Result<(), MountError> {
        let Some(session) = self.session.take() else { return Ok(()) };
        if !self.is_in_place()? {
            // Somebody has unmounted it, or mounted over it. Dropping the session would unmount what is there now.
            std::mem::forget(session);
            return Ok(());
        }
        // This unmounts, unless a file is open; and for those without root it detaches.
        drop(session);
        if self.is_in_place()? { point::detach(&self.point) } else { Ok(()) }
    }

    /// Whether this very mount is the topmost at its path.
    fn is_in_place(&self) -> Result<bool, MountError> {
        Ok(table::at(&self.point)?.is_some_and(|mount| mount.device == self.device) && !self.is_over())
    }

    /// Whether the kernel has ended the connection, since it was unmounted. Only after that it gives the device number to another
    /// mount.
    pub fn is_over(&self) -> bool {
        let mut connection = [PollFd::new(&self.connection, PollFlags::empty())];
        let polled = poll(&mut connection, Some(&Timespec::default()));
        polled.is_ok() && connection[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not unmount");
        }
    }
}

/// Unmounts the provender mount at `point`, whichever process serves it, dead or alive. Who has files open keeps them.
pub fn unmount(point: &Path) -> Result<(), MountError> {
    let point = point::resolve(point)?;
    match table::at(&point)? {
        Some(mount) if mount.is_provender() => point::detach(&point),
        _ => Err(MountError::NotOurs { point }),
    }
}

fn config(options: &Options) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(FILE_SYSTEM.into()),
        MountOption::Subtype(FILE_SYSTEM.into()),
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::DefaultPermissions,
    ];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads.max(1));
    config
}
