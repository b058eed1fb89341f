//! The mounted view's source, over the store in this process.
//!
//! Calls come from kernel threads and block; each ends when the request's time is over, since a process that reads the mount cannot be
//! killed while it waits.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use provender_blobs::cache::{Cache, Fetch, FetchError, ReadError, Stream};
use provender_blobs::held::{Held, Keeping, Open};
use provender_core::name::{Name, Space};
use provender_core::provenance::{Branch, Place};
use provender_core::{Digest, TaskKey, Timestamp};
use provender_fuse::{Consumers, Content, Document, Entry, Input, Page, ReadAt, Source, SourceError, time_left};
use tokio::runtime::Handle;

use crate::store::{self, Store, StoreError};

/// One space of a store, as files.
#[derive(Debug, Clone)]
pub struct StoreSource {
    store: Store,
    space: Space,
    runtime: Handle,
    /// What is not a file of the store's becomes one here, as it is read.
    cache: Cache,
    /// What is open of that.
    open: Open,
    _keeping: Arc<Keeping>,
}

impl StoreSource {
    /// A source that runs its questions on `runtime`.
    pub fn new(store: Store, space: Space, runtime: Handle, cache: Cache) -> StoreSource {
        let open = Open::default();
        let asked = (store.clone(), space.clone());
        let keeping = open.keep(&runtime, move |digests| {
            let (store, space) = asked.clone();
            async move { store.find_missing(&space, &digests).await.ok().map(|_| Some(store.protects())) }
        });
        StoreSource { store, space, runtime, cache, open, _keeping: Arc::new(keeping) }
    }

    /// A blob that stands in no file by itself: compressed, or elsewhere.
    fn stream(&self, digest: Digest) -> Result<Content, SourceError> {
        if let Some(file) = self.cache.file(&digest) {
            return Ok(Content::Fd(file));
        }
        let stream = match self.cache.streaming(&digest) {
            Some(stream) => stream,
            None => {
                let proof = self.ask(self.store.proof(&self.space, &digest))?;
                let unproven = || SourceError::Damaged { what: format!("{digest}: its parts cannot be proven") };
                let parts = Parts { source: self.clone(), digest };
                self.cache.stream(proof.ok_or_else(unproven)?, Arc::new(parts))
            }
        };
        Ok(Content::Reader(Box::new(Streamed { stream, _held: self.open.hold(digest) })))
    }

    fn ask<T>(&self, question: impl Future<Output = Result<T, StoreError>>) -> Result<T, SourceError> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(time_left(), question).await });
        answer.map_err(|_| SourceError::TimedOut)?.map_err(refused)
    }
}

impl Source for StoreSource {
    fn changed(&self, branch: Branch, name: &Name) -> Result<Option<Timestamp>, SourceError> {
        self.ask(self.store.changed(&self.space, branch, name))
    }

    fn children(
        &self,
        branch: Branch,
        prefix: Option<&Name>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<String>, SourceError> {
        self.ask(self.store.children(&self.space, branch, prefix, after, limit)).map(page)
    }

    fn folders(
        &self,
        branch: Branch,
        name: &Name,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<String>, SourceError> {
        self.ask(self.store.folders(&self.space, branch, name, after, limit)).map(page)
    }

    fn entry(&self, branch: Branch, name: &Name, folder: &str) -> Result<Option<Entry>, SourceError> {
        let found = self.ask(self.store.in_folder(&self.space, branch, name, folder))?;
        Ok(found.and_then(|execution| Entry::at(&execution, name, folder)))
    }

    fn latest(&self, name: &Name) -> Result<Option<Entry>, SourceError> {
        let found = self.ask(self.store.latest_folder(&self.space, name))?;
        Ok(found.and_then(|(execution, folder)| Entry::at(&execution, name, &folder)))
    }

    fn inputs(&self, entry: &Entry) -> Result<Arc<[Input]>, SourceError> {
        let found = self.ask(self.store.inputs(&self.space, entry.id))?;
        Ok(found.into_iter().map(|(name, origin, input)| Input::new(name, origin, &input)).collect())
    }

    fn consumers(&self, entry: &Entry, after: Option<&Bytes>, limit: usize) -> Result<Consumers, SourceError> {
        let (items, next) = self.ask(self.store.consumers(&self.space, entry.id, after.cloned(), limit))?;
        Ok(Consumers { items, next })
    }

    fn is_consumer(&self, entry: &Entry, place: &Place) -> Result<Option<Place>, SourceError> {
        self.ask(self.store.is_consumer(&self.space, entry.id, &place.name, &place.folder))
    }

    fn schemes(&self) -> Result<Vec<String>, SourceError> {
        self.ask(self.store.schemes(&self.space))
    }

    fn keys(&self, scheme: &str, after: Option<&str>, limit: usize) -> Result<Page<String>, SourceError> {
        self.ask(self.store.keys(&self.space, scheme, after, limit)).map(page)
    }

    fn record(&self, key: &TaskKey) -> Result<Option<Place>, SourceError> {
        self.ask(self.store.record(&self.space, key))
    }

    fn document(&self, entry: &Entry, which: Document) -> Result<Bytes, SourceError> {
        let (execution, spec) = self.ask(self.store.execution_and_spec(&self.space, entry.id))?;
        Ok(which.render(&execution, &spec))
    }

    fn open(&self, digest: Digest) -> Result<Content, SourceError> {
        Ok(match self.ask(self.store.content(&self.space, &digest))? {
            store::Content::Bytes(bytes) => Content::Bytes(bytes),
            store::Content::File(file) => Content::Fd(file),
            store::Content::Parts => self.stream(digest)?,
        })
    }
}

/// A blob's parts, from the store.
struct Parts {
    source: StoreSource,
    digest: Digest,
}

impl Fetch for Parts {
    fn fetch(&self, range: Range<u64>) -> Result<Bytes, FetchError> {
        let StoreSource { store, space, .. } = &self.source;
        self.source.ask(store.read_part(space, &self.digest, range)).map_err(|error| Arc::new(error) as FetchError)
    }
}

/// A blob that is read through the cache, as the view reads.
struct Streamed {
    stream: Arc<Stream>,
    _held: Held,
}

impl ReadAt for Streamed {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, SourceError> {
        self.stream.read_at(buf, offset, time_left()).map_err(|error| match error {
            ReadError::TimedOut => SourceError::TimedOut,
            ReadError::Fetch(cause) => SourceError::Unavailable { source: cause.to_string().into() },
            error => SourceError::Damaged { what: error.to_string() },
        })
    }
}

fn page((items, more): (Vec<String>, bool)) -> Page<String> {
    Page { items, more }
}

fn refused(error: StoreError) -> SourceError {
    match error {
        StoreError::NotFound { .. } => SourceError::NotFound,
        StoreError::Lost { .. } | StoreError::Tree { .. } | StoreError::Row { .. } => {
            SourceError::Damaged { what: error.to_string() }
        }
        other => SourceError::Unavailable { source: Box::new(other) },
    }
}
