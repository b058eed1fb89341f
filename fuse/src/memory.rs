//! A source that lives in memory: for tests, and to show what a [`Source`] owes.
//!
//! Stricter than real ones where a view could be sloppy: contents come in each form that there is, and readers give little at a
//! time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use provender_core::{Digest, ExecutionId, Name, Timestamp, Tree, view};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::source::{Content, Document, Entry, Page, ReadAt, Source, SourceError};

/// At most so many bytes a reader gives at a time.
const SIP: usize = 4093;

#[derive(Debug, Default)]
struct State {
    blobs: HashMap<Digest, Bytes>,
    folders: BTreeMap<Name, BTreeMap<String, Entry>>,
    latest: BTreeMap<Name, String>,
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

    /// Records a success under a name, which becomes its `latest`.
    pub fn commit(
        &self,
        name: &Name,
        key_id: &str,
        at: Timestamp,
        outputs: Digest,
        logs: [Option<Digest>; 2],
    ) -> Entry {
        let state = &mut *self.0.write();
        let folders = state.folders.entry(name.clone()).or_default();
        let free = |folder: &String| !folders.contains_key(folder);
        let folder = (1..).map(|n| view::folder(at, key_id, n)).find(free).unwrap_or_default();
        let mut id = [0; 16];
        id.copy_from_slice(&Digest::of(format!("{name}/{folder}").as_bytes()).hash[..16]);
        let [stdout, stderr] = logs;
        let (id, name) = (ExecutionId(id), name.clone());
        let entry = Entry { id, name: name.clone(), folder: folder.clone(), at, outputs, stdout, stderr };
        folders.insert(folder.clone(), entry.clone());
        state.latest.insert(name, folder);
        entry
    }

    /// Collects a folder; a `latest` that meant it is gone too.
    pub fn collect(&self, name: &Name, folder: &str) {
        let state = &mut *self.0.write();
        if let Some(folders) = state.folders.get_mut(name) {
            folders.remove(folder);
            if folders.is_empty() {
                state.folders.remove(name);
            }
        }
        state.latest.retain(|latest, of| latest != name || of != folder);
    }

    /// Loses a blob.
    pub fn lose(&self, digest: &Digest) {
        self.0.write().blobs.remove(digest);
    }

    fn blob(&self, digest: Digest) -> Result<Bytes, SourceError> {
        let lost = || SourceError::Damaged { what: format!("{digest} is missing") };
        self.0.read().blobs.get(&digest).cloned().ok_or_else(lost)
    }
}

/// What follows `prefix` in a name.
fn below<'a>(name: &'a Name, prefix: Option<&Name>) -> Option<&'a str> {
    match prefix {
        Some(prefix) => name.as_str().strip_prefix(prefix.as_str())?.strip_prefix('/'),
        None => Some(name.as_str()),
    }
}

fn page<'a>(sorted: impl Iterator<Item = &'a str>, after: Option<&str>, limit: usize) -> Page<String> {
    let mut rest = sorted.filter(|item| after.is_none_or(|after| *item > after));
    let items: Vec<String> = rest.by_ref().take(limit).map(str::to_owned).collect();
    Page { items, more: rest.next().is_some() }
}

impl Source for MemorySource {
    fn changed(&self, name: &Name) -> Result<Option<Timestamp>, SourceError> {
        let state = self.0.read();
        let newest = |folders: &BTreeMap<String, Entry>| folders.values().map(|entry| entry.at).max();
        let own = state.folders.get(name).and_then(newest);
        let below = || state.folders.iter().filter(|(other, _)| below(other, Some(name)).is_some());
        Ok(own.or_else(|| below().filter_map(|(_, folders)| newest(folders)).max()))
    }

    fn children(&self, prefix: Option<&Name>, after: Option<&str>, limit: usize) -> Result<Page<String>, SourceError> {
        let state = self.0.read();
        let rests = state.folders.keys().filter_map(|name| below(name, prefix));
        let parts: BTreeSet<&str> = rests.filter_map(|rest| rest.split('/').next()).collect();
        Ok(page(parts.into_iter(), after, limit))
    }

    fn folders(&self, name: &Name, after: Option<&str>, limit: usize) -> Result<Page<String>, SourceError> {
        let state = self.0.read();
        let folders = state.folders.get(name).into_iter().flat_map(|folders| folders.keys());
        Ok(page(folders.map(String::as_str), after, limit))
    }

    fn entry(&self, name: &Name, folder: &str) -> Result<Option<Entry>, SourceError> {
        Ok(self.0.read().folders.get(name).and_then(|folders| folders.get(folder)).cloned())
    }

    fn latest(&self, name: &Name) -> Result<Option<Entry>, SourceError> {
        let state = self.0.read();
        Ok(state.latest.get(name).and_then(|folder| state.folders.get(name)?.get(folder)).cloned())
    }

    fn document(&self, entry: &Entry, which: Document) -> Result<Bytes, SourceError> {
        Ok(format!("{{\"execution\": \"{}\", \"document\": \"{which:?}\"}}\n", entry.id).into())
    }

    fn tree(&self, digest: Digest) -> Result<Arc<Tree>, SourceError> {
        let tree = Tree::decode(&self.blob(digest)?);
        tree.map(Arc::new).map_err(|error| SourceError::Damaged { what: format!("{digest}: {error}") })
    }

    fn open(&self, digest: Digest) -> Result<Content, SourceError> {
        let bytes = self.blob(digest)?;
        match digest.hash[0] % 3 {
            0 => Ok(Content::Bytes(bytes)),
            1 => Ok(Content::Reader(Box::new(Sips(bytes)))),
            _ => match memfd(&bytes) {
                Ok(file) => Ok(Content::Fd(file)),
                Err(source) => Err(SourceError::Unavailable { source: source.into() }),
            },
        }
    }
}

fn memfd(bytes: &[u8]) -> std::io::Result<File> {
    let mut file = File::from(memfd_create("blob", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file)
}

struct Sips(Bytes);

impl ReadAt for Sips {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, SourceError> {
        let from = usize::try_from(offset).map_or(self.0.len(), |offset| offset.min(self.0.len()));
        let count = buf.len().min(SIP).min(self.0.len() - from);
        buf[..count].copy_from_slice(&self.0[from..from + count]);
        Ok(count)
    }
}
