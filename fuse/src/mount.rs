//! Mounts: putting a view at a path, and taking it away.
//!
//! Owns [`Mount`], whose drop unmounts. Invariants: unmounting never waits for those who still have files open; a connection that was
//! aborted is succeeded by a new one at the same path, one that was unmounted is not. It must not know what the view shows.

mod error;
mod point;
mod push;
mod serving;
pub(crate) mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

pub use self::error::MountError;
pub use self::push::Changes;
use self::push::Served;
use self::serving::{Serving, State};
use crate::requests::Requests;
use crate::source::Source;
use crate::view::Settings;
use crate::watchdog::PULSE;

/// What stands in the mount table as source and subtype: a mount is ours if it says so.
const FILE_SYSTEM: &str = "provender";

/// How to mount.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether other users may look in too. Without root it takes `user_allow_other` in `/etc/fuse.conf`.
    pub allow_other: bool,
    /// How many requests are answered at once, each by a thread with a queue of its own to the kernel.
    pub threads: usize,
    /// Whether the kernel reads files by itself where the source has them as files. It takes Linux 6.9 and `CAP_SYS_ADMIN`;
    /// without, they are read through this process.
    pub passthrough: bool,
    /// The folders that the source's files lie in. If one is on a stacked file system, such as overlayfs, nothing can be stacked on
    /// the mount.
    pub backing: Vec<PathBuf>,
    /// A program whose `main` hands over to [`watchdog_main`](crate::watchdog_main) when its first argument is
    /// [`WATCHDOG_ARG`](crate::WATCHDOG_ARG). Without, a server that is stopped keeps who reads the mount asleep.
    pub watchdog: Option<PathBuf>,
    /// Where the kernel's requests are counted.
    pub requests: Arc<Requests>,
    /// How the view behaves.
    pub settings: Settings,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            allow_other: false,
            threads: 8,
            passthrough: true,
            backing: Vec::new(),
            watchdog: None,
            requests: Arc::default(),
            settings: Settings::default(),
        }
    }
}

/// A mounted view. Dropping it unmounts: at once for newcomers, while files that are open stay readable until they are
/// closed or this process ends.
#[derive(Debug)]
pub struct Mount {
    kept: Arc<Kept>,
    changes: Changes,
    /// Dropped, it ends the keeper.
    stop: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

/// What a mount's keeper works with.
struct Kept {
    source: Arc<dyn Source>,
    point: PathBuf,
    options: Options,
    serving: Mutex<Option<Serving>>,
    served: Served,
    over: AtomicBool,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("point", &self.point).field("serving", &self.serving).finish_non_exhaustive()
    }
}

impl Mount {
    /// Mounts a view of `source` at `point`: an empty directory, made with its parents if it is missing. A mount of a
    /// provender that has died there is cleared first.
    pub fn new(source: Arc<dyn Source>, point: &Path, options: &Options) -> Result<Mount, MountError> {
        let point = point::prepare(point)?;
        point::check_device()?;
        let served = Served::default();
        let thread = |error| MountError::refused(&point, options.allow_other, error);
        let changes = push::start(served.clone()).map_err(thread)?;
        let kept = Arc::new(Kept {
            source,
            point: point.clone(),
            options: options.clone(),
            serving: Mutex::default(),
            served,
            over: AtomicBool::new(false),
        });
        kept.serve()?;
        let (stop, stopped) = channel();
        let keeper = std::thread::Builder::new().name("fuse-keeper".into()).spawn({
            let kept = kept.clone();
            move || kept.keep(&stopped)
        });
        let keeper = Some(keeper.map_err(thread)?);
        tracing::info!(point = %point.display(), "mounted");
        Ok(Mount { kept, changes, stop: Some(stop), keeper })
    }

    /// Where it is mounted, as an absolute path without symlinks.
    pub fn point(&self) -> &Path {
        &self.kept.point
    }

    /// Where to tell what has changed in the store, so that the kernel does not go by what it knew.
    pub fn changes(&self) -> Changes {
        self.changes.clone()
    }

    /// Whether somebody else has unmounted it.
    pub fn is_over(&self) -> bool {
        self.kept.over.load(Ordering::Acquire)
    }

