//! The transactions: groups of batches, decisions about batches of unknown outcome, and trimming.
//!
//! Invariant: each locks the head row before it reads what it decides by, so nothing that it read changes before it commits;
//! and a failure is called unknown as soon as COMMIT may have reached the server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use deadpool_postgres::{Client, Object};
use futures::future;
use provender_core::batch::{Batch, BatchId, Change, Fate, Group, RowKey, Version, Writes};
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::connect::within;
use super::parameters::{Entries, Parameter, Put, Puts, ROWS, chunks};
use super::{Shared, columns, corrupt, failed, settle, stored, version};
use crate::meta::MetaError;
use crate::meta::group::{Failure, Groups, Outcome};

/// How often a transaction that the server undid is tried in all.
const ATTEMPTS: u32 = 8;

// The snapshot of each statement is taken when the statement begins, so what follows the lock sees all commits before it.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
const LOCK: &str = "SELECT version, oldest FROM provender_head WHERE one FOR UPDATE";
const VERSIONS: &str = "SELECT k.place, r.version \
    FROM unnest($1::smallint[], $2::bytea[]) WITH ORDINALITY AS k(tbl, key, place), \
    LATERAL (SELECT version FROM provender_rows WHERE tbl = k.tbl AND key = k.key LIMIT 1) AS r";
const DECIDED: &str = "SELECT id, version FROM provender_batches WHERE id = ANY($1::bytea[])";
const PUT: &str = "INSERT INTO provender_rows (tbl, key, version, value) \
    SELECT tbl, key, version, value FROM \
        unnest($1::smallint[], $2::bytea[], $3::bigint[], $4::bytea[]) AS w(tbl, key, version, value) \
    ON CONFLICT (tbl, key) DO UPDATE SET version = EXCLUDED.version, value = EXCLUDED.value";
const DELETE: &str = "DELETE FROM provender_rows AS r USING unnest($1::smallint[], $2::bytea[]) AS w(tbl, key) \
    WHERE r.tbl = w.tbl AND r.key = w.key";
const FEED: &str = "INSERT INTO provender_feed (version, place, tbl, key, deleted) \
    SELECT version, place, tbl, key, deleted FROM \
        unnest($1::bigint[], $2::bigint[], $3::smallint[], $4::bytea[], $5::boolean[]) \
        AS w(version, place, tbl, key, deleted)";
const DECIDE: &str = "INSERT INTO provender_batches (id, version) \
    SELECT id, version FROM unnest($1::bytea[], $2::bigint[]) AS w(id, version)";
const HEAD: &str = "UPDATE provender_head SET version = $1::bigint, fed = COALESCE($2::bigint, fed) WHERE one";

/// A transaction that did not go through, and whether it is sure to have left nothing behind.
struct Undone {
    failure: Failure,
    again: bool,
}

/// Applies groups until the engine is dropped.
pub(super) async fn write(shared: Arc<Shared>, mut groups: Groups) {
    while let Some(joined) = groups.next().await {
        let outcome = apply(&shared, &joined.batches).await;
        joined.answer(outcome);
    }
}

async fn apply(shared: &Shared, batches: &[Batch]) -> Result<Outcome, Failure> {
    const DOING: &str = "committing metadata";
    let mut attempt = 1;
    loop {
        let client = shared.client(DOING).await.map_err(Failure::NotCommitted)?;
        let undone = match transact(shared, &client, batches).await {
            Ok(outcome) => return Ok(outcome),
            Err(undone) => undone,
        };
        // Closing the connection ends its transaction, whatever state it is in.
        drop(Object::take(client));
        if !undone.again || attempt == ATTEMPTS {
            return Err(undone.failure);
        }
        tokio::time::sleep(Duration::from_millis(5) * 2_u32.pow(attempt)).await;
        attempt += 1;
    }
}

