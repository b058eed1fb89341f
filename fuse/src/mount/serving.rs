//! One connection to the kernel, from mounting to unmounting.
//!
//! Invariant: what is unmounted is this very mount and no other that has come to the same path.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, Notifier, Session, SessionACL};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::FdFlags;

use super::{FILE_SYSTEM, MountError, Options, point, table};
use crate::adapter::Adapter;
use crate::files::Files;
use crate::requests::Progress;
use crate::source::Source;
use crate::view::View;
use crate::watchdog::Watchdog;

/// A request that has been worked on for so long will not be answered any more.
const STUCK: Duration = Duration::from_secs(12);

/// A connection that is being served.
#[derive(Debug)]
pub(super) struct Serving {
    /// Tells this mount from another at the same path, until [`Serving::is_over`].
    device: String,
    connection: OwnedFd,
    session: Option<BackgroundSession>,
    ended: Receiver<()>,
    progress: Arc<Progress>,
    watchdog: Option<Watchdog>,
}

impl Serving {
    /// Mounts a view at `point`, which is ready for it.
    pub(super) fn new(
        source: Arc<dyn Source>,
        point: &Path,
        options: &Options,
    ) -> Result<(Serving, Arc<View>), MountError> {
        let (alive, ended) = channel();
        let view = Arc::new(View::new(source, options.settings));
        let progress = Arc::new(Progress::default());
        let adapter = Adapter {
            view: view.clone(),
            files: Files::new(view.clone()),
            passthrough: AtomicBool::new(options.passthrough),
            stacked: options.stacked,
            requests: options.requests.clone(),
            progress: progress.clone(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            _ended: alive,
        };
        let refused = |source| MountError::refused(point, options.allow_other, source);
        let session = Session::new(adapter, point, &config(options)).map_err(refused)?;
        let connection = session.as_fd().try_clone_to_owned().map_err(refused)?;
        // Who has it keeps the connection alive: no program that is started from here shall.
        rustix::io::fcntl_setfd(session.as_fd(), FdFlags::CLOEXEC).map_err(|error| refused(error.into()))?;
        let device = table::at(point)?.map(|mount| mount.device).unwrap_or_default();
        let session = session.spawn().map_err(refused)?;
        let watchdog = options.watchdog.as_ref().and_then(|program| watchdog(program, &device, point));
        Ok((Serving { device, connection, session: Some(session), ended, progress, watchdog }, view))
    }

    /// Where the kernel can be told what to ask for again.
    pub(super) fn notifier(&self) -> Option<Notifier> {
        self.session.as_ref().map(BackgroundSession::notifier)
    }

    /// Tells the watchdog that requests are being answered, if they are.
    pub(super) fn beat(&mut self) {
        if self.progress.oldest().is_some_and(|oldest| oldest > STUCK) {
            return;
        }
        if let Some(watchdog) = &mut self.watchdog
            && let Err(error) = watchdog.beat()
        {
            tracing::warn!(%error, "the mount's watchdog is gone; a mount that hangs will not be ended");
            self.watchdog = None;
        }
    }

    /// Takes the mount off its path: at once for newcomers, while files that are open stay readable.
    pub(super) fn detach(&mut self, point: &Path) -> Result<(), MountError> {
        let Some(session) = self.session.take() else { return Ok(()) };
        if !self.is_in_place(point)? {
            // Somebody has unmounted it, or mounted over it. Dropping the session would unmount what is there now.
            std::mem::forget(session);
            return Ok(());
        }
        // This unmounts, unless a file is open; and for those without root it detaches.
        drop(session);
        if self.is_in_place(point)? { point::detach(point) } else { Ok(()) }
    }

    /// Waits at most `grace` for those who still have files open; whether they are done, and the source dropped.
    pub(super) fn wait(&self, grace: Duration) -> bool {
        self.ended.recv_timeout(grace) == Err(RecvTimeoutError::Disconnected)
    }

    /// Whether the connection was aborted: it is over, and its dead mount still stands there.
    pub(super) fn is_aborted(&self, point: &Path) -> bool {
        self.is_over() && table::at(point).is_ok_and(|mount| mount.is_some_and(|mount| mount.device == self.device))
    }

    /// Leaves what is mounted as it is, since it is not ours any more.
    pub(super) fn abandon(&mut self) {
        // Its connection's number may be given to another.
        self.watchdog = None;
        std::mem::forget(self.session.take());
    }

    /// Whether this very mount is the topmost at its path.
    fn is_in_place(&self, point: &Path) -> Result<bool, MountError> {
        Ok(table::at(point)?.is_some_and(|mount| mount.device == self.device) && !self.is_over())
    }

    /// Whether the kernel has ended the connection, since it was unmounted or aborted. Only after that it gives the device number to
    /// another mount.
    pub(super) fn is_over(&self) -> bool {
        let mut connection = [PollFd::new(&self.connection, PollFlags::empty())];
        let polled = poll(&mut connection, Some(&Timespec::default()));
        polled.is_ok() && connection[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
    }
}

/// The watchdog of the mount with this device number, whose minor is the connection's.
fn watchdog(program: &Path, device: &str, point: &Path) -> Option<Watchdog> {
    let connection = device.split_once(':').and_then(|(_, minor)| minor.parse().ok())?;
    Watchdog::start(program, connection, point)
        .inspect_err(
            |error| tracing::warn!(%error, "the mount's watchdog cannot start; a mount that hangs will not be ended"),
        )
        .ok()
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
    config.clone_fd = true;
    config
}
