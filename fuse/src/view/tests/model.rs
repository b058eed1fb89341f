//! The naive twin of the view: each path that there is and all that it shows, written down anew whenever something has happened.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use provender_core::view::{consumer, encode, folder, input, unheld};
use provender_core::{Digest, Name, TaskKey, Timestamp, Tree, tree};

use crate::memory::{Attempt, MemorySource, Wanted};
use crate::source::{Document, Entry, Source};

/// What a path shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shown {
    Directory,
    File(Bytes, bool),
    Link(String),
    /// A link of an output tree.
    Raw(Bytes),
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) shown: Shown,
    pub(super) at: Timestamp,
    pub(super) xattrs: Vec<(&'static str, String)>,
}

/// By path without a slash at its end: the root is empty.
pub(super) type Paths = BTreeMap<Vec<u8>, Spot>;

/// What is stored.
#[derive(Debug, Clone)]
pub(super) enum Made {
    Directory(BTreeMap<Vec<u8>, Made>),
    File(Vec<u8>, bool),
    Link(Vec<u8>),
}

/// Something that an execution read.
#[derive(Debug, Clone)]
pub(super) struct Read {
    pub(super) key: Option<TaskKey>,
    pub(super) content: Option<Made>,
    /// Whether the store has the content.
    pub(super) held: bool,
}

/// What ends.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) name: Name,
    pub(super) key: TaskKey,
    pub(super) at: Timestamp,
    pub(super) files: Option<BTreeMap<Vec<u8>, Made>>,
    pub(super) stdout: Option<String>,
    pub(super) inputs: BTreeMap<Vec<u8>, Read>,
}

