//! Lineage: the walk over provenance, breadth first, in pieces.
//!
//! Owns [`Walk`]. Invariants: each node is gone on from once, so cycles end; while nothing is recorded, each walk goes the same way; memory is
//! bounded by the nodes that it comes to, at most [`MAX_LINEAGE`](provender_proto::MAX_LINEAGE), some hundred bytes each, and work by [`EDGES`] for each of them; each
//! piece costs few reads, whatever it holds. It must not know how a graph is printed.

mod down;
mod page;
mod seen;
mod up;

use std::collections::VecDeque;

use bytes::Bytes;
use provender_core::batch::Table;
use provender_core::execution::State;
use provender_core::key::TaskKey;
use provender_core::lineage::{Edge, Kind, Node};
use provender_core::name::Space;
use provender_core::{Digest, Execution, ExecutionId, Ref, rows};

use self::page::{Met, Page};
use self::seen::{Id, Seen};
use super::{Described, Store, StoreError};
use crate::meta::Scan;

/// A page ends after so many edges for each node of its limit.
const EDGES: usize = provender_proto::LINEAGE_EDGES;
/// How many nodes are gone on from at once.
const AT_ONCE: usize = super::provenance::SPECS;

/// Which way to walk, how far, and what of it to tell.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// To what was made from it, instead of to what it was made from.
    pub down: bool,
    /// How many steps away at most; 0 for any.
    pub depth: u32,
    /// How many arrivals not to tell of: what [`Piece::next`] of the page before said.
    pub skip: usize,
    /// How many new nodes to tell of at most.
    pub limit: usize,
}

/// What one step of a walk came to. Nodes are numbered from 0 over all pieces; edges lead between nodes that have come.
#[derive(Debug, Default)]
pub struct Piece {
    /// The new nodes, and those of earlier pages that edges lead to.
    pub nodes: Vec<Node>,
    /// The new edges.
    pub edges: Vec<Edge>,
    /// Whether the walk ends here because it came to its limit.
    pub truncated: bool,
    /// Where the next page begins; `None` if there is none, also where the walk came to as much as any may.
    pub next: Option<usize>,
}

/// A walk under way.
#[derive(Debug)]
pub struct Walk {
    store: Store,
    space: Space,
    asked: Asked,
    seen: Seen,
    page: Page,
    queue: VecDeque<Step>,
    /// Those whose edges go on behind a row; the last one is next, before the queue.
    resumed: Vec<(Step, Bytes)>,
    piece: Piece,
}

/// A node to go on from.
#[derive(Debug)]
struct Step {
    node: u32,
    depth: u32,
    from: From,
}

/// Small, as there may be as many as nodes.
#[derive(Debug, Clone)]
enum From {
    Execution(ExecutionId),
    /// A key without a success, and the identity of its spec, if it is known.
    Key(Box<(TaskKey, Option<Digest>)>),
    File(Box<Digest>),
    Tree(Box<Digest>),
}

impl From {
    fn id(&self) -> Id {
        match self {
            From::Execution(id) => Id::Execution(*id),
            From::Key(key) => Id::Key(key.0.clone()),
            From::File(digest) => Id::File(**digest),
            From::Tree(digest) => Id::Tree(**digest),
        }
    }

    fn key(key: &TaskKey, spec: Option<Digest>) -> From {
        From::Key(Box::new((key.clone(), spec)))
    }
}

impl Store {
    /// Begins a walk at what a reference points at: also at a key or bytes that are known only because somebody consumed them.
    pub async fn lineage(&self, space: &Space, reference: &Ref, asked: Asked) -> Result<Walk, StoreError> {
        let mut walk = Walk::new(self, space, asked);
        match self.describe(space, reference).await {
            Ok(Described::Task(task)) => {
                let (execution, _, answer) = &*task;
                let node = Node { verdict: Some(answer.verdict), ..execution_node(execution) };
                walk.begin(Id::Execution(execution.id), node, Some(From::Execution(execution.id)));
                // What leads back to a key whose last attempt this is leads back here.
                if execution.state != State::Succeeded {
                    walk.seen.insert(&Id::Key(execution.key.clone()), 0);
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
        Walk::new(self, space, Asked { down: true, depth: 0, skip: 0, limit })
    }
}

impl Walk {
    fn new(store: &Store, space: &Space, asked: Asked) -> Walk {
        Walk {
            store: store.clone(),
            space: space.clone(),
            asked,
            seen: Seen::new(),
            page: Page::default(),
            queue: VecDeque::new(),
            resumed: Vec::new(),
            piece: Piece::default(),
        }
    }

    /// Begins at a key as well: at its record, else at what is said to come from the key.
    pub(super) fn begin_at(&mut self, key: &TaskKey, record: Option<&Execution>) {
        if let Some(execution) = record {
            let from = From::Execution(execution.id);
            self.begin(Id::Execution(execution.id), execution_node(execution), Some(from));
        } else {
            let node = Node { key: Some(key.clone()), ..Node::of(Kind::Key) };
            self.begin(Id::Key(key.clone()), node, Some(From::key(key, None)));
        }
    }

    /// Whether it has come to an execution.
    pub(super) fn has_come_to(&self, id: ExecutionId) -> bool {
        self.seen.number(&Id::Execution(id)).is_some()
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Piece>, StoreError> {
        // The first one is there since the beginning; others may come to nothing new.
        while self.piece.nodes.is_empty() && self.piece.edges.is_empty() && !self.piece.truncated {
            let steps = self.steps();
            if steps.is_empty() {
                return Ok(None);
            }
            if self.asked.down {
                self.go_down(steps).await?;
            } else {
                self.go_up(steps.into_iter().map(|(step, _)| step).collect()).await?;
            }
        }
        self.describe_blanks().await?;
        let piece = std::mem::take(&mut self.piece);
        if piece.truncated {
            self.queue.clear();
            self.resumed.clear();
        }
        Ok(Some(piece))
    }

    /// The next nodes to go on from, and behind which row of their edges.
    fn steps(&mut self) -> Vec<(Step, Option<Bytes>)> {
        let mut steps = Vec::new();
        while steps.len() < AT_ONCE {
            let resumed = self.resumed.pop().map(|(step, row)| (step, Some(row)));
            let Some(step) = resumed.or_else(|| Some((self.queue.pop_front()?, None))) else { break };
            steps.push(step);
        }
        steps
    }

    async fn enter_key(&mut self, key: &TaskKey) -> Result<(), StoreError> {
        let known = self.store.known_of(&self.space, std::slice::from_ref(key)).await?.pop().unwrap_or_default();
        for (key, (node, spec)) in self.describe_keys(&[(key.clone(), known)].into()).await? {
            self.begin(Id::Key(key.clone()), node, Some(From::key(&key, spec)));
        }
        Ok(())
    }

    fn enter_bytes(&mut self, id: Id, held: bool) {
        let from = match &id {
            Id::File(digest) => From::File(Box::new(*digest)),
            Id::Tree(digest) => From::Tree(Box::new(*digest)),
            Id::Execution(_) | Id::Key(_) | Id::Other(_) => return,
        };
        let node = bytes_node(&id, held);
        self.begin(id, node, Some(from));
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
        folder: execution.folder.as_deref().map(Box::from),
        execution: Some(execution.id),
        ..Node::of(Kind::Execution)
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
    Node { size, ..Node::new(&text, if held { kind } else { Kind::Unheld }) }
}

#[cfg(test)]
mod tests;
