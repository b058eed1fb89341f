//! Blobs as objects, one each, in a bucket that any number of processes share: S3 and what speaks it, Google's and Azure's.
//!
//! ```text
//! PREFIX/provender-blobs                        the marker: layout version and store id, written first
//! PREFIX/objects/ab/HASH.SIZE.NONCE[.zst]       the blobs, raw or in frames; ab: the first byte of the hash
//! PREFIX/packs/NONCE                            small blobs, many in one (see `pack`)
//! PREFIX/uploads/HASH.SIZE.NONCE[.zst]          names a multipart upload that is under way; what it leaves can be found by that
//! ```
//! Invariants: an object under `objects` or `packs` is written once, under a name that nobody else has, so that no condition is needed to
//! keep two writers apart; nothing is believed to be missing unless the marker was read in the same call; what is refused, slow or cut off
//! says nothing of what is there. Bytes on their way are in memory by a few parts at most.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use provender_core::blob::Form;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::packer::Packer;
use self::packs::Often;
use self::staged::ENDING;
use crate::recent::Recent;
use crate::{
    BlobError, Blobs, Claim, Location, Packs, Page, Reader, ResumeToken, Signature, StageOptions, Staged, Stat,
    StoreId, pack,
};

mod config;
mod error;
mod journal;
mod key;
mod marker;
mod packer;
mod packs;
mod reader;
mod requests;
mod staged;

pub use config::{BucketConfig, Settings};
pub use requests::{Request, Requests};

/// How long it may take to learn more of an object that could not be read.
const SOON: Duration = Duration::from_secs(2);
/// How many objects are asked for at once.
const AT_ONCE: usize = 16;

/// What a client of a bucket can do.
trait Client: ObjectStore + MultipartStore {}
impl<T: ObjectStore + MultipartStore> Client for T {}

/// Blobs in a bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    store: Arc<Store>,
    keeps_conditions: bool,
}

/// What all calls share.
#[derive(Debug)]
struct Store {
    client: Box<dyn Client>,
    prefix: Path,
    /// For people.
    url: String,
    id: StoreId,
    requests: Arc<Requests>,
    /// The turns of parts on their way.
    sending: Arc<Semaphore>,
    packer: Packer,
    /// What was read or written last of packs: the frame, or the blob, that begins there.
    recent: Recent,
    often: Often,
}

impl Bucket {
    /// Opens the store in a bucket; see [`crate::open`] for `known`.
    pub async fn open(config: &BucketConfig, known: Option<StoreId>) -> Result<Bucket, BlobError> {
        let mut store = config.connect()?;
        store.id = match known {
            Some(id) => {
                store.id = id;
                store.prove().await?;
                id
            }
            None => store.open_or_create().await?,
        };
        let keeps_conditions = store.keeps_conditions().await?;
        if !keeps_conditions {
            tracing::warn!(
                store = store.url,
                "the bucket ignores conditions: several daemons may run on it, but let only one of them make it"
            );
        }
        Ok(Bucket { store: Arc::new(store), keeps_conditions })
    }

    /// Whether the bucket kept to a condition when it was opened. Some ignore them without a word.
    pub fn keeps_conditions(&self) -> bool {
        self.keeps_conditions
    }
}

#[async_trait]
impl Blobs for Bucket {
    fn id(&self) -> StoreId {
        self.store.id
    }

    async fn prove(&self) -> Result<(), BlobError> {
        self.store.prove().await
    }

    async fn stat(&self, locations: &[Location]) -> Result<Vec<Option<Stat>>, BlobError> {
        // Of what is in one pack, it is asked for once.
        let objects: BTreeSet<_> = locations.iter().map(|location| self.store.object(location)).collect();
        let asked = objects.into_iter().map(|object| async {
            let size = self.store.size(&object).await?;
            Ok::<_, BlobError>((object, size))
        });
        let asked = stream::iter(asked.collect::<Vec<_>>()).buffered(AT_ONCE);
        let found: BTreeMap<_, _> = asked.try_collect().await?;
        if found.values().any(Option::is_none) {
            self.store.prove().await?;
        }
        let stat = |location: &Location| {
            let size = (*found.get(&self.store.object(location))?)?;
            let size = pack::span(location).map_or(size, |span| if span.end <= size { location.stored() } else { 0 });
            Some(Stat { size, signature: None })
        };
        Ok(locations.iter().map(stat).collect())
    }

