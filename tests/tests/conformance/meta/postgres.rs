//! PostgreSQL: the suite, and what slow, stopped, cut off and killed daemons do to the others.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use provender_core::batch::{Batch, BatchId, Expect, Fate, Row, RowKey, Table, Version};
use provender_core::time::Timestamp;
use provender_daemon::meta::{CommitError, Meta, MetaConfig, MetaError, open};
use provender_tests::conformance::meta::{Storage, crash, follow};
use provender_tests::postgres::Server;
use provender_tests::postgres::proxy::{Fault, Proxy};

fn config(url: &str) -> MetaConfig {
    serde_json::from_value(serde_json::json!({"engine": "postgres", "url": url})).unwrap()
}

async fn connect(url: &str) -> Arc<dyn Meta> {
    open(&config(url), "/nonexistent".as_ref()).await.unwrap()
}

#[async_trait]
impl Storage for Database {
    async fn open(&self) -> Arc<dyn Meta> {
        connect(&self.0.url()).await
    }

    fn is_shared(&self) -> bool {
        true
    }
}

struct Database(Server);

impl Database {
    fn start() -> Database {
        Database(Server::start())
    }
}

provender_tests::meta_suite!(Database::start());

fn row(name: &str) -> RowKey {
    RowKey { table: Table::Key, key: name.to_owned().into() }
}

fn batch() -> Batch {
    let mut random = [0; 10];
    getrandom::fill(&mut random).unwrap();
    Batch::new(BatchId::new(Timestamp::from_millis(1_800_000_000_000), random))
}

async fn get(meta: &dyn Meta, key: &RowKey) -> Option<Row> {
    meta.get(std::slice::from_ref(key)).await.unwrap().pop().unwrap()
}

async fn put(meta: &dyn Meta, key: &str) -> Result<Version, CommitError> {
    let mut batch = batch();
    batch.put(row(key), "");
    meta.commit(batch).await
}

