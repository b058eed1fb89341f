//! The plan: which tasks wait for which, by their hashes.
//!
//! Owns the graph of a file. Invariants: it has no circle; tasks of one hash are one node, for they are one piece of work. Nothing
//! here recurses, so a chain may be as long as a file.

use std::collections::HashMap;
use std::fmt;

use super::file::Task;

/// The most names of a circle that are told.
const SHOWN: usize = 12;

/// The graph of a file's tasks.
#[derive(Debug)]
pub(super) struct Plan {
    /// By their first task.
    pub(super) nodes: Vec<Node>,
    /// The same in an order in which each comes after what it needs.
    pub(super) order: Vec<usize>,
}

/// All tasks of one hash.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// The tasks, by index, at least one.
    pub(super) tasks: Vec<usize>,
    /// The nodes that it needs, sorted, each once.
    pub(super) needs: Vec<usize>,
    /// The nodes that need it.
    pub(super) needed_by: Vec<usize>,
}

/// Tasks that depend on each other in a circle; the first one is not named again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cycle(Vec<String>);

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(SHOWN).try_for_each(|name| write!(f, "{name} -> "))?;
        if self.0.len() > SHOWN {
            write!(f, "… ({} more) -> ", self.0.len() - SHOWN)?;
        }
        f.write_str(&self.0[0])
    }
}

impl Plan {
    /// The graph, unless it has a circle.
    pub(super) fn new(tasks: &[Task]) -> Result<Plan, Cycle> {
        let mut by_key = HashMap::new();
        let mut nodes = Vec::<Node>::new();
        for (index, task) in tasks.iter().enumerate() {
            let node = *by_key.entry(&task.key).or_insert(nodes.len());
            if node == nodes.len() {
                nodes.push(Node::default());
            }
            nodes[node].tasks.push(index);
        }
        for node in 0..nodes.len() {
            // All tasks of a hash, since that they are equal is not verified yet.
            let dependencies = nodes[node].tasks.iter().flat_map(|task| &tasks[*task].dependencies);
            let mut needs: Vec<_> =
                dependencies.filter_map(|dependency| by_key.get(&dependency.key).copied()).collect();
            needs.sort_unstable();
            needs.dedup();
            needs.iter().for_each(|needed| nodes[*needed].needed_by.push(node));
            nodes[node].needs = needs;
        }
        let mut plan = Plan { nodes, order: Vec::new() };
        let mut waits: Vec<_> = plan.nodes.iter().map(|node| node.needs.len()).collect();
        let mut ready: Vec<_> = (0..waits.len()).filter(|node| waits[*node] == 0).collect();
        while let Some(node) = ready.pop() {
            plan.order.push(node);
            for waiting in &plan.nodes[node].needed_by {
                waits[*waiting] -= 1;
                if waits[*waiting] == 0 {
                    ready.push(*waiting);
                }
            }
        }
        match plan.circle(&waits) {
            Some(circle) => {
                Err(Cycle(circle.iter().map(|node| tasks[plan.nodes[*node].tasks[0]].title.clone()).collect()))
            }
            None => Ok(plan),
        }
    }

    /// One circle among the nodes that wait for ever.
    fn circle(&self, waits: &[usize]) -> Option<Vec<usize>> {
        let mut at = (0..waits.len()).find(|node| waits[*node] > 0)?;
        let (mut walked, mut seen) = (Vec::new(), HashMap::new());
        // Each of them needs another of them, so the walk comes back to itself.
        while !seen.contains_key(&at) {
            seen.insert(at, walked.len());
            walked.push(at);
            at = *self.nodes[at].needs.iter().find(|needed| waits[**needed] > 0)?;
        }
        let mut circle = walked.split_off(seen.get(&at).copied().unwrap_or(0));
        // Begun with its first name, whichever way it was walked into.
        let first = circle.iter().enumerate().min_by_key(|(_, node)| **node).map_or(0, |(first, _)| first);
        circle.rotate_left(first);
        Some(circle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dag::file::{Dependency, SCHEME};
    use proptest::prelude::*;
    use provender_core::key::TaskKey;
    use provender_core::name::Name;

    fn key(number: usize) -> TaskKey {
        TaskKey::new(SCHEME, &format!("{number:064x}")).unwrap()
    }

    fn task(title: &str, number: usize, needs: &[usize]) -> Task {
        let dependency = |needed: &usize| Dependency { label: format!("d{needed}").into(), key: key(*needed) };
        Task {
            title: title.into(),
            name: Name::new(title).unwrap(),
            key: key(number),
            command: None,
            dependencies: needs.iter().map(dependency).collect(),
            raw: Default::default(),
        }
    }

    proptest! {
        #[test]
        fn each_comes_after_what_it_needs(edges in prop::collection::vec((0..30_usize, 0..30_usize), 0..90)) {
            // Towards smaller numbers only, so there is no circle.
            let needs = |of: usize| edges.iter().filter(|(a, b)| *a == of && b < a).map(|(_, b)| *b).collect::<Vec<_>>();
            let tasks: Vec<_> = (0..30).rev().map(|n| task(&format!("t{n}"), n, &needs(n))).collect();
            let plan = Plan::new(&tasks).expect("no circle");
            prop_assert_eq!(plan.order.len(), 30);
            let place = |node: usize| plan.order.iter().position(|at| *at == node).expect("there");
            for (index, node) in plan.nodes.iter().enumerate() {
                for needed in &node.needs {
                    prop_assert!(place(*needed) < place(index));
                    prop_assert!(plan.nodes[*needed].needed_by.contains(&index));
                }
            }
        }
    }

    #[test]
    fn a_circle_is_named() {
        for (needs, told) in [
            (&[&[0][..]][..], "a -> a"),
            (&[&[1], &[0]], "a -> b -> a"),
            (&[&[1], &[2], &[1, 3], &[]], "b -> c -> b"),
            (&[&[], &[0, 3], &[1], &[2]], "b -> d -> c -> b"),
        ] {
            let titles = ["a", "b", "c", "d"];
            let tasks: Vec<_> = needs.iter().enumerate().map(|(n, needs)| task(titles[n], n, needs)).collect();
            assert_eq!(Plan::new(&tasks).unwrap_err().to_string(), told);
        }
    }

    #[test]
    fn a_long_chain_is_no_stack() {
        let chain = |circle: bool| {
            let first = if circle { vec![99_999] } else { vec![] };
            let needs = |n: usize| if n == 0 { first.clone() } else { vec![n - 1] };
            (0..100_000).map(|n| task(&format!("t{n:06}"), n, &needs(n))).collect::<Vec<_>>()
        };
        assert_eq!(Plan::new(&chain(false)).unwrap().order.len(), 100_000);
        let told = Plan::new(&chain(true)).unwrap_err().to_string();
        assert!(told.starts_with("t000000 -> t099999 -> ") && told.ends_with("(99988 more) -> t000000"), "{told}");
    }

    #[test]
    fn names_of_one_hash_are_one_node() {
        let tasks = [task("a", 1, &[]), task("b", 1, &[]), task("c", 2, &[1]), task("d", 3, &[7])];
        let plan = Plan::new(&tasks).unwrap();
        let shape: Vec<_> = plan.nodes.iter().map(|node| (node.tasks.clone(), node.needs.clone())).collect();
        assert_eq!(shape, [(vec![0, 1], vec![]), (vec![2], vec![0]), (vec![3], vec![])]);
    }
}
