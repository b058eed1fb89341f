//! The mounted view's source on any machine: a daemon that is reached by the client, and a cache of what it said.
//!
//! Owns [`Remote`]. Calls come from kernel threads and block; each ends when the request's time is over, since a process that reads the mount
//! cannot be killed while it waits. What comes from the daemon is checked against its digest here, whatever the daemon did.
//! Answers are kept as they come, each under the whole question, the daemon's address and the space. With `--offline` nobody is asked: what was
//! answered once is answered so again, and what was not is an error. So a listing of which a page is missing fails instead of looking whole.

mod answers;
mod content;
mod link;

use std::sync::Arc;

use bytes::Bytes;
use provender_blobs::cache::Cache;
use provender_client::{Client, ClientError, Described};
use provender_core::name::{Name, Space};
use provender_core::provenance::{Branch, Place};
use provender_core::{Digest, Ref, TaskKey, Timestamp};
use provender_fuse::{Consumers, Content, Document, Entry, Input, Page, Source, SourceError};

use self::answers::{Answer, Question, decode, encode};
use self::content::Contents;
pub(crate) use self::link::Link;

/// A daemon's store as files, or what is remembered of it.
#[derive(Debug)]
pub(crate) struct Remote {
    /// None: offline.
    link: Option<Link>,
    cache: Cache,
    contents: Contents,
    /// Whose answers these are.
    scope: String,
}

impl Remote {
    /// The store at `address`, by way of `link` if it may be asked at all. What it says is kept in `cache`.
    pub(crate) fn new(address: &str, link: Option<Link>, cache: Cache) -> Remote {
        let scope = format!("{address}\n{}", Space::default().as_str());
        let contents = Contents::new(link.clone(), cache.clone());
        Remote { link, cache, contents, scope }
    }

    fn question(&self, kind: &'static str) -> Question {
        Question::new(&self.scope, kind)
    }

    /// Asks the daemon and keeps what it says; offline, says what it said.
    fn answer<T: Answer>(
        &self,
        question: Question,
        ask: impl AsyncFnOnce(&Client) -> Result<T, ClientError>,
    ) -> Result<T, SourceError> {
        let kind = question.kind();
        let key = question.key();
        match &self.link {
            Some(link) => {
                let answer = link.ask(ask)?;
                self.cache.remember(&key, &encode(&answer));
                Ok(answer)
            }
            None => self.cache.recall(&key).and_then(|kept| decode(&kept)).ok_or_else(|| content::not_cached(kind)),
        }
    }

    /// The same for what never changes: if it is known, nobody is asked.
    fn settled<T: Answer>(
        &self,
        question: Question,
        ask: impl AsyncFnOnce(&Client) -> Result<T, ClientError>,
    ) -> Result<T, SourceError> {
        match self.cache.recall(&question.clone().key()).and_then(|kept| decode(&kept)) {
            Some(known) => Ok(known),
            None => self.answer(question, ask),
        }
    }
}

impl Source for Remote {
    fn changed(&self, branch: Branch, name: &Name) -> Result<Option<Timestamp>, SourceError> {
        let question = self.question("changed").branch(branch).text(name.as_str());
        self.answer(question, async |client| client.changed(branch, name).await)
    }

    fn children(
        &self,
        branch: Branch,
        prefix: Option<&Name>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<String>, SourceError> {
        let prefix_text = prefix.map(Name::as_str).unwrap_or_default();
        let question = self.question("children").branch(branch).text(prefix_text).page(after, limit);
        self.answer(question, async |client| client.children(branch, prefix, after, limit).await.map(page))
    }

    fn folders(
        &self,
        branch: Branch,
        name: &Name,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<String>, SourceError> {
        let question = self.question("folders").branch(branch).text(name.as_str()).page(after, limit);
        self.answer(question, async |client| client.folders(branch, name, after, limit).await.map(page))
    }

    fn entry(&self, branch: Branch, name: &Name, folder: &str) -> Result<Option<Entry>, SourceError> {
        let question = self.question("entry").branch(branch).text(name.as_str()).text(folder);
        self.answer(question, async |client| {
            let found = client.in_folder(branch, name, folder).await?;
            Ok(found.and_then(|execution| Entry::at(&execution, name, folder)))
        })
    }

    fn latest(&self, name: &Name) -> Result<Option<Entry>, SourceError> {
        self.answer(self.question("latest").text(name.as_str()), async |client| {
            let found = client.latest_folder(name).await?;
            Ok(found.and_then(|(execution, folder)| Entry::at(&execution, name, &folder)))
        })
    }

    fn inputs(&self, entry: &Entry) -> Result<Arc<[Input]>, SourceError> {
        let found = self.answer(self.question("inputs").bytes(&entry.id.0), async |client| {
            let found = client.inputs(entry.id).await?;
            Ok(found.into_iter().map(|(name, origin, input)| Input::new(name, origin, &input)).collect::<Vec<_>>())
        });
        found.map(Arc::from)
    }

    fn consumers(&self, entry: &Entry, after: Option<&Bytes>, limit: usize) -> Result<Consumers, SourceError> {
        let cursor = after.map(|after| &after[..]).unwrap_or_default();
        let question = self.question("consumers").bytes(&entry.id.0).bytes(cursor).number(limit as u64);
        self.answer(question, async |client| {
            let (items, next) = client.consumers(entry.id, after.cloned(), limit).await?;
            Ok(Consumers { items, next })
        })
    }

    fn is_consumer(&self, entry: &Entry, place: &Place) -> Result<Option<Place>, SourceError> {
        let question = self.question("is consumer").bytes(&entry.id.0).text(place.name.as_str()).text(&place.folder);
        self.answer(question, async |client| client.is_consumer(entry.id, &place.name, &place.folder).await)
    }

    fn schemes(&self) -> Result<Vec<String>, SourceError> {
        self.answer(self.question("schemes"), async |client| client.schemes().await)
    }

    fn keys(&self, scheme: &str, after: Option<&str>, limit: usize) -> Result<Page<String>, SourceError> {
        let question = self.question("keys").text(scheme).page(after, limit);
        self.answer(question, async |client| client.keys(scheme, after, limit).await.map(page))
    }

    fn record(&self, key: &TaskKey) -> Result<Option<Place>, SourceError> {
        self.answer(self.question("record").text(key.as_str()), async |client| client.record(key).await)
    }

    fn document(&self, entry: &Entry, which: Document) -> Result<Bytes, SourceError> {
        let kind = match which {
            Document::Record => "record.json",
            Document::Spec => "spec.json",
        };
        self.settled(self.question(kind).bytes(&entry.id.0), async |client| {
            match client.describe(&Ref::Execution(entry.id)).await? {
                Described::Task(task) => Ok(which.render(&task.execution, &task.spec)),
                _ => Err(ClientError::NotFound(format!("exec:{} is no execution", entry.id))),
            }
        })
    }

    fn open(&self, digest: Digest) -> Result<Content, SourceError> {
        self.contents.open(digest)
    }
}

fn page((items, more): (Vec<String>, bool)) -> Page<String> {
    Page { items, more }
}

#[cfg(test)]
mod tests;
