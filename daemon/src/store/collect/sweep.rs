//! Removing bytes: blobs that a space holds and nothing refers to, once nobody relies on them.
//!
//! In one batch the space holds it no more and, if no other does, the blob is gone: missing to everybody, and its location doomed. Then its
//! bytes are removed, and last the row that doomed them. A location never names anything again, so whoever uploads the same blob meanwhile
//! has another one. Invariant: that batch expects that nothing refers to the blob and that it was not touched since the horizon.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use futures::{StreamExt, stream};
use provender_blobs::Location;
use provender_core::batch::{RowKey, Table, Version};
use provender_core::blob::{Form, Place, Stored};
use provender_core::collect::Idle;
use provender_core::name::Space;
use provender_core::{Digest, Timestamp, rows};
use provender_proto::rows as values;

use super::super::hold::signed_bytes;
use super::super::{Store, StoreError, Txn, blobs::located, chain, outboards};
use super::{PAGE, Run, SPACES};
use crate::meta::Scan;

/// How many blobs one batch is about.
const BATCH: usize = 500;
/// How many files are removed at once.
const AT_ONCE: usize = 8;

/// How many blobs that are left are told apart, at some 16 bytes each.
const SEEN: usize = 2_000_000;

/// What came of a batch.
#[derive(Default)]
struct Swept {
    blobs: u64,
    bytes: u64,
    /// Which locations are doomed now.
    doomed: Vec<Location>,
    /// Rows that were read and written.
    rows: usize,
}

/// Digests that became idle together, as far as they are to be looked at.
struct Lying {
    row: RowKey,
    digests: Vec<Digest>,
}

/// Every space that holds something, and the version of the fact that changes with them.
type Spaces = (Vec<Space>, Option<Version>);

impl Run<'_> {
    /// Removes what nothing refers to and nobody has relied on since the horizon.
    pub(super) async fn sweep(&mut self, horizon: Timestamp) -> Result<(), StoreError> {
        let (limits, room) = self.store.room().await?;
        if limits.wants(room, 0).is_none() && !self.is_waited_for() && self.store.is_paused().await? {
            return Ok(());
        }
        self.remove_doomed().await?;
        let mut spaces = self.store.known_spaces().await?;
        let mut scan = Scan { limit: PAGE, ..Scan::prefix(Table::Idle, rows::timed_prefix()) };
        loop {
            let page = self.store.inner.meta.scan(&scan).await?;
            let (mut group, mut of): (Vec<Lying>, _) = (Vec::new(), None);
            let mut is_last = !page.more;
            for (key, row) in &page.rows {
                let damaged = || StoreError::Row { what: format!("{key:?}"), why: "it is of no time".into() };
                let (at, space, why) = rows::parse_idle(key).ok_or_else(damaged)?;
                // Those behind it became idle later still.
                if at >= horizon {
                    is_last = true;
                    break;
                }
                let digests = values::digests_from(&row.value).map_err(StoreError::row("what is idle"))?;
                let lying = Lying { row: RowKey { table: Table::Idle, key: key.clone() }, digests };
                let many = group.iter().map(|lying| lying.digests.len()).sum::<usize>() + lying.digests.len();
                if let Some(other) = of.filter(|of| many > BATCH || *of != (space.clone(), why)) {
                    self.sweep_group(&other, std::mem::take(&mut group), horizon, &mut spaces).await?;
                }
                of = Some((space, why));
                group.push(lying);
            }
            if let Some(of) = of {
                self.sweep_group(&of, group, horizon, &mut spaces).await?;
            }
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if is_last {
                return Ok(());
            }
        }
    }

    /// Sweeps what became idle in a space for one reason: several rows at once, or one in pieces.
    async fn sweep_group(
        &mut self,
        of: &(Space, Idle),
        mut group: Vec<Lying>,
        horizon: Timestamp,
        spaces: &mut Spaces,
    ) -> Result<(), StoreError> {
        while !group.is_empty() {
            let swept = loop {
                match self.store.sweep_batch(of, &group, horizon, spaces).await? {
                    Some(swept) => break swept,
                    None => *spaces = self.store.known_spaces().await?,
                }
            };
            self.store.remove_all(&swept.doomed).await?;
            self.done.blobs += swept.blobs;
            self.done.bytes += swept.bytes;
            self.store.inner.collecting.room.progressed();
            self.store.inner.metrics.swept.inc_by(swept.blobs);
            self.store.inner.metrics.swept_bytes.inc_by(swept.bytes);
            self.pace(swept.rows).await?;
            group.iter_mut().for_each(|lying| _ = lying.digests.drain(..lying.digests.len().min(BATCH)));
            group.retain(|lying| !lying.digests.is_empty());
        }
        Ok(())
    }

    /// The bytes of blobs that the last that referred to them has left, and that are there only since somebody may rely on them yet.
    pub(super) async fn leaving(&mut self) -> Result<u64, StoreError> {
        let (mut bytes, mut scan) = (0, Scan { limit: 100, ..Scan::prefix(Table::Idle, rows::timed_prefix()) });
        // What was left, come back to and left again is so by several rows.
        let (hash, mut seen) = (RandomState::new(), HashSet::new());
        loop {
            let page = self.store.inner.meta.scan(&scan).await?;
            for (key, row) in &page.rows {
                let Some((_, space, Idle::Left)) = rows::parse_idle(key) else { continue };
                let digests = values::digests_from(&row.value).map_err(StoreError::row("what is idle"))?;
                for piece in digests.chunks(BATCH) {
                    let each = piece.iter().flat_map(|digest| [rows::blob(digest), rows::count(&space, digest)]);
                    let found = self.store.inner.meta.get(&each.collect::<Vec<_>>()).await?;
                    self.pace(found.len()).await?;
                    for (digest, pair) in piece.iter().zip(found.chunks_exact(2)) {
                        let (Some(stored), None) = (&pair[0], &pair[1]) else { continue };
                        if seen.len() < SEEN && !seen.insert(hash.hash_one(digest)) {
                            continue;
                        }
                        let stored = values::blob_from(stored.value.clone()).map_err(StoreError::row(digest))?;
                        bytes += stored.bytes(digest);
                    }
                }
            }
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                return Ok(bytes);
            }
        }
    }

    /// Removes what a run that was cut off has doomed.
    async fn remove_doomed(&mut self) -> Result<(), StoreError> {
        let mut scan = Scan { limit: PAGE, ..Scan::prefix(Table::Doomed, rows::timed_prefix()) };
        loop {
            let page = self.store.inner.meta.scan(&scan).await?;
            let mut doomed = Vec::with_capacity(page.rows.len());
            for (key, _) in &page.rows {
                let location = rows::parse_doomed(key).and_then(|location| location.parse().ok());
                let damaged = || StoreError::Row { what: format!("{key:?}"), why: "it names no location".into() };
                doomed.push(location.ok_or_else(damaged)?);
            }
            self.store.remove_all(&doomed).await?;
            self.pace(doomed.len()).await?;
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                return Ok(());
            }
        }
    }
}

