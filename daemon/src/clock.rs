//! The daemon's clocks and randomness: the one place that asks for them.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use provender_core::{BatchId, Timestamp};
use tokio::time::Instant;

/// The wall clock. For people: nothing is decided by comparing it with another host's.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A day before now, by the wall clock.
#[allow(clippy::disallowed_methods)]
pub fn a_day_ago() -> SystemTime {
    SystemTime::now().checked_sub(Duration::from_secs(24 * 3600)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Time since this process first asked, by the monotonic clock: what leases expire by. It is tokio's, so that a simulation can pause
/// it.
pub fn monotonic() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
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
    getrandom::fill(&mut bytes).expect("the system has randomness once it has booted");
    bytes
}
