//! The shared metadata as the truth sees it: beneath all faults, each commit at the moment at which it happens.

use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use provender_core::batch::{Batch, BatchId, Fate, Row, RowKey, Version};
use provender_core::time::Timestamp;
use provender_daemon::meta::{Changes, CommitError, Memory, Meta, MetaError, Page, Scan, Snapshot};

use super::{Sim, rules};

/// One daemon's connection to the shared metadata.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) sim: Arc<Sim>,
    pub(super) daemon: usize,
}

impl Observed {
    fn inner(&self) -> &Memory {
        &self.sim.meta
    }
}

#[async_trait]
impl Meta for Observed {
    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, MetaError> {
        self.inner().get(keys).await
    }

    async fn scan(&self, scan: &Scan) -> Result<Page, MetaError> {
        self.inner().scan(scan).await
    }

    async fn commit(&self, batch: Batch) -> Result<Version, CommitError> {
        let before = self.inner().head().await.unwrap_or_default();
        let version = self.inner().commit(batch.clone()).await?;
        // A batch that was committed before gives its old version.
        if version > before {
            let now = self.sim.clocks.time();
            let mut ledger = self.sim.ledger();
            // Nothing in memory waits, so this is still the moment of the commit.
            let judged = rules::committed(&mut ledger, &*self.sim.blobs, self.daemon, now, &batch).now_or_never();
            drop(ledger);
            for event in judged.expect("nothing in memory waits") {
                self.sim.event("commit", format_args!("{event}"));
            }
            self.sim.changed.notify_waiters();
        }
        Ok(version)
    }

    async fn resolve(&self, id: BatchId) -> Result<Fate, MetaError> {
        self.inner().resolve(id).await
    }

    async fn changes(&self, after: Version, limit: usize) -> Result<Changes, MetaError> {
        self.inner().changes(after, limit).await
    }

    /// The engine's own would wake its followers in an order that no seed decides.
    async fn changed(&self, after: Version) {
        loop {
            let changed = self.sim.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.inner().head().await.is_ok_and(|head| head > after) {
                return;
            }
            changed.await;
        }
    }

    async fn trim(&self, feed: Version, made_before: Timestamp) -> Result<(), MetaError> {
        self.inner().trim(feed, made_before).await
    }

    async fn head(&self) -> Result<Version, MetaError> {
        self.inner().head().await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, MetaError> {
        self.inner().snapshot().await
    }
}
