//! Lineage: the walk over provenance, breadth first, in pieces.
//!
//! Owns [`Walk`]. Invariants: each node is gone on from once, so cycles end; memory is bounded by the limit on nodes, and work by
//! [`EDGES`] for each of them; each piece costs few reads, whatever it holds. It must not know how a graph is printed.

mod down;
mod up;

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use provender_core::batch::Table;
use provender_core::execution::State;
use provender_core::key::TaskKey;
use provender_core::lineage::{Edge, Kind, Node};
use provender_core::name::Space;
use provender_core::{Digest, Execution, ExecutionId, Ref, Timestamp, rows};

use super::{Described, Store, StoreError};
use crate::meta::Scan;

/// A walk ends after so many edges for each node of its limit.
const EDGES: usize = 20;
/// How many nodes are gone on from at once.
const AT_ONCE: usize = super::provenance::SPECS;

/// Which way to walk, and how far.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// To what was made from it, instead of to what it was made from.
    pub down: bool,
    /// How many steps away at most; 0 for any.
    pub depth: u32,
    /// How many nodes at most.
    pub limit: usize,
}

/// What one step of a walk came to. Nodes are numbered from 0 over all pieces; edges lead between nodes that have come.
#[derive(Debug, Default)]
pub struct Piece {
    /// The new nodes.
    pub nodes: Vec<Node>,
    /// The new edges.
    pub edges: Vec<Edge>,
    /// Whether the walk ends here because it came to its limit.
    pub truncated: bool,
}

/// A walk under way.
#[derive(Debug)]
pub struct Walk {
    store: Store,
    space: Space,
    asked: Asked,
    seen: HashMap<Id, usize>,
    nodes: usize,
    edges: usize,
    queue: VecDeque<Step>,
    piece: Piece,
}

/// What a node is told apart by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Id {
    Execution(ExecutionId),
    Key(TaskKey),
    File(Digest),
    Tree(Digest),
    Other(String),
}

/// A node to go on from.
#[derive(Debug)]
struct Step {
    node: usize,
    depth: u32,
    from: From,
    /// Where its edges go on.
    cursor: Option<Bytes>,
}

#[derive(Debug, Clone)]
enum From {
    /// An execution, and the identity of its spec.
    Execution(ExecutionId, Digest, Timestamp),
    /// A key without a success, and the identity of its spec, if it is known.
    Key(TaskKey, Option<Digest>),
    /// Bytes.
    Bytes(Digest),
}

impl Store {
    /// Begins a walk at what a reference points at: also at a key or bytes that are known only because somebody consumed them.
    pub async fn lineage(&self, space: &Space, reference: &Ref, asked: Asked) -> Result<Walk, StoreError> {
        let mut walk = Walk::new(self, space, asked);
        match self.describe(space, reference).await {
            Ok(Described::Task(task)) => {
                let (execution, _, answer) = &*task;
                let from = From::Execution(execution.id, execution.spec, execution.began);
                let node = Node { verdict: Some(answer.verdict), ..execution_node(execution) };
                let at = walk.enter(Id::Execution(execution.id), node, 0, Some(from));
                // What leads back to a key whose last attempt this is leads back here.
                if let (Some(at), true) = (at, execution.state != State::Succeeded) {
                    walk.seen.insert(Id::Key(execution.key.clone()), at);
                }
            }
            Ok(Described::Registered(registered)) => walk.enter_key(&registered.key).await?,
            Ok(Described::Blob(digest)) => walk.enter_bytes(Id::File(digest), true),
            Ok(Described::Tree(digest)) => walk.enter_bytes(Id::Tree(digest), true),
            Err(missing @ StoreError::NotFound { .. }) => match walk.only_consumed(reference).await? {
                Some(Id::Key(key)) => walk.enter_key(&key).await?,
                Some(bytes) => walk.enter_bytes(bytes, false),
                None => return Err(missing),
            },
            Err(error) => return Err(error),
        }
        Ok(walk)
    }
}

impl Store {
    /// A walk down that has nowhere to begin yet (see [`Walk::begin_at`]).
    pub(super) fn walk_down(&self, space: &Space, limit: usize) -> Walk {
        Walk::new(self, space, Asked { down: true, depth: 0, limit })
    }
}

impl Walk {
    fn new(store: &Store, space: &Space, asked: Asked) -> Walk {
        Walk {
            store: store.clone(),
            space: space.clone(),
            asked,
            seen: HashMap::new(),
            nodes: 0,
            edges: 0,
            queue: VecDeque::new(),
            piece: Piece::default(),
        }
    }

    /// Begins at a key as well: at its record, else at what is said to come from the key.
    pub(super) fn begin_at(&mut self, key: &TaskKey, record: Option<&Execution>) {
        if let Some(execution) = record {
            let from = From::Execution(execution.id, execution.spec, execution.began);
            self.enter(Id::Execution(execution.id), execution_node(execution), 0, Some(from));
        } else {
            let node = Node { key: Some(key.clone()), ..Node::new(key.as_str(), Kind::Key) };
            self.enter(Id::Key(key.clone()), node, 0, Some(From::Key(key.clone(), None)));
        }
    }

