//! Blobs, large and small, on their way out of a backup.
//!
//! Invariants: a blob's row is written with the location that its bytes have by then, and the signature of the file they are in; what the backup
//! has no bytes of enters the log of lost digests, so that nobody is told of a success that cannot be served.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use provender_blobs::{BlobError, Blobs, Location, Packs, StageOptions, verified};
use provender_core::blob::{Place, Stored};
use provender_core::lost::{Damage, Loss};
use provender_core::{Digest, RowKey, rows};
use provender_proto::rows as values;

use super::writer::Writer;
use crate::backup::check::damaged;
use crate::backup::copy::{AT_ONCE, Present};
use crate::backup::folder::{BLOBS, Folder};
use crate::backup::manifest::Manifest;
use crate::backup::pieces::Piece;
use crate::backup::rows::blob;
use crate::backup::take::Telling;
use crate::backup::{BackupError, Phase};
use crate::clock;
use crate::store::{StoreError, backend, located, small_max};

/// A blob, and where it is now.
type Brought = (Digest, (u64, Place));

pub(super) struct Restoring<'a> {
    folder: &'a Folder,
    manifest: &'a Manifest,
    /// The blob store within the backup; `None` if the bytes are where the rows say.
    from: Option<Arc<dyn Blobs>>,
    into: Arc<dyn Blobs>,
    told: &'a Telling,
    /// Whether an earlier restore may have left blobs.
    resumed: bool,
    /// Small blobs whose bytes must come.
    inline: u64,
    lost_head: u64,
    grown: i64,
}

