//! The files of a backup that fail on purpose.

use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use provender_daemon::backup::Files;

use super::{Failure, Faulty, Planned};

fn failed(_: Failure) -> io::Error {
    io::Error::other(Planned)
}

#[async_trait]
impl Files for Faulty<dyn Files> {
    async fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.world.step("files.list", self.inner.list(dir), failed).await
    }

    async fn size(&self, path: &str) -> io::Result<Option<u64>> {
        self.world.step("files.size", self.inner.size(path), failed).await
    }

    async fn read(&self, path: &str) -> io::Result<Option<Bytes>> {
        self.world.step("files.read", self.inner.read(path), failed).await
    }

    async fn stage(&self, path: &str, bytes: Bytes) -> io::Result<()> {
        self.world.step("files.stage", self.inner.stage(path, bytes), failed).await
    }

    async fn publish(&self, path: &str) -> io::Result<()> {
        self.world.step("files.publish", self.inner.publish(path), failed).await
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        self.world.step("files.remove", self.inner.remove(path), failed).await
    }
}
