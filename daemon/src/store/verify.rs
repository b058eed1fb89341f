//! Verifying: all blobs looked at, when asked or by the scrub.
//!
//! Owns [`Store::verify`] and [`Store::scrub`]. A look asks the backend what it has, and finds what is missing, cut or touched; a deep one reads
//! all bytes, at a bounded rate, and finds silent decay. Invariants: memory is bounded by a page of rows and a chunk of bytes; what is
//! found takes the way of everything that a reader finds, so nothing is entered as lost that was not looked at twice; the scrub goes
//! on where it was, also after a restart, and of several daemons on one store each takes a page of its own.

use std::time::Duration;

use futures::TryStreamExt;
use provender_blobs::{BlobError, verified};
use provender_core::batch::Table;
use provender_core::blob::{Place, Stored};
use provender_core::digest::{hex, unhex};
use provender_core::{Digest, Timestamp, rows};
use provender_proto::rows as values;

use super::blobs::located;
use super::{Store, StoreError};
use crate::clock;
use crate::meta::Scan;

/// How many blobs are looked at together.
const PAGE: usize = 1_000;
/// The longest that the scrub sleeps before it looks whether it is time again.
const NAP: Duration = Duration::from_secs(600);
/// The row that says how far the scrub is.
const SCRUB: &str = "scrub";

/// How to verify.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verify {
    /// All bytes are read.
    pub deep: bool,
    /// How many bytes are read a second, at most; 0 for any.
    pub bytes_per_second: u64,
}

/// What verifying has come to so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Blobs that were looked at.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that were read for it.
    pub read: u64,
    /// Blobs that are lost, those that were known to be included.
    pub lost: u64,
    /// Of these, what was found just now.
    pub found: u64,
}

/// When the scrub goes through all blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scrub {
    /// So long after it began the last time.
    pub every: Duration,
    /// How many bytes are read a second, at most.
    pub bytes_per_second: u64,
}

impl Verify {
    fn rest(&self, bytes: usize) -> Duration {
        match self.bytes_per_second {
            0 => Duration::ZERO,
            most => Duration::from_secs_f64(bytes as f64 / most as f64),
        }
    }
}

impl Store {
    /// Looks at every blob. `told` hears how far it is; what is wrong is entered into the log of lost digests. An error says nothing of the
    /// blobs that were not come to.
    pub async fn verify(&self, how: Verify, mut told: impl FnMut(&Verified) + Send) -> Result<Verified, StoreError> {
        let (mut done, mut after) = (Verified::default(), None);
        loop {
            after = self.verify_page(after, how, &mut done, &mut told).await?;
            if after.is_none() {
                return Ok(done);
            }
        }
    }

    /// Reads all blobs, over and over, each pass at a bounded rate; never returns.
    pub async fn scrub(self, scrub: Scrub) {
        loop {
            let pause = self.scrub_some(&scrub).await.unwrap_or_else(|error| {
                tracing::warn!(error = %super::error::chain(&error), "the scrub could not go on; trying again");
                NAP
            });
            tokio::time::sleep(pause).await;
        }
    }

    /// A page of the scrub, if it is time; how long to wait then.
    pub(super) async fn scrub_some(&self, scrub: &Scrub) -> Result<Duration, StoreError> {
        let row = self.inner.meta.get(&[rows::store(SCRUB)]).await?.pop().flatten();
        let was = row.and_then(|row| Position::parse(&row.value));
        let now = clock::now();
        let every = u64::try_from(scrub.every.as_millis()).unwrap_or(u64::MAX);
        let at = match was {
            None => Position { began: now, at: None },
            Some(Position { began, at: None }) => {
                let due = began.millis().saturating_add(every);
                match due.checked_sub(now.millis()).filter(|left| *left > 0) {
                    Some(left) => return Ok(Duration::from_millis(left).min(NAP)),
                    None => Position { began: now, at: None },
                }
            }
            Some(under_way) => under_way,
        };
        let mut done = Verified::default();
        let how = Verify { deep: true, bytes_per_second: scrub.bytes_per_second };
        let next = self.verify_page(at.at, how, &mut done, &mut |_| {}).await?;
        if done.found > 0 {
            tracing::error!(found = done.found, "the scrub found lost blobs");
        }
        let now = &Position { at: next, ..at };
        self.transact(|mut txn| async move {
            let there = txn.get_one(rows::store(SCRUB)).await?;
            // Another daemon was there first: its position stands.
            if there.and_then(|row| Position::parse(&row.value)) == was {
                txn.put(rows::store(SCRUB), now.text());
            }
            Ok((txn, ()))
        })
        .await?;
        Ok(Duration::ZERO)
    }

