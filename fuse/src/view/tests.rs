//! What holds for each kind of place. `machine` tries everything at once against `model`, `costs` counts what a source is asked,
//! `hostile` lets it lie, `races` has many ask at once, `pushed` tells the kernel of changes meanwhile.

mod costs;
mod hostile;
mod machine;
mod model;
mod pushed;
mod races;
mod steps;
mod watched;

use proptest::prelude::*;
use provender_core::view::encode;
use provender_core::{Digest, Name, TaskKey, Tree};

use super::*;
use crate::memory::{Attempt, MemorySource, Wanted};
use crate::source::Entry;

fn name(text: &str) -> Name {
    Name::new(text).expect("valid")
}

fn at(second: u64) -> Timestamp {
    Timestamp::from_millis(1_795_284_131_000 + 1000 * second)
}

/// Records a success that read nothing.
fn commit(
    source: &MemorySource,
    name: &Name,
    id: &str,
    at: Timestamp,
    outputs: Digest,
    logs: [Option<Digest>; 2],
) -> Entry {
    let key = TaskKey::new("run", id).expect("valid");
    let [stdout, stderr] = logs;
    source.commit(Attempt { outputs: Some(outputs), stdout, stderr, ..Attempt::new(name.clone(), key, at) })
}

fn view(source: &Arc<MemorySource>) -> View {
    View::new(source.clone(), Settings { inputs_valid: std::time::Duration::ZERO, ..Settings::default() })
}

/// Reads a whole directory, `room` items at a time.
fn list(view: &View, number: u64, room: usize) -> Vec<(Item, u64)> {
    let handle = view.open_directory(number).expect("a directory");
    let mut items: Vec<(Item, u64)> = Vec::new();
    loop {
        let (cookie, before) = (items.last().map_or(0, |(_, next)| *next), items.len());
        let take = |item: &Item, next| {
            let fits = items.len() - before < room;
            if fits {
                items.push((item.clone(), next));
            }
            fits
        };
        view.list(handle, cookie, take).expect("listed");
        if items.len() == before {
            break;
        }
    }
    view.release(handle);
    items
}

proptest! {
    #[test]
    fn no_component_panics_or_leads_out(component: Vec<u8>) {
        let source = Arc::new(MemorySource::new());
        let empty = source.put_tree(&Tree::new()).expect("small");
        commit(&source, &name("a"), "1", at(0), empty, [None, None]);
        let view = view(&source);
        let tasks = view.lookup(ROOT, b"tasks").expect("there").attributes.number;
        let task = view.lookup(tasks, b"a").expect("there").attributes.number;
        for parent in [ROOT, tasks, task] {
            if component != b"a" && component != b"tasks" {
                prop_assert!(view.lookup(parent, &component).is_err());
            }
        }
    }
}

/// Follows a path, holding every number on it.
fn find(view: &View, path: &str) -> Result<Attributes, ViewError> {
    let root = view.attributes(ROOT)?.attributes;
    path.split('/').try_fold(root, |parent, part| Ok(view.lookup(parent.number, part.as_bytes())?.attributes))
}

/// A directory of `count` files named by number.
fn wide(source: &MemorySource, count: usize) -> Digest {
    let digest = source.put("x");
    let mut tree = Tree::new();
    for number in 0..count {
        let node = tree::Node::File { digest, executable: false };
        tree.insert(format!("{number:05}").into_bytes(), node).expect("valid");
    }
    source.put_tree(&tree).expect("small")
}

