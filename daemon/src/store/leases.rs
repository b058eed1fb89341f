//! Watching: the task that follows the change feed, wakes waiters, and takes expired leases from their holders.
//!
//! Every daemon on one metadata store runs it, so a lease expires whichever of them still lives. The rule of expiry is
//! [`provender_core::lease::Sightings`].

use std::time::Duration;

use provender_core::batch::{Change, RowKey, Table, Version};
use provender_core::lease::{Lease, Sightings};
use provender_core::{Timestamp, rows, transition};
use provender_proto::rows as values;

use super::tasks::Standing;
use super::{Store, StoreError};
use crate::clock;
use crate::meta::{MetaError, Scan};

/// How many changes are read at once.
const PAGE: usize = 1_000;
/// How long the change feed reaches back, at least half of it.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long to wait after the metadata engine failed.
const PAUSE: Duration = Duration::from_secs(1);

impl Store {
    /// Follows the feed until it is dropped.
    pub async fn watch(self) {
        loop {
            // Sightings end with a failure: while the engine was out of reach nobody could beat, so that time must not count.
            if let Err(error) = self.follow(&mut Sightings::default()).await {
                tracing::warn!(error = %super::error::chain(&error), "following the change feed failed; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Forgets, now and then, what dead daemons left in staging, and what the change feed holds beyond what any follower needs.
    pub async fn tidy(self) {
        let mut before = None;
        loop {
            match self.sweep_staging().await {
                Ok(0) => {}
                Ok(swept) => tracing::info!(swept, "discarded uploads that were cut off"),
                Err(error) => {
                    tracing::warn!(error = %super::error::chain(&error), "cut-off uploads could not be discarded")
                }
            }
            tokio::time::sleep(KEPT / 2).await;
            let trimmed = async {
                let head = self.inner.meta.head().await?;
                // What was the head a while ago is old by now; so no entry's age has to be known.
                if let Some(before) = before.replace(head) {
                    let made_before = clock::now().millis().saturating_sub(KEPT.as_millis() as u64 * 2);
                    self.inner.meta.trim(before, Timestamp::from_millis(made_before)).await?;
                }
                Ok::<_, MetaError>(())
            };
            if let Err(error) = trimmed.await {
                tracing::warn!(error = %super::error::chain(&error), "old entries of the change feed could not be forgotten");
            }
        }
    }

    async fn follow(&self, sightings: &mut Sightings) -> Result<(), StoreError> {
        let meta = &self.inner.meta;
        let mut cursor = meta.head().await?;
        self.see_all(sightings).await?;
        self.inner.feed.all_changed();
        loop {
            let due = sightings.next().map_or(PAUSE * 60, |due| due.saturating_sub(clock::monotonic()));
            tokio::select! {
                () = meta.changed(cursor) => {}
                () = tokio::time::sleep(due) => {}
            }
            // What happened comes before what did not: a beat that is in the feed counts.
            loop {
                let page = match meta.changes(cursor, PAGE).await {
                    Err(MetaError::Trimmed { .. }) => return Ok(()),
                    page => page?,
                };
                for change in &page.changes {
                    self.take_in(sightings, change).await?;
                }
                if page.cursor <= cursor || page.changes.is_empty() {
                    cursor = page.cursor.max(cursor);
                    break;
                }
                cursor = page.cursor;
            }
            for (row, version) in sightings.expired(clock::monotonic()) {
                match self.expire(&row, version).await {
                    Ok(()) => {}
                    // The engine fails, and may have failed the holder as well.
                    Err(
                        error @ (StoreError::Meta(_) | StoreError::Undecided { .. } | StoreError::Contended { .. }),
                    ) => {
                        return Err(error);
                    }
                    Err(error) => {
                        tracing::error!(?row, error = %super::error::chain(&error), "an expired lease cannot be taken");
                    }
                }
                sightings.gone(&row);
            }
            self.inner.metrics.leases.set(sightings.len() as i64);
        }
    }

    async fn take_in(&self, sightings: &mut Sightings, change: &Change) -> Result<(), StoreError> {
        match change.key.table {
            Table::Lease if change.deleted => sightings.gone(&change.key),
            Table::Lease => match self.inner.meta.get(std::slice::from_ref(&change.key)).await?.pop().flatten() {
                Some(row) => self.see(sightings, change.key.clone(), row.version, row.value)?,
                None => sightings.gone(&change.key),
            },
            _ => {}
        }
        self.inner.feed.changed(&change.key);
        Ok(())
    }

    async fn see_all(&self, sightings: &mut Sightings) -> Result<(), StoreError> {
        let mut scan = Scan::prefix(Table::Lease, "");
        let mut found = std::collections::HashSet::new();
        loop {
            let page = self.inner.meta.scan(&scan).await?;
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            for (key, row) in page.rows {
                let key = RowKey { table: Table::Lease, key };
                found.insert(key.clone());
                self.see(sightings, key, row.version, row.value)?;
            }
            if !page.more {
                sightings.retain(|row| found.contains(row));
                return Ok(());
            }
        }
    }

    fn see(
        &self,
        sightings: &mut Sightings,
        key: RowKey,
        version: Version,
        value: bytes::Bytes,
    ) -> Result<(), StoreError> {
        let lease: Lease = values::lease_from(value).map_err(StoreError::row(format!("{key:?}")))?;
        sightings.saw(key, version, lease.ttl, clock::monotonic());
        Ok(())
    }

    /// Takes a lease that stands at `version` from its holder; does nothing if it moved on.
    async fn expire(&self, row: &RowKey, version: Version) -> Result<(), StoreError> {
        let Some((space, key)) = rows::parse_key(&row.key) else {
            return Err(StoreError::Row { what: format!("{row:?}"), why: "its key is not one of a lease".into() });
        };
        let (space, key) = (&space, &key);
        let ended = self
            .transact(|mut txn| async move {
                let Standing { known, lease_version, .. } = self.known(&mut txn, space, key).await?;
                let (Some(lease), true) = (&known.lease, lease_version == Some(version)) else {
                    return Ok((txn, None));
                };
                let execution = self.execution_in(&mut txn, space, lease.execution).await?;
                let ended = transition::expire(&known, &execution, clock::now())?;
                let ended = self.write_end(&mut txn, space, ended).await?;
                Ok((txn, Some(ended)))
            })
            .await?;
        if let Some(ended) = ended {
            tracing::info!(key = %ended.key, execution = %ended.id, "lease expired; the execution is abandoned");
            self.inner.metrics.ended.with_label_values(&["ABANDONED"]).inc();
        }
        Ok(())
    }
}
