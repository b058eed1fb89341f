//! Collection: what is old goes, whole, and what is alive stays.
//!
//! A run counts who refers to what has come since the last one ([`count`]), chooses which executions go ([`due`] by the rules for
//! names, [`room`] for want of room), takes those from view ([`evict`]) and uncounts what they referred to, and removes the bytes of blobs that
//! nothing refers to ([`sweep`]). Each step is one batch that expects what it was decided by, so a run may end anywhere, and the next one
//! goes on; two at once do the same work twice and no harm. [`turn`] sees to it that one daemon at a time collects, [`usage`] knows how much is
//! stored. Invariants: nothing goes that something counted refers to, nor what was relied on since the horizon, which is read before the
//! counting ends; if counting fails, nothing is swept; cost follows what has changed.

pub(super) mod admit;
mod audit;
mod complete;
mod count;
mod due;
mod erase;
mod evict;
mod forget;
mod horizon;
mod how;
mod kept;
mod look;
mod orphans;
mod packs;
pub(super) mod pause;
mod room;
mod specs;
mod steps;
mod sweep;
mod together;
mod turn;
pub(super) mod usage;

use std::sync::Mutex;
use std::time::Duration;

use provender_core::collect::rules::Rule;
use provender_core::collect::shed;
use provender_core::key::TaskKey;
use provender_core::name::{Name, Space};
use provender_core::{ExecutionId, Timestamp, rows};

use super::hold::UNNOTICED;
use super::{Store, StoreError, chain};
use crate::clock;

pub use self::how::Collection;
use self::how::DEFAULT;
pub(super) use self::kept::PINS;
use self::kept::Pins;
use self::turn::Turn;

/// How many rows are read at once.
const PAGE: usize = 1_000;
/// The bytes of the blobs' disk that count as taken, for the metadata and what else may stand there.
const SPARE: u64 = 16 << 20;
/// How many executions go together.
const TOGETHER: usize = 5_000;
/// How long the next attempt waits where a run failed, and how soon one comes after another that was called for.
const AGAIN: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_millis(500);
/// How soon after its start a daemon collects, so that one that is started again and again does.
const FIRST: Duration = Duration::from_secs(60);

/// What goes, and by which rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Going {
    /// In which space.
    pub space: Space,
    /// The execution.
    pub execution: ExecutionId,
    /// Its key.
    pub key: TaskKey,
    /// Its name.
    pub name: Name,
    /// Whether it is its key's record.
    pub is_record: bool,
    /// When it was last used.
    pub used: Timestamp,
    /// The rule.
    pub rule: Rule,
    /// The rule in words.
    pub reason: String,
    /// The bytes that nothing refers to any more without it, and without those that go before it.
    pub frees: u64,
    /// Where it stands by its time; that row goes with it.
    row: Option<provender_core::RowKey>,
}

/// What a run came to, or has come to so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Executions, pins and registrations that were counted.
    pub counted: u64,
    /// Executions that go, or would go.
    pub executions: u64,
    /// Of these, records.
    pub records: u64,
    /// The bytes that only they refer to.
    pub frees: u64,
    /// Executions that were to go, but were used or pinned meanwhile.
    pub spared: u64,
    /// Blobs that were removed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The bytes that blobs take now.
    pub used: u64,
    /// The bytes that they may take.
    pub quota: Option<u64>,
    /// Of what should have gone for want of room, the bytes that protection and pins keep.
    pub kept: u64,
    /// Rows that were read and written.
    pub rows: u64,
}

/// What of the daemon's own collection needs.
#[derive(Debug, Default)]
pub(super) struct Collecting {
    pub(super) how: std::sync::OnceLock<Collection>,
    /// One run at a time.
    running: tokio::sync::Mutex<()>,
    /// Wakes the one that collects by itself.
    called: tokio::sync::Notify,
    pub(super) room: admit::Known,
    steps: Mutex<steps::Steps>,
    /// The spaces that are known to be known.
    pub(super) spaces: Mutex<std::collections::HashSet<Space>>,
}

/// A run under way.
struct Run<'a> {
    store: &'a Store,
    /// None has a dry run: it takes nothing away.
    turn: Option<Turn>,
    how: Collection,
    dry_run: bool,
    done: Collected,
    tell: &'a mut (dyn FnMut(&Going) + Send + Sync),
    /// When it began, and for how long it has not kept to its rate.
    began: Duration,
    pins: Pins,
    /// Of a dry run: what has gone.
    chosen: std::collections::HashSet<ExecutionId>,
}

impl Store {
    /// Has it collect so. Only the first call counts.
    pub fn configure(&self, how: Collection) {
        _ = self.inner.collecting.how.set(how);
    }

    pub(super) fn collection(&self) -> &Collection {
        self.inner.collecting.how.get().unwrap_or(&DEFAULT)
    }

    /// For how long what was used stays by what is written down of that, and by the wall clock as that has gone of late.
    fn protection(&self) -> Duration {
        let protect = self.collection().protect + self.collection().touch_after();
        let mut steps = self.inner.collecting.steps.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        protect + steps.see(clock::monotonic(), clock::now(), protect)
    }

    /// Has the daemon that collects by itself do so soon.
    pub fn call_collection(&self) {
        self.inner.collecting.called.notify_one();
    }

