//! The `Meta` seam: ordered rows, changed only by batches that hold whole or not at all.
//!
//! Owns the trait that every metadata engine implements, its plain types, and the one place that picks an engine.
//! Invariant: commits are serial over all users of one storage; what was acknowledged is durable and never undone. It must
//! not know what a row means: rules are `provender_core`'s, and the path on which they are applied is the store's.

mod error;
mod feed;
mod group;
mod memory;
mod postgres;
mod rocks;
mod scan;

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use provender_core::batch::{Batch, BatchId, Change, Fate, Row, RowKey, Version};
use provender_core::time::Timestamp;
use serde::Deserialize;

pub use error::{CommitError, MetaError};
pub use memory::Memory;
pub use postgres::PostgresConfig;
pub use rocks::RocksConfig;
pub use scan::{Page, Scan};

/// Ordered rows with versions, a change feed, and one way to change them.
///
/// Every method may be cancelled by dropping its future; a `commit` that is dropped happens whole, or not at all.
#[async_trait]
pub trait Meta: Debug + Send + Sync + 'static {
    /// The rows of `keys`, in that order, all as they are at one moment. The caller bounds what it asks for: the answer is in
    /// memory as a whole.
    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, MetaError>;

    /// One page of one table's rows, in order, as they are at one moment.
    async fn scan(&self, scan: &Scan) -> Result<Page, MetaError>;

    /// Applies a batch if its preconditions hold; durable once it returns `Ok`. Committing the same batch again is harmless: it
    /// gives the version at which it was committed the first time.
    async fn commit(&self, batch: Batch) -> Result<Version, CommitError>;

    /// Decides a batch of unknown outcome for ever: it was committed, or it never will be. May be asked again until it answers.
    async fn resolve(&self, id: BatchId) -> Result<Fate, MetaError>;

    /// The feed's changes after a cursor, in commit order and without gaps: once a change at a version was returned, none below
    /// it ever appears. About `limit` of them (at least 1); one batch's changes are never split.
    async fn changes(&self, after: Version, limit: usize) -> Result<Changes, MetaError>;

    /// Returns when the feed may hold something after `after`; never later than 1 s after it does.
    async fn changed(&self, after: Version);

    /// Forgets the feed up to and including `feed`, and the fates of batches whose ids were made before `made_before`. Later
    /// cursors before `feed` are refused, and so are batches and resolutions that are older than `made_before`.
    async fn trim(&self, feed: Version, made_before: Timestamp) -> Result<(), MetaError>;

    /// The version of the last commit; 0 if there was none.
    async fn head(&self) -> Result<Version, MetaError>;

    /// Reads a page of what the engine keeps beside the rows (its feed, the fates of batches, its own facts), after a cursor of its own, and fails
    /// if that is not as it was written. Rows are verified by whoever scans them, since every read is checked as far as the engine can. Nothing for
    /// engines whose disk is somebody else's to verify, or that have none.
    async fn verify(&self, after: Option<Bytes>) -> Result<Beside, MetaError> {
        _ = after;
        Ok(Beside::default())
    }

    /// All rows as they are now, to be read at leisure while commits go on. It costs the engine something for as long as it is
    /// kept (what is overwritten stays on its disk), and may become unavailable when the engine does.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, MetaError>;
}

/// The rows of one moment. Dropping it lets go of them.
#[async_trait]
pub trait Snapshot: Debug + Send + Sync + 'static {
    /// The last commit that it sees.
    fn version(&self) -> Version;

    /// As [`Meta::get`], at that moment.
    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, MetaError>;

    /// As [`Meta::scan`], at that moment.
    async fn scan(&self, scan: &Scan) -> Result<Page, MetaError>;
}

/// A page of the change feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The changes, in commit order.
    pub changes: Vec<Change>,
    /// Where to go on. It also moves when nothing that stands in the feed was committed.
    pub cursor: Version,
}

/// A page of what an engine keeps beside the rows, which was read and is right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beside {
    /// How many entries.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Where to go on, if there is more.
    pub next: Option<Bytes>,
}

/// Which engine keeps the metadata.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "engine", rename_all = "lowercase", deny_unknown_fields)]
pub enum MetaConfig {
    /// Embedded, in the data folder; one daemon.
    Rocksdb(RocksConfig),
    /// A PostgreSQL that several daemons may share.
    Postgres(PostgresConfig),
    /// Gone with the process; for tests.
    Memory {},
}

impl MetaConfig {
    /// Whether several daemons may be at it at once.
    pub fn is_shared(&self) -> bool {
        matches!(self, MetaConfig::Postgres(_))
    }
}

impl Default for MetaConfig {
    fn default() -> MetaConfig {
        MetaConfig::Rocksdb(RocksConfig::default())
    }
}

/// Opens the engine that `config` names; the embedded one keeps its files in the folder `meta` of `data_dir`.
pub async fn open(config: &MetaConfig, data_dir: &Path) -> Result<Arc<dyn Meta>, MetaError> {
    Ok(match config {
        MetaConfig::Rocksdb(config) => Arc::new(rocks::Rocks::open(config, &data_dir.join(crate::data::META)).await?),
        MetaConfig::Postgres(config) => Arc::new(postgres::Postgres::open(config).await?),
        MetaConfig::Memory {} => Arc::new(Memory::default()),
    })
}

#[cfg(test)]
mod tests;
