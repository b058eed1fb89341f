//! The one path on which metadata changes: read, decide, commit, and again on conflict.
//!
//! Owns [`Txn`] and [`Store::transact`]. Invariant: a decision is committed only if every row that it read is as it was read; a
//! commit of unknown outcome is decided, never guessed.

use std::time::Duration;

use bytes::Bytes;
use provender_core::batch::{Batch, Expect, Fate, Row, RowKey, Table};
use provender_core::collect::Idle;
use provender_core::name::Space;
use provender_core::{Digest, Timestamp, rows};
use provender_proto::rows as values;

use super::{Store, StoreError};
use crate::clock;
use crate::meta::{CommitError, Meta, MetaError};

/// How often a decision is taken anew before giving up.
pub(super) const ATTEMPTS: u32 = 100;
/// How long the fate of a batch is asked for before giving up.
const RESOLVE: Duration = Duration::from_secs(30);

/// One attempt: what was read, and what is to be written.
#[derive(Debug)]
pub struct Txn {
    store: Store,
    batch: Batch,
}

impl Txn {
    /// Reads rows; the commit will hold only if they are still the same.
    pub async fn get(&mut self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, StoreError> {
        let rows = self.store.inner.meta.get(keys).await?;
        self.expect(keys, &rows);
        Ok(rows)
    }

    fn expect(&mut self, keys: &[RowKey], rows: &[Option<Row>]) {
        for (key, row) in keys.iter().zip(rows) {
            let read = Expect::as_read(row.as_ref());
            // A row read twice must not have changed in between: the first reading counts.
            self.batch.expect.entry(key.clone()).or_insert(read);
        }
    }

    /// The same, and at the same moment a row `beside` them that may change until the commit.
    pub async fn get_beside(
        &mut self,
        keys: &[RowKey],
        beside: RowKey,
    ) -> Result<(Vec<Option<Row>>, Option<Row>), StoreError> {
        let all: Vec<_> = keys.iter().cloned().chain([beside]).collect();
        let mut rows = self.store.inner.meta.get(&all).await?;
        let beside = rows.pop().flatten();
        self.expect(keys, &rows);
        Ok((rows, beside))
    }

    /// Reads one row.
    pub async fn get_one(&mut self, key: RowKey) -> Result<Option<Row>, StoreError> {
        Ok(self.get(&[key]).await?.pop().flatten())
    }

    /// Writes a row.
    pub fn put(&mut self, key: RowKey, value: impl Into<Bytes>) {
        self.batch.put(key, value);
    }

    /// Deletes a row.
    pub fn delete(&mut self, key: RowKey) {
        self.batch.delete(key);
    }

    /// Has collection look, once it may, whether nothing refers to these blobs, which a space holds since then or which nothing refers to
    /// since then.
    pub(super) fn idle(&mut self, space: &Space, at: Timestamp, why: Idle, digests: &[Digest]) {
        if !digests.is_empty() {
            self.put(rows::idle(space, at, why, u64::from_be_bytes(clock::random())), values::digests_to(digests));
        }
    }

    /// What is stored has become so many bytes more.
    pub(super) fn grown(&mut self, bytes: i64) {
        if bytes != 0 {
            self.put(rows::usage(u64::from_be_bytes(clock::random())), values::usage_to(bytes));
        }
    }

    /// Adds an event, which stands in the change feed behind those that this transaction has added before.
    pub(super) fn event(&mut self, space: &Space, event: &[u8]) {
        let before = self.batch.writes.keys().filter(|key| key.table == Table::Event).count();
        self.put(rows::event(space, u16::try_from(before).unwrap_or(u16::MAX), event), Bytes::new());
    }
}

impl Store {
    /// One that has read and put nothing; an attempt that gives it back commits nothing.
    pub(super) fn fresh(&self) -> Txn {
        Txn { store: self.clone(), batch: Batch::new(clock::batch_id()) }
    }

    /// Runs `attempt` until what it decided is committed. It may run several times, each time on a fresh [`Txn`]; an attempt
    /// that writes nothing commits nothing.
    pub(super) async fn transact<T, Attempt>(&self, mut attempt: impl FnMut(Txn) -> Attempt) -> Result<T, StoreError>
    where
        Attempt: Future<Output = Result<(Txn, T), StoreError>>,
    {
        for attempts in 0..ATTEMPTS {
            let (txn, value) = attempt(self.fresh()).await?;
            if txn.batch.writes.is_empty() {
                return Ok(value);
            }
            match settle(&*self.inner.meta, txn.batch).await? {
                Settled::Committed => return Ok(value),
                Settled::Conflict => {
                    self.inner.metrics.conflicts.inc();
                    // Spread those that collided; the first few retries are for free.
                    let spread = u64::from(attempts.saturating_sub(3)) * u64::from(clock::random::<1>()[0]) / 64;
                    tokio::time::sleep(Duration::from_millis(spread)).await;
                }
            }
        }
        Err(StoreError::Contended { attempts: ATTEMPTS })
    }
}

/// What became of a batch.
pub(crate) enum Settled {
    Committed,
    Conflict,
}

/// Commits a batch, and finds out what became of it where the engine cannot tell.
pub(crate) async fn settle(meta: &dyn Meta, batch: Batch) -> Result<Settled, StoreError> {
    let id = batch.id;
    match meta.commit(batch).await {
        Ok(_) => Ok(Settled::Committed),
        Err(CommitError::Conflict { .. } | CommitError::Aborted { .. }) => Ok(Settled::Conflict),
        Err(CommitError::NotCommitted { source: MetaError::Forgotten { .. } }) => {
            clock::batch_ids_too_old();
            Ok(Settled::Conflict)
        }
        Err(CommitError::NotCommitted { source }) => Err(source.into()),
        Err(CommitError::Unknown { source, .. }) => {
            tracing::warn!(batch = ?id, error = %super::error::chain(&source), "a commit's outcome is unknown; asking");
            let deadline = clock::monotonic() + RESOLVE;
            loop {
                match meta.resolve(id).await {
                    Ok(Fate::Committed(_)) => return Ok(Settled::Committed),
                    Ok(Fate::Aborted) => return Ok(Settled::Conflict),
                    Err(source) if clock::monotonic() > deadline => return Err(StoreError::Undecided { source }),
                    Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                }
            }
        }
    }
}
