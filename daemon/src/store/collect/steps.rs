//! Steps of the wall clock: what was used a moment ago does not become old because somebody has set the time.
//!
//! Protection is counted by the wall clock, since rows outlive daemons. Where that clock gains on the one that only counts, what it has gained
//! is added to the protection for as long as that lasts. A step back protects by itself.

use std::time::Duration;

use provender_core::Timestamp;

/// What is no step: two clocks are not read at once, and one is slewed now and then.
const TOLERATED: Duration = Duration::from_millis(500);

/// What the wall clock has gained of late.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// What both clocks said when they were read last.
    last: Option<(Duration, Timestamp)>,
    /// When, by the monotonic clock, and by how much it was set forward.
    gained: Vec<(Duration, Duration)>,
}

impl Steps {
    /// Takes in what both clocks say, `monotonic` first; by how much whatever lasts for `protect` is to last longer now. To be called more
    /// often than that.
    pub(super) fn see(&mut self, monotonic: Duration, wall: Timestamp, protect: Duration) -> Duration {
        if let Some((then, was)) = self.last {
            let passed = monotonic.saturating_sub(then);
            let shown = Duration::from_millis(wall.millis().saturating_sub(was.millis()));
            let by = shown.saturating_sub(passed);
            if by > TOLERATED {
                tracing::warn!(
                    by_seconds = by.as_secs(),
                    "the clock was set forward; what is protected is so for as much longer"
                );
                self.gained.push((monotonic, by));
            }
        }
        self.last = Some((monotonic, wall));
        self.gained.retain(|(at, _)| monotonic.saturating_sub(*at) < protect);
        self.gained.iter().map(|(_, by)| *by).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_gained_is_added_for_as_long_as_protection_lasts() {
        let (mut steps, protect) = (Steps::default(), Duration::from_secs(100));
        let mut see = |monotonic: u64, wall: u64| {
            steps.see(Duration::from_secs(monotonic), Timestamp::from_millis(1_000 * wall), protect).as_secs()
        };
        assert_eq!(see(5, 1_000_000), 0);
        assert_eq!(see(25, 1_000_020), 0);
        assert_eq!(see(26, 1_003_621), 3_600);
        // Back again, which takes nothing from it, and forward once more.
        assert_eq!(see(60, 1_000_055), 3_600);
        assert_eq!(see(61, 1_000_066), 3_610);
        assert_eq!(see(127, 1_000_132), 10);
        assert_eq!(see(161, 1_000_166), 0);
    }
}
