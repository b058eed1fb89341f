use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;

use proptest::prelude::*;
use provender_core::view::encode;
use provender_core::{Digest, Name, Tree};

use super::*;
use crate::memory::MemorySource;
use crate::source::{Content, Document, Entry, Page};

fn name(text: &str) -> Name {
    Name::new(text).expect("valid")
}

fn at(second: u64) -> Timestamp {
    Timestamp::from_millis(1_795_284_131_000 + 1000 * second)
}

fn view(source: &Arc<MemorySource>) -> View {
    View::new(source.clone(), Settings::default())
}

/// What a path shows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shown {
    Directory,
    File(Bytes, bool),
    Link(Bytes),
}

/// What a case has in its output trees.
#[derive(Debug, Clone)]
enum Made {
    Directory(BTreeMap<Vec<u8>, Made>),
    File(Vec<u8>, bool),
    Link(Vec<u8>),
}

fn made() -> impl Strategy<Value = BTreeMap<Vec<u8>, Made>> {
    let name = || {
        let valid = |name: &Vec<u8>| tree::check_name(name).is_ok();
        prop_oneof![prop::collection::vec(any::<u8>(), 1..5), "[ab]{1,2}|latest|out".prop_map(String::into_bytes)]
            .prop_filter("valid", valid)
    };
    let leaf = prop_oneof![
        (prop::collection::vec(any::<u8>(), 0..20_000), any::<bool>()).prop_map(|(bytes, run)| Made::File(bytes, run)),
        prop::collection::vec(1u8..=255, 1..30).prop_map(Made::Link),
    ];
    let node = leaf.prop_recursive(3, 12, 4, move |inner| {
        prop::collection::btree_map(name(), inner, 0..4).prop_map(Made::Directory)
    });
    prop::collection::btree_map(name(), node, 0..4)
}

fn task() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[ab]",
        Just("latest".into()),
        Just("100%".into()),
        Just("2026-11-21T18-02-11Z-566a13d4".into()),
        "(é){120,125}%{20,25}[ab]",
    ];
    let parts = prop::collection::vec(part, 1..4).prop_map(|parts: Vec<String>| parts.join("/"));
    parts.prop_filter("short enough", |text| Name::new(text.as_str()).is_ok())
}