    async fn open(&self, location: &Location, range: Range<u64>) -> Result<Reader, BlobError> {
        let range = location.cut(range)?;
        match location.form {
            _ if range.is_empty() => {
                self.store.sure(location).await?;
                Ok(Reader::new(None, stream::empty()))
            }
            Form::Raw => reader::raw(&self.store, location, range).await,
            Form::Pack { .. } => {
                let whole = self.store.packed(&[*location]).await.pop().unwrap_or(Err(ENDING))?;
                let part = whole.slice(range.start as usize..range.end as usize);
                Ok(Reader::new(None, stream::iter([Ok(part)])))
            }
            Form::Frames { .. } => reader::frames(&self.store, location, range).await,
        }
    }

    async fn stage(&self, options: StageOptions) -> Result<Box<dyn Staged>, BlobError> {
        Ok(Box::new(staged::BucketStaged::begin(self.store.clone(), options)?))
    }

    async fn remove(&self, location: &Location) -> Result<(), BlobError> {
        if pack::span(location).is_some() {
            return Ok(());
        }
        match self.store.client.delete(&self.store.object(location)).await {
            Ok(()) => Ok(()),
            Err(object_store::Error::NotFound { .. }) => self.store.prove().await,
            Err(error) => Err(self.store.failed("remove a blob", error)),
        }
    }

    async fn list(&self, after: Option<&Location>, limit: usize) -> Result<Page, BlobError> {
        let (objects, limit) = (self.store.objects(), limit.max(1));
        let found = match after {
            Some(after) => self.store.client.list_with_offset(Some(&objects), &self.store.object(after)),
            None => self.store.client.list(Some(&objects)),
        };
        let failed = |error| self.store.failed("list the blobs", error);
        // What is not ours is left alone.
        let mut found = found.map_err(failed).try_filter_map(|it| ready(Ok(key::parse(&it.location, it.size))));
        let mut locations = Vec::new();
        while let Some(location) = found.try_next().await? {
            if locations.len() == limit {
                let next = locations.last().copied();
                return Ok(Page { locations, next });
            }
            locations.push(location);
        }
        // A bucket that is not there lists nothing.
        if locations.is_empty() {
            self.store.prove().await?;
        }
        Ok(Page { locations, next: None })
    }

    async fn file(&self, _location: &Location) -> Result<Option<(std::fs::File, Signature)>, BlobError> {
        Ok(None)
    }

    async fn staged(&self, _token: ResumeToken) -> Result<Option<u64>, BlobError> {
        Ok(Some(0))
    }

    async fn claim(&self, location: &Location) -> Result<Option<Claim>, BlobError> {
        self.store.sure(location).await.map(|_| Some(Claim { _locked: None }))
    }

    fn tier(&self) -> &'static str {
        "bucket"
    }

    fn packs(&self) -> Option<&dyn Packs> {
        Some(&self.store)
    }

    fn requests(&self) -> Option<&Arc<Requests>> {
        Some(&self.store.requests)
    }

    async fn sweep(&self, before: SystemTime) -> Result<u64, BlobError> {
        self.store.sweep_uploads(before).await
    }
}

impl Store {
    /// The size of a blob's object; `None` if there seems to be none.
    async fn head(&self, location: &Location) -> Result<Option<u64>, BlobError> {
        self.size(&self.object(location)).await
    }

    /// The size of an object; `None` if there seems to be none.
    async fn size(&self, object: &Path) -> Result<Option<u64>, BlobError> {
        match self.client.head(object).await {
            Ok(ObjectMeta { size, .. }) => Ok(Some(size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("look for a blob", error)),
        }
    }

    /// The same, or that there is none for sure.
    async fn sure(&self, location: &Location) -> Result<u64, BlobError> {
        match self.head(location).await? {
            Some(size) => Ok(size),
            None => Err(self.missing(location).await),
        }
    }

    /// Why there is no object of a blob: it is missing, if the store is there.
    async fn missing(&self, location: &Location) -> BlobError {
        self.prove().await.err().unwrap_or(BlobError::NotFound { location: *location })
    }

    /// The bytes of `range` of what is stored of a blob, as they come.
    async fn get(&self, location: &Location, range: Range<u64>) -> Result<object_store::GetResult, BlobError> {
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        match self.client.get_opts(&self.object(location), options).await {
            Ok(found) if found.meta.size != location.stored() => {
                Err(location.corrupt(format_args!("its object has {} bytes", found.meta.size)))
            }
            Ok(found) => Ok(found),
            Err(object_store::Error::NotFound { .. }) => Err(self.missing(location).await),
            // It may be too short for the range, which servers say in many ways.
            Err(error) => match timeout(SOON, self.head(location)).await {
                Ok(Ok(Some(size))) if size != location.stored() => {
                    Err(location.corrupt(format_args!("its object has {size} bytes")))
                }
                _ => Err(self.failed("read a blob", error)),
            },
        }
    }

    fn failed(&self, doing: &'static str, error: object_store::Error) -> BlobError {
        error::failed(&self.url, doing, error)
    }
}
