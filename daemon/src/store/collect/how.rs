//! How it is collected: what is configured, and what that means for how long a use counts.

use std::sync::LazyLock;
use std::time::Duration;

use provender_core::collect::rules::Rules;

/// An answer "present" renews a holding that was not touched for this part of the protection.
const TOUCHES: u32 = 3;
/// But for no longer than this.
const TOUCH_AT_MOST: Duration = Duration::from_secs(3600);

pub(super) static DEFAULT: LazyLock<Collection> = LazyLock::new(Collection::default);

/// How it is collected.
#[derive(Debug, Clone, PartialEq)]
pub struct Collection {
    /// Whatever was answered, uploaded or used so lately stays.
    pub protect: Duration,
    /// What is kept of names.
    pub rules: Rules,
    /// The most bytes that blobs may take; else a part of the disk.
    pub quota: Option<u64>,
    /// That part, in thousandths.
    pub quota_part: u16,
    /// The bytes that are to stay free of the disk; else a part of it.
    pub reserve: Option<u64>,
    /// That part, in thousandths.
    pub reserve_part: u16,
    /// Where collecting for the quota begins and ends, in thousandths of it.
    pub high: u16,
    /// See `high`.
    pub low: u16,
    /// How often a run begins by itself; none does if this is zero.
    pub every: Duration,
    /// How many rows a run reads and writes in a second, about.
    pub rows_per_second: u64,
    /// How many keys of which something was collected are remembered.
    pub tombstones: u64,
}

impl Default for Collection {
    fn default() -> Collection {
        Collection {
            protect: Duration::from_secs(3 * 3600),
            rules: Rules::default(),
            quota: None,
            quota_part: 800,
            reserve: None,
            reserve_part: 100,
            high: 950,
            low: 850,
            every: Duration::from_secs(600),
            rows_per_second: 50_000,
            tombstones: 1_000_000,
        }
    }
}

impl Collection {
    /// When an answer "present" renews a holding, and an answer SUCCEEDED is written down again.
    pub(in crate::store) fn touch_after(&self) -> Duration {
        (self.protect / TOUCHES).min(TOUCH_AT_MOST)
    }
}
