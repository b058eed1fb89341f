//! Blobs that decay: bytes that vanish, or change behind the store's back.
//!
//! Owns [`Rotten`], which stands where the disk does, beneath all daemons. Invariant: what it does to a blob shows to every reader
//! until that copy is removed, and to no other copy.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use futures::StreamExt;
use provender_blobs::{
    BlobError, Blobs, Claim, Location, Page, Reader, ResumeToken, Signature, StageOptions, Staged, Stat, StoreId,
};

/// A backend that decays on demand.
#[derive(Debug)]
pub struct Rotten {
    inner: Arc<dyn Blobs>,
    rotten: Mutex<BTreeSet<Location>>,
}

impl Rotten {
    /// Nothing is rotten yet.
    pub fn new(inner: Arc<dyn Blobs>) -> Rotten {
        Rotten { inner, rotten: Mutex::default() }
    }

    /// From now on a byte of this copy is another one.
    pub fn rot(&self, location: Location) {
        self.rotten().insert(location);
    }

    fn is_rotten(&self, location: &Location) -> bool {
        self.rotten().contains(location)
    }

    fn rotten(&self) -> MutexGuard<'_, BTreeSet<Location>> {
        self.rotten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Blobs for Rotten {
    fn id(&self) -> StoreId {
        self.inner.id()
    }

    async fn prove(&self) -> Result<(), BlobError> {
        self.inner.prove().await
    }

    async fn stat(&self, locations: &[Location]) -> Result<Vec<Option<Stat>>, BlobError> {
        self.inner.stat(locations).await
    }

    async fn open(&self, location: &Location, range: Range<u64>) -> Result<Reader, BlobError> {
        let reader = self.inner.open(location, range).await?;
        if !self.is_rotten(location) {
            return Ok(reader);
        }
        let flipped = reader.map(|chunk| {
            let mut chunk = Vec::from(chunk?);
            chunk.first_mut().into_iter().for_each(|byte| *byte ^= 1);
            Ok(chunk.into())
        });
        Ok(Reader::new(None, flipped))
    }

    async fn stage(&self, options: StageOptions) -> Result<Box<dyn Staged>, BlobError> {
        self.inner.stage(options).await
    }

    async fn remove(&self, location: &Location) -> Result<(), BlobError> {
        self.inner.remove(location).await
    }

    async fn list(&self, after: Option<&Location>, limit: usize) -> Result<Page, BlobError> {
        self.inner.list(after, limit).await
    }

    async fn file(&self, location: &Location) -> Result<Option<(File, Signature)>, BlobError> {
        // A kernel that reads by itself would not show the decay.
        Ok(self.inner.file(location).await?.filter(|_| !self.is_rotten(location)))
    }

    async fn staged(&self, token: ResumeToken) -> Result<Option<u64>, BlobError> {
        self.inner.staged(token).await
    }

    async fn claim(&self, location: &Location) -> Result<Option<Claim>, BlobError> {
        self.inner.claim(location).await
    }

    async fn sweep(&self, before: SystemTime) -> Result<u64, BlobError> {
        self.inner.sweep(before).await
    }
}
