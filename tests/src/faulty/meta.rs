//! The `Meta` seam that fails on purpose.

use std::sync::Arc;

use async_trait::async_trait;
use provender_core::batch::{Batch, BatchId, Fate, Row, RowKey, Version};
use provender_core::time::Timestamp;
use provender_daemon::meta::{Changes, CommitError, Meta, MetaError, Page, Scan, Snapshot};

use super::{Failure, Faulty, Planned, World};

fn unavailable(doing: &'static str) -> impl FnOnce(Failure) -> MetaError {
    move |_| MetaError::Unavailable { doing, source: Arc::new(Planned) }
}

#[async_trait]
impl Meta for Faulty<dyn Meta> {
    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, MetaError> {
        self.world.step("meta.get", self.inner.get(keys), unavailable("reading rows")).await
    }

    async fn scan(&self, scan: &Scan) -> Result<Page, MetaError> {
        self.world.step("meta.scan", self.inner.scan(scan), unavailable("scanning rows")).await
    }

    async fn commit(&self, batch: Batch) -> Result<Version, CommitError> {
        let (id, copy) = (batch.id, batch.clone());
        let failed = |failure| {
            let source = unavailable("committing")(failure);
            match failure {
                Failure::Refused => return CommitError::NotCommitted { source },
                Failure::Unknown => {}
                // It has left the daemon, so it arrives whatever becomes of that.
                Failure::Late(time) => {
                    let inner = self.inner.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(time).await;
                        _ = inner.commit(copy).await;
                    });
                }
            }
            CommitError::Unknown { id, source }
        };
        self.world.step("meta.commit", self.inner.commit(batch), failed).await
    }

    async fn resolve(&self, id: BatchId) -> Result<Fate, MetaError> {
        self.world.step("meta.resolve", self.inner.resolve(id), unavailable("deciding a batch")).await
    }

    async fn changes(&self, after: Version, limit: usize) -> Result<Changes, MetaError> {
        self.world.step("meta.changes", self.inner.changes(after, limit), unavailable("reading the feed")).await
    }

    /// No step: it waits as long as it takes, and cannot fail.
    async fn changed(&self, after: Version) {
        tokio::select! {
            biased;
            () = self.world.stopped() => std::future::pending().await,
            () = self.inner.changed(after) => self.world.alive().await,
        }
    }

    async fn trim(&self, feed: Version, made_before: Timestamp) -> Result<(), MetaError> {
        self.world.step("meta.trim", self.inner.trim(feed, made_before), unavailable("trimming the feed")).await
    }

    async fn head(&self) -> Result<Version, MetaError> {
        self.world.step("meta.head", self.inner.head(), unavailable("reading the head")).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, MetaError> {
        let inner = self.world.step("meta.snapshot", self.inner.snapshot(), unavailable("taking a snapshot")).await?;
        Ok(Box::new(FaultySnapshot { inner, world: self.world.clone() }))
    }
}

#[derive(Debug)]
struct FaultySnapshot {
    inner: Box<dyn Snapshot>,
    world: World,
}

#[async_trait]
impl Snapshot for FaultySnapshot {
    fn version(&self) -> Version {
        self.inner.version()
    }

    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, MetaError> {
        self.world.step("snapshot.get", self.inner.get(keys), unavailable("reading rows")).await
    }

    async fn scan(&self, scan: &Scan) -> Result<Page, MetaError> {
        self.world.step("snapshot.scan", self.inner.scan(scan), unavailable("scanning rows")).await
    }
}