impl Store {
    async fn known_spaces(&self) -> Result<Spaces, StoreError> {
        let fact = self.inner.meta.get(&[rows::store(SPACES)]).await?.pop().flatten();
        let mut scan = Scan::prefix(Table::Store, rows::store(rows::SPACES).key);
        let mut spaces = Vec::new();
        loop {
            let page = self.inner.meta.scan(&scan).await?;
            for (_, row) in &page.rows {
                let space = std::str::from_utf8(&row.value).ok().and_then(|space| Space::new(space).ok());
                let damaged = || StoreError::Row { what: "a space".into(), why: "it has no name".into() };
                spaces.push(space.ok_or_else(damaged)?);
            }
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                return Ok((spaces, fact.map(|row| row.version)));
            }
        }
    }

    /// Sweeps what became idle, of each row the first so many; its rest stays to be looked at. `None` if there are other spaces by now.
    async fn sweep_batch(
        &self,
        (space, why): &(Space, Idle),
        group: &[Lying],
        horizon: Timestamp,
        spaces: &Spaces,
    ) -> Result<Option<Swept>, StoreError> {
        let others: Vec<_> = spaces.0.iter().filter(|other| *other != space).collect();
        let others = &others;
        self.transact(|mut txn| async move {
            let known = txn.get_one(rows::store(SPACES)).await?;
            if known.map(|row| row.version) != spaces.1 {
                return Ok((txn, None));
            }
            let places: Vec<_> = group.iter().map(|lying| lying.row.clone()).collect();
            let mut digests = Vec::new();
            for (lying, there) in group.iter().zip(txn.get(&places).await?) {
                // What is not as it was is swept by another daemon, which believes that it is its turn.
                let Some(there) = there else { continue };
                let listed = values::digests_from(&there.value).map_err(StoreError::row("what is idle"))?;
                if listed.len() < lying.digests.len() {
                    continue;
                }
                let (first, rest) = lying.digests.split_at(lying.digests.len().min(BATCH));
                digests.extend_from_slice(first);
                match rest {
                    [] => txn.delete(lying.row.clone()),
                    rest => txn.put(lying.row.clone(), values::digests_to(rest)),
                }
            }
            digests.sort_unstable();
            digests.dedup();
            // At one moment, and only of what is swept are they expected to stay so.
            let each = digests.iter().flat_map(|digest| [rows::holding(space, digest), rows::count(space, digest)]);
            let found = self.inner.meta.get(&each.collect::<Vec<_>>()).await?;
            let (mut goes, mut later): (Vec<Digest>, BTreeMap<Timestamp, Vec<Digest>>) = Default::default();
            for (digest, pair) in digests.iter().zip(found.chunks_exact(2)) {
                let (Some(holding), None) = (&pair[0], &pair[1]) else { continue };
                let touched = values::holding_from(holding.value.clone()).map_err(StoreError::row(digest))?;
                match touched < horizon {
                    true => goes.push(*digest),
                    false => later.entry(touched).or_default().push(*digest),
                }
            }
            let mut swept = Swept { rows: 2 * group.len() + found.len(), ..Swept::default() };
            self.condemn(&mut txn, (space, *why), &goes, others, horizon, &mut swept).await?;
            for (touched, digests) in &later {
                txn.idle(space, *touched, *why, digests);
            }
            Ok((txn, Some(swept)))
        })
        .await
    }

    /// Takes blobs from a space, and away if no other space holds them.
    async fn condemn(
        &self,
        txn: &mut Txn,
        (space, why): (&Space, Idle),
        goes: &[Digest],
        others: &[&Space],
        horizon: Timestamp,
        swept: &mut Swept,
    ) -> Result<(), StoreError> {
        let each = goes.iter().flat_map(|digest| {
            let own = [rows::holding(space, digest), rows::count(space, digest), rows::blob(digest)];
            own.into_iter().chain(others.iter().map(|other| rows::holding(other, digest)))
        });
        let found = txn.get(&each.collect::<Vec<_>>()).await?;
        let (mut removed, mut dead) = (0, Vec::new());
        swept.rows += found.len();
        for (digest, found) in goes.iter().zip(found.chunks_exact(3 + others.len())) {
            let [Some(holding), None, stored, elsewhere @ ..] = found else { continue };
            let touched = values::holding_from(holding.value.clone()).map_err(StoreError::row(digest))?;
            if touched >= horizon {
                txn.idle(space, touched, why, &[*digest]);
                continue;
            }
            txn.delete(rows::holding(space, digest));
            swept.rows += 1;
            if elsewhere.iter().any(Option::is_some) {
                continue;
            }
            let Some(stored) = stored else { continue };
            let stored = values::blob_from(stored.value.clone()).map_err(StoreError::row(digest))?;
            self.remove_blob(txn, digest, &stored, swept);
            removed += signed_bytes(digest, &stored);
            dead.push((digest, stored));
        }
        txn.dead(dead.iter().map(|(digest, stored)| (*digest, stored))).await?;
        txn.grown(-removed);
        Ok(())
    }

    fn remove_blob(&self, txn: &mut Txn, digest: &Digest, stored: &Stored, swept: &mut Swept) {
        txn.delete(rows::blob(digest));
        outboards::delete(txn, digest);
        stored.lost.iter().for_each(|position| txn.delete(rows::lost(*position)));
        stored.aliases.iter().for_each(|alias| txn.delete(rows::alias(&alias.function, &alias.hash, digest.size)));
        match stored.place {
            Place::Inline => txn.delete(rows::inline(digest, stored.nonce)),
            // Its bytes go with its pack.
            Place::Backend { form: Form::Pack { .. }, .. } => {}
            Place::Backend { .. } => {
                let (location, _) = located(digest, stored);
                txn.put(rows::doomed(&location.to_string()), "");
                swept.doomed.push(location);
            }
        }
        swept.rows += 2 + stored.aliases.len();
        swept.blobs += 1;
        swept.bytes += stored.bytes(digest);
    }

    /// Removes bytes that no row names, and then the rows that say so.
    async fn remove_all(&self, doomed: &[Location]) -> Result<(), StoreError> {
        let removed: Vec<_> = doomed.iter().map(|location| self.remove_bytes(location)).collect();
        let removed: Vec<Option<RowKey>> = stream::iter(removed).buffer_unordered(AT_ONCE).collect().await;
        self.delete_rows(&removed.into_iter().flatten().collect::<Vec<_>>()).await
    }

    /// The row that goes then, if they could be removed.
    async fn remove_bytes(&self, location: &Location) -> Option<RowKey> {
        match self.inner.blobs.remove(location).await {
            Ok(()) => Some(rows::doomed(&location.to_string())),
            Err(error) => {
                tracing::warn!(%location, error = %chain(&error), "collected bytes could not be removed; the next run tries again");
                None
            }
        }
    }
}