/// Stores a directory and writes down what it will show.
fn store(
    source: &MemorySource,
    made: &BTreeMap<Vec<u8>, Made>,
    path: &[u8],
    model: &mut BTreeMap<Vec<u8>, Shown>,
) -> Digest {
    model.insert(path.into(), Shown::Directory);
    let mut tree = Tree::new();
    for (name, made) in made {
        let path = [path, b"/", name].concat();
        let node = match made {
            Made::Directory(entries) => tree::Node::Directory { digest: store(source, entries, &path, model) },
            Made::File(bytes, executable) => {
                model.insert(path, Shown::File(bytes.clone().into(), *executable));
                tree::Node::File { digest: source.put(bytes.clone()), executable: *executable }
            }
            Made::Link(target) => {
                model.insert(path, Shown::Link(target.clone().into()));
                tree::Node::Symlink { target: target.clone().into() }
            }
        };
        tree.insert(name.clone(), node).expect("valid");
    }
    source.put_tree(&tree).expect("small")
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

fn read(view: &View, number: u64, size: u64, step: usize) -> Bytes {
    let handle = view.open(number).expect("a file");
    // Backwards, so that no read relies on the one before.
    let offsets: Vec<u64> = (0..size).step_by(step).collect();
    let mut parts: Vec<Bytes> =
        offsets.iter().rev().map(|offset| view.read(handle, *offset, step).expect("readable")).collect();
    parts.reverse();
    assert_eq!(view.read(handle, size, step).expect("the end"), "");
    view.release(handle);
    parts.concat().into()
}

/// All that the view shows, by going into everything; gives every lookup back.
fn walk(view: &View, number: u64, path: &[u8], room: usize, shown: &mut BTreeMap<Vec<u8>, Shown>) {
    for (item, _) in list(view, number, room).into_iter().skip(2) {
        let found = view.lookup(number, &item.name).expect("listed, so there").attributes;
        assert_eq!((found.number, found.kind), (item.number, item.kind));
        assert_eq!(view.attributes(found.number).expect("known").attributes, found);
        let path = [path, b"/", &item.name].concat();
        let what = match found.kind {
            Kind::Directory => {
                walk(view, found.number, &path, room, shown);
                Shown::Directory
            }
            Kind::File => {
                let bytes = read(view, found.number, found.size, 7001);
                assert_eq!(bytes.len() as u64, found.size);
                Shown::File(bytes, found.mode == 0o555)
            }
            Kind::Link => {
                let target = view.read_link(found.number).expect("a link");
                assert_eq!(target.len() as u64, found.size);
                Shown::Link(target)
            }
        };
        assert_eq!(shown.insert(path, what), None, "listed twice");
        view.forget(found.number, 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is committed under whatever names: the view shows exactly that, and holds nothing afterwards.
    #[test]
    fn shows_what_was_committed(
        tasks in prop::collection::btree_map(task(), prop::collection::vec(made(), 1..3), 0..5),
        room in 1usize..9,
    ) {
        let source = Arc::new(MemorySource::new());
        let mut model = BTreeMap::from([(b"/tasks".to_vec(), Shown::Directory)]);
        for (task, executions) in &tasks {
            let mut path = String::from("/tasks");
            for part in task.split('/') {
                path = format!("{path}/{}", encode(part));
                model.insert(path.clone().into_bytes(), Shown::Directory);
            }
            for (second, made) in executions.iter().enumerate() {
                let mut out = BTreeMap::new();
                let outputs = store(&source, made, b"", &mut out);
                let entry = source.commit(&name(task), "c0ffee", at(second as u64 / 2), outputs, [Some(outputs), None]);
                let folder = format!("{path}/{}", entry.folder);
                model.insert(folder.clone().into_bytes(), Shown::Directory);
                for (below, shown) in out {
                    model.insert([format!("{folder}/out").as_bytes(), &below].concat(), shown);
                }
                for (file, which) in node::DOCUMENTS {
                    let bytes = source.document(&entry, which).expect("rendered");
                    model.insert(format!("{folder}/{file}").into_bytes(), Shown::File(bytes, false));
                }
                let log = match source.open(outputs).map(|content| OpenFile::new(content, outputs.size)) {
                    Ok(Ok(file)) => file.read(0, usize::MAX).expect("readable"),
                    other => panic!("{other:?}"),
                };
                model.insert(format!("{folder}/stdout").into_bytes(), Shown::File(log, false));
                model.insert(format!("{path}/latest").into_bytes(), Shown::Link(entry.folder.into()));
            }
        }
        let view = view(&source);
        let mut shown = BTreeMap::new();
        walk(&view, ROOT, b"", room, &mut shown);
        prop_assert_eq!(shown, model);
        prop_assert_eq!((view.inodes.len(), view.handles.read().len()), (0, 0));
    }

    #[test]
    fn no_component_panics_or_leads_out(component: Vec<u8>) {
        let source = Arc::new(MemorySource::new());
        let empty = source.put_tree(&Tree::new()).expect("small");
        source.commit(&name("a"), "1", at(0), empty, [None, None]);
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
        source.commit(&name(&format!("n/{}", long(number))), &format!("{number:08x}"), at(0), empty, [None, None]);
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
    let folder = source.commit(&name("a"), "1", at(0), outputs, [None, None]).folder;
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

/// A source that counts what it is asked for, and can be made to wait before it gives a directory.
struct Watched {
    inner: Arc<MemorySource>,
    asked: AtomicUsize,
    gate: Option<Mutex<mpsc::Receiver<()>>>,
    entered: mpsc::Sender<()>,
}

impl Watched {
    fn count<T>(&self, answer: T) -> T {
        self.asked.fetch_add(1, Ordering::Relaxed);
        answer
    }
}

impl Source for Watched {
    fn changed(&self, name: &Name) -> Result<Option<Timestamp>, SourceError> {
        self.count(self.inner.changed(name))
    }
    fn children(&self, prefix: Option<&Name>, after: Option<&str>, limit: usize) -> Result<Page<String>, SourceError> {
        self.count(self.inner.children(prefix, after, limit))
    }
    fn folders(&self, name: &Name, after: Option<&str>, limit: usize) -> Result<Page<String>, SourceError> {
        self.count(self.inner.folders(name, after, limit))
    }
    fn entry(&self, name: &Name, folder: &str) -> Result<Option<Entry>, SourceError> {
        self.count(self.inner.entry(name, folder))
    }
    fn latest(&self, name: &Name) -> Result<Option<Entry>, SourceError> {
        self.count(self.inner.latest(name))
    }
    fn document(&self, entry: &Entry, which: Document) -> Result<Bytes, SourceError> {
        self.count(self.inner.document(entry, which))
    }
    fn tree(&self, digest: Digest) -> Result<Arc<Tree>, SourceError> {
        if let Some(gate) = &self.gate {
            self.entered.send(()).expect("the test listens");
            let _ = gate.lock().recv();
        }
        self.count(self.inner.tree(digest))
    }
    fn open(&self, digest: Digest) -> Result<Content, SourceError> {
        self.count(self.inner.open(digest))
    }
}

#[test]
fn a_listing_costs_what_it_is_long() {
    let inner = Arc::new(MemorySource::new());
    let outputs = wide(&inner, 10_000);
    for number in 0..3_000 {
        inner.commit(&name(&format!("n/{number}")), "1", at(0), outputs, [None, None]);
        inner.commit(&name("n"), &format!("{number:08x}"), at(0), outputs, [None, None]);
    }
    let (entered, _) = mpsc::channel();
    let watched = Arc::new(Watched { inner, asked: AtomicUsize::new(0), gate: None, entered });
    let view = View::new(watched.clone(), Settings::default());
    let asked = || watched.asked.swap(0, Ordering::Relaxed);

    let names = find(&view, "tasks/n").expect("there").number;
    asked();
    // `.`, `..` and `latest`; the folders; the names below.
    assert_eq!(list(&view, names, 50).len(), 3 + 3_000 + 3_000);
    let calls = asked();
    assert!(calls <= 2 * (3_000 / node::PAGE + 2), "{calls} calls");

    let folder = watched.inner.latest(&name("n")).expect("known").expect("there").folder;
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
    let folder = inner.commit(&name("t"), "1", at(0), digest, [None, None]).folder;
    let (entered, _) = mpsc::channel();
    let watched = Arc::new(Watched { inner, asked: AtomicUsize::new(0), gate: None, entered });
    let view = View::new(watched.clone(), Settings::default());
    let mut held = vec![find(&view, &format!("tasks/t/{folder}/out")).expect("there").number];
    watched.asked.store(0, Ordering::Relaxed);
    for level in 0..40u32 {
        let turn = if level.is_power_of_two() { "b" } else { "a" };
        let parent = held[held.len() - 1];
        held.push(view.lookup(parent, turn.as_bytes()).expect("there").attributes.number);
    }
    assert!(view.lookup(held[held.len() - 1], b"00000").is_ok());
    assert_eq!(watched.asked.load(Ordering::Relaxed), 41);
    assert_eq!(view.inodes.len(), 3 + 1 + 40 + 1);
    for number in held {
        view.forget(number, 1);
    }
    assert_eq!(view.inodes.len(), 3 + 1);
}

#[test]
fn a_directory_over_the_limit_is_an_error() {
    let source = Arc::new(MemorySource::new());
    let outputs = wide(&source, 1000);
    let folder = source.commit(&name("a"), "1", at(0), outputs, [None, None]).folder;
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
    let first = source.commit(&name("a"), "1", at(0), empty, [None, None]).folder;
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
    assert_eq!((view.read_link(latest.number).expect("a link"), count()), (first.clone().into(), 4));
    let second = source.commit(&name("a"), "1", at(5), empty, [None, None]).folder;
    assert_eq!((view.read_link(latest.number).expect("a link"), count()), (second.clone().into(), 5));
    assert_eq!(view.attributes(latest.number).expect("there").attributes.at, at(5));
    assert_eq!(view.attributes(directory).expect("there").attributes.at, at(5));
    source.collect(&name("a"), &second);
    assert!(matches!(view.read_link(latest.number), Err(ViewError::NotFound)));
    assert!(matches!(view.attributes(latest.number), Err(ViewError::NotFound)));
    source.collect(&name("a"), &first);
    assert!(matches!(view.attributes(directory), Err(ViewError::NotFound)));
}

#[test]
fn what_is_collected_is_gone_but_for_who_has_it_open() {
    let source = Arc::new(MemorySource::new());
    let file = source.put("kept");
    let mut tree = Tree::new();
    tree.insert("f", tree::Node::File { digest: file, executable: false }).expect("valid");
    let outputs = source.put_tree(&tree).expect("small");
    let folder = source.commit(&name("a"), "1", at(0), outputs, [None, None]).folder;
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
    let folder = source.commit(&name("a"), "1", at(0), empty, [Some(empty), None]).folder;
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
fn a_slow_source_stops_only_who_waits_for_it() {
    let inner = Arc::new(MemorySource::new());
    let outputs = wide(&inner, 1);
    let folder = inner.commit(&name("a"), "1", at(0), outputs, [None, None]).folder;
    let (open_gate, gate) = mpsc::channel();
    let (entered, waits) = mpsc::channel();
    let asked = AtomicUsize::new(0);
    let source = Arc::new(Watched { inner, asked, gate: Some(Mutex::new(gate)), entered });
    let view = Arc::new(View::new(source, Settings::default()));
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
