//! What was read last, in memory: groups of large blobs, of which a reader that asks for 4 KiB at a time needs each again and again, and
//! frames of packs.
//!
//! Invariant: what is kept weighs no more than the budget, or is one group a shard. Cut into shards, so that readers seldom wait for each
//! other.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use parking_lot::Mutex;

/// In how many parts it is locked.
pub(crate) const SHARDS: usize = 8;

/// The number of a stream, or of a pack, and one of its groups, or where in it a frame begins.
type Key = (u64, u64);

#[derive(Debug, Default)]
struct Shard {
    groups: HashMap<Key, (Bytes, u64)>,
    /// By time of last use, oldest first.
    order: BTreeMap<u64, Key>,
    weight: u64,
    clock: u64,
}

/// Groups, or frames.
#[derive(Debug)]
pub(crate) struct Recent {
    shards: [Mutex<Shard>; SHARDS],
    /// Of one shard.
    budget: u64,
}

impl Recent {
    /// Keeps so many bytes in all.
    pub(crate) fn new(budget: u64) -> Recent {
        Recent { shards: Default::default(), budget: budget / SHARDS as u64 }
    }

    pub(crate) fn get(&self, key: Key) -> Option<Bytes> {
        let mut shard = self.shard(key).lock();
        shard.clock += 1;
        let now = shard.clock;
        let (bytes, used) = shard.groups.get_mut(&key)?;
        let (bytes, before) = (bytes.clone(), std::mem::replace(used, now));
        shard.order.remove(&before);
        shard.order.insert(now, key);
        Some(bytes)
    }

    pub(crate) fn has(&self, key: Key) -> bool {
        self.shard(key).lock().groups.contains_key(&key)
    }

    pub(crate) fn put(&self, key: Key, bytes: Bytes) {
        let mut shard = self.shard(key).lock();
        shard.remove(key);
        shard.clock += 1;
        let now = shard.clock;
        shard.weight += bytes.len() as u64;
        shard.groups.insert(key, (bytes, now));
        shard.order.insert(now, key);
        while shard.weight > self.budget && shard.groups.len() > 1 {
            let Some((_, oldest)) = shard.order.first_key_value() else { break };
            let oldest = *oldest;
            shard.remove(oldest);
        }
    }

    /// Forgets a stream.
    pub(crate) fn forget(&self, stream: u64) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let gone: Vec<Key> = shard.groups.keys().filter(|(of, _)| *of == stream).copied().collect();
            gone.into_iter().for_each(|key| shard.remove(key));
        }
    }

    fn shard(&self, (stream, group): Key) -> &Mutex<Shard> {
        // Neighbours lie in different ones, so that a window of one stream has the whole budget.
        &self.shards[((stream ^ group) % SHARDS as u64) as usize]
    }
}

impl Shard {
    fn remove(&mut self, key: Key) {
        if let Some((bytes, used)) = self.groups.remove(&key) {
            self.order.remove(&used);
            self.weight -= bytes.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_go_first_and_streams_are_forgotten() {
        let recent = Recent::new(30 * SHARDS as u64);
        let shards = SHARDS as u64;
        let bytes = Bytes::from_static(&[7; 10]);
        for group in 0..3 {
            recent.put((0, group * shards), bytes.clone());
        }
        assert!(recent.get((0, 0)).is_some());
        recent.put((0, 3 * shards), bytes.clone());
        let here: Vec<u64> = (0..4).filter(|group| recent.has((0, group * shards))).collect();
        assert_eq!(here, [0, 2, 3]);
        recent.put((0, 9 * shards), vec![1; 1000].into());
        assert!(recent.has((0, 9 * shards)) && !recent.has((0, 3 * shards)), "one may be larger than all");
        recent.put((8, 0), bytes);
        recent.forget(8);
        assert!(!recent.has((8, 0)));
        let shard = recent.shard((0, 0)).lock();
        assert_eq!((shard.groups.len(), shard.order.len()), (0, 0));
        assert_eq!(shard.weight, 0);
    }
}
