use bytes::Bytes;
use provender_core::Spec;
use provender_core::execution::Verdict;
use provender_core::lineage::{Graph, text};

use super::*;
use crate::store::provenance::tests::{input, run, spec};
use crate::store::tests::{begin, outcome, request, store, stores};

const ALL: Asked = Asked { down: false, depth: 0, skip: 0, limit: 1_000 };

async fn graph(store: &Store, reference: &str, asked: Asked) -> Graph {
    let mut walk = store.lineage(&Space::default(), &reference.parse().unwrap(), asked).await.unwrap();
    let mut graph = Graph::default();
    while let Some(piece) = walk.next().await.unwrap() {
        graph.nodes.extend(piece.nodes);
        assert!(piece.edges.iter().all(|edge| edge.consumer.max(edge.producer) < graph.nodes.len()));
        graph.edges.extend(piece.edges);
        graph.truncated |= piece.truncated;
        graph.next = graph.next.or(piece.next.map(|next| next as u32));
    }
    graph.mark_cycles(asked.down);
    graph
}

/// The edges as `consumer <input> producer`, sorted.
fn edges(graph: &Graph) -> Vec<String> {
    let called = |at: usize| {
        let node = &graph.nodes[at];
        node.name.as_ref().map_or_else(|| node.id().chars().take(10).collect(), |name| name.to_string())
    };
    let edge = |edge: &Edge| {
        let input = String::from_utf8_lossy(&edge.input);
        format!("{} <{input}> {}", called(edge.consumer), called(edge.producer))
    };
    let mut edges: Vec<_> = graph.edges.iter().map(edge).collect();
    edges.sort();
    edges
}

#[tokio::test]
async fn a_diamond_is_walked_both_ways() {
    for (store, _folder) in stores().await {
        let top = run(&store, "t:top", spec("top", vec![("src", input(None, None, Some(b"source")))]), b"top", 0).await;
        let left = vec![("in", input(Some("t:top"), None, Some(b"top")))];
        let left = run(&store, "t:left", spec("left", left), b"left", 0).await;
        run(&store, "t:right", spec("right", vec![("in", input(None, None, Some(b"top")))]), b"right", 0).await;
        let both = vec![("l", input(None, Some(left.id), Some(b"left"))), ("r", input(Some("t:right"), None, None))];
        run(&store, "t:end", spec("end", both), b"end", 0).await;
        // What failed is in nobody's used-by.
        run(&store, "t:no", spec("no", vec![("in", input(Some("t:top"), None, None))]), b"no", 1).await;
        let all = [
            "end <l> left".to_owned(),
            "end <r> right".to_owned(),
            "left <in> top".to_owned(),
            "right <in> top".to_owned(),
        ];
        let source = format!("top <src> blob:{}", &Digest::of(b"source").hex()[..5]);
        let up = graph(&store, "t:end", ALL).await;
        assert_eq!(edges(&up), [&all[..], &[source]].concat());
        assert!(up.nodes[0].name.as_ref().unwrap().as_str() == "end" && !up.has_cycle() && !up.truncated);
        assert_eq!(up.nodes[4].kind, Kind::Unheld);
        let down = Asked { down: true, ..ALL };
        assert_eq!(edges(&graph(&store, "top", down).await), all);
        assert_eq!(edges(&graph(&store, "t:end", Asked { depth: 1, ..ALL }).await), all[..2]);
        assert_eq!(edges(&graph(&store, &format!("exec:{}", top.id), Asked { depth: 1, ..down }).await), all[2..]);
        // Bytes: who made them, who used them; also those that the store never had.
        let by = |text: &str| format!("blob:{}", Digest::of(text.as_bytes()).hex());
        let short = |text: &str| by(text).chars().take(10).collect::<String>();
        let made = graph(&store, &by("top"), Asked { depth: 1, ..ALL }).await;
        assert_eq!(edges(&made), [format!("{} <> top", short("top"))]);
        let used = graph(&store, &by("top"), Asked { depth: 1, ..down }).await;
        assert_eq!(edges(&used), [format!("left <in> {}", short("top")), format!("right <in> {}", short("top"))]);
        let source = graph(&store, &by("source"), Asked { depth: 1, ..down }).await;
        assert_eq!(edges(&source), [format!("top <src> {}", short("source"))]);
        let root = format!("tree:{}", left.outcome.outputs.unwrap().hex());
        assert_eq!(graph(&store, &root, ALL).await.nodes[1].name.as_ref().unwrap().as_str(), "left");
        let none = store.lineage(&Space::default(), &by("nowhere").parse().unwrap(), ALL).await;
        assert!(matches!(none, Err(StoreError::NotFound { .. })));
    }
}

