//! The log of lost digests: what was found missing or damaged, and the records that cannot be served for it.
//!
//! An entry is written together with the mark on its blob's row, and both go when the bytes are stored anew. Positions are taken
//! from one row that every entering batch has read, so they have the order of commits, whichever daemon enters; a scan from a
//! position on misses nothing. A record carries the position up to which its closure is known not to be in the log (its stamp):
//! a lookup reads the log's head beside the key, and the log itself only if it has grown since. Invariants: nothing enters unless
//! the bytes were looked at once more and the blob backend proved to be there; a verdict LOST is never stored, so that healing
//! undoes it. It must not know what a verdict is made of: that is `provender_core::lost`'s.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use provender_blobs::{BlobError, Reader, Signature, verified};
use provender_core::batch::{Row, Table, Version};
use provender_core::blob::{Place, Stored};
use provender_core::key::TaskKey;
use provender_core::lost::{self as rule, Damage, Hits, Loss, Losses};
use provender_core::name::Space;
use provender_core::transition::{Known, Record, Void};
use provender_core::{Digest, Verdict, rows};
use provender_proto::rows as values;

use super::blobs::{located, signed};
use super::{Store, StoreError};
use crate::clock;
use crate::meta::Scan;

/// How many entries of the log are at hand at once.
const PAGE: usize = 5_000;
/// And how many at first: a record that is known to be lost is so by the first entry after its stamp.
const FIRST: usize = 32;
/// How many closures are read at once.
const AT_ONCE: usize = 16;
/// How many records are restamped in one batch.
const BATCH: usize = 500;

/// Noticing.
impl Store {
    /// What a backend's error means for a blob that the metadata says is `stored`; what looks lost is looked at again, and noted.
    pub(super) async fn refused(&self, digest: &Digest, stored: &Stored, error: BlobError) -> StoreError {
        let error = lost(digest, error);
        match error {
            StoreError::Lost { .. } => self.lost_or_gone(digest, stored, error).await,
            other => other,
        }
    }

    /// The same of bytes that were found missing or damaged. What was collected meanwhile is no loss.
    pub(super) async fn lost_or_gone(&self, digest: &Digest, stored: &Stored, error: StoreError) -> StoreError {
        self.suspect(digest, stored).await;
        match self.stored(digest).await {
            Ok(None) => StoreError::NotFound { what: format!("the blob {digest}") },
            _ => error,
        }
    }

    /// A reader whose errors are noted as by [`Store::refused`] before they are told.
    pub(super) fn noticing(&self, digest: &Digest, stored: &Stored, reader: Reader) -> Reader {
        let (store, digest, stored) = (self.clone(), *digest, stored.clone());
        let signature = reader.signature().copied();
        Reader::new(
            signature,
            reader.then(move |piece| {
                // Only a failure costs anything.
                let failed = piece.is_err().then(|| (store.clone(), stored.clone()));
                async move {
                    if let (Some((store, stored)), Err(BlobError::NotFound { .. } | BlobError::Corrupt { .. })) =
                        (failed, &piece)
                    {
                        store.suspect(&digest, &stored).await;
                    }
                    piece
                }
            }),
        )
    }

    /// Looks at bytes that seem lost, and enters them into the log if they are. Goes on when the caller is dropped; a failure is
    /// no news of the bytes, and the next reader suspects them again.
    pub(crate) async fn suspect(&self, digest: &Digest, stored: &Stored) {
        let (store, digest, stored) = (self.clone(), *digest, stored.clone());
        let noted = tokio::spawn(async move {
            // Of many that read the same, most come after it was noted.
            let row = store.inner.meta.get(&[rows::blob(&digest)]).await?.pop().flatten();
            if is_at(&digest, row, &stored)?.is_none() {
                return Ok(());
            }
            let before = store.signature(&digest, &stored).await?;
            match store.look(&digest, &stored).await? {
                Some((damage, why)) => {
                    let loss = Loss { digest, found: clock::now(), damage, why };
                    store.enter(&loss, &stored).await
                }
                None => store.sign_anew(&digest, &stored, before).await,
            }
        });
        if let Ok(Err(error)) = noted.await {
            let error: StoreError = error;
            tracing::warn!(%digest, error = %super::error::chain(&error), "bytes seem lost, which could not be made sure of");
        }
    }

