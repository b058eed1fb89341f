//! Reading packs, and what is to be known of them.
//!
//! What is wanted of one pack is asked for in as few ranges as pay; what was read or written last is in memory. Invariant: a pack
//! that cannot be reached says nothing of what is in it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::ready;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use provender_core::Digest;
use provender_core::blob::Form;
use tokio::time::timeout;

use super::error::again;
use super::key::parse_pack;
use super::staged::ENDING;
use super::{SOON, Store};
use crate::blocking::blocking;
use crate::pack::{self, FOOT, MOST};
use crate::{BlobError, Location, Pack, Packs};

/// How many bytes of packs are kept in memory.
pub(super) const IN_MEMORY: u64 = 64 << 20;
/// To read so many bytes that nobody wants is cheaper than one more request.
const GAP: u64 = 256 << 10;
/// Of a pack that is asked for more ranges than that, all is read at once.
const OFTEN: usize = 2;
/// How many packs are followed.
const FOLLOWED: usize = 64;
/// How many ranges are asked for at once, by one caller.
const AT_ONCE: usize = 4;
/// How much of a pack's end is read at first: the list of most.
const END: u64 = 64 << 10;

/// What became of a range, for each blob that lies in it.
#[derive(Debug, Clone)]
enum Run {
    /// Its bytes, as far as they came, of a pack of so many.
    Read {
        bytes: Bytes,
        size: u64,
    },
    Missing,
    Failed(Arc<BlobError>),
}

#[async_trait]
impl Packs for Arc<Store> {
    async fn put(&self, blobs: Vec<(Digest, Bytes)>) -> Result<Vec<Location>, BlobError> {
        self.pack_up(blobs).await
    }

    async fn get(&self, locations: &[Location]) -> Vec<Result<Bytes, BlobError>> {
        self.packed(locations).await
    }

    async fn list(&self, after: Option<u64>, limit: usize) -> Result<(Vec<Pack>, Option<u64>), BlobError> {
        let (folder, limit) = (self.packs(), limit.max(1));
        let found = match after {
            Some(after) => self.client.list_with_offset(Some(&folder), &self.pack(after)),
            None => self.client.list(Some(&folder)),
        };
        let pack = |it: object_store::ObjectMeta| {
            parse_pack(&it.location).map(|nonce| Pack { nonce, size: it.size, made: it.last_modified.into() })
        };
        let failed = |error| self.failed("list the packs", error);
        let mut found = found.map_err(failed).try_filter_map(|it| ready(Ok(pack(it))));
        let mut packs: Vec<Pack> = Vec::new();
        while let Some(pack) = found.try_next().await? {
            if packs.len() == limit {
                let next = packs.last().map(|pack| pack.nonce);
                return Ok((packs, next));
            }
            packs.push(pack);
        }
        // A bucket that is not there lists nothing.
        if packs.is_empty() {
            self.prove().await?;
        }
        Ok((packs, None))
    }

    async fn contents(&self, nonce: u64) -> Result<Option<Vec<Location>>, BlobError> {
        self.list_of(nonce).await
    }

    async fn remove(&self, nonce: u64) -> Result<(), BlobError> {
        self.recent.forget(nonce);
        match self.client.delete(&self.pack(nonce)).await {
            Ok(()) => Ok(()),
            Err(object_store::Error::NotFound { .. }) => self.prove().await,
            Err(error) => Err(self.failed("remove a pack", error)),
        }
    }
}

impl Store {
    /// The bytes of what is in packs, in order.
    pub(super) async fn packed(self: &Arc<Self>, locations: &[Location]) -> Vec<Result<Bytes, BlobError>> {
        let (mut found, mut missing) = (HashMap::new(), BTreeMap::new());
        self.look(locations, &mut found, &mut missing);
        // Whoever waits for all of a pack finds what it wants in memory after that.
        let often =
            missing.iter().map(|(nonce, spans)| (*nonce, self.often.asked(*nonce, joined(spans.clone()).len())));
        let whole = often.filter_map(|(nonce, turn)| Some(self.read_whole(nonce, turn?)));
        if stream::iter(whole.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).count().await > 0 {
            missing.clear();
            self.look(locations, &mut found, &mut missing);
        }
        let runs: Vec<_> = missing
            .into_iter()
            .flat_map(|(nonce, spans)| joined(spans).into_iter().map(move |run| (nonce, run)))
            .collect();
        let reading = runs.into_iter().map(|(nonce, run)| async move {
            let read = self.read_run(nonce, run.clone()).await;
            ((nonce, run.start), (run, read))
        });
        let reading: Vec<_> = reading.collect();
        let runs: BTreeMap<_, _> = stream::iter(reading).buffer_unordered(AT_ONCE).collect().await;
        let (store, locations, count) = (self.clone(), locations.to_vec(), locations.len());
        let cut = move || {
            let mut out = Vec::with_capacity(locations.len());
            for location in &locations {
                out.push(store.cut(location, &mut found, &runs));
            }
            Ok(out)
        };
        blocking(cut).await.unwrap_or_else(|_| (0..count).map(|_| Err(ENDING)).collect())
    }

