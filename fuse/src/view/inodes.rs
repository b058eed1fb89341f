//! The inode table: which number means which node, for as long as the kernel holds it.
//!
//! Invariants: a number has one meaning from its first lookup to the last forget, and a node has one number for that long.
//! Numbers come from a hash of the path, so that they stay the same across forgets and mounts (programs that walk trees
//! compare them) and a listing can give them without a lookup. The table holds what the kernel holds and nothing more, and
//! its lock is never held while the source is asked.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::RwLock;
use provender_core::Digest;

use super::node::Node;

/// The number of the root.
pub const ROOT: u64 = 1;

/// Which path a node stands at, as a hash of its components.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PathId([u8; 32]);

impl PathId {
    pub(super) const ROOT: PathId = PathId([0; 32]);

    /// The path that is one component longer.
    pub(super) fn child(&self, name: &[u8]) -> PathId {
        PathId(Digest::of(&[&self.0, name].concat()).hash)
    }

    /// The number that a node at this path has, unless another node has it already.
    pub(super) fn number(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        // Positive for those who read it as signed, and neither 0 nor the root's.
        (u64::from_le_bytes([a, b, c, d, e, f, g, h]) >> 1).max(ROOT + 1)
    }
}

/// A node that the kernel knows by number.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) number: u64,
    pub(super) parent: u64,
    pub(super) path: PathId,
    pub(super) node: Node,
}

impl Inode {
    fn is(&self, path: &PathId, node: &Node) -> bool {
        self.path == *path && self.node == *node
    }
}

#[derive(Debug)]
struct Live {
    inode: Arc<Inode>,
    lookups: u64,
    /// Whether lookups are to give another number.
    retired: bool,
}

#[derive(Debug, Default)]
struct Table {
    live: HashMap<u64, Live>,
    /// The few nodes whose path's number was taken when they were looked up.
    displaced: HashMap<PathId, u64>,
}