#[tokio::test]
async fn cycles_end_and_are_marked() {
    for (store, _folder) in stores().await {
        // Of A and B each says that it reads what the other makes.
        run(&store, "t:a", spec("a", vec![("b", input(Some("t:b"), None, None))]), b"a", 0).await;
        let before = graph(&store, "t:a", ALL).await;
        assert_eq!((before.nodes[1].kind, before.nodes[1].verdict), (Kind::Key, Some(Verdict::Unknown)));
        run(&store, "t:b", spec("b", vec![("a", input(Some("t:a"), None, None))]), b"b", 0).await;
        run(&store, "t:c", spec("c", vec![("own", input(Some("t:c"), None, None))]), b"c", 0).await;
        for down in [false, true] {
            let found = graph(&store, "t:a", Asked { down, ..ALL }).await;
            assert_eq!(edges(&found), ["a <b> b", "b <a> a"]);
            let closing: Vec<_> = found.edges.iter().filter(|edge| edge.closes).collect();
            assert_eq!(closing.len(), 1);
            assert_eq!(if down { closing[0].consumer } else { closing[0].producer }, 0);
            assert!(graph(&store, "t:c", Asked { down, ..ALL }).await.edges[0].closes);
        }
        // The same of two that were only registered, and of one that failed.
        let key = |text: &str| text.parse::<TaskKey>().unwrap();
        let tasks = [
            (key("r:a"), spec("ra", vec![("b", input(Some("r:b"), None, None))])),
            (
                key("r:b"),
                spec("rb", vec![("a", input(Some("r:a"), None, None)), ("f", input(Some("t:f"), None, None))]),
            ),
        ];
        store.register(&Space::default(), &tasks).await.unwrap();
        run(&store, "t:f", spec("f", vec![("a", input(Some("r:a"), None, None))]), b"f", 1).await;
        let found = graph(&store, "r:a", ALL).await;
        assert_eq!(edges(&found), ["f <a> ra", "ra <b> rb", "rb <a> ra", "rb <f> f"]);
        assert_eq!(found.edges.iter().filter(|edge| edge.closes).count(), 2);
        let verdicts: Vec<_> = found.nodes.iter().map(|node| (node.kind, node.verdict.unwrap())).collect();
        let (unknown, failed) = ((Kind::Key, Verdict::Unknown), (Kind::Key, Verdict::Failed));
        assert_eq!(verdicts, [unknown, unknown, failed]);
        assert_eq!(edges(&graph(&store, "t:f", ALL).await).len(), 4, "back to the attempt that was asked for");
    }
}

#[tokio::test]
async fn divergence_and_states_are_told() {
    let (store, space) = (store().await, Space::default());
    run(&store, "t:1", spec("made", vec![]), b"one", 0).await;
    // Another success of the key, as of a check rerun, made other bytes.
    let check = request(1);
    begin(&store, &check).await;
    let other = Execution {
        diverges_from: Some(ExecutionId([7; 16])),
        ..store.commit(&space, check.id, &outcome(0)).await.unwrap().0
    };
    store
        .transact(|mut txn| {
            txn.put(rows::execution(&space, other.id), provender_proto::rows::execution_to(&other));
            async move { Ok((txn, ())) }
        })
        .await
        .unwrap();
    run(&store, "t:2", spec("end", vec![("in", input(None, Some(other.id), None))]), b"end", 0).await;
    let found = graph(&store, "t:2", ALL).await;
    assert_eq!(found.nodes[1].diverges_from, Some(ExecutionId([7; 16])));
    assert_eq!((found.nodes[1].state, found.nodes[1].verdict), (Some(State::Succeeded), Some(Verdict::Succeeded)));
    let running = request(2);
    begin(&store, &running).await;
    let found = graph(&store, running.key.as_str(), ALL).await;
    assert_eq!((found.nodes[0].state, found.nodes[0].verdict), (Some(State::Running), Some(Verdict::Running)));
}

