//! An engine that counts what is read and written.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use provender_core::batch::{Batch, BatchId, Fate, Row, RowKey, Version};
use provender_core::time::Timestamp;

use crate::meta::{Changes, CommitError, Meta, MetaError, Page, Scan, Snapshot};

#[derive(Debug)]
pub(in crate::store) struct Counting {
    inner: Arc<dyn Meta>,
    reads: AtomicUsize,
    scanned: AtomicUsize,
    got: AtomicUsize,
    written: AtomicUsize,
}

impl Counting {
    pub(in crate::store) fn new(inner: Arc<dyn Meta>) -> Counting {
        let none = || AtomicUsize::new(0);
        Counting { inner, reads: none(), scanned: none(), got: none(), written: none() }
    }

    /// Reads since the last reset: calls, each of which gets or scans many rows.
    pub(in crate::store) fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    /// Rows that scans gave, ever.
    pub(in crate::store) fn rows(&self) -> usize {
        self.scanned.load(Ordering::SeqCst)
    }

    /// Rows that were asked for by key, ever.
    pub(in crate::store) fn got(&self) -> usize {
        self.got.load(Ordering::SeqCst)
    }

    /// Rows that batches wrote or deleted, ever.
    pub(in crate::store) fn written(&self) -> usize {
        self.written.load(Ordering::SeqCst)
    }

    pub(in crate::store) fn reset(&self) {
        self.reads.store(0, Ordering::SeqCst);
    }
}

#[async_trait]
impl Meta for Counting {
    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, MetaError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.got.fetch_add(keys.len(), Ordering::SeqCst);
        self.inner.get(keys).await
    }

    async fn scan(&self, scan: &Scan) -> Result<Page, MetaError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let page = self.inner.scan(scan).await?;
        self.scanned.fetch_add(page.rows.len(), Ordering::SeqCst);
        Ok(page)
    }

    async fn commit(&self, batch: Batch) -> Result<Version, CommitError> {
        self.written.fetch_add(batch.writes.len(), Ordering::SeqCst);
        self.inner.commit(batch).await
    }

    async fn resolve(&self, id: BatchId) -> Result<Fate, MetaError> {
        self.inner.resolve(id).await
    }

    async fn changes(&self, after: Version, limit: usize) -> Result<Changes, MetaError> {
        self.inner.changes(after, limit).await
    }

    async fn changed(&self, after: Version) {
        self.inner.changed(after).await;
    }

    async fn trim(&self, feed: Version, made_before: Timestamp) -> Result<(), MetaError> {
        self.inner.trim(feed, made_before).await
    }

    async fn head(&self) -> Result<Version, MetaError> {
        self.inner.head().await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, MetaError> {
        self.inner.snapshot().await
    }
}
