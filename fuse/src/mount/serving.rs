//! One connection to the kernel, from mounting to unmounting.
//!
//! Invariant: what is unmounted is this very mount and no other that has come to the same path.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, Notifier, Session, SessionACL};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::FdFlags;

use super::{FILE_SYSTEM, MountError, Options, point, table};
use crate::adapter::Adapter;
use crate::files::Files;
use crate::passing::Passing;
use crate::requests::{ANSWER, Progress};
use crate::source::Source;
use crate::view::View;
use crate::watchdog::Watchdog;

/// A request that has been worked on for so long will not be answered any more.
const STUCK: Duration = ANSWER.saturating_add(Duration::from_secs(2));
/// How many watchdogs one connection gets, if they end before it does.
const WATCHDOGS: usize = 10;

/// A connection that is being served.
#[derive(Debug)]
pub(super) struct Serving {
    /// Tells this mount from another at the same path, until [`Serving::is_over`].
    device: String,
    connection: OwnedFd,
    session: Option<BackgroundSession>,
    ended: Receiver<()>,
    progress: Arc<Progress>,
    watched: Watched,
}

/// What has become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is served.
    Served,
    /// It is as it was, but nobody answers.
    Unserved,
    /// It was aborted: its dead mount still stands there.
    Aborted,
    /// Somebody has unmounted it.
    Gone,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Served => "served",
            State::Unserved => "left alone by its threads",
            State::Aborted => "aborted",
            State::Gone => "unmounted",
        })
    }
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
            passing: Passing::new(options.passthrough, options.backing.iter().any(|dir| is_stacked(dir))),
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
        let mut watched = Watched::new(options.watchdog.clone(), &device, point);
        watched.watch();
        Ok((Serving { device, connection, session: Some(session), ended, progress, watched }, view))
    }

    /// Where the kernel can be told what to ask for again.
    pub(super) fn notifier(&self) -> Option<Notifier> {
        self.session.as_ref().map(BackgroundSession::notifier)
    }

    /// Tells the watchdog that requests are being answered, if they are.
    pub(super) fn beat(&mut self) {
        if self.progress.oldest().is_none_or(|oldest| oldest <= STUCK) {
            self.watched.beat();
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

    /// What has become of it.
    pub(super) fn state(&self, point: &Path) -> State {
        if !self.is_over() {
            let is_served = self.ended.try_recv() != Err(TryRecvError::Disconnected);
            return if is_served { State::Served } else { State::Unserved };
        }
        // Another may have been given its device number since: that one answers.
        let is_there = table::at(point).is_ok_and(|mount| mount.is_some_and(|mount| mount.device == self.device));
        if is_there && point::is_dead_at(point) { State::Aborted } else { State::Gone }
    }

    /// Unmounts what has come to an end by itself: what is there is its own. Who was not answered gets an error.
    pub(super) fn end(mut self, state: State) {
        let session = self.session.take();
        // An aborted one's threads may be stuck.
        if state == State::Unserved
            && let Some(Err(error)) = session.map(BackgroundSession::join)
        {
            tracing::warn!(%error, "the mount could not be served");
        }
    }

    /// Leaves what is mounted as it is, since it is not ours any more.
    pub(super) fn abandon(mut self) {
        // Dropped, it would unmount what is there now. Its descriptor stays open as long as this process lives.
        std::mem::forget(self.session.take());
    }

    /// Whether this very mount is the topmost at its path.
    fn is_in_place(&self, point: &Path) -> Result<bool, MountError> {
        Ok(table::at(point)?.is_some_and(|mount| mount.device == self.device) && !self.is_over())
    }

    /// Whether the kernel has ended the connection, since it was unmounted or aborted. Only after that it gives the device number to
    /// another mount.
    fn is_over(&self) -> bool {
        let mut connection = [PollFd::new(&self.connection, PollFlags::empty())];
        let polled = poll(&mut connection, Some(&Timespec::default()));
        polled.is_ok() && connection[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
    }
}

/// A connection's watchdogs, one after the other.
#[derive(Debug)]
struct Watched {
    program: Option<PathBuf>,
    /// The minor of the mount's device number.
    connection: Option<u32>,
    point: PathBuf,
    started: usize,
    now: Option<Watchdog>,
}

impl Watched {
    fn new(program: Option<PathBuf>, device: &str, point: &Path) -> Watched {
        let connection = device.split_once(':').and_then(|(_, minor)| minor.parse().ok());
        Watched { program, connection, point: point.into(), started: 0, now: None }
    }

    /// Starts one, unless too many have come to an end.
    fn watch(&mut self) {
        let (Some(program), Some(connection)) = (&self.program, self.connection) else { return };
        if self.started == WATCHDOGS {
            return;
        }
        self.started += 1;
        self.now = Watchdog::start(program, connection, &self.point)
            .inspect_err(|error| tracing::warn!(%error, "the mount's watchdog cannot start"))
            .ok();
        if self.now.is_none() && self.started == WATCHDOGS {
            tracing::warn!("the mount has no watchdog; if this process hangs, so does who reads the mount");
        }
    }

    fn beat(&mut self) {
        match self.now.as_mut().map(Watchdog::beat) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, "the mount's watchdog is gone; starting another");
                self.now = None;
                self.watch();
            }
            None => self.watch(),
        }
    }
}

/// Whether a folder lies on an overlay of others, as in a container.
fn is_stacked(dir: &Path) -> bool {
    // OVERLAYFS_SUPER_MAGIC
    rustix::fs::statfs(dir).is_ok_and(|stat| stat.f_type == 0x794c_7630)
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
