//! The clocks of simulated daemons: one virtual monotonic time, and a wall clock each, which may be wrong.
//!
//! Owns [`Clocks`] and [`OnDaemon`], which says on whose wall clock a future looks. Invariant: all is decided by the virtual time of
//! the runtime and the seed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use provender_core::Timestamp;
use provender_daemon::clock::Simulated;
use tokio::time::Instant;

use super::random::Random;

/// What every simulated wall clock says at the start, if it is right: any moment.
const EPOCH: u64 = 1_800_000_000_000;
/// Nobody's clock.
const NOBODY: usize = usize::MAX;

/// What a wall clock says then, if it is right.
pub(super) fn wall(time: Duration) -> Timestamp {
    Timestamp::from_millis(EPOCH + time.as_millis() as u64)
}

/// The clocks of one simulation.
#[derive(Debug)]
pub(super) struct Clocks {
    start: Instant,
    wrong_by: Vec<AtomicI64>,
    looks: AtomicUsize,
    random: Arc<Random>,
}

impl Clocks {
    /// Clocks of so many daemons, all right. To be made within the simulation's runtime.
    pub(super) fn new(daemons: usize, random: Arc<Random>) -> Clocks {
        let wrong_by = (0..daemons).map(|_| AtomicI64::new(0)).collect();
        Clocks { start: Instant::now(), wrong_by, looks: AtomicUsize::new(NOBODY), random }
    }

    /// Virtual time since the start.
    pub(super) fn time(&self) -> Duration {
        self.start.elapsed()
    }

    /// Sets a daemon's wall clock wrong by so many milliseconds.
    pub(super) fn set_wrong(&self, daemon: usize, by: i64) {
        self.wrong_by[daemon].store(by, Ordering::Relaxed);
    }

    /// From now on it is this daemon that looks at its clock.
    pub(super) fn looks(&self, daemon: usize) {
        self.looks.store(daemon, Ordering::Relaxed);
    }
}

impl Simulated for Clocks {
    fn now(&self) -> Timestamp {
        let wrong = self.wrong_by.get(self.looks.load(Ordering::Relaxed));
        let wrong = wrong.map_or(0, |wrong| wrong.load(Ordering::Relaxed));
        Timestamp::from_millis((EPOCH + self.time().as_millis() as u64).saturating_add_signed(wrong))
    }

    fn monotonic(&self) -> Duration {
        self.time()
    }

    fn fill(&self, bytes: &mut [u8]) {
        self.random.fill(bytes);
    }
}

/// A future that looks on one daemon's clock.
pub(super) struct OnDaemon<'a, T> {
    daemon: usize,
    clocks: Arc<Clocks>,
    future: BoxFuture<'a, T>,
}

impl<'a, T> OnDaemon<'a, T> {
    /// `future`, on the clock of `daemon`.
    pub(super) fn new(
        daemon: usize,
        clocks: Arc<Clocks>,
        future: impl Future<Output = T> + Send + 'a,
    ) -> OnDaemon<'a, T> {
        OnDaemon { daemon, clocks, future: Box::pin(future) }
    }
}

impl<T> Future for OnDaemon<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        self.clocks.looks(self.daemon);
        let polled = self.future.as_mut().poll(context);
        self.clocks.looks(NOBODY);
        polled
    }
}
