use proptest::prelude::*;

use super::*;

fn task(name: &str) -> Node {
    Node {
        name: Some(Name::new(name).expect("valid")),
        key: format!("t:{name}").parse().ok(),
        verdict: Some(Verdict::Succeeded),
        state: Some(State::Succeeded),
        at: Some(Timestamp::from_millis(1_763_748_131_042)),
        ..Node::new(&format!("exec:{name}"), Kind::Execution)
    }
}

fn graph(nodes: Vec<Node>, edges: &[(usize, usize, &'static [u8])]) -> Graph {
    let edge = |(consumer, producer, input): &(usize, usize, &'static [u8])| Edge {
        consumer: *consumer,
        producer: *producer,
        input: Bytes::from_static(input),
        closes: false,
    };
    Graph { nodes, edges: edges.iter().map(edge).collect(), ..Graph::default() }
}

fn lines(graph: &Graph, down: bool, all: bool) -> Vec<String> {
    text::lines(graph, text::Layout { down, all, size: |bytes| format!("{bytes} B") }).collect()
}

fn source(name: &str, kind: Kind) -> Node {
    Node { size: Some(5), ..Node::new(&format!("blob:{name}"), kind) }
}

#[test]
fn a_tree_is_laid_out() {
    let mut failed = Node { verdict: Some(Verdict::Failed), state: None, at: None, ..task("failed") };
    failed.kind = Kind::Key;
    let unseen =
        Node { key: "alamode:x".parse().ok(), verdict: Some(Verdict::Unknown), ..Node::new("alamode:x", Kind::Key) };
    let mut divergent = task("b");
    divergent.diverges_from = Some(ExecutionId([1; 16]));
    divergent.key = "t:0123456789abcdef".parse().ok();
    let mut graph = graph(
        vec![
            task("root"),
            task("a"),
            divergent,
            task("shared"),
            failed,
            unseen,
            source("x", Kind::Blob),
            source("y", Kind::Unheld),
            source("z", Kind::Tree),
        ],
        &[
            (0, 6, b"src/x"),
            (0, 1, b"a"),
            (0, 2, b"lib"),
            (1, 3, b"shared"),
            (2, 3, b"\xff\x1b"),
            (3, 0, b"back"),
            (3, 4, b"failed"),
            (2, 5, b"in"),
            (2, 7, b"y\x1b"),
            (2, 8, b"z"),
        ],
    );
    graph.mark_cycles(false);
    let when = "2025-11-21T18:02:11.042Z";
    let expected = format!(
        "root  {when}  t:root
├─ a  {when}  t:a
│  └─ shared  {when}  t:shared
│     ├─ back: root  {when}  t:root  (above: a cycle)
│     └─ failed  FAILED  t:failed
├─ lib: b  {when}  t:0123456789ab…  (differs from exec:01010101010101010101010101010101)
│  ├─ \\xff\\x1b: shared  {when}  t:shared  (above)
│  ├─ in: alamode:x  UNKNOWN
│  ├─ y\\u{{1b}}  5 B  (not in the store)
│  └─ z/
└─ src/x  5 B"
    );
    assert_eq!(lines(&graph, false, false).join("\n"), expected);
    assert_eq!(graph.edges.iter().filter(|edge| edge.closes).count(), 1);
    let down = lines(&graph, true, false);
    assert!(down[1].starts_with("└─ shared (as back)  "), "{}", down[1]);
}

#[test]
fn a_later_page_is_told_below_what_came_before() {
    let earlier = |node: Node| Node { earlier: true, ..node };
    let nodes = vec![earlier(task("a")), task("b"), task("c"), earlier(task("d")), earlier(task("e"))];
    let mut graph = graph(nodes, &[(0, 1, b"b"), (1, 2, b"c"), (2, 4, b"e"), (3, 2, b"c"), (3, 0, b"a")]);
    graph.mark_cycles(false);
    let when = "2025-11-21T18:02:11.042Z";
    let expected = format!(
        "a  {when}  t:a  (on an earlier page)
└─ b  {when}  t:b
   └─ c  {when}  t:c
      └─ e  {when}  t:e  (on an earlier page)
d  {when}  t:d  (on an earlier page)
├─ c  {when}  t:c  (above)
└─ a  {when}  t:a  (above)"
    );
    assert_eq!(lines(&graph, false, false).join("\n"), expected);
    graph.next = Some(7);
    let document = serde_json::to_value(document::Document(&graph)).expect("a value");
    let ids = |list: &str| {
        let list = document[list].as_array().expect("a list").iter();
        list.map(|node| node["id"].as_str().expect("a text").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        (ids("nodes"), ids("earlier")),
        (["b", "c"].map(|n| format!("exec:{n}")).into(), ["a", "d", "e"].map(|n| format!("exec:{n}")).into())
    );
    assert_eq!((document["next"].as_u64(), document["edges"][0]["consumer"].as_str()), (Some(7), Some("exec:a")));
}

#[test]
fn many_sources_are_summed_up() {
    let mut nodes = vec![task("root")];
    nodes.extend((0..21).map(|n| source(&n.to_string(), Kind::Blob)));
    let edges: Vec<_> = (1..22).map(|n| (0, n, &b"s"[..])).collect();
    let graph = graph(nodes, &edges);
    assert_eq!(lines(&graph, false, false)[1..], ["└─ 21 sources, 105 B (--all lists them)"]);
    assert_eq!(lines(&graph, false, true).len(), 22);
}

#[test]
fn a_deep_chain_is_printed_in_bounded_lines() {
    const DEEP: usize = 100_000;
    let nodes = (0..DEEP).map(|n| task(&n.to_string())).collect();
    let edges: Vec<_> = (1..DEEP).map(|n| (n - 1, n, &b"in"[..])).chain([(DEEP - 1, 0, &b"in"[..])]).collect();
    let mut graph = graph(nodes, &edges);
    graph.mark_cycles(false);
    assert_eq!(graph.edges.iter().position(|edge| edge.closes), Some(DEEP - 1));
    let lines = lines(&graph, false, false);
    assert_eq!(lines.len(), DEEP + 1);
    assert!(lines.iter().all(|line| line.len() < 200), "{:?}", lines.last());
    assert!(lines[DEEP].starts_with("(99976) ") && lines[DEEP].ends_with("(above: a cycle)"), "{}", lines[DEEP]);
}

#[test]
fn dot_is_as_written() {
    let mut odd = source("x", Kind::Unheld);
    odd = odd.with_id("at \"x\\\n\u{1b}");
    let mut graph = graph(vec![task("a/b"), odd], &[(0, 1, b"q\"\\\n\xff"), (1, 0, "ü".as_bytes())]);
    graph.mark_cycles(false);
    let expected = r#"digraph lineage {
  rankdir=LR;
  node [shape=box, fontname="sans-serif"];
  edge [fontname="sans-serif", fontsize=10];
  "exec:a/b" [label="a/b\n2025-11-21T18:02:11.042Z"];
  "at \"x\\\n\\u{1b}" [label="at \"x\\\n\\u{1b}", shape=note, style=dotted];
  "at \"x\\\n\\u{1b}" -> "exec:a/b" [label="q\\\"\\\\\\n\\xff"];
  "exec:a/b" -> "at \"x\\\n\\u{1b}" [label="ü", color=red, style=dashed];
}"#;
    assert_eq!(dot::lines(&graph).collect::<Vec<_>>().join("\n"), expected);
}

proptest! {
    /// Whatever the graph: what is not marked has no cycle, each line is one, each task is described once, and DOT stays well-formed.
    #[test]
    fn any_graph_is_printed(edges in prop::collection::vec((0usize..8, 0usize..8, prop::collection::vec(any::<u8>(), 0..4)), 0..30), down: bool) {
        let nodes = (0..8).map(|n| task(&n.to_string())).collect();
        let edges = edges.into_iter().map(|(consumer, producer, input)| Edge { consumer, producer, input: input.into(), closes: false });
        let mut graph = Graph { nodes, edges: edges.collect(), ..Graph::default() };
        graph.mark_cycles(down);
        // What has no cycle can be taken away leaf by leaf.
        let mut left: Vec<_> = graph.edges.iter().filter(|edge| !edge.closes).collect();
        while !left.is_empty() {
            let before = left.len();
            let with: std::collections::BTreeSet<_> = left.iter().map(|edge| edge.consumer).collect();
            left.retain(|edge| with.contains(&edge.producer));
            prop_assert!(left.len() < before);
        }
        let lines = lines(&graph, down, false);
        prop_assert!(lines.iter().all(|line| !line.contains(char::is_control)));
        prop_assert!(lines.len() <= graph.edges.len() + 1);
        let whole = lines.iter().filter(|line| !line.contains("(above")).count();
        prop_assert!(whole <= 8);
        for line in dot::lines(&graph) {
            let mut open = false;
            let mut escaped = false;
            for c in line.chars() {
                (open, escaped) = match (c, escaped) {
                    ('"', false) => (!open, false),
                    ('\\', false) => (open, open),
                    _ => (open, false),
                };
            }
            prop_assert!(!open && !line.contains('\n'), "{}", line);
        }
    }
}

#[test]
fn the_document_is_as_written() {
    let mut divergent = task("b");
    (divergent.diverges_from, divergent.execution) = (Some(ExecutionId([1; 16])), Some(ExecutionId([2; 16])));
    divergent.folder = Some("f".into());
    let mut graph = graph(vec![divergent, source("x", Kind::Unheld)], &[(0, 1, b"in\xff"), (1, 0, b"")]);
    graph.mark_cycles(false);
    graph.truncated = true;
    let when = "2025-11-21T18:02:11.042Z";
    let expected = serde_json::json!({
        "v": 1,
        "nodes": [
            {
                "id": "exec:b", "kind": "execution", "name": "b", "key": "t:b", "verdict": "SUCCEEDED",
                "state": "SUCCEEDED", "at": when, "diverges_from": "01".repeat(16), "folder": "f",
                "execution": "02".repeat(16), "size": null,
            },
            {
                "id": "blob:x", "kind": "unheld", "name": null, "key": null, "verdict": null, "state": null,
                "at": null, "diverges_from": null, "folder": null, "execution": null, "size": 5,
            },
        ],
        "edges": [
            { "consumer": "exec:b", "producer": "blob:x", "input": { "b64": "aW7/" }, "closes_cycle": false },
            { "consumer": "blob:x", "producer": "exec:b", "input": "", "closes_cycle": true },
        ],
        "earlier": [],
        "truncated": true,
        "next": null,
        "skipped": 0,
        "cycle": true,
    });
    assert_eq!(serde_json::to_value(document::Document(&graph)).expect("a value"), expected);
}
