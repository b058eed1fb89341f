use bytes::Bytes;
use provender_core::compare::{self, Comparison, text};
use provender_core::name::Name;
use provender_core::spec::Input;
use provender_core::tree::Tree;
use provender_core::{Digest, Ref};

use super::*;
use crate::store::provenance::tests::{input, run, spec};
use crate::store::tests::{counted, store, stores};

fn space() -> Space {
    Space::default()
}

async fn diff(store: &Store, old: &str, new: &str) -> Comparison {
    let reference = |text: &str| text.parse::<Ref>().unwrap();
    store.diff(&space(), &reference(old), &reference(new), 100).await.unwrap()
}

/// The causes as people read them, each with how far up it is.
fn said(causes: &[Cause]) -> Vec<String> {
    causes.iter().map(|one| format!("{} {}", one.distance, text::cause(one, |bytes| format!("{bytes} B")))).collect()
}

async fn causes(store: &Store, old: &str, new: &str) -> Vec<String> {
    said(&diff(store, old, new).await.causes)
}

fn with(name: &str, version: &str, inputs: Vec<(&'static str, Input)>) -> Spec {
    Spec { code_version: Some(version.into()), ..spec(name, inputs) }
}

fn key(text: &str) -> TaskKey {
    text.parse().unwrap()
}

/// A line of tasks `0` to `deep - 1`, each from the one before, with keys of their own; the first is of this version. All read `shared`.
fn line(of: &str, version: &str, deep: usize) -> Vec<(TaskKey, Spec)> {
    let at = |n: usize| key(&format!("t:{of}{n}"));
    let task = |n: usize| {
        let mut task = Spec::new(Name::new(format!("line/{n}")).unwrap());
        task.code_version = Some(if n == 0 { version } else { "same" }.into());
        task.inputs =
            (0..5).map(|n| (Bytes::from(format!("shared{n}")), input(Some("t:shared"), None, None))).collect();
        if n > 0 {
            task.inputs.insert("before".into(), input(Some(at(n - 1).as_str()), None, None));
        }
        (at(n), task)
    };
    (0..deep).map(task).collect()
}

async fn register(store: &Store, tasks: &[(TaskKey, Spec)]) {
    for piece in tasks.chunks(1_000) {
        store.register(&space(), piece).await.unwrap();
    }
}

#[tokio::test]
async fn reads_follow_the_answer_and_not_the_store() {
    let (store, meta) = counted().await;
    for version in ["1", "2"] {
        let (top, left, right) = (format!("t:top{version}"), format!("t:left{version}"), format!("t:right{version}"));
        let shared = || ("shared", input(Some("t:shared"), None, Some(b"shared")));
        let from = |key: &str, content: &'static [u8]| input(Some(key), None, Some(content));
        run(&store, &top, with("top", version, vec![shared()]), version.as_bytes(), 0).await;
        run(&store, &left, spec("left", vec![shared(), ("in", from(&top, b"same"))]), b"left", 0).await;
        run(&store, &right, spec("right", vec![("in", from(&top, b"same")), shared()]), b"right", 0).await;
        let both = vec![("l", from(&left, b"l")), ("r", from(&right, b"r")), shared()];
        run(&store, &format!("t:end{version}"), spec("end", both), b"end", 0).await;
    }
    let expected = ["2 top.code_version: 1 -> 2"];
    meta.reset();
    let before = meta.rows();
    assert_eq!(causes(&store, "t:end1", "t:end2").await, expected);
    let (reads, rows) = (meta.reads(), meta.rows() - before);
    assert!(reads < 40, "{reads}");
    // A crowd around it: what shares its inputs, its names, its bytes, and what was made from it.
    for n in 0..200 {
        let inputs =
            vec![("in", input(Some("t:top1"), None, Some(b"same"))), ("s", input(Some("t:shared"), None, None))];
        run(&store, &format!("u:{n}"), with("right", "9", inputs), b"right", 0).await;
    }
    register(&store, &line("u", "1", 5_000)).await;
    meta.reset();
    let before = meta.rows();
    assert_eq!(causes(&store, "t:end1", "t:end2").await, expected);
    assert_eq!((meta.reads(), meta.rows() - before), (reads, rows));
}

#[tokio::test]
async fn a_long_way_up_costs_a_few_reads_a_step() {
    const DEEP: usize = 3_000;
    let (store, meta) = counted().await;
    register(&store, &line("a", "1", DEEP)).await;
    register(&store, &line("b", "2", DEEP)).await;
    let (old, new) = (format!("t:a{}", DEEP - 1), format!("t:b{}", DEEP - 1));
    meta.reset();
    let expected = [format!("{} line/0.code_version: 1 -> 2", DEEP - 1)];
    assert_eq!(causes(&store, &old, &new).await, expected);
    assert!(meta.reads() < 8 * DEEP, "{} reads for {DEEP} steps", meta.reads());
}

#[tokio::test]
async fn many_that_share_a_root_are_compared_once() {
    const TASKS: usize = 1_000;
    let (store, meta) = counted().await;
    register(&store, &line("a", "1", TASKS)).await;
    // The store knows nothing of those that are about to run.
    let new = line("b", "2", TASKS);
    let new: Vec<_> = new.into_iter().map(|(key, spec)| (key, Arc::new(spec))).collect();
    let mut comparing = Comparing::new(&store, &space(), 10);
    comparing.overlay(new.iter().cloned());
    meta.reset();
    for (n, ((key, spec), (old_key, old))) in new.iter().zip(line("a", "1", TASKS)).enumerate() {
        let old = Side { key: old_key, spec: Arc::new(old), execution: None };
        let new = Side { key: key.clone(), spec: spec.clone(), execution: None };
        let (causes, more) = comparing.causes(old, new).await.unwrap();
        assert_eq!((said(&causes), more), (vec![format!("{n} line/0.code_version: 1 -> 2")], false));
    }
    assert_eq!(comparing.pairs.len(), TASKS);
    assert!(meta.reads() < 8 * TASKS, "{}", meta.reads());
}

#[tokio::test]
async fn cycles_end() {
    let store = store().await;
    for (one, other, version) in [("t:a1", "t:b1", "1"), ("t:a2", "t:b2", "2")] {
        let tasks = [
            (key(one), spec("a", vec![("b", input(Some(other), None, None)), ("own", input(Some(one), None, None))])),
            (key(other), with("b", version, vec![("a", input(Some(one), None, None))])),
        ];
        register(&store, &tasks).await;
    }
    assert_eq!(causes(&store, "t:a1", "t:a2").await, ["1 b.code_version: 1 -> 2"]);
    // Nothing differs but what the keys are called.
    for (one, other) in [("t:c1", "t:d1"), ("t:c2", "t:d2")] {
        register(
            &store,
            &[
                (key(one), with("c", "1", vec![("in", input(Some(other), None, None))])),
                (key(other), with("d", "1", vec![("in", input(Some(one), None, None))])),
            ],
        )
        .await;
    }
    let comparison = diff(&store, "t:c1", "t:c2").await;
    assert_eq!((said(&comparison.causes), comparison.truncated_causes), (vec![], false));
}

#[tokio::test]
async fn each_kind_of_input_is_told_by_itself() {
    for (store, _folder) in stores().await {
        let content = |bytes: &'static [u8]| input(None, None, Some(bytes));
        run(&store, "t:up1", with("up", "1", vec![]), b"one", 0).await;
        run(&store, "t:up2", with("up", "2", vec![]), b"two", 0).await;
        run(&store, "t:other", Spec { command: vec!["x".into()], ..spec("other", vec![]) }, b"three", 0).await;
        run(&store, "t:blank1", Spec { outputs: vec![], ..spec("blank", vec![]) }, b"four", 0).await;
        run(&store, "t:blank2", Spec { outputs: vec![], ..spec("blank", vec![]) }, b"five", 0).await;
        let hex = |bytes: &[u8]| Digest::of(bytes).hex();
        let compare = async |of: &str, old: Vec<(&'static str, Input)>, new: Vec<(&'static str, Input)>| {
            let (one, two) = (format!("{of}:1"), format!("{of}:2"));
            let unrun = async |key: &str, inputs| run(&store, key, spec("end", inputs), key.as_bytes(), 0).await;
            unrun(&one, old).await;
            unrun(&two, new).await;
            causes(&store, &one, &two).await
        };
        // By the key that is named, by the bytes alone, and by neither.
        let found =
            compare("a", vec![("i", input(Some("t:up1"), None, None))], vec![("i", input(Some("t:up2"), None, None))]);
        assert_eq!(found.await, ["1 up.code_version: 1 -> 2"]);
        let found = compare("run", vec![("i", content(b"one"))], vec![("i", content(b"two"))]);
        assert_eq!(found.await, ["1 up.code_version: 1 -> 2"]);
        let found = compare("b", vec![("i", content(b"x"))], vec![("i", content(b"yy"))]);
        assert_eq!(found.await, ["0 end/inputs/i: 1 B -> 2 B"]);
        // From elsewhere: another task, by chance from one, or only on one side.
        let found = compare("c", vec![("i", content(b"one"))], vec![("i", content(b"three"))]);
        let different = compare::is_same_task(
            (&key("t:up1"), &with("up", "1", vec![])),
            (&key("t:other"), &Spec { command: vec!["x".into()], ..spec("other", vec![]) }),
        );
        assert!(!different);
        assert_eq!(found.await, ["0 end/inputs/i: up -> other"]);
        let found = compare("d", vec![("i", content(b"one"))], vec![("i", content(b"zzz"))]);
        assert_eq!(found.await, ["0 end/inputs/i: 3 B, other bytes"]);
        let found = compare("e", vec![("i", content(b"one"))], vec![("j", content(b"q"))]);
        assert_eq!(
            found.await,
            ["0 end/inputs/i: up -> (none)".to_owned(), format!("0 end/inputs/j: (none) -> blob:{}", hex(b"q"))]
        );
        let found =
            compare("f", vec![("i", input(Some("x:1"), None, None))], vec![("i", input(Some("x:2"), None, None))]);
        assert_eq!(found.await, ["0 end/inputs/i: x:1 -> x:2"]);
        // Nothing is known of how these were made, but what they are.
        let blank = |key, bytes| vec![("i", input(Some(key), None, Some(bytes)))];
        let found = compare("g", blank("t:blank1", b"four"), blank("t:blank2", b"five"));
        assert_eq!(found.await, ["0 end/inputs/i: 4 B, other bytes"]);
        // `run` made its key of contents: of the same ones nobody asks who made them. Other keys are made of keys.
        let (one, two) = (input(Some("t:up1"), None, Some(b"k")), input(Some("t:up2"), None, Some(b"k")));
        assert_eq!(
            compare("i", vec![("i", one.clone())], vec![("i", two.clone())]).await,
            ["1 up.code_version: 1 -> 2"]
        );
        let store_run = async |key: &str, version: &str, input: &Input| {
            run(&store, key, with("end", version, vec![("i", input.clone())]), key.as_bytes(), 0).await
        };
        store_run("run:3", "1", &one).await;
        store_run("run:4", "2", &two).await;
        assert_eq!(causes(&store, "run:3", "run:4").await, ["0 end.code_version: 1 -> 2"]);
    }
}

#[tokio::test]
async fn what_is_unstable_is_found_however_far_up() {
    let store = store().await;
    let first = run(&store, "t:up", with("up", "1", vec![]), b"one", 0).await;
    let second = run(&store, "u:up", with("up", "1", vec![]), b"two", 0).await;
    for (n, from, bytes) in [(1, first.id, &b"one"[..]), (2, second.id, b"two")] {
        let from = vec![("in", input(None, Some(from), Some(bytes)))];
        run(&store, &format!("run:{n}"), spec("end", from), bytes, 0).await;
    }
    let found = causes(&store, "run:1", "run:2").await;
    let both = format!("(exec:{}, exec:{})", first.id, second.id);
    assert_eq!(found, [format!("1 up: did the same with the same, and made something else {both}")]);
}

#[tokio::test]
async fn no_more_is_told_than_was_asked_for() {
    let store = store().await;
    for version in ["1", "2"] {
        let mut tasks: Vec<_> =
            (0..50).map(|n| (key(&format!("t:{n}-{version}")), with(&format!("up/{n}"), version, vec![]))).collect();
        let inputs =
            (0..50).map(|n| (Bytes::from(format!("{n:02}")), input(Some(&format!("t:{n}-{version}")), None, None)));
        let inputs = inputs.collect();
        tasks.push((key(&format!("t:end{version}")), Spec { inputs, ..with("end", version, vec![]) }));
        register(&store, &tasks).await;
    }
    let ends: [Ref; 2] = ["t:end1".parse().unwrap(), "t:end2".parse().unwrap()];
    for (limit, told, more) in [(1, 1, true), (50, 50, true), (51, 51, false), (100, 51, false)] {
        let found = store.diff(&space(), &ends[0], &ends[1], limit).await.unwrap();
        assert_eq!((found.causes.len(), found.truncated_causes), (told, more), "{limit}");
        assert_eq!(said(&found.causes)[0], "0 end.code_version: 1 -> 2");
    }
}

#[tokio::test]
async fn folders_are_opened_as_far_as_they_are_held() {
    let store = store().await;
    let tree = async |held: bool, files: &[(&'static str, &'static [u8])]| {
        let mut tree = Tree::new();
        for (name, bytes) in files {
            tree.insert(*name, Node::File { digest: Digest::of(bytes), executable: false }).unwrap();
        }
        let bytes = tree.encode().unwrap();
        if held {
            store.put_small(&space(), vec![bytes.clone()]).await.unwrap();
        }
        Node::Directory { digest: Digest::of(&bytes) }
    };
    let one = tree(true, &[("a", b"1"), ("b", b"same")]).await;
    let two = tree(true, &[("a", b"22"), ("b", b"same")]).await;
    let unheld = tree(false, &[("c", b"3")]).await;
    let folder = |node: &Node| Input { content: Some(node.clone()), ..input(None, None, None) };
    for (n, node) in [one, two, unheld].iter().enumerate() {
        register(&store, &[(key(&format!("t:{n}")), spec("end", vec![("dir", folder(node))]))]).await;
    }
    assert_eq!(causes(&store, "t:0", "t:1").await, ["0 end/inputs/dir/a: 1 B -> 2 B"]);
    let unread = "0 end/inputs/dir: the folders differ (what is in them is not in the store)";
    assert_eq!(causes(&store, "t:0", "t:2").await, [unread]);
}