async fn transact(shared: &Shared, client: &Client, batches: &[Batch]) -> Result<Outcome, Undone> {
    let read = within("locking the head", group(client, batches)).await;
    let mut group = read.unwrap_or_else(|error| Err(error.into()))?;
    let verdicts = batches.iter().map(|batch| group.admit(batch)).collect();
    let writes = group.into_writes();
    let (head, fed) = (writes.head, writes.changes.last().map(|change| change.version));
    if writes.ids.is_empty() {
        within("ending a transaction", client.batch_execute("ROLLBACK")).await?.map_err(before_commit)?;
        return Ok(Outcome { verdicts, applied: Ok(()) });
    }
    put(client, writes).await?;
    shared.feed.advance(head, fed);
    Ok(Outcome { verdicts, applied: Ok(()) })
}

/// Begins a transaction, locks the head, and reads what decides about `batches`: one round trip, unless there is much to read.
async fn group(client: &Client, batches: &[Batch]) -> Result<Group, Undone> {
    let keys = Group::keys(batches);
    let ids: Vec<&[u8]> = batches.iter().map(|batch| &batch.id.0[..]).collect();
    let lock = client.prepare_cached(LOCK).await.map_err(before_commit)?;
    let versions = client.prepare_cached(VERSIONS).await.map_err(before_commit)?;
    let decided = client.prepare_cached(DECIDED).await.map_err(before_commit)?;

    let mut chunks = keys.chunks(ROWS);
    let (tables, names) = columns(chunks.next().unwrap_or_default());
    // These futures send in the order in which they stand.
    let (_, head, first, fates) = future::try_join4(
        client.batch_execute(BEGIN),
        client.query_one(&lock, &[]),
        client.query(&versions, &[&tables, &names]),
        client.query(&decided, &[&ids]),
    )
    .await
    .map_err(before_commit)?;
    let mut found = BTreeMap::new();
    collect(&mut found, &keys, &first)?;
    for (n, chunk) in chunks.enumerate() {
        let (tables, names) = columns(chunk);
        let rows = client.query(&versions, &[&tables, &names]).await.map_err(before_commit)?;
        collect(&mut found, &keys[(n + 1) * ROWS..], &rows)?;
    }
    let fates = fates.iter().map(|row| Ok((id(row.get(0))?, fate(row.get(1))?)));
    let fates = fates.collect::<Result<_, MetaError>>()?;
    Ok(Group::new(version(head.get(0))?, found, fates, id(head.get(1))?))
}

fn collect(
    found: &mut BTreeMap<RowKey, Version>,
    keys: &[RowKey],
    rows: &[tokio_postgres::Row],
) -> Result<(), MetaError> {
    for row in rows {
        let place = usize::try_from(row.get::<_, i64>(0) - 1).ok();
        let key = place.and_then(|place| keys.get(place)).ok_or_else(|| corrupt("a row has no place"))?;
        found.insert(key.clone(), version(row.get(1))?);
    }
    Ok(())
}

