//! What simulated executors make: for each key two variants of outputs, small and large, some of it shared by all keys.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use bytes::Bytes;
use provender_core::execution::{Exit, Outcome};
use provender_core::{Digest, Node, Tree};

/// The most keys that a schedule has.
pub(super) const KEYS: usize = 3;

/// About how many bytes there are that all share, and how many each variant has for itself.
pub(super) const TAKES: (u64, u64) = (19_000, 29_000);

/// One variant of one key's outputs.
#[derive(Debug)]
pub(super) struct Content {
    /// The tree.
    pub(super) root: Digest,
    /// What is kept as rows.
    pub(super) small: Vec<Bytes>,
    /// What is kept as files. Small enough to be hashed where it is, so that no other thread takes part.
    pub(super) large: Vec<Bytes>,
    /// All digests.
    pub(super) digests: BTreeSet<Digest>,
}

/// The outputs of a key's variant.
pub(super) fn content(key: usize, variant: usize) -> &'static Content {
    static ALL: LazyLock<Vec<Content>> = LazyLock::new(|| (0..KEYS * 2).map(|n| Content::new(n / 2, n % 2)).collect());
    &ALL[key * 2 + variant]
}

impl Content {
    fn new(key: usize, variant: usize) -> Content {
        let shared = Bytes::from("shared".repeat(3_000));
        let own = Bytes::from(format!("{key} and {variant}; ").repeat(1_900));
        let small = Bytes::from(format!("small {key} {variant}"));
        let tree = |entries: &[(&'static str, Node)]| {
            let mut tree = Tree::new();
            entries.iter().for_each(|(name, node)| tree.insert(*name, node.clone()).unwrap());
            tree.encode().unwrap()
        };
        let file = |bytes: &Bytes| Node::File { digest: Digest::of(bytes), executable: false };
        let sub = tree(&[("own", file(&own)), ("small", file(&small))]);
        let root = tree(&[("shared", file(&shared)), ("sub", Node::Directory { digest: Digest::of(&sub) })]);
        let (root_digest, small, large) = (Digest::of(&root), vec![small, sub, root], vec![shared, own]);
        let digests = small.iter().chain(&large).map(|bytes| Digest::of(bytes)).collect();
        Content { root: root_digest, small, large, digests }
    }

    /// All blobs.
    pub(super) fn blobs(&self) -> impl Iterator<Item = &Bytes> {
        self.large.iter().chain(&self.small)
    }

    /// What an executor reports that made this and exited with `code`.
    pub(super) fn outcome(&self, code: i32) -> Outcome {
        Outcome { exit: Some(Exit::Code(code)), outputs: Some(self.root), ..Outcome::default() }
    }
}

/// The variant of any key whose tree this is.
pub(super) fn made(root: &Digest) -> Option<&'static Content> {
    (0..KEYS * 2).map(|n| content(n / 2, n % 2)).find(|content| content.root == *root)
}
