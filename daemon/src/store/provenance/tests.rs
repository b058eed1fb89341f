use provender_core::execution::{Executor, Outcome};
use provender_core::spec::Mount;
use provender_core::transition::Request;
use provender_core::tree::{Node, Tree};

use super::*;
use crate::clock;
use crate::store::tests::{begin, counted, outcome, store, stores};

/// An input: the key and execution that made it, and its bytes as a file.
pub(in crate::store) fn input(key: Option<&str>, execution: Option<ExecutionId>, content: Option<&[u8]>) -> Input {
    let content = content.map(|bytes| Node::File { digest: Digest::of(bytes), executable: false });
    Input { mount: Mount::InPlace, content, key: key.map(|key| key.parse().unwrap()), execution }
}

pub(in crate::store) fn spec(name: &str, inputs: Vec<(&'static str, Input)>) -> Spec {
    let inputs = inputs.into_iter().map(|(name, input)| (Bytes::from_static(name.as_bytes()), input));
    Spec { inputs: inputs.collect(), outputs: vec!["file".into()], ..Spec::new(Name::new(name).unwrap()) }
}

/// An execution of `key` that makes a folder whose `file` has these bytes; `code` is how its command exits.
pub(in crate::store) async fn run(store: &Store, key: &str, spec: Spec, makes: &[u8], code: i32) -> Execution {
    let id = ExecutionId(clock::random());
    let request = Request {
        id,
        key: key.parse().unwrap(),
        spec,
        executor: Executor::default(),
        ttl: std::time::Duration::ZERO,
        check: false,
        remarks: Default::default(),
    };
    begin(store, &request).await;
    let space = Space::default();
    let digest = store.put_small(&space, vec![Bytes::copy_from_slice(makes)]).await.unwrap()[0];
    let mut tree = Tree::new();
    tree.insert("file", Node::File { digest, executable: false }).unwrap();
    let root = store.put_small(&space, vec![tree.encode().unwrap()]).await.unwrap()[0];
    let (ended, _) = store.commit(&space, id, &Outcome { outputs: Some(root), ..outcome(code) }).await.unwrap();
    // What comes next is later.
    let now = clock::now();
    while clock::now() == now {
        tokio::task::yield_now().await;
    }
    ended
}

fn names(places: &[Place]) -> Vec<&str> {
    places.iter().map(|place| place.name.as_str()).collect()
}

async fn all_consumers(store: &Store, id: ExecutionId, limit: usize) -> Vec<Place> {
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let (page, next) = store.consumers(&Space::default(), id, cursor, limit).await.unwrap();
        assert!(page.len() <= limit);
        found.extend(page);
        match next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn each_input_is_traced_to_where_it_came_from() {
    for (store, _folder) in stores().await {
        let space = Space::default();
        let made = run(&store, "t:made", spec("made", vec![]), b"made", 0).await;
        let failed = run(&store, "t:failed", spec("failed", vec![]), b"failed", 1).await;
        store.put_small(&space, vec![Bytes::from_static(b"held")]).await.unwrap();
        let inputs = vec![
            ("a execution", input(None, Some(made.id), None)),
            ("b failed", input(Some("t:made"), Some(failed.id), None)),
            ("c key", input(Some("t:made"), None, Some(b"held"))),
            ("d bytes", input(Some("t:unseen"), None, Some(b"made"))),
            ("e held", input(Some("t:failed"), None, Some(b"held"))),
            ("f unheld", input(None, None, Some(b"unheld"))),
            ("g unseen", input(Some("t:unseen"), Some(ExecutionId([9; 16])), None)),
            ("h failed's", input(None, None, Some(b"failed"))),
            ("i own", input(None, None, Some(b"own"))),
            ("j empty", input(None, None, Some(b""))),
        ];
        run(&store, "t:empty", spec("empty", vec![]), b"", 0).await;
        let consumer = run(&store, "t:consumer", spec("consumer", inputs), b"own", 0).await;
        let inputs = store.inputs(&space, consumer.id).await.unwrap();
        let origins: Vec<_> = inputs
            .iter()
            .map(|(name, origin, _)| {
                let origin = match origin {
                    Origin::Made(place) => place.name.as_str(),
                    Origin::Held(_) => "held",
                    Origin::Unheld => "unheld",
                };
                format!("{}: {origin}", String::from_utf8_lossy(&name[2..]))
            })
            .collect();
        let expected = [
            "execution: made",
            "failed: made",
            "key: made",
            "bytes: made",
            "held: held",
            "unheld: unheld",
            "unseen: unheld",
            "failed's: held",
            "own: held",
            "empty: held",
        ];
        assert_eq!(origins, expected);
        let place = Place::of(&made).unwrap();
        assert_eq!(inputs[0].1, Origin::Made(place));
    }
}

#[tokio::test]
async fn bytes_come_from_the_newest_that_made_them_before() {
    let store = store().await;
    let mut consumers = Vec::new();
    for maker in ["first", "second", "third"] {
        run(&store, &format!("t:{maker}"), spec(maker, vec![]), b"same", 0).await;
        let key = format!("t:after-{maker}");
        consumers.push(run(&store, &key, spec("c", vec![("in", input(None, None, Some(b"same")))]), b"x", 0).await);
    }
    for (consumer, maker) in consumers.iter().zip(["first", "second", "third"]) {
        let inputs = store.inputs(&Space::default(), consumer.id).await.unwrap();
        let [(_, Origin::Made(place), _)] = &inputs[..] else { panic!("{inputs:?}") };
        assert_eq!(place.name.as_str(), maker);
    }
}

#[tokio::test]
async fn consumers_are_found_by_key_and_by_bytes_each_once() {
    for (store, _folder) in stores().await {
        let space = Space::default();
        let made = run(&store, "t:made", spec("made", vec![]), b"made", 0).await;
        let other = run(&store, "t:other", spec("other", vec![]), b"other", 0).await;
        let root = made.outcome.outputs.unwrap();
        let tree =
            Input { content: Some(Node::Directory { digest: root }), ..input(Some("t:made"), Some(made.id), None) };
        for (name, inputs, code) in [
            ("a key", vec![("in", input(Some("t:made"), None, None))], 0),
            ("b file", vec![("in", input(None, None, Some(b"made")))], 0),
            ("c tree", vec![("in", tree.clone())], 0),
            ("d all", vec![("1", tree.clone()), ("2", tree), ("3", input(None, None, Some(b"made")))], 0),
            ("e another", vec![("in", input(Some("t:made"), Some(other.id), None))], 0),
            ("f another's", vec![("in", input(Some("t:made"), Some(other.id), Some(b"made")))], 0),
            ("g failed", vec![("in", input(Some("t:made"), None, None))], 1),
            ("h none", vec![("in", input(None, None, Some(b"x")))], 0),
        ] {
            run(&store, &format!("t:{name}"), spec(name, inputs), name.as_bytes(), code).await;
        }
        let expected = ["a key", "b file", "c tree", "d all"];
        for limit in [1, 2, 1_000] {
            assert_eq!(names(&all_consumers(&store, made.id, limit).await), expected, "{limit}");
        }
        assert_eq!(names(&all_consumers(&store, other.id, 10).await), [""; 0]);
        let (tasks, _) = store.children(&space, Branch::Tasks, None, None, 100).await.unwrap();
        for task in tasks {
            let name = Name::new(task).unwrap();
            for folder in store.folders(&space, Branch::Tasks, &name, None, 10).await.unwrap().0 {
                let is = store.is_consumer(&space, made.id, &name, &folder).await.unwrap();
                assert_eq!(is.is_some(), expected.contains(&name.as_str()), "{name}");
            }
        }
        let none = store.is_consumer(&space, made.id, &Name::new("a key").unwrap(), "x").await.unwrap();
        assert!(none.is_none());
        let odd = store.consumers(&space, made.id, Some("odd".into()), 10).await;
        assert!(matches!(odd, Err(StoreError::Invalid(_))), "{odd:?}");
    }
}

#[tokio::test]
async fn ten_thousand_inputs_cost_few_reads() {
    let ((store, meta), space) = (counted().await, Space::default());
    for n in 0..20 {
        let bytes = format!("made {}", n % 10);
        run(&store, &format!("t:{n}"), spec("made", vec![]), bytes.as_bytes(), 0).await;
    }
    let mut wide = spec("wide", vec![]);
    for n in 0..10_000 {
        let content = if n < 1_000 { format!("made {}", n % 10) } else { format!("source {n}") };
        let key = format!("t:{}", n % 40);
        let key = if n % 3 == 0 { Some(&key[..]) } else { None };
        wide.inputs.insert(format!("{n:05}").into(), input(key, None, Some(content.as_bytes())));
    }
    let wide = run(&store, "t:wide", wide, b"x", 0).await;
    meta.reset();
    let inputs = store.inputs(&space, wide.id).await.unwrap();
    let asked = meta.reads();
    assert_eq!(inputs.len(), 10_000);
    assert!(inputs.is_sorted_by_key(|(name, ..)| name.clone()));
    assert!(inputs.iter().take(1_000).all(|(_, origin, _)| matches!(origin, Origin::Made(_))));
    assert!(asked < 150, "{asked} reads");
}
