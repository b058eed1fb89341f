//! Holding: what a space relies on, and that it is really there.
//!
//! Invariants: whoever is told that a blob is present can rely on it, so it is protected from collection, and the backend was seen to
//! have it; what one space holds is no answer to another. What was lost and comes in again heals.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use provender_core::batch::Row;
use provender_core::blob::{Alias, Place, Stored};
use provender_core::collect::Idle;
use provender_core::name::Space;
use provender_core::{Digest, rows};
use provender_proto::rows as values;

use super::blobs::{Fresh, located};
use super::small::pack_of;
use super::{Store, StoreError, Txn, outboards};
use crate::clock;

/// How many blobs are held in one batch.
const BATCH: usize = 2_000;
/// How many are read at once that seem damaged.
const SUSPECTED: usize = 8;

tokio::task_local! {
    /// Set where what is read is read for collection, which relies on nothing.
    pub(super) static UNNOTICED: ();
}

/// What became of an attempt to hold blobs.
#[derive(Default)]
pub(super) struct Held {
    /// Those that are not stored.
    pub(super) missing: Vec<Digest>,
    /// Those that were lost, and where their bytes had been.
    healed: Vec<(Digest, Stored)>,
    /// Those that are held as they were stored before, by the backend, and are relied on.
    there: Vec<(Digest, Stored)>,
    /// By how many bytes more is stored.
    grown: i64,
    /// Whether anything of what was fresh is recorded now.
    pub(super) recorded: bool,
}

impl Store {
    /// Which of the digests the space does not hold, each once. The others are protected from collection from now on.
    pub async fn find_missing(&self, space: &Space, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let unique: Vec<_> = digests.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let mut missing = Vec::new();
        for digests in unique.chunks(BATCH) {
            missing.extend(self.hold(space, digests, &BTreeMap::new()).await?.missing);
        }
        Ok(missing)
    }

    /// For how long at least what was said to be present stays, also if it was said before that and so was not touched anew.
    pub fn protects(&self) -> Duration {
        let how = self.collection();
        how.protect.saturating_sub(how.touch_after())
    }

    /// Makes the space hold blobs: those that are stored already, and those of `fresh`. Says which digests are neither. What
    /// others stored meanwhile is theirs; of `fresh` only what is new or was lost is recorded.
    pub(super) async fn hold(
        &self,
        space: &Space,
        digests: &[Digest],
        fresh: &BTreeMap<Digest, Fresh>,
    ) -> Result<Held, StoreError> {
        self.know_space(space).await?;
        let mut held = self.try_hold(space, digests, fresh).await?;
        // A row is a promise, and somebody is about to rely on it: what is gone meanwhile is missing, and its bytes are at hand.
        if self.find_damaged(&held.there).await? {
            held = self.try_hold(space, digests, fresh).await?;
        }
        self.inner.collecting.room.grow(held.grown);
        for (digest, was) in std::mem::take(&mut held.healed) {
            self.inner.metrics.healed.inc();
            tracing::info!(%digest, "what was lost is stored anew");
            // What is left there, if anything, is wrong. A failure leaves what the next collection finds.
            if was.place != Place::Inline
                && let Err(error) = self.inner.blobs.remove(&located(&digest, &was).0).await
            {
                tracing::warn!(%digest, error = %super::error::chain(&error), "damaged bytes could not be removed");
            }
        }
        Ok(held)
    }

    async fn try_hold(
        &self,
        space: &Space,
        digests: &[Digest],
        fresh: &BTreeMap<Digest, Fresh>,
    ) -> Result<Held, StoreError> {
        self.transact(|mut txn| async move {
            let wanted: Vec<_> =
                digests.iter().flat_map(|digest| [rows::holding(space, digest), rows::blob(digest)]).collect();
            let found = txn.get(&wanted).await?;
            let condemned = &self.condemned(&mut txn, digests, fresh).await?;
            // What is at hand and not stored, and what is in a pack that is about to go, is missing unless somebody else stored it.
            let at_hand = |digest: &Digest| fresh.get(digest).map(|fresh| (fresh, is_recordable(fresh, condemned)));
            let (now, touch_after) = (clock::now(), self.collection().touch_after());
            let (mut held, mut idle) = (Held::default(), Vec::new());
            for (digest, pair) in digests.iter().zip(found.chunks_exact(2)) {
                let (holding, stored) = (&pair[0], &pair[1]);
                let stored = stored.as_ref().map(|row| values::blob_from(row.value.clone()));
                let stored = stored.transpose().map_err(StoreError::row(digest))?;
                match (stored, at_hand(digest)) {
                    (Some(stored @ Stored { lost: None, .. }), None) if holding.is_some() => {
                        held.there.extend((stored.place != Place::Inline).then_some((*digest, stored)));
                    }
                    (Some(stored @ Stored { lost: None, .. }), Some((_, recordable))) => {
                        let relied_on = recordable.is_none() && stored.place != Place::Inline;
                        held.there.extend(relied_on.then_some((*digest, stored)));
                    }
                    (None, Some((fresh, Some(stored)))) => {
                        record(&mut txn, fresh, stored);
                        held.grown += signed_bytes(digest, stored);
                        held.recorded = true;
                    }
                    (Some(was), Some((fresh, Some(stored)))) => {
                        was.lost.iter().for_each(|position| txn.delete(rows::lost(*position)));
                        txn.delete(rows::inline(digest, was.nonce));
                        record(&mut txn, fresh, stored);
                        held.grown += signed_bytes(digest, stored) - signed_bytes(digest, &was);
                        held.recorded = true;
                        held.healed.push((*digest, was));
                    }
                    // That other spaces have it is none of this one's business.
                    _ => {
                        held.missing.push(*digest);
                        continue;
                    }
                }
                let touched = holding.as_ref().map(|row| values::holding_from(row.value.clone()));
                let touched = touched.transpose().map_err(StoreError::row(digest))?;
                let age = touched.map(|touched| Duration::from_millis(now.millis().saturating_sub(touched.millis())));
                if age.is_none_or(|age| age > touch_after) {
                    txn.put(rows::holding(space, digest), values::holding_to(now));
                }
                // What nothing refers to yet, collection has to hear of.
                idle.extend(holding.is_none().then_some(*digest));
            }
            txn.idle(space, now, Idle::Fresh, &idle);
            txn.grown(held.grown);
            txn.dead(held.healed.iter().map(|(digest, was)| (digest, was))).await?;
            Ok((txn, held))
        })
        .await
    }

