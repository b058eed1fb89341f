//! The mounted view's source, over a daemon that is reached by the client.
//!
//! Calls come from kernel threads and block; each ends within [`PATIENCE`], since a process that reads the mount cannot be killed
//! while it waits. What comes from the daemon is checked against its digest here, unless it is a part of a large blob: the daemon
//! checked that.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use provender_client::{Client, ClientError, Described};
use provender_core::name::Name;
use provender_core::provenance::{Branch, Place};
use provender_core::{Digest, Ref, TaskKey, Timestamp};
use provender_fuse::{Consumers, Content, Document, Entry, Input, Page, ReadAt, Source, SourceError};
use tokio::runtime::Handle;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest blob, in bytes, that is fetched whole when it is opened, and so is checked here.
const WHOLE: u64 = 4 << 20;
/// How many bytes of a larger one are fetched at once, and kept while it is read on.
const WINDOW: u64 = 4 << 20;

/// A daemon's store, as files.
#[derive(Debug, Clone)]
pub(crate) struct ClientSource {
    client: Client,
    runtime: Handle,
}

impl ClientSource {
    /// A source that asks through `client`, whose connection lives on `runtime`.
    pub(crate) fn new(client: Client, runtime: Handle) -> ClientSource {
        ClientSource { client, runtime }
    }

    fn ask<T>(&self, question: impl Future<Output = Result<T, ClientError>>) -> Result<T, SourceError> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, question).await });
        answer.map_err(|_| SourceError::TimedOut)?.map_err(refused)
    }
}

impl Source for ClientSource {
    fn changed(&self, branch: Branch, name: &Name) -> Result<Option<Timestamp>, SourceError> {
        self.ask(self.client.changed(branch, name))
    }

    fn children(
        &self,
        branch: Branch,
        prefix: Option<&Name>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<String>, SourceError> {
        self.ask(self.client.children(branch, prefix, after, limit)).map(page)
    }

    fn folders(
        &self,
        branch: Branch,
        name: &Name,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<String>, SourceError> {
        self.ask(self.client.folders(branch, name, after, limit)).map(page)
    }

    fn entry(&self, branch: Branch, name: &Name, folder: &str) -> Result<Option<Entry>, SourceError> {
        let found = self.ask(self.client.in_folder(branch, name, folder))?;
        Ok(found.and_then(|execution| Entry::at(&execution, name, folder)))
    }

    fn latest(&self, name: &Name) -> Result<Option<Entry>, SourceError> {
        let found = self.ask(self.client.latest_folder(name))?;
        Ok(found.and_then(|(execution, folder)| Entry::at(&execution, name, &folder)))
    }

    fn inputs(&self, entry: &Entry) -> Result<Arc<[Input]>, SourceError> {
        let found = self.ask(self.client.inputs(entry.id))?;
        Ok(found.into_iter().map(|(name, origin, input)| Input::new(name, origin, &input)).collect())
    }

    fn consumers(&self, entry: &Entry, after: Option<&Bytes>, limit: usize) -> Result<Consumers, SourceError> {
        let (items, next) = self.ask(self.client.consumers(entry.id, after.cloned(), limit))?;
        Ok(Consumers { items, next })
    }

    fn is_consumer(&self, entry: &Entry, place: &Place) -> Result<Option<Place>, SourceError> {
        self.ask(self.client.is_consumer(entry.id, &place.name, &place.folder))
    }

    fn schemes(&self) -> Result<Vec<String>, SourceError> {
        self.ask(self.client.schemes())
    }

    fn keys(&self, scheme: &str, after: Option<&str>, limit: usize) -> Result<Page<String>, SourceError> {
        self.ask(self.client.keys(scheme, after, limit)).map(page)
    }

    fn record(&self, key: &TaskKey) -> Result<Option<Place>, SourceError> {
        self.ask(self.client.record(key))
    }

    fn document(&self, entry: &Entry, which: Document) -> Result<Bytes, SourceError> {
        match self.ask(self.client.describe(&Ref::Execution(entry.id)))? {
            Described::Task(task) => Ok(which.render(&task.execution, &task.spec)),
            _ => Err(SourceError::NotFound),
        }
    }

    fn open(&self, digest: Digest) -> Result<Content, SourceError> {
        if digest.size <= WHOLE {
            return Ok(Content::Bytes(self.ask(self.client.bytes(&digest, WHOLE))?.into()));
        }
        // Whether it is there at all shows now, not at the first read.
        let missing = self.ask(self.client.find_missing(&[digest]))?;
        if !missing.is_empty() {
            return Err(SourceError::NotFound);
        }
        Ok(Content::Reader(Box::new(Remote { source: self.clone(), digest, window: Mutex::default() })))
    }
}

/// A large blob, read window by window.
struct Remote {
    source: ClientSource,
    digest: Digest,
    /// The last window, and where it begins.
    window: Mutex<(u64, Bytes)>,
}

impl ReadAt for Remote {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, SourceError> {
        if offset >= self.digest.size {
            return Ok(0);
        }
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let within = |(begins, bytes): &(u64, Bytes)| (*begins..*begins + bytes.len() as u64).contains(&offset);
        if !within(&window) {
            let begins = offset / WINDOW * WINDOW;
            *window = (begins, self.source.ask(self.fetch(begins))?);
        }
        let rest = &window.1[(offset - window.0) as usize..];
        let read = rest.len().min(buf.len());
        buf[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }
}

impl Remote {
    async fn fetch(&self, begins: u64) -> Result<Bytes, ClientError> {
        let length = WINDOW.min(self.digest.size - begins);
        let mut download = self.source.client.download(&self.digest, begins, length).await?;
        let mut bytes = BytesMut::with_capacity(length as usize);
        while let Some(piece) = download.next().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > length {
                break;
            }
        }
        if bytes.len() as u64 == length {
            Ok(bytes.freeze())
        } else {
            Err(ClientError::Corrupt { digest: self.digest })
        }
    }
}

fn page((items, more): (Vec<String>, bool)) -> Page<String> {
    Page { items, more }
}

fn refused(error: ClientError) -> SourceError {
    match error {
        ClientError::NotFound(_) => SourceError::NotFound,
        ClientError::Corrupt { .. } => SourceError::Damaged { what: error.to_string() },
        other => SourceError::Unavailable { source: Box::new(other) },
    }
}
