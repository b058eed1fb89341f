//! What goes for want of room: what was used least recently, as far as that frees what is wanted.
//!
//! Rows stand by when something was last known to be used; what was used since is moved on. Invariants: a dry run chooses what a run would;
//! bytes that several refer to are freed by the last of them; memory follows what goes together.

use std::collections::BTreeMap;

use provender_core::batch::{RowKey, Table};
use provender_core::collect::rules::Rule;
use provender_core::collect::shed::{self, Shed, Want};
use provender_core::collect::{self, References};
use provender_core::name::Space;
use provender_core::{Digest, Execution, ExecutionId, Timestamp, rows};
use provender_proto::rows as values;

use super::super::StoreError;
use super::look::Looked;
use super::{Going, PAGE, Run, TOGETHER};
use crate::clock;
use crate::meta::Scan;

/// How many are looked at together.
const LOOKS: usize = 200;
/// How many blobs that are shared are remembered of those that go together.
const SHARED: usize = 2_000_000;

/// An execution, when it was last known to be used, and the row that says so.
type Aged = (Timestamp, (Space, ExecutionId), RowKey);

impl Run<'_> {
    /// What is used least recently goes while too much is stored.
    pub(super) async fn by_room(&mut self, horizon: Timestamp) -> Result<(), StoreError> {
        let asked = self.store.inner.collecting.room.asked(self.dry_run);
        let (limits, first) = self.store.room().await?;
        let first = shed::Room { asked, ..first };
        if limits.wants(first, 0).is_none() {
            return Ok(());
        }
        // What goes already is not asked for twice; of what a dry run has chosen by rules that is so as well.
        let mut leaving = self.leaving().await? + if self.dry_run { self.done.frees } else { 0 };
        let Some(mut begun) = limits.wants(first, leaving) else { return Ok(()) };
        let mut scan = Scan { limit: LOOKS, ..Scan::prefix(Table::Aged, rows::timed_prefix()) };
        let (mut shed, removed) = (Shed::default(), self.done.bytes);
        loop {
            let (limits, room) = self.store.room().await?;
            // A disk may say late, or never, that something was removed; the next run looks again.
            let removed = self.done.bytes - removed;
            let free = room.free.max(first.free.map(|free| free.saturating_add(removed)));
            let room = shed::Room { asked, free, ..room };
            // What goes together may be less than what is wanted, and not all of it goes.
            let want = limits.left(begun, room, leaving).or_else(|| limits.wants(room, leaving));
            let Some(want) = want else { return Ok(()) };
            begun = want;
            let going = self.least_recently_used(want, &mut scan, &mut shed).await?;
            let (freed, any) = (going.values().map(|one| one.frees).sum::<u64>(), !going.is_empty());
            self.go(going).await?;
            if self.dry_run {
                leaving += freed;
            } else if any {
                self.count().await?;
                self.sweep(horizon).await?;
                leaving = self.leaving().await?;
            }
            if !any {
                self.done.kept = limits.wants(room, leaving).map_or(0, Want::bytes);
                return Ok(());
            }
        }
    }

    /// Of the least recently used so many as free what is wanted, or as go together.
    async fn least_recently_used(
        &mut self,
        want: Want,
        scan: &mut Scan,
        shed: &mut Shed,
    ) -> Result<BTreeMap<ExecutionId, Going>, StoreError> {
        let now = clock::now();
        let rule = match want {
            Want::Quota(_) => Rule::Quota,
            Want::Free(_) => Rule::Free,
        };
        if !self.dry_run {
            // What went is uncounted by now.
            *shed = Shed::default();
        }
        let (mut going, mut freed) = (BTreeMap::new(), 0);
        loop {
            let page = self.store.inner.meta.scan(scan).await?;
            let mut aged = Vec::with_capacity(page.rows.len());
            for (key, _) in page.rows {
                let damaged = || StoreError::Row { what: format!("{key:?}"), why: "it is of no time".into() };
                let (at, space, id) = rows::parse_aged(&key).ok_or_else(damaged)?;
                aged.push((at, (space, id), RowKey { table: Table::Aged, key }));
            }
            // All behind it were used later still.
            let protected = collect::ago(now, self.how.protect);
            let old = aged.partition_point(|(at, ..)| *at < protected);
            let is_last = old < aged.len() || !page.more;
            aged.truncate(old);
            let asked: Vec<_> = aged.iter().map(|(_, of, _)| of.clone()).collect();
            let last = aged.last().map(|(.., row)| row.key.clone());
            let looked = self.look_all(&asked).await?;
            let (stand, is_right) = self.move_on(aged, looked, now, protected).await?;
            if !is_right {
                continue;
            }
            let mut enough = false;
            for (row, space, looked) in stand {
                scan.after = Some(row.key.clone());
                let reason = self.reason(rule, &looked, 0, now);
                let Looked { execution, is_record, used, .. } = &looked;
                let mut one = self.store.going(&space, execution, *is_record, *used, rule, reason, Some(row));
                one.frees = self.freed_with(&space, execution, shed).await?;
                freed += one.frees;
                going.insert(execution.id, one);
                enough = freed >= want.bytes() || going.len() >= TOGETHER || shed.remembered() >= SHARED;
                if enough {
                    break;
                }
            }
            if enough || is_last {
                return Ok(going);
            }
            scan.after = last;
        }
    }

    /// Of executions those that stand by when they were last used. The others, and those that are pinned, are moved on; so that in a dry run
    /// they are come upon where they are in the run, that does so too. Whether what stands between these rows still does.
    async fn move_on(
        &mut self,
        aged: Vec<Aged>,
        looked: Vec<Option<Looked>>,
        now: Timestamp,
        protected: Timestamp,
    ) -> Result<(Vec<(RowKey, Space, Looked)>, bool), StoreError> {
        let (mut stand, mut is_right) = (Vec::new(), true);
        let (mut done, mut next) = (Vec::new(), Vec::new());
        for ((at, (space, id), row), looked) in aged.into_iter().zip(looked) {
            if self.chosen.contains(&id) {
                continue;
            }
            let Some(looked) = looked else {
                done.push(row);
                continue;
            };
            let is_pinned = looked.is_record && self.store.is_pinned(&self.pins, &space, &looked.execution).await?;
            let since = if is_pinned { now } else { looked.used };
            if since > at {
                is_right &= since >= protected;
                next.push(rows::aged(&space, since, id));
                done.push(row);
                continue;
            }
            stand.push((row, space, looked));
        }
        self.store.replace(done, next).await?;
        Ok((stand, is_right))
    }

    /// The bytes that nothing refers to any more without an execution, and without those that `shed` has taken.
    async fn freed_with(&mut self, space: &Space, execution: &Execution, shed: &mut Shed) -> Result<u64, StoreError> {
        let references = References::of(execution);
        let mut digests: Vec<Digest> = references.blobs.clone();
        digests.extend(references.closure);
        let (mut freed, mut at) = (0, 0);
        let listed = references.closure.map_or(0, |closure| closure.size / 40);
        loop {
            if let Some(closure) = references.closure.filter(|_| at < listed) {
                let next = listed.min(at + PAGE as u64);
                match self.store.read_part(space, &closure, 40 * at..40 * next).await {
                    Ok(bytes) => digests.extend(values::digests_from(&bytes).map_err(StoreError::row(closure))?),
                    // What it refers to is not known, so nothing is freed for certain.
                    Err(StoreError::Lost { .. } | StoreError::NotFound { .. }) => at = listed,
                    Err(error) => return Err(error),
                }
                at = at.max(next);
            }
            if digests.is_empty() {
                return Ok(freed);
            }
            let wanted: Vec<_> =
                digests.iter().flat_map(|digest| [rows::count(space, digest), rows::blob(digest)]).collect();
            let found = self.store.inner.meta.get(&wanted).await?;
            self.pace(wanted.len()).await?;
            let mut blobs = Vec::with_capacity(digests.len());
            for (digest, pair) in digests.drain(..).zip(found.chunks_exact(2)) {
                let Some(stored) = &pair[1] else { continue };
                let stored = values::blob_from(stored.value.clone()).map_err(StoreError::row(digest))?;
                let count = pair[0].as_ref().map_or(Ok(1), |row| values::count_from(row.value.clone()));
                blobs.push((digest, count.map_err(StoreError::row(digest))?, stored.bytes(&digest)));
            }
            freed += shed.take(blobs);
        }
    }

    /// What goes together goes: what each frees is counted first.
    pub(super) async fn go(&mut self, going: BTreeMap<ExecutionId, Going>) -> Result<(), StoreError> {
        let mut shed = Shed::default();
        let mut all: Vec<_> = going.into_values().collect();
        all.sort_by_key(|one| (one.used, one.execution));
        for one in all.iter_mut().filter(|one| !matches!(one.rule, Rule::Quota | Rule::Free)) {
            let row = self.store.inner.meta.get(&[rows::execution(&one.space, one.execution)]).await?.pop().flatten();
            let Some(row) = row else { continue };
            let execution = values::execution_from(row.value).map_err(StoreError::row(one.execution))?;
            one.frees = self.freed_with(&one.space, &execution, &mut shed).await?;
        }
        self.take_away(&all).await?;
        if !self.dry_run && !all.is_empty() {
            self.count().await?;
        }
        Ok(())
    }
}
