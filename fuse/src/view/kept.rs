//! What was used lately, by digest, within a budget: the least recently used go first.
//!
//! Invariant: what is kept weighs no more than the budget, or is one thing.

use std::collections::{BTreeMap, HashMap};

use provender_core::Digest;

#[derive(Debug)]
struct One<T> {
    what: T,
    weight: u64,
    used: u64,
}

/// Things by digest, cheap to clone.
#[derive(Debug)]
pub(super) struct Kept<T> {
    budget: u64,
    all: HashMap<Digest, One<T>>,
    /// By time of last use, oldest first.
    order: BTreeMap<u64, Digest>,
    weight: u64,
    clock: u64,
}

impl<T: Clone> Kept<T> {
    pub(super) fn new(budget: u64) -> Kept<T> {
        Kept { budget, all: HashMap::new(), order: BTreeMap::new(), weight: 0, clock: 0 }
    }

    pub(super) fn get(&mut self, digest: &Digest) -> Option<T> {
        let one = self.all.get_mut(digest)?;
        self.clock += 1;
        self.order.remove(&one.used);
        self.order.insert(self.clock, *digest);
        one.used = self.clock;
        Some(one.what.clone())
    }

    /// Keeps something that weighs so many bytes.
    pub(super) fn insert(&mut self, digest: Digest, what: T, weight: u64) {
        self.clock += 1;
        if let Some(twin) = self.all.insert(digest, One { what, weight, used: self.clock }) {
            self.order.remove(&twin.used);
            self.weight -= twin.weight;
        }
        self.order.insert(self.clock, digest);
        self.weight += weight;
        while self.weight > self.budget && self.all.len() > 1 {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.weight -= self.all.remove(&oldest).map_or(0, |one| one.weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(id: u8) -> Digest {
        Digest { hash: [id; 32], size: 1 }
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let mut kept = Kept::new(30);
        for id in 0..3 {
            kept.insert(digest(id), id, 10);
        }
        assert_eq!(kept.get(&digest(0)), Some(0));
        kept.insert(digest(3), 3, 10);
        let here: Vec<u8> = (0..4).filter_map(|id| kept.get(&digest(id))).collect();
        assert_eq!(here, [0, 2, 3]);
        // One that is over the budget by itself stays until the next comes.
        kept.insert(digest(9), 9, 1000);
        assert_eq!((kept.all.len(), kept.order.len(), kept.weight), (1, 1, 1000));
        kept.insert(digest(9), 9, 1000);
        kept.insert(digest(1), 1, 10);
        assert_eq!((kept.all.len(), kept.order.len(), kept.weight), (1, 1, 10));
    }
}