impl<'a> Restoring<'a> {
    pub(super) fn new(
        folder: &'a Folder,
        manifest: &'a Manifest,
        from: Option<Arc<dyn Blobs>>,
        into: Arc<dyn Blobs>,
        resumed: bool,
        lost_head: u64,
        told: &'a Telling,
    ) -> Restoring<'a> {
        told.send_modify(|progress| {
            progress.phase = Phase::Blobs;
            (progress.blobs_total, progress.bytes_total) = (manifest.totals.blobs, manifest.totals.blob_bytes);
        });
        Restoring { folder, manifest, from, into, told, resumed, inline: 0, lost_head, grown: 0 }
    }

    /// By how much more is stored than was, since some of it was compressed there and is not here.
    pub(super) fn grown(&self) -> i64 {
        self.grown
    }

    /// Up to where the log of lost digests goes.
    pub(super) fn lost_head(&self) -> u64 {
        self.lost_head
    }

    /// The rows of a piece of blobs, and the files of the large ones.
    pub(super) async fn blobs(&mut self, piece: &Piece, writer: &mut Writer) -> Result<(), BackupError> {
        let (mut all, mut wanted) = (BTreeMap::new(), Vec::new());
        for (key, value) in self.folder.rows(piece).await? {
            let (digest, stored) = blob(&key, &value)?;
            self.grown -= i64::try_from(stored.bytes(&digest)).unwrap_or(i64::MAX);
            let of_use = stored.lost.is_none() && !self.manifest.missing.contains(&digest);
            match stored.place {
                Place::Inline => self.inline += u64::from(of_use),
                Place::Backend { .. } if of_use && self.from.is_some() => wanted.push(digest),
                Place::Backend { .. } => {}
            }
            all.insert(digest, stored);
        }
        if self.from.is_none() {
            moved(&*self.into, &mut all).await?;
        }
        for (digest, place) in self.bring(&wanted).await? {
            if let Some(stored) = all.get_mut(&digest) {
                (stored.nonce, stored.place) = place;
            }
        }
        for (digest, stored) in all {
            let stored = self.marked(&digest, stored, writer).await?;
            self.grown += i64::try_from(stored.bytes(&digest)).unwrap_or(i64::MAX);
            writer.put(rows::blob(&digest), values::blob_to(&stored)).await?;
        }
        Ok(())
    }

    /// The same, but LOST if the backup has no bytes of it.
    async fn marked(&mut self, digest: &Digest, stored: Stored, writer: &mut Writer) -> Result<Stored, BackupError> {
        if stored.lost.is_some() || !self.manifest.missing.contains(digest) {
            return Ok(stored);
        }
        self.lost_head += 1;
        let why = "it was lost before the backup was taken that this store was restored from".to_owned();
        let loss = Loss { digest: *digest, found: clock::now(), damage: Damage::Missing, why };
        writer.put(rows::lost(self.lost_head), values::lost_to(&loss)).await?;
        Ok(Stored { lost: Some(self.lost_head), ..stored })
    }

    /// Copies files, and says where they are now.
    async fn bring(&self, wanted: &[Digest]) -> Result<Vec<Brought>, BackupError> {
        let Some(from) = &self.from else { return Ok(Vec::new()) };
        let in_backup = |error| BackupError::blobs(self.folder.dir(), error);
        // A piece is a short run of digests, which these look up by themselves.
        let (mut there, mut left) = (Present::new(&**from), Present::new(&*self.into));
        if let Some(first) = wanted.first() {
            there.begin_at(first);
            left.begin_at(first);
        }
        let (mut jobs, mut small) = (Vec::new(), Vec::new());
        let packs = self.into.packs();
        for digest in wanted {
            let found = there.find(digest).await.map_err(in_backup)?;
            let missing = || self.folder.damaged(BLOBS, format!("it has no file of the blob {digest}"));
            if packs.is_some() && digest.size <= small_max(&*self.into) {
                small.push(found.ok_or_else(missing)?);
                continue;
            }
            let before = match self.resumed {
                true => left.find(digest).await.map_err(StoreError::from)?,
                false => None,
            };
            jobs.push((found.ok_or_else(missing)?, before));
        }
        let copies = stream::iter(jobs).map(|(location, before)| {
            let (folder, from, into) = (self.folder.clone(), from.clone(), self.into.clone());
            async move {
                let place = match before {
                    Some(before) => as_left(&*into, before).await?,
                    None => copy(&folder, &*from, &*into, &location).await?,
                };
                Ok::<Brought, BackupError>((location.digest, place))
            }
        });
        let told = |(digest, _): &Brought| {
            let size = digest.size;
            self.told.send_modify(|progress| {
                (progress.blobs, progress.bytes) = (progress.blobs + 1, progress.bytes + size);
            });
        };
        let mut places: Vec<_> = copies.buffer_unordered(AT_ONCE).inspect_ok(told).try_collect().await?;
        if let Some(packs) = packs {
            places.extend(self.pack(&**from, packs, &small).await?.into_iter().inspect(|place| told(place)));
        }
        Ok(places)
    }

    /// Copies small ones into packs. What a restore that was cut off has left of them is found by a collection.
    async fn pack(&self, from: &dyn Blobs, packs: &dyn Packs, small: &[Location]) -> Result<Vec<Brought>, BackupError> {
        let mut blobs = Vec::with_capacity(small.len());
        for location in small {
            let of_backup = |error| damaged(self.folder, location, error);
            let reader = from.open(location, 0..location.digest.size).await.map_err(of_backup)?;
            let bytes = verified(*location, reader).into_bytes().await.map_err(of_backup)?;
            blobs.push((location.digest, bytes));
        }
        let places = packs.put(blobs).await.map_err(StoreError::from)?;
        Ok(places.into_iter().map(|it| (it.digest, (it.nonce, backend(it.form, None)))).collect())
    }

    /// The bytes of small blobs: of all that the pieces have, those that a blob's row names.
    pub(super) async fn inline(&mut self, writer: &mut Writer) -> Result<(), BackupError> {
        if self.manifest.blobs.is_none() {
            return Ok(());
        }
        let mut come = 0;
        for piece in &self.manifest.inline {
            // What was put must be there to be asked for, also that a row has come before.
            writer.flush().await?;
            let found = self.folder.rows(piece).await?;
            let digest = |key: &Bytes| key.get(1..41).and_then(Digest::from_bytes);
            let asked = found.iter().filter_map(|(key, _)| {
                let row = RowKey { table: provender_core::Table::Inline, key: key.clone() };
                Some([rows::blob(&digest(key)?), row])
            });
            let asked: Vec<RowKey> = asked.flatten().collect();
            let there = writer.meta().get(&asked).await?;
            let mut there = there.chunks_exact(2);
            for (key, value) in found {
                let Some(digest) = digest(&key) else { continue };
                let Some([Some(row), None]) = there.next() else { continue };
                let stored = values::blob_from(row.value.clone()).map_err(StoreError::row(digest))?;
                let named = stored.place == Place::Inline && stored.lost.is_none();
                let key = RowKey { table: provender_core::Table::Inline, key };
                if named && rows::inline(&digest, stored.nonce) == key && Digest::of(&value) == digest {
                    writer.put(key, value).await?;
                    come += 1;
                }
            }
        }
        if come < self.inline {
            let why = format!("the bytes of {} small blobs are in none of its pieces", self.inline - come);
            return Err(self.folder.damaged("rows", why));
        }
        Ok(())
    }
}

