//! What a commit refers to: walking trees that nobody has to trust.
//!
//! Owns the [`Closure`]. Invariants: each tree is read once, however many paths lead to it, so the work follows what is stored and not
//! what it stands for; memory is bounded by [`MOST`] digests.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use provender_core::extent::{Extent, Links};
use provender_core::name::Space;
use provender_core::policy::Found;
use provender_core::tree::{self, Node, Tree};
use provender_core::{Digest, Spec};

use super::{Store, StoreError};

/// The most different blobs that one record may refer to.
const MOST: usize = 2_000_000;
/// How many missing blobs an answer names.
const NAMED: usize = 20;
/// How many decoded folders are at hand at once.
const RECENT: usize = 8;

/// Every blob that a record refers to.
#[derive(Debug, Default)]
pub(super) struct Closure {
    digests: BTreeSet<Digest>,
}

impl Closure {
    /// The sorted 40-byte digests, one after the other.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.digests.len() * 40);
        self.digests.iter().for_each(|digest| out.extend_from_slice(&digest.to_bytes()));
        out.freeze()
    }
}

impl Store {
    /// Walks the trees from `root`, and of the spec's input folders as far as their manifests are held. Every blob of the outputs and
    /// every log must be there.
    pub(super) async fn walk(
        &self,
        space: &Space,
        root: Digest,
        logs: impl Iterator<Item = Digest>,
        spec: Option<&Spec>,
    ) -> Result<Closure, StoreError> {
        let mut closure = Closure { digests: logs.collect() };
        let mut level = BTreeSet::from([root]);
        // A folder may stand among the blobs already, as a file or a log of the same bytes; its own content counts all the same.
        let mut folders = level.clone();
        let (mut links, mut edges, mut depth) = (HashMap::new(), 0, 0);
        while !level.is_empty() {
            // The shortest way down to a folder; the longest is known in the end.
            depth += 1;
            fits(Extent { depth, paths: 0 })?;
            let mut next = BTreeSet::new();
            self.need(space, level.iter()).await?;
            for digest in level {
                closure.digests.insert(digest);
                let tree = self.tree(space, &digest).await?;
                for (_, node) in tree.iter() {
                    match node {
                        Node::Directory { digest } if folders.insert(*digest) => _ = next.insert(*digest),
                        Node::File { digest, .. } => _ = closure.digests.insert(*digest),
                        Node::Directory { .. } | Node::Symlink { .. } => {}
                    }
                    if closure.digests.len() + next.len() > MOST {
                        return Err(too_large(format!("one record can refer to at most {MOST} different blobs")));
                    }
                }
                let found = Links::of(&tree);
                edges += found.directories.len();
                if edges > MOST {
                    return Err(too_large(format!("the folders of one record can refer to each other {MOST} times")));
                }
                links.insert(digest, found);
            }
            level = next;
        }
        fits(Extent::of(root, &links))?;
        self.need(space, closure.digests.iter()).await?;
        if let Some(spec) = spec {
            self.add_manifests(space, spec, &mut closure, folders).await?;
        }
        Ok(closure)
    }

    /// The manifests of input folders, which are kept so that two runs can be compared path by path. What is not held is no loss.
    async fn add_manifests(
        &self,
        space: &Space,
        spec: &Spec,
        closure: &mut Closure,
        mut folders: BTreeSet<Digest>,
    ) -> Result<(), StoreError> {
        let folder = |node: &Node| match node {
            Node::Directory { digest } => Some(*digest),
            _ => None,
        };
        let mut level: BTreeSet<_> =
            spec.inputs.values().filter_map(|input| input.content.as_ref().and_then(folder)).collect();
        while !level.is_empty() && closure.digests.len() + level.len() <= MOST {
            let wanted: Vec<_> = level.into_iter().filter(|digest| folders.insert(*digest)).collect();
            let missing: BTreeSet<_> = self.find_missing(space, &wanted).await?.into_iter().collect();
            let mut next = BTreeSet::new();
            for digest in wanted.into_iter().filter(|digest| !missing.contains(digest)) {
                closure.digests.insert(digest);
                if let Ok(tree) = self.tree(space, &digest).await {
                    next.extend(tree.iter().filter_map(|(_, node)| folder(node)));
                }
                if closure.digests.len() + next.len() > MOST {
                    return Ok(());
                }
            }
            level = next;
        }
        Ok(())
    }

    /// What stands at paths below a tree: the sizes that a policy asks for, and the blobs.
    pub(super) async fn find_paths(
        &self,
        space: &Space,
        root: Digest,
        paths: impl Iterator<Item = &Bytes>,
    ) -> Result<(Found, BTreeSet<Digest>), StoreError> {
        // Neighbours share the folders on their way.
        let paths: BTreeSet<_> = paths.collect();
        let mut trees = Trees { store: self, space, recent: BTreeMap::new() };
        let mut found = Found { entries: trees.get(root).await?.len(), paths: BTreeMap::new() };
        let mut digests = BTreeSet::new();
        for path in paths {
            let node = trees.at(root, path).await?;
            digests.extend(node.as_ref().and_then(Node::digest));
            let size = node.map(|node| match node {
                Node::File { digest, .. } => digest.size,
                Node::Directory { .. } | Node::Symlink { .. } => 0,
            });
            found.paths.insert(path.clone(), size);
        }
        Ok((found, digests))
    }

    /// One directory.
    pub async fn tree(&self, space: &Space, digest: &Digest) -> Result<Tree, StoreError> {
        let bytes = self.read_whole(space, digest, tree::MAX_ENCODED).await?;
        Tree::decode(&bytes).map_err(|source| StoreError::Tree { digest: *digest, source })
    }

    async fn need(&self, space: &Space, digests: impl Iterator<Item = &Digest>) -> Result<(), StoreError> {
        let digests: Vec<_> = digests.copied().collect();
        StoreError::missing(self.find_missing(space, &digests).await?, NAMED)
    }
}

/// Whether a tree can be restored and shown.
fn fits(extent: Extent) -> Result<(), StoreError> {
    if extent.depth > tree::MAX_DEPTH as u64 {
        return Err(too_large(format!("trees nested deeper than {} are not stored", tree::MAX_DEPTH)));
    }
    if extent.paths > tree::MAX_PATHS {
        let most = tree::MAX_PATHS;
        return Err(too_large(format!("trees that stand for more than {most} files and folders are not stored")));
    }
    Ok(())
}

fn too_large(what: String) -> StoreError {
    StoreError::TooLarge { what }
}

/// Decoded folders, the few that were last asked for.
struct Trees<'a> {
    store: &'a Store,
    space: &'a Space,
    recent: BTreeMap<Digest, Arc<Tree>>,
}

impl Trees<'_> {
    async fn get(&mut self, digest: Digest) -> Result<Arc<Tree>, StoreError> {
        if let Some(tree) = self.recent.get(&digest) {
            return Ok(tree.clone());
        }
        let tree = Arc::new(self.store.tree(self.space, &digest).await?);
        if self.recent.len() >= RECENT {
            self.recent.clear();
        }
        self.recent.insert(digest, tree.clone());
        Ok(tree)
    }

    /// What stands at a path, following no link.
    async fn at(&mut self, root: Digest, path: &Bytes) -> Result<Option<Node>, StoreError> {
        let mut at = Node::Directory { digest: root };
        for part in path.split(|byte| *byte == b'/') {
            let Node::Directory { digest } = at else { return Ok(None) };
            match self.get(digest).await?.get(part) {
                Some(node) => at = node.clone(),
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }
}