    /// Whether it has come to an execution.
    pub(super) fn has_come_to(&self, id: ExecutionId) -> bool {
        self.seen.contains_key(&Id::Execution(id))
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Piece>, StoreError> {
        // The first one is there since the beginning; others may come to nothing new.
        while self.piece.nodes.is_empty() && self.piece.edges.is_empty() && !self.piece.truncated {
            let steps: Vec<_> = self.queue.drain(..self.queue.len().min(AT_ONCE)).collect();
            if steps.is_empty() {
                return Ok(None);
            }
            if self.asked.down { self.go_down(steps).await? } else { self.go_up(steps).await? }
        }
        let piece = std::mem::take(&mut self.piece);
        if piece.truncated {
            self.queue.clear();
        }
        Ok(Some(piece))
    }

    /// The number of a node, which is new or not; `None` if there is no room for it.
    fn enter(&mut self, id: Id, node: Node, depth: u32, from: Option<From>) -> Option<usize> {
        if let Some(at) = self.seen.get(&id) {
            return Some(*at);
        }
        let at = self.nodes;
        if at >= self.asked.limit {
            self.piece.truncated = true;
            return None;
        }
        self.seen.insert(id, at);
        self.nodes += 1;
        self.piece.nodes.push(node);
        if let Some(from) = from.filter(|_| self.asked.depth == 0 || depth < self.asked.depth) {
            self.queue.push_back(Step { node: at, depth, from, cursor: None });
        }
        Some(at)
    }

    fn edge(&mut self, consumer: usize, producer: usize, input: Bytes) {
        self.edges += 1;
        if self.edges > self.asked.limit.saturating_mul(EDGES) {
            self.piece.truncated = true;
            return;
        }
        self.piece.edges.push(Edge { consumer, producer, input, closes: false });
    }

    async fn enter_key(&mut self, key: &TaskKey) -> Result<(), StoreError> {
        let known = self.store.known_of(&self.space, std::slice::from_ref(key)).await?.pop().unwrap_or_default();
        for (key, (node, spec)) in self.describe_keys(&[(key.clone(), known)].into()).await? {
            _ = self.enter(Id::Key(key.clone()), node, 0, Some(From::Key(key, spec)));
        }
        Ok(())
    }

    fn enter_bytes(&mut self, id: Id, held: bool) {
        let (Id::File(digest) | Id::Tree(digest)) = id else { return };
        _ = self.enter(id.clone(), bytes_node(&id, held), 0, Some(From::Bytes(digest)));
    }

    /// What is known only because executions consumed it.
    async fn only_consumed(&self, reference: &Ref) -> Result<Option<Id>, StoreError> {
        let prefix = match reference {
            Ref::Key(key) => rows::consumers_of_key_prefix(&self.space, key),
            Ref::Blob(hash) | Ref::Tree(hash) => rows::consumers_of_hash_prefix(&self.space, hash),
            Ref::Execution(_) | Ref::Name { .. } => return Ok(None),
        };
        let scan = Scan { limit: 1, ..Scan::prefix(Table::Consumer, prefix) };
        let Some((row, _)) = self.store.inner.meta.scan(&scan).await?.rows.pop() else { return Ok(None) };
        Ok(match reference {
            Ref::Key(key) => Some(Id::Key(key.clone())),
            Ref::Tree(_) => rows::parse_consumed(&self.space, &row).map(Id::Tree),
            _ => rows::parse_consumed(&self.space, &row).map(Id::File),
        })
    }
}

fn execution_node(execution: &Execution) -> Node {
    Node {
        name: Some(execution.name.clone()),
        key: Some(execution.key.clone()),
        state: Some(execution.state),
        at: Some(execution.ended.unwrap_or(execution.began)),
        diverges_from: execution.diverges_from,
        folder: execution.folder.clone(),
        execution: Some(execution.id),
        ..Node::new(format!("exec:{}", execution.id), Kind::Execution)
    }
}

fn bytes_node(id: &Id, held: bool) -> Node {
    let (text, kind, size) = match id {
        Id::File(digest) => (format!("blob:{}", digest.hex()), Kind::Blob, Some(digest.size)),
        Id::Tree(digest) => (format!("tree:{}", digest.hex()), Kind::Tree, Some(digest.size)),
        Id::Execution(id) => (format!("exec:{id}"), Kind::Unheld, None),
        Id::Key(key) => (key.to_string(), Kind::Unheld, None),
        Id::Other(text) => (text.clone(), Kind::Unheld, None),
    };
    Node { size, ..Node::new(text, if held { kind } else { Kind::Unheld }) }
}

#[cfg(test)]
mod tests;
