//! How rows, feed entries and fates stand in RocksDB.
//!
//! Owns the stored bytes; numbers are big-endian so that they sort. Changing anything here needs a new [`LAYOUT`].

use bytes::Bytes;
use provender_core::batch::{BatchId, Change, Fate, Row, RowKey, Table, Version};

use crate::meta::MetaError;

/// The layout that this program reads and writes.
pub(super) const LAYOUT: u32 = 1;

/// Facts of the whole database, in the column family that every RocksDB has.
pub(super) mod fact {
    pub(in super::super) const LAYOUT: &[u8] = b"layout";
    pub(in super::super) const HEAD: &[u8] = b"head";
    pub(in super::super) const TRIMMED: &[u8] = b"trimmed";
    pub(in super::super) const OLDEST: &[u8] = b"oldest";
}

/// Table and key -> row, of every table but one.
pub(super) const ROWS: &str = "rows";
/// Rows of [`Table::Inline`] and [`Table::Outboard`]: large values, kept apart from what is read all the time.
pub(super) const INLINE: &str = "inline";
/// Version and place in its batch -> change.
pub(super) const FEED: &str = "feed";
/// Batch id -> fate.
pub(super) const FATES: &str = "fates";

/// The column family of a table's rows.
pub(super) fn family(table: Table) -> &'static str {
    if matches!(table, Table::Inline | Table::Outboard) { INLINE } else { ROWS }
}

pub(super) fn row_key(table: Table, key: &[u8]) -> Vec<u8> {
    [&[table.tag()], key].concat()
}

/// The same, behind others.
pub(super) fn append_key(table: Table, key: &[u8], to: &mut Vec<u8>) {
    to.push(table.tag());
    to.extend_from_slice(key);
}

pub(super) fn row(version: Version, value: &[u8]) -> Vec<u8> {
    [&version.0.to_be_bytes(), value].concat()
}

pub(super) fn read_row(stored: &[u8]) -> Result<Row, MetaError> {
    let (version, value) = stored.split_first_chunk().ok_or_else(|| corrupt("a row is too short"))?;
    Ok(Row { version: Version(u64::from_be_bytes(*version)), value: Bytes::copy_from_slice(value) })
}

pub(super) fn read_version(stored: &[u8]) -> Result<Version, MetaError> {
    let version = stored.first_chunk().ok_or_else(|| corrupt("a version is too short"))?;
    Ok(Version(u64::from_be_bytes(*version)))
}

pub(super) fn feed_key(version: Version, place: usize) -> Vec<u8> {
    [version.0.to_be_bytes(), (place as u64).to_be_bytes()].concat()
}

pub(super) fn change(change: &Change) -> Vec<u8> {
    [&[u8::from(change.deleted), change.key.table.tag()], &change.key.key[..]].concat()
}

/// `None` for a table that only a newer program knows: nobody here waits for it.
pub(super) fn read_change(feed_key: &[u8], stored: &[u8]) -> Result<Option<Change>, MetaError> {
    let version = read_version(feed_key)?;
    let ([deleted, tag], key) = stored.split_first_chunk().ok_or_else(|| corrupt("a change is too short"))?;
    let Some(table) = Table::from_tag(*tag) else { return Ok(None) };
    let key = RowKey { table, key: Bytes::copy_from_slice(key) };
    Ok(Some(Change { version, key, deleted: *deleted != 0 }))
}

/// A fate is the version of the commit; 0, which no commit has, is an abort.
pub(super) fn fate(fate: Fate) -> [u8; 8] {
    let version = if let Fate::Committed(version) = fate { version } else { Version(0) };
    version.0.to_be_bytes()
}

pub(super) fn read_fate(stored: &[u8]) -> Result<Fate, MetaError> {
    let version = read_version(stored)?;
    Ok(if version == Version(0) { Fate::Aborted } else { Fate::Committed(version) })
}

pub(super) fn read_layout(stored: &[u8]) -> Result<u32, MetaError> {
    stored.try_into().map(u32::from_be_bytes).map_err(|_| corrupt("the layout is no number"))
}

pub(super) fn read_id(stored: &[u8]) -> Result<BatchId, MetaError> {
    stored.try_into().map(BatchId).map_err(|_| corrupt("a batch id has the wrong length"))
}

fn corrupt(what: &str) -> MetaError {
    MetaError::Corrupt { what: what.to_owned() }
}