#[tokio::test]
async fn a_walk_ends_at_its_limit() {
    let store = store().await;
    let inputs = (0..3_000).map(|n: u32| (Bytes::from(n.to_string()), input(None, None, Some(&n.to_be_bytes()))));
    let wide = Spec { inputs: inputs.collect(), ..spec("wide", vec![]) };
    run(&store, "t:wide", wide, b"wide", 0).await;
    for (limit, truncated) in [(1, true), (3_000, true), (3_001, false)] {
        let found = graph(&store, "t:wide", Asked { limit, ..ALL }).await;
        assert_eq!((found.nodes.len(), found.truncated), (limit, truncated), "{limit}");
        assert_eq!(found.edges.len(), limit - 1);
    }
    // Many that consumed one thing come page by page.
    for n in 0..30 {
        let inputs = (0..100).map(|i: u32| (Bytes::from(i.to_string()), input(Some("t:wide"), None, None)));
        let consumer = Spec { inputs: inputs.collect(), ..spec("consumer", vec![]) };
        run(&store, &format!("t:{n}"), consumer, b"x", 0).await;
    }
    let down = Asked { down: true, limit: 150, ..ALL };
    let found = graph(&store, "t:wide", down).await;
    assert_eq!((found.nodes.len(), found.edges.len(), found.truncated), (31, 3_000, false));
    let found = graph(&store, "t:wide", Asked { limit: 31, ..down }).await;
    assert!(found.truncated && found.edges.len() == 31 * EDGES);
}

/// The edges in the order of their coming, by the ids of their ends.
fn ends(graph: &Graph) -> Vec<(String, Bytes, String)> {
    let id = |at: usize| graph.nodes[at].id().into_owned();
    graph.edges.iter().map(|edge| (id(edge.consumer), edge.input.clone(), id(edge.producer))).collect()
}

/// Whatever the limit, the pages of a walk hold each of its nodes and edges once, in its order, and say the same of a node.
async fn assert_pages(store: &Store, reference: &str, asked: Asked) {
    let whole = graph(store, reference, asked).await;
    assert!(!whole.truncated && whole.nodes.iter().all(|node| !node.earlier));
    for limit in (1..=whole.nodes.len() + 1).rev() {
        let (mut nodes, mut edges, mut skip, mut pages) = (Vec::new(), Vec::new(), 0, 0);
        loop {
            let page = graph(store, reference, Asked { skip, limit, ..asked }).await;
            let (earlier, own): (Vec<_>, Vec<_>) = page.nodes.iter().cloned().partition(|node| node.earlier);
            assert!(own.len() <= limit && page.edges.len() <= limit * EDGES);
            for node in earlier {
                let known: Vec<_> = nodes.iter().filter(|known: &&Node| known.id() == node.id()).collect();
                assert_eq!(known, [&Node { earlier: false, ..node }], "{reference} {limit} {skip}");
            }
            edges.extend(ends(&page));
            nodes.extend(own);
            pages += 1;
            assert_eq!(page.truncated, page.next.is_some());
            let Some(next) = page.next else { break };
            assert!(next as usize > skip && !page.nodes.is_empty());
            skip = next as usize;
        }
        assert_eq!((&nodes, edges), (&whole.nodes, ends(&whole)), "{reference} {limit}");
        assert!(pages >= whole.nodes.len().div_ceil(limit));
    }
    let behind = graph(store, reference, Asked { skip: whole.edges.len() + 1, ..asked }).await;
    assert!(behind.nodes.is_empty() && behind.edges.is_empty() && !behind.truncated);
}

#[tokio::test]
async fn pages_together_are_the_whole() {
    for (store, _folder) in stores().await {
        // A diamond over a cycle, with what only has a key, sources, and an attempt that failed.
        let key = |text: &str| text.parse::<TaskKey>().unwrap();
        let tasks = [(
            key("r:a"),
            spec("ra", vec![("f", input(Some("t:f"), None, None)), ("x", input(None, None, Some(b"x")))]),
        )];
        store.register(&Space::default(), &tasks).await.unwrap();
        run(
            &store,
            "t:a",
            spec("a", vec![("b", input(Some("t:b"), None, None)), ("r", input(Some("r:a"), None, None))]),
            b"a",
            0,
        )
        .await;
        run(
            &store,
            "t:b",
            spec("b", vec![("a", input(Some("t:a"), None, None)), ("y", input(None, None, Some(b"y")))]),
            b"b",
            0,
        )
        .await;
        let left = run(
            &store,
            "t:l",
            spec("l", vec![("a", input(Some("t:a"), None, None)), ("b", input(None, None, Some(b"b")))]),
            b"l",
            0,
        )
        .await;
        run(
            &store,
            "t:r",
            spec("r", vec![("a", input(None, None, Some(b"a"))), ("x", input(None, None, Some(b"x")))]),
            b"r",
            0,
        )
        .await;
        let end = vec![
            ("l", input(None, Some(left.id), None)),
            ("r", input(Some("t:r"), None, None)),
            ("a", input(Some("t:a"), None, None)),
        ];
        run(&store, "t:end", spec("end", end), b"end", 0).await;
        run(
            &store,
            "t:f",
            spec("f", vec![("end", input(Some("t:end"), None, None)), ("r", input(Some("r:a"), None, None))]),
            b"f",
            1,
        )
        .await;
        let x = format!("blob:{}", Digest::of(b"x").hex());
        for reference in ["t:end", "t:f", "r:a", &x] {
            assert_pages(&store, reference, ALL).await;
        }
        for reference in ["t:a", "t:b", "r:a", &x] {
            assert_pages(&store, reference, Asked { down: true, ..ALL }).await;
        }
        assert_pages(&store, "t:end", Asked { depth: 1, ..ALL }).await;
    }
}

