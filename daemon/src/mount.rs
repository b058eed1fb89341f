//! The daemon's own mount: mounting it, and telling its kernel what changes in the store.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use provender_blobs::cache::Cache;
use provender_core::batch::Table;
use provender_core::execution::Verdict;
use provender_core::name::Space;
use provender_core::provenance::Branch;
use provender_core::{RowKey, rows};
use provender_fuse::{Change, Changes, Mount, MountError, Options, Requests};
use provender_proto::rows as values;
use tokio::runtime::Handle;
use tokio::sync::broadcast::error::RecvError;

use crate::config::Config;
use crate::store::Store;
use crate::view::StoreSource;

/// Where the mount's cache is, in the data folder. It may be deleted at any time.
const CACHE: &str = "mount-cache";
/// How long readers may keep files open when the daemon stops.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// Mounts the default space at `point`. It blocks.
pub(crate) fn mount(
    config: &Config,
    point: &Path,
    store: &Store,
    runtime: Handle,
    requests: Arc<Requests>,
) -> Result<Mount, MountError> {
    let mut options = Options {
        allow_other: config.mount_allow_other,
        passthrough: config.mount_passthrough,
        backing: config.blob_dir().into_iter().map(Path::to_owned).chain([config.data.join(CACHE)]).collect(),
        // This very program: `main` knows its first argument.
        watchdog: std::env::current_exe().ok(),
        requests,
        ..Options::default()
    };
    options.settings.since = crate::clock::now();
    let source = StoreSource::new(store.clone(), Space::default(), runtime, cache(config));
    Mount::new(Arc::new(source), point, &options)
}

/// Where files are kept that are none in the store.
fn cache(config: &Config) -> Cache {
    if config.mount_cache_bytes == 0 {
        return Cache::none();
    }
    Cache::open(&config.data.join(CACHE), config.mount_cache_bytes).unwrap_or_else(|error| {
        tracing::warn!(%error, "what the mounted view reads of compressed blobs is not kept");
        Cache::none()
    })
}

/// Tells a mount of a space what changes in the store, for as long as it is polled.
pub(crate) async fn follow(store: Store, space: Space, changes: Changes) {
    let mut changing = store.changing();
    loop {
        match changing.recv().await {
            Ok(row) => {
                if let Some(change) = shown(&space, &row) {
                    changes.tell(change);
                }
            }
            // The kernel asks again by itself within a second.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// What the view shows of a row.
fn shown(space: &Space, row: &RowKey) -> Option<Change> {
    match row.table {
        Table::Name => rows::parse_name(space, &row.key).map(|name| Change::Name(Branch::Tasks, name)),
        Table::Key => {
            let (of, key) = rows::parse_key(&row.key)?;
            (of == *space).then_some(Change::Key(key))
        }
        // A verdict that changes may move `latest` back, or have made a failure.
        Table::Event => {
            let (of, bytes) = rows::parse_event(&row.key)?;
            let event = values::event_from(bytes).ok()?.event;
            let failed = matches!(event.verdict, Verdict::Failed | Verdict::Abandoned);
            let branch = if failed { Branch::Failed } else { Branch::Tasks };
            event.name.filter(|_| of == *space).map(|name| Change::Name(branch, name))
        }
        _ => None,
    }
}
