//! The mounted view's source, over the store in this process.
//!
//! Calls come from kernel threads and block; each ends within [`PATIENCE`], since a process that reads the mount cannot be killed
//! while it waits.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use provender_core::name::{Name, Space};
use provender_core::provenance::Branch;
use provender_core::{Digest, Timestamp, Tree, json};
use provender_fuse::{Content, Document, Entry, Page, Source, SourceError};
use tokio::runtime::Handle;

use crate::store::{self, Store, StoreError};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One space of a store, as files.
#[derive(Debug)]
pub struct StoreSource {
    store: Store,
    space: Space,
    runtime: Handle,
}

impl StoreSource {
    /// A source that runs its questions on `runtime`.
    pub fn new(store: Store, space: Space, runtime: Handle) -> StoreSource {
        StoreSource { store, space, runtime }
    }

    fn ask<T>(&self, question: impl Future<Output = Result<T, StoreError>>) -> Result<T, SourceError> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, question).await });
        answer.map_err(|_| SourceError::TimedOut)?.map_err(refused)
    }
}

impl Source for StoreSource {
    fn changed(&self, name: &Name) -> Result<Option<Timestamp>, SourceError> {
        self.ask(self.store.changed(&self.space, Branch::Tasks, name))
    }

    fn children(&self, prefix: Option<&Name>, after: Option<&str>, limit: usize) -> Result<Page<String>, SourceError> {
        let (items, more) = self.ask(self.store.children(&self.space, Branch::Tasks, prefix, after, limit))?;
        Ok(Page { items, more })
    }

    fn folders(&self, name: &Name, after: Option<&str>, limit: usize) -> Result<Page<String>, SourceError> {
        let (items, more) = self.ask(self.store.folders(&self.space, Branch::Tasks, name, after, limit))?;
        Ok(Page { items, more })
    }

    fn entry(&self, name: &Name, folder: &str) -> Result<Option<Entry>, SourceError> {
        let found = self.ask(self.store.in_folder(&self.space, Branch::Tasks, name, folder))?;
        // Under another name than it was made under, an execution stands in a folder of that name.
        let here = |entry| Entry { name: name.clone(), folder: folder.to_owned(), ..entry };
        Ok(found.as_ref().and_then(Entry::of).map(here))
    }

    fn latest(&self, name: &Name) -> Result<Option<Entry>, SourceError> {
        let Some((execution, folder)) = self.ask(self.store.latest_folder(&self.space, name))? else { return Ok(None) };
        Ok(Entry::of(&execution).map(|entry| Entry { name: name.clone(), folder, ..entry }))
    }

    fn document(&self, entry: &Entry, which: Document) -> Result<Bytes, SourceError> {
        let (execution, spec) = self.ask(self.store.execution_and_spec(&self.space, entry.id))?;
        let value = match which {
            Document::Record => json::execution(&execution),
            Document::Spec => json::spec(&spec),
        };
        Ok(format!("{value:#}\n").into())
    }

    fn tree(&self, digest: Digest) -> Result<Arc<Tree>, SourceError> {
        self.ask(self.store.tree(&self.space, &digest)).map(Arc::new)
    }

    fn open(&self, digest: Digest) -> Result<Content, SourceError> {
        Ok(match self.ask(self.store.content(&self.space, &digest))? {
            store::Content::Bytes(bytes) => Content::Bytes(bytes),
            store::Content::File(file) => Content::Fd(file),
        })
    }
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
