//! A snapshot that outlives the call that took it.
//!
//! RocksDB's snapshot borrows the database, so it stays on the stack of a thread of its own, which answers questions until nobody is
//! left to ask. Invariant: all answers are of the one moment at which the thread began.

use std::sync::Arc;

use async_trait::async_trait;
use provender_core::batch::{Row, RowKey, Version};
use tokio::sync::{mpsc, oneshot};

use super::database::Database;
use crate::meta::{MetaError, Page, Scan, Snapshot};

/// What the thread is asked, and where it answers.
enum Question {
    Get(Vec<RowKey>, oneshot::Sender<Result<Vec<Option<Row>>, MetaError>>),
    Scan(Scan, oneshot::Sender<Result<Page, MetaError>>),
}

/// The askers' end.
#[derive(Debug)]
pub(super) struct Frozen {
    version: Version,
    questions: mpsc::Sender<Question>,
}

impl Frozen {
    pub(super) async fn take(database: Arc<Database>) -> Result<Frozen, MetaError> {
        let (questions, asked) = mpsc::channel(4);
        let (began, begun) = oneshot::channel();
        std::thread::Builder::new()
            .name("meta-snapshot".into())
            .spawn(move || answer(&database, asked, began))
            .map_err(|error| MetaError::unavailable("starting a snapshot's thread", error))?;
        let version = begun.await.unwrap_or(Err(MetaError::Closed))?;
        Ok(Frozen { version, questions })
    }

    async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<Result<T, MetaError>>) -> Question,
    ) -> Result<T, MetaError> {
        let (answer, answered) = oneshot::channel();
        if self.questions.send(question(answer)).await.is_err() {
            return Err(MetaError::Closed);
        }
        answered.await.unwrap_or(Err(MetaError::Closed))
    }
}

fn answer(
    database: &Database,
    mut asked: mpsc::Receiver<Question>,
    began: oneshot::Sender<Result<Version, MetaError>>,
) {
    let moment = database.moment();
    // Who has gone does not want to know, here and below.
    _ = began.send(database.head_at(&moment));
    while let Some(question) = asked.blocking_recv() {
        match question {
            Question::Get(keys, answer) => _ = answer.send(database.get_at(&keys, Some(&moment))),
            Question::Scan(scan, answer) => _ = answer.send(database.scan_at(&scan, Some(&moment))),
        }
    }
}

#[async_trait]
impl Snapshot for Frozen {
    fn version(&self) -> Version {
        self.version
    }

    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, MetaError> {
        self.ask(|answer| Question::Get(keys.to_vec(), answer)).await
    }

    async fn scan(&self, scan: &Scan) -> Result<Page, MetaError> {
        self.ask(|answer| Question::Scan(scan.clone(), answer)).await
    }
}