#[tokio::test]
async fn pages_of_many_edges_and_of_many_readers_are_the_whole() {
    let store = store().await;
    run(&store, "t:lib", spec("lib", vec![]), b"lib", 0).await;
    // More edges between few nodes than a page holds.
    for n in 0..3 {
        let inputs = (0..50).map(|i: u32| (Bytes::from(i.to_string()), input(Some("t:lib"), None, None)));
        let consumer = Spec { inputs: inputs.collect(), ..spec("consumer", vec![]) };
        run(&store, &format!("t:{n}"), consumer, &[n], 0).await;
    }
    assert_pages(&store, "t:lib", Asked { down: true, ..ALL }).await;
    assert_pages(&store, "t:2", ALL).await;
    // More edges than are looked at in one step.
    let tasks = (0..1_100).map(|n: u32| (Bytes::from(n.to_string()), input(Some("t:wide"), None, None)));
    run(&store, "t:wide", spec("wide", vec![]), b"wide", 0).await;
    run(&store, "t:reader", Spec { inputs: tasks.collect(), ..spec("reader", vec![]) }, b"reader", 0).await;
    let down = Asked { down: true, limit: 100, ..ALL };
    assert_eq!(graph(&store, "t:wide", down).await.edges.len(), 1_100);
    let page = graph(&store, "t:wide", Asked { skip: 1_000, ..down }).await;
    assert_eq!((page.edges.len(), page.nodes.len()), (101, 2));
}

/// What a walk holds for each node: its hash and two numbers, and, until it is gone on from, a step.
#[test]
fn what_is_held_of_a_node_is_small() {
    assert!(size_of::<Step>() <= 32, "{}", size_of::<Step>());
    assert!(size_of::<Node>() <= 160, "{}", size_of::<Node>());
    let mut seen = Seen::new();
    let key = |end: &str| Id::Key(format!("t:{}{end}", "k".repeat(250)).parse().unwrap());
    let ids = [
        key("1"),
        key("2"),
        Id::Execution(ExecutionId([7; 16])),
        Id::File(Digest::of(b"x")),
        Id::Tree(Digest::of(b"x")),
        Id::Other("x".into()),
    ];
    for (number, id) in (0..).zip(&ids) {
        assert_eq!(seen.number(id), None);
        seen.insert(id, number);
    }
    assert!((0..).zip(&ids).all(|(number, id)| seen.number(id) == Some(number)));
}

#[tokio::test]
async fn a_deep_chain_is_walked_whole() {
    const DEEP: usize = 50_000;
    let (store, space) = (store().await, Space::default());
    let key = |n: usize| format!("t:{n}").parse::<TaskKey>().unwrap();
    let tasks = (0..DEEP).map(|n| {
        let name = provender_core::Name::new(format!("n/{n}")).unwrap();
        let input = (n > 0).then(|| (Bytes::from_static(b"in"), input(Some(key(n - 1).as_str()), None, None)));
        (key(n), Spec { inputs: input.into_iter().collect(), ..Spec::new(name) })
    });
    store.register(&space, &tasks.collect::<Vec<_>>()).await.unwrap();
    let found = graph(&store, &format!("t:{}", DEEP - 1), Asked { limit: 1_000_000, ..ALL }).await;
    assert_eq!((found.nodes.len(), found.edges.len(), found.has_cycle()), (DEEP, DEEP - 1, false));
    let layout = text::Layout { down: false, all: false, size: |bytes| bytes.to_string() };
    assert_eq!(text::lines(&found, layout).count(), DEEP);
}
