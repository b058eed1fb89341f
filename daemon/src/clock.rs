//! The daemon's clocks and randomness: the one place that asks for them.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use provender_core::{BatchId, Timestamp};

/// The wall clock. For people: nothing is decided by comparing it with another host's.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Time since this process first asked, by the monotonic clock: what leases expire by.
pub fn monotonic() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

/// A batch id that was never used.
pub fn batch_id() -> BatchId {
    BatchId::new(now(), random())
}

/// Random bytes from the system.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has randomness once it has booted");
    bytes
}
