//! Counting: how many executions, pins and registrations refer to each blob and spec.
//!
//! Each referrer has a row from the batch on by which it came, until it is counted, and again from the one by which it goes
//! (`provender_core::collect::Tally`). Invariants: a step changes counts and says so in the same batch; what refers to a blob that is
//! answered with has a count or such a row. What one refers to is read from its closure's list, so nobody has to walk trees.

use std::collections::BTreeMap;

use provender_core::batch::{RowKey, Table};
use provender_core::collect::{Due, Idle, Reference, Referrer, Tally, later};
use provender_core::name::Space;
use provender_core::transition::Record;
use provender_core::{Digest, Execution, Timestamp, rows};
use provender_proto::rows as values;

use super::super::{Store, StoreError};
use super::{PAGE, Run};
use crate::clock;
use crate::meta::Scan;

/// How many references one batch counts.
const STEP: u64 = 1_000;
/// After how many it is looked whether that is too fast, and said that the run is alive.
const STEPS: usize = 10;
/// How many referrers are counted at once.
const AT_ONCE: usize = 8;

/// What a referrer that is under way stands under, in counts.
struct Step {
    from: u64,
    many: u64,
    keys: Vec<(RowKey, Option<Digest>)>,
}

impl Run<'_> {
    /// Counts, or takes back, whatever is to be counted by now.
    pub(super) async fn count(&mut self) -> Result<(), StoreError> {
        let mut scan = Scan { limit: PAGE, ..Scan::prefix(Table::Tally, "") };
        loop {
            let page = self.store.inner.meta.scan(&scan).await?;
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            let rest = self.count_together(page.rows).await?;
            for pieces in rest.chunks(AT_ONCE) {
                let mut under_way = Vec::with_capacity(pieces.len());
                for (key, row) in pieces {
                    let damaged = || StoreError::Row { what: format!("{key:?}"), why: "it is of no referrer".into() };
                    let (space, referrer) = rows::parse_tally(key).ok_or_else(damaged)?;
                    let tally = values::tally_from(row.value.clone()).map_err(StoreError::row(&referrer))?;
                    under_way.push((space, referrer, tally));
                }
                while !under_way.is_empty() {
                    let each = under_way.drain(..).map(|(space, by, tally)| self.store.settle_tally(space, by, tally));
                    for settled in futures::future::join_all(each.collect::<Vec<_>>()).await {
                        match settled? {
                            Settled::Counted(rows) => {
                                self.done.counted += 1;
                                self.pace(rows).await?;
                            }
                            Settled::UnderWay { space, referrer, tally, rows } => {
                                self.pace(rows).await?;
                                under_way.push((space, referrer, tally));
                            }
                            Settled::Unreadable { space, execution, why, rows } => {
                                self.done.counted += 1;
                                self.pace(rows).await?;
                                self.give_up(&space, *execution, why).await?;
                            }
                        }
                    }
                }
            }
            if !page.more {
                return Ok(());
            }
        }
    }

    /// An execution whose list cannot be read is LOST to everybody. It goes, since what it refers to cannot be kept.
    async fn give_up(&mut self, space: &Space, execution: Execution, why: String) -> Result<(), StoreError> {
        let rule = provender_core::collect::rules::Rule::Lost;
        let reason = format!("the list of the blobs that it refers to cannot be read ({why}), so it could not be kept");
        tracing::error!(execution = %execution.id, key = %execution.key, "{reason}; it is collected");
        let going = self.store.going(space, &execution, true, execution.ended.unwrap_or_default(), rule, reason, None);
        self.take_away(&[going]).await
    }
}

/// What became of a referrer.
enum Settled {
    /// It is through, having read and written so many rows.
    Counted(usize),
    /// It is one of many references, and is to be gone on with.
    UnderWay { space: Space, referrer: Referrer, tally: Tally, rows: usize },
    /// An execution's list is gone for good.
    Unreadable { space: Space, execution: Box<Execution>, why: String, rows: usize },
}

