//! Metadata in PostgreSQL: many daemons on one storage, none with state of its own.
//!
//! Owns the reads, and the two tasks of an open engine: the writer of groups and the poll for other daemons' commits. Uses
//! plain SQL over the common wire protocol (no LISTEN, advisory locks or system columns), so that compatible databases can
//! stand in. Invariant: every commit locks the one head row first, so commits are serial over all daemons.

mod connect;
mod frozen;
mod parameters;
mod schema;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use deadpool_postgres::{Client, ClientWrapper, Object, Pool};
use provender_core::batch::{Batch, BatchId, Change, Fate, Row, RowKey, Table, Version};
use provender_core::time::Timestamp;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

pub use self::connect::PostgresConfig;
use self::connect::within;
use super::feed::{self, Feed};
use super::group::{self, Queue};
use super::scan::PAGE_BYTES;
use super::{Changes, CommitError, Meta, MetaError, Page, Scan, Snapshot};

/// How often followers look for other daemons' commits. The seam allows 1 s.
const POLL: Duration = Duration::from_millis(400);

/// The engine.
#[derive(Debug)]
pub(super) struct Postgres {
    shared: Arc<Shared>,
    /// The writer task ends when this is dropped, after the group that it is at.
    queue: Queue,
    _poll: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    pool: Pool,
    feed: Feed,
    /// Told when somebody begins to follow the feed.
    followed: Notify,
}

impl Postgres {
    pub(super) async fn open(config: &PostgresConfig) -> Result<Postgres, MetaError> {
        let pool = connect::pool(config)?;
        schema::prepare(&pool).await?;
        let shared = Arc::new(Shared { pool, feed: Feed::at(Version(0)), followed: Notify::new() });
        let (queue, groups) = group::queue();
        tokio::spawn(writer::write(Arc::clone(&shared), groups));
        let poll = AbortOnDropHandle::new(tokio::spawn(poll(Arc::clone(&shared))));
        Ok(Postgres { shared, queue, _poll: poll })
    }
}

impl Shared {
    async fn client(&self, doing: &'static str) -> Result<Client, MetaError> {
        connect::get(&self.pool, doing).await
    }

    async fn read_head(&self) -> Result<(Version, Version), MetaError> {
        let client = self.client("reading the head").await?;
        settle(within("reading the head", head(&client)).await, client)
    }
}

/// The connection goes back to its pool, unless the work on it failed or took too long: then it is closed, since nobody knows
/// in what state it is.
fn settle<T>(result: Result<Result<T, MetaError>, MetaError>, client: Client) -> Result<T, MetaError> {
    let result = result.flatten();
    if result.is_err() {
        drop(Object::take(client));
    }
    result
}

