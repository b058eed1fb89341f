//! Points in time, as data: this crate never asks what time it is.

use std::fmt;

/// Milliseconds since 1970-01-01T00:00:00Z, by some host's wall clock. For people: no rule compares two hosts' clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The first moment that is written.
    pub const MIN: Timestamp = Timestamp(0);
    /// The last moment that is written: the end of 9999-12-30 or so, beyond which four digits of year do not reach.
    pub const MAX: Timestamp = Timestamp(253_402_207_200_000);

    /// A moment out of its milliseconds, cut to [`Timestamp::MAX`].
    pub fn from_millis(millis: u64) -> Timestamp {
        Timestamp(millis.min(Self::MAX.0))
    }

    /// Milliseconds since 1970.
    pub fn millis(self) -> u64 {
        self.0
    }

    /// The UTC second in the form that the mounted view names folders by, for example `2026-11-21T18-02-11Z`.
    pub fn folder(self) -> String {
        self.zoned().strftime("%Y-%m-%dT%H-%M-%SZ").to_string()
    }

    fn zoned(self) -> jiff::Zoned {
        // MAX is within jiff's range, so the fallback is never taken.
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        jiff::Timestamp::from_millisecond(millis)
            .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
            .to_zoned(jiff::tz::TimeZone::UTC)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.zoned().strftime("%Y-%m-%dT%H:%M:%S%.3fZ"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_documented() {
        let at = Timestamp::from_millis(1_763_748_131_042);
        assert_eq!(at.to_string(), "2025-11-21T18:02:11.042Z");
        assert_eq!(at.folder(), "2025-11-21T18-02-11Z");
        assert_eq!(Timestamp::from_millis(u64::MAX).to_string(), "9999-12-30T22:00:00.000Z");
        assert_eq!(Timestamp::default().to_string(), "1970-01-01T00:00:00.000Z");
    }
}
