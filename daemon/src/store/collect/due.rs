//! What the rules for names say of what is due.
//!
//! Rows stand by the time at which something is to be looked at, so what is not due costs nothing. Such a row says no more than when to
//! look; what it says of is looked at then, and moved on if it was used since. Invariant: a dry run chooses what a run would.

use std::collections::{BTreeMap, HashSet};

use provender_core::batch::{RowKey, Table};
use provender_core::collect::rules::{Judgement, Rule, Subject};
use provender_core::collect::{Due, later};
use provender_core::name::{Name, Space};
use provender_core::{Digest, ExecutionId, Timestamp, rows};
use provender_proto::rows as values;

use super::super::{Store, StoreError};
use super::look::Looked;
use super::{Going, PAGE, Run, TOGETHER};
use crate::clock;
use crate::meta::Scan;

/// How many are looked at together.
const LOOKS: usize = 200;
/// How many successes of a name in a row are looked at that stay for now, although there are enough newer ones.
const BEYOND: usize = 1_000;
/// The fact of which rules the rows that are due were made by.
const RULES: &str = "rules";

/// What a run has found to be due, and not dealt with yet.
#[derive(Default)]
struct Found {
    going: BTreeMap<ExecutionId, Going>,
    specs: Vec<(Space, Digest, RowKey)>,
    /// Rows that say when to look: those that have said so, and new ones.
    done: Vec<RowKey>,
    next: Vec<RowKey>,
    /// Names that were looked at in this run.
    names: HashSet<(Space, Name)>,
}

