//! Where things stand and came from, both ways.

use bytes::Bytes;
use provender_core::lineage::{Edge, Kind, Node};
use provender_core::provenance::{Branch, Origin, Place};
use provender_core::spec::Input;
use provender_core::{Name, TaskKey, Timestamp};

use super::{
    Invalid, id_to, input_from, input_to, key, name, needed, node_from, node_to, optional_id, state_from, state_to,
    verdict_from, verdict_to,
};
use crate::v1;

/// Branch to wire.
pub fn branch_to(branch: Branch) -> v1::Branch {
    match branch {
        Branch::Tasks => v1::Branch::Tasks,
        Branch::Failed => v1::Branch::Failed,
    }
}

/// Branch from wire.
pub fn branch_from(branch: i32) -> Result<Branch, Invalid> {
    match v1::Branch::try_from(branch) {
        Ok(v1::Branch::Tasks) => Ok(Branch::Tasks),
        Ok(v1::Branch::Failed) => Ok(Branch::Failed),
        _ => Err(Invalid::new("branch", format!("{branch} is no branch that this version knows"))),
    }
}

/// Place to wire.
pub fn place_to(place: &Place) -> v1::Place {
    v1::Place { name: place.name.to_string(), folder: place.folder.clone(), at_ms: place.at.millis() }
}

/// Place from wire.
pub fn place_from(place: &v1::Place) -> Result<Place, Invalid> {
    let at = Timestamp::from_millis(place.at_ms);
    Ok(Place { name: name(&place.name)?, folder: place.folder.clone(), at })
}

/// An input and its origin to wire.
pub fn origin_to(name: &Bytes, input: &Input, origin: &Origin<Place>) -> v1::inputs_reply::Entry {
    use v1::inputs_reply::Unheld;
    use v1::inputs_reply::entry::Origin as Wire;
    let origin = match origin {
        Origin::Made(place) => Wire::Made(place_to(place)),
        Origin::Held(node) => Wire::Held(node_to(node)),
        Origin::Unheld => Wire::Unheld(Unheld {}),
    };
    v1::inputs_reply::Entry { input: Some(input_to(name, input)), origin: Some(origin) }
}

/// An input and its origin from wire.
pub fn origin_from(entry: &v1::inputs_reply::Entry) -> Result<(Bytes, Origin<Place>, Input), Invalid> {
    use v1::inputs_reply::entry::Origin as Wire;
    let origin = match needed("origin", entry.origin.as_ref())? {
        Wire::Made(place) => Origin::Made(place_from(place)?),
        Wire::Held(node) => Origin::Held(node_from(node)?),
        Wire::Unheld(_) => Origin::Unheld,
    };
    let (name, input) = input_from(needed("input", entry.input.as_ref())?)?;
    Ok((name, origin, input))
}

/// A node of a walk to wire.
pub fn lineage_node_to(node: &Node) -> v1::lineage_reply::Node {
    v1::lineage_reply::Node {
        id: node.id().into_owned(),
        kind: kind_to(node.kind).into(),
        name: node.name.as_ref().map(Name::to_string).unwrap_or_default(),
        key: node.key.as_ref().map(TaskKey::to_string).unwrap_or_default(),
        verdict: node.verdict.map(verdict_to).unwrap_or_default().into(),
        state: node.state.map(state_to).unwrap_or_default().into(),
        at_ms: node.at.map(Timestamp::millis),
        diverges_from: node.diverges_from.map(id_to).unwrap_or_default(),
        folder: node.folder.as_deref().map(str::to_owned),
        execution: node.execution.map(id_to).unwrap_or_default(),
        size: node.size,
        earlier: node.earlier,
    }
}

/// A node of a walk from wire.
pub fn lineage_node_from(node: &v1::lineage_reply::Node) -> Result<Node, Invalid> {
    let some = |text: &str| !text.is_empty();
    let kind = kind_from(node.kind)?;
    let read = Node {
        name: some(&node.name).then(|| name(&node.name)).transpose()?,
        key: some(&node.key).then(|| key(&node.key)).transpose()?,
        verdict: (node.verdict != 0).then(|| verdict_from(node.verdict)).transpose()?,
        state: (node.state != 0).then(|| state_from(node.state)).transpose()?,
        at: node.at_ms.map(Timestamp::from_millis),
        diverges_from: optional_id("diverges_from", &node.diverges_from)?,
        folder: node.folder.as_deref().map(Box::from),
        execution: optional_id("execution", &node.execution)?,
        size: node.size,
        earlier: node.earlier,
        ..Node::of(kind)
    };
    Ok(read.with_id(&node.id))
}

/// An edge of a walk to wire.
pub fn lineage_edge_to(edge: &Edge) -> v1::lineage_reply::Edge {
    let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    v1::lineage_reply::Edge {
        consumer: place(edge.consumer),
        producer: place(edge.producer),
        input: edge.input.clone(),
    }
}

/// An edge of a walk from wire, between two of the first `nodes` nodes.
pub fn lineage_edge_from(edge: &v1::lineage_reply::Edge, nodes: usize) -> Result<Edge, Invalid> {
    let place = |at: u32| {
        let place = usize::try_from(at).ok().filter(|at| *at < nodes);
        place.ok_or_else(|| Invalid::new("edges", format!("there is no node {at} yet")))
    };
    let (consumer, producer) = (place(edge.consumer)?, place(edge.producer)?);
    Ok(Edge { consumer, producer, input: edge.input.clone(), closes: false })
}

fn kind_to(kind: Kind) -> v1::lineage_reply::Kind {
    match kind {
        Kind::Execution => v1::lineage_reply::Kind::Execution,
        Kind::Key => v1::lineage_reply::Kind::Key,
        Kind::Blob => v1::lineage_reply::Kind::Blob,
        Kind::Tree => v1::lineage_reply::Kind::Tree,
        Kind::Unheld => v1::lineage_reply::Kind::Unheld,
    }
}

fn kind_from(kind: i32) -> Result<Kind, Invalid> {
    Ok(match v1::lineage_reply::Kind::try_from(kind) {
        Ok(v1::lineage_reply::Kind::Execution) => Kind::Execution,
        Ok(v1::lineage_reply::Kind::Key) => Kind::Key,
        Ok(v1::lineage_reply::Kind::Blob) => Kind::Blob,
        Ok(v1::lineage_reply::Kind::Tree) => Kind::Tree,
        Ok(v1::lineage_reply::Kind::Unheld) => Kind::Unheld,
        _ => return Err(Invalid::new("kind", format!("{kind} is no kind that this version knows"))),
    })
}
