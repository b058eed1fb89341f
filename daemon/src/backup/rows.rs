//! Reading all rows of a moment into pieces.
//!
//! Invariant: what is in memory is a page and a piece, however many rows there are.

use provender_blobs::StoreId;
use provender_core::batch::{Table, Version};
use provender_core::blob::Place;
use provender_core::rows;
use provender_proto::rows as values;

use super::manifest::{Manifest, Totals};
use super::pieces::{Cut, Cutter, Piece};
use super::take::Telling;
use super::{BackupError, Folder, Phase};
use crate::clock;
use crate::meta::{Scan, Snapshot};
use crate::store::{self, StoreError};

/// What the store says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) layout: u32,
    pub(super) store: String,
    pub(super) incarnation: u64,
    pub(super) blobs: StoreId,
}

impl Facts {
    pub(super) async fn of(snapshot: &dyn Snapshot) -> Result<Facts, BackupError> {
        let names = ["layout", "id", "incarnation", "blobs"];
        let found = snapshot.get(&names.map(rows::store)).await?;
        let mut texts = found.iter().map(|row| row.as_ref().and_then(|row| std::str::from_utf8(&row.value).ok()));
        let mut next = |name: &str| {
            let why = || "it is missing or unreadable".to_owned();
            let damaged = move || StoreError::Row { what: format!("the store's {name}"), why: why() };
            texts.next().flatten().map(str::to_owned).ok_or_else(damaged)
        };
        let (layout, store, incarnation, blobs) = (next("layout")?, next("id")?, next("incarnation")?, next("blobs")?);
        let damaged =
            |name: &str, text: &str| StoreError::Row { what: format!("the store's {name}"), why: format!("{text:?}") };
        Ok(Facts {
            // While a migration is under way, this is where it began.
            layout: store::layout_of(&layout).ok_or_else(|| damaged("layout", &layout))?,
            incarnation: incarnation.parse().map_err(|_| damaged("incarnation", &incarnation))?,
            blobs: blobs.parse().map_err(|_| damaged("blob store id", &blobs))?,
            store,
        })
    }
}

/// What reading the rows came to.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) pieces: Vec<Piece>,
    pub(super) totals: Totals,
    /// Bytes of pieces that were not there yet.
    pub(super) written: u64,
}

/// Writes all rows as pieces, those of small blobs' bytes only if they are asked for.
pub(super) async fn write(
    snapshot: &dyn Snapshot,
    folder: &Folder,
    with_inline: bool,
    told: &Telling,
) -> Result<Read, BackupError> {
    let mut read = Read::default();
    for table in Table::ALL.into_iter().filter(|table| table.has_rows() && (with_inline || *table != Table::Inline)) {
        let (mut cutter, mut scan) = (Cutter::new(table), Scan::prefix(table, ""));
        loop {
            let page = snapshot.scan(&scan).await?;
            for (key, row) in &page.rows {
                read.totals.rows += 1;
                read.totals.row_bytes += (key.len() + row.value.len()) as u64;
                if table == Table::Blob {
                    count(&mut read.totals, key, &row.value)?;
                }
                if let Some(cut) = cutter.push(key, &row.value) {
                    read.keep(folder, cut).await?;
                }
            }
            told.send_modify(|progress| (progress.phase, progress.rows) = (Phase::Rows, read.totals.rows));
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                break;
            }
        }
        if let Some(cut) = cutter.finish() {
            read.keep(folder, cut).await?;
        }
    }
    Ok(read)
}

impl Read {
    async fn keep(&mut self, folder: &Folder, cut: Cut) -> Result<(), BackupError> {
        let (piece, written) = folder.keep(cut).await?;
        self.pieces.push(piece);
        self.written += written;
        Ok(())
    }
}

fn count(totals: &mut Totals, key: &[u8], value: &bytes::Bytes) -> Result<(), BackupError> {
    let (digest, stored) = blob(key, value)?;
    let (number, bytes) = match (stored.lost, stored.place) {
        (Some(_), _) => {
            totals.lost += 1;
            return Ok(());
        }
        (None, Place::Inline) => (&mut totals.inline, &mut totals.inline_bytes),
        (None, Place::Backend { .. }) => (&mut totals.blobs, &mut totals.blob_bytes),
    };
    *number += 1;
    *bytes += digest.size;
    Ok(())
}

/// What a row of [`Table::Blob`] says.
pub(super) fn blob(
    key: &[u8],
    value: &bytes::Bytes,
) -> Result<(provender_core::Digest, provender_core::blob::Stored), BackupError> {
    let unreadable = || StoreError::Row { what: "the row of a blob".into(), why: "its key is none".into() };
    let digest = rows::parse_blob(key).ok_or_else(unreadable)?;
    let stored = values::blob_from(value.clone()).map_err(StoreError::row(digest))?;
    Ok((digest, stored))
}

/// A backup of the metadata alone, beside the blob store that it is of: what is kept before a migration.
pub async fn snapshot_rows(snapshot: &dyn Snapshot, folder: &Folder) -> Result<Manifest, BackupError> {
    let facts = Facts::of(snapshot).await?;
    folder.mark(&super::folder::Marker { store: facts.store.clone(), blobs: None }).await?;
    let read = write(snapshot, folder, true, &Telling::default()).await?;
    let manifest = manifest(facts, snapshot.version(), None, read);
    folder.add(1, &manifest).await?;
    Ok(manifest)
}

pub(super) fn manifest(facts: Facts, version: Version, blobs: Option<StoreId>, read: Read) -> Manifest {
    Manifest {
        layout: facts.layout,
        store: facts.store,
        incarnation: facts.incarnation,
        source: facts.blobs,
        blobs,
        version,
        taken: clock::now(),
        rows: read.pieces,
        inline: Vec::new(),
        missing: Default::default(),
        totals: read.totals,
        made_by: env!("CARGO_PKG_VERSION").into(),
    }
}
