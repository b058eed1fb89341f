//! Directories that were looked through, kept for the lookups to come.
//!
//! Invariant: the lock is never held while the source is asked.

use std::sync::Arc;

use parking_lot::Mutex;
use provender_core::Digest;

use super::ViewError;
use super::folder::Folder;
use super::kept::Kept;
use crate::source::Source;

/// The cache.
#[derive(Debug)]
pub(super) struct Trees {
    kept: Mutex<Kept<Arc<Folder>>>,
    max_encoded: u64,
}

impl Trees {
    /// Keeps about `budget` bytes, and refuses what takes more than `max_encoded` bytes as stored.
    pub(super) fn new(budget: u64, max_encoded: u64) -> Trees {
        Trees { kept: Mutex::new(Kept::new(budget)), max_encoded }
    }

    /// The directory of that digest.
    pub(super) fn get(&self, source: &dyn Source, digest: Digest) -> Result<Arc<Folder>, ViewError> {
        if digest.size > self.max_encoded {
            return Err(ViewError::TooLarge { size: digest.size, limit: self.max_encoded });
        }
        if let Some(folder) = self.kept.lock().get(&digest) {
            return Ok(folder);
        }
        let folder = Arc::new(Folder::open(source, digest)?);
        self.kept.lock().insert(digest, folder.clone(), folder.weight());
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
    fn what_is_too_large_is_not_looked_at() {
        let source = MemorySource::new();
        let digest = folder(&source, 0, 100);
        let refused = Trees::new(1, digest.size - 1).get(&source, digest);
        assert!(matches!(refused, Err(ViewError::TooLarge { .. })));
        assert!(Trees::new(1, digest.size).get(&source, digest).is_ok());
    }
}
