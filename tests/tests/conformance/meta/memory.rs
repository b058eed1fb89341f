//! The engine in memory.

use std::sync::Arc;

use async_trait::async_trait;
use provender_daemon::meta::{Memory, Meta};
use provender_tests::conformance::meta::Storage;

#[derive(Default)]
struct InMemory(Memory);

#[async_trait]
impl Storage for InMemory {
    async fn open(&self) -> Arc<dyn Meta> {
        Arc::new(self.0.clone())
    }

    fn is_shared(&self) -> bool {
        true
    }
}

provender_tests::meta_suite!(InMemory::default());
