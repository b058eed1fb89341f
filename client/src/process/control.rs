//! The control of one run from outside it: kill the command, or pass a signal on.
//!
//! Invariant: what is asked before the command has started keeps it from starting.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::link::FROM_TERMINAL;
use super::signals::Received;

/// A handle on one [`super::run`]; clones are the same handle.
#[derive(Debug, Clone, Default)]
pub struct Control {
    state: Arc<Mutex<State>>,
    signalled: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    link: Option<UnixStream>,
    killed: bool,
    interrupted: Option<i32>,
    signals: usize,
}

impl Control {
    /// A handle that nothing was asked of yet.
    pub fn new() -> Control {
        Control::default()
    }

    /// Kills the command and all that it started, at once and for good.
    pub fn kill(&self) {
        let mut state = self.state();
        state.killed = true;
        if let Some(link) = &state.link {
            // If this fails the guard is gone, and the command with it.
            let _ = link.shutdown(Shutdown::Write);
        }
    }

    /// Tells of a signal that asks this process to stop: the command gets it too, once.
    pub fn signal(&self, received: Received) {
        let mut state = self.state();
        state.interrupted = Some(received.signal);
        state.signals += 1;
        self.signalled.notify_waiters();
        if let (Some(link), Ok(number)) = (&mut state.link, u8::try_from(received.signal)) {
            let note = if received.from_terminal { FROM_TERMINAL } else { 0 };
            let _ = link.write_all(&[number | note]);
        }
    }

    /// The last signal told of.
    pub fn interrupted(&self) -> Option<i32> {
        self.state().interrupted
    }

    /// How many signals it was told of.
    pub fn signals(&self) -> usize {
        self.state().signals
    }

    /// Waits for a signal beyond the first `seen` ones; its number.
    pub async fn signalled(&self, seen: usize) -> i32 {
        loop {
            // Listened for before it is looked at, so that none slips between.
            let next = self.signalled.notified();
            let last = self.interrupted().filter(|_| self.signals() > seen);
            if let Some(signal) = last {
                return signal;
            }
            next.await;
        }
    }

    /// Whether [`Control::kill`] was called.
    pub fn killed(&self) -> bool {
        self.state().killed
    }

    /// Ties the handle to a running guard; `false` if the command is not wanted any more.
    pub(super) fn attach(&self, link: &UnixStream) -> io::Result<bool> {
        let link = link.try_clone()?;
        let mut state = self.state();
        if state.killed || state.interrupted.is_some() {
            return Ok(false);
        }
        state.link = Some(link);
        Ok(true)
    }

    pub(super) fn detach(&self) {
        self.state().link = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
