//! The task that follows the change feed: it wakes waiters, hands out to watchers, and takes expired leases from their holders.
//!
//! Every daemon on one metadata store runs it, so a lease expires whichever of them still lives. The rule of expiry is
//! [`provender_core::lease::Sightings`].

use std::convert::Infallible;
use std::time::Duration;

use futures::{StreamExt, stream};
use provender_core::batch::{Change, Row, RowKey, Table, Version};
use provender_core::lease::{Lease, Sightings};
use provender_core::{Timestamp, rows, transition};
use provender_proto::rows as values;

use super::history::as_stored;
use super::lookup::Standing;
use super::{Store, StoreError};
use crate::clock;
use crate::meta::{MetaError, Scan};

/// How many changes are read at once.
const PAGE: usize = 1_000;
/// How long the change feed reaches back, at least half of it.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How many expired leases are taken at once.
const AT_ONCE: usize = 64;
/// How long to wait after the metadata engine failed.
const PAUSE: Duration = Duration::from_secs(1);

impl Store {
    /// Follows the feed until it is dropped.
    pub async fn watch(self) {
        loop {
            // Sightings end with a failure: while the engine was out of reach nobody could beat, so that time must not count.
            let Err(error) = self.keep_watch().await;
            tracing::warn!(error = %super::error::chain(&error), "following the change feed failed; trying again");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn keep_watch(&self) -> Result<Infallible, StoreError> {
        let awake = clock::Awake::default();
        let follow = async {
            let mut follower = self.follow(|| awake.now()).await?;
            loop {
                follower.changed(|| awake.now()).await;
                follower.step(|| awake.now()).await?;
            }
        };
        tokio::select! {
            ended = follow => ended,
            never = awake.beat() => match never {},
        }
    }

    /// One who follows the feed from now on, having seen the leases that there are. `time` is a monotonic clock.
    pub async fn follow(&self, time: impl Fn() -> Duration) -> Result<Follower, StoreError> {
        let cursor = self.inner.meta.head().await?;
        let mut follower = Follower { store: self.clone(), cursor, handed: cursor, sightings: Sightings::default() };
        follower.see_all(&time).await?;
        self.inner.feed.all_changed();
        self.inner.pages.begin(cursor);
        Ok(follower)
    }

    /// Forgets, now and then, what the change feed holds beyond what any follower needs.
    pub async fn tidy(self) {
        let mut before = None;
        loop {
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

    /// Takes a lease that stands at `version` from its holder; does nothing if it moved on.
    async fn expire(&self, row: &RowKey, version: Version) -> Result<(), StoreError> {
        let Some((space, key)) = rows::parse_key(&row.key) else {
            return Err(StoreError::Row { what: format!("{row:?}"), why: "its key is not one of a lease".into() });
        };
        let (space, key) = (&space, &key);
        let ended = self
            .transact(|mut txn| async move {
                let Standing { known, lease_version, lost, .. } = self.known(&mut txn, space, key).await?;
                let (Some(lease), true) = (&known.lease, lease_version == Some(version)) else {
                    return Ok((txn, None));
                };
                let execution = self.execution_in(&mut txn, space, lease.execution).await?;
                // What cannot be tested now delays no expiry; the verdict is LOST then, until the next attempt.
                let tested = self.tested_soon(space, key, &known, lost).await;
                let ended = transition::expire(&tested, &execution, clock::now())?;
                Store::tell_ended(&mut txn, space, &tested, &ended);
                let ended = self.write_end(&mut txn, space, as_stored(ended, known)).await?;
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

/// What one daemon has taken in of the feed, and the leases that it has seen.
#[derive(Debug)]
pub struct Follower {
    store: Store,
    cursor: Version,
    /// Up to where watchers were handed what concerns them.
    handed: Version,
    sightings: Sightings,
}

impl Follower {
    /// Returns when there may be something to do: the feed has grown, or a lease is due.
    pub async fn changed(&self, time: impl Fn() -> Duration) {
        // With leases in sight the engine is asked now and then, so that one that was out of reach meanwhile is noticed.
        let due = self.sightings.next().map_or(PAUSE * 60, |due| due.saturating_sub(time()).min(PAUSE));
        tokio::select! {
            () = self.store.inner.meta.changed(self.cursor) => {}
            () = tokio::time::sleep(due) => {}
        }
    }

    /// Takes in what the feed holds, wakes who waits for it, and takes the leases that are due from their holders. After an error
    /// it must not be used any more: what it has seen may be old.
    pub async fn step(&mut self, time: impl Fn() -> Duration) -> Result<(), StoreError> {
        // What happened comes before what did not: a beat that is in the feed counts.
        self.take_in(&time).await?;
        let mut expiring = stream::iter(self.sightings.expired(time()))
            .map(|(row, version)| {
                let store = &self.store;
                async move { (store.expire(&row, version).await, row) }
            })
            .buffer_unordered(AT_ONCE);
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        while let Some((result, row)) = expiring.next().await {
            match result {
                Ok(()) => {}
                // The engine fails, and may have failed the holder as well.
                Err(error @ (StoreError::Meta(_) | StoreError::Undecided { .. } | StoreError::Contended { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::error!(?row, error = %super::error::chain(&error), "an expired lease cannot be taken; later again");
                    failed.push(row);
                    continue;
                }
            }
            done.push(row);
        }
        drop(expiring);
        done.iter().for_each(|row| self.sightings.gone(row));
        failed.iter().for_each(|row| self.sightings.anew(row, time()));
        self.store.inner.metrics.leases.set(self.sightings.len() as i64);
        Ok(())
    }

    async fn take_in(&mut self, time: &impl Fn() -> Duration) -> Result<(), StoreError> {
        loop {
            let page = match self.store.inner.meta.changes(self.cursor, PAGE).await {
                // It was left behind for a day.
                Err(MetaError::Trimmed { .. }) => {
                    *self = self.store.follow(time).await?;
                    return Ok(());
                }
                page => page?,
            };
            for change in &page.changes {
                if change.key.table == Table::Lease {
                    self.lease_changed(change, time).await?;
                }
                self.store.inner.feed.changed(&change.key);
            }
            self.handed = self.store.inner.pages.hand_out(self.handed, &page);
            let more = page.cursor > self.cursor && !page.changes.is_empty();
            self.cursor = page.cursor.max(self.cursor);
            if !more {
                return Ok(());
            }
        }
    }

    async fn lease_changed(&mut self, change: &Change, time: &impl Fn() -> Duration) -> Result<(), StoreError> {
        let row = match change.deleted {
            true => None,
            false => self.store.inner.meta.get(std::slice::from_ref(&change.key)).await?.pop().flatten(),
        };
        match row {
            Some(row) => self.see(change.key.clone(), row, time)?,
            None => self.sightings.gone(&change.key),
        }
        Ok(())
    }

    async fn see_all(&mut self, time: &impl Fn() -> Duration) -> Result<(), StoreError> {
        let mut scan = Scan::prefix(Table::Lease, "");
        loop {
            let page = self.store.inner.meta.scan(&scan).await?;
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            for (key, row) in page.rows {
                self.see(RowKey { table: Table::Lease, key }, row, time)?;
            }
            if !page.more {
                return Ok(());
            }
        }
    }

    /// The clock is read after the row: a lease lasts from its first sight, never from before.
    fn see(&mut self, key: RowKey, row: Row, time: &impl Fn() -> Duration) -> Result<(), StoreError> {
        let lease: Lease = values::lease_from(row.value).map_err(StoreError::row(format!("{key:?}")))?;
        self.sightings.saw(key, row.version, lease.ttl, time());
        Ok(())
    }
}
