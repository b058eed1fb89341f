//! How far a directory reaches that is put together of shared ones.
//!
//! A few directories that refer to each other can stand for more paths than any disk holds, or nest deeper than any path may.
//! Invariant: the work follows the directories and what they refer to, never the paths that they stand for.

use std::collections::HashMap;

use crate::digest::Digest;
use crate::tree::Tree;

/// One directory: what it refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// How many files and symlinks it holds.
    pub leaves: u64,
    /// The directories in it, each once, with how often it stands there.
    pub directories: Vec<(Digest, u64)>,
}

impl Links {
    /// What a directory refers to.
    pub fn of(tree: &Tree) -> Links {
        let (mut leaves, mut directories) = (0, HashMap::new());
        for (_, node) in tree.iter() {
            match node {
                crate::tree::Node::Directory { digest } => *directories.entry(*digest).or_default() += 1,
                _ => leaves += 1,
            }
        }
        Links { leaves, directories: directories.into_iter().collect() }
    }
}

/// How far a directory reaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// The directories on the longest way down, itself included.
    pub depth: u64,
    /// All paths below it and itself; [`u64::MAX`] stands for more.
    pub paths: u64,
}

impl Extent {
    /// The extent of `root` over directories that are all in `links`; one that is not counts as empty. A digest covers what it
    /// refers to, so there is no way back to a directory.
    pub fn of(root: Digest, links: &HashMap<Digest, Links>) -> Extent {
        let below = |digest: &Digest| links.get(digest).into_iter().flat_map(|links| &links.directories);
        let mut parents = HashMap::<Digest, usize>::new();
        let (mut seen, mut left) = (std::collections::HashSet::from([root]), vec![root]);
        while let Some(directory) = left.pop() {
            for (inner, _) in below(&directory) {
                *parents.entry(*inner).or_default() += 1;
                if seen.insert(*inner) {
                    left.push(*inner);
                }
            }
        }
        // Each directory after all that refer to it: by then the longest way to it and the number of ways are known.
        let mut ways = HashMap::from([(root, (1, 1_u64))]);
        let (mut extent, mut ready) = (Extent::default(), vec![root]);
        while let Some(directory) = ready.pop() {
            let (depth, times) = ways.remove(&directory).unwrap_or_default();
            let leaves = links.get(&directory).map_or(0, |links| links.leaves);
            extent.depth = extent.depth.max(depth);
            extent.paths = extent.paths.saturating_add(times.saturating_mul(leaves.saturating_add(1)));
            for (inner, count) in below(&directory) {
                let (deepest, all) = ways.entry(*inner).or_default();
                *deepest = (*deepest).max(depth + 1);
                *all = all.saturating_add(times.saturating_mul(*count));
                if let Some(parents) = parents.get_mut(inner) {
                    *parents -= 1;
                    if *parents == 0 {
                        ready.push(*inner);
                    }
                }
            }
        }
        extent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u64) -> Digest {
        Digest::of(&n.to_be_bytes())
    }

    /// A directory's number, its leaves, and the directories in it.
    type Directory<'a> = (u64, u64, &'a [(u64, u64)]);

    fn extent(directories: &[Directory<'_>]) -> Extent {
        let links = |inner: &[(u64, u64)]| inner.iter().map(|(n, count)| (digest(*n), *count)).collect();
        let all = directories
            .iter()
            .map(|(n, leaves, inner)| (digest(*n), Links { leaves: *leaves, directories: links(inner) }));
        Extent::of(digest(0), &all.collect())
    }

    #[test]
    fn each_path_counts_and_the_longest_way_is_the_depth() {
        assert_eq!(extent(&[(0, 3, &[])]), Extent { depth: 1, paths: 4 });
        // 2 stands in 1 twice, and in the root itself.
        let shared = extent(&[(0, 1, &[(1, 1), (2, 1)]), (1, 0, &[(2, 2)]), (2, 5, &[])]);
        assert_eq!(shared, Extent { depth: 3, paths: 2 + 1 + 3 * 6 });
    }

    #[test]
    fn a_shortcut_to_every_level_hides_no_depth() {
        let inner: Vec<_> = (1..=1000).map(|n| (n, 1)).collect();
        let chain: Vec<Vec<_>> = (0..1000).map(|n| vec![(n + 1, 1)]).collect();
        let mut directories: Vec<Directory<'_>> =
            chain.iter().enumerate().map(|(n, inner)| (n as u64, 0, &inner[..])).collect();
        directories[0].2 = &inner;
        assert_eq!(extent(&directories).depth, 1001);
    }

    #[test]
    fn doubling_is_counted_without_being_walked() {
        let levels: Vec<_> = (0..200_u64).map(|n| [(n + 1, 2)]).collect();
        let doubled = |levels: &[[(u64, u64); 1]]| {
            let directories: Vec<_> = levels.iter().enumerate().map(|(n, inner)| (n as u64, 0, &inner[..])).collect();
            extent(&directories)
        };
        assert_eq!(doubled(&levels[..40]), Extent { depth: 41, paths: (1 << 41) - 1 });
        assert_eq!(doubled(&levels), Extent { depth: 201, paths: u64::MAX });
    }
}
