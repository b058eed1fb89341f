//! Lookups of many keys in one call, on each engine; against the same call on a server that does not look, and against the engine
//! asked for the same rows by its own means alone.

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use provender_core::key::TaskKey;
use provender_core::name::Space;
use provender_core::rows;
use provender_core::{Table, Verdict};
use provender_tests::postgres;
use tokio_postgres::{NoTls, Statement};

use crate::Result;
use crate::lookup::{keys, succeed};
use provender_benches::serve::Server;
use provender_benches::table::Row;

/// Keys in one call.
const SIZES: [usize; 3] = [1, 100, 10_000];
const KEYS: u64 = 10_000;
/// Callers that share one connection: one that waits for each answer, and as many as keep a daemon busy.
const CALLERS: [usize; 2] = [1, 8];
const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_millis(800);

/// Where the daemon has its metadata.
pub(crate) enum Engine {
    Rocks,
    Postgres,
}

/// The engine by its own means: the rows of keys, in one question.
enum Bare {
    Rocks { database: Box<rocksdb::DB>, rows: Vec<Vec<u8>> },
    Postgres { client: tokio_postgres::Client, select: Statement, rows: Vec<Vec<u8>> },
}

/// Measures the budgets of one engine.
pub(crate) async fn measure(engine: Engine, dir: &Path) -> Result<Vec<Row>> {
    let server = match engine {
        Engine::Rocks => None,
        Engine::Postgres => Some(postgres::Server::start()),
    };
    let (name, config) = match &server {
        None => ("RocksDB", String::new()),
        Some(server) => ("PostgreSQL", format!("[meta]\nengine = \"postgres\"\nurl = \"{}\"\n", server.url())),
    };
    let daemon = Server::configured(&format!("batch{}", name.len()), &config).await?;
    let nothing = Server::nothing().await?;
    let keys = keys(KEYS)?;
    let made = stream::iter(keys.iter().enumerate().map(|(n, key)| succeed(&daemon.client, key, n as u64)));
    made.buffer_unordered(256).try_collect::<Vec<_>>().await?;
    let bare = Bare::of(&keys, server.as_ref(), dir).await?;

    let mut measured = Vec::new();
    for (size, callers) in SIZES.into_iter().flat_map(|size| CALLERS.map(|callers| (size, callers))) {
        let (mut ours, mut echo, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        let (before, asked) = ([daemon.processor()?, nothing.processor()?], [Cell::new(0), Cell::new(0)]);
        // The first round warms.
        for round in 0..=ROUNDS {
            let rates = [
                rate(&keys, size, callers, async |keys, _| {
                    let answers = daemon.client.lookup(keys).await?;
                    asked[0].update(|asked| asked + size);
                    let right = answers.len() == size && answers.iter().all(|of| of.verdict == Verdict::Succeeded);
                    if right { Ok(()) } else { Err("not all have succeeded".into()) }
                })
                .await?,
                rate(&keys, size, callers, async |keys, _| {
                    nothing.client.lookup(keys).await?;
                    asked[1].update(|asked| asked + size);
                    Ok(())
                })
                .await?,
                // A loop has one caller.
                rate(&keys, size, 1, async |_, from| bare.get(from, size).await).await?,
            ];
            for (all, rate) in [&mut ours, &mut echo, &mut rows].into_iter().zip(rates).filter(|_| round > 0) {
                all.push(rate);
            }
        }
        let what = format!("lookup of {size} in a call, {name}, {callers} at once");
        let took = [daemon.processor()? - before[0], nothing.processor()? - before[1]];
        let key = |at: usize| took[at].as_secs_f64() * 1e6 / asked[at].get() as f64;
        println!("{what}: {:.2} µs of the daemon's processor time a key, {:.2} without looking", key(0), key(1));
        let limits = vec![("answered without looking", echo), ("the bare rows", rows)];
        measured.push(Row { what, unit: "keys/s", ours, limits, budget: 0.7 });
    }
    Ok(measured)
}

/// Keys a second, by so many callers, each of which asks for `size` of them at a time.
async fn rate(
    keys: &[TaskKey],
    size: usize,
    callers: usize,
    ask: impl AsyncFn(&[TaskKey], usize) -> Result<()>,
) -> Result<f64> {
    let (start, places) = (Instant::now(), keys.len() - size + 1);
    let calls = (0..callers).map(async |caller| {
        let mut done = 0;
        while start.elapsed() < TIME {
            let from = (done + caller * size) % places;
            ask(&keys[from..from + size], from).await?;
            done += size;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(done)
    });
    let done: usize = try_join_all(calls).await?.into_iter().sum();
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

impl Bare {
    /// The daemon's own rows where they can be shared, else as many of their size.
    async fn of(keys: &[TaskKey], server: Option<&postgres::Server>, dir: &Path) -> Result<Bare> {
        let space = Space::default();
        let rows: Vec<_> = keys.iter().map(|key| rows::key(&space, key).key.to_vec()).collect();
        let Some(server) = server else {
            let database = Box::new(rocksdb::DB::open_default(dir.join("bare"))?);
            rows.iter().try_for_each(|row| database.put(row, [7; 160]))?;
            return Ok(Bare::Rocks { database, rows });
        };
        let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await?;
        tokio::spawn(connection);
        let select = "SELECT key, version, value FROM provender_rows WHERE tbl = $1 AND key = ANY($2)";
        let select = client.prepare(select).await?;
        Ok(Bare::Postgres { client, select, rows })
    }

    async fn get(&self, from: usize, size: usize) -> Result<()> {
        let (found, asked) = match self {
            Bare::Rocks { database, rows } => {
                let asked = &rows[from..from + size];
                let found = database.multi_get(asked).into_iter().flatten().flatten().map(|row| row.len());
                (found.filter(|len| *len > 0).count(), asked.len())
            }
            Bare::Postgres { client, select, rows } => {
                let asked: Vec<&[u8]> = rows[from..from + size].iter().map(Vec::as_slice).collect();
                let table = i16::from(Table::Key.tag());
                (client.query(select, &[&table, &asked]).await?.len(), asked.len())
            }
        };
        if found == asked { Ok(()) } else { Err(format!("{found} of {asked} rows").into()) }
    }
}
