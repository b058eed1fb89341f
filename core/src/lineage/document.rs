//! The graph as JSON. It may be large, so it is written as it is made.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};

use super::{Edge, Graph, Node};
use crate::json::{V, bytes};

/// What `lineage` prints: pages' `nodes` and `edges`, one behind the other, are those of the whole walk.
#[derive(Debug)]
pub struct Document<'g>(pub &'g Graph);

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Document(graph) = self;
        let nodes = |earlier| Each(move || graph.nodes.iter().filter(move |node| node.earlier == earlier).map(node));
        // By the alphabet, as all documents are.
        let mut document = serializer.serialize_map(None)?;
        document.serialize_entry("cycle", &graph.has_cycle())?;
        document.serialize_entry("earlier", &nodes(true))?;
        document.serialize_entry("edges", &Each(|| graph.edges.iter().map(|each| edge(graph, each))))?;
        document.serialize_entry("next", &graph.next)?;
        document.serialize_entry("nodes", &nodes(false))?;
        document.serialize_entry("skipped", &graph.skipped)?;
        document.serialize_entry("truncated", &graph.truncated)?;
        document.serialize_entry("v", &V)?;
        document.end()
    }
}

/// A list of which one entry at a time is in memory.
struct Each<F>(F);

impl<I: Iterator<Item = Value>, F: Fn() -> I> Serialize for Each<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

fn node(node: &Node) -> Value {
    json!({
        "id": node.id(),
        "kind": node.kind.as_str(),
        "name": node.name.as_ref().map(|name| name.as_str()),
        "key": node.key.as_ref().map(|key| key.as_str()),
        "verdict": node.verdict.map(|verdict| verdict.as_str()),
        "state": node.state.map(|state| state.verdict().as_str()),
        "at": node.at.map(|at| at.to_string()),
        "diverges_from": node.diverges_from.map(|id| id.to_string()),
        "folder": node.folder,
        "execution": node.execution.map(|id| id.to_string()),
        "size": node.size,
    })
}

fn edge(graph: &Graph, edge: &Edge) -> Value {
    let id = |at: usize| graph.nodes.get(at).map(|node| node.id());
    json!({
        "consumer": id(edge.consumer),
        "producer": id(edge.producer),
        "input": bytes(&edge.input),
        "closes_cycle": edge.closes,
    })
}