/// Writes and commits: one round trip, unless there is much to write.
async fn put(client: &Client, writes: Writes) -> Result<(), Undone> {
    const DOING: &str = "writing metadata";
    let Writes { head, rows, changes, ids } = writes;
    let prepare = |sql| async move { client.prepare_cached(sql).await.map_err(before_commit) };
    let (delete, feed, decide) = (prepare(DELETE).await?, prepare(FEED).await?, prepare(DECIDE).await?);
    let (write, update) = (prepare(PUT).await?, prepare(HEAD).await?);

    let puts: Vec<Put> =
        rows.iter().filter_map(|(key, (version, value))| Some((key, *version, value.as_ref()?))).collect();
    let deletes: Vec<&RowKey> = rows.iter().filter(|(_, (_, value))| value.is_none()).map(|(key, _)| key).collect();
    let mut chunks = chunks(&puts);
    let last = Puts::from(chunks.pop().unwrap_or_default());
    for chunk in chunks {
        let each = Puts::from(chunk);
        within(DOING, client.execute(&write, &each.parameters())).await?.map_err(before_commit)?;
    }
    for chunk in deletes.chunks(ROWS) {
        let (tables, keys): (Vec<i16>, Vec<&[u8]>) =
            chunk.iter().map(|key| (i16::from(key.table.tag()), &*key.key)).unzip();
        within(DOING, client.execute(&delete, &[&tables, &keys])).await?.map_err(before_commit)?;
    }
    let places: Vec<(usize, &Change)> = changes.iter().enumerate().collect();
    let (fed, ahead) = places.split_at(places.len().saturating_sub(ROWS));
    for chunk in fed.chunks(ROWS) {
        let each = Entries::from(chunk);
        within(DOING, client.execute(&feed, &each.parameters())).await?.map_err(before_commit)?;
    }
    let entries = Entries::from(ahead);
    let (names, committed): (Vec<&[u8]>, Vec<i64>) = ids.iter().map(|(id, at)| (&id.0[..], stored(*at))).unzip();
    let (head, last_fed) = (stored(head), changes.last().map(|change| stored(change.version)));

    let parameters = (last.parameters(), entries.parameters(), [&names, &committed] as [Parameter<'_>; 2]);
    let moved: [Parameter<'_>; 2] = [&head, &last_fed];
    let written = future::try_join4(
        client.execute(&write, &parameters.0),
        client.execute(&feed, &parameters.1),
        client.execute(&decide, &parameters.2),
        client.execute(&update, &moved),
    );
    commit(client, written).await
}

/// Awaits the last writes and a COMMIT that is sent right behind them.
async fn commit<T>(client: &Client, written: impl Future<Output = Result<T, Error>>) -> Result<(), Undone> {
    const DOING: &str = "committing metadata";
    // What cannot even be sent must not be followed by a COMMIT of the rest.
    let written = sent(written).await.map_err(before_commit)?;
    let both = async {
        // An error from the server undoes the transaction, so that the COMMIT behind it does nothing.
        let (written, committed) = future::join(written, client.batch_execute("COMMIT")).await;
        match (written, committed) {
            (Err(error), _) if error.as_db_error().is_some() => Err(before_commit(error)),
            (Err(error), _) | (_, Err(error)) => Err(at_commit(error)),
            (Ok(_), Ok(())) => Ok(()),
        }
    };
    within(DOING, both).await.unwrap_or_else(|error| Err(Undone { failure: Failure::Unknown(error), again: false }))
}

/// Polls `work` once, so that it is under way; gives what awaits the rest of it, unless it has failed already.
async fn sent<T, E>(work: impl Future<Output = Result<T, E>>) -> Result<impl Future<Output = Result<T, E>>, E> {
    let mut work = Box::pin(work);
    let first = match futures::poll!(&mut work) {
        Poll::Ready(result) => Some(result?),
        Poll::Pending => None,
    };
    // A server can be quick enough to be done by then, and what is done must not be polled again.
    Ok(async move {
        match first {
            Some(done) => Ok(done),
            None => work.await,
        }
    })
}

/// Decides a batch: after the head is locked no commit of it is under way, and the id's unique key keeps any from following.
pub(super) async fn resolve(shared: &Shared, id: BatchId) -> Result<Fate, MetaError> {
    const DOING: &str = "deciding a batch";
    let mut attempt = 1;
    loop {
        let client = shared.client(DOING).await?;
        let undone = match within(DOING, abort(&client, id)).await.unwrap_or_else(|error| Err(error.into())) {
            Ok(fate) => return Ok(fate),
            Err(undone) => undone,
        };
        drop(Object::take(client));
        if !undone.again || attempt == ATTEMPTS {
            return Err(undone.failure.into());
        }
        tokio::time::sleep(Duration::from_millis(5) * 2_u32.pow(attempt)).await;
        attempt += 1;
    }
}

async fn abort(client: &Client, batch: BatchId) -> Result<Fate, Undone> {
    let name: &[u8] = &batch.0;
    client.batch_execute(BEGIN).await.map_err(before_commit)?;
    let head = client.query_one(LOCK, &[]).await.map_err(before_commit)?;
    let decided = client.query_opt(DECIDED, &[&vec![name]]).await.map_err(before_commit)?;
    let fate = match decided {
        Some(row) => fate(row.get(1))?,
        None if batch < id(head.get(1))? => return Err(MetaError::Forgotten { id: batch }.into()),
        None => {
            client.execute(DECIDE, &[&vec![name], &vec![None::<i64>]]).await.map_err(before_commit)?;
            Fate::Aborted
        }
    };
    client.batch_execute("COMMIT").await.map_err(at_commit)?;
    Ok(fate)
}

/// Raises the marks first, so that nobody relies on what is then deleted piece by piece.
pub(super) async fn trim(shared: &Shared, feed: Version, oldest: BatchId) -> Result<(), MetaError> {
    const DOING: &str = "trimming the change feed";
    const MARK: &str = "UPDATE provender_head SET trimmed = GREATEST(trimmed, LEAST($1::bigint, version)), \
        oldest = GREATEST(oldest, $2::bytea) WHERE one RETURNING trimmed, oldest";
    const FEED: &str = "DELETE FROM provender_feed WHERE version <= (SELECT max(version) FROM \
        (SELECT version FROM provender_feed WHERE version <= $1 ORDER BY version, place LIMIT 5000) AS page)";
    const BATCHES: &str = "DELETE FROM provender_batches WHERE id IN \
        (SELECT id FROM provender_batches WHERE id < $1 ORDER BY id LIMIT 5000)";
    let client = shared.client(DOING).await?;
    let marked = within(DOING, client.query_one(MARK, &[&stored(feed), &&oldest.0[..]])).await;
    let marked = settle(marked.map(|result| result.map_err(|error| failed(DOING, error))), client)?;
    let (trimmed, oldest): (i64, Vec<u8>) = (marked.get(0), marked.get(1));
    let steps: [(&str, Parameter<'_>); 2] = [(FEED, &trimmed), (BATCHES, &oldest)];
    for (sql, mark) in steps {
        loop {
            let client = shared.client(DOING).await?;
            let step = within(DOING, client.execute(sql, &[mark])).await;
            if settle(step.map(|result| result.map_err(|error| failed(DOING, error))), client)? == 0 {
                break;
            }
        }
    }
    Ok(())
}

fn id(stored: &[u8]) -> Result<BatchId, MetaError> {
    // No id is forgotten yet while the mark is empty.
    if stored.is_empty() {
        return Ok(BatchId::MIN);
    }
    stored.try_into().map(BatchId).map_err(|_| corrupt("a batch id has the wrong length"))
}

fn fate(stored: Option<i64>) -> Result<Fate, MetaError> {
    stored.map_or(Ok(Fate::Aborted), |stored| version(stored).map(Fate::Committed))
}

/// What came before COMMIT, so that the transaction cannot have gone through. A connection that was lost is no reason to give
/// up: the server may have been restarted, and the pool does not try each connection before it hands it out.
fn before_commit(error: Error) -> Undone {
    let lost = |code: &SqlState| {
        [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT]
            .contains(code)
    };
    let again = |code: &SqlState| undid(code) || lost(code) || *code == SqlState::UNIQUE_VIOLATION;
    let again = error.is_closed() || error.code().is_some_and(again);
    Undone { failure: Failure::NotCommitted(failed("committing metadata", error)), again }
}

/// What came instead of COMMIT's answer: only the server's word that it undid the transaction makes the outcome known.
fn at_commit(error: Error) -> Undone {
    let undone = error.code().is_some_and(undid);
    let error = failed("committing metadata", error);
    Undone { failure: if undone { Failure::NotCommitted(error) } else { Failure::Unknown(error) }, again: undone }
}

fn undid(code: &SqlState) -> bool {
    *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED
}

impl From<MetaError> for Undone {
    fn from(error: MetaError) -> Undone {
        Undone { failure: Failure::NotCommitted(error), again: false }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::sent;

    #[tokio::test]
    async fn work_that_is_done_at_once_is_not_polled_again() {
        let done = sent(async { Ok::<_, Infallible>(1) }).await.unwrap();
        assert_eq!(done.await, Ok(1));
        let failed = sent(async { Err::<Infallible, _>(2) }).await;
        assert_eq!(failed.err(), Some(2));
        let later = sent(async {
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(3)
        });
        assert_eq!(later.await.unwrap().await, Ok(3));
    }
}