impl Run<'_> {
    /// What is due goes, stays until later, or stays for good.
    pub(super) async fn by_rules(&mut self) -> Result<(), StoreError> {
        self.learn_rules().await?;
        let now = clock::now();
        let mut scan = Scan { limit: LOOKS, ..Scan::prefix(Table::Due, rows::timed_prefix()) };
        let mut found = Found::default();
        loop {
            let page = self.store.inner.meta.scan(&scan).await?;
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            let mut dues = Vec::with_capacity(page.rows.len());
            for (key, _) in page.rows {
                let damaged = || StoreError::Row { what: format!("{key:?}"), why: "it is of no time".into() };
                let (at, space, due) = rows::parse_due(&key).ok_or_else(damaged)?;
                dues.push((at, space, due, RowKey { table: Table::Due, key }));
            }
            let is_due = dues.partition_point(|(at, ..)| *at <= now);
            let is_last = is_due < dues.len() || !page.more;
            dues.truncate(is_due);
            self.look_at(dues, now, &mut found).await?;
            let (done, next) = (std::mem::take(&mut found.done), std::mem::take(&mut found.next));
            if !self.dry_run {
                self.store.replace(done, next).await?;
            }
            if found.specs.len() >= TOGETHER || is_last {
                self.drop_specs(&mut found.specs).await?;
            }
            if found.going.len() >= TOGETHER || is_last {
                self.go(std::mem::take(&mut found.going)).await?;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    async fn look_at(
        &mut self,
        dues: Vec<(Timestamp, Space, Due, RowKey)>,
        now: Timestamp,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        let executions = dues.iter().filter_map(|(_, space, due, _)| match due {
            Due::Execution(id) => Some((space.clone(), *id)),
            _ => None,
        });
        let mut looked = self.look_all(&executions.collect::<Vec<_>>()).await?.into_iter();
        self.pace(2 * dues.len()).await?;
        for (_, space, due, row) in dues {
            match due {
                Due::Execution(_) => match looked.next().flatten() {
                    Some(looked) => {
                        let newer = self.newer(&space, &looked).await?;
                        self.judge(&space, looked, newer, Some(row), now, found).await?;
                    }
                    None => found.done.push(row),
                },
                Due::Pin(id) if !self.dry_run => self.store.end_pin(&space, id, now, row).await?,
                Due::Pin(_) => {}
                Due::Name(name) => {
                    if found.names.insert((space.clone(), name.clone())) {
                        self.judge_name(&space, &name, now, found).await?;
                    }
                    found.done.push(row);
                }
                Due::Spec(spec) => found.specs.push((space, spec, row)),
            }
        }
        Ok(())
    }

    /// The successes of a name beyond those that it keeps.
    async fn judge_name(
        &mut self,
        space: &Space,
        name: &Name,
        now: Timestamp,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        let mut scan = Scan { limit: LOOKS, ..Scan::prefix(Table::NameRecord, rows::by_name_prefix(space, name)) };
        let (mut newer, mut stay) = (0, 0);
        let latest = self.how.rules.of(name.as_str()).and_then(|keep| keep.latest).unwrap_or(u64::MAX);
        loop {
            let page = self.store.inner.meta.scan(&scan).await?;
            let ids = page.rows.iter().filter_map(|(key, _)| rows::trailing_execution(key));
            let asked: Vec<_> = ids.map(|id| (space.clone(), id)).collect();
            for looked in self.look_all(&asked).await?.into_iter().flatten() {
                // Records that are shown under the name, but were made under another, are that one's.
                if !looked.is_record || looked.execution.name != *name {
                    continue;
                }
                newer += 1;
                if newer > latest {
                    let goes = self.judge(space, looked, newer - 1, None, now, found).await?;
                    stay = if goes { 0 } else { stay + 1 };
                }
            }
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                return Ok(());
            }
            if stay >= BEYOND {
                // Behind so many that stay for now it is looked at once they may not any more.
                let again = later(now, self.how.protect);
                found.next.push(rows::due(space, again, &Due::Name(name.clone())));
                return Ok(());
            }
        }
    }

    /// How many newer successes an execution's name has, as far as that matters.
    async fn newer(&mut self, space: &Space, of: &Looked) -> Result<u64, StoreError> {
        let keep = self.how.rules.of(of.execution.name.as_str());
        let Some(latest) = keep.and_then(|keep| keep.latest).filter(|_| of.is_record) else { return Ok(0) };
        let prefix = rows::by_name_prefix(space, &of.execution.name);
        // About as many as matter, and one more.
        let limit = usize::try_from(latest).unwrap_or(LOOKS).clamp(10, LOOKS) + 1;
        let mut scan = Scan { limit, ..Scan::prefix(Table::NameRecord, prefix) };
        let mut newer = 0;
        loop {
            let page = self.store.inner.meta.scan(&scan).await?;
            let ids = page.rows.iter().filter_map(|(key, _)| rows::trailing_execution(key));
            let before: Vec<_> = ids.take_while(|id| *id != of.execution.id).map(|id| (space.clone(), id)).collect();
            let is_there = before.len() < page.rows.len();
            for other in self.look_all(&before).await?.into_iter().flatten() {
                newer += u64::from(other.is_record && other.execution.name == of.execution.name);
            }
            if is_there || newer >= latest {
                return Ok(newer);
            }
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                return Ok(newer);
            }
        }
    }

    /// Whether it goes.
    async fn judge(
        &mut self,
        space: &Space,
        looked: Looked,
        newer: u64,
        row: Option<RowKey>,
        now: Timestamp,
        found: &mut Found,
    ) -> Result<bool, StoreError> {
        let Looked { execution, is_record, used, evicted } = &looked;
        let subject = match is_record {
            true => Subject::Record { used: *used, newer },
            false => Subject::Other { ended: *used },
        };
        let mut judged = match evicted {
            Some(_) => Judgement::Goes(Rule::Evicted),
            None => self.how.rules.judge(execution.name.as_str(), subject, self.how.protect, now),
        };
        if matches!(judged, Judgement::Goes(_))
            && *is_record
            && self.store.is_pinned(&self.pins, space, execution).await?
        {
            judged = Judgement::Until(later(now, self.how.protect));
        }
        match judged {
            Judgement::Goes(rule) => {
                let reason = evicted.clone().unwrap_or_else(|| self.reason(rule, &looked, newer, now));
                let one = self.store.going(space, execution, *is_record, *used, rule, reason, row);
                self.chosen.extend(self.dry_run.then_some(execution.id));
                found.going.insert(execution.id, one);
                return Ok(true);
            }
            Judgement::Until(at) => {
                found.next.push(rows::due(space, at, &Due::Execution(execution.id)));
                found.done.extend(row);
            }
            Judgement::Stays => found.done.extend(row),
        }
        Ok(false)
    }

    /// Where rules have changed, everything that has ended is looked at by the new ones; before a dry run as well, since that takes nothing
    /// away.
    async fn learn_rules(&mut self) -> Result<(), StoreError> {
        let text = self.how.rules.text();
        let known = super::super::fact(&*self.store.inner.meta, RULES).await?;
        if known.as_deref().unwrap_or("[]") == text {
            return Ok(());
        }
        let mut scan = Scan { limit: PAGE, ..Scan::prefix(Table::Aged, rows::timed_prefix()) };
        loop {
            let page = self.store.inner.meta.scan(&scan).await?;
            let mut wanted = Vec::with_capacity(page.rows.len());
            for (key, _) in &page.rows {
                let damaged = || StoreError::Row { what: format!("{key:?}"), why: "it is of no time".into() };
                let (_, space, id) = rows::parse_aged(key).ok_or_else(damaged)?;
                wanted.push((rows::execution(&space, id), space));
            }
            let keys: Vec<_> = wanted.iter().map(|(key, _)| key.clone()).collect();
            let found = self.store.inner.meta.get(&keys).await?;
            let mut executions = Vec::new();
            for ((_, space), row) in wanted.into_iter().zip(found) {
                let Some(row) = row else { continue };
                executions.push((space, values::execution_from(row.value).map_err(StoreError::row("an execution"))?));
            }
            let (executions, how) = (&executions, &self.how);
            self.store
                .transact(|mut txn| {
                    for (space, execution) in executions {
                        // Each name once.
                        self.store.schedule_by_rules(&mut txn, space, execution, Timestamp::MIN, how);
                    }
                    async move { Ok((txn, ())) }
                })
                .await?;
            self.pace(3 * page.rows.len()).await?;
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                break;
            }
        }
        self.store
            .transact(|mut txn| {
                txn.put(rows::store(RULES), text.clone());
                async move { Ok((txn, ())) }
            })
            .await
    }
}

impl Store {
    /// Rows that say when to look at something give way to others.
    pub(super) async fn replace(&self, done: Vec<RowKey>, next: Vec<RowKey>) -> Result<(), StoreError> {
        if done.len() + next.len() == 0 {
            return Ok(());
        }
        let (done, next) = (&done, &next);
        self.transact(|mut txn| async move {
            done.iter().for_each(|row| txn.delete(row.clone()));
            next.iter().for_each(|row| txn.put(row.clone(), ""));
            Ok((txn, ()))
        })
        .await
    }
}
