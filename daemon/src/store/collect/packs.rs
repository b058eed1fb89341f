//! Packs of which little is wanted any more: what is left of them is packed anew, and they go.
//!
//! A sweep notes by a pack's row how much of it has died. Once that may be half, the pack's own list is read, and held against the rows of
//! its blobs. Invariants: a pack goes only once a row says so and no row names it after that; what moves is checked on its way, and is in a
//! durable pack before its row says so, so that a crash leaves bytes too many at most. A pack that nothing is known of is looked through once.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use provender_blobs::{BlobError, Location, Pack, Packs};
use provender_core::batch::Table;
use provender_core::blob::{PackUse, Stored};
use provender_core::{Digest, rows};
use provender_proto::rows as values;

use super::super::blobs::{backend, located};
use super::super::{Store, StoreError};
use super::{PAGE, Run};
use crate::meta::Scan;

/// How many bytes are packed anew together, about: what is left of several packs.
const TOGETHER: u64 = 6 << 20;
/// How many blobs one batch moves.
const BATCH: usize = 500;

/// Blobs on their way into other packs.
#[derive(Default)]
struct Moving {
    blobs: Vec<(Location, Bytes)>,
    bytes: u64,
    /// Where they come from.
    packs: Vec<u64>,
}

impl Run<'_> {
    /// Removes packs of which nothing is wanted, and packs anew what is left of those of which little is.
    pub(super) async fn repack(&mut self) -> Result<(), StoreError> {
        let store = self.store;
        let Some(packs) = store.inner.blobs.packs() else { return Ok(()) };
        if store.is_paused().await? {
            return Ok(());
        }
        let (mut scan, mut moving) = (Scan { limit: PAGE, ..Scan::prefix(Table::Pack, "") }, Moving::default());
        loop {
            let page = store.inner.meta.scan(&scan).await?;
            for (key, row) in &page.rows {
                let pack = values::pack_from(row.value.clone()).map_err(StoreError::row("a pack"))?;
                if let Some(nonce) = rows::parse_pack(key).filter(|_| pack.is_due()) {
                    self.look_through(packs, nonce, pack.dead, &mut moving).await?;
                }
            }
            self.pace(page.rows.len()).await?;
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                break;
            }
        }
        self.move_all(packs, &mut moving).await
    }

    /// Looks at packs of which nothing is known: what a crash has left is in none of the rows.
    pub(super) async fn look_at_unknown(&mut self, packs: &dyn Packs, listed: &[Pack]) -> Result<(), StoreError> {
        let keys: Vec<_> = listed.iter().map(|pack| rows::pack(pack.nonce)).collect();
        let found = self.store.inner.meta.get(&keys).await?;
        let mut moving = Moving::default();
        for (pack, row) in listed.iter().zip(found) {
            if row.is_none() {
                self.look_through(packs, pack.nonce, 0, &mut moving).await?;
            }
        }
        self.move_all(packs, &mut moving).await
    }

    /// Looks which blobs of a pack are wanted, of which so many bytes were known to be dead. If none is, it goes; if few are, they are to move.
    async fn look_through(
        &mut self,
        packs: &dyn Packs,
        nonce: u64,
        known: u64,
        moving: &mut Moving,
    ) -> Result<(), StoreError> {
        let contents = match packs.contents(nonce).await {
            Ok(Some(contents)) => contents,
            // What was in it is found lost by whoever reads it.
            Ok(None) => return self.store.delete_rows(&[rows::pack(nonce)]).await,
            Err(error @ BlobError::Damaged { .. }) => {
                tracing::warn!(%error, "what is in a pack cannot be told; it stays");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.pace(contents.len()).await?;
        let live = self.store.live(&contents).await?;
        let bytes = |all: &[Location]| all.iter().map(|location| location.digest.size).sum::<u64>();
        let (all, wanted) = (bytes(&contents), bytes(&live));
        let pack = PackUse { bytes: all.max(1), dead: all - wanted, condemned: false };
        if live.is_empty() {
            return self.store.remove_pack(packs, nonce, &contents, &pack).await;
        }
        self.store.note_pack(nonce, known, &pack).await?;
        if pack.is_due() {
            for (location, found) in live.iter().zip(packs.get(&live).await) {
                match found {
                    Ok(bytes) if Digest::of(&bytes) == location.digest => moving.blobs.push((*location, bytes)),
                    Ok(_) | Err(BlobError::NotFound { .. } | BlobError::Corrupt { .. }) => {
                        self.store.suspect_at(location).await?;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            moving.bytes += wanted;
            moving.packs.push(nonce);
            if moving.bytes >= TOGETHER {
                return self.move_all(packs, moving).await;
            }
        }
        Ok(())
    }

    /// Packs anew what is to move, and removes where it was.
    async fn move_all(&mut self, packs: &dyn Packs, moving: &mut Moving) -> Result<(), StoreError> {
        let Moving { blobs, packs: from, .. } = std::mem::take(moving);
        if from.is_empty() {
            return Ok(());
        }
        let old: Vec<_> = blobs.iter().map(|(location, _)| *location).collect();
        // A blob that is in two of them is wanted in one.
        let blobs = blobs.into_iter().map(|(location, bytes)| (location.digest, bytes)).collect();
        let new = packs.put(blobs).await?;
        let moves: Vec<_> = old.into_iter().zip(new).collect();
        for moves in moves.chunks(BATCH) {
            self.store.move_packed(moves).await?;
            self.pace(2 * moves.len()).await?;
        }
        tracing::debug!(packs = from.len(), blobs = moves.len(), "what is left of packs is packed anew");
        for nonce in from {
            let Some(contents) = packs.contents(nonce).await? else { continue };
            if self.store.live(&contents).await?.is_empty() {
                let bytes = contents.iter().map(|location| location.digest.size).sum::<u64>().max(1);
                let pack = PackUse { bytes, dead: bytes, condemned: false };
                self.store.remove_pack(packs, nonce, &contents, &pack).await?;
            }
        }
        Ok(())
    }
}

impl Store {
    /// Those of the locations that rows name, and that are not lost.
    async fn live(&self, contents: &[Location]) -> Result<Vec<Location>, StoreError> {
        let mut live = Vec::new();
        for locations in contents.chunks(PAGE) {
            let keys: Vec<_> = locations.iter().map(|location| rows::blob(&location.digest)).collect();
            for (location, row) in locations.iter().zip(self.inner.meta.get(&keys).await?) {
                let Some(row) = row else { continue };
                let stored = values::blob_from(row.value).map_err(StoreError::row(location.digest))?;
                live.extend(is_at(location, &stored).then_some(*location));
            }
        }
        Ok(live)
    }

    /// Looks at what seems lost of a pack.
    async fn suspect_at(&self, location: &Location) -> Result<(), StoreError> {
        if let Some(stored) = self.stored(&location.digest).await?.filter(|stored| is_at(location, stored)) {
            self.suspect(&location.digest, &stored).await;
        }
        Ok(())
    }

    /// Notes what was found of a pack. What has died beyond the bytes that were known before may have been alive when it was looked through.
    async fn note_pack(&self, nonce: u64, known: u64, pack: &PackUse) -> Result<(), StoreError> {
        self.transact(|mut txn| async move {
            let row = txn.get_one(rows::pack(nonce)).await?;
            let there = row.map(|row| values::pack_from(row.value)).transpose().map_err(StoreError::row("a pack"))?;
            let died = there.map_or(0, |there| there.dead.saturating_sub(known));
            let pack = PackUse { dead: pack.dead.saturating_add(died), ..*pack };
            txn.put(rows::pack(nonce), values::pack_to(&pack));
            Ok((txn, ()))
        })
        .await
    }

    /// Removes a pack of which nothing is wanted, if nothing is once a row says that it goes.
    async fn remove_pack(
        &self,
        packs: &dyn Packs,
        nonce: u64,
        contents: &[Location],
        pack: &PackUse,
    ) -> Result<(), StoreError> {
        self.note_pack(nonce, u64::MAX, &PackUse { condemned: true, ..*pack }).await?;
        // Whoever recorded something there has done so before that, or is refused.
        if !self.live(contents).await?.is_empty() {
            return self.note_pack(nonce, u64::MAX, &PackUse { bytes: 0, ..*pack }).await;
        }
        packs.remove(nonce).await?;
        self.delete_rows(&[rows::pack(nonce)]).await
    }

    /// Has rows name where blobs have moved, as far as they still name where those were.
    async fn move_packed(&self, moves: &[(Location, Location)]) -> Result<(), StoreError> {
        self.transact(|mut txn| async move {
            let packs: BTreeSet<_> = moves.iter().map(|(_, new)| new.nonce).collect();
            let condemned = txn.condemned(&packs).await?;
            let keys: Vec<_> = moves.iter().map(|(old, _)| rows::blob(&old.digest)).collect();
            let mut moved: BTreeMap<Digest, Stored> = BTreeMap::new();
            for ((old, new), row) in moves.iter().zip(txn.get(&keys).await?) {
                let Some(row) = row.filter(|_| !condemned.contains(&new.nonce)) else { continue };
                let stored = values::blob_from(row.value).map_err(StoreError::row(old.digest))?;
                if is_at(old, &stored) {
                    moved.insert(new.digest, Stored { nonce: new.nonce, place: backend(new.form, None), ..stored });
                }
            }
            moved.iter().for_each(|(digest, stored)| txn.put(rows::blob(digest), values::blob_to(stored)));
            Ok((txn, ()))
        })
        .await
    }
}

/// Whether a row names a location, and not as lost.
fn is_at(location: &Location, stored: &Stored) -> bool {
    stored.lost.is_none() && located(&location.digest, stored).0 == *location
}