#[test]
fn long_parts_that_begin_alike_are_told_apart() {
    let source = Arc::new(MemorySource::new());
    let empty = source.put_tree(&Tree::new()).expect("small");
    let long = |number: usize| format!("{}{number:05}", "é".repeat(130));
    let count = node::PAGE + 10;
    for number in 0..count {
        commit(&source, &name(&format!("n/{}", long(number))), &format!("{number:08x}"), at(0), empty, [None, None]);
    }
    let view = view(&source);
    for number in [0, 1, node::PAGE - 1, node::PAGE, count - 1] {
        let latest = find(&view, &format!("tasks/n/{}/latest", encode(&long(number)))).expect("there").number;
        let folder = provender_core::view::folder(at(0), &format!("{number:08x}"), 1);
        assert_eq!(view.read_link(latest).expect("a link"), folder);
    }
    assert!(matches!(find(&view, &format!("tasks/n/{}", encode(&long(count)))), Err(ViewError::NotFound)));
    assert!(matches!(find(&view, &format!("tasks/{}", encode(&long(0)))), Err(ViewError::NotFound)));
}

#[test]
fn a_listing_goes_on_from_any_cookie() {
    let source = Arc::new(MemorySource::new());
    let outputs = wide(&source, 3 * node::PAGE + 7);
    let folder = commit(&source, &name("a"), "1", at(0), outputs, [None, None]).folder;
    let view = view(&source);
    let out = find(&view, &format!("tasks/a/{folder}/out")).expect("there").number;
    let all = list(&view, out, 100);
    assert_eq!(all.len(), 3 * node::PAGE + 9);
    assert_eq!((all[0].0.number, &*all[0].0.name, &*all[1].0.name), (out, &b"."[..], &b".."[..]));
    assert_eq!(all[1].0.number, view.inodes.get(out).expect("held").parent);

    let handle = view.open_directory(out).expect("a directory");
    for place in [3000, 5, all.len() - 1, all.len(), 1, node::PAGE + 1, node::PAGE + 2, 3 * node::PAGE] {
        let cookie = all[place - 1].1;
        let mut rest = Vec::new();
        view.list(handle, cookie, |item, next| {
            rest.push((item.clone(), next));
            true
        })
        .expect("listed");
        assert_eq!(rest, all[place..], "from {cookie}");
    }
    let mut beyond = 0;
    view.list(handle, u64::MAX, |_, _| {
        beyond += 1;
        true
    })
    .expect("nothing there");
    assert_eq!(beyond, 0);
}

#[test]
fn a_directory_over_the_limit_is_an_error() {
    let source = Arc::new(MemorySource::new());
    let outputs = wide(&source, 1000);
    let folder = commit(&source, &name("a"), "1", at(0), outputs, [None, None]).folder;
    let settings = Settings { max_tree_bytes: outputs.size - 1, ..Settings::default() };
    let view = View::new(source, settings);
    let out = find(&view, &format!("tasks/a/{folder}/out")).expect("there").number;
    assert!(matches!(view.lookup(out, b"00000"), Err(ViewError::TooLarge { .. })));
    let handle = view.open_directory(out).expect("not read yet");
    assert!(matches!(view.list(handle, 0, |_, _| true), Err(ViewError::TooLarge { .. })));
}

#[test]
fn latest_moves_with_the_store_and_a_rewound_listing_too() {
    let source = Arc::new(MemorySource::new());
    let empty = source.put_tree(&Tree::new()).expect("small");
    let first = commit(&source, &name("a"), "1", at(0), empty, [None, None]).folder;
    let view = view(&source);
    let latest = find(&view, "tasks/a/latest").expect("there");
    let directory = find(&view, "tasks/a").expect("there").number;
    let handle = view.open_directory(directory).expect("a directory");
    let count = || {
        let mut count = 0;
        view.list(handle, 0, |_, _| {
            count += 1;
            true
        })
        .expect("listed");
        count
    };
    let leads = |number| view.read_link(number).expect("a link");
    assert_eq!((leads(latest.number), count()), (first.clone().into(), 4));
    let second = commit(&source, &name("a"), "1", at(5), empty, [None, None]).folder;
    // The kernel keeps what a link says, so one that says something else has another number.
    let moved = find(&view, "tasks/a/latest").expect("there");
    assert_ne!(latest.number, moved.number);
    assert_eq!((leads(latest.number), leads(moved.number)), (first.clone().into(), second.clone().into()));
    assert_eq!((moved.at, count()), (at(5), 5));
    assert_eq!(view.attributes(directory).expect("there").attributes.at, at(5));
    source.collect(&name("a"), &second);
    assert_eq!(find(&view, "tasks/a/latest").expect("there").number, latest.number);
    source.collect(&name("a"), &first);
    assert!(matches!(find(&view, "tasks/a/latest"), Err(ViewError::NotFound)));
    assert!(matches!(view.attributes(directory), Err(ViewError::NotFound)));
}

