//! Leases: expiring claims on keys, without comparing clocks.
//!
//! Owns the [`Lease`] row and the rule of its expiry, [`Sightings`]: whoever watches calls a lease expired after having
//! seen the same row for its TTL on a monotonic clock of its own, counted from first sight. Invariant: a holder that beats in time
//! is never called expired, whatever any wall clock does. It must not know what a lease protects.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::batch::{RowKey, Version};
use crate::execution::ExecutionId;

/// The shortest TTL an executor may choose.
pub const MIN_TTL: Duration = Duration::from_secs(1);
/// The longest TTL an executor may choose.
pub const MAX_TTL: Duration = Duration::from_secs(3600);
/// The TTL of an executor that chooses none.
pub const DEFAULT_TTL: Duration = Duration::from_secs(15);

/// A claim on a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Whose it is.
    pub execution: ExecutionId,
    /// How often the holder has said that it lives.
    pub beat: u64,
    /// How long it lasts from a beat.
    pub ttl: Duration,
    /// The store's incarnation in which it was given; a lease of an earlier one fences its holder out.
    pub incarnation: u64,
}

impl Lease {
    /// A fresh claim. The TTL is brought within [`MIN_TTL`] and [`MAX_TTL`]; zero means [`DEFAULT_TTL`].
    pub fn new(execution: ExecutionId, ttl: Duration, incarnation: u64) -> Lease {
        let ttl = if ttl.is_zero() { DEFAULT_TTL } else { ttl.clamp(MIN_TTL, MAX_TTL) };
        Lease { execution, beat: 0, ttl, incarnation }
    }
}

/// What a watcher has seen of the live leases.
///
/// Times are durations on the watcher's own monotonic clock, from any fixed start.
#[derive(Debug, Default)]
pub struct Sightings {
    seen: BTreeMap<RowKey, (Version, Duration, Duration)>,
}

impl Sightings {
    /// Notes that a lease row stands at a version. Seeing the same version again changes nothing.
    pub fn saw(&mut self, row: RowKey, version: Version, ttl: Duration, now: Duration) {
        let first = (version, now, ttl);
        let entry = self.seen.entry(row).or_insert(first);
        if entry.0 != version {
            *entry = first;
        }
    }

    /// Counts a lease from now on, as if it were seen for the first time.
    pub fn anew(&mut self, row: &RowKey, now: Duration) {
        if let Some((_, since, _)) = self.seen.get_mut(row) {
            *since = now;
        }
    }

    /// Notes that a lease is gone.
    pub fn gone(&mut self, row: &RowKey) {
        self.seen.remove(row);
    }

    /// How many leases are seen.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether no lease is seen.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// The leases that have stood unchanged for their TTL, with the version each stood at.
    pub fn expired(&self, now: Duration) -> Vec<(RowKey, Version)> {
        let over = |(_, since, ttl): &(Version, Duration, Duration)| now >= *since + *ttl;
        self.seen.iter().filter(|(_, seen)| over(seen)).map(|(row, seen)| (row.clone(), seen.0)).collect()
    }

    /// When the next lease will be expired, if none beats.
    pub fn next(&self) -> Option<Duration> {
        self.seen.values().map(|(_, since, ttl)| *since + *ttl).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Table;

    #[test]
    fn expiry_counts_from_first_sight_of_the_same_row() {
        let row = RowKey { table: Table::Lease, key: "a".into() };
        let ttl = Duration::from_secs(10);
        let at = Duration::from_secs;
        let mut seen = Sightings::default();
        seen.saw(row.clone(), Version(1), ttl, at(100));
        seen.saw(row.clone(), Version(1), ttl, at(105));
        assert_eq!(seen.next(), Some(at(110)));
        assert!(seen.expired(at(109)).is_empty());
        assert_eq!(seen.expired(at(110)), [(row.clone(), Version(1))]);
        seen.saw(row.clone(), Version(2), ttl, at(109));
        assert!(seen.expired(at(118)).is_empty(), "a beat begins anew");
        seen.anew(&row, at(500));
        assert_eq!((seen.next(), seen.expired(at(509)).len()), (Some(at(510)), 0));
        seen.gone(&row);
        assert!(seen.expired(at(1000)).is_empty());
        assert_eq!(seen.next(), None);
    }

    #[test]
    fn ttl_is_brought_within_bounds() {
        let ttl = |ttl| Lease::new(ExecutionId([0; 16]), ttl, 0).ttl;
        assert_eq!(ttl(Duration::ZERO), DEFAULT_TTL);
        assert_eq!(ttl(Duration::from_millis(1)), MIN_TTL);
        assert_eq!(ttl(Duration::MAX), MAX_TTL);
        assert_eq!(ttl(Duration::from_secs(60)), Duration::from_secs(60));
    }
}
