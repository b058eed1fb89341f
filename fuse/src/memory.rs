//! A source that lives in memory: for tests, and to show what a [`Source`](crate::Source) owes.
//!
//! Owns a small store of ended executions; `answers` is what it shows of them. Stricter than real ones where a view could be
//! sloppy: contents come in each form that there is, readers give little at a time, and pages of consumers may be empty.

mod answers;
mod contents;

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use parking_lot::RwLock;
use provender_core::provenance::Place;
use provender_core::{Digest, ExecutionId, Name, Node, TaskKey, Timestamp, Tree, view};

use crate::source::{Branch, Entry};

/// An execution to be stored.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The name it is made under.
    pub name: Name,
    /// Its key.
    pub key: TaskKey,
    /// When it ended.
    pub at: Timestamp,
    /// The tree of its outputs.
    pub outputs: Option<Digest>,
    /// Standard output.
    pub stdout: Option<Digest>,
    /// Standard error.
    pub stderr: Option<Digest>,
    /// What it read.
    pub inputs: BTreeMap<Bytes, Wanted>,
}

impl Attempt {
    /// One that read nothing and made nothing.
    pub fn new(name: Name, key: TaskKey, at: Timestamp) -> Attempt {
        Attempt { name, key, at, outputs: None, stdout: None, stderr: None, inputs: BTreeMap::new() }
    }
}

/// Something that an execution read, as it said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The key that makes it; the store may never have seen it.
    pub key: Option<TaskKey>,
    /// The content.
    pub content: Option<Node>,
}

#[derive(Debug)]
struct Stored {
    /// As it was made.
    entry: Entry,
    succeeded: bool,
    inputs: BTreeMap<Bytes, Wanted>,
}

impl Stored {
    fn place(&self) -> Place {
        Place { name: self.entry.name.clone(), folder: self.entry.folder.clone(), at: self.entry.at }
    }
}

type Folders = BTreeMap<Name, BTreeMap<String, ExecutionId>>;

#[derive(Debug, Default)]
struct State {
    blobs: HashMap<Digest, Bytes>,
    executions: BTreeMap<ExecutionId, Stored>,
    tasks: Folders,
    failed: Folders,
    /// What became the latest of a name, oldest first.
    latest: BTreeMap<Name, Vec<ExecutionId>>,
    /// What answers for a key that is SUCCEEDED.
    records: BTreeMap<TaskKey, ExecutionId>,
    /// Every folder that was ever given, by whether it was for a success: none is given again.
    given: HashSet<(bool, Name, String)>,
    /// How many executions there ever were.
    count: u64,
}

impl State {
    fn folders(&self, branch: Branch) -> &Folders {
        match branch {
            Branch::Tasks => &self.tasks,
            Branch::Failed => &self.failed,
        }
    }

    /// A success's or failure's folder of a name, made if it has none there.
    fn stand(&mut self, succeeded: bool, name: &Name, id: ExecutionId, at: Timestamp, key: &TaskKey) -> String {
        let folders = if succeeded { &mut self.tasks } else { &mut self.failed };
        let here = folders.entry(name.clone()).or_default();
        if let Some((folder, _)) = here.iter().find(|(_, other)| **other == id) {
            return folder.clone();
        }
        let folders = (1..).map(|n| view::folder(at, key.id(), n));
        let mut free = folders.filter(|folder| self.given.insert((succeeded, name.clone(), folder.clone())));
        let folder = free.next().unwrap_or_default();
        here.insert(folder.clone(), id);
        folder
    }

    fn store(&mut self, attempt: Attempt, succeeded: bool) -> Entry {
        let Attempt { name, key, at, outputs, stdout, stderr, inputs } = attempt;
        self.count += 1;
        let mut id = [0; 16];
        id.copy_from_slice(&Digest::of(&self.count.to_be_bytes()).hash[..16]);
        let id = ExecutionId(id);
        let folder = self.stand(succeeded, &name, id, at, &key);
        let entry = Entry { id, key, name, folder, at, outputs, stdout, stderr };
        self.executions.insert(id, Stored { entry: entry.clone(), succeeded, inputs });
        entry
    }
}

/// The source.
#[derive(Debug, Default)]
pub struct MemorySource(RwLock<State>);

impl MemorySource {
    /// An empty one.
    pub fn new() -> MemorySource {
        MemorySource::default()
    }

    /// Stores bytes.
    pub fn put(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        self.0.write().blobs.insert(digest, bytes);
        digest
    }

    /// Stores a directory.
    pub fn put_tree(&self, tree: &Tree) -> Result<Digest, provender_core::tree::TreeError> {
        Ok(self.put(tree.encode()?))
    }

    /// Records a success, which becomes the `latest` of its name, and its key's record unless there is one.
    pub fn commit(&self, attempt: Attempt) -> Entry {
        let state = &mut *self.0.write();
        let entry = state.store(attempt, true);
        state.records.entry(entry.key.clone()).or_insert(entry.id);
        state.latest.entry(entry.name.clone()).or_default().push(entry.id);
        entry
    }

    /// Records a failure.
    pub fn fail(&self, attempt: Attempt) -> Entry {
        self.0.write().store(attempt, false)
    }

    /// Answers a lookup of `key` by `name` with the key's record: that stands in a folder of this name from now on, and is its
    /// `latest`. `None` unless the key is SUCCEEDED.
    pub fn hit(&self, name: &Name, key: &TaskKey) -> Option<Entry> {
        let state = &mut *self.0.write();
        let id = *state.records.get(key)?;
        let entry = state.executions.get(&id)?.entry.clone();
        let folder = state.stand(true, name, id, entry.at, key);
        state.latest.entry(name.clone()).or_default().push(id);
        Some(Entry { name: name.clone(), folder, ..entry })
    }

    /// Declares a key's record void: the key has none, and no `latest` means what it was; folders stay.
    pub fn invalidate(&self, key: &TaskKey) {
        let state = &mut *self.0.write();
        state.records.remove(key);
        let State { executions, latest, .. } = state;
        for history in latest.values_mut() {
            history.retain(|id| executions.get(id).is_some_and(|stored| stored.entry.key != *key));
        }
    }

    /// Collects the success that stands in a folder: all its folders are gone, and each `latest` that meant it.
    pub fn collect(&self, name: &Name, folder: &str) {
        let state = &mut *self.0.write();
        let Some(id) = state.tasks.get(name).and_then(|folders| folders.get(folder).copied()) else { return };
        state.executions.remove(&id);
        state.records.retain(|_, record| *record != id);
        state.latest.values_mut().for_each(|history| history.retain(|other| *other != id));
        state.tasks.values_mut().for_each(|folders| folders.retain(|_, other| *other != id));
        state.tasks.retain(|_, folders| !folders.is_empty());
    }

    /// Loses a blob.
    pub fn lose(&self, digest: &Digest) {
        self.0.write().blobs.remove(digest);
    }
}
