//! Which part of a walk is told, and what an earlier part's nodes are when an edge leads to them.
//!
//! A walk is a row of arrivals: first where it begins, then one over each edge, at a node that is new or known. A page is an interval of
//! that row; so pages of one walk hold each node and each edge once, and an interval's end is where the next one begins. Nothing is kept
//! between pages: a later one walks the same way again, and tells of no arrival before its own.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use provender_core::ExecutionId;
use provender_core::key::TaskKey;
use provender_core::lineage::{Edge, Kind, Node};
use provender_core::transition::Known;
use provender_proto::MAX_LINEAGE;

use super::{EDGES, From, Id, Step, Walk, bytes_node, execution_node};
use crate::store::StoreError;

/// A node that this page did not tell of yet.
const UNTOLD: u32 = u32::MAX;
/// How many nodes are looked up at once.
const DESCRIBED: usize = 1_000;

/// How far a walk has come, and what of it was told.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// All so far, told or not.
    arrivals: usize,
    /// Where each node stands in what is told, by its number in the walk.
    places: Vec<u32>,
    /// How many nodes were told, and how many of them came on this page.
    told: u32,
    own: usize,
    edges: usize,
    /// Nodes of the piece that came before this page, and are to be described.
    blanks: Vec<(usize, Id)>,
    /// Where the walk began; a failed attempt is come back to by its key.
    root: Option<Id>,
}

/// What an edge leads to.
pub(super) struct Met {
    pub(super) id: Id,
    /// Its description, which may be left out if it was come to before.
    pub(super) node: Option<Node>,
    /// What to go on from.
    pub(super) on: Option<From>,
}

impl Walk {
    /// A node from which the walk begins.
    pub(super) fn begin(&mut self, id: Id, node: Node, on: Option<From>) {
        if self.seen.number(&id).is_some() || !self.has_room(true) {
            return;
        }
        let number = self.number(&id, 0, on);
        self.page.root.get_or_insert(id);
        self.page.arrivals += 1;
        if self.page.arrivals > self.asked.skip {
            self.tell(number, node);
        }
    }

    /// Arrives over an edge.
    pub(super) fn arrive(&mut self, from: &Step, input: Bytes, met: Met) {
        let known = self.seen.number(&met.id);
        if self.piece.truncated || !self.has_room(known.is_none()) {
            return;
        }
        let number = known.unwrap_or_else(|| self.number(&met.id, from.depth + 1, met.on));
        self.page.arrivals += 1;
        if self.page.arrivals <= self.asked.skip {
            return;
        }
        let near = self.place(from.node, None, || from.from.id());
        let far = match (known, met.node) {
            (None, Some(node)) => self.tell(number, node),
            (_, node) => self.place(number, node, || met.id),
        };
        let (consumer, producer) = if self.asked.down { (far, near) } else { (near, far) };
        self.page.edges += 1;
        self.piece.edges.push(Edge { consumer, producer, input, closes: false });
    }

    /// Whether the next arrival still belongs to this page; if not, this is where it ends.
    fn has_room(&mut self, at_new: bool) -> bool {
        let (page, asked) = (&self.page, &self.asked);
        let ends = page.arrivals >= asked.skip
            && (at_new && page.own >= asked.limit || page.edges >= asked.limit.saturating_mul(EDGES));
        let too_far = at_new && page.places.len() >= MAX_LINEAGE;
        if ends || too_far {
            self.piece.truncated = true;
            self.piece.next = Some(page.arrivals).filter(|_| !too_far);
        }
        !(ends || too_far)
    }

    /// Gives a new node its number, and has it gone on from.
    fn number(&mut self, id: &Id, depth: u32, on: Option<From>) -> u32 {
        // There are at most `MAX_LINEAGE`.
        let number = self.page.places.len() as u32;
        self.seen.insert(id, number);
        self.page.places.push(UNTOLD);
        if let Some(from) = on.filter(|_| self.asked.depth == 0 || depth < self.asked.depth) {
            self.queue.push_back(Step { node: number, depth, from });
        }
        number
    }

    /// Tells of a node that came on this page.
    fn tell(&mut self, number: u32, node: Node) -> usize {
        self.page.own += 1;
        self.put(number, node)
    }

    /// Where a known node stands in what is told. One of an earlier page is told again, once.
    fn place(&mut self, number: u32, node: Option<Node>, id: impl FnOnce() -> Id) -> usize {
        let place = self.page.places[number as usize];
        if place != UNTOLD {
            return place as usize;
        }
        let node = node.unwrap_or_else(|| {
            let root = self.page.root.clone().filter(|_| number == 0);
            self.page.blanks.push((self.piece.nodes.len(), root.unwrap_or_else(id)));
            Node::of(Kind::Unheld)
        });
        self.put(number, Node { earlier: true, ..node })
    }

    fn put(&mut self, number: u32, node: Node) -> usize {
        let place = self.page.told;
        self.page.places[number as usize] = place;
        self.page.told += 1;
        self.piece.nodes.push(node);
        place as usize
    }

    /// Describes the nodes of earlier pages that stand in the piece.
    pub(super) async fn describe_blanks(&mut self) -> Result<(), StoreError> {
        for blanks in std::mem::take(&mut self.page.blanks).chunks(DESCRIBED) {
            let ids: Vec<ExecutionId> = blanks.iter().filter_map(|(_, id)| id.execution()).collect();
            let executions = self.store.executions(&self.space, &ids).await?;
            let keys = blanks.iter().filter_map(|(_, id)| id.key());
            let keys: BTreeSet<&TaskKey> = keys.chain(executions.values().map(|made| &made.key)).collect();
            let keys: Vec<_> = keys.into_iter().cloned().collect();
            let known = self.store.known_of(&self.space, &keys).await?;
            let known: BTreeMap<TaskKey, Known> = keys.into_iter().zip(known).collect();
            let asked = blanks.iter().filter_map(|(_, id)| id.key()).filter_map(|key| known.get_key_value(key));
            let described =
                self.describe_keys(&asked.map(|(key, known)| (key.clone(), known.clone())).collect()).await?;
            let digests = blanks.iter().filter_map(|(_, id)| id.digest()).collect();
            let held = self.store.held(&self.space, digests).await?;
            for (at, id) in blanks {
                let made = id.execution().and_then(|id| executions.get(&id));
                let node = match (made, id.key().and_then(|key| described.get(key))) {
                    (Some(made), _) => {
                        Node { verdict: known.get(&made.key).map(Known::verdict), ..execution_node(made) }
                    }
                    (None, Some((node, _))) => node.clone(),
                    (None, None) => bytes_node(id, id.digest().is_some_and(|digest| held.contains(&digest))),
                };
                self.piece.nodes[*at] = Node { earlier: true, ..node };
            }
        }
        Ok(())
    }
}

impl Id {
    pub(super) fn execution(&self) -> Option<ExecutionId> {
        if let Id::Execution(id) = self { Some(*id) } else { None }
    }

    fn key(&self) -> Option<&TaskKey> {
        if let Id::Key(key) = self { Some(key) } else { None }
    }

    fn digest(&self) -> Option<provender_core::Digest> {
        if let Id::File(digest) | Id::Tree(digest) = self { Some(*digest) } else { None }
    }
}
