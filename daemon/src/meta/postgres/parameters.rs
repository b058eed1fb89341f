//! What statements take: rows as arrays of their columns, and how many at a time.

use bytes::Bytes;
use provender_core::batch::{Change, RowKey, Version};
use tokio_postgres::types::ToSql;

use super::stored;

/// The most rows that one statement reads or writes.
pub(super) const ROWS: usize = 5_000;
/// A statement ends with the row that reaches this many bytes.
const BYTES: usize = 4 << 20;
/// What a statement takes.
pub(super) type Parameter<'a> = &'a (dyn ToSql + Sync);

/// A row to write, not to delete.
pub(super) type Put<'a> = (&'a RowKey, Version, &'a Bytes);

/// Rows as columns.
pub(super) struct Puts<'a> {
    tables: Vec<i16>,
    keys: Vec<&'a [u8]>,
    versions: Vec<i64>,
    values: Vec<&'a [u8]>,
}

impl<'a> From<&'a [Put<'a>]> for Puts<'a> {
    fn from(rows: &'a [Put<'a>]) -> Puts<'a> {
        Puts {
            tables: rows.iter().map(|(key, ..)| i16::from(key.table.tag())).collect(),
            keys: rows.iter().map(|(key, ..)| &*key.key).collect(),
            versions: rows.iter().map(|(_, version, _)| stored(*version)).collect(),
            values: rows.iter().map(|(.., value)| &value[..]).collect(),
        }
    }
}

impl Puts<'_> {
    pub(super) fn parameters(&self) -> [Parameter<'_>; 4] {
        [&self.tables, &self.keys, &self.versions, &self.values]
    }
}

/// Feed entries with their places, as columns.
pub(super) struct Entries<'a> {
    versions: Vec<i64>,
    places: Vec<i64>,
    tables: Vec<i16>,
    keys: Vec<&'a [u8]>,
    deleted: Vec<bool>,
}

impl<'a> From<&'a [(usize, &'a Change)]> for Entries<'a> {
    fn from(changes: &'a [(usize, &'a Change)]) -> Entries<'a> {
        Entries {
            versions: changes.iter().map(|(_, change)| stored(change.version)).collect(),
            places: changes.iter().map(|(place, _)| *place as i64).collect(),
            tables: changes.iter().map(|(_, change)| i16::from(change.key.table.tag())).collect(),
            keys: changes.iter().map(|(_, change)| &*change.key.key).collect(),
            deleted: changes.iter().map(|(_, change)| change.deleted).collect(),
        }
    }
}

impl Entries<'_> {
    pub(super) fn parameters(&self) -> [Parameter<'_>; 5] {
        [&self.versions, &self.places, &self.tables, &self.keys, &self.deleted]
    }
}

/// Cuts `rows` so that no statement is too large.
pub(super) fn chunks<'a>(rows: &'a [Put<'a>]) -> Vec<&'a [Put<'a>]> {
    let mut bytes = 0;
    let mut count = 0;
    rows.chunk_by(|(key, _, value), _| {
        bytes += key.key.len() + value.len();
        count += 1;
        let full = bytes >= BYTES || count >= ROWS;
        if full {
            (bytes, count) = (0, 0);
        }
        !full
    })
    .collect()
}