    /// Unmounts, then waits at most `grace` for those who still have files open. Says whether all is over, the source
    /// dropped; if not, the view lives on for them until they are done or this process ends.
    pub fn unmount(mut self, grace: Duration) -> Result<bool, MountError> {
        match self.end() {
            Some(mut serving) => {
                serving.detach(&self.kept.point)?;
                Ok(serving.wait(grace))
            }
            // Aborted, and not mounted anew yet.
            None if !self.is_over() => point::clear(&self.kept.point).map(|()| true),
            None => Ok(true),
        }
    }

    /// Ends the keeper, so that nothing is mounted anew, and gives what is being served.
    fn end(&mut self) -> Option<Serving> {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            _ = keeper.join();
        }
        *self.kept.served.lock() = None;
        self.kept.serving.lock().take()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let Some(mut serving) = self.end() else { return };
        if let Err(error) = serving.detach(&self.kept.point) {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not unmount");
        }
    }
}

impl Kept {
    /// Mounts, where nothing is mounted.
    fn serve(&self) -> Result<(), MountError> {
        let (serving, view) = Serving::new(self.source.clone(), &self.point, &self.options)?;
        *self.served.lock() = serving.notifier().map(|notifier| (Arc::downgrade(&view), notifier));
        *self.serving.lock() = Some(serving);
        Ok(())
    }

    /// Keeps the watchdog quiet while all is well, and mounts anew what has come to an end by itself, until `stopped` closes or
    /// somebody else has unmounted it.
    fn keep(&self, stopped: &Receiver<()>) {
        let mut again = Again::default();
        while stopped.recv_timeout(PULSE) == Err(RecvTimeoutError::Timeout) {
            let mut serving = self.serving.lock();
            let state = serving.as_ref().map(|serving| serving.state(&self.point));
            match (state, serving.as_mut()) {
                (Some(State::Served), Some(serving)) => {
                    serving.beat();
                    again.lives();
                    continue;
                }
                (Some(State::Gone), _) => {
                    serving.take().into_iter().for_each(Serving::abandon);
                    break;
                }
                _ if again.is_too_soon() => continue,
                (Some(state), _) => {
                    tracing::warn!(point = %self.point.display(), "the mount was {state}; mounting anew");
                    *self.served.lock() = None;
                    serving.take().into_iter().for_each(|serving| serving.end(state));
                }
                (None, _) => {}
            }
            drop(serving);
            match point::prepare(&self.point).and_then(|_| self.serve()) {
                Ok(()) => {}
                Err(MountError::Occupied { .. }) => break,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "could not mount anew; trying again");
                }
            }
        }
        if stopped.try_recv() == Err(TryRecvError::Empty) {
            self.over.store(true, Ordering::Release);
        }
    }
}

/// When to mount anew: at once, then after ever longer pauses of up to half a minute, unless it lives.
#[derive(Debug, Default)]
struct Again {
    tried: u32,
    /// Beats, until the next.
    pause: u32,
    /// Beats, since the last.
    lived: u32,
}

impl Again {
    /// So many beats of life, and it is tried as if it were the first time.
    const LIFE: u32 = 20;
    /// The longest pause is 2 to the power of this, in beats.
    const MOST: u32 = 6;

    fn lives(&mut self) {
        self.lived += 1;
        if self.lived >= Again::LIFE {
            *self = Again::default();
        }
    }

    /// Whether to let this beat pass; if not, it counts as tried.
    fn is_too_soon(&mut self) -> bool {
        if self.pause > 0 {
            self.pause -= 1;
            return true;
        }
        self.tried = (self.tried + 1).min(Again::MOST);
        (self.pause, self.lived) = ((1 << self.tried) - 2, 0);
        false
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

#[cfg(test)]
mod tests {
    use super::Again;

    #[test]
    fn pauses_grow_until_it_lives() {
        let mut again = Again::default();
        let mut pause = || {
            let mut beats = 0;
            while again.is_too_soon() {
                beats += 1;
            }
            beats
        };
        assert_eq!([(); 8].map(|()| pause()), [0, 0, 2, 6, 14, 30, 62, 62]);
        for _ in 1..Again::LIFE {
            again.lives();
        }
        assert!(again.is_too_soon());
        again.lives();
        assert!(!again.is_too_soon());
    }
}
