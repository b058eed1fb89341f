//! What the view asks of a source, and who waits for it.

use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;

use super::*;
use crate::source::{Branch, Consumers, Content, Document, Input, Page};
use provender_core::provenance::Place;

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
    fn changed(&self, branch: Branch, name: &Name) -> Result<Option<Timestamp>, SourceError> {
        self.count(self.inner.changed(branch, name))
    }
    fn children(
        &self,
        branch: Branch,
        prefix: Option<&Name>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<String>, SourceError> {
        self.count(self.inner.children(branch, prefix, after, limit))
    }
    fn folders(
        &self,
        branch: Branch,
        name: &Name,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<String>, SourceError> {
        self.count(self.inner.folders(branch, name, after, limit))
    }
    fn entry(&self, branch: Branch, name: &Name, folder: &str) -> Result<Option<Entry>, SourceError> {
        self.count(self.inner.entry(branch, name, folder))
    }
    fn latest(&self, name: &Name) -> Result<Option<Entry>, SourceError> {
        self.count(self.inner.latest(name))
    }
    fn inputs(&self, entry: &Entry) -> Result<Arc<[Input]>, SourceError> {
        self.count(self.inner.inputs(entry))
    }
    fn consumers(&self, entry: &Entry, after: Option<&Bytes>, limit: usize) -> Result<Consumers, SourceError> {
        self.count(self.inner.consumers(entry, after, limit))
    }
    fn is_consumer(&self, entry: &Entry, place: &Place) -> Result<Option<Place>, SourceError> {
        self.count(self.inner.is_consumer(entry, place))
    }
    fn schemes(&self) -> Result<Vec<String>, SourceError> {
        self.count(self.inner.schemes())
    }
    fn keys(&self, scheme: &str, after: Option<&str>, limit: usize) -> Result<Page<String>, SourceError> {
        self.count(self.inner.keys(scheme, after, limit))
    }
    fn record(&self, key: &TaskKey) -> Result<Option<Place>, SourceError> {
        self.count(self.inner.record(key))
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
        commit(&inner, &name(&format!("n/{number}")), "1", at(0), outputs, [None, None]);
        commit(&inner, &name("n"), &format!("{number:08x}"), at(0), outputs, [None, None]);
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
    let folder = commit(&inner, &name("t"), "1", at(0), digest, [None, None]).folder;
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
fn a_slow_source_stops_only_who_waits_for_it() {
    let inner = Arc::new(MemorySource::new());
    let outputs = wide(&inner, 1);
    let folder = commit(&inner, &name("a"), "1", at(0), outputs, [None, None]).folder;
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
