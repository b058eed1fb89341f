//! What a walk has come to: the number of each node, by what it is told apart by.
//!
//! Invariant: a node takes a few dozen bytes, however long its key or name is. Ids are kept as 128 bits of a hash under a random
//! key, so nobody can make two that are taken for one.

use std::collections::HashMap;

use provender_core::key::TaskKey;
use provender_core::{Digest, ExecutionId};

use crate::clock;

/// What a node is told apart by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Id {
    Execution(ExecutionId),
    Key(TaskKey),
    File(Digest),
    Tree(Digest),
    Other(String),
}

/// The numbers of nodes, from 0 in the order of their coming.
#[derive(Debug)]
pub(super) struct Seen {
    key: [u8; blake3::KEY_LEN],
    numbers: HashMap<[u8; 16], u32>,
}

impl Seen {
    pub(super) fn new() -> Seen {
        Seen { key: clock::random(), numbers: HashMap::new() }
    }

    pub(super) fn number(&self, id: &Id) -> Option<u32> {
        self.numbers.get(&self.mark(id)).copied()
    }

    /// Gives a node a number; one may have several ids.
    pub(super) fn insert(&mut self, id: &Id, number: u32) {
        self.numbers.insert(self.mark(id), number);
    }

    fn mark(&self, id: &Id) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        match id {
            Id::Execution(id) => hasher.update(b"e").update(&id.0),
            Id::Key(key) => hasher.update(b"k").update(key.as_str().as_bytes()),
            Id::File(digest) => hasher.update(b"f").update(&digest.size.to_be_bytes()).update(&digest.hash),
            Id::Tree(digest) => hasher.update(b"t").update(&digest.size.to_be_bytes()).update(&digest.hash),
            Id::Other(text) => hasher.update(b"o").update(text.as_bytes()),
        };
        let mut mark = [0; 16];
        mark.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        mark
    }
}