/// Looks for other daemons' commits while anybody follows the feed.
async fn poll(shared: Arc<Shared>) {
    loop {
        if !shared.feed.is_followed() {
            shared.followed.notified().await;
        }
        match shared.read_head().await {
            Ok((head, fed)) => shared.feed.advance(head, Some(fed)),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot follow the change feed"),
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn head(client: &ClientWrapper) -> Result<(Version, Version), MetaError> {
    let failed = |error| failed("reading the head", error);
    let statement = client.prepare_cached("SELECT version, fed FROM provender_head WHERE one").await.map_err(failed)?;
    let row = client.query_one(&statement, &[]).await.map_err(failed)?;
    Ok((version(row.get(0))?, version(row.get(1))?))
}

async fn get(client: &ClientWrapper, keys: &[RowKey]) -> Result<Vec<Option<Row>>, MetaError> {
    // The limit keeps every planner at one index lookup for each key, whatever it thinks of the table.
    const GET: &str = "SELECT k.place, r.version, r.value \
        FROM unnest($1::smallint[], $2::bytea[]) WITH ORDINALITY AS k(tbl, key, place), \
        LATERAL (SELECT version, value FROM provender_rows WHERE tbl = k.tbl AND key = k.key LIMIT 1) AS r";
    let failed = |error| failed("reading metadata", error);
    let (tables, keys) = columns(keys);
    let statement = client.prepare_cached(GET).await.map_err(failed)?;
    let mut rows = vec![None; keys.len()];
    for found in client.query(&statement, &[&tables, &keys]).await.map_err(failed)? {
        let place: i64 = found.get(0);
        let row = Row { version: version(found.get(1))?, value: Bytes::copy_from_slice(found.get(2)) };
        let place = usize::try_from(place - 1).ok().and_then(|place| rows.get_mut(place));
        *place.ok_or_else(|| corrupt("a row has no place"))? = Some(row);
    }
    Ok(rows)
}

async fn scan(client: &ClientWrapper, scan: &Scan) -> Result<Page, MetaError> {
    // `found` tells whether there is more; `before` bounds the bytes that the server sends.
    const SCAN: &str = "SELECT key, version, value, found FROM ( \
            SELECT key, version, value, count(*) OVER () AS found, \
                sum(length(key) + length(value)) OVER (ORDER BY key) - length(key) - length(value) AS before \
            FROM (SELECT key, version, value FROM provender_rows \
                WHERE tbl = $1 AND key >= $2 AND ($3::bytea IS NULL OR key < $3) ORDER BY key LIMIT $4) AS rows \
        ) AS page WHERE before < $5::bigint ORDER BY key";
    let failed = |error| failed("scanning metadata", error);
    let (table, limit, bytes) = (i16::from(scan.table.tag()), scan.limit() as i64 + 1, PAGE_BYTES as i64);
    let (first, end) = (scan.first(), scan.end());
    let statement = client.prepare_cached(SCAN).await.map_err(failed)?;
    let rows = client.query(&statement, &[&table, &&*first, &end.as_deref(), &limit, &bytes]).await.map_err(failed)?;
    let found = rows.first().map_or(0, |row| row.get::<_, i64>(3));
    let mut page = scan.page(rows.iter().map(|row| {
        let value = Bytes::copy_from_slice(row.get(2));
        Ok::<_, MetaError>((Bytes::copy_from_slice(row.get(0)), Row { version: version(row.get(1))?, value }))
    }))?;
    page.more = (page.rows.len() as i64) < found;
    Ok(page)
}

async fn changes(client: &Client, after: Version, limit: usize) -> Result<Changes, MetaError> {
    // One statement sees one moment: all of the feed up to the head that it reads.
    const CHANGES: &str = "SELECT head.version, head.trimmed, feed.version, feed.tbl, feed.key, feed.deleted \
        FROM provender_head AS head LEFT JOIN provender_feed AS feed ON feed.version > $1 AND feed.version <= \
            (SELECT max(version) FROM (SELECT version FROM provender_feed WHERE version > $1 \
                ORDER BY version, place LIMIT $2) AS page) \
        WHERE head.one ORDER BY feed.version, feed.place";
    let failed = |error| failed("reading the change feed", error);
    let limit = limit.clamp(1, super::scan::PAGE_ROWS);
    let statement = client.prepare_cached(CHANGES).await.map_err(failed)?;
    let rows = client.query(&statement, &[&stored(after), &(limit as i64)]).await.map_err(failed)?;
    let first = rows.first().ok_or_else(|| corrupt("there is no head"))?;
    let (head, oldest) = (version(first.get(0))?, version(first.get(1))?);
    if after < oldest || after > head {
        return Err(MetaError::Trimmed { oldest });
    }
    let entries = rows.iter().filter_map(|row| Some((row.get::<_, Option<i64>>(2)?, row)));
    let mut page = feed::page(
        head,
        usize::MAX,
        entries.clone().filter_map(|(at, row)| {
            // A table that only a newer program knows: nobody here waits for it.
            let table = table(row.get(3)).ok()?;
            let key = RowKey { table, key: Bytes::copy_from_slice(row.get(4)) };
            Some(version(at).map(|version| Change { version, key, deleted: row.get(5) }))
        }),
    )?;
    if let Some((last, _)) = entries.clone().last()
        && entries.count() >= limit
    {
        page.cursor = version(last)?;
    }
    Ok(page)
}

fn columns(keys: &[RowKey]) -> (Vec<i16>, Vec<&[u8]>) {
    keys.iter().map(|key| (i16::from(key.table.tag()), &*key.key)).unzip()
}

fn table(stored: i16) -> Result<Table, MetaError> {
    u8::try_from(stored).ok().and_then(Table::from_tag).ok_or_else(|| corrupt("a row is of no known table"))
}

fn version(stored: i64) -> Result<Version, MetaError> {
    u64::try_from(stored).map(Version).map_err(|_| corrupt("a version is negative"))
}

/// Versions count commits, so they stay far below the largest `bigint`.
fn stored(version: Version) -> i64 {
    i64::try_from(version.0).unwrap_or(i64::MAX)
}

fn corrupt(what: &str) -> MetaError {
    MetaError::Corrupt { what: what.to_owned() }
}

fn failed(doing: &'static str, error: tokio_postgres::Error) -> MetaError {
    match error.code() {
        Some(code) if *code == tokio_postgres::error::SqlState::DISK_FULL => {
            MetaError::Full { source: Arc::new(error) }
        }
        _ => MetaError::unavailable(doing, error),
    }
}

#[async_trait]
impl Meta for Postgres {
    async fn get(&self, keys: &[RowKey]) -> Result<Vec<Option<Row>>, MetaError> {
        let client = self.shared.client("reading metadata").await?;
        settle(within("reading metadata", get(&client, keys)).await, client)
    }

    async fn scan(&self, range: &Scan) -> Result<Page, MetaError> {
        let client = self.shared.client("scanning metadata").await?;
        settle(within("scanning metadata", scan(&client, range)).await, client)
    }

    async fn commit(&self, batch: Batch) -> Result<Version, CommitError> {
        self.queue.commit(batch).await
    }

    async fn resolve(&self, id: BatchId) -> Result<Fate, MetaError> {
        let shared = Arc::clone(&self.shared);
        // On a task of its own: a caller that goes away must not leave the head locked.
        let deciding = tokio::spawn(async move { writer::resolve(&shared, id).await });
        deciding.await.unwrap_or_else(|error| Err(MetaError::unavailable("deciding a batch", error)))
    }

    async fn changes(&self, after: Version, limit: usize) -> Result<Changes, MetaError> {
        let client = self.shared.client("reading the change feed").await?;
        settle(within("reading the change feed", changes(&client, after, limit)).await, client)
    }

    async fn changed(&self, after: Version) {
        let changed = self.shared.feed.changed(after);
        tokio::pin!(changed);
        // Polled once, so that it counts as a follower before the poll looks whether there is one.
        if futures::poll!(&mut changed).is_pending() {
            self.shared.followed.notify_one();
            changed.await;
        }
    }

    async fn trim(&self, feed: Version, made_before: Timestamp) -> Result<(), MetaError> {
        writer::trim(&self.shared, feed, BatchId::new(made_before, [0; 10])).await
    }

    async fn head(&self) -> Result<Version, MetaError> {
        Ok(self.shared.read_head().await?.0)
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, MetaError> {
        Ok(Box::new(frozen::Frozen::take(self.shared.client("beginning a snapshot").await?).await?))
    }
}