    /// What a blob's file looks like now, if it has one.
    async fn signature(&self, digest: &Digest, stored: &Stored) -> Result<Option<Signature>, StoreError> {
        if stored.place == Place::Inline {
            return Ok(None);
        }
        let found = self.inner.blobs.stat(&[located(digest, stored).0]).await?.pop().flatten();
        Ok(found.and_then(|found| found.signature))
    }

    /// Notes what the file of a blob looks like whose bytes were read and are right, so that they are not read again for it. What
    /// changed while they were read is not noted.
    async fn sign_anew(&self, digest: &Digest, stored: &Stored, before: Option<Signature>) -> Result<(), StoreError> {
        let Some(signature) = before.filter(|before| Some(*before) != located(digest, stored).1) else { return Ok(()) };
        if self.signature(digest, stored).await? != Some(signature) {
            return Ok(());
        }
        let signature = &Some(signature);
        self.transact(|mut txn| async move {
            let row = txn.get_one(rows::blob(digest)).await?;
            if let Some(there) = is_at(digest, row, stored)? {
                txn.put(rows::blob(digest), values::blob_to(&signed(there, signature.as_ref())));
            }
            Ok((txn, ()))
        })
        .await
    }

    /// What is wrong with a blob's bytes, all of which are read. An error says nothing of them.
    async fn look(&self, digest: &Digest, stored: &Stored) -> Result<Option<(Damage, String)>, StoreError> {
        if stored.place == Place::Inline {
            let found = self.inline(&[rows::inline(digest, stored.nonce)]).await?.pop().unwrap_or(Ok(None));
            return Ok(match found {
                Ok(None) => Some((Damage::Missing, "its row is missing".into())),
                Ok(Some(bytes)) if Digest::of(&bytes) != *digest => {
                    Some((Damage::Corrupt, "its row holds other bytes".into()))
                }
                Ok(Some(_)) => None,
                Err(why) => Some((Damage::Corrupt, why)),
            });
        }
        let (location, _) = located(digest, stored);
        let read = async {
            let whole = self.inner.blobs.open(&location, 0..digest.size).await?;
            let mut reader = verified(location, whole);
            while reader.try_next().await?.is_some() {}
            Ok(())
        };
        let found = match read.await {
            Ok(()) => return Ok(None),
            Err(BlobError::NotFound { .. }) => (Damage::Missing, "its file is missing".into()),
            Err(BlobError::Corrupt { why, .. }) => (Damage::Corrupt, why),
            Err(other) => return Err(other.into()),
        };
        self.inner.blobs.prove().await?;
        Ok(Some(found))
    }

    /// Enters a loss, unless the blob was stored anew or entered by another daemon meanwhile.
    async fn enter(&self, loss: &Loss, stored: &Stored) -> Result<(), StoreError> {
        let digest = &loss.digest;
        let _noting = self.inner.noting.lock().await;
        let entered = self
            .transact(|mut txn| async move {
                let mut found = txn.get(&[rows::blob(digest), rows::store(rows::LOST_HEAD)]).await?;
                let (head, blob) = (head(found.pop().flatten())?, found.pop().flatten());
                let Some(there) = is_at(digest, blob, stored)? else { return Ok((txn, None)) };
                let position = head + 1;
                txn.put(rows::lost(position), values::lost_to(loss));
                txn.put(rows::blob(digest), values::blob_to(&Stored { lost: Some(position), ..there }));
                txn.put(rows::store(rows::LOST_HEAD), position.to_string());
                Ok((txn, Some(position)))
            })
            .await?;
        if let Some(position) = entered {
            self.inner.metrics.lost.inc();
            tracing::error!(position, "{loss}; what refers to it is LOST until it is stored anew");
        }
        Ok(())
    }

    /// Why a blob is not read whose row stands at `position` of the log.
    pub(super) async fn is_lost(&self, digest: &Digest, position: u64) -> StoreError {
        let row = match self.inner.meta.get(&[rows::lost(position)]).await {
            Ok(mut found) => found.pop().flatten(),
            Err(error) => return error.into(),
        };
        let why = match row.map(|row| values::lost_from(row.value)) {
            Some(Ok(loss)) => format!("this was found at {}: {}", loss.found, loss.why),
            // Healed this moment: the next reader finds it.
            None => "it is just being stored anew; try again".into(),
            Some(Err(error)) => return StoreError::row(digest)(error),
        };
        StoreError::Lost { digest: *digest, why }
    }
}

