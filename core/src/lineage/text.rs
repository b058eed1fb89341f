//! The graph for people: a tree, each task once, deep ones with the outer levels left out. A later page of a walk is as many trees as
//! there are nodes of earlier pages that its edges begin at.

use super::{Graph, Kind, Node, Onward, readable};
use crate::execution::Verdict;
use crate::key::TaskKey;

/// More sources than these of one task are summed up.
const SOURCES: usize = 20;
/// The most levels that a line is indented by; what is deeper says how deep it is.
const LEVELS: usize = 24;

/// How to print.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Whether the walk went down.
    pub down: bool,
    /// Whether to list each of many sources.
    pub all: bool,
    /// Bytes for people.
    pub size: fn(u64) -> String,
}

/// The lines of the tree.
pub fn lines(graph: &Graph, layout: Layout) -> Lines<'_> {
    Lines {
        graph,
        layout,
        onward: graph.onward(layout.down),
        shown: vec![false; graph.nodes.len()],
        way: Vec::new(),
        begun: 0,
    }
}

/// The lines of a tree, made as they are asked for.
#[derive(Debug)]
pub struct Lines<'g> {
    graph: &'g Graph,
    layout: Layout,
    onward: Onward,
    shown: Vec<bool>,
    /// What is left to be shown below each node on the way here, last first.
    way: Vec<Vec<Item>>,
    /// Before which node no other tree begins.
    begun: usize,
}

#[derive(Debug)]
enum Item {
    Edge(u32),
    /// Many sources: how many, and how many bytes they have.
    Sources(usize, u64),
}

impl Iterator for Lines<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let item = loop {
            let Some(items) = self.way.last_mut() else { return self.begin() };
            if let Some(item) = items.pop() {
                // A way may be as deep as there are nodes.
                if items.is_empty() {
                    *items = Vec::new();
                }
                break item;
            }
            self.way.pop();
        };
        let indent = self.indent();
        Some(match item {
            Item::Sources(count, bytes) => {
                format!("{indent}{count} sources, {} (--all lists them)", (self.layout.size)(bytes))
            }
            Item::Edge(at) => {
                let (edge, to) = (&self.graph.edges[at as usize], self.graph.end(at as usize, self.layout.down));
                let node = &self.graph.nodes[to];
                let again = self.shown[to] && !node.kind.is_source();
                let note = match (again, edge.closes) {
                    (_, true) => "  (above: a cycle)",
                    (true, false) => "  (above)",
                    (false, false) => earlier(node),
                };
                let line = format!("{indent}{}{note}", self.describe(node, Some(&edge.input)));
                if !again {
                    self.enter(to);
                }
                line
            }
        })
    }
}

impl Lines<'_> {
    /// The next tree's first line. Whatever is not below the first node is below one of an earlier page.
    fn begin(&mut self) -> Option<String> {
        let begins = |at: &usize| {
            *at == 0 || self.graph.nodes[*at].earlier && !self.shown[*at] && !self.onward.of(*at).is_empty()
        };
        let at = (self.begun..self.graph.nodes.len()).find(begins)?;
        self.begun = at + 1;
        self.enter(at);
        let node = &self.graph.nodes[at];
        Some(format!("{}{}", self.describe(node, None), earlier(node)))
    }

    fn enter(&mut self, node: usize) {
        self.shown[node] = true;
        let end = |edge: &u32| &self.graph.nodes[self.graph.end(*edge as usize, self.layout.down)];
        let onward = self.onward.of(node);
        let (sources, tasks): (Vec<u32>, Vec<u32>) = onward.iter().partition(|edge| end(edge).kind.is_source());
        let mut items: Vec<_> = tasks.into_iter().map(Item::Edge).collect();
        if sources.len() > SOURCES && !self.layout.all {
            let bytes = sources.iter().map(|edge| end(edge).size.unwrap_or_default()).fold(0, u64::saturating_add);
            items.push(Item::Sources(sources.len(), bytes));
        } else {
            items.extend(sources.into_iter().map(Item::Edge));
        }
        items.reverse();
        self.way.push(items);
    }

    /// The rules before a line, as far as the levels above have more to come.
    fn indent(&self) -> String {
        let left_out = self.way.len().saturating_sub(LEVELS);
        let mut indent = if left_out > 0 { format!("({left_out}) ") } else { String::new() };
        if let Some((last, above)) = self.way[left_out..].split_last() {
            for items in above {
                indent.push_str(if items.is_empty() { "   " } else { "│  " });
            }
            indent.push_str(if last.is_empty() { "└─ " } else { "├─ " });
        }
        indent
    }

    fn describe(&self, node: &Node, input: Option<&[u8]>) -> String {
        let input = input.filter(|input| !input.is_empty()).map(readable);
        let called = match (&node.name, &node.key) {
            (Some(name), _) => name.to_string(),
            (None, Some(key)) => key.to_string(),
            (None, None) => node.id().into_owned(),
        };
        let mut line = match input {
            // A source is known by where it is read.
            Some(input) if node.kind.is_source() => input,
            Some(input) if input == called => called,
            Some(input) if self.layout.down => format!("{called} (as {input})"),
            Some(input) => format!("{input}: {called}"),
            None => called,
        };
        if node.kind == Kind::Tree && node.name.is_none() {
            line.push('/');
        }
        let mut say = |text: String| line.extend(["  ", &text]);
        if let Some(verdict) = node.standing().filter(|verdict| *verdict != Verdict::Succeeded) {
            say(verdict.to_string());
        }
        if let Some(at) = node.at {
            say(at.to_string());
        }
        if let Some(key) = node.key.as_ref().filter(|_| node.name.is_some()) {
            say(short(key));
        }
        if let Some(size) = node.size.filter(|_| node.kind != Kind::Tree) {
            say((self.layout.size)(size));
        }
        if let Some(from) = node.diverges_from {
            say(format!("(differs from exec:{from})"));
        }
        if node.kind == Kind::Unheld {
            say("(not in the store)".into());
        }
        line
    }
}

fn earlier(node: &Node) -> &'static str {
    if node.earlier { "  (on an earlier page)" } else { "" }
}

/// A key with as much of its id as tells it apart.
fn short(key: &TaskKey) -> String {
    match key.id().char_indices().nth(12) {
        Some((cut, _)) => format!("{}:{}…", key.scheme(), &key.id()[..cut]),
        None => key.to_string(),
    }
}
