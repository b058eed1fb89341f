//! Metadata in an embedded RocksDB: the default, one daemon.
//!
//! Owns the database, its writer thread, and what its errors mean. Invariant: everything is written through [`Database`] with
//! the turn held and the log synced, so nothing is visible before it is durable.

mod database;
mod format;
mod frozen;
mod log;
mod options;
mod room;
mod slot;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use provender_core::batch::{Batch, BatchId, Fate, Row, RowKey, Table, Version};
use provender_core::time::Timestamp;
use serde::Deserialize;
use tokio::runtime::{Handle, RuntimeFlavor};

use self::database::Database;
use self::slot::Slot;
use super::group::{self, Failure, Groups, Outcome, Queue};
use super::{Beside, Changes, CommitError, Meta, MetaError, Page, Scan, Snapshot};

/// Up to so many point reads are made on the calling thread: handing them over would cost more than they do.
const INLINE_READS: usize = 8;

/// Sizes of the embedded engine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RocksConfig {
    /// Bytes of memory for what was read, indexes and filters included.
    pub cache_bytes: usize,
    /// Bytes of memory for what was written and is not in sorted files yet; also about how much log a start reads.
    pub write_buffer_bytes: usize,
}

impl Default for RocksConfig {
    fn default() -> RocksConfig {
        RocksConfig { cache_bytes: 64 << 20, write_buffer_bytes: 64 << 20 }
    }
}

/// The engine.
#[derive(Debug)]
pub(super) struct Rocks {
    slot: Arc<Slot>,
    /// `None` only while it is dropped.
    queue: Option<Queue>,
    writer: Option<JoinHandle<()>>,
}

impl Rocks {
    pub(super) async fn open(config: &RocksConfig, dir: &Path) -> Result<Rocks, MetaError> {
        let (config, dir) = (config.clone(), dir.to_owned());
        let slot = Arc::new(blocking(move || Slot::open(&config, &dir)).await?);
        let (queue, groups) = group::queue();
        let writer = std::thread::Builder::new()
            .name("meta-writer".into())
            .spawn({
                let slot = Arc::clone(&slot);
                move || write(&slot, groups)
            })
            .map_err(|error| MetaError::unavailable("starting the writer thread", error))?;
        Ok(Rocks { slot, queue: Some(queue), writer: Some(writer) })
    }

    async fn on<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, MetaError> + Send + 'static,
    ) -> Result<T, MetaError> {
        let slot = Arc::clone(&self.slot);
        blocking(move || work(&*slot.get()?)).await
    }
}

/// Closes the database before it returns, unless a read is still going on.
impl Drop for Rocks {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has nothing left to finish.
            let _ = writer.join();
        }
    }
}

fn write(slot: &Slot, mut groups: Groups) {
    while let Some(joined) = groups.next_blocking() {
        let outcome = slot.get().map_err(Failure::NotCommitted).and_then(|database| database.apply(&joined.batches));
        let failed = !matches!(&outcome, Ok(Outcome { applied: Ok(()), .. }));
        joined.answer(outcome);
        if failed {
            slot.revive();
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MetaError> + Send + 'static,
) -> Result<T, MetaError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(MetaError::unavailable("reading", error)))
}

#[async_trait]
impl Meta for Rocks {
    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, MetaError> {
        if keys.len() <= INLINE_READS && keys.iter().all(|key| !matches!(key.table, Table::Inline | Table::Outboard)) {
            return self.slot.get()?.get(keys);
        }
        // In place where that can be: to hand them to another thread and back takes as long as many reads.
        if Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
            return tokio::task::block_in_place(|| self.slot.get()?.get(keys));
        }
        let keys = keys.to_vec();
        self.on(move |database| database.get(&keys)).await
    }

    async fn scan(&self, scan: &Scan) -> Result<Page, MetaError> {
        let scan = scan.clone();
        self.on(move |database| database.scan(&scan)).await
    }

    async fn commit(&self, batch: Batch) -> Result<Version, CommitError> {
        match &self.queue {
            Some(queue) => queue.commit(batch).await,
            None => Err(CommitError::NotCommitted { source: MetaError::Closed }),
        }
    }

    async fn resolve(&self, id: BatchId) -> Result<Fate, MetaError> {
        self.on(move |database| database.resolve(id)).await
    }

    async fn changes(&self, after: Version, limit: usize) -> Result<Changes, MetaError> {
        self.on(move |database| database.changes(after, limit)).await
    }

    async fn changed(&self, after: Version) {
        self.slot.feed.changed(after).await;
    }

    async fn trim(&self, feed: Version, made_before: Timestamp) -> Result<(), MetaError> {
        self.on(move |database| database.trim(feed, made_before)).await
    }

    async fn head(&self) -> Result<Version, MetaError> {
        Ok(self.slot.feed.head())
    }

    async fn verify(&self, after: Option<Bytes>) -> Result<Beside, MetaError> {
        self.on(move |database| database.verify(after.as_deref())).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, MetaError> {
        Ok(Box::new(frozen::Frozen::take(self.slot.get()?).await?))
    }
}

#[cfg(test)]
mod tests;