impl Store {
    /// Goes on with one referrer until it is through, or for a while.
    async fn settle_tally(&self, space: Space, referrer: Referrer, mut tally: Tally) -> Result<Settled, StoreError> {
        let mut rows = 0;
        if let Some(gone) = tally.gone.take() {
            rows += self.erase(&space, &gone).await?;
        }
        let mut tally = self.complete_execution(&space, &referrer, tally).await?;
        for _ in 0..STEPS {
            let step = match self.next_step(&space, &tally).await {
                Ok(step) => step,
                Err(error @ (StoreError::Lost { .. } | StoreError::NotFound { .. })) => {
                    return self.unreadable(space, referrer, &tally, error, rows).await;
                }
                Err(error) => return Err(error),
            };
            rows += 2 * step.keys.len() + 2;
            match self.count_step(&space, &referrer, &tally, &step).await? {
                Some(next) => tally = next,
                None => return Ok(Settled::Counted(rows)),
            }
        }
        Ok(Settled::UnderWay { space, referrer, tally, rows })
    }

    /// The counts that are next.
    async fn next_step(&self, space: &Space, tally: &Tally) -> Result<Step, StoreError> {
        let (from, many) = tally.next(STEP);
        let (mut keys, mut listed) = (Vec::with_capacity(many as usize), Vec::new());
        for at in from..from + many {
            match tally.references.at(at) {
                Some(Reference::Spec(spec)) => keys.push((rows::spec_count(space, &spec), None)),
                Some(Reference::Blob(blob)) => keys.push((rows::count(space, &blob), Some(blob))),
                Some(Reference::Listed(place)) => listed.push(place),
                None => {}
            }
        }
        if let (Some(closure), Some(first), Some(last)) = (&tally.references.closure, listed.first(), listed.last()) {
            let bytes = self.read_part(space, closure, 40 * first..40 * (last + 1)).await?;
            for digest in values::digests_from(&bytes).map_err(StoreError::row(closure))? {
                keys.push((rows::count(space, &digest), Some(digest)));
            }
        }
        Ok(Step { from, many, keys })
    }

    /// Carries out a step; what is left to do, if anything. A referrer that has turned round meanwhile is gone on with as it is now.
    async fn count_step(
        &self,
        space: &Space,
        referrer: &Referrer,
        was: &Tally,
        step: &Step,
    ) -> Result<Option<Tally>, StoreError> {
        self.transact(|mut txn| async move {
            let place = rows::tally(space, referrer);
            let Some(row) = txn.get_one(place.clone()).await? else { return Ok((txn, None)) };
            let tally = values::tally_from(row.value).map_err(StoreError::row(referrer))?;
            if (tally.adds, tally.done) != (was.adds, was.done) || tally.next(STEP) != (step.from, step.many) {
                return Ok((txn, Some(tally)));
            }
            let keys: Vec<_> = step.keys.iter().map(|(key, _)| key.clone()).collect();
            let mut counts = BTreeMap::new();
            for ((key, blob), row) in step.keys.iter().zip(txn.get(&keys).await?) {
                let count =
                    row.map_or(Ok(0), |row| values::count_from(row.value)).map_err(StoreError::row("a count"))?;
                // The same blob may be referred to twice.
                counts.entry(key).or_insert((count, *blob)).0 = count;
            }
            for (key, _) in &step.keys {
                if let Some((count, _)) = counts.get_mut(key) {
                    *count = if tally.adds { *count + 1 } else { count.saturating_sub(1) };
                }
            }
            let now = clock::now();
            let mut idle = Vec::new();
            for (key, (count, blob)) in counts {
                if count > 0 {
                    txn.put(key.clone(), values::count_to(count));
                    continue;
                }
                txn.delete(key.clone());
                match (blob, tally.references.spec) {
                    (Some(blob), _) => idle.push(blob),
                    (None, Some(spec)) => txn.put(rows::due(space, now, &Due::Spec(spec)), ""),
                    (None, None) => {}
                }
            }
            // Whoever relied on the referrer has had the time for that; whether somebody has relied on a blob itself, its holding says.
            txn.idle(space, Timestamp::MIN, Idle::Left, &idle);
            let next = Tally { gone: None, ..tally.after(step.many) };
            if !next.is_through() {
                txn.put(place, values::tally_to(&next));
                return Ok((txn, Some(next)));
            }
            txn.delete(place);
            if let (Referrer::Execution(id), true) = (referrer, next.adds) {
                self.schedule(&mut txn, space, *id).await?;
            }
            Ok((txn, None))
        })
        .await
    }

