//! A backend that keeps everything in frames, so that the suite is held against them.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use provender_blobs::{
    BlobError, Blobs, Claim, Frames, Location, Page, Published, Reader, ResumeToken, Signature, StageOptions, Staged,
    Stat, StoreId, recode,
};
use provender_core::Digest;

/// What is published here is at once stored anew in frames, however little that saves.
#[derive(Debug)]
pub struct Packed(pub Arc<dyn Blobs>);

struct PackedStaged {
    blobs: Arc<dyn Blobs>,
    inner: Box<dyn Staged>,
}

#[async_trait]
impl Staged for PackedStaged {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.inner.write(bytes).await
    }

    async fn publish(self: Box<Self>, expected: Option<Digest>) -> Result<Published, BlobError> {
        let Published { location, aliases, outboard, .. } = self.inner.publish(expected).await?;
        let mut unheard = Unheard { blobs: self.blobs.clone(), locations: vec![location] };
        let frames = Frames { size: location.digest.size, level: 1, most: u64::MAX };
        let packed = recode(&*self.blobs, &location, Some(frames), |_| Duration::ZERO).await;
        unheard.locations.extend(packed.iter().map(|packed| packed.location));
        self.blobs.remove(&location).await?;
        unheard.locations.clear();
        let packed = packed?;
        assert_eq!(packed.outboard, outboard, "an outboard is the digest's");
        Ok(Published { aliases, ..packed })
    }
}

/// What nobody was told of yet. Dropping it removes it, as if this was a backend of its own.
struct Unheard {
    blobs: Arc<dyn Blobs>,
    locations: Vec<Location>,
}

impl Drop for Unheard {
    fn drop(&mut self) {
        let (blobs, locations) = (self.blobs.clone(), std::mem::take(&mut self.locations));
        tokio::spawn(async move {
            for location in locations {
                blobs.remove(&location).await.expect("remove");
            }
        });
    }
}

#[async_trait]
impl Blobs for Packed {
    fn id(&self) -> StoreId {
        self.0.id()
    }

    async fn prove(&self) -> Result<(), BlobError> {
        self.0.prove().await
    }

    async fn stat(&self, locations: &[Location]) -> Result<Vec<Option<Stat>>, BlobError> {
        self.0.stat(locations).await
    }

    async fn open(&self, location: &Location, range: Range<u64>) -> Result<Reader, BlobError> {
        self.0.open(location, range).await
    }

    async fn stage(&self, options: StageOptions) -> Result<Box<dyn Staged>, BlobError> {
        Ok(Box::new(PackedStaged { blobs: self.0.clone(), inner: self.0.stage(options).await? }))
    }

    async fn remove(&self, location: &Location) -> Result<(), BlobError> {
        self.0.remove(location).await
    }

    async fn list(&self, after: Option<&Location>, limit: usize) -> Result<Page, BlobError> {
        self.0.list(after, limit).await
    }

    async fn file(&self, location: &Location) -> Result<Option<(File, Signature)>, BlobError> {
        self.0.file(location).await
    }

    async fn claim(&self, location: &Location) -> Result<Option<Claim>, BlobError> {
        self.0.claim(location).await
    }

    async fn staged(&self, token: ResumeToken) -> Result<Option<u64>, BlobError> {
        self.0.staged(token).await
    }

    async fn sweep(&self, before: SystemTime) -> Result<u64, BlobError> {
        self.0.sweep(before).await
    }
}