/// Testing.
impl Store {
    /// How far the log has grown.
    pub(super) async fn lost_head(&self) -> Result<u64, StoreError> {
        head(self.inner.meta.get(&[rows::store(rows::LOST_HEAD)]).await?.pop().flatten())
    }

    /// Makes the records LOST whose closures hold what is in the log, which had grown to `head` when they were read; those that
    /// were not tested so far are restamped.
    pub(super) async fn test_records(
        &self,
        space: &Space,
        keys: &[TaskKey],
        known: &mut [Known],
        head: u64,
    ) -> Result<(), StoreError> {
        let stale = |known: &Known| known.answer().filter(|record| rule::is_stale(record, head)).cloned();
        let mut stale: BTreeMap<usize, Record> =
            known.iter().enumerate().filter_map(|(at, known)| Some((at, stale(known)?))).collect();
        let Some(mut from) = stale.values().map(|record| record.stamp).min() else { return Ok(()) };
        let (mut restamps, mut page) = (Vec::new(), FIRST);
        loop {
            let (losses, last, more) = self.entries(from, page).await?;
            page = PAGE;
            if let Some(last) = last {
                let losses = &losses;
                let untested = stale.iter().filter(|(_, record)| record.stamp < last);
                let tests = untested.map(|(at, record)| {
                    let (at, record) = (*at, record.clone());
                    async move { Ok::<_, StoreError>((at, self.test(space, &record, losses).await?)) }
                });
                let tests = stream::iter(tests.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
                for (at, found) in tests.try_collect::<Vec<_>>().await? {
                    let Some((void, whole_to)) = found else { continue };
                    if let (Some(record), Some(key), Some(of)) = (stale.remove(&at), keys.get(at), known.get_mut(at)) {
                        restamps.push((key.clone(), record, whole_to));
                        *of = rule::voided(std::mem::take(of), void);
                    }
                }
            }
            from = last.unwrap_or(from);
            // What is lost needs no more entries to be so.
            if !more || stale.is_empty() {
                break;
            }
        }
        let whole = stale.into_iter().filter_map(|(at, record)| Some((keys.get(at)?.clone(), record, head.max(from))));
        restamps.extend(whole);
        self.restamp(space, restamps).await;
        Ok(())
    }

    /// Entries after a position, the last one's position, and whether there are more.
    async fn entries(&self, after: u64, limit: usize) -> Result<(Losses, Option<u64>, bool), StoreError> {
        let after = Some(rows::lost(after).key);
        let scan = Scan { after, limit, ..Scan::prefix(Table::Lost, rows::lost_prefix()) };
        let page = self.inner.meta.scan(&scan).await?;
        let mut entries = Vec::with_capacity(page.rows.len());
        for (key, row) in page.rows {
            let damaged = || StoreError::Row { what: format!("{key:?}"), why: "it is no position of the log".into() };
            let position = rows::parse_lost(&key).ok_or_else(damaged)?;
            let loss = values::lost_from(row.value).map_err(StoreError::row(format!("lost digest {position}")))?;
            entries.push((position, loss));
        }
        let last = entries.last().map(|(position, _)| *position);
        Ok((Losses::new(entries), last, page.more))
    }

    /// What of a record is lost, at most so many blobs: its closure itself, if that is.
    pub(super) async fn lost_of(&self, space: &Space, record: &Record, most: usize) -> Result<Vec<Digest>, StoreError> {
        let (mut lost, mut from) = (Vec::new(), record.stamp);
        loop {
            let (losses, last, more) = self.entries(from, PAGE).await?;
            let mut hits = Hits::default();
            losses.look_up(&record.closure, &mut hits);
            match self.look_through(space, &record.closure, &losses, &mut hits).await {
                Ok(()) => lost.extend(hits.digests()),
                // Which they are is not known any more.
                Err(StoreError::Lost { .. } | StoreError::NotFound { .. }) => return Ok(vec![record.closure]),
                Err(error) => return Err(error),
            }
            lost.truncate(most);
            match last {
                Some(last) if more && lost.len() < most => from = last,
                _ => return Ok(lost),
            }
        }
    }

    /// Adds to `hits` what a closure refers to of these losses.
    async fn look_through(
        &self,
        space: &Space,
        closure: &Digest,
        losses: &Losses,
        hits: &mut Hits,
    ) -> Result<(), StoreError> {
        let mut reader = self.read(space, closure, 0..closure.size).await?;
        let mut piece = BytesMut::new();
        while let Some(next) = reader.try_next().await.map_err(|error| lost(closure, error))? {
            piece.extend_from_slice(&next);
            let rest = losses.look_through(&piece, hits).len();
            piece = piece.split_off(piece.len() - rest);
        }
        Ok(())
    }

    /// What a record is for these losses, and up to where of the log it would be whole; `None` if it refers to none of them.
    async fn test(&self, space: &Space, record: &Record, losses: &Losses) -> Result<Option<(Void, u64)>, StoreError> {
        let mut hits = Hits::default();
        losses.look_up(&record.closure, &mut hits);
        if let Some(found) = hits.void() {
            return Ok(Some(found));
        }
        let closure = &record.closure;
        match self.look_through(space, closure, losses, &mut hits).await {
            Ok(()) => Ok(hits.void()),
            // What it refers to is not known any more, so nothing can be said to be whole. If it is stored at all, it has entered the log just now.
            Err(error @ (StoreError::Lost { .. } | StoreError::NotFound { .. })) => {
                let reason = format!("the list of the blobs that it refers to cannot be read: {error}");
                let (at, blob) = (clock::now(), Some(*closure));
                Ok(Some((Void { verdict: Verdict::Lost, reason, at, blob, rule: None }, record.stamp)))
            }
            Err(other) => Err(other),
        }
    }

    /// Notes up to where records were tested. What changed meanwhile is left alone; a failure only costs another test.
    async fn restamp(&self, space: &Space, tested: Vec<(TaskKey, Record, u64)>) {
        let moved: Vec<_> = tested.into_iter().filter(|(_, record, stamp)| *stamp > record.stamp).collect();
        for piece in moved.chunks(BATCH) {
            let stamped = self.transact(|mut txn| async move {
                let keys: Vec<_> = piece.iter().map(|(key, ..)| rows::key(space, key)).collect();
                let found = txn.get(&keys).await?;
                for (((key, tested, stamp), row), place) in piece.iter().zip(found).zip(keys) {
                    let Some(row) = row else { continue };
                    let mut row = values::key_from(row.value).map_err(StoreError::row(key))?;
                    if row.record.as_ref() == Some(tested) {
                        row.record = Some(Record { stamp: *stamp, ..tested.clone() });
                        txn.put(place, values::key_to(&row));
                    }
                }
                Ok((txn, ()))
            });
            if let Err(error) = stamped.await {
                tracing::warn!(error = %super::error::chain(&error), "records that were tested could not be stamped");
                return;
            }
        }
    }
}

/// What a backend's error means for a blob that the metadata says is there.
pub fn lost(digest: &Digest, error: BlobError) -> StoreError {
    match error {
        BlobError::NotFound { .. } => StoreError::Lost { digest: *digest, why: "its file is missing".into() },
        BlobError::Corrupt { why, .. } => StoreError::Lost { digest: *digest, why },
        other => other.into(),
    }
}

/// The same out of a backup.
pub(crate) fn lost_head(row: Option<&Bytes>) -> Result<u64, StoreError> {
    head(row.map(|value| Row { version: Version(0), value: value.clone() }))
}

/// The position in the row of the log's head.
pub(super) fn head(row: Option<Row>) -> Result<u64, StoreError> {
    let damaged =
        || StoreError::Row { what: "the head of the log of lost digests".into(), why: "it is no number".into() };
    row.map_or(Ok(0), |row| std::str::from_utf8(&row.value).ok().and_then(|text| text.parse().ok()).ok_or_else(damaged))
}

/// What a blob's row says, if that is the location of `stored` and not known to be lost.
fn is_at(digest: &Digest, row: Option<Row>, stored: &Stored) -> Result<Option<Stored>, StoreError> {
    let there = row.map(|row| values::blob_from(row.value)).transpose().map_err(StoreError::row(digest))?;
    Ok(there.filter(|there| there.nonce == stored.nonce && there.lost.is_none()))
}

#[cfg(test)]
mod tests;