/// Finds the blobs that are not where their rows say, in the blob store that these are of: since the backup, they were stored in another form.
/// What is nowhere is left to whoever reads it.
async fn moved(into: &dyn Blobs, all: &mut BTreeMap<Digest, Stored>) -> Result<(), BackupError> {
    let in_store = |error| BackupError::from(StoreError::from(error));
    let large = all.iter().filter(|(_, stored)| stored.place != Place::Inline && stored.lost.is_none());
    let locations: Vec<_> = large.map(|(digest, stored)| located(digest, stored).0).collect();
    let mut gone = into.stat(&locations).await.map_err(in_store)?.into_iter().zip(locations);
    let mut present: Option<Present<'_>> = None;
    while let Some((_, Location { digest, .. })) = gone.find(|(found, _)| found.is_none()) {
        let there = present.get_or_insert_with(|| {
            let mut there = Present::new(into);
            there.begin_at(&digest);
            there
        });
        // A move leaves one copy; should there be others, each is what it says, or is found not to be.
        let Some(location) = there.find(&digest).await.map_err(in_store)? else { continue };
        if let Some(stored) = all.get_mut(&digest) {
            // Nobody has looked at this file for this row yet, so it is read before its looks count for anything.
            (stored.nonce, stored.place) = (location.nonce, backend(location.form, None));
        }
    }
    Ok(())
}

/// A blob that an earlier restore has verified and published.
async fn as_left(into: &dyn Blobs, location: Location) -> Result<(u64, Place), BackupError> {
    let stat = into.stat(&[location]).await.map_err(StoreError::from)?.pop().flatten();
    let signature = stat.and_then(|stat| stat.signature);
    Ok((location.nonce, backend(location.form, signature.as_ref())))
}

async fn copy(
    folder: &Folder,
    from: &dyn Blobs,
    into: &dyn Blobs,
    location: &Location,
) -> Result<(u64, Place), BackupError> {
    let of_backup = |error| damaged(folder, location, error);
    let size = location.digest.size;
    let mut reader = from.open(location, 0..size).await.map_err(of_backup)?;
    let options = StageOptions { size_hint: Some(size), announced: Some(location.digest), ..StageOptions::default() };
    let mut staged = into.stage(options).await.map_err(StoreError::from)?;
    while let Some(piece) = reader.next().await {
        staged.write(piece.map_err(of_backup)?).await.map_err(StoreError::from)?;
    }
    let published = match staged.publish(Some(location.digest)).await {
        Ok(published) => published,
        Err(error @ BlobError::Mismatch { .. }) => return Err(of_backup(error)),
        Err(error) => return Err(StoreError::from(error).into()),
    };
    Ok((published.location.nonce, backend(published.location.form, published.signature.as_ref())))
}
