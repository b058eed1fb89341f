//! The metadata engines, as storages that daemons can be started on.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use provender_daemon::meta::{Memory, Meta, MetaConfig, MetaError, open};
use provender_tests::conformance::meta::Storage;
use provender_tests::model::world::folder;
use provender_tests::postgres::Server;

/// In memory: what daemons have open at once is the same.
#[derive(Default)]
pub(crate) struct InMemory(Memory);

#[async_trait]
impl Storage for InMemory {
    async fn open(&self) -> Arc<dyn Meta> {
        Arc::new(self.0.clone())
    }

    fn is_shared(&self) -> bool {
        true
    }
}

/// RocksDB in a folder.
pub(crate) struct Rocks(tempfile::TempDir);

impl Rocks {
    pub(crate) fn new() -> Rocks {
        Rocks(folder())
    }
}

#[async_trait]
impl Storage for Rocks {
    async fn open(&self) -> Arc<dyn Meta> {
        // A thread that read for the one before may not have let go of it yet; when a process ends it has.
        for _ in 0..1_000 {
            match open(&MetaConfig::default(), self.0.path()).await {
                Err(MetaError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
                opened => return opened.unwrap(),
            }
        }
        panic!("it is not let go of")
    }

    fn is_shared(&self) -> bool {
        false
    }
}

/// A PostgreSQL server.
pub(crate) struct Database(Server);

impl Database {
    pub(crate) fn new() -> Database {
        Database(Server::start_in(folder()))
    }
}

#[async_trait]
impl Storage for Database {
    async fn open(&self) -> Arc<dyn Meta> {
        let config = serde_json::json!({"engine": "postgres", "url": self.0.url()});
        open(&serde_json::from_value(config).unwrap(), "/nonexistent".as_ref()).await.unwrap()
    }

    fn is_shared(&self) -> bool {
        true
    }
}
