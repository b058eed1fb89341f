//! The backend for tests and throw-away stores: everything is gone when it is dropped.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream;
use provender_core::Digest;
use provender_core::blob::Form;

use crate::frames::{Encoder, Table, decoder, table_len};
use crate::{
    BlobError, Blobs, CHUNK, Claim, Ingest, Location, Page, Published, Reader, Resume, ResumeToken, Signature,
    StageOptions, Staged, Stat, StoreId,
};

type Objects = BTreeMap<Location, Bytes>;

/// Blobs in memory.
#[derive(Debug, Default)]
pub struct Memory {
    objects: Arc<Mutex<Objects>>,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Memory {
        Memory::default()
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        lock(&self.objects)
    }
}

/// No method leaves the map half-changed, so a panic elsewhere does not spoil it.
fn lock(objects: &Mutex<Objects>) -> MutexGuard<'_, Objects> {
    objects.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Blobs for Memory {
    fn id(&self) -> StoreId {
        StoreId([0; 16])
    }

    async fn prove(&self) -> Result<(), BlobError> {
        Ok(())
    }

    async fn stat(&self, locations: &[Location]) -> Result<Vec<Option<Stat>>, BlobError> {
        let objects = self.objects();
        let stat = |bytes: &Bytes| Stat { size: bytes.len() as u64, signature: None };
        Ok(locations.iter().map(|location| objects.get(location).map(stat)).collect())
    }

    async fn open(&self, location: &Location, range: Range<u64>) -> Result<Reader, BlobError> {
        let range = location.cut(range)?;
        let bytes = self.objects().get(location).cloned().ok_or(BlobError::NotFound { location: *location })?;
        // In memory, so it fits.
        let mut rest = match location.form {
            Form::Raw | Form::Pack { .. } => bytes.slice(range.start as usize..range.end as usize),
            Form::Frames { .. } => unpack(location, &bytes, &range)?,
        };
        let chunk = move || (!rest.is_empty()).then(|| Ok(rest.split_to(rest.len().min(CHUNK))));
        Ok(Reader::new(None, stream::iter(std::iter::from_fn(chunk))))
    }

    async fn stage(&self, options: StageOptions) -> Result<Box<dyn Staged>, BlobError> {
        if let Some(Resume { from: from @ 1.., .. }) = options.resume {
            return Err(BlobError::Behind { from, staged: 0 });
        }
        let (objects, ingest) = (self.objects.clone(), Ingest::new(&options.aliases));
        let frames = options.frames.map(Encoder::new).transpose()?;
        Ok(Box::new(MemoryStaged { objects, ingest, bytes: Vec::new(), frames }))
    }

    async fn remove(&self, location: &Location) -> Result<(), BlobError> {
        self.objects().remove(location);
        Ok(())
    }

    async fn list(&self, after: Option<&Location>, limit: usize) -> Result<Page, BlobError> {
        let objects = self.objects();
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut left = objects.range((after, Bound::Unbounded)).map(|(location, _)| *location);
        let locations: Vec<_> = left.by_ref().take(limit.max(1)).collect();
        let next = left.next().and(locations.last().copied());
        Ok(Page { locations, next })
    }

    async fn file(&self, location: &Location) -> Result<Option<(File, Signature)>, BlobError> {
        match self.objects().contains_key(location) {
            true => Ok(None),
            false => Err(BlobError::NotFound { location: *location }),
        }
    }

    async fn staged(&self, _token: ResumeToken) -> Result<Option<u64>, BlobError> {
        Ok(Some(0))
    }

    async fn claim(&self, location: &Location) -> Result<Option<Claim>, BlobError> {
        match self.objects().contains_key(location) {
            true => Ok(Some(Claim { _locked: None })),
            false => Err(BlobError::NotFound { location: *location }),
        }
    }

    async fn sweep(&self, _before: SystemTime) -> Result<u64, BlobError> {
        Ok(0)
    }
}

struct MemoryStaged {
    objects: Arc<Mutex<Objects>>,
    ingest: Ingest,
    bytes: Vec<u8>,
    frames: Option<Encoder>,
}

#[async_trait]
impl Staged for MemoryStaged {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.ingest.update(&bytes);
        match &mut self.frames {
            Some(frames) => frames.push(&bytes, &mut self.bytes),
            None => {
                self.bytes.extend_from_slice(&bytes);
                Ok(())
            }
        }
    }

    async fn publish(mut self: Box<Self>, expected: Option<Digest>) -> Result<Published, BlobError> {
        let hashes = self.ingest.finish();
        hashes.check(expected)?;
        let form = match self.frames.take() {
            Some(frames) => Form::Frames { stored: frames.finish(&mut self.bytes)? },
            None => Form::Raw,
        };
        let location = Location::fresh(hashes.digest, form);
        let location = location.map_err(|error| BlobError::io("memory", "name a blob", error))?;
        lock(&self.objects).insert(location, self.bytes.into());
        Ok(Published { location, signature: None, aliases: hashes.aliases, outboard: hashes.outboard })
    }
}

/// The bytes of `range` of what is kept in frames.
fn unpack(location: &Location, stored: &Bytes, range: &Range<u64>) -> Result<Bytes, BlobError> {
    let begin = stored.len().checked_sub(table_len(location.digest.size) as usize);
    let table = begin.and_then(|begin| stored.get(begin..)).unwrap_or_default();
    let (table, mut decoder, mut out) = (Table::parse(*location, table)?, decoder()?, BytesMut::new());
    for frame in table.covering(range) {
        let place = table.place(frame);
        let packed = stored.get(place.start as usize..place.end as usize).unwrap_or_default();
        out.extend_from_slice(&table.unpack(&mut decoder, frame, packed, range)?);
    }
    Ok(out.freeze())
}
