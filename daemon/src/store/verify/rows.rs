//! The part of verifying that reads rows: the engine checks what it reads, and each row must say what its table says.
//!
//! Bytes of small blobs and outboards are rows as well, but mean something only together with their blob: they are looked at
//! with that.

use bytes::Bytes;
use provender_core::Digest;
use provender_core::batch::Table;
use provender_core::rows;
use provender_proto::rows as values;
use provender_proto::rows::RowError;

use super::{Verified, Verify};
use crate::meta::Scan;
use crate::store::{Store, StoreError, chain};

/// How many rows are read at once.
const PAGE: usize = 5_000;

/// Whether rows of this table are read here.
pub(super) fn are_verified(table: Table) -> bool {
    table.has_rows() && !matches!(table, Table::Inline | Table::Outboard)
}

impl Store {
    /// Reads the rows of a table behind a key; the last key, if there are more.
    pub(super) async fn verify_rows(
        &self,
        table: Table,
        after: Option<Bytes>,
        how: Verify,
        done: &mut Verified,
    ) -> Result<Option<Bytes>, StoreError> {
        let page = self.inner.meta.scan(&Scan { after, limit: PAGE, ..Scan::prefix(table, "") }).await?;
        let mut read = 0;
        for (key, row) in &page.rows {
            read += (key.len() + row.value.len()) as u64;
            if let Err(why) = meant(table, key, &row.value) {
                let key = key.escape_ascii();
                done.damaged(format!(
                    "a row of the table {table:?}, {key}, {why}: restore a backup with `provenderd restore`"
                ));
            }
        }
        self.count(page.rows.len() as u64, read, how, done).await;
        Ok(page.rows.into_iter().next_back().map(|(key, _)| key).filter(|_| page.more))
    }

    /// Reads a page of what the engine keeps beside the rows; where to go on.
    pub(super) async fn verify_beside(
        &self,
        after: Option<Bytes>,
        how: Verify,
        done: &mut Verified,
    ) -> Result<Option<Bytes>, StoreError> {
        let page = self.inner.meta.verify(after).await?;
        self.count(page.entries, page.bytes, how, done).await;
        Ok(page.next)
    }

    async fn count(&self, rows: u64, bytes: u64, how: Verify, done: &mut Verified) {
        done.rows += rows;
        self.inner.metrics.verified_rows.inc_by(rows);
        tokio::time::sleep(how.rest(bytes)).await;
    }
}

/// Whether a row says something of its table's kind; else what is wrong with it.
fn meant(table: Table, key: &Bytes, value: &Bytes) -> Result<(), String> {
    let decoded = |decoded: Result<(), RowError>| decoded.map_err(|error| format!("cannot be read: {}", chain(&error)));
    let holds = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
    let value = value.clone();
    match table {
        Table::Store | Table::NameRecord => holds(std::str::from_utf8(&value).is_ok(), "is no text"),
        Table::Key => {
            holds(rows::parse_key(key).is_some(), "has a key of no task")?;
            decoded(values::key_from(value).map(drop))
        }
        Table::Lease => {
            holds(rows::parse_key(key).is_some(), "has a key of no task")?;
            decoded(values::lease_from(value).map(drop))
        }
        Table::Execution => {
            let id = rows::parse_execution(key).map(|(_, id)| id).ok_or("has a key of no execution")?;
            let execution =
                values::execution_from(value).map_err(|error| format!("cannot be read: {}", chain(&error)))?;
            holds(execution.id == id, "is of another execution than its key says")
        }
        Table::Spec => {
            let spec = values::spec_from(value).map_err(|error| format!("cannot be read: {}", chain(&error)))?;
            holds(key.ends_with(&spec.digest().to_bytes()), "is another spec than its key says")
        }
        Table::KeyHistory | Table::NameHistory | Table::Producer => {
            holds(rows::trailing_execution(key).is_some(), "has a key of no execution")
        }
        Table::Name => decoded(values::name_from(value).map(drop)),
        Table::FailedName => decoded(values::failed_name_from(value).map(drop)),
        Table::Folder | Table::FailedFolder => holds(value.len() == 16, "names no execution"),
        Table::Index => holds(rows::parse_place(key).is_some(), "has a key of no place"),
        Table::Blob => {
            holds(rows::parse_blob(key).is_some(), "has a key of no blob")?;
            decoded(values::blob_from(value).map(drop))
        }
        Table::Holding => decoded(values::holding_from(value).map(drop)),
        Table::Alias => holds(Digest::from_bytes(&value).is_some(), "names no blob"),
        Table::Pin => decoded(values::pin_from(value).map(drop)),
        Table::Maker => decoded(values::maker_from(value).map(drop)),
        Table::Lost => {
            holds(rows::parse_lost(key).is_some(), "has a key of no position")?;
            decoded(values::lost_from(value).map(drop))
        }
        Table::Count => decoded(values::count_from(value).map(drop)),
        Table::Tally => {
            holds(rows::parse_tally(key).is_some(), "has a key of no referrer")?;
            decoded(values::tally_from(value).map(drop))
        }
        Table::Idle => {
            holds(rows::parse_idle(key).is_some(), "has a key of no time")?;
            decoded(values::digests_from(&value).map(drop))
        }
        Table::Usage => decoded(values::usage_from(value).map(drop)),
        Table::Doomed => holds(rows::parse_doomed(key).is_some(), "names no location"),
        Table::Used => {
            holds(rows::parse_key(key).is_some(), "has a key of no task")?;
            decoded(values::holding_from(value).map(drop))
        }
        Table::Aged => holds(rows::parse_aged(key).is_some(), "has a key of no time"),
        Table::Due => holds(rows::parse_due(key).is_some(), "has a key of no time"),
        Table::Shown => holds(rows::space_of(key).is_some(), "has a key of no space"),
        Table::Tombstone => holds(rows::parse_tombstone(key).is_some(), "has a key of no time"),
        Table::Pack => {
            holds(rows::parse_pack(key).is_some(), "has a key of no pack")?;
            decoded(values::pack_from(value).map(drop))
        }
        Table::RecordPin => decoded(values::pin_from(value).map(drop)),
        Table::Consumer | Table::Inline | Table::Outboard | Table::Event => Ok(()),
    }
}
