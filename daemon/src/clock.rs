//! The daemon's clocks and randomness: the one place that asks for them.
//!
//! Owns also [`simulate`], by which a simulation puts its own in their place for one thread; where nobody simulates, that costs
//! one branch.

use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use provender_core::{BatchId, Timestamp};
use tokio::time::Instant;

/// What a simulation has instead of clocks and randomness.
pub trait Simulated {
    /// The wall clock, which may be wrong and jump.
    fn now(&self) -> Timestamp;
    /// The monotonic clock.
    fn monotonic(&self) -> Duration;
    /// Fills `bytes` with what shall pass for random.
    fn fill(&self, bytes: &mut [u8]);
}

/// Whether any thread ever simulated.
static SIMULATING: AtomicBool = AtomicBool::new(false);

thread_local! {
    static SIMULATED: RefCell<Option<Arc<dyn Simulated>>> = const { RefCell::new(None) };
}

/// Ends a simulation when dropped.
#[derive(Debug)]
#[must_use]
pub struct Simulation(());

/// Puts `by` in the place of this thread's clocks and randomness, until the answer is dropped.
pub fn simulate(by: Arc<dyn Simulated>) -> Simulation {
    SIMULATING.store(true, Ordering::Relaxed);
    SIMULATED.set(Some(by));
    Simulation(())
}

impl Drop for Simulation {
    fn drop(&mut self) {
        SIMULATED.set(None);
    }
}

fn simulated<T>(ask: impl FnOnce(&dyn Simulated) -> T) -> Option<T> {
    if !SIMULATING.load(Ordering::Relaxed) {
        return None;
    }
    // A thread that is ending simulates nothing.
    SIMULATED.try_with(|by| by.borrow().as_deref().map(ask)).ok().flatten()
}

/// The wall clock. For people: nothing is decided by comparing it with another host's.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Timestamp {
    if let Some(now) = simulated(|by| by.now()) {
        return now;
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// So long before now, by the wall clock: for the times of files.
#[allow(clippy::disallowed_methods)]
pub fn ago(time: Duration) -> SystemTime {
    SystemTime::now().checked_sub(time).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Time since this process first asked, by the monotonic clock.
pub fn monotonic() -> Duration {
    if let Some(time) = simulated(|by| by.monotonic()) {
        return time;
    }
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

/// The clock that leases expire by: monotonic, but it stands still while this process does not run. Nobody could beat to a daemon that
/// was stopped, or whose machine was, so that time must not count.
///
/// It goes on only as long as [`Awake::beat`] is polled; beyond the last beat it counts at most [`GAP`].
#[derive(Debug)]
pub struct Awake(Mutex<Beat>);

/// The last beat by the monotonic clock, and what had been counted by then.
#[derive(Debug, Clone, Copy)]
struct Beat {
    at: Duration,
    counted: Duration,
}

/// How often the clock is wound up.
const BEAT: Duration = Duration::from_millis(100);
/// How much longer than that it goes by itself: a busy machine is late at times.
const GAP: Duration = Duration::from_millis(400);

impl Default for Awake {
    fn default() -> Awake {
        Awake(Mutex::new(Beat { at: monotonic(), counted: Duration::ZERO }))
    }
}

impl Awake {
    /// What it shows.
    pub fn now(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).now()
    }

    /// Winds it up for ever.
    pub async fn beat(&self) -> Infallible {
        loop {
            tokio::time::sleep(BEAT).await;
            self.wind();
        }
    }

    fn wind(&self) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Beat { counted: last.now(), at: monotonic() };
    }
}

impl Beat {
    fn now(&self) -> Duration {
        self.counted + monotonic().saturating_sub(self.at).min(GAP)
    }
}

/// How far batch ids run ahead of the wall clock, in milliseconds.
static AHEAD: AtomicU64 = AtomicU64::new(0);

/// A batch id that was never used.
pub fn batch_id() -> BatchId {
    let ahead = AHEAD.load(Ordering::Relaxed);
    BatchId::new(Timestamp::from_millis(now().millis().saturating_add(ahead)), random())
}

/// Lets batch ids run further ahead: the metadata took one for too old, because some host's wall clock was once wrong.
pub fn batch_ids_too_old() {
    let further = AHEAD.load(Ordering::Relaxed).saturating_mul(2).clamp(3_600_000, u64::MAX / 4);
    AHEAD.store(further, Ordering::Relaxed);
}

/// Random bytes from the system.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if simulated(|by| by.fill(&mut bytes)).is_some() {
        return bytes;
    }
    getrandom::fill(&mut bytes).expect("the system has randomness once it has booted");
    bytes
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// A monotonic clock that is set by hand, in milliseconds.
    #[derive(Default)]
    struct ByHand(AtomicU64);

    impl Simulated for ByHand {
        fn now(&self) -> Timestamp {
            Timestamp::default()
        }

        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::Relaxed))
        }

        fn fill(&self, _: &mut [u8]) {}
    }

    #[test]
    fn time_in_which_the_process_was_stopped_does_not_count() {
        let hand = Arc::new(ByHand::default());
        let _simulation = simulate(hand.clone());
        let awake = Awake::default();
        let go = |millis: u64| hand.0.fetch_add(millis, Ordering::Relaxed);
        for _ in 0..100 {
            go(100);
            awake.wind();
        }
        assert_eq!(awake.now(), Duration::from_secs(10));
        go(50);
        assert_eq!(awake.now(), Duration::from_millis(10_050), "between two beats it goes on");
        // As after SIGCONT: an hour has gone by, and nothing was polled.
        go(3_600_000);
        assert_eq!(awake.now(), Duration::from_secs(10) + GAP);
        awake.wind();
        go(100);
        assert_eq!(awake.now(), Duration::from_millis(10_100) + GAP);
    }
}
