//! The `Blobs` seam that fails on purpose, with its staged blobs and readers.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{TryStreamExt, stream};
use provender_blobs::{
    BlobError, Blobs, Claim, Location, Pack, Packs, Page, Published, Reader, ResumeToken, Signature, StageOptions,
    Staged, Stat, StoreId,
};
use provender_core::Digest;

use super::{Failure, Faulty, Planned, World};

fn io(doing: &'static str) -> impl FnOnce(Failure) -> BlobError {
    move |_| BlobError::Io { store: "faulty".into(), doing, source: io::Error::other(Planned) }
}

#[async_trait]
impl Blobs for Faulty<dyn Blobs> {
    fn id(&self) -> StoreId {
        self.inner.id()
    }

    async fn prove(&self) -> Result<(), BlobError> {
        let unavailable = |_| BlobError::Unavailable { store: "faulty".into(), why: Planned.to_string() };
        self.world.step("blobs.prove", self.inner.prove(), unavailable).await
    }

    async fn stat(&self, locations: &[Location]) -> Result<Vec<Option<Stat>>, BlobError> {
        self.world.step("blobs.stat", self.inner.stat(locations), io("look")).await
    }

    async fn open(&self, location: &Location, range: Range<u64>) -> Result<Reader, BlobError> {
        let reader = self.world.step("blobs.open", self.inner.open(location, range), io("open")).await?;
        let signature = reader.signature().copied();
        let chunks = stream::try_unfold((reader, self.world.clone()), |(mut reader, world)| async move {
            let chunk = world.step("reader.read", reader.try_next(), io("read")).await?;
            Ok(chunk.map(|chunk| (chunk, (reader, world))))
        });
        Ok(Reader::new(signature, chunks))
    }

    async fn stage(&self, options: StageOptions) -> Result<Box<dyn Staged>, BlobError> {
        let inner = self.world.step("blobs.stage", self.inner.stage(options), io("stage")).await?;
        Ok(Box::new(FaultyStaged { inner, world: self.world.clone() }))
    }

    async fn remove(&self, location: &Location) -> Result<(), BlobError> {
        self.world.step("blobs.remove", self.inner.remove(location), io("remove")).await
    }

    async fn list(&self, after: Option<&Location>, limit: usize) -> Result<Page, BlobError> {
        self.world.step("blobs.list", self.inner.list(after, limit), io("list")).await
    }

    async fn file(&self, location: &Location) -> Result<Option<(File, Signature)>, BlobError> {
        self.world.step("blobs.file", self.inner.file(location), io("open")).await
    }

    async fn staged(&self, token: ResumeToken) -> Result<Option<u64>, BlobError> {
        self.world.step("blobs.staged", self.inner.staged(token), io("look")).await
    }

    async fn claim(&self, location: &Location) -> Result<Option<Claim>, BlobError> {
        self.world.step("blobs.claim", self.inner.claim(location), io("claim")).await
    }

    async fn sweep(&self, before: SystemTime) -> Result<u64, BlobError> {
        self.world.step("blobs.sweep", self.inner.sweep(before), io("sweep")).await
    }

    fn packs(&self) -> Option<&dyn Packs> {
        self.inner.packs().is_some().then_some(self)
    }
}

impl Faulty<dyn Blobs> {
    fn packing(&self) -> &dyn Packs {
        self.inner.packs().expect("whoever has none is not asked")
    }
}

#[async_trait]
impl Packs for Faulty<dyn Blobs> {
    /// What is put although its answer is lost is left behind.
    async fn put(&self, blobs: Vec<(Digest, Bytes)>) -> Result<Vec<Location>, BlobError> {
        self.world.step("packs.put", self.packing().put(blobs), io("pack")).await
    }

    async fn get(&self, locations: &[Location]) -> Vec<Result<Bytes, BlobError>> {
        let get = async { Ok(self.packing().get(locations).await) };
        match self.world.step("packs.get", get, io("read packs")).await {
            Ok(found) => found,
            Err(_) => locations.iter().map(|_| Err(io("read packs")(Failure::Refused))).collect(),
        }
    }

    async fn list(&self, after: Option<u64>, limit: usize) -> Result<(Vec<Pack>, Option<u64>), BlobError> {
        self.world.step("packs.list", self.packing().list(after, limit), io("list packs")).await
    }

    async fn contents(&self, nonce: u64) -> Result<Option<Vec<Location>>, BlobError> {
        self.world.step("packs.contents", self.packing().contents(nonce), io("read the list of a pack")).await
    }

    async fn remove(&self, nonce: u64) -> Result<(), BlobError> {
        self.world.step("packs.remove", self.packing().remove(nonce), io("remove a pack")).await
    }
}

struct FaultyStaged {
    inner: Box<dyn Staged>,
    world: World,
}

#[async_trait]
impl Staged for FaultyStaged {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.world.step("staged.write", self.inner.write(bytes), io("write")).await
    }

    async fn take(&mut self, file: File, size: u64) -> Result<(), BlobError> {
        self.world.step("staged.take", self.inner.take(file, size), io("take a file")).await
    }

    /// What is published although its answer is lost is left behind, as by a store on a network.
    async fn publish(self: Box<Self>, expected: Option<Digest>) -> Result<Published, BlobError> {
        let FaultyStaged { inner, world } = *self;
        world.step("staged.publish", inner.publish(expected), io("publish")).await
    }
}
