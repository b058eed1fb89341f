//! The tables in PostgreSQL, and the layout that is written in them.
//!
//! Invariant: any number of daemons may prepare one database at the same time, and none touches tables of a newer layout.

use std::time::Duration;

use deadpool_postgres::{Client, Object, Pool};
use tokio_postgres::error::SqlState;

use super::{connect, failed};
use crate::meta::MetaError;

/// The layout that this program reads and writes.
const LAYOUT: i32 = 1;

/// Each statement stands alone, and may meet what another daemon just made. `fed` is the last version with a change in the
/// feed; a batch without a version was aborted.
const TABLES: [&str; 5] = [
    "CREATE TABLE IF NOT EXISTS provender_rows (tbl smallint NOT NULL, key bytea NOT NULL, version bigint NOT NULL, \
        value bytea NOT NULL, PRIMARY KEY (tbl, key))",
    "CREATE TABLE IF NOT EXISTS provender_feed (version bigint NOT NULL, place bigint NOT NULL, tbl smallint NOT NULL, \
        key bytea NOT NULL, deleted boolean NOT NULL, PRIMARY KEY (version, place))",
    "CREATE TABLE IF NOT EXISTS provender_batches (id bytea NOT NULL PRIMARY KEY, version bigint)",
    "CREATE TABLE IF NOT EXISTS provender_head (one boolean NOT NULL PRIMARY KEY CHECK (one), layout integer NOT NULL, \
        version bigint NOT NULL, fed bigint NOT NULL, trimmed bigint NOT NULL, oldest bytea NOT NULL)",
    "INSERT INTO provender_head (one, layout, version, fed, trimmed, oldest) VALUES (true, 1, 0, 0, 0, '') \
        ON CONFLICT (one) DO NOTHING",
];

/// Makes what is missing, and checks the layout first.
pub(super) async fn prepare(pool: &Pool) -> Result<(), MetaError> {
    const DOING: &str = "preparing the PostgreSQL tables";
    let mut attempts = 10;
    loop {
        let client = connect::get(pool, DOING).await?;
        let error = match connect::within(DOING, tables(&client)).await? {
            Ok(found) if found == LAYOUT => return Ok(()),
            Ok(found) => return Err(MetaError::Layout { found: found.unsigned_abs(), known: LAYOUT.unsigned_abs() }),
            Err(error) => error,
        };
        drop(Object::take(client));
        attempts -= 1;
        if attempts == 0 || !error.code().is_some_and(is_race) {
            return Err(failed(DOING, error));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn tables(client: &Client) -> Result<i32, tokio_postgres::Error> {
    match layout(client).await {
        Ok(Some(layout)) => return Ok(layout),
        Err(error) if error.code() != Some(&SqlState::UNDEFINED_TABLE) => return Err(error),
        Ok(None) | Err(_) => {}
    }
    for statement in TABLES {
        client.batch_execute(statement).await?;
    }
    Ok(layout(client).await?.unwrap_or_default())
}

async fn layout(client: &Client) -> Result<Option<i32>, tokio_postgres::Error> {
    let row = client.query_opt("SELECT layout FROM provender_head WHERE one", &[]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// `IF NOT EXISTS` does not look at tables that another session is about to make; the catalog's own keys refuse the second.
fn is_race(code: &SqlState) -> bool {
    [
        SqlState::UNIQUE_VIOLATION,
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_OBJECT,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::INTERNAL_ERROR,
    ]
    .contains(code)
}