#[test]
fn a_listing_keeps_its_places_while_entries_come_and_go() {
    let source = Arc::new(MemorySource::new());
    let empty = source.put_tree(&Tree::new()).expect("small");
    let make = |number: u64, second: u64| {
        commit(&source, &name("a"), &format!("{number:08x}"), at(second), empty, [None, None]).folder.into_bytes()
    };
    let count = 5 * node::PAGE as u64;
    let mut there: Vec<Vec<u8>> = (0..count).map(|number| make(number, 10 * number)).collect();
    let view = view(&source);
    let directory = find(&view, "tasks/a").expect("there").number;
    let handle = view.open_directory(directory).expect("a directory");
    let from = |cookie: u64, room: usize| {
        let mut items = Vec::new();
        view.list(handle, cookie, |item, next| {
            let fits = items.len() < room;
            if fits {
                items.push((item.name.to_vec(), next));
            }
            fits
        })
        .expect("listed");
        items
    };
    let first = from(0, usize::MAX);
    assert_eq!(first.len(), 3 + count as usize);

    // Many come in between, more than a page of them at one place, and every third goes.
    for number in 0..3 * node::PAGE as u64 {
        make(count + number, 10 * 777 + 1 + number % 7);
    }
    for folder in there.iter().skip(3).step_by(3) {
        source.collect(&name("a"), std::str::from_utf8(folder).expect("text"));
    }
    let gone: std::collections::HashSet<Vec<u8>> = there.iter().skip(3).step_by(3).cloned().collect();
    there.retain(|folder| !gone.contains(folder));
    for back in [first.len() - 2, 4000, 2500, 1500, 780, 3, 1024, 5] {
        let is_there = |item: &(Vec<u8>, u64)| !gone.contains(&item.0);
        // Those of the pages that were still held may be listed though they are gone.
        let listed: Vec<_> = from(first[back].1, usize::MAX).into_iter().filter(is_there).collect();
        let expected: Vec<_> = first[back + 1..].iter().filter(|item| is_there(item)).cloned().collect();
        assert_eq!(listed, expected, "from {back}");
    }
    // Seen anew, it is as it is now.
    assert_eq!(from(0, usize::MAX).len(), 3 + there.len() + 3 * node::PAGE);
}

#[test]
fn what_is_collected_is_gone_but_for_who_has_it_open() {
    let source = Arc::new(MemorySource::new());
    let file = source.put("kept");
    let mut tree = Tree::new();
    tree.insert("f", tree::Node::File { digest: file, executable: false }).expect("valid");
    let outputs = source.put_tree(&tree).expect("small");
    let folder = commit(&source, &name("a"), "1", at(0), outputs, [None, None]).folder;
    let view = view(&source);
    let path = format!("tasks/a/{folder}/out/f");
    let number = find(&view, &path).expect("there").number;
    let handle = view.open(number).expect("a file");
    source.lose(&file);
    source.collect(&name("a"), &folder);
    assert!(matches!(find(&view, &path), Err(ViewError::NotFound)));
    assert!(matches!(view.open(number), Err(ViewError::Source(SourceError::Damaged { .. }))));
    assert_eq!(view.read(handle, 1, 2).expect("still open"), "ep");
    view.release(handle);
    assert!(matches!(view.read(handle, 0, 1), Err(ViewError::NoHandle)));
}