    /// Renews a holding that somebody reads and that was not touched for long: who reads a large blob part by part has it to its end. Nobody
    /// waits for it.
    pub(super) fn renew(&self, space: &Space, digest: &Digest, holding: &Row) -> Result<(), StoreError> {
        if UNNOTICED.try_with(|()| ()).is_ok() {
            return Ok(());
        }
        let touched = values::holding_from(holding.value.clone()).map_err(StoreError::row(digest))?;
        let age = Duration::from_millis(clock::now().millis().saturating_sub(touched.millis()));
        if age > self.collection().touch_after() {
            let (store, space, digest) = (self.clone(), space.clone(), *digest);
            tokio::spawn(async move { store.find_missing(&space, &[digest]).await });
        }
        Ok(())
    }

    /// Whether a blob is stored as a copy that seems whole.
    pub(super) async fn is_kept(&self, digest: &Digest) -> Result<bool, StoreError> {
        let Some(there) = self.stored(digest).await? else { return Ok(false) };
        if there.place == Place::Inline || there.lost.is_some() {
            return Ok(there.lost.is_none());
        }
        self.find_damaged(&[(*digest, there)]).await?;
        Ok(self.stored(digest).await?.is_some_and(|there| there.lost.is_none()))
    }

    /// Looks at what the backend has of blobs without reading them; what is not as it was stored is suspected. Whether any is.
    async fn find_damaged(&self, blobs: &[(Digest, Stored)]) -> Result<bool, StoreError> {
        if blobs.is_empty() {
            return Ok(false);
        }
        let places: Vec<_> = blobs.iter().map(|(digest, stored)| located(digest, stored)).collect();
        let locations: Vec<_> = places.iter().map(|(location, _)| *location).collect();
        let found = self.inner.blobs.stat(&locations).await?;
        let looks = blobs.iter().zip(places).zip(found).filter(|((_, (location, signature)), found)| {
            !found.as_ref().is_some_and(|found| {
                found.size == location.stored() && (signature.is_none() || found.signature == *signature)
            })
        });
        let damaged: Vec<_> = looks.map(|((blob, _), _)| blob.clone()).collect();
        let any = !damaged.is_empty();
        // Each is read as a whole.
        let suspected = stream::iter(damaged).map(|(digest, stored)| {
            let store = self.clone();
            async move { store.suspect(&digest, &stored).await }
        });
        suspected.buffer_unordered(SUSPECTED).collect::<()>().await;
        Ok(any)
    }
}

/// The bytes that a blob takes, as an addend.
pub(super) fn signed_bytes(digest: &Digest, stored: &Stored) -> i64 {
    i64::try_from(stored.bytes(digest)).unwrap_or(i64::MAX)
}

/// Where a blob is recorded to be; `None` if it cannot be.
fn is_recordable<'a>(fresh: &'a Fresh, condemned: &BTreeSet<u64>) -> Option<&'a Stored> {
    let stored = fresh.stored.as_ref()?;
    (pack_of(stored).is_none_or(|pack| !condemned.contains(&pack))).then_some(stored)
}

fn record(txn: &mut Txn, fresh: &Fresh, stored: &Stored) {
    let Fresh { digest, bytes, aliases, outboard, .. } = fresh;
    if let (Place::Inline, Some(bytes)) = (&stored.place, bytes) {
        txn.put(rows::inline(digest, stored.nonce), bytes.clone());
    }
    for alias in aliases {
        txn.put(rows::alias(alias.function.name(), &alias.hash, digest.size), digest.to_bytes().to_vec());
    }
    let named = |alias: &provender_blobs::Alias| Alias {
        function: alias.function.name().into(),
        hash: Bytes::copy_from_slice(&alias.hash),
    };
    let stored = Stored { aliases: aliases.iter().map(named).collect(), ..stored.clone() };
    outboard.iter().for_each(|outboard| outboards::put(txn, outboard));
    txn.put(rows::blob(digest), values::blob_to(&stored));
}