    /// Looks at the blobs behind one; where to go on, if there are more.
    async fn verify_page(
        &self,
        after: Option<Digest>,
        how: Verify,
        done: &mut Verified,
        told: &mut (impl FnMut(&Verified) + Send),
    ) -> Result<Option<Digest>, StoreError> {
        let after = after.map(|digest| rows::blob(&digest).key);
        let scan = Scan { after, limit: PAGE, ..Scan::prefix(Table::Blob, "") };
        let page = self.inner.meta.scan(&scan).await?;
        let (mut small, mut large, mut last) = (Vec::new(), Vec::new(), None);
        for (key, row) in page.rows {
            let Some(digest) = rows::parse_blob(&key) else { continue };
            last = Some(digest);
            let stored = values::blob_from(row.value).map_err(StoreError::row(digest))?;
            match (&stored.lost, &stored.place) {
                (Some(_), _) => (done.blobs, done.lost) = (done.blobs + 1, done.lost + 1),
                (None, Place::Inline) => small.push((digest, stored)),
                (None, Place::Backend { .. }) => large.push((digest, stored)),
            }
        }
        self.verify_small(&small, how, done).await?;
        told(done);
        self.verify_large(&large, how, done, told).await?;
        Ok(last.filter(|_| page.more))
    }

    async fn verify_small(
        &self,
        blobs: &[(Digest, Stored)],
        how: Verify,
        done: &mut Verified,
    ) -> Result<(), StoreError> {
        let keys: Vec<_> = blobs.iter().map(|(digest, stored)| rows::inline(digest, stored.nonce)).collect();
        let found = self.inner.meta.get(&keys).await?;
        let mut read = 0;
        for ((digest, stored), row) in blobs.iter().zip(found) {
            read += row.as_ref().map_or(0, |row| row.value.len());
            let right = row.is_some_and(|row| Digest::of(&row.value) == *digest);
            self.judge(digest, stored, right, done).await?;
        }
        done.read += read as u64;
        tokio::time::sleep(how.rest(read)).await;
        Ok(())
    }

    async fn verify_large(
        &self,
        blobs: &[(Digest, Stored)],
        how: Verify,
        done: &mut Verified,
        told: &mut (impl FnMut(&Verified) + Send),
    ) -> Result<(), StoreError> {
        let places: Vec<_> = blobs.iter().map(|(digest, stored)| located(digest, stored)).collect();
        let locations: Vec<_> = places.iter().map(|(location, _)| *location).collect();
        let found = self.inner.blobs.stat(&locations).await?;
        for (((digest, stored), (location, signature)), found) in blobs.iter().zip(places).zip(found) {
            let as_stored = found.is_some_and(|found| {
                found.size == location.stored() && (signature.is_none() || found.signature == signature)
            });
            let right = match as_stored && how.deep {
                false => as_stored,
                true => {
                    let read = async {
                        let mut reader = verified(location, self.inner.blobs.open(&location, 0..digest.size).await?);
                        while let Some(piece) = reader.try_next().await? {
                            done.read += piece.len() as u64;
                            tokio::time::sleep(how.rest(piece.len())).await;
                        }
                        Ok(())
                    };
                    match read.await {
                        Ok(()) => true,
                        Err(BlobError::NotFound { .. } | BlobError::Corrupt { .. }) => false,
                        Err(error) => return Err(error.into()),
                    }
                }
            };
            self.judge(digest, stored, right, done).await?;
            told(done);
        }
        Ok(())
    }

    /// Counts a blob; one that seems wrong is looked at again by what notes losses. One that only was moved meanwhile, or touched, is right.
    async fn judge(
        &self,
        digest: &Digest,
        stored: &Stored,
        right: bool,
        done: &mut Verified,
    ) -> Result<(), StoreError> {
        done.blobs += 1;
        done.bytes += digest.size;
        self.inner.metrics.verified.inc();
        if !right {
            self.suspect(digest, stored).await;
            if self.stored(digest).await?.is_some_and(|there| there.lost.is_some()) {
                (done.lost, done.found) = (done.lost + 1, done.found + 1);
            }
        }
        Ok(())
    }
}

/// How far the scrub is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    began: Timestamp,
    /// The blob that it looked at last; none between two passes.
    at: Option<Digest>,
}

impl Position {
    fn parse(value: &[u8]) -> Option<Position> {
        let (began, at) = std::str::from_utf8(value).ok()?.split_once(' ')?;
        let at = match at {
            "" => None,
            at => Some(Digest::from_bytes(&unhex::<40>(at)?)?),
        };
        Some(Position { began: Timestamp::from_millis(began.parse().ok()?), at })
    }

    fn text(&self) -> String {
        format!("{} {}", self.began.millis(), self.at.map_or_else(String::new, |at| hex(&at.to_bytes())))
    }
}
