//! Paged scans, for every engine alike.
//!
//! Owns what a page is: its edges and its bounds. Invariant: a page that is not the last one moves the scan on by at least one
//! row, and is never larger than [`PAGE_ROWS`] rows and [`PAGE_BYTES`] plus one row.

use bytes::Bytes;
use provender_core::batch::{Row, Table};

/// The most rows of a page.
pub(super) const PAGE_ROWS: usize = 10_000;
/// A page ends with the row that reaches this many bytes of keys and values.
pub(super) const PAGE_BYTES: usize = 4 << 20;

/// Which rows to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The table.
    pub table: Table,
    /// Only keys that begin with this.
    pub prefix: Bytes,
    /// Only keys that sort strictly after this (a whole key, such as the last one of the page before).
    pub after: Option<Bytes>,
    /// At most this many rows (at least 1; more than 10,000 are never returned at once).
    pub limit: usize,
}

/// Rows in order, and whether there are more behind them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys and rows.
    pub rows: Vec<(Bytes, Row)>,
    /// Whether the scan goes on after the last of `rows`.
    pub more: bool,
}

impl Scan {
    /// The first page of a table's keys that begin with `prefix`.
    pub fn prefix(table: Table, prefix: impl Into<Bytes>) -> Scan {
        Scan { table, prefix: prefix.into(), after: None, limit: PAGE_ROWS }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.clamp(1, PAGE_ROWS)
    }

    /// The least key that may be in the scan.
    pub(super) fn first(&self) -> Bytes {
        match &self.after {
            // The successor of a key is the key with a zero byte behind it.
            Some(after) if *after >= self.prefix => [after, &b"\0"[..]].concat().into(),
            _ => self.prefix.clone(),
        }
    }

    /// The least key beyond the scan; `None` if it goes to the table's end.
    pub(super) fn end(&self) -> Option<Bytes> {
        let kept = self.prefix.iter().rposition(|byte| *byte < 0xff)?;
        let mut end = self.prefix[..=kept].to_vec();
        end[kept] += 1;
        Some(end.into())
    }

    /// The page that the scan's remaining rows, in order, begin with.
    pub(super) fn page<E>(&self, rows: impl IntoIterator<Item = Result<(Bytes, Row), E>>) -> Result<Page, E> {
        let mut page = Page::default();
        let mut bytes = 0;
        for row in rows {
            if page.rows.len() >= self.limit() || bytes >= PAGE_BYTES {
                page.more = true;
                break;
            }
            let (key, row) = row?;
            bytes += key.len() + row.value.len();
            page.rows.push((key, row));
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(prefix: &'static [u8], after: Option<&'static [u8]>) -> Scan {
        Scan { after: after.map(Bytes::from_static), ..Scan::prefix(Table::Name, prefix) }
    }

    #[test]
    fn edges() {
        assert_eq!(scan(b"", None).first(), "");
        assert_eq!(scan(b"", None).end(), None);
        assert_eq!(scan(b"\xff\xff", None).end(), None);
        assert_eq!(scan(b"a\xff", None).end().unwrap(), "b");
        assert_eq!(scan(b"a\x00", None).end().unwrap(), "a\x01");
        assert_eq!(scan(b"b", Some(b"a")).first(), "b");
        assert_eq!(scan(b"b", Some(b"b")).first(), "b\0");
        assert_eq!(scan(b"b", Some(b"c")).first(), "c\0");
    }
}