    /// An execution that is counted takes its place by its time, and where rules will look at it.
    pub(super) async fn schedule(
        &self,
        txn: &mut super::super::Txn,
        space: &Space,
        id: provender_core::ExecutionId,
    ) -> Result<(), StoreError> {
        let row = txn.get_one(rows::execution(space, id)).await?;
        let Some(row) = row else { return Ok(()) };
        let execution = values::execution_from(row.value).map_err(StoreError::row(format!("execution {id}")))?;
        let (ended, how) = (execution.ended.unwrap_or_default(), self.collection());
        txn.put(rows::aged(space, ended, id), "");
        self.schedule_by_rules(txn, space, &execution, ended, how);
        Ok(())
    }

    /// The same, as far as rules are concerned. Its name is to be looked at from a time on.
    pub(super) fn schedule_by_rules(
        &self,
        txn: &mut super::super::Txn,
        space: &Space,
        execution: &Execution,
        names_at: Timestamp,
        how: &super::Collection,
    ) {
        let Some(keep) = how.rules.of(execution.name.as_str()) else { return };
        let ended = execution.ended.unwrap_or_default();
        let succeeded = execution.state == provender_core::execution::State::Succeeded;
        // A success may be no record, and then is kept as what failed is.
        let within = [keep.failed_within, keep.used_within.filter(|_| succeeded)].into_iter().flatten().min();
        if let Some(within) = within {
            let at = later(ended, within.max(how.protect));
            txn.put(rows::due(space, at, &Due::Execution(execution.id)), "");
        }
        if succeeded && keep.latest.is_some() {
            txn.put(rows::due(space, names_at, &Due::Name(execution.name.clone())), "");
        }
    }

    /// Has the rules look at the execution of a record that is none any more: from now on they say something else of it.
    pub(in crate::store) fn look_again(&self, txn: &mut super::super::Txn, space: &Space, of: &Record, now: Timestamp) {
        txn.put(rows::due(space, now, &Due::Execution(of.execution)), "");
    }

    /// A list is gone. What was not counted of it need not be; what was stays counted, since nobody knows what it is.
    async fn unreadable(
        &self,
        space: Space,
        referrer: Referrer,
        tally: &Tally,
        error: StoreError,
        rows: usize,
    ) -> Result<Settled, StoreError> {
        match &referrer {
            Referrer::Execution(id) if tally.adds => {
                let execution = Box::new(self.execution(&space, *id).await?);
                if self.heal_list(&space, &execution).await? {
                    tracing::info!(%referrer, "the list of what it refers to was lost and is made anew");
                    return Ok(Settled::UnderWay { space, referrer, tally: tally.clone(), rows });
                }
                Ok(Settled::Unreadable { space, execution, why: error.to_string(), rows })
            }
            _ if tally.adds => {
                tracing::error!(%referrer, "what it keeps cannot be made out: {error}; nothing is swept until it is removed or healed");
                Err(error)
            }
            _ => {
                tracing::warn!(%referrer, counted = tally.done, "what it referred to cannot be made out any more and stays: {error}");
                self.transact(|mut txn| {
                    txn.delete(rows::tally(&space, &referrer));
                    async move { Ok((txn, ())) }
                })
                .await?;
                Ok(Settled::Counted(rows))
            }
        }
    }
}
