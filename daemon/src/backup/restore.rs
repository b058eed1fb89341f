//! Restoring: a backup becomes a store, on whatever engine and blob store there is.
//!
//! Invariants: until all is verified and written, the metadata's layout says that it is being restored, and nobody serves it;
//! one restore at a time writes, since every batch expects that word as it wrote it; nothing is written where there is anything but what
//! one that was cut off left, which is cleared, but for blobs, which it verified. The store says of which backup it came. The store that comes of it has a higher incarnation, so whoever began before is fenced.

mod bytes;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;

use ::bytes::Bytes;
use provender_blobs::Blobs;
use provender_core::batch::{Table, Version};
use provender_core::digest::hex;
use provender_core::rows;
use provender_proto::rows as values;

use self::writer::Writer;
use super::folder::Folder;
use super::manifest::Manifest;
use super::take::Telling;
use super::{BackupError, Phase};
use crate::clock;
use crate::meta::{Meta, Scan};
use crate::store::{self, LAYOUT, Standing, StoreError};

/// The fact of which backup a store came: what its manifest is known by.
const FROM: &str = "restored";

/// What was restored.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// Which backup.
    pub number: u64,
    /// What it held.
    pub manifest: Manifest,
    /// The store's incarnation from now on.
    pub incarnation: u64,
}

/// Whether a restore has begun in this engine, and not come to its end.
pub async fn has_begun(meta: &dyn Meta) -> Result<bool, BackupError> {
    Ok(store::standing(meta).await? == Some(Standing::Restoring))
}

/// Restores a backup (the newest, if none is named) into an empty metadata engine and an empty blob store; a backup of the
/// metadata alone into an empty engine beside the blob store that it is of.
pub async fn restore(
    folder: &Folder,
    number: Option<u64>,
    meta: Arc<dyn Meta>,
    into: Arc<dyn Blobs>,
    told: &Telling,
) -> Result<Restored, BackupError> {
    let (number, manifest) = folder.choose(number).await?;
    if manifest.layout > LAYOUT {
        let (found, made_by) = (manifest.layout, manifest.made_by.clone());
        return Err(BackupError::Layout { found, known: LAYOUT, made_by });
    }
    if manifest.blobs.is_none() && into.id() != manifest.source {
        let (expected, found) = (manifest.source.to_string(), into.id().to_string());
        return Err(BackupError::OtherBlobs { expected, found });
    }
    let blobs = folder.blobs().await?;
    let resumed = is_half_restored(&*meta).await?;
    if !resumed && blobs.is_some() && !into.list(None, 1).await.map_err(StoreError::from)?.locations.is_empty() {
        return Err(BackupError::NotEmpty { what: "the blob store".into() });
    }
    let mut writer =
        Writer::claim(meta.clone(), folder.dir(), &format!("restoring {}", hex(&clock::random::<8>()))).await?;
    if resumed {
        writer.clear().await?;
    }

    let mut facts = BTreeMap::new();
    for piece in manifest.of(Table::Store) {
        facts.extend(folder.rows(piece).await?);
    }
    // That the backup was being taken is no fact of another life.
    facts.remove(&rows::store(store::PAUSED).key);
    let head = rows::store(rows::LOST_HEAD).key;
    let lost = store::lost_head(facts.get(&head)).map_err(BackupError::from)?;
    let mut bytes = bytes::Restoring::new(folder, &manifest, blobs, into.clone(), resumed, lost, told);
    for piece in manifest.of(Table::Blob) {
        bytes.blobs(piece, &mut writer).await?;
    }
    told.send_modify(|progress| progress.phase = Phase::Rows);
    let others = |table: &Table| ![Table::Store, Table::Blob].contains(table) && table.has_rows();
    for piece in Table::ALL.iter().filter(|table| others(table)).flat_map(|table| manifest.of(*table)) {
        let rows = folder.rows(piece).await?;
        told.send_modify(|progress| progress.rows += rows.len() as u64);
        for (key, value) in rows {
            writer.put(provender_core::RowKey { table: piece.table, key }, value).await?;
        }
    }
    bytes.inline(&mut writer).await?;
    if bytes.grown() != 0 {
        writer.put(rows::usage(u64::from_be_bytes(clock::random())), values::usage_to(bytes.grown())).await?;
    }

    // What the store says of itself comes last, all at once.
    let incarnation = (manifest.incarnation + 1).max(clock::now().millis());
    if bytes.lost_head() > lost {
        facts.insert(head, bytes.lost_head().to_string().into());
    }
    for (name, value) in [
        ("incarnation", incarnation.to_string()),
        ("blobs", into.id().to_string()),
        (FROM, hex(&manifest.hash())),
        ("layout", manifest.layout.to_string()),
    ] {
        facts.insert(rows::store(name).key, Bytes::from(value));
    }
    writer
        .finish(facts.into_iter().map(|(key, value)| (provender_core::RowKey { table: Table::Store, key }, value)))
        .await?;
    // Nobody follows this history yet; what was written just now is no news.
    let head: Version = meta.head().await?;
    meta.trim(head, Default::default()).await?;
    tracing::info!(backup = %folder.dir().display(), number, incarnation, rows = manifest.totals.rows, "restored");
    Ok(Restored { number, manifest, incarnation })
}

/// The incarnation of the store that is there, if it is one that was restored from this very backup.
pub async fn came_through(meta: &dyn Meta, manifest: &Manifest) -> Result<Option<u64>, BackupError> {
    let of_layout = store::standing(meta).await? == Some(Standing::At(manifest.layout));
    let facts = meta.get(&[rows::store(FROM), rows::store("incarnation")]).await?;
    let mut facts = facts.into_iter().map(|row| String::from_utf8(row?.value.to_vec()).ok());
    let (from, incarnation) = (facts.next().flatten(), facts.next().flatten());
    let same = of_layout && from == Some(hex(&manifest.hash()));
    Ok(incarnation.filter(|_| same).and_then(|text| text.parse().ok()))
}

/// Whether a restore was cut off here; an error if there is anything else.
async fn is_half_restored(meta: &dyn Meta) -> Result<bool, BackupError> {
    match store::standing(meta).await? {
        Some(Standing::Restoring) => return Ok(true),
        Some(_) => return Err(BackupError::NotEmpty { what: "the metadata".into() }),
        None => {}
    }
    for table in Table::ALL {
        if !meta.scan(&Scan { limit: 1, ..Scan::prefix(table, "") }).await?.rows.is_empty() {
            return Err(BackupError::NotEmpty { what: "the metadata".into() });
        }
    }
    Ok(false)
}
