//! Directories that were looked through, kept for the lookups to come: the least recently used go first.
//!
//! Invariant: what is kept weighs no more than the budget, or is one tree. The lock is never held while the source is asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use provender_core::Digest;

use super::ViewError;
use super::folder::Folder;
use crate::source::Source;

#[derive(Debug)]
struct Kept {
    folder: Arc<Folder>,
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
    fn get(&mut self, digest: &Digest) -> Option<Arc<Folder>> {
        let kept = self.kept.get_mut(digest)?;
        self.clock += 1;
        self.order.remove(&kept.used);
        self.order.insert(self.clock, *digest);
        kept.used = self.clock;
        Some(kept.folder.clone())
    }

    fn insert(&mut self, digest: Digest, folder: Arc<Folder>, budget: u64) {
        self.clock += 1;
        let weight = folder.weight();
        if let Some(twin) = self.kept.insert(digest, Kept { folder, weight, used: self.clock }) {
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
    pub(super) fn get(&self, source: &dyn Source, digest: Digest) -> Result<Arc<Folder>, ViewError> {
        if digest.size > self.max_encoded {
            return Err(ViewError::TooLarge { size: digest.size, limit: self.max_encoded });
        }
        if let Some(folder) = self.cache.lock().get(&digest) {
            return Ok(folder);
        }
        let folder = Arc::new(Folder::open(source, digest)?);
        self.cache.lock().insert(digest, folder.clone(), self.budget);
        Ok(folder)
    }
}

#[cfg(test)]
mod tests {
    use provender_core::{Node, Tree};

    use super::*;
    use crate::memory::MemorySource;

    /// A directory of so many entries, as another of its kind is called.
    fn folder(source: &MemorySource, kind: usize, entries: usize) -> Digest {
        let mut tree = Tree::new();
        for entry in 0..entries {
            let target = format!("{kind}").into();
            tree.insert(format!("{entry:06}").into_bytes(), Node::Symlink { target }).expect("valid");
        }
        source.put_tree(&tree).expect("small")
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let source = MemorySource::new();
        // Of those that the source hands out in one form, so that all weigh the same.
        let weight = |digest| Folder::open(&source, digest).expect("a directory").weight();
        let all: Vec<Digest> = (10..60).map(|kind| folder(&source, kind, 10)).collect();
        let same: Vec<Digest> = all.iter().copied().filter(|digest| weight(*digest) == weight(all[0])).collect();
        let one = |kind: usize| same[kind];
        let budget = 3 * weight(same[0]);
        let kept = |trees: &Trees| -> Vec<usize> {
            (0..4).filter(|kind| trees.cache.lock().kept.contains_key(&one(*kind))).collect()
        };
        let trees = Trees::new(budget, u64::MAX);
        for kind in 0..3 {
            trees.get(&source, one(kind)).expect("there");
        }
        assert_eq!(kept(&trees), [0, 1, 2]);
        trees.get(&source, one(0)).expect("there");
        trees.get(&source, one(3)).expect("there");
        assert_eq!(kept(&trees), [0, 2, 3]);
        let weighs = |trees: &Trees| {
            let cache = trees.cache.lock();
            assert_eq!(cache.weight, cache.kept.values().map(|kept| kept.weight).sum::<u64>());
            assert_eq!(cache.order.len(), cache.kept.len());
            cache.weight
        };
        assert!(weighs(&trees) <= budget);
        // One that is over the budget by itself stays until the next comes.
        let trees = Trees::new(1, u64::MAX);
        trees.get(&source, one(0)).expect("there");
        assert_eq!(kept(&trees), [0]);
        trees.get(&source, one(1)).expect("there");
        assert_eq!(kept(&trees), [1]);
        weighs(&trees);
    }

    #[test]
    fn what_is_too_large_is_not_looked_at() {
        let source = MemorySource::new();
        let digest = folder(&source, 0, 100);
        let refused = Trees::new(1, digest.size - 1).get(&source, digest);
        assert!(matches!(refused, Err(ViewError::TooLarge { .. })));
        assert!(Trees::new(1, digest.size).get(&source, digest).is_ok());
    }
}
