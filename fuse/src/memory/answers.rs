//! What the source in memory answers.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use provender_core::provenance::{Origin, Place};
use provender_core::{Digest, ExecutionId, Name, Node, TaskKey, Timestamp};

use super::contents::content;
use super::{MemorySource, State, Stored, Wanted};
use crate::source::{Branch, Consumers, Content, Document, Entry, Input, Page, Source, SourceError};

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

impl State {
    /// The execution as it stands in a folder.
    fn entry(&self, id: ExecutionId, name: &Name, folder: &str) -> Option<Entry> {
        let entry = self.executions.get(&id)?.entry.clone();
        Some(Entry { name: name.clone(), folder: folder.to_owned(), ..entry })
    }

    /// The execution that an input came from.
    fn made(&self, wanted: &Wanted) -> Option<&Stored> {
        self.executions.get(self.records.get(wanted.key.as_ref()?)?)
    }

    fn input(&self, name: &Bytes, wanted: &Wanted) -> Input {
        let holds = |node: &Node| node.digest().is_none_or(|digest| self.blobs.contains_key(&digest));
        let (origin, document) = match (self.made(wanted), &wanted.content) {
            (Some(made), _) => (Origin::Made(made.place()), Bytes::new()),
            (None, Some(node)) if holds(node) => (Origin::Held(node.clone()), Bytes::new()),
            (None, _) => {
                (Origin::Unheld, format!("{{\"key\": {:?}}}\n", wanted.key.as_ref().map(TaskKey::as_str)).into())
            }
        };
        Input { name: name.clone(), origin, document }
    }

    fn consumes(&self, consumer: &Stored, made: ExecutionId) -> bool {
        let is = |wanted: &Wanted| self.made(wanted).is_some_and(|stored| stored.entry.id == made);
        consumer.succeeded && consumer.inputs.values().any(is)
    }

    fn blob(&self, digest: Digest) -> Result<Bytes, SourceError> {
        let lost = || SourceError::Damaged { what: format!("{digest} is missing") };
        self.blobs.get(&digest).cloned().ok_or_else(lost)
    }
}

impl Source for MemorySource {
    fn changed(&self, branch: Branch, name: &Name) -> Result<Option<Timestamp>, SourceError> {
        let state = self.0.read();
        let at = |id: &ExecutionId| state.executions.get(id).map(|stored| stored.entry.at);
        let newest = |folders: &BTreeMap<String, ExecutionId>| folders.values().filter_map(at).max();
        let folders = state.folders(branch);
        let below = || folders.iter().filter(|(other, _)| below(other, Some(name)).is_some());
        Ok(folders.get(name).and_then(newest).or_else(|| below().filter_map(|(_, folders)| newest(folders)).max()))
    }

    fn children(
        &self,
        branch: Branch,
        prefix: Option<&Name>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<String>, SourceError> {
        let state = self.0.read();
        let rests = state.folders(branch).keys().filter_map(|name| below(name, prefix));
        let parts: BTreeSet<&str> = rests.filter_map(|rest| rest.split('/').next()).collect();
        Ok(page(parts.into_iter(), after, limit))
    }

    fn folders(
        &self,
        branch: Branch,
        name: &Name,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<String>, SourceError> {
        let state = self.0.read();
        let folders = state.folders(branch).get(name).into_iter().flat_map(|folders| folders.keys());
        Ok(page(folders.map(String::as_str), after, limit))
    }

    fn entry(&self, branch: Branch, name: &Name, folder: &str) -> Result<Option<Entry>, SourceError> {
        let state = self.0.read();
        let id = state.folders(branch).get(name).and_then(|folders| folders.get(folder));
        Ok(id.and_then(|id| state.entry(*id, name, folder)))
    }

    fn latest(&self, name: &Name) -> Result<Option<Entry>, SourceError> {
        let state = self.0.read();
        let last = state.latest.get(name).and_then(|history| history.last());
        let folder = |id: &ExecutionId| {
            let (folder, _) = state.tasks.get(name)?.iter().find(|(_, other)| *other == id)?;
            state.entry(*id, name, folder)
        };
        Ok(last.and_then(folder))
    }

    fn inputs(&self, entry: &Entry) -> Result<Arc<[Input]>, SourceError> {
        let state = self.0.read();
        let stored = state.executions.get(&entry.id).ok_or(SourceError::Stale)?;
        Ok(stored.inputs.iter().map(|(name, wanted)| state.input(name, wanted)).collect())
    }

    fn consumers(&self, entry: &Entry, after: Option<&Bytes>, limit: usize) -> Result<Consumers, SourceError> {
        let state = self.0.read();
        let after = match after.map(|after| <[u8; 16]>::try_from(&after[..])) {
            Some(Ok(id)) => Bound::Excluded(ExecutionId(id)),
            Some(Err(_)) => return Err(SourceError::NotFound),
            None => Bound::Unbounded,
        };
        let mut rest = state.executions.range((after, Bound::Unbounded));
        let (mut items, mut next) = (Vec::new(), None);
        // Looks at so many, rather than finds so many: pages may be short, or empty.
        for (id, stored) in rest.by_ref().take(limit) {
            items.extend(state.consumes(stored, entry.id).then(|| stored.place()));
            next = Some(Bytes::copy_from_slice(&id.0));
        }
        Ok(Consumers { items, next: next.filter(|_| rest.next().is_some()) })
    }

    fn is_consumer(&self, entry: &Entry, place: &Place) -> Result<Option<Place>, SourceError> {
        let state = self.0.read();
        let id = state.tasks.get(&place.name).and_then(|folders| folders.get(&place.folder));
        let stored = id.and_then(|id| state.executions.get(id)).filter(|stored| state.consumes(stored, entry.id));
        // Consumers are named by where they were made, not by where they were hit.
        Ok(stored.map(Stored::place).filter(|made| (&made.name, &made.folder) == (&place.name, &place.folder)))
    }

    fn schemes(&self) -> Result<Vec<String>, SourceError> {
        let state = self.0.read();
        let schemes: BTreeSet<&str> = state.executions.values().map(|stored| stored.entry.key.scheme()).collect();
        Ok(schemes.into_iter().map(str::to_owned).collect())
    }

    fn keys(&self, scheme: &str, after: Option<&str>, limit: usize) -> Result<Page<String>, SourceError> {
        let state = self.0.read();
        let ids: BTreeSet<&str> = state.records.keys().filter(|key| key.scheme() == scheme).map(TaskKey::id).collect();
        Ok(page(ids.into_iter(), after, limit))
    }

    fn record(&self, key: &TaskKey) -> Result<Option<Place>, SourceError> {
        let state = self.0.read();
        Ok(state.records.get(key).and_then(|id| state.executions.get(id)).map(Stored::place))
    }

    fn document(&self, entry: &Entry, which: Document) -> Result<Bytes, SourceError> {
        Ok(format!("{{\"execution\": \"{}\", \"document\": \"{which:?}\"}}\n", entry.id).into())
    }

    fn open(&self, digest: Digest) -> Result<Content, SourceError> {
        let bytes = self.0.read().blob(digest)?;
        content(digest, bytes)
    }
}