    /// What is in memory of what is wanted, and of each pack the spans that are not.
    fn look(
        &self,
        locations: &[Location],
        found: &mut HashMap<(u64, u64), Bytes>,
        missing: &mut BTreeMap<u64, Vec<Range<u64>>>,
    ) {
        for location in locations {
            let Some(span) = pack::span(location).filter(|span| !span.is_empty()) else { continue };
            let key = key(location.nonce, span.start);
            if found.contains_key(&key) {
                continue;
            }
            match self.recent.get(key) {
                Some(bytes) => _ = found.insert(key, bytes),
                None => missing.entry(location.nonce).or_default().push(span),
            }
        }
    }

    /// Has all of a pack in memory, as far as that goes well; whoever comes meanwhile waits for it.
    async fn read_whole(self: &Arc<Self>, nonce: u64, turn: Arc<Turn>) {
        let mut is_over = turn.is_over.lock().await;
        if std::mem::replace(&mut *is_over, true) {
            return;
        }
        let read = async {
            let found = self.client.get(&self.pack(nonce)).await.ok()?;
            let size = found.meta.size;
            // One blob that is larger is a pack by itself.
            let bytes = if size <= 2 * MOST as u64 { found.bytes().await.ok()? } else { return None };
            let foot = bytes.len().checked_sub(FOOT)?;
            let list = pack::list_of(size, bytes.get(foot..)?).ok()?;
            let locations = pack::contents(nonce, list.start, bytes.get(list.start as usize..foot)?).ok()?;
            Some((bytes, locations))
        };
        if let Some((pack, locations)) = read.await {
            let store = self.clone();
            let remember = move || {
                store.remember(&pack, &locations);
                Ok(())
            };
            _ = blocking(remember).await;
        }
        self.often.end(nonce, &turn);
    }

    fn cut(
        &self,
        location: &Location,
        found: &mut HashMap<(u64, u64), Bytes>,
        runs: &BTreeMap<(u64, u64), (Range<u64>, Run)>,
    ) -> Result<Bytes, BlobError> {
        let span = pack::span(location).ok_or_else(|| location.corrupt("it is in no pack"))?;
        if location.digest.size == 0 {
            return Ok(Bytes::new());
        }
        let key = key(location.nonce, span.start);
        if let Some(bytes) = found.get(&key) {
            return pack::cut(location, bytes);
        }
        let Some((_, (run, read))) = runs.range(..=(location.nonce, span.start)).next_back() else {
            return Err(location.corrupt("it is in no pack"));
        };
        let within = (span.start - run.start) as usize..(span.end - run.start) as usize;
        let part = match read {
            Run::Read { bytes, .. } if within.end <= bytes.len() => bytes.slice(within),
            Run::Read { size, .. } if *size < span.end => {
                return Err(location.corrupt(format_args!("its pack has only {size} bytes")));
            }
            Run::Read { bytes, .. } => return Err(self.cut_off((within.end - bytes.len()) as u64)),
            Run::Missing => return Err(BlobError::NotFound { location: *location }),
            Run::Failed(error) => return Err(again(error)),
        };
        let part = match location.form {
            Form::Pack { frame: Some(_), .. } => pack::unpack(location, &part)?,
            // A copy, so that a small blob in memory does not hold all that came with it.
            _ => Bytes::copy_from_slice(&part),
        };
        self.recent.put(key, part.clone());
        let bytes = pack::cut(location, &part);
        found.insert(key, part);
        bytes
    }

    async fn read_run(&self, nonce: u64, mut run: Range<u64>) -> Run {
        let object = self.pack(nonce);
        loop {
            let options = GetOptions { range: Some(GetRange::Bounded(run.clone())), ..GetOptions::default() };
            let read = async {
                let found = self.client.get_opts(&object, options).await?;
                Ok::<_, object_store::Error>((found.meta.size, found.bytes().await?))
            };
            match read.await {
                Ok((size, bytes)) => return Run::Read { bytes, size },
                Err(object_store::Error::NotFound { .. }) => {
                    return self.prove().await.map_or_else(|error| Run::Failed(Arc::new(error)), |()| Run::Missing);
                }
                // It may be too short for the range, which servers say in many ways.
                Err(error) => match timeout(SOON, self.size(&object)).await {
                    Ok(Ok(Some(size))) if size <= run.start => return Run::Read { bytes: Bytes::new(), size },
                    Ok(Ok(Some(size))) if size < run.end => run.end = size,
                    _ => return Run::Failed(Arc::new(self.failed("read small blobs", error))),
                },
            }
        }
    }

