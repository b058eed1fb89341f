//! What the view asks of a source, and who waits for it.

use std::sync::mpsc;

use bytes::Bytes;
use provender_core::view::consumer;

use super::watched::Watched;
use super::*;
use crate::memory::Wanted;

#[test]
fn a_listing_costs_what_it_is_long() {
    let inner = Arc::new(MemorySource::new());
    let outputs = wide(&inner, 10_000);
    for number in 0..3_000 {
        commit(&inner, &name(&format!("n/{number}")), "1", at(0), outputs, [None, None]);
        commit(&inner, &name("n"), &format!("{number:08x}"), at(0), outputs, [None, None]);
    }
    let watched = Arc::new(Watched::new(inner));
    let view = View::new(watched.clone(), Settings::default());
    let asked = || watched.asked();

    let names = find(&view, "tasks/n").expect("there").number;
    asked();
    // `.`, `..` and `latest`; the folders; the names below.
    assert_eq!(list(&view, names, 50).len(), 3 + 3_000 + 3_000);
    let calls = asked();
    assert!(calls <= 2 * (3_000 / node::PAGE + 2), "{calls} calls");

    let folder = watched.latest(&name("n")).expect("known").expect("there").folder;
    let out = find(&view, &format!("tasks/n/{folder}/out")).expect("there").number;
    asked();
    assert_eq!(list(&view, out, 50).len(), 2 + 10_000);
    assert_eq!(asked(), 1);
}

/// Forty directories, each holding the next one twice, make 2^40 paths.
#[test]
fn a_tree_of_endless_paths_costs_the_path_that_is_gone() {
    let inner = Arc::new(MemorySource::new());
    let mut digest = wide(&inner, 1);
    for _ in 0..40 {
        let mut tree = Tree::new();
        tree.insert("a", tree::Node::Directory { digest }).expect("valid");
        tree.insert("b", tree::Node::Directory { digest }).expect("valid");
        digest = inner.put_tree(&tree).expect("small");
    }
    let folder = commit(&inner, &name("t"), "1", at(0), digest, [None, None]).folder;
    let watched = Arc::new(Watched::new(inner));
    let view = View::new(watched.clone(), Settings::default());
    let mut held = vec![find(&view, &format!("tasks/t/{folder}/out")).expect("there").number];
    watched.asked();
    for level in 0..40u32 {
        let turn = if level.is_power_of_two() { "b" } else { "a" };
        let parent = held[held.len() - 1];
        held.push(view.lookup(parent, turn.as_bytes()).expect("there").attributes.number);
    }
    assert!(view.lookup(held[held.len() - 1], b"00000").is_ok());
    assert_eq!(watched.asked(), 41);
    assert_eq!(view.inodes.len(), 3 + 1 + 40 + 1);
    for number in held {
        view.forget(number, 1);
    }
    assert_eq!(view.inodes.len(), 3 + 1);
}

#[test]
fn a_slow_source_stops_only_who_waits_for_it() {
    let inner = Arc::new(MemorySource::new());
    let outputs = wide(&inner, 1);
    let folder = commit(&inner, &name("a"), "1", at(0), outputs, [None, None]).folder;
    let (open_gate, gate) = mpsc::channel();
    let (entered, waits) = mpsc::channel();
    let source = Watched { gate: Some((entered, Mutex::new(gate))), ..Watched::new(inner) };
    let view = Arc::new(View::new(Arc::new(source), Settings::default()));
    let out = find(&view, &format!("tasks/a/{folder}/out")).expect("there").number;

    let slow = std::thread::spawn({
        let view = view.clone();
        move || view.lookup(out, b"00000").map(|found| found.attributes.size)
    });
    let bound = Duration::from_secs(20);
    waits.recv_timeout(bound).expect("the lookup asks the source");
    let (done, finished) = mpsc::channel();
    std::thread::spawn({
        let view = view.clone();
        move || {
            find(&view, "tasks/a/latest").expect("there");
            let handle = view.open_directory(ROOT).expect("a directory");
            view.list(handle, 0, |_, _| true).expect("listed");
            view.release(handle);
            view.forget(out, 0);
            done.send(()).expect("the test listens");
        }
    });
    finished.recv_timeout(bound).expect("others are served meanwhile");
    open_gate.send(()).expect("the source waits");
    assert_eq!(slow.join().expect("no panic").expect("there"), 1);
}

