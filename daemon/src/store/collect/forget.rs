//! Forgetting what was collected longest ago: a key of which something was collected says so while there are not too many others.
//!
//! How many there are is known about: a run that is cut off does not tell its own, so they are counted anew now and then.

use provender_core::batch::{Row, RowKey, Table};
use provender_core::name::Space;
use provender_core::transition::KeyRow;
use provender_core::{Timestamp, Verdict, rows};
use provender_proto::rows as values;

use super::super::{Store, StoreError, fact};
use super::Run;
use crate::meta::Scan;

/// How many are forgotten in one batch.
const BATCH: usize = 500;
/// The fact of how many tombstones there are, about.
const TOMBSTONES: &str = "tombstones";
/// The fact of when what was forgotten was collected last.
const FORGOTTEN: &str = "forgotten";

impl Run<'_> {
    /// Counts tombstones anew: runs that were cut off have not told theirs.
    pub(super) async fn recount_tombstones(&mut self) -> Result<(), StoreError> {
        let (mut there, mut scan) = (0, Scan::prefix(Table::Tombstone, rows::timed_prefix()));
        loop {
            let page = self.store.inner.meta.scan(&scan).await?;
            there += page.rows.len();
            self.pace(page.rows.len()).await?;
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                break;
            }
        }
        self.store
            .transact(|mut txn| {
                txn.put(rows::store(TOMBSTONES), there.to_string());
                async move { Ok((txn, ())) }
            })
            .await
    }

    /// Forgets the oldest keys of which something was collected, if there are too many.
    pub(super) async fn forget(&mut self) -> Result<(), StoreError> {
        let fact = fact(&*self.store.inner.meta, TOMBSTONES).await?;
        let before: u64 = fact.and_then(|fact| fact.parse().ok()).unwrap_or(0);
        let mut there = before + self.done.executions - self.done.spared;
        let mut scan = Scan { limit: BATCH, ..Scan::prefix(Table::Tombstone, rows::timed_prefix()) };
        while there > self.how.tombstones {
            scan.limit = usize::try_from(there - self.how.tombstones).unwrap_or(BATCH).min(BATCH);
            let page = self.store.inner.meta.scan(&scan).await?;
            let mut forgotten = Vec::with_capacity(page.rows.len());
            for (key, _) in &page.rows {
                let damaged = || StoreError::Row { what: format!("{key:?}"), why: "it is of no time".into() };
                forgotten.push((
                    RowKey { table: Table::Tombstone, key: key.clone() },
                    rows::parse_tombstone(key).ok_or_else(damaged)?,
                ));
            }
            self.store.forget(&forgotten).await?;
            self.pace(4 * forgotten.len()).await?;
            there -= forgotten.len() as u64;
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                // There are fewer than was thought.
                there = there.min(self.how.tombstones);
            }
        }
        if there != before {
            self.store
                .transact(|mut txn| {
                    txn.put(rows::store(TOMBSTONES), there.to_string());
                    async move { Ok((txn, ())) }
                })
                .await?;
        }
        Ok(())
    }
}

impl Store {
    /// Before when something was collected of which nothing is known any more, if there is any.
    pub(in crate::store) async fn forgotten(&self) -> Result<Option<Timestamp>, StoreError> {
        let fact = fact(&*self.inner.meta, FORGOTTEN).await?;
        Ok(fact.and_then(|fact| fact.parse().ok()).map(Timestamp::from_millis))
    }

    /// Forgets keys of which nothing is known but that something was collected.
    async fn forget(&self, all: &[(RowKey, (Timestamp, Space, provender_core::TaskKey))]) -> Result<(), StoreError> {
        self.transact(|mut txn| async move {
            let keys: Vec<_> =
                all.iter().flat_map(|(_, (_, space, key))| [rows::key(space, key), rows::lease(space, key)]).collect();
            let found: Vec<Option<Row>> = txn.get(&keys).await?;
            for ((tombstone, (at, space, key)), pair) in all.iter().zip(found.chunks_exact(2)) {
                txn.delete(tombstone.clone());
                let Some(row) = &pair[0] else { continue };
                let mut row = values::key_from(row.value.clone()).map_err(StoreError::row(key))?;
                // A later one has a later tombstone.
                if row.collected.as_ref().is_none_or(|collected| collected.at > *at) {
                    continue;
                }
                row.collected = None;
                let void = row.record.as_ref().and_then(|record| record.void.as_ref());
                if void.is_some_and(|void| void.verdict == Verdict::Evicted) {
                    row.record = None;
                }
                match row == KeyRow::default() && pair[1].is_none() {
                    true => txn.delete(rows::key(space, key)),
                    false => txn.put(rows::key(space, key), values::key_to(&row)),
                }
            }
            if let Some((_, (at, ..))) = all.last() {
                txn.put(rows::store(FORGOTTEN), at.millis().to_string());
            }
            Ok((txn, ()))
        })
        .await
    }
}
