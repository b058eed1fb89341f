//! Connections to PostgreSQL, and how long anything may take on one.
//!
//! Invariant: a daemon that stops in the middle of a commit (SIGSTOP, a cut cable) loses its session, and with it the head's
//! lock, within [`IDLE`]; nobody waits for it longer than [`LOCK`].

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use deadpool_postgres::{Client, Hook, HookError, Manager, ManagerConfig, Pool, QueueMode, RecyclingMethod, Runtime};
use serde::Deserialize;
use tokio_postgres::NoTls;
use tokio_postgres::config::SslMode;

use crate::meta::MetaError;

/// How long the server keeps a session that is silent within a transaction.
const IDLE: Duration = Duration::from_secs(5);
/// How long a statement waits for a lock; longer than [`IDLE`], so that the wait outlives a dead holder.
const LOCK: Duration = Duration::from_secs(10);
/// How long the server works at a statement.
const STATEMENT: Duration = Duration::from_secs(30);
/// How long an answer may take; longer than [`STATEMENT`], so that the server's own error comes first.
const ANSWER: Duration = Duration::from_secs(40);
/// How long a new connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Where the shared database is.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, or the same as `key=value` words; `host` may be the folder of a unix
    /// socket. Connections are not encrypted: the server must be on this machine or a trusted network.
    pub url: String,
    /// The most connections that this daemon opens.
    #[serde(default = "connections")]
    pub connections: usize,
}

fn connections() -> usize {
    16
}

/// Without the URL, which holds a password.
impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig").field("connections", &self.connections).finish_non_exhaustive()
    }
}

/// A pool that opens its connections when they are asked for.
pub(super) fn pool(config: &PostgresConfig) -> Result<Pool, MetaError> {
    let wrong = |reason: String| MetaError::Config { reason };
    let mut target = tokio_postgres::Config::from_str(&config.url)
        .map_err(|error| wrong(format!("the PostgreSQL url is not understood: {}", chain(&error))))?;
    match target.get_ssl_mode() {
        SslMode::Disable | SslMode::Prefer => target.ssl_mode(SslMode::Disable),
        _ => {
            let reason = "provenderd cannot encrypt its connections to PostgreSQL yet: drop sslmode from the url, and reach \
                          the server over a trusted network or a tunnel";
            return Err(wrong(reason.to_owned()));
        }
    };
    target.application_name("provenderd");
    // A server that is gone without a word is noticed within half a minute.
    target.connect_timeout(CONNECT).tcp_user_timeout(Duration::from_secs(20));
    target.keepalives_idle(Duration::from_secs(10)).keepalives_interval(Duration::from_secs(5)).keepalives_retries(3);

    let manager = Manager::from_config(target, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
    let session = session();
    let prepare = Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
        let session = session.clone();
        Box::pin(async move { client.batch_execute(&session).await.map_err(HookError::Backend) })
    });
    Pool::builder(manager)
        .max_size(config.connections.max(4))
        // The one that was used last: its statements are prepared, and its server process is warm.
        .queue_mode(QueueMode::Lifo)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(LOCK))
        .create_timeout(Some(CONNECT * 2))
        .recycle_timeout(Some(CONNECT))
        .post_create(prepare)
        .build()
        .map_err(|error| wrong(error.to_string()))
}

/// What every session begins with. Acknowledged must mean durable, also where the server's default says otherwise.
fn session() -> String {
    format!(
        "SET idle_in_transaction_session_timeout = {}; SET lock_timeout = {}; SET statement_timeout = {}; \
         SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
        IDLE.as_millis(),
        LOCK.as_millis(),
        STATEMENT.as_millis()
    )
}

pub(super) async fn get(pool: &Pool, doing: &'static str) -> Result<Client, MetaError> {
    pool.get().await.map_err(|error| MetaError::unavailable(doing, error))
}

/// What comes of `work`, unless it takes too long.
pub(super) async fn within<T>(doing: &'static str, work: impl Future<Output = T>) -> Result<T, MetaError> {
    tokio::time::timeout(ANSWER, work).await.map_err(|error| MetaError::unavailable(doing, error))
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
