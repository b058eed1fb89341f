//! Files and packs of the blob backend that no row names: what a crash has left between storing bytes and recording them, or the other way round.
//!
//! To find them everything that is stored has to be listed, so that is done once in [`EVERY`], a page at a time. Invariant: only what has been
//! there for [`AGE`] goes, since what comes is stored before it is recorded.

use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use provender_blobs::Location;
use provender_core::{Digest, Timestamp, rows};
use provender_proto::rows as values;

use super::super::blobs::located;
use super::super::{Store, StoreError, fact};
use super::{PAGE, Run};
use crate::clock;

/// How often they are looked for.
const EVERY: Duration = Duration::from_secs(24 * 3600);
/// How long a file has been there that nothing is about to name.
const AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// The fact of when they were looked for last.
const LOOKED: &str = "orphans";

impl Run<'_> {
    pub(super) async fn remove_orphans(&mut self) -> Result<(), StoreError> {
        let looked = fact(&*self.store.inner.meta, LOOKED).await?.and_then(|text| text.parse().ok()).unwrap_or(0_u64);
        let now = clock::now();
        if Duration::from_millis(now.millis().saturating_sub(looked)) < EVERY {
            return Ok(());
        }
        let before = i64::try_from(now.millis()).unwrap_or(i64::MAX).saturating_sub(AGE.as_millis() as i64);
        let mut after = None;
        loop {
            if self.is_waited_for() {
                // Another run looks from the beginning.
                return Ok(());
            }
            let page = self.store.inner.blobs.list(after.as_ref(), PAGE).await?;
            let orphans = self.store.orphans(&page.locations, before).await?;
            for location in &orphans {
                tracing::info!(%location, "removing bytes that nothing names");
                self.store.inner.blobs.remove(location).await?;
            }
            self.pace(2 * page.locations.len()).await?;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        self.look_at_packs(now).await?;
        self.recount_tombstones().await?;
        self.store
            .transact(|mut txn| {
                txn.put(rows::store(LOOKED), now.millis().to_string());
                async move { Ok((txn, ())) }
            })
            .await
    }
}

impl Run<'_> {
    /// Looks at packs that have been there for long and of which nothing is known.
    async fn look_at_packs(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let Some(packs) = self.store.inner.blobs.packs() else { return Ok(()) };
        let before = UNIX_EPOCH + Duration::from_millis(now.millis()).saturating_sub(AGE);
        let mut after = None;
        loop {
            let (mut listed, next) = packs.list(after, PAGE).await?;
            listed.retain(|pack| pack.made < before);
            self.look_at_unknown(packs, &listed).await?;
            after = next;
            if after.is_none() || self.is_waited_for() {
                return Ok(());
            }
        }
    }
}

impl Store {
    /// Those of the locations that no row names and that have been there since before a time, in milliseconds since 1970.
    async fn orphans(&self, locations: &[Location], before: i64) -> Result<Vec<Location>, StoreError> {
        let digests: BTreeSet<Digest> = locations.iter().map(|location| location.digest).collect();
        let wanted: Vec<_> = digests.iter().map(rows::blob).collect();
        let mut named = BTreeSet::new();
        for (digest, row) in digests.iter().zip(self.inner.meta.get(&wanted).await?) {
            let Some(row) = row else { continue };
            named.insert(located(digest, &values::blob_from(row.value).map_err(StoreError::row(digest))?).0);
        }
        let unnamed: Vec<_> = locations.iter().filter(|location| !named.contains(*location)).copied().collect();
        let found = self.inner.blobs.stat(&unnamed).await?;
        let is_old = |location: &Option<provender_blobs::Stat>| {
            let signature = location.as_ref().and_then(|found| found.signature);
            signature.is_some_and(|signature| signature.ctime / 1_000_000 < before)
        };
        Ok(unnamed.into_iter().zip(found).filter(|(_, found)| is_old(found)).map(|(location, _)| location).collect())
    }
}

#[cfg(test)]
mod tests;