#[derive(Debug)]
struct Done {
    end: End,
    succeeded: bool,
    entry: Entry,
    /// Where it was made.
    path: String,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    done: BTreeMap<usize, Done>,
    count: usize,
    /// The branch's folder, the name, the folder and who stands there.
    standing: BTreeSet<(&'static str, Name, String, usize)>,
    given: BTreeSet<(&'static str, Name, String)>,
    latest: Vec<(Name, usize)>,
    records: BTreeMap<TaskKey, usize>,
}

fn store(source: &MemorySource, file: &Made) -> tree::Node {
    match file {
        Made::File(bytes, executable) => {
            tree::Node::File { digest: source.put(bytes.clone()), executable: *executable }
        }
        Made::Link(target) => tree::Node::Symlink { target: target.clone().into() },
        Made::Directory(files) => {
            let mut tree = Tree::new();
            for (name, file) in files {
                tree.insert(name.clone(), store(source, file)).expect("valid");
            }
            tree::Node::Directory { digest: source.put_tree(&tree).expect("small") }
        }
    }
}

/// The same, without its bytes.
fn lost(file: &Made) -> tree::Node {
    let digest = Digest::of(format!("never stored {file:?}").as_bytes());
    match file {
        Made::File(_, executable) => tree::Node::File { digest, executable: *executable },
        Made::Directory(_) => tree::Node::Directory { digest },
        Made::Link(target) => tree::Node::Symlink { target: target.clone().into() },
    }
}

fn path_of(branch: &str, name: &str) -> String {
    name.split('/').fold(format!("/{branch}"), |path, part| format!("{path}/{}", encode(part)))
}

impl Model {
    fn stand(&mut self, branch: &'static str, name: &Name, at: Timestamp, key: &TaskKey, who: usize) -> String {
        if let Some((.., folder, _)) = self.standing.iter().find(|(b, n, _, w)| (*b, n, *w) == (branch, name, who)) {
            return folder.clone();
        }
        let mut n = 1;
        while self.given.contains(&(branch, name.clone(), folder(at, key.id(), n))) {
            n += 1;
        }
        let folder = folder(at, key.id(), n);
        self.given.insert((branch, name.clone(), folder.clone()));
        self.standing.insert((branch, name.clone(), folder.clone(), who));
        folder
    }

    /// An execution ends, here and in the source.
    pub(super) fn end(&mut self, source: &MemorySource, end: &End, succeeded: bool) {
        let mut attempt = Attempt::new(end.name.clone(), end.key.clone(), end.at);
        attempt.outputs = end.files.as_ref().and_then(|files| store(source, &Made::Directory(files.clone())).digest());
        attempt.stdout = end.stdout.as_ref().map(|said| source.put(said.clone()));
        for (name, read) in &end.inputs {
            let node = |file| if read.held { store(source, file) } else { lost(file) };
            let wanted = Wanted { key: read.key.clone(), content: read.content.as_ref().map(node) };
            attempt.inputs.insert(name.clone().into(), wanted);
        }
        self.count += 1;
        let (who, branch) = (self.count, if succeeded { "tasks" } else { "failed" });
        let folder = self.stand(branch, &end.name, end.at, &end.key, who);
        let path = format!("{}/{folder}", path_of(branch, end.name.as_str()));
        let entry = if succeeded { source.commit(attempt) } else { source.fail(attempt) };
        self.done.insert(who, Done { end: end.clone(), succeeded, entry, path });
        if succeeded {
            self.records.entry(end.key.clone()).or_insert(who);
            self.latest.push((end.name.clone(), who));
        }
    }

    pub(super) fn hit(&mut self, source: &MemorySource, name: &Name, key: &TaskKey) {
        source.hit(name, key);
        if let Some(who) = self.records.get(key).copied() {
            let at = self.done[&who].end.at;
            self.stand("tasks", name, at, key, who);
            self.latest.push((name.clone(), who));
        }
    }

    pub(super) fn invalidate(&mut self, source: &MemorySource, key: &TaskKey) {
        source.invalidate(key);
        self.records.remove(key);
        self.latest.retain(|(_, who)| self.done[who].end.key != *key);
    }

    /// Collects the `which`-th success, modulo how many there are.
    pub(super) fn collect(&mut self, source: &MemorySource, which: usize) {
        let successes: Vec<usize> = self.done.iter().filter(|(_, done)| done.succeeded).map(|(who, _)| *who).collect();
        let Some(who) = successes.get(which % successes.len().max(1)) else { return };
        let gone = self.done.remove(who).expect("listed");
        source.collect(&gone.entry.name, &gone.entry.folder);
        self.standing.retain(|(.., other)| other != who);
        self.latest.retain(|(_, other)| other != who);
        self.records.retain(|_, other| other != who);
    }

    /// Everything that there is.
    pub(super) fn paths(&self, source: &MemorySource) -> Paths {
        let mut paths = Paths::new();
        let since = Timestamp::default();
        let directory = |at, xattrs| Spot { shown: Shown::Directory, at, xattrs };
        for path in ["", "/tasks", "/keys", "/failed"] {
            paths.insert(path.into(), directory(since, vec![]));
        }
        for (branch, name, folder, who) in &self.standing {
            for (end, _) in name.as_str().match_indices('/').chain([(name.as_str().len(), "")]) {
                let prefix = &name.as_str()[..end];
                let at = self.changed(branch, prefix);
                let xattrs = vec![("user.provender.name", prefix.to_owned())];
                paths.insert(path_of(branch, prefix).into(), directory(at, xattrs));
            }
            self.show(source, branch, name, folder, &self.done[who], &mut paths);
        }
        for (name, who) in &self.latest {
            let (.., folder, _) =
                self.standing.iter().find(|(b, n, _, w)| (*b, n, w) == ("tasks", name, who)).expect("stands");
            let spot = Spot { shown: Shown::Link(folder.clone()), at: self.done[who].end.at, xattrs: vec![] };
            // The last one counts.
            paths.insert((path_of("tasks", name.as_str()) + "/latest").into(), spot);
        }
        for done in self.done.values() {
            let path = format!("/keys/{}", done.end.key.scheme());
            paths.insert(path.into(), directory(since, vec![]));
        }
        for (key, who) in &self.records {
            let done = &self.done[who];
            let spot = Spot { shown: Shown::Link(format!("../..{}", done.path)), at: done.end.at, xattrs: vec![] };
            paths.insert(format!("/keys/{}/{}", key.scheme(), encode(key.id())).into(), spot);
        }
        paths
    }

    fn changed(&self, branch: &str, name: &str) -> Timestamp {
        let here = self.standing.iter().filter(|(b, ..)| *b == branch);
        let newest = |is: &dyn Fn(&str) -> bool| {
            here.clone().filter(|(_, n, ..)| is(n.as_str())).map(|(.., who)| self.done[who].end.at).max()
        };
        let below = format!("{name}/");
        newest(&|other| other == name).or_else(|| newest(&|other| other.starts_with(&below))).expect("not empty")
    }

    /// An execution's folder.
    fn show(&self, source: &MemorySource, branch: &str, name: &Name, folder: &str, done: &Done, paths: &mut Paths) {
        let (path, at) = (format!("{}/{folder}", path_of(branch, name.as_str())), done.end.at);
        let execution = ("user.provender.execution", done.entry.id.to_string());
        let key = ("user.provender.key", done.end.key.to_string());
        let xattrs = vec![execution.clone(), key, ("user.provender.name", name.to_string())];
        paths.insert(path.clone().into(), Spot { shown: Shown::Directory, at, xattrs });
        for (file, which) in [("record.json", Document::Record), ("spec.json", Document::Spec)] {
            let bytes = source.document(&done.entry, which).expect("rendered");
            let spot = Spot { shown: Shown::File(bytes, false), at, xattrs: vec![execution.clone()] };
            paths.insert(format!("{path}/{file}").into(), spot);
        }
        if let Some(said) = &done.end.stdout {
            let file = Made::File(said.clone().into(), false);
            put(source, paths, format!("{path}/stdout").as_bytes(), &file, at);
        }
        if !done.succeeded {
            return;
        }
        if let Some(files) = &done.end.files {
            put(source, paths, format!("{path}/out").as_bytes(), &Made::Directory(files.clone()), at);
        }
        for edges in ["inputs", "used-by"] {
            let spot = Spot { shown: Shown::Directory, at, xattrs: vec![] };
            paths.insert(format!("{path}/{edges}").into(), spot);
        }
        // Out of the folder of edges, of the execution, and of each part of the name.
        let link = |to: &Done| {
            let up = "../".repeat(name.as_str().matches('/').count() + 3);
            let target = up + to.path.strip_prefix("/tasks/").expect("a success");
            Spot { shown: Shown::Link(target), at: to.end.at, xattrs: vec![] }
        };
        for (called, read) in &done.end.inputs {
            let here = |component: String| format!("{path}/inputs/{component}").into_bytes();
            match (self.made(read), &read.content) {
                (Some(who), _) => {
                    paths.insert(here(input(called)), link(&self.done[&who]));
                }
                (None, Some(file)) if read.held || matches!(file, Made::Link(_)) => {
                    put(source, paths, &here(input(called)), file, at);
                }
                _ => {
                    let taken = done.end.inputs.contains_key(&[called, &b".json"[..]].concat());
                    let says = format!("{{\"key\": {:?}}}\n", read.key.as_ref().map(TaskKey::as_str));
                    let spot = Spot { shown: Shown::File(says.into(), false), at, xattrs: vec![] };
                    paths.insert(here(unheld(called, taken)), spot);
                }
            }
        }
        for other in self.done.values().filter(|other| other.succeeded) {
            let made = other.end.inputs.values().filter_map(|read| self.made(read));
            if made.into_iter().any(|who| self.done[&who].entry.id == done.entry.id) {
                let component = consumer(&other.entry.name, &other.entry.folder);
                paths.insert(format!("{path}/used-by/{component}").into(), link(other));
            }
        }
    }

    fn made(&self, read: &Read) -> Option<usize> {
        self.records.get(read.key.as_ref()?).copied()
    }
}

/// A stored file or directory.
fn put(source: &MemorySource, paths: &mut Paths, path: &[u8], file: &Made, at: Timestamp) {
    let digest = store(source, file).digest().map(|digest| ("user.provender.digest", digest.hex()));
    let shown = match file {
        Made::File(bytes, executable) => Shown::File(bytes.clone().into(), *executable),
        Made::Link(target) => Shown::Raw(target.clone().into()),
        Made::Directory(files) => {
            for (name, file) in files {
                put(source, paths, &[path, b"/", name].concat(), file, at);
            }
            Shown::Directory
        }
    };
    paths.insert(path.into(), Spot { shown, at, xattrs: digest.into_iter().collect() });
}