/// Makes one commit as another daemon would, but stops before its end.
async fn slow_committer(client: &tokio_postgres::Client, key: &str) {
    client
        .batch_execute(&format!(
            "BEGIN; SELECT version FROM provender_head WHERE one FOR UPDATE; \
             UPDATE provender_head SET version = version + 1, fed = version + 1 WHERE one; \
             INSERT INTO provender_rows SELECT 1, '{key}', version, '' FROM provender_head; \
             INSERT INTO provender_feed SELECT version, 0, 1, '{key}', false FROM provender_head"
        ))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_skips_a_slow_committer() {
    let database = Database::start();
    let (meta, other) = (database.open().await, database.open().await);
    put(&*meta, "first").await.unwrap();
    let client = database.0.connect().await;
    for round in 0..5 {
        let cursor = meta.head().await.unwrap();
        let slow = format!("slow{round}");
        slow_committer(&client, &slow).await;
        let (quick, after) = (format!("quick{round}"), row(&format!("quick{round}")));
        let behind = tokio::spawn({
            let other = Arc::clone(&other);
            async move { put(&*other, &quick).await.unwrap() }
        });
        let follower = tokio::spawn({
            let (meta, after) = (Arc::clone(&meta), after.clone());
            async move { follow(&*meta, cursor, &after).await }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(meta.changes(cursor, 10).await.unwrap().changes, [], "what is not committed is not there");
        client.batch_execute("COMMIT").await.unwrap();
        assert!(behind.await.unwrap() > Version(cursor.0 + 1));
        let seen: Vec<_> = follower.await.unwrap().into_iter().map(|change| change.key).collect();
        assert_eq!(seen, [row(&slow), after]);
    }
}

/// A daemon that stops in the middle of a commit (SIGSTOP, say) loses its session; the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_daemon_does_not_hold_up_the_others() {
    let database = Database::start();
    let meta = database.open().await;
    let proxy = Proxy::start(&database.0);
    let stopped = connect(&proxy.url()).await;
    put(&*stopped, "before").await.unwrap();
    proxy.break_next(Fault::Freeze);
    let task = tokio::spawn(async move { put(&*stopped, "never").await });
    while !proxy.has_broken() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    put(&*meta, "after").await.unwrap();
    assert!(get(&*meta, &row("after")).await.is_some());
    assert_eq!(get(&*meta, &row("never")).await, None);
    task.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_of_unknown_outcome_is_decided() {
    let database = Database::start();
    let proxy = Proxy::start(&database.0);
    let (meta, cut) = (database.open().await, connect(&proxy.url()).await);
    let counter = row("counter");
    let (mut counted, mut committed, mut aborted) = (0, 0, 0);
    for round in 0..140 {
        let fault = match round % 7 {
            0 => Fault::Cut { short: 0 },
            1 => Fault::CutAnswer,
            2 => Fault::Cut { short: 1 },
            3 => Fault::Cut { short: 12 },
            4 => Fault::Cut { short: round * 7 },
            5 => Fault::CutClient,
            _ => Fault::Cut { short: usize::MAX },
        };
        let before = get(&*meta, &counter).await;
        let key = row(&format!("row{round}"));
        let mut batch = batch();
        batch.expect(counter.clone(), Expect::as_read(before.as_ref()));
        batch.put(counter.clone(), round.to_string()).put(key.clone(), "");
        proxy.break_next(fault);
        let result = cut.commit(batch.clone()).await;
        assert!(proxy.has_broken());
        assert!(matches!(&result, Err(CommitError::Unknown { id, .. }) if *id == batch.id), "{fault:?}: {result:?}");
        // Either by the daemon itself or by another one.
        let fate = if round % 2 == 0 { &cut } else { &meta }.resolve(batch.id).await.unwrap();
        let rows = meta.get(&[key, counter.clone()]).await.unwrap();
        match fate {
            Fate::Committed(version) => {
                committed += 1;
                counted += 1;
                assert!(rows.iter().all(|row| row.as_ref().map(|row| row.version) == Some(version)), "{rows:?}");
                assert_eq!(cut.commit(batch).await.unwrap(), version);
            }
            Fate::Aborted => {
                aborted += 1;
                assert_eq!((&rows[0], &rows[1]), (&None, &before));
                let late = cut.commit(batch).await;
                assert!(matches!(late, Err(CommitError::Aborted { .. })), "{late:?}");
            }
        }
    }
    // The server had got the whole COMMIT and went on in two sevenths, and never got it in four; the last is chance.
    assert!(committed >= 40 && aborted >= 80, "{committed} committed, {aborted} aborted");
    // Every version is a commit that stands in the feed twice: the counter, and its row.
    assert_eq!(meta.head().await.unwrap(), Version(counted));
    assert_eq!(meta.changes(Version(0), 10_000).await.unwrap().changes.len(), 2 * counted as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_writer_leaves_what_was_acknowledged() {
    let database = Database::start();
    let config = serde_json::json!({"engine": "postgres", "url": database.0.url()}).to_string();
    let writer = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meta-child"));
        command.args(["write", &config, "/nonexistent"]);
        command
    };
    crash::a_killed_writer_leaves_what_was_acknowledged(&database, writer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_that_start_together_make_one_schema() {
    let database = Database::start();
    let opened: Vec<_> = (0..8).map(|_| tokio::spawn(connect_owned(database.0.url()))).collect();
    for (n, meta) in futures::future::join_all(opened).await.into_iter().enumerate() {
        put(&*meta.unwrap(), &n.to_string()).await.unwrap();
    }
    assert_eq!(database.open().await.head().await.unwrap(), Version(8));
}

async fn connect_owned(url: String) -> Arc<dyn Meta> {
    connect(&url).await
}

#[tokio::test]
async fn what_cannot_work_is_refused_in_words() {
    let database = Database::start();
    for url in ["postgres://me@host/db?sslmode=require", "postgres://me@host:port", "nonsense"] {
        let refused = open(&config(url), "/nonexistent".as_ref()).await;
        assert!(matches!(refused, Err(MetaError::Config { .. })), "{url}: {refused:?}");
    }
    let absent = open(&config("host=/nonexistent user=x"), "/nonexistent".as_ref()).await;
    assert!(matches!(absent, Err(MetaError::Unavailable { .. })), "{absent:?}");

    drop(database.open().await);
    database.0.connect().await.batch_execute("UPDATE provender_head SET layout = 2").await.unwrap();
    let newer = open(&config(&database.0.url()), "/nonexistent".as_ref()).await;
    assert!(matches!(newer, Err(MetaError::Layout { found: 2, known: 1 })), "{newer:?}");
}

/// After the server was restarted, stale connections are no error that anybody sees.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_connections_are_opened_anew() {
    let database = Database::start();
    let meta = database.open().await;
    futures::future::join_all((0..6).map(|_| meta.head())).await;
    let client = database.0.connect().await;
    for round in 0..5 {
        client
            .batch_execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'provenderd'",
            )
            .await
            .unwrap();
        put(&*meta, &round.to_string()).await.unwrap();
    }
}
