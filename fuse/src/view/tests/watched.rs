//! A source that counts what it is asked for, can be made to wait before it gives a directory, and to lie.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};

use bytes::Bytes;
use provender_core::provenance::{Origin, Place};

use super::*;
use crate::source::{Branch, Consumers, Content, Document, Input, Page};

/// A content of one's own for a digest, or none.
pub(crate) type Instead = Box<dyn Fn(&Digest) -> Option<Content> + Send + Sync>;

pub(crate) struct Watched {
    pub(crate) inner: Arc<MemorySource>,
    pub(super) asked: AtomicUsize,
    /// Says that it waits, and for what.
    pub(super) gate: Option<(Sender<()>, Mutex<Receiver<()>>)>,
    /// What it says instead of each folder and scheme.
    pub(super) twisted: Option<&'static str>,
    /// What it gives instead of a content.
    pub(crate) instead: Option<Instead>,
    /// Called at each question.
    pub(super) pause: fn(),
}

impl Watched {
    pub(super) fn new(inner: Arc<MemorySource>) -> Watched {
        Watched { inner, asked: AtomicUsize::new(0), gate: None, twisted: None, instead: None, pause: || {} }
    }

    /// How many questions there were since the last time.
    pub(super) fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }

    fn count<T>(&self, answer: T) -> T {
        self.asked.fetch_add(1, Ordering::Relaxed);
        (self.pause)();
        answer
    }

    fn twist(&self, word: String) -> String {
        self.twisted.map_or(word, str::to_owned)
    }

    fn twist_place(&self, place: Place) -> Place {
        Place { folder: self.twist(place.folder), ..place }
    }

    fn twist_entry(&self, entry: Entry) -> Entry {
        let name = if self.twisted.is_some() { name("else/where/now") } else { entry.name };
        Entry { folder: self.twist(entry.folder), name, ..entry }
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
        let Page { items, more } = self.count(self.inner.folders(branch, name, after, limit))?;
        Ok(Page { items: items.into_iter().map(|folder| self.twist(folder)).collect(), more })
    }
    fn entry(&self, branch: Branch, name: &Name, folder: &str) -> Result<Option<Entry>, SourceError> {
        Ok(self.count(self.inner.entry(branch, name, folder))?.map(|entry| self.twist_entry(entry)))
    }
    fn latest(&self, name: &Name) -> Result<Option<Entry>, SourceError> {
        Ok(self.count(self.inner.latest(name))?.map(|entry| self.twist_entry(entry)))
    }
    fn inputs(&self, entry: &Entry) -> Result<Arc<[Input]>, SourceError> {
        let inputs = self.count(self.inner.inputs(entry))?;
        let twist = |input: &Input| match &input.origin {
            Origin::Made(place) => Input { origin: Origin::Made(self.twist_place(place.clone())), ..input.clone() },
            _ => input.clone(),
        };
        Ok(inputs.iter().map(twist).collect())
    }
    fn consumers(&self, entry: &Entry, after: Option<&Bytes>, limit: usize) -> Result<Consumers, SourceError> {
        let after = after.filter(|_| self.twisted.is_none());
        let Consumers { items, next } = self.count(self.inner.consumers(entry, after, limit))?;
        // Once twisted, each page is followed by itself.
        let next = if self.twisted.is_some() { Some(Bytes::from_static(b"again")) } else { next };
        Ok(Consumers { items: items.into_iter().map(|place| self.twist_place(place)).collect(), next })
    }
    fn is_consumer(&self, entry: &Entry, place: &Place) -> Result<Option<Place>, SourceError> {
        self.count(self.inner.is_consumer(entry, place))
    }
    fn schemes(&self) -> Result<Vec<String>, SourceError> {
        Ok(self.count(self.inner.schemes())?.into_iter().map(|scheme| self.twist(scheme)).collect())
    }
    fn keys(&self, scheme: &str, after: Option<&str>, limit: usize) -> Result<Page<String>, SourceError> {
        self.count(self.inner.keys(scheme, after, limit))
    }
    fn record(&self, key: &TaskKey) -> Result<Option<Place>, SourceError> {
        Ok(self.count(self.inner.record(key))?.map(|place| self.twist_place(place)))
    }
    fn document(&self, entry: &Entry, which: Document) -> Result<Bytes, SourceError> {
        self.count(self.inner.document(entry, which))
    }
    fn open(&self, digest: Digest) -> Result<Content, SourceError> {
        if let Some((entered, gate)) = &self.gate {
            entered.send(()).expect("the test listens");
            let _ = gate.lock().recv();
        }
        match self.instead.as_ref().and_then(|instead| instead(&digest)) {
            Some(content) => Ok(self.count(content)),
            None => self.count(self.inner.open(digest)),
        }
    }
}
