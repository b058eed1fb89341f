//! Lineage: what something was made from, or what was made from it, as a graph that was walked to.
//!
//! Owns the [`Graph`], which edges of it close cycles, and its faces: for people ([`text`]), for Graphviz ([`dot`]) and for programs ([`document`]). Invariant:
//! nothing here follows depth by recursion, so that a chain as long as the limit on nodes does no harm. It must not know how the
//! walk was made.

pub mod document;
pub mod dot;
pub mod text;

use std::borrow::Cow;

use bytes::Bytes;

use crate::execution::{ExecutionId, State, Verdict};
use crate::key::TaskKey;
use crate::name::Name;
use crate::time::Timestamp;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An execution.
    Execution,
    /// A key that the store has no success of.
    Key,
    /// Bytes that nobody is known to have made.
    Blob,
    /// A directory that nobody is known to have made.
    Tree,
    /// What nobody is known to have made, and the store does not hold.
    Unheld,
}

impl Kind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Execution => "execution",
            Kind::Key => "key",
            Kind::Blob => "blob",
            Kind::Tree => "tree",
            Kind::Unheld => "unheld",
        }
    }

    /// Whether it is content that leads no further.
    pub fn is_source(self) -> bool {
        matches!(self, Kind::Blob | Kind::Tree | Kind::Unheld)
    }
}

/// One node. There may be many at once, so none holds the same text twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What [`Node::id`] is, unless that follows from the rest.
    pub own_id: Option<Box<str>>,
    /// What it is.
    pub kind: Kind,
    /// What the task is called.
    pub name: Option<Name>,
    /// The task's key.
    pub key: Option<TaskKey>,
    /// The verdict of the key.
    pub verdict: Option<Verdict>,
    /// How far the execution has come.
    pub state: Option<State>,
    /// When the execution ended, or began if it has not ended.
    pub at: Option<Timestamp>,
    /// The record that the execution differs from.
    pub diverges_from: Option<ExecutionId>,
    /// The execution's folder in the mounted view.
    pub folder: Option<Box<str>>,
    /// The execution: itself, or the one that a key's verdict rests on.
    pub execution: Option<ExecutionId>,
    /// How many bytes it has.
    pub size: Option<u64>,
    /// Whether it belongs to an earlier page of the walk, and is here because an edge leads to it.
    pub earlier: bool,
}

impl Node {
    /// A node of which only its kind is known.
    pub fn of(kind: Kind) -> Node {
        Node {
            own_id: None,
            kind,
            name: None,
            key: None,
            verdict: None,
            state: None,
            at: None,
            diverges_from: None,
            folder: None,
            execution: None,
            size: None,
            earlier: false,
        }
    }

    /// A node of which only this is known.
    pub fn new(id: &str, kind: Kind) -> Node {
        Node::of(kind).with_id(id)
    }

    /// The same under an id.
    pub fn with_id(mut self, id: &str) -> Node {
        self.own_id = None;
        if self.id() != id {
            self.own_id = Some(id.into());
        }
        self
    }

    /// `exec:ID`, a key, `blob:HEX` or `tree:HEX`; for what has none of these, where it is read.
    pub fn id(&self) -> Cow<'_, str> {
        match (&self.own_id, self.execution, &self.key) {
            (Some(id), ..) => Cow::Borrowed(id),
            (None, Some(execution), _) if self.kind == Kind::Execution => Cow::Owned(format!("exec:{execution}")),
            (None, _, Some(key)) => Cow::Borrowed(key.as_str()),
            (None, ..) => Cow::Borrowed(""),
        }
    }

    /// What is to be said of its success: the execution's own end, unless its key has lost the success since.
    fn standing(&self) -> Option<Verdict> {
        match self.state {
            Some(state) if state != State::Succeeded => Some(state.verdict()),
            _ => self.verdict,
        }
    }
}

/// That one node consumed what another made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// The place of the consumer in [`Graph::nodes`].
    pub consumer: usize,
    /// The place of the producer.
    pub producer: usize,
    /// What the consumer calls the input; empty between bytes and who made them.
    pub input: Bytes,
    /// Whether the edge leads back to where the walk came from.
    pub closes: bool,
}

/// What a walk came to, or a page of it. The first node of the first page is the one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Graph {
    /// The nodes, each after one that led to it.
    pub nodes: Vec<Node>,
    /// The edges between them.
    pub edges: Vec<Edge>,
    /// Whether the walk ended at its limit.
    pub truncated: bool,
    /// How many arrivals (where it begins, and each edge) stand before this page.
    pub skipped: u32,
    /// Where the next page begins; `None` if there is none.
    pub next: Option<u32>,
}

/// The edges that lead on from each node, in their order.
#[derive(Debug)]
struct Onward {
    /// Where the edges of each node begin in `edges`, and where those of the last one end.
    starts: Vec<u32>,
    edges: Vec<u32>,
}

impl Onward {
    fn of(&self, node: usize) -> &[u32] {
        &self.edges[self.starts[node] as usize..self.starts[node + 1] as usize]
    }
}

impl Graph {
    /// Up to what nodes were made from, or down to what was made from them.
    fn onward(&self, down: bool) -> Onward {
        let from = |edge: &Edge| if down { edge.producer } else { edge.consumer };
        let mut starts = vec![0_u32; self.nodes.len() + 1];
        self.edges.iter().for_each(|edge| starts[from(edge) + 1] += 1);
        for node in 1..starts.len() {
            starts[node] += starts[node - 1];
        }
        let (mut next, mut edges) = (starts.clone(), vec![0; self.edges.len()]);
        for (at, edge) in (0..).zip(&self.edges) {
            let next = &mut next[from(edge)];
            edges[*next as usize] = at;
            *next += 1;
        }
        Onward { starts, edges }
    }

    fn end(&self, edge: usize, down: bool) -> usize {
        if down { self.edges[edge].consumer } else { self.edges[edge].producer }
    }

    /// Marks the edges that close a cycle, depth first in the order of the edges. Without the marked ones there is no cycle.
    pub fn mark_cycles(&mut self, down: bool) {
        #[derive(Clone, Copy, PartialEq)]
        enum Seen {
            Never,
            OnTheWay,
            Left,
        }
        let onward = self.onward(down);
        let mut seen = vec![Seen::Never; self.nodes.len()];
        let mut way: Vec<(u32, u32)> = Vec::new();
        for start in 0..self.nodes.len() {
            if seen[start] != Seen::Never {
                continue;
            }
            seen[start] = Seen::OnTheWay;
            way.push((start as u32, 0));
            while let Some((node, next)) = way.last_mut() {
                let Some(edge) = onward.of(*node as usize).get(*next as usize).map(|edge| *edge as usize) else {
                    seen[*node as usize] = Seen::Left;
                    way.pop();
                    continue;
                };
                *next += 1;
                let to = self.end(edge, down);
                self.edges[edge].closes = seen[to] == Seen::OnTheWay;
                if seen[to] == Seen::Never {
                    seen[to] = Seen::OnTheWay;
                    way.push((to as u32, 0));
                }
            }
        }
    }

    /// Whether an edge was found to close a cycle.
    pub fn has_cycle(&self) -> bool {
        self.edges.iter().any(|edge| edge.closes)
    }
}

/// Text of others for people: what is no text, or would move the cursor, is escaped.
pub fn readable(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) => {
            let escaped = |c: char| match c.is_control() {
                true => c.escape_default().collect::<String>(),
                false => c.to_string(),
            };
            text.chars().map(escaped).collect()
        }
        Err(_) => name.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests;