impl Table {
    /// Where the node is, or where it can go.
    fn place(&self, path: &PathId, node: &Node) -> u64 {
        let is_it = |live: &Live| !live.retired && live.inode.is(path, node);
        let holds = |number: &u64| self.live.get(number).is_some_and(is_it);
        if let Some(number) = self.displaced.get(path).filter(|number| holds(number)) {
            return *number;
        }
        let mut number = path.number();
        while self.live.contains_key(&number) && !holds(&number) {
            number = number.wrapping_add(1).max(ROOT + 1);
        }
        number
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Inodes {
    root: Arc<Inode>,
    table: RwLock<Table>,
}

impl Inodes {
    pub(super) fn new(root: Node) -> Inodes {
        let root = Inode { number: ROOT, parent: ROOT, path: PathId::ROOT, node: root };
        Inodes { root: Arc::new(root), table: RwLock::default() }
    }

    /// What the kernel means by a number, unless it has been forgotten.
    pub(super) fn get(&self, number: u64) -> Option<Arc<Inode>> {
        if number == ROOT {
            return Some(self.root.clone());
        }
        self.table.read().live.get(&number).map(|live| live.inode.clone())
    }

    /// What the kernel holds at a path, unless it holds nothing there.
    pub(super) fn at(&self, path: &PathId) -> Option<Arc<Inode>> {
        let table = self.table.read();
        let number = table.displaced.get(path).copied().unwrap_or_else(|| path.number());
        table.live.get(&number).map(|live| live.inode.clone()).filter(|inode| inode.path == *path)
    }

    /// Counts one more lookup of the node that `name` in `parent` stands for.
    pub(super) fn remember(&self, parent: &Inode, name: &[u8], node: Node) -> Arc<Inode> {
        let path = parent.path.child(name);
        let table = &mut *self.table.write();
        let number = table.place(&path, &node);
        match table.live.entry(number) {
            Entry::Occupied(mut live) => {
                live.get_mut().lookups += 1;
                live.get().inode.clone()
            }
            Entry::Vacant(vacant) => {
                if number != path.number() {
                    table.displaced.insert(path, number);
                }
                let inode = Arc::new(Inode { number, parent: parent.number, path, node });
                vacant.insert(Live { inode: inode.clone(), lookups: 1, retired: false });
                inode
            }
        }
    }

    /// Has the next lookup of what stands there give another number; this one keeps its meaning for who holds it.
    pub(super) fn retire(&self, number: u64) {
        if let Some(live) = self.table.write().live.get_mut(&number) {
            live.retired = true;
        }
    }

    /// Takes back `lookups` lookups; the node is dropped with the last.
    pub(super) fn forget(&self, number: u64, lookups: u64) {
        let table = &mut *self.table.write();
        let Entry::Occupied(mut live) = table.live.entry(number) else { return };
        live.get_mut().lookups = live.get().lookups.saturating_sub(lookups);
        if live.get().lookups == 0 {
            let path = live.remove().inode.path;
            if table.displaced.get(&path) == Some(&number) {
                table.displaced.remove(&path);
            }
        }
    }

    /// How many nodes the kernel holds, the root aside.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.read().live.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use provender_core::Timestamp;

    fn link(target: &str) -> Node {
        Node::Link { target: target.as_bytes().into(), at: Timestamp::default() }
    }

    #[test]
    fn a_number_lives_from_first_lookup_to_last_forget() {
        let inodes = Inodes::new(Node::Root);
        let root = inodes.get(ROOT).expect("always there");
        let first = inodes.remember(&root, b"a", link("x")).number;
        assert_eq!(first, inodes.remember(&root, b"a", link("x")).number);
        assert_eq!(first, root.path.child(b"a").number());
        inodes.forget(first, 1);
        assert!(inodes.get(first).is_some());
        inodes.forget(first, 1);
        assert!(inodes.get(first).is_none() && inodes.len() == 0);
        assert_eq!(first, inodes.remember(&root, b"a", link("x")).number);
        inodes.forget(ROOT, u64::MAX);
        inodes.forget(12345, 1);
        assert!(inodes.get(ROOT).is_some());
    }

    /// The path stays and what stands there changes: as far as numbers go, the same as a collision of two paths.
    #[test]
    fn a_held_number_keeps_its_meaning_and_the_newcomer_its_own() {
        let inodes = Inodes::new(Node::Root);
        let root = inodes.get(ROOT).expect("always there");
        let old = inodes.remember(&root, b"a", link("old")).number;
        let new = inodes.remember(&root, b"a", link("new")).number;
        assert_ne!(old, new);
        assert_eq!(inodes.get(old).map(|inode| inode.node == link("old")), Some(true));
        assert_eq!(new, inodes.remember(&root, b"a", link("new")).number);
        // The natural number is free again, but the newcomer keeps the one that the kernel holds.
        inodes.forget(old, 1);
        assert_eq!(new, inodes.remember(&root, b"a", link("new")).number);
        inodes.forget(new, 3);
        assert_eq!((inodes.len(), inodes.table.read().displaced.len()), (0, 0));
        assert_eq!(old, inodes.remember(&root, b"a", link("new")).number);
    }

    #[test]
    fn a_retired_number_is_not_given_again_while_it_is_held() {
        let inodes = Inodes::new(Node::Root);
        let root = inodes.get(ROOT).expect("always there");
        let old = inodes.remember(&root, b"a", link("x")).number;
        inodes.retire(old);
        let new = inodes.remember(&root, b"a", link("x")).number;
        assert_ne!(old, new);
        assert!(inodes.get(old).is_some());
        assert_eq!(new, inodes.remember(&root, b"a", link("x")).number);
        inodes.retire(new);
        let third = inodes.remember(&root, b"a", link("x")).number;
        assert!(![old, new].contains(&third));
        inodes.forget(old, 1);
        inodes.forget(new, 2);
        assert_eq!(third, inodes.remember(&root, b"a", link("x")).number);
        inodes.forget(third, 2);
        assert_eq!((inodes.len(), inodes.table.read().displaced.len()), (0, 0));
        assert_eq!(old, inodes.remember(&root, b"a", link("x")).number);
    }
}
