//! What differs between two trees, path by path.
//!
//! Owns [`Diff`], which is asked for the next step and given the trees that it needs. Invariants: paths come in the order of a tree,
//! each folder before what is in it; equal folders are never opened; it holds no more than the entries on the way down, at most
//! [`MAX_DEPTH`] folders of two trees. It must not know where trees come from, nor what is in files.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::digest::Digest;
use crate::tree::{MAX_DEPTH, Node, Tree};

/// What stands at a path on either side, where that is not the same. Not both are absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The path from the roots, its parts joined by `/`.
    pub path: Bytes,
    /// What stands there on the first side.
    pub old: Option<Node>,
    /// What stands there on the second side.
    pub new: Option<Node>,
}

impl Difference {
    /// `added`, `removed` or `changed`.
    pub fn kind(&self) -> &'static str {
        match (&self.old, &self.new) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "changed",
        }
    }

    /// Both sides' bytes, if both are files with different ones.
    pub fn contents(&self) -> Option<(Digest, Digest)> {
        match (&self.old, &self.new) {
            (Some(Node::File { digest: old, .. }), Some(Node::File { digest: new, .. })) if old != new => {
                Some((*old, *new))
            }
            _ => None,
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// This differs.
    Differs(Difference),
    /// [`Diff::open`] takes the trees of these; one that is absent is a folder without entries.
    Open(Option<Digest>, Option<Digest>),
}

/// Two trees are nested more deeply than any that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the trees are nested more deeply than {MAX_DEPTH} folders")]
pub struct TooDeep;

/// A comparison under way.
#[derive(Debug)]
pub struct Diff {
    /// The folders on the way down: the path of each, and what of it is still to come.
    stack: Vec<(Bytes, VecDeque<Pair>)>,
    /// The path whose trees are asked for.
    opening: Option<(Bytes, Option<Digest>, Option<Digest>)>,
}

#[derive(Debug)]
struct Pair {
    name: Bytes,
    old: Option<Node>,
    new: Option<Node>,
}

impl Diff {
    /// Compares two roots.
    pub fn new(old: Digest, new: Digest) -> Diff {
        let opening = (old != new).then_some((Bytes::new(), Some(old), Some(new)));
        Diff { stack: Vec::new(), opening }
    }

    /// The next step; `None` at the end. What is to be opened is asked for until it is given.
    pub fn step(&mut self) -> Option<Step> {
        if let Some((_, old, new)) = &self.opening {
            return Some(Step::Open(*old, *new));
        }
        loop {
            let (path, pairs) = self.stack.last_mut()?;
            let Some(Pair { name, old, new }) = pairs.pop_front() else {
                self.stack.pop();
                continue;
            };
            let path = if path.is_empty() { name } else { [path, &b"/"[..], &name].concat().into() };
            let folder = |node: &Option<Node>| match node {
                Some(Node::Directory { digest }) => Some(*digest),
                _ => None,
            };
            let (from, to) = (folder(&old), folder(&new));
            if from.is_some() || to.is_some() {
                self.opening = Some((path.clone(), from, to));
            }
            // Of two folders the difference is what is in them.
            return match (from, to) {
                (Some(from), Some(to)) => Some(Step::Open(Some(from), Some(to))),
                _ => Some(Step::Differs(Difference { path, old, new })),
            };
        }
    }

    /// Gives the trees that [`Step::Open`] asked for.
    pub fn open(&mut self, old: Option<&Tree>, new: Option<&Tree>) -> Result<(), TooDeep> {
        let Some((path, ..)) = self.opening.take() else { return Ok(()) };
        if self.stack.len() >= MAX_DEPTH {
            return Err(TooDeep);
        }
        self.stack.push((path, pairs(old, new)));
        Ok(())
    }
}

/// The entries in which two folders differ, by name.
fn pairs(old: Option<&Tree>, new: Option<&Tree>) -> VecDeque<Pair> {
    let mut olds = old.into_iter().flat_map(Tree::iter).peekable();
    let mut news = new.into_iter().flat_map(Tree::iter).peekable();
    let mut pairs = VecDeque::new();
    loop {
        let name = match (olds.peek(), news.peek()) {
            (Some((old, _)), Some((new, _))) => Bytes::clone((*old).min(*new)),
            (Some((name, _)), None) | (None, Some((name, _))) => Bytes::clone(name),
            (None, None) => return pairs,
        };
        let old = olds.next_if(|(at, _)| **at == name).map(|(_, node)| node.clone());
        let new = news.next_if(|(at, _)| **at == name).map(|(_, node)| node.clone());
        if old != new {
            pairs.push_back(Pair { name, old, new });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    /// Trees by their digests.
    #[derive(Default)]
    struct Store(BTreeMap<Digest, Tree>);

    impl Store {
        /// A tree of files by path; a content that begins with `x` is executable.
        fn tree(&mut self, files: &BTreeMap<String, String>) -> Digest {
            let mut tree = Tree::new();
            let mut below: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
            for (path, content) in files {
                match path.split_once('/') {
                    Some((folder, rest)) => _ = below.entry(folder).or_default().insert(rest.into(), content.clone()),
                    None => {
                        let (digest, executable) = (Digest::of(content.as_bytes()), content.starts_with('x'));
                        tree.insert(path.clone(), Node::File { digest, executable }).expect("a name");
                    }
                }
            }
            for (folder, files) in below {
                let digest = self.tree(&files);
                tree.insert(folder.to_owned(), Node::Directory { digest }).expect("a name");
            }
            let digest = Digest::of(&tree.encode().expect("small"));
            self.0.insert(digest, tree);
            digest
        }

        fn diff(&self, old: Digest, new: Digest) -> Vec<Difference> {
            let (mut diff, mut found) = (Diff::new(old, new), Vec::new());
            while let Some(step) = diff.step() {
                match step {
                    Step::Differs(difference) => found.push(difference),
                    Step::Open(old, new) => {
                        assert_ne!(old, new, "what is the same is not opened");
                        let tree = |digest: Option<Digest>| digest.map(|digest| &self.0[&digest]);
                        diff.open(tree(old), tree(new)).expect("flat");
                    }
                }
            }
            found
        }
    }

    fn files(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect()
    }

    #[test]
    fn each_kind_of_change_is_told_in_order() {
        let mut store = Store::default();
        let old =
            store.tree(&files(&[("a", "1"), ("b/c", "2"), ("b/d", "same"), ("e", "3"), ("f/g", "4"), ("h", "x")]));
        let new =
            store.tree(&files(&[("a", "11"), ("b/c", "x"), ("b/d", "same"), ("e/i", "5"), ("h", "x"), ("z", "6")]));
        let told: Vec<_> = store
            .diff(old, new)
            .iter()
            .map(|one| {
                let path = String::from_utf8_lossy(&one.path).into_owned();
                format!("{} {path} {}", one.kind(), u8::from(one.contents().is_some()))
            })
            .collect();
        let all =
            ["changed a 1", "changed b/c 1", "changed e 0", "added e/i 0", "removed f 0", "removed f/g 0", "added z 0"];
        assert_eq!(told, all);
        assert_eq!(store.diff(old, old), []);
    }

    #[test]
    fn what_is_nested_without_end_is_refused() {
        let (mut diff, tree) = (Diff::new(Digest::of(b"a"), Digest::of(b"b")), |digest| {
            let mut tree = Tree::new();
            tree.insert("d", Node::Directory { digest }).expect("a name");
            tree
        });
        for depth in 0.. {
            let Some(Step::Open(..)) = diff.step() else { panic!("a folder in a folder") };
            if diff.open(Some(&tree(Digest::of(b"a"))), Some(&tree(Digest::of(b"b")))).is_err() {
                assert_eq!(depth, MAX_DEPTH);
                return;
            }
        }
    }

    proptest! {
        /// Of files, exactly those are told that a comparison of two maps finds.
        #[test]
        fn it_finds_what_maps_find(
            old in prop::collection::btree_map("[ab]/[cd]/[ef]|[gh]", "[x12]", 0..12),
            new in prop::collection::btree_map("[ab]/[cd]/[ef]|[gh]", "[x12]", 0..12),
        ) {
            let mut store = Store::default();
            let (from, to) = (store.tree(&old), store.tree(&new));
            let found = store.diff(from, to);
            prop_assert!(found.is_sorted_by_key(|one| one.path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>()));
            let is_file = |node: &Option<Node>| matches!(node, Some(Node::File { .. }));
            let told: Vec<_> = found.iter().filter(|one| is_file(&one.old) || is_file(&one.new)).map(|one| one.path.clone()).collect();
            let mut paths: Vec<&String> = old.keys().chain(new.keys()).filter(|path| old.get(*path) != new.get(*path)).collect();
            paths.sort_by_key(|path| path.split('/').collect::<Vec<_>>());
            paths.dedup();
            let expected: Vec<_> = paths.into_iter().map(|path| Bytes::from(path.clone())).collect();
            prop_assert_eq!(told, expected);
        }
    }
}
