//! A snapshot: one read-only transaction, on a connection of its own.
//!
//! Invariant: the connection never goes back to the pool, so closing it ends the transaction, whatever state it is in; it locks
//! no row, so that nobody waits for it.

use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::{Client, ClientWrapper, Object};
use provender_core::batch::{Row, RowKey, Version};

use super::connect::within;
use super::{failed, get, head, scan};
use crate::meta::{MetaError, Page, Scan, Snapshot};

/// How long its reader may be busy with something else, such as a large blob: the pool's own bound is for those who hold the head.
const IDLE: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(super) struct Frozen {
    version: Version,
    client: Connection,
}

/// The connection, which has nothing to show.
struct Connection(ClientWrapper);

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Frozen {
    pub(super) async fn take(client: Client) -> Result<Frozen, MetaError> {
        const DOING: &str = "beginning a snapshot";
        let client = Object::take(client);
        let begin = format!(
            "SET idle_in_transaction_session_timeout = {}; BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
            IDLE.as_millis()
        );
        within(DOING, client.batch_execute(&begin)).await?.map_err(|error| failed(DOING, error))?;
        // The first statement takes the snapshot.
        let (version, _) = within(DOING, head(&client)).await??;
        Ok(Frozen { version, client: Connection(client) })
    }
}

#[async_trait]
impl Snapshot for Frozen {
    fn version(&self) -> Version {
        self.version
    }

    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, MetaError> {
        within("reading a snapshot", get(&self.client.0, keys)).await?
    }

    async fn scan(&self, range: &Scan) -> Result<Page, MetaError> {
        within("reading a snapshot", scan(&self.client.0, range)).await?
    }
}