    /// Keeps in memory what was just packed: who stored a tree reads it next.
    pub(super) fn remember(&self, pack: &Bytes, locations: &[Location]) {
        for location in locations {
            let Some(span) = pack::span(location).filter(|span| !span.is_empty()) else { continue };
            let key = key(location.nonce, span.start);
            if self.recent.has(key) {
                continue;
            }
            let part = pack.slice(span.start as usize..span.end as usize);
            let part = match location.form {
                Form::Pack { frame: Some(_), .. } => pack::unpack(location, &part),
                _ => Ok(Bytes::copy_from_slice(&part)),
            };
            if let Ok(part) = part {
                self.recent.put(key, part);
            }
        }
    }

    async fn list_of(&self, nonce: u64) -> Result<Option<Vec<Location>>, BlobError> {
        let object = self.pack(nonce);
        let Some(size) = self.size(&object).await? else {
            self.prove().await?;
            return Ok(None);
        };
        let read = |range: Range<u64>| async {
            match self.client.get_range(&object, range).await {
                Ok(bytes) => Ok(Some(bytes)),
                Err(object_store::Error::NotFound { .. }) => self.prove().await.map(|()| None),
                Err(error) => Err(self.failed("read the list of a pack", error)),
            }
        };
        let damaged = |pack::NoPack(why)| BlobError::Damaged { store: self.url.clone(), nonce, why: why.into() };
        if size < FOOT as u64 {
            return Err(damaged(pack::NoPack("it is too short")));
        }
        let from = size.saturating_sub(END);
        let Some(end) = read(from..size).await? else { return Ok(None) };
        let foot = end.len().saturating_sub(FOOT);
        let list = pack::list_of(size, &end[foot..]).map_err(damaged)?;
        let bytes = match list.start.checked_sub(from) {
            Some(begin) => end.slice(begin as usize..foot),
            None => match read(list.clone()).await? {
                Some(bytes) => bytes,
                None => return Ok(None),
            },
        };
        pack::contents(nonce, list.start, &bytes).map(Some).map_err(damaged)
    }
}

/// The packs that were asked for last: of which much is asked for, one part after the other, all is read at once.
#[derive(Debug, Default)]
pub(super) struct Often(Mutex<VecDeque<(u64, Arc<Turn>)>>);

/// How often a pack was asked for what was not in memory, and the right to read all of it.
#[derive(Debug, Default)]
pub(super) struct Turn {
    asked: AtomicUsize,
    /// Whether somebody has read it, or tried to; held while he does.
    is_over: tokio::sync::Mutex<bool>,
}

impl Often {
    /// Takes note that so many ranges of a pack are asked for; the turn at all of it, if that is worth having.
    fn asked(&self, nonce: u64, ranges: usize) -> Option<Arc<Turn>> {
        let mut packs = self.0.lock();
        let known = packs.iter().position(|(known, _)| *known == nonce).and_then(|known| packs.remove(known));
        let (_, turn) = known.unwrap_or_else(|| (nonce, Arc::default()));
        packs.push_front((nonce, turn.clone()));
        packs.truncate(FOLLOWED);
        (turn.asked.fetch_add(ranges, Ordering::Relaxed) + ranges > OFTEN).then_some(turn)
    }

    /// Has a pack counted anew, since what was read of it leaves the memory some time.
    fn end(&self, nonce: u64, turn: &Arc<Turn>) {
        self.0.lock().retain(|(known, there)| *known != nonce || !Arc::ptr_eq(there, turn));
    }
}

/// Under which a part of a pack is in memory; spread, since where parts begin is often a multiple of something.
fn key(nonce: u64, at: u64) -> (u64, u64) {
    (nonce, at.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32))
}

/// Spans, joined where what lies between is cheaper to read than to leave out.
fn joined(mut spans: Vec<Range<u64>>) -> Vec<Range<u64>> {
    spans.sort_by_key(|span| span.start);
    let mut runs: Vec<Range<u64>> = Vec::new();
    for span in spans {
        match runs.last_mut() {
            Some(run) if span.start <= run.end.saturating_add(GAP) => run.end = run.end.max(span.end),
            _ => runs.push(span),
        }
    }
    runs
}
