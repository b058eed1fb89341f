//! The store: what every front calls, over the two seams.
//!
//! Owns [`Store`], which reads rows, lets `core` decide, and commits; each of its rooms is a part of the API: [`tasks`], [`blobs`],
//! [`catalog`], and the [`leases`] that are watched in the background. Invariants: metadata changes through [`transact`] alone; a
//! row refers only to bytes that are durable. It must not know gRPC, FUSE or which engines are underneath.

mod annotate;
mod blobs;
mod catalog;
mod closure;
mod collect;
mod commit;
mod compare;
mod compress;
mod diff;
mod du;
mod error;
mod explain;
mod feed;
mod folders;
mod history;
mod hold;
mod index;
mod invalidate;
mod latest;
mod layout;
mod leases;
mod lineage;
mod lookup;
mod lost;
mod nearest;
mod outboards;
mod pins;
mod provenance;
mod read;
mod register;
mod search;
mod small;
mod tasks;
mod transact;
mod upload;
mod used;
mod verify;
mod watch;

use std::sync::Arc;

use provender_blobs::{Blobs, BlobsConfig, HashFunction, StoreId};
use provender_core::batch::Expect;
use provender_core::{RowKey, rows};

use crate::meta::Meta;
use crate::metrics::Metrics;

pub(crate) use blobs::backend;
pub(crate) use blobs::small_max;
pub use blobs::{INLINE_MAX, located};
pub use catalog::{Described, Named, Registered};
pub(crate) use collect::pause::PAUSED;
pub(crate) use collect::usage::USED;
pub use collect::{Collected, Collection, Going};
pub use compress::{Compressed, Compression};
pub use du::{By, Du, Group};
pub use error::{StoreError, chain};
pub use explain::{Explaining, Question};
pub(crate) use index::postings;
pub use invalidate::{Invalidate, Invalidation, Part};
pub use layout::LAYOUT;
pub(crate) use layout::{Moving, Standing, layout_of, standing};
pub use leases::Follower;
pub use lineage::{Asked, Piece, Walk};
pub use lost::lost;
pub(crate) use lost::lost_head;
pub use pins::PinId;
pub use read::Content;
pub use tasks::Begin;
pub use transact::Txn;
pub(crate) use transact::{Settled, settle};
pub use upload::Upload;
pub use verify::{Scrub, Verified, Verify};
pub use watch::{Heard, Watching};

/// How often a daemon looks whether a newer one has come.
const LOOK: std::time::Duration = std::time::Duration::from_secs(2);

/// One store: records and bytes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    meta: Arc<dyn Meta>,
    blobs: Arc<dyn Blobs>,
    feed: feed::Feed,
    pages: watch::Pages,
    metrics: Arc<Metrics>,
    aliases: Vec<HashFunction>,
    /// Those that were asked for last.
    outboards: outboards::Recent,
    /// One loss at a time is entered by this daemon, since each takes the next place in one log.
    noting: tokio::sync::Mutex<()>,
    collecting: collect::Collecting,
    used: used::Used,
}

impl Store {
    /// Opens the store over its metadata and the blob store that `blobs` names. The first time, it makes its facts: its id,
    /// its layout, and which blob store is its own; later it refuses a newer layout or another blob store.
    pub async fn open(
        meta: Arc<dyn Meta>,
        blobs: &BlobsConfig,
        aliases: Vec<HashFunction>,
        metrics: Arc<Metrics>,
    ) -> Result<Store, StoreError> {
        layout::check(&*meta).await?;
        let damaged =
            |what: &str| StoreError::Row { what: format!("the store's {what}"), why: "it is unreadable".into() };
        let known = fact(&*meta, "blobs").await?.map(|id| id.parse::<StoreId>().map_err(|_| damaged("blob store id")));
        let blobs = provender_blobs::open(blobs, known.transpose()?).await?;
        Store::over(meta, blobs, aliases, metrics).await
    }

    /// The same over a blob store that is open.
    pub async fn over(
        meta: Arc<dyn Meta>,
        blobs: Arc<dyn Blobs>,
        aliases: Vec<HashFunction>,
        metrics: Arc<Metrics>,
    ) -> Result<Store, StoreError> {
        layout::check(&*meta).await?;
        // Another daemon may be making the same facts now: the first one's stay.
        let (id, incarnation) = (provender_core::digest::hex(&crate::clock::random::<16>()), "1".to_owned());
        for (name, value) in [
            ("layout", LAYOUT.to_string()),
            ("id", id),
            ("incarnation", incarnation),
            ("blobs", blobs.id().to_string()),
        ] {
            first(&*meta, name, value).await?;
        }
        let settled = fact(&*meta, "blobs").await?;
        if settled.as_deref() != Some(&*blobs.id().to_string()) {
            return Err(StoreError::OtherBlobs {
                expected: settled.unwrap_or_default(),
                found: blobs.id().to_string(),
            });
        }
        if let Some(requests) = blobs.requests() {
            // Another store may be counted there already.
            _ = metrics.count_bucket(requests);
        }
        let (feed, pages) = (feed::Feed::default(), watch::Pages::default());
        let (noting, outboards, collecting, used) = Default::default();
        let inner = Inner { meta, blobs, feed, pages, metrics, aliases, outboards, noting, collecting, used };
        Ok(Store { inner: Arc::new(inner) })
    }

    /// The tier in which what it acknowledges is durable.
    pub fn tier(&self) -> &'static str {
        self.inner.blobs.tier()
    }

    /// Its metadata, as whoever backs it up reads it.
    pub(crate) fn meta(&self) -> &Arc<dyn Meta> {
        &self.inner.meta
    }

    /// The same of its blobs.
    pub(crate) fn blobs(&self) -> &Arc<dyn Blobs> {
        &self.inner.blobs
    }

    /// Its id, which a restore does not change.
    pub async fn id(&self) -> Result<String, StoreError> {
        let id = fact(&*self.inner.meta, "id").await?;
        id.ok_or_else(|| StoreError::Row { what: "the store's id".into(), why: "it is missing".into() })
    }

    /// Returns once this version may serve it no longer, since a newer one has begun to migrate it.
    pub async fn outgrown(&self) -> StoreError {
        loop {
            tokio::time::sleep(LOOK).await;
            let grown = layout::check(&*self.inner.meta).await;
            // Whether it can be read is told by all else that reads it.
            if let Err(error @ (StoreError::Layout { .. } | StoreError::Migrating { .. } | StoreError::Restoring)) =
                grown
            {
                return error;
            }
        }
    }

    /// The counters that this store moves.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }
}

async fn fact(meta: &dyn Meta, name: &str) -> Result<Option<String>, StoreError> {
    let row = meta.get(&[rows::store(name)]).await?.pop().flatten();
    Ok(row.map(|row| String::from_utf8_lossy(&row.value).into_owned()))
}

async fn first(meta: &dyn Meta, name: &str, value: String) -> Result<(), StoreError> {
    let key: RowKey = rows::store(name);
    // Looked at again after a commit: one that did not hold may have been aborted, and then nobody has made the fact.
    for _ in 0..transact::ATTEMPTS {
        if meta.get(std::slice::from_ref(&key)).await?.pop().flatten().is_some() {
            return Ok(());
        }
        let mut batch = provender_core::Batch::new(crate::clock::batch_id());
        batch.expect(key.clone(), Expect::Absent).put(key.clone(), value.clone());
        transact::settle(meta, batch).await?;
    }
    Err(StoreError::Contended { attempts: transact::ATTEMPTS })
}

#[cfg(test)]
pub(crate) mod tests;
