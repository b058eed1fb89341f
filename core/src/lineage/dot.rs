//! The graph for Graphviz, in the [DOT language](https://graphviz.org/doc/info/lang.html): arrows point the way that bytes went.

use super::{Edge, Graph, Kind, Node, readable};
use crate::execution::Verdict;

/// How much of an id a label shows, in characters.
const SHOWN: usize = 20;

/// The lines of the graph.
pub fn lines(graph: &Graph) -> impl Iterator<Item = String> {
    let head = [
        "digraph lineage {",
        "  rankdir=LR;",
        "  node [shape=box, fontname=\"sans-serif\"];",
        "  edge [fontname=\"sans-serif\", fontsize=10];",
    ];
    let head = head.map(str::to_owned);
    let edges = graph.edges.iter().map(|each| edge(graph, each));
    head.into_iter().chain(graph.nodes.iter().map(node)).chain(edges).chain(["}".to_owned()])
}

fn node(node: &Node) -> String {
    // What is read is said by the edges; a whole hash would make the node as wide.
    let id = || match node.id().char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}…", &node.id()[..cut]),
        None => node.id().into_owned(),
    };
    let mut lines = vec![node.name.as_ref().map_or_else(id, |name| name.to_string())];
    lines.extend(node.standing().filter(|verdict| *verdict != Verdict::Succeeded).map(|verdict| verdict.to_string()));
    lines.extend(node.at.map(|at| at.to_string()));
    lines.extend(node.diverges_from.map(|from| format!("differs from exec:{from}")));
    let style = match node.kind {
        Kind::Execution if node.diverges_from.is_some() => ", color=orange",
        Kind::Execution => "",
        Kind::Key => ", style=dashed",
        Kind::Blob => ", shape=note",
        Kind::Tree => ", shape=folder",
        Kind::Unheld => ", shape=note, style=dotted",
    };
    format!("  {} [label={}{style}];", quoted(&node.id()), quoted(&lines.join("\n")))
}

fn edge(graph: &Graph, edge: &Edge) -> String {
    let id = |at: usize| graph.nodes.get(at).map_or_else(String::new, |node| quoted(&node.id()));
    let style = if edge.closes { ", color=red, style=dashed" } else { "" };
    let label = quoted(&readable(&edge.input));
    format!("  {} -> {} [label={label}{style}];", id(edge.producer), id(edge.consumer))
}

/// A double-quoted string, in which labels take backslashes for escapes.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\n' => out.push_str("\\n"),
            control if control.is_control() => out.extend(control.escape_default().flat_map(|c| match c {
                '\\' => vec!['\\', '\\'],
                c => vec![c],
            })),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}