#[test]
fn each_type_is_used_as_what_it_is() {
    let source = Arc::new(MemorySource::new());
    let empty = source.put_tree(&Tree::new()).expect("small");
    let folder = commit(&source, &name("a"), "1", at(0), empty, [Some(empty), None]).folder;
    let view = view(&source);
    let number = |path: &str| find(&view, path).expect("there").number;
    let (file, link) = (number(&format!("tasks/a/{folder}/stdout")), number("tasks/a/latest"));
    assert!(matches!(view.open(ROOT), Err(ViewError::IsDirectory)));
    assert!(matches!(view.open(link), Err(ViewError::NotFile)));
    assert!(matches!(view.open_directory(file), Err(ViewError::NotDirectory)));
    assert!(matches!(view.lookup(file, b"x"), Err(ViewError::NotDirectory)));
    assert!(matches!(view.read_link(file), Err(ViewError::NotLink)));
    assert!(matches!(view.attributes(77), Err(ViewError::Forgotten)));
    assert!(matches!(find(&view, &format!("tasks/a/{folder}/stderr")), Err(ViewError::NotFound)));
    let handle = view.open_directory(ROOT).expect("a directory");
    assert!(matches!(view.read(handle, 0, 1), Err(ViewError::NoHandle)));
}

#[test]
fn what_can_change_is_asked_for_again() {
    let source = Arc::new(MemorySource::new());
    let key = |id: &str| TaskKey::new("run", id).expect("valid");
    let read = |key: TaskKey| Wanted { key: Some(key), content: None };
    let inputs = [(Bytes::from("a"), read(key("a"))), (Bytes::from("later"), read(key("later")))].into();
    let held = source.put("x");
    source.commit(Attempt { stdout: Some(held), ..Attempt::new(name("a"), key("a"), at(0)) });
    let reads = source.commit(Attempt { inputs, ..Attempt::new(name("reads"), key("reads"), at(0)) });
    let view = view(&source);
    let found = |parent: &str, component: &str| {
        let parent = if parent.is_empty() { ROOT } else { find(&view, parent).expect("there").number };
        let Found { valid, named, .. } = view.lookup(parent, component.as_bytes()).expect("there");
        (valid.as_secs_f64(), named.as_secs_f64())
    };
    let (folder, years) = (format!("tasks/reads/{}", reads.folder), |seconds: f64| seconds > 1e8);
    let inputs = format!("{folder}/inputs");
    // What a name may come to mean is asked for again; what was found does not change.
    for (parent, component, at_most) in
        [("tasks/reads", "latest", 0.5), ("keys/run", "reads", 0.5), (&*inputs, "a", 1.0), (&inputs, "later.json", 1.0)]
    {
        let (valid, named) = found(parent, component);
        assert!(years(valid) && named > 0.0 && named <= at_most, "{parent}/{component}: {valid}, {named}");
    }
    // What a name means stays, and how it looks, or whether it is there at all, may change.
    for (parent, component) in [("tasks", "a"), ("tasks/reads", &reads.folder)] {
        let (valid, named) = found(parent, component);
        assert!(valid == 1.0 && years(named), "{parent}/{component}: {valid}, {named}");
    }
    for (parent, component) in
        [("", "tasks"), ("", "keys"), ("keys", "run"), (&folder, "record.json"), (&folder, "inputs")]
    {
        let (valid, named) = found(parent, component);
        assert!(years(valid) && years(named), "{parent}/{component}: {valid}, {named}");
    }

    let other = Digest::of(b"as if it had said this when it was found");
    let document = edges::document(&view.context, &reads, b"later", &other);
    assert!(matches!(document, Err(ViewError::Source(SourceError::Stale))));

    // The key is learned: what stood for it is gone, for those too who had found it.
    let unheld = find(&view, &format!("{folder}/inputs/later.json")).expect("there").number;
    source.commit(Attempt::new(name("later"), key("later"), at(1)));
    assert!(matches!(view.open(unheld), Err(ViewError::Source(SourceError::Stale))));
    assert!(matches!(find(&view, &format!("{folder}/inputs/later.json")), Err(ViewError::NotFound)));
    assert_eq!(find(&view, &format!("{folder}/inputs/later")).expect("there").kind, Kind::Link);
}
