//! Decoded directories, kept for the lookups to come: the least recently used go first.
//!
//! Invariant: what is kept weighs no more than the budget, or is one tree. The lock is never held while the source is asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use provender_core::{Digest, Tree};

use super::ViewError;
use crate::source::Source;

/// About what an entry takes in memory beyond its encoded bytes.
const ENTRY_OVERHEAD: u64 = 128;

#[derive(Debug)]
struct Kept {
    tree: Arc<Tree>,
    weight: u64,
    used: u64,
}

#[derive(Debug, Default)]
struct Cache {
    kept: HashMap<Digest, Kept>,
    /// By time of last use, oldest first.
    order: BTreeMap<u64, Digest>,
    weight: u64,
    clock: u64,
}

impl Cache {
    fn get(&mut self, digest: &Digest) -> Option<Arc<Tree>> {
        let kept = self.kept.get_mut(digest)?;
        self.clock += 1;
        self.order.remove(&kept.used);
        self.order.insert(self.clock, *digest);
        kept.used = self.clock;
        Some(kept.tree.clone())
    }

    fn insert(&mut self, digest: Digest, tree: Arc<Tree>, budget: u64) {
        self.clock += 1;
        let weight = digest.size.saturating_add(ENTRY_OVERHEAD * tree.len() as u64);
        if let Some(twin) = self.kept.insert(digest, Kept { tree, weight, used: self.clock }) {
            self.order.remove(&twin.used);
            self.weight -= twin.weight;
        }
        self.order.insert(self.clock, digest);
        self.weight += weight;
        while self.weight > budget && self.kept.len() > 1 {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.weight -= self.kept.remove(&oldest).map_or(0, |kept| kept.weight);
        }
    }
}

/// The cache.
#[derive(Debug)]
pub(super) struct Trees {
    cache: Mutex<Cache>,
    budget: u64,
    max_encoded: u64,
}

impl Trees {
    /// Keeps about `budget` bytes, and refuses what takes more than `max_encoded` bytes as stored.
    pub(super) fn new(budget: u64, max_encoded: u64) -> Trees {
        Trees { cache: Mutex::default(), budget, max_encoded }
    }

    /// The directory of that digest.
    pub(super) fn get(&self, source: &dyn Source, digest: Digest) -> Result<Arc<Tree>, ViewError> {
        if digest.size > self.max_encoded {
            return Err(ViewError::TooLarge { size: digest.size, limit: self.max_encoded });
        }
        if let Some(tree) = self.cache.lock().get(&digest) {
            return Ok(tree);
        }
        let tree = source.tree(digest)?;
        self.cache.lock().insert(digest, tree.clone(), self.budget);
        Ok(tree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(id: u8, size: u64) -> Digest {
        Digest { hash: [id; 32], size }
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let (mut cache, tree) = (Cache::default(), Arc::new(Tree::new()));
        for id in 0..3 {
            cache.insert(digest(id, 10), tree.clone(), 30);
        }
        assert!(cache.get(&digest(0, 10)).is_some());
        cache.insert(digest(3, 10), tree.clone(), 30);
        let here: Vec<u8> = (0..4).filter(|id| cache.get(&digest(*id, 10)).is_some()).collect();
        assert_eq!(here, [0, 2, 3]);
        // One that is over the budget by itself stays until the next comes.
        cache.insert(digest(9, 1000), tree.clone(), 30);
        assert_eq!((cache.kept.len(), cache.order.len(), cache.weight), (1, 1, 1000));
        cache.insert(digest(9, 1000), tree.clone(), 30);
        cache.insert(digest(1, 10), tree, 30);
        assert_eq!((cache.kept.len(), cache.order.len(), cache.weight), (1, 1, 10));
    }
}
