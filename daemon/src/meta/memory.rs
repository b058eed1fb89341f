//! Metadata in memory, gone with the process: for tests, and the plainest reading of what the seam promises.
//!
//! Owns a mutex over sorted maps. A clone is another handle on the same storage.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use provender_core::batch::{Batch, BatchId, Change, Fate, Group, Row, RowKey, Version, Writes};
use provender_core::time::Timestamp;

use super::feed::{self, Feed};
use super::group::refused;
use super::{Changes, CommitError, Meta, MetaError, Page, Scan, Snapshot};

/// The engine, and a handle on it.
#[derive(Debug, Clone)]
pub struct Memory {
    state: Arc<Mutex<State>>,
    feed: Arc<Feed>,
}

#[derive(Debug)]
struct State {
    rows: BTreeMap<RowKey, Row>,
    feed: BTreeMap<Version, Vec<Change>>,
    fates: BTreeMap<BatchId, Fate>,
    head: Version,
    trimmed: Version,
    oldest: BatchId,
}

impl Default for Memory {
    fn default() -> Memory {
        let state = State {
            rows: BTreeMap::new(),
            feed: BTreeMap::new(),
            fates: BTreeMap::new(),
            head: Version(0),
            trimmed: Version(0),
            oldest: BatchId::MIN,
        };
        Memory { state: Arc::new(Mutex::new(state)), feed: Arc::new(Feed::at(Version(0))) }
    }
}

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn group(&self, batch: &Batch) -> Group {
        let keys = Group::keys([batch]);
        let versions = keys.into_iter().filter_map(|key| self.rows.get(&key).map(|row| (key, row.version)));
        let fates = self.fates.get(&batch.id).map(|fate| (batch.id, *fate)).into_iter();
        Group::new(self.head, versions.collect(), fates.collect(), self.oldest)
    }

    fn apply(&mut self, writes: Writes) {
        self.head = writes.head;
        for (key, (version, value)) in writes.rows {
            match value {
                Some(value) => self.rows.insert(key, Row { version, value }),
                None => self.rows.remove(&key),
            };
        }
        for change in writes.changes {
            self.feed.entry(change.version).or_default().push(change);
        }
        self.fates.extend(writes.ids.into_iter().map(|(id, version)| (id, Fate::Committed(version))));
    }
}

#[async_trait]
impl Meta for Memory {
    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, MetaError> {
        let state = self.state();
        Ok(keys.iter().map(|key| state.rows.get(key).cloned()).collect())
    }

    async fn scan(&self, scan: &Scan) -> Result<Page, MetaError> {
        page(&self.state().rows, scan)
    }

    async fn commit(&self, batch: Batch) -> Result<Version, CommitError> {
        let mut state = self.state();
        let mut group = state.group(&batch);
        let id = batch.id;
        let version = group.admit(&batch).or_else(|refusal| refused(id, refusal))?;
        let writes = group.into_writes();
        let fed = writes.changes.last().map(|change| change.version);
        state.apply(writes);
        self.feed.advance(state.head, fed);
        Ok(version)
    }

    async fn resolve(&self, id: BatchId) -> Result<Fate, MetaError> {
        let mut state = self.state();
        match state.fates.get(&id) {
            Some(fate) => Ok(*fate),
            None if id < state.oldest => Err(MetaError::Forgotten { id }),
            None => {
                state.fates.insert(id, Fate::Aborted);
                Ok(Fate::Aborted)
            }
        }
    }

    async fn changes(&self, after: Version, limit: usize) -> Result<Changes, MetaError> {
        let state = self.state();
        if after < state.trimmed || after > state.head {
            return Err(MetaError::Trimmed { oldest: state.trimmed });
        }
        let next = Version(after.0 + 1);
        feed::page(state.head, limit, state.feed.range(next..).flat_map(|(_, changes)| changes).cloned().map(Ok))
    }

    async fn changed(&self, after: Version) {
        self.feed.changed(after).await;
    }

    async fn trim(&self, feed: Version, made_before: Timestamp) -> Result<(), MetaError> {
        let mut state = self.state();
        state.trimmed = feed.min(state.head).max(state.trimmed);
        state.oldest = BatchId::new(made_before, [0; 10]).max(state.oldest);
        let (kept, oldest) = (Version(state.trimmed.0 + 1), state.oldest);
        state.feed = state.feed.split_off(&kept);
        state.fates = state.fates.split_off(&oldest);
        Ok(())
    }

    async fn head(&self) -> Result<Version, MetaError> {
        Ok(self.state().head)
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, MetaError> {
        let state = self.state();
        Ok(Box::new(Frozen { version: state.head, rows: state.rows.clone() }))
    }
}

fn page(rows: &BTreeMap<RowKey, Row>, scan: &Scan) -> Result<Page, MetaError> {
    let first = RowKey { table: scan.table, key: scan.first() };
    let each = |(key, row): (&RowKey, &Row)| Ok::<(Bytes, Row), MetaError>((key.key.clone(), row.clone()));
    let inside = |(key, _): &(&RowKey, &Row)| key.table == scan.table && key.key.starts_with(&scan.prefix);
    scan.page(rows.range(first..).take_while(inside).map(each))
}

/// A copy of all rows, whose bytes are shared.
#[derive(Debug)]
struct Frozen {
    version: Version,
    rows: BTreeMap<RowKey, Row>,
}

#[async_trait]
impl Snapshot for Frozen {
    fn version(&self) -> Version {
        self.version
    }

    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, MetaError> {
        Ok(keys.iter().map(|key| self.rows.get(key).cloned()).collect())
    }

    async fn scan(&self, scan: &Scan) -> Result<Page, MetaError> {
        page(&self.rows, scan)
    }
}
