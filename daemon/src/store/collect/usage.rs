//! How much is stored.
//!
//! Whoever stores or removes says so in a row of its own, in the same batch, so that nobody waits for anybody; now and then these are added
//! up into one fact. Invariant: the fact and the rows come to the bytes of all blobs that have a row.

use std::time::Duration;

use provender_core::{Table, rows};
use provender_proto::rows as values;

use super::super::{Store, StoreError};
use crate::meta::Scan;

/// The fact of what was added up.
pub(crate) const USED: &str = "used";
/// How many are added up in one batch.
const BATCH: usize = 2_000;
/// How often the room is looked at.
const LOOK: Duration = Duration::from_secs(2);

impl Store {
    /// The bytes that blobs take.
    pub async fn usage(&self) -> Result<u64, StoreError> {
        loop {
            let fact = self.inner.meta.get(&[rows::store(USED)]).await?.pop().flatten();
            let added_up = fact.as_ref().map_or(Ok(0), |row| number(&String::from_utf8_lossy(&row.value)))?;
            let (mut used, mut scan) = (i128::from(added_up), Scan::prefix(Table::Usage, rows::timed_prefix()));
            loop {
                let page = self.inner.meta.scan(&scan).await?;
                for (_, row) in &page.rows {
                    let grown = values::usage_from(row.value.clone()).map_err(StoreError::row("what is stored"))?;
                    used += i128::from(grown);
                }
                scan.after = page.rows.last().map(|(key, _)| key.clone());
                if !page.more {
                    break;
                }
            }
            // Whoever has added rows up meanwhile has deleted them.
            let after = self.inner.meta.get(&[rows::store(USED)]).await?.pop().flatten();
            if after.map(|row| row.version) == fact.map(|row| row.version) {
                // Read at several moments, so it may be a little less than nothing.
                return Ok(u64::try_from(used.max(0)).unwrap_or(u64::MAX));
            }
        }
    }

    /// Adds up what was stored and removed.
    pub(in crate::store) async fn add_up_usage(&self) -> Result<(), StoreError> {
        loop {
            let scan = Scan { limit: BATCH, ..Scan::prefix(Table::Usage, rows::timed_prefix()) };
            let page = self.inner.meta.scan(&scan).await?;
            let keys: Vec<_> = page
                .rows
                .iter()
                .map(|(key, _)| provender_core::RowKey { table: Table::Usage, key: key.clone() })
                .collect();
            if keys.len() < 2 && !page.more {
                return Ok(());
            }
            let keys = &keys;
            self.transact(|mut txn| async move {
                let fact = txn.get_one(rows::store(USED)).await?;
                let mut used = fact.map_or(Ok(0), |fact| number(&String::from_utf8_lossy(&fact.value)))?;
                for (key, row) in keys.iter().zip(txn.get(keys).await?) {
                    let Some(row) = row else { continue };
                    used += values::usage_from(row.value).map_err(StoreError::row("what is stored"))?;
                    txn.delete(key.clone());
                }
                txn.put(rows::store(USED), used.to_string());
                Ok((txn, ()))
            })
            .await?;
            if !page.more {
                return Ok(());
            }
        }
    }

    /// Looks now and then at how much is stored, and calls for collection if that is too much.
    pub async fn watch_room(self) {
        loop {
            // The clocks as well.
            self.protection();
            let looked = async {
                self.add_up_usage().await?;
                let (limits, room) = self.room().await?;
                self.inner.collecting.room.set(room, limits);
                self.inner.metrics.stored.set(i64::try_from(room.used).unwrap_or(i64::MAX));
                if limits.wants(room, 0).is_some() && self.inner.collecting.room.is_worth_it() {
                    self.call_collection();
                }
                Ok::<_, StoreError>(())
            };
            if let Err(error) = looked.await {
                tracing::debug!(error = %super::chain(&error), "how much is stored could not be found out");
            }
            tokio::time::sleep(LOOK.min(self.collection().protect / 4)).await;
        }
    }
}

fn number(text: &str) -> Result<i64, StoreError> {
    let damaged = |_| StoreError::Row { what: "how much is stored".into(), why: "it is no number".into() };
    text.parse().map_err(damaged)
}