/// A success, and so many that read what it made, under these names.
fn consumed(source: &MemorySource, names: impl Iterator<Item = String>) -> (Entry, Vec<Entry>) {
    let empty = source.put_tree(&Tree::new()).expect("small");
    let made = commit(source, &name("made"), "1", at(0), empty, [None, None]);
    let consume = |(number, text): (usize, String)| {
        let key = TaskKey::new("run", &format!("{number:08x}")).expect("valid");
        let wanted = Wanted { key: Some(made.key.clone()), content: None };
        let inputs = (0..9).map(|input| (Bytes::from(format!("input {input}")), wanted.clone())).collect();
        source.commit(Attempt { inputs, ..Attempt::new(name(&text), key, at(1)) })
    };
    let consumers = names.enumerate().map(consume).collect();
    (made, consumers)
}

#[test]
fn an_edge_is_found_by_one_question() {
    let inner = Arc::new(MemorySource::new());
    let (made, consumers) = consumed(&inner, (0..50).map(|number| format!("n/{number}")));
    let watched = Arc::new(Watched::new(inner));
    let inputs_valid = std::time::Duration::from_secs(3600);
    let view = View::new(watched.clone(), Settings { inputs_valid, ..Settings::default() });
    let used_by = find(&view, &format!("tasks/made/{}/used-by", made.folder)).expect("there").number;
    let inputs = find(&view, &format!("tasks/n/7/{}/inputs", consumers[7].folder)).expect("there").number;
    watched.asked();
    for consumer_of in &consumers {
        let component = consumer(&consumer_of.name, &consumer_of.folder);
        let link = view.lookup(used_by, component.as_bytes()).expect("there").attributes.number;
        assert_eq!(watched.asked(), 1);
        let target = format!("../../../n/{}/{}", &consumer_of.name.as_str()[2..], consumer_of.folder);
        assert_eq!(view.read_link(link).expect("a link"), target);
    }
    // The inputs of one execution are asked for together, and once.
    for number in 0..10 {
        assert_eq!(view.lookup(inputs, format!("input {number}").as_bytes()).is_ok(), number < 9);
    }
    assert_eq!(list(&view, inputs, 100).len(), 2 + 9);
    assert_eq!(watched.asked(), 1);
}

#[test]
fn a_shortened_consumer_is_found_among_many() {
    let source = Arc::new(MemorySource::new());
    let count = 2 * node::PAGE + 5;
    let long = |number: usize| format!("{}/{number:05}", "é".repeat(120));
    let (made, consumers) = consumed(&source, (0..count).map(long));
    let view = view(&source);
    let used_by = find(&view, &format!("tasks/made/{}/used-by", made.folder)).expect("there").number;
    // In whatever order the source has them, some are on each page.
    for number in (0..count).step_by(97) {
        let component = consumer(&consumers[number].name, &consumers[number].folder);
        assert!(component.contains("%~"));
        assert!(view.lookup(used_by, component.as_bytes()).is_ok(), "{component}");
    }
    let other = consumer(&name(&long(count)), &consumers[0].folder);
    assert!(matches!(view.lookup(used_by, other.as_bytes()), Err(ViewError::NotFound)));
    assert_eq!(list(&view, used_by, 100).len(), 2 + count);
}

/// Deeper than anything that is stored: a remote store may say so, and what is not walked costs nothing.
#[test]
fn ten_thousand_levels_cost_what_is_walked() {
    let inner = Arc::new(MemorySource::new());
    let mut digest = wide(&inner, 1);
    for _ in 0..10_000 {
        let mut tree = Tree::new();
        tree.insert("d", tree::Node::Directory { digest }).expect("valid");
        digest = inner.put_tree(&tree).expect("small");
    }
    let folder = commit(&inner, &name("t"), "1", at(0), digest, [None, None]).folder;
    let watched = Arc::new(Watched::new(inner));
    let view = View::new(watched.clone(), Settings { cache_bytes: 100_000, ..Settings::default() });
    let mut number = find(&view, &format!("tasks/t/{folder}/out")).expect("there").number;
    watched.asked();
    for level in 0..10_000 {
        let below = view.lookup(number, b"d").expect("there").attributes.number;
        view.forget(number, 1);
        number = below;
        assert_eq!(watched.asked(), 1, "at level {level}");
    }
    assert_eq!(list(&view, number, 10).len(), 3);
    assert_eq!(view.inodes.len(), 3 + 1);
}