    /// Collects once; `tell` is called for each execution that goes. A dry run chooses the same and takes nothing away.
    pub async fn collect(
        &self,
        dry_run: bool,
        tell: &mut (dyn FnMut(&Going) + Send + Sync),
    ) -> Result<Collected, StoreError> {
        let _one = match dry_run {
            true => None,
            false => Some(self.inner.collecting.running.lock().await),
        };
        let turn = match dry_run {
            true => None,
            false => Some(self.turn().await?),
        };
        let room = &self.inner.collecting.room;
        let number = room.begin();
        self.flush_used().await?;
        let (done, began, pins) = (Collected::default(), clock::monotonic(), Pins::default());
        let how = Collection { protect: self.protection(), ..self.collection().clone() };
        let mut run = Run { store: self, turn, how, dry_run, done, tell, began, pins, chosen: Default::default() };
        let ended = UNNOTICED.scope((), run.all()).await;
        let (turn, done) = (run.turn, run.done);
        if let Some(turn) = turn {
            turn.end().await;
            room.end(number);
        }
        ended?;
        let metrics = &self.inner.metrics;
        metrics.collections.inc();
        Ok(done)
    }

    /// Waits for this daemon's turn.
    async fn turn(&self) -> Result<Turn, StoreError> {
        loop {
            match Turn::take(self).await? {
                Some(turn) => return Ok(turn),
                None => tokio::time::sleep(SOON).await,
            }
        }
    }

    /// Collects on a schedule, and when it is called for.
    pub async fn collect_forever(self) {
        let every = self.collection().every;
        let mut wait = every.min(FIRST);
        loop {
            if every.is_zero() {
                self.inner.collecting.called.notified().await;
            } else {
                _ = tokio::time::timeout(wait, self.inner.collecting.called.notified()).await;
            }
            match self.collect(false, &mut |_| {}).await {
                Ok(done) => {
                    wait = every;
                    if done.executions + done.blobs > 0 {
                        let Collected { executions, records, blobs, bytes, used, .. } = done;
                        tracing::info!(executions, records, blobs, bytes, used, "collected");
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "collecting was cut off; the next run goes on");
                    wait = AGAIN.min(every);
                }
            }
            tokio::time::sleep(SOON.min(every)).await;
        }
    }

    /// Makes the space known to collection, which looks into all of them before it removes bytes.
    pub(super) async fn know_space(&self, space: &Space) -> Result<(), StoreError> {
        let is_known = || self.inner.collecting.spaces.lock().is_ok_and(|spaces| spaces.contains(space));
        if is_known() {
            return Ok(());
        }
        self.transact(|mut txn| async move {
            let (row, all) = (rows::known_space(space), rows::store(SPACES));
            if txn.get_one(row.clone()).await?.is_none() {
                txn.get_one(all.clone()).await?;
                txn.put(row, space.as_str().to_owned());
                txn.put(all, provender_core::digest::hex(&clock::random::<8>()));
            }
            Ok((txn, ()))
        })
        .await?;
        if let Ok(mut spaces) = self.inner.collecting.spaces.lock() {
            spaces.insert(space.clone());
        }
        Ok(())
    }

    /// The limits of what is stored, and how it stands.
    pub async fn room(&self) -> Result<(shed::Limits, shed::Room), StoreError> {
        let how = self.collection();
        let disk = self.inner.blobs.space().await?;
        let of = |part: u16| disk.map(|disk| disk.total / 1000 * u64::from(part));
        let limits = shed::Limits {
            quota: how.quota.or_else(|| of(how.quota_part)),
            reserve: how.reserve.or_else(|| of(how.reserve_part)),
            high: how.high,
            low: how.low,
        };
        let used = self.usage().await?;
        Ok((limits, shed::Room { used, free: disk.map(|disk| disk.free.saturating_sub(SPARE)), asked: 0 }))
    }
}

/// The fact that changes when a space becomes known.
const SPACES: &str = "spaces";

impl Run<'_> {
    async fn all(&mut self) -> Result<(), StoreError> {
        self.pins = self.store.record_pins(self.dry_run).await?;
        self.store.complete_pins().await?;
        self.store.add_up_usage().await?;
        let horizon = self.store.horizon(&self.how).await?;
        self.count().await?;
        if self.is_waited_for() {
            self.by_room(horizon).await?;
        }
        self.by_rules().await?;
        if !self.dry_run {
            self.sweep(horizon).await?;
        }
        self.by_room(horizon).await?;
        if !self.dry_run {
            self.forget().await?;
            self.remove_orphans().await?;
            self.repack().await?;
        }
        self.store.add_up_usage().await?;
        let (limits, room) = self.store.room().await?;
        let known = &self.store.inner.collecting.room;
        known.set(room, limits);
        if !self.dry_run && limits.wants(room, 0).is_some() {
            known.in_vain(self.how.protect);
        }
        (self.done.used, self.done.quota) = (room.used, limits.quota);
        Ok(())
    }

    /// Counts rows, and waits if there were more than the rate allows.
    async fn pace(&mut self, rows: usize) -> Result<(), StoreError> {
        self.done.rows += rows as u64;
        self.store.inner.metrics.collected_rows.inc_by(rows as u64);
        let due = Duration::from_micros(self.done.rows.saturating_mul(1_000_000) / self.how.rows_per_second.max(1));
        let spent = clock::monotonic().saturating_sub(self.began);
        if due > spent + Duration::from_millis(20) && !self.is_waited_for() {
            tokio::time::sleep((due - spent).min(Duration::from_secs(1))).await;
        }
        match &mut self.turn {
            Some(turn) => turn.beat().await,
            None => Ok(()),
        }
    }

    /// Whether somebody waits for what it frees.
    fn is_waited_for(&self) -> bool {
        !self.dry_run && self.store.inner.collecting.room.is_asked()
    }
}

#[cfg(test)]
mod tests;
