//! How much goes for want of room, and what each execution that goes would free.
//!
//! Invariant: bytes that several refer to are counted once, with the last of those that go. Memory follows what is shared among those that
//! are looked at together.

use std::collections::HashMap;

use crate::digest::Digest;

/// What may be stored, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// So much at most.
    pub quota: Option<u64>,
    /// So much is to be left free of the disk.
    pub reserve: Option<u64>,
    /// Collecting begins where more than this part of the quota is taken, in thousandths.
    pub high: u16,
    /// And ends where no more than this part is.
    pub low: u16,
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// The bytes that blobs take.
    pub used: u64,
    /// The bytes that are free on their disk, if that is known.
    pub free: Option<u64>,
    /// The bytes that somebody waits to store.
    pub asked: u64,
}

/// For which limit something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// More is stored than may be.
    Quota(u64),
    /// Too little is free.
    Free(u64),
}

impl Want {
    /// The bytes that have to go.
    pub fn bytes(self) -> u64 {
        let (Want::Quota(bytes) | Want::Free(bytes)) = self;
        bytes
    }
}

fn part(of: u64, thousandths: u16) -> u64 {
    u64::try_from(u128::from(of) * u128::from(thousandths) / 1000).unwrap_or(u64::MAX)
}

impl Limits {
    /// What has to go, if anything. `leaving` bytes go already.
    pub fn wants(&self, room: Room, leaving: u64) -> Option<Want> {
        let used = room.used.saturating_sub(leaving);
        if let Some(quota) = self.quota
            && (used > part(quota, self.high) || used.saturating_add(room.asked) > quota)
        {
            return self.left(Want::Quota(0), room, leaving);
        }
        let free = room.free?.saturating_add(leaving);
        (free < self.reserve.unwrap_or(0).max(room.asked)).then(|| self.left(Want::Free(0), room, leaving)).flatten()
    }

    /// What still has to go once it has begun for a limit: it ends at the low mark, and not as soon as it would not begin again.
    pub fn left(&self, begun: Want, room: Room, leaving: u64) -> Option<Want> {
        match begun {
            Want::Quota(_) => {
                let (quota, used) = (self.quota?, room.used.saturating_sub(leaving));
                let enough = part(quota, self.low).min(quota.saturating_sub(room.asked));
                (used > enough).then(|| Want::Quota(used - enough))
            }
            Want::Free(_) => {
                let (reserve, free) = (self.reserve.unwrap_or(0), room.free?.saturating_add(leaving));
                // As far beyond the reserve as the quota's marks are apart, so that it does not begin again at once.
                let apart = part(reserve, self.high.saturating_sub(self.low));
                let enough = reserve.saturating_add(apart).max(room.asked);
                (free < enough).then(|| Want::Free(enough - free))
            }
        }
    }

    /// Whether so many more bytes may come, and fit.
    pub fn admits(&self, room: Room, more: u64) -> bool {
        self.quota.is_none_or(|quota| room.used.saturating_add(more) <= quota)
            && room.free.is_none_or(|free| more <= free)
    }
}

/// What goes together, and what that frees.
#[derive(Debug, Default)]
pub struct Shed {
    /// How many of those that go refer to a blob that others refer to as well.
    shared: HashMap<Digest, u64>,
    /// The bytes that are free in the end.
    pub freed: u64,
}

impl Shed {
    /// One more goes, which refers to these blobs: each with how many refer to it, and how many bytes it takes. The bytes that go with it.
    pub fn take(&mut self, blobs: impl IntoIterator<Item = (Digest, u64, u64)>) -> u64 {
        let mut freed = 0;
        for (digest, referrers, bytes) in blobs {
            if referrers <= 1 {
                freed += bytes;
                continue;
            }
            let gone = self.shared.entry(digest).or_default();
            *gone += 1;
            if *gone == referrers {
                freed += bytes;
                self.shared.remove(&digest);
            }
        }
        self.freed += freed;
        freed
    }

    /// How many blobs it remembers.
    pub fn remembered(&self) -> usize {
        self.shared.len()
    }
}
