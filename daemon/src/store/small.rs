//! Small blobs: rows, or in the packs of a backend that has them.
//!
//! In packs they come before they are recorded, as large ones do; so what another daemon or a crash leaves between the two is bytes of a
//! pack that no row names. Invariant: nothing is recorded to be in a pack that is about to go, for which the batch that records it reads the
//! pack's row. What becomes of packs is in [`super::collect`].

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use provender_blobs::{Location, Packs};
use provender_core::blob::{Form, Place, Stored};
use provender_core::name::Space;
use provender_core::{Digest, rows};
use provender_proto::rows as values;

use super::blobs::{Fresh, backend, nonce, stored};
use super::transact::ATTEMPTS;
use super::{Store, StoreError, Txn};

/// How many blobs are recorded in one batch.
const BATCH: usize = 2_000;

/// The pack that a blob is in.
pub(super) fn pack_of(stored: &Stored) -> Option<u64> {
    matches!(stored.place, Place::Backend { form: Form::Pack { .. }, .. }).then_some(stored.nonce)
}

impl Store {
    /// Has a space hold small blobs whose bytes are at hand, and stores those that are not stored. Durable when it returns.
    pub(super) async fn record_small(
        &self,
        space: &Space,
        mut small: BTreeMap<Digest, Fresh>,
    ) -> Result<(), StoreError> {
        let mut digests: Vec<_> = small.keys().copied().collect();
        let Some(packs) = self.inner.blobs.packs() else {
            small.values_mut().for_each(|fresh| fresh.stored = Some(stored(nonce(), Place::Inline)));
            for digests in digests.chunks(BATCH) {
                self.hold(space, digests, &small).await?;
            }
            return Ok(());
        };
        let mut missing = self.not_stored(&digests).await?;
        for _ in 0..ATTEMPTS {
            self.pack_up(packs, &missing, &mut small).await?;
            missing.clear();
            for digests in digests.chunks(BATCH) {
                missing.extend(self.hold(space, digests, &small).await?.missing);
            }
            if missing.is_empty() {
                return Ok(());
            }
            // What was stored a moment ago is gone, or is about to go.
            digests.clone_from(&missing);
        }
        Err(StoreError::Contended { attempts: ATTEMPTS })
    }

    /// Those that are not stored, or are lost.
    async fn not_stored(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let keys: Vec<_> = digests.iter().map(rows::blob).collect();
        let mut missing = Vec::new();
        for (digest, row) in digests.iter().zip(self.inner.meta.get(&keys).await?) {
            let there = row.map(|row| values::blob_from(row.value)).transpose().map_err(StoreError::row(digest))?;
            if there.is_none_or(|there| there.lost.is_some()) {
                missing.push(*digest);
            }
        }
        Ok(missing)
    }

    /// Puts blobs into packs, and notes where they are.
    async fn pack_up(
        &self,
        packs: &dyn Packs,
        digests: &[Digest],
        small: &mut BTreeMap<Digest, Fresh>,
    ) -> Result<(), StoreError> {
        let bytes = |digest: &Digest| Some((*digest, small.get(digest)?.bytes.clone()?));
        let blobs: Vec<_> = digests.iter().filter_map(bytes).collect();
        if blobs.is_empty() {
            return Ok(());
        }
        for location in packs.put(blobs).await? {
            if let Some(fresh) = small.get_mut(&location.digest) {
                fresh.stored = Some(stored(location.nonce, backend(location.form, None)));
            }
        }
        Ok(())
    }

    /// Which of the packs are about to go that these blobs are to be recorded in.
    pub(super) async fn condemned(
        &self,
        txn: &mut Txn,
        digests: &[Digest],
        fresh: &BTreeMap<Digest, Fresh>,
    ) -> Result<BTreeSet<u64>, StoreError> {
        let stored = digests.iter().filter_map(|digest| fresh.get(digest)?.stored.as_ref());
        let packs: BTreeSet<_> = stored.filter_map(pack_of).collect();
        txn.condemned(&packs).await
    }

    /// The bytes of those that are in packs, as far as they are there and right.
    pub(crate) async fn read_packed(&self, locations: &[Location]) -> Result<Vec<(Digest, Bytes)>, StoreError> {
        let packed = |location: &&Location| matches!(location.form, Form::Pack { .. });
        let locations: Vec<_> = locations.iter().filter(packed).copied().collect();
        let Some(packs) = self.inner.blobs.packs().filter(|_| !locations.is_empty()) else { return Ok(Vec::new()) };
        let found = packs.get(&locations).await;
        let right = move |locations: Vec<Location>| {
            let each = locations.iter().zip(found);
            let right = each.filter_map(|(location, found)| Some((location.digest, found.ok()?)));
            right.filter(|(digest, bytes)| Digest::of(bytes) == *digest).collect::<Vec<_>>()
        };
        tokio::task::spawn_blocking(move || right(locations)).await.map_err(|_| StoreError::Draining)
    }
}

impl Txn {
    /// Notes of blobs that are no more where they were, as far as that was in packs, that nobody wants those bytes.
    pub(super) async fn dead(&mut self, blobs: impl Iterator<Item = (&Digest, &Stored)>) -> Result<(), StoreError> {
        let mut dead: BTreeMap<u64, u64> = BTreeMap::new();
        for (digest, stored) in blobs {
            if let Some(pack) = pack_of(stored) {
                *dead.entry(pack).or_default() += digest.size;
            }
        }
        let keys: Vec<_> = dead.keys().map(|pack| rows::pack(*pack)).collect();
        let found = self.get(&keys).await?;
        for ((key, bytes), row) in keys.iter().zip(dead.values()).zip(found) {
            let mut pack =
                row.map(|row| values::pack_from(row.value)).transpose().map_err(StoreError::row("a pack"))?;
            let pack = pack.get_or_insert_default();
            pack.dead = pack.dead.saturating_add(*bytes);
            self.put(key.clone(), values::pack_to(pack));
        }
        Ok(())
    }

    /// Which of the packs are about to go; the others stay until this is committed.
    pub(super) async fn condemned(&mut self, packs: &BTreeSet<u64>) -> Result<BTreeSet<u64>, StoreError> {
        let keys: Vec<_> = packs.iter().map(|pack| rows::pack(*pack)).collect();
        let mut condemned = BTreeSet::new();
        for (pack, row) in packs.iter().zip(self.get(&keys).await?) {
            let Some(row) = row else { continue };
            if values::pack_from(row.value).map_err(StoreError::row("a pack"))?.condemned {
                condemned.insert(*pack);
            }
        }
        Ok(condemned)
    }
}
