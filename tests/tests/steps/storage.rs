//! Storages that outlive the daemons over them.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use provender_blobs::{Blobs, BlobsConfig};
use provender_core::Digest;
use provender_daemon::meta::{self, Memory, Meta, MetaConfig};
use provender_daemon::metrics::Metrics;
use provender_daemon::store::{Store, StoreError};
use provender_tests::faulty::World;
use provender_tests::postgres::Server;
use provender_tests::simulation::audit::audit;
use tempfile::TempDir;

/// What is left when a daemon has gone.
#[async_trait]
pub(crate) trait Kept {
    fn name(&self) -> &'static str;
    async fn open(&self) -> (Arc<dyn Meta>, Arc<dyn Blobs>);
    /// Whether only steps that change something are worth their time.
    fn is_slow(&self) -> bool {
        std::env::var_os("PROVENDER_SOAK").is_none()
    }
    /// Begins an empty one.
    fn renew(&mut self);
}

pub(crate) struct InMemory(Memory, Arc<dyn Blobs>);

impl Default for InMemory {
    fn default() -> InMemory {
        InMemory(Memory::default(), Arc::new(provender_blobs::Memory::new()))
    }
}

#[async_trait]
impl Kept for InMemory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn is_slow(&self) -> bool {
        false
    }

    async fn open(&self) -> (Arc<dyn Meta>, Arc<dyn Blobs>) {
        (Arc::new(self.0.clone()), self.1.clone())
    }

    fn renew(&mut self) {
        *self = InMemory::default();
    }
}

/// RocksDB and files, both really closed and opened again.
pub(crate) struct Disk(TempDir);

impl Default for Disk {
    fn default() -> Disk {
        Disk(tempfile::tempdir().unwrap())
    }
}

async fn files(folder: &TempDir) -> Arc<dyn Blobs> {
    provender_blobs::open(&BlobsConfig::Disk { dir: folder.path().join("blobs") }, None).await.unwrap()
}

#[async_trait]
impl Kept for Disk {
    fn name(&self) -> &'static str {
        "RocksDB and disk"
    }

    async fn open(&self) -> (Arc<dyn Meta>, Arc<dyn Blobs>) {
        (meta::open(&MetaConfig::default(), self.0.path()).await.unwrap(), files(&self.0).await)
    }

    fn renew(&mut self) {
        *self = Disk::default();
    }
}

/// A PostgreSQL that goes on while its daemons crash, and files.
pub(crate) struct OnPostgres {
    server: Server,
    folder: TempDir,
    databases: u32,
}

impl OnPostgres {
    pub(crate) fn start() -> OnPostgres {
        OnPostgres { server: Server::start(), folder: tempfile::tempdir().unwrap(), databases: 0 }
    }
}

#[async_trait]
impl Kept for OnPostgres {
    fn name(&self) -> &'static str {
        "PostgreSQL and disk"
    }

    async fn open(&self) -> (Arc<dyn Meta>, Arc<dyn Blobs>) {
        let database = match self.databases {
            0 => "postgres".to_owned(),
            n => format!("kept{n}"),
        };
        let url = self.server.url().replace("dbname=postgres", &format!("dbname={database}"));
        let config: MetaConfig = serde_json::from_value(serde_json::json!({"engine": "postgres", "url": url})).unwrap();
        (meta::open(&config, "/nonexistent".as_ref()).await.unwrap(), files(&self.folder).await)
    }

    fn renew(&mut self) {
        self.databases += 1;
        self.folder = tempfile::tempdir().unwrap();
        let make = format!("CREATE DATABASE kept{}", self.databases);
        super::in_a_world(async { self.server.connect().await.batch_execute(&make).await.unwrap() });
    }
}

/// A daemon's store over open backends.
pub(crate) async fn over(meta: Arc<dyn Meta>, blobs: Arc<dyn Blobs>) -> Result<Store, StoreError> {
    Store::over(meta, blobs, Vec::new(), Arc::new(Metrics::new().unwrap())).await
}

/// The same in a world.
pub(crate) async fn within(world: &World, meta: Arc<dyn Meta>, blobs: Arc<dyn Blobs>) -> Result<Store, StoreError> {
    over(world.over::<dyn Meta>(meta), world.over::<dyn Blobs>(blobs)).await
}

/// Fails unless all rows and bytes are whole.
pub(crate) async fn check(meta: &dyn Meta, blobs: &dyn Blobs, decayed: &BTreeSet<Digest>, place: &str) {
    let found = audit(meta, blobs, decayed).await;
    assert!(found.faults.is_empty(), "{place}: {:#?}", found.faults);
}
