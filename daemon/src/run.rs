//! A daemon's life: open, serve, drain, close.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use provender_core::name::Space;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::config::{Config, Tls};
use crate::data::{DataDir, DataError};
use crate::meta::{self, MetaError};
use crate::metrics::Metrics;
use crate::migrate::{self, MigrateError};
use crate::mount;
use crate::serve::{self, Handover, ListenError, Tcp, Tokens, Unix};
use crate::store::{Store, StoreError};

/// How long writing down what was answered may take at the end.
const LAST_FLUSH: Duration = Duration::from_secs(2);

/// Why the daemon did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data folder.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The metadata engine.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Bringing it to this version's layout.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// A listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The mount.
    #[error(transparent)]
    Mount(#[from] provender_fuse::MountError),
    /// The token file.
    #[error("{0}")]
    Tokens(String),
    /// A certificate or key.
    #[error("[tls]: {} cannot be read: {source}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A server stopped by itself.
    #[error("a server failed: {0}")]
    Server(String),
    /// The counters could not be made.
    #[error("the metrics could not be set up: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Runs a daemon until `stop`, then drains it. `ready` is called once it serves.
pub async fn run(config: Config, stop: CancellationToken, ready: impl FnOnce()) -> Result<(), RunError> {
    let socket = DataDir::socket(&config.data);
    Unix::check(&socket)?;
    let mut data = DataDir::open(&config.data, config.socket_group.is_some())?;
    let metrics = Arc::new(Metrics::new()?);
    let meta = meta::open(&config.meta, data.path()).await?;
    let patience = config.meta.is_shared().then_some(migrate::PATIENCE);
    migrate::migrate(&meta, &data.snapshots(), patience).await?;
    let store = Store::open(meta, &config.blobs, config.aliases.clone(), metrics.clone()).await?;
    store.configure(config.collection.clone());
    store.note_uses(&data.used(), config.meta.is_shared()).await?;
    data.settle()?;
    let mut background = JoinSet::new();
    background.spawn(store.clone().watch());
    background.spawn(store.clone().tidy());
    background.spawn(store.clone().sweep_uploads(config.keep_uploads));
    background.spawn(store.clone().flush_forever());
    background.spawn(store.clone().watch_room());
    background.spawn(store.clone().collect_forever());
    if let Some(scrub) = config.scrub {
        background.spawn(store.clone().scrub(scrub));
    }
    if let Some(compression) = config.compression {
        background.spawn(store.clone().compress(compression));
    }

    // Everything that can fail to start does so before anybody is served.
    let unix = Unix::bind(&socket, config.socket_group.as_deref())?;
    let handover = Handover::bind(&provender_proto::handover::beside(&socket))?;
    let tcp = bind_tcp(&config).await?;
    let http = match config.metrics_listen {
        Some(address) => {
            let failed = |source| ListenError::Io { on: address.to_string(), source };
            Some(tokio::net::TcpListener::bind(address).await.map_err(failed)?)
        }
        None => None,
    };
    let mounted = match config.mount.clone() {
        Some(point) => {
            let (config, store, runtime) = (config.clone(), store.clone(), tokio::runtime::Handle::current());
            let requests = metrics.mount.clone();
            let mounting = move || mount::mount(&config, &point, &store, runtime, requests);
            let mounted = tokio::task::spawn_blocking(mounting).await;
            Some(mounted.map_err(|error| RunError::Server(error.to_string()))??)
        }
        None => None,
    };
    if let Some(mounted) = &mounted {
        background.spawn(mount::follow(store.clone(), Space::default(), mounted.changes()));
    }

    let (draining, stopped) = (CancellationToken::new(), CancellationToken::new());
    let mut servers = JoinSet::new();
    let failed = |error: tonic::transport::Error| RunError::Server(crate::store::chain(&error));
    let own = own_folders(&config);
    let routes = serve::routes(&store, &own, &draining, true).await;
    if let Some(tcp) = tcp {
        tracing::info!(address = %tcp.address, "listening on TCP");
        let draining = draining.clone();
        let routes = match tcp.is_protected() {
            true => routes.clone(),
            false => serve::routes(&store, &own, &draining, false).await,
        };
        servers.spawn(async move { tcp.serve(routes, draining).await.map_err(failed) });
    }
    if let Some(listener) = http {
        let served = serve::serve_http(listener, metrics, draining.clone(), stopped.clone());
        tokio::spawn(served);
    }
    tracing::info!(socket = %socket.display(), version = env!("CARGO_PKG_VERSION"), "serving");
    {
        let draining = draining.clone();
        servers.spawn(async move { unix.serve(routes, draining).await.map_err(failed) });
    }
    {
        let (store, draining) = (store.clone(), draining.clone());
        servers.spawn(async move {
            handover.serve(store, draining).await;
            Ok(())
        });
    }
    ready();

    let mut result = Ok(());
    tokio::select! {
        () = stop.cancelled() => tracing::info!("draining"),
        Some(ended) = servers.join_next() => {
            result = ended.unwrap_or_else(|error| Err(RunError::Server(error.to_string())));
        }
        error = store.outgrown(), if config.meta.is_shared() => result = Err(error.into()),
        // It never ends by itself; without it no lease would expire and nobody who waits be woken.
        Some(_) = background.join_next() => result = Err(RunError::Server("a background task has died".into())),
    }
    draining.cancel();
    let drained = tokio::time::timeout(config.drain, async { while servers.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(
            seconds = config.drain.as_secs(),
            "calls were still under way at the end of the drain; they are cut"
        );
        servers.abort_all();
    }
    background.abort_all();
    // What is not written now is in the file, for the next start.
    match tokio::time::timeout(LAST_FLUSH, store.flush_used()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::debug!(error = %crate::store::chain(&error), "what was answered is written down by the next start")
        }
        Err(_) => tracing::debug!("what was answered is written down by the next start"),
    }
    if let Some(mounted) = mounted {
        let unmounted = tokio::task::spawn_blocking(move || mounted.unmount(mount::GRACE)).await;
        if let Ok(Err(error)) = unmounted {
            tracing::warn!(error = %crate::store::chain(&error), "could not unmount");
        }
    }
    stopped.cancel();
    tracing::info!("stopped");
    result
}

/// Where the store itself is: no place for its backups.
fn own_folders(config: &Config) -> Vec<PathBuf> {
    [Some(config.data.as_path()), config.blob_dir()].into_iter().flatten().map(Path::to_path_buf).collect()
}

async fn bind_tcp(config: &Config) -> Result<Option<Tcp>, RunError> {
    let Some(address) = config.listen else { return Ok(None) };
    let tls = config.tls.as_ref().map(tls).transpose()?;
    let tokens = config.tokens_file.as_deref().map(Tokens::read).transpose();
    let tokens = tokens.map_err(|error| RunError::Tokens(error.to_string()))?;
    let client_ca = config.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    Ok(Some(Tcp::bind(address, tls, client_ca, tokens, config.insecure).await?))
}

fn tls(tls: &Tls) -> Result<ServerTlsConfig, RunError> {
    let read = |path: &PathBuf| std::fs::read(path).map_err(|source| RunError::Tls { path: path.clone(), source });
    let mut config = ServerTlsConfig::new().identity(Identity::from_pem(read(&tls.cert)?, read(&tls.key)?));
    if let Some(ca) = &tls.client_ca {
        config = config.client_ca_root(Certificate::from_pem(read(ca)?));
    }
    Ok(config)
}
