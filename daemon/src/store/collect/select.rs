//! Choosing what goes: by the rules for names what is due, for want of room what was used least recently.
//!
//! Both go through rows that stand by time, so what is not due costs nothing. Such a row says no more than when to look; what it says of is
//! looked at then, and moved on if it was used since. Invariants: a dry run chooses what a run would; memory follows what goes together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use provender_core::batch::{RowKey, Table};
use provender_core::collect::rules::{Judgement, Rule, Subject};
use provender_core::collect::shed::{self, Shed, Want};
use provender_core::collect::{self, Due, References, Referrer, Tally, later};
use provender_core::execution::State;
use provender_core::name::{Name, Space};
use provender_core::{Digest, Execution, ExecutionId, Timestamp, Verdict, rows};
use provender_proto::rows as values;

use super::super::lookup::known_rows;
use super::super::{Store, StoreError};
use super::{Going, PAGE, Run};
use crate::clock;
use crate::meta::Scan;

/// How many go together.
const TOGETHER: usize = 5_000;
/// How many blobs that are shared are remembered of those that go together.
const SHARED: usize = 2_000_000;
/// How many successes of a name are looked through beyond those that it keeps.
const BEYOND: usize = 10_000;
/// How many specs are deleted in one batch.
const SPECS: usize = 500;
/// The fact of which rules the rows that are due were made by.
const RULES: &str = "rules";

/// An execution, and what bears on whether it stays.
struct Looked {
    execution: Execution,
    is_record: bool,
    /// When it was last used, or ended.
    used: Timestamp,
    /// The rule and reason by which its record was evicted by hand.
    evicted: Option<String>,
    pinned: bool,
}

impl Run<'_> {
    /// What is due goes, stays until later, or stays for good.
    pub(super) async fn by_rules(&mut self) -> Result<(), StoreError> {
        self.learn_rules().await?;
        let now = clock::now();
        let mut scan = Scan { limit: PAGE, ..Scan::prefix(Table::Due, rows::timed_prefix()) };
        let (mut going, mut specs) = (BTreeMap::new(), Vec::new());
        loop {
            let page = self.store.inner.meta.scan(&scan).await?;
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            let mut through = !page.more;
            for (key, _) in page.rows {
                let damaged = || StoreError::Row { what: format!("{key:?}"), why: "it is of no time".into() };
                let (at, space, due) = rows::parse_due(&key).ok_or_else(damaged)?;
                if at > now {
                    through = true;
                    break;
                }
                let row = RowKey { table: Table::Due, key };
                self.due(&space, due, row, now, &mut going, &mut specs).await?;
                self.pace(6).await?;
                if going.len() >= TOGETHER {
                    self.go(std::mem::take(&mut going)).await?;
                }
                if specs.len() >= TOGETHER {
                    self.drop_specs(&mut specs).await?;
                }
            }
            if through {
                break;
            }
        }
        self.drop_specs(&mut specs).await?;
        self.go(going).await
    }

    async fn due(
        &mut self,
        space: &Space,
        due: Due,
        row: RowKey,
        now: Timestamp,
        going: &mut BTreeMap<ExecutionId, Going>,
        specs: &mut Vec<(Space, Digest, RowKey)>,
    ) -> Result<(), StoreError> {
        match due {
            Due::Execution(id) => match self.look(space, id, now).await? {
                Some(looked) => {
                    let newer = self.newer(space, &looked, now).await?;
                    self.judge(space, looked, newer, Some(row), now, going).await
                }
                None => self.drop_row(row).await,
            },
            Due::Pin(id) => {
                if !self.dry_run {
                    self.store.end_pin(space, id, now, row).await?;
                }
                Ok(())
            }
            Due::Name(name) => {
                self.judge_name(space, &name, now, going).await?;
                self.drop_row(row).await
            }
            Due::Spec(spec) => {
                specs.push((space.clone(), spec, row));
                Ok(())
            }
        }
    }

    async fn drop_specs(&mut self, specs: &mut Vec<(Space, Digest, RowKey)>) -> Result<(), StoreError> {
        let specs = std::mem::take(specs);
        if self.dry_run {
            return Ok(());
        }
        self.pace(4 * specs.len()).await?;
        self.store.drop_specs(&specs).await
    }

    async fn drop_row(&self, row: RowKey) -> Result<(), StoreError> {
        if self.dry_run {
            return Ok(());
        }
        self.store.delete_rows(&[row]).await
    }

    /// The successes of a name beyond those that it keeps.
    async fn judge_name(
        &mut self,
        space: &Space,
        name: &Name,
        now: Timestamp,
        going: &mut BTreeMap<ExecutionId, Going>,
    ) -> Result<(), StoreError> {
        let mut scan = Scan { limit: 100, ..Scan::prefix(Table::NameRecord, rows::by_name_prefix(space, name)) };
        let (mut newer, mut looked_at) = (0, 0);
        let latest = self.how.rules.of(name.as_str()).and_then(|keep| keep.latest).unwrap_or(u64::MAX);
        loop {
            let page = self.store.inner.meta.scan(&scan).await?;
            for (key, _) in &page.rows {
                let Some(id) = rows::trailing_execution(key) else { continue };
                let Some(looked) = self.look(space, id, now).await? else { continue };
                self.pace(5).await?;
                // Records that are shown under the name, but were made under another, are that one's.
                if !looked.is_record || looked.execution.name != *name {
                    continue;
                }
                newer += 1;
                if newer > latest {
                    looked_at += 1;
                    self.judge(space, looked, newer - 1, None, now, going).await?;
                }
            }
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more || looked_at >= BEYOND {
                return Ok(());
            }
        }
    }

    /// How many newer successes an execution's name has, as far as that matters.
    async fn newer(&self, space: &Space, of: &Looked, now: Timestamp) -> Result<u64, StoreError> {
        let keep = self.how.rules.of(of.execution.name.as_str());
        let Some(latest) = keep.and_then(|keep| keep.latest).filter(|_| of.is_record) else { return Ok(0) };
        let prefix = rows::by_name_prefix(space, &of.execution.name);
        let mut scan = Scan { limit: 100, ..Scan::prefix(Table::NameRecord, prefix) };
        let mut newer = 0;
        loop {
            let page = self.store.inner.meta.scan(&scan).await?;
            for (key, _) in &page.rows {
                let Some(id) = rows::trailing_execution(key) else { continue };
                if id == of.execution.id || newer >= latest {
                    return Ok(newer);
                }
                let looked = self.look(space, id, now).await?;
                newer += u64::from(looked.is_some_and(|it| it.is_record && it.execution.name == of.execution.name));
            }
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                return Ok(newer);
            }
        }
    }

    async fn judge(
        &mut self,
        space: &Space,
        looked: Looked,
        newer: u64,
        row: Option<RowKey>,
        now: Timestamp,
        going: &mut BTreeMap<ExecutionId, Going>,
    ) -> Result<(), StoreError> {
        let Looked { execution, is_record, used, evicted, pinned } = &looked;
        let subject = match is_record {
            true => Subject::Record { used: *used, newer },
            false => Subject::Other { ended: *used },
        };
        let name = execution.name.as_str();
        let judged = match (evicted, pinned) {
            (_, true) => Judgement::Until(later(now, self.how.protect)),
            (Some(_), false) => Judgement::Goes(Rule::Evicted),
            (None, false) => self.how.rules.judge(name, subject, self.how.protect, now),
        };
        match judged {
            Judgement::Goes(rule) => {
                let reason = evicted.clone().unwrap_or_else(|| self.reason(rule, &looked, newer, now));
                let one = self.store.going(space, execution, *is_record, *used, rule, reason, row);
                self.chosen.extend(self.dry_run.then_some(execution.id));
                going.insert(execution.id, one);
                Ok(())
            }
            _ if self.dry_run => Ok(()),
            Judgement::Until(at) => {
                let place = rows::due(space, at, &Due::Execution(execution.id));
                self.store
                    .transact(|mut txn| {
                        row.iter().for_each(|row| txn.delete(row.clone()));
                        txn.put(place.clone(), "");
                        async move { Ok((txn, ())) }
                    })
                    .await
            }
            Judgement::Stays => match row {
                Some(row) => self.drop_row(row).await,
                None => Ok(()),
            },
        }
    }

    fn reason(&self, rule: Rule, looked: &Looked, newer: u64, now: Timestamp) -> String {
        let keep = self.how.rules.of(looked.execution.name.as_str());
        let of = match keep.map(|keep| keep.prefix.as_str()) {
            None | Some("") => "all names".to_owned(),
            Some(prefix) => format!("names at or below {prefix}"),
        };
        let time = |time: Option<Duration>| time.unwrap_or_default().as_secs();
        let why = match rule {
            Rule::Latest => format!(
                "there are {newer} newer successes of {}, and of {of} {} are kept",
                looked.execution.name,
                keep.and_then(|keep| keep.latest).unwrap_or_default()
            ),
            Rule::Unused => format!(
                "it was last used at {}, and of {of} what was not used for {} s is not kept",
                looked.used,
                time(keep.and_then(|keep| keep.used_within))
            ),
            Rule::Failed => format!(
                "it ended at {} and is no success to answer with, and of {of} such are kept for {} s",
                looked.used,
                time(keep.and_then(|keep| keep.failed_within))
            ),
            Rule::Quota => {
                format!("more was stored than the quota allows, and it was the least recently used, at {}", looked.used)
            }
            Rule::Free => format!("the disk was nearly full, and it was the least recently used, at {}", looked.used),
            // These come with reasons of their own.
            Rule::Lost | Rule::Evicted => String::new(),
        };
        format!("collected at {now} by the rule `{rule}`: {why}")
    }

    /// An execution and what bears on it; `None` if it is gone, or has not ended.
    async fn look(&self, space: &Space, id: ExecutionId, now: Timestamp) -> Result<Option<Looked>, StoreError> {
        let meta = &self.store.inner.meta;
        let Some(row) = meta.get(&[rows::execution(space, id)]).await?.pop().flatten() else { return Ok(None) };
        let execution = values::execution_from(row.value).map_err(StoreError::row(format!("execution {id}")))?;
        if execution.state == State::Running {
            return Ok(None);
        }
        let [key, lease] = known_rows(space, &execution.key);
        let found = meta.get(&[key, lease, rows::used(space, &execution.key)]).await?;
        let known = super::super::lookup::decode_known(&execution.key, &found[..2])?;
        let is_record = collect::is_record(&known, &execution);
        let mut used = execution.ended.unwrap_or_default();
        if let (true, Some(row)) = (is_record, &found[2]) {
            used = used.max(values::holding_from(row.value.clone()).map_err(StoreError::row(&execution.key))?);
        }
        let record = known.row.record.as_ref().filter(|record| record.execution == id);
        let void = record.and_then(|record| record.void.as_ref()).filter(|void| void.verdict == Verdict::Evicted);
        let evicted = void.map(|void| void.reason.clone());
        let pinned = is_record && self.pins.keeps(space, &execution.key, &execution.name, now);
        Ok(Some(Looked { execution, is_record, used, evicted, pinned }))
    }

    /// What is used least recently goes while too much is stored.
    pub(super) async fn by_room(&mut self, horizon: Timestamp) -> Result<(), StoreError> {
        let asked = self.store.inner.collecting.room.asked();
        let (limits, room) = self.store.room().await?;
        if limits.wants(shed::Room { asked, ..room }, 0).is_none() {
            return Ok(());
        }
        // What goes already is not asked for twice; of what a dry run has chosen by rules that is so as well.
        let mut leaving = self.leaving().await? + if self.dry_run { self.done.frees } else { 0 };
        let mut scan = Scan { limit: PAGE, ..Scan::prefix(Table::Aged, rows::timed_prefix()) };
        let mut shed = Shed::default();
        loop {
            let (limits, room) = self.store.room().await?;
            let room = shed::Room { asked, ..room };
            let Some(want) = limits.wants(room, leaving) else { return Ok(()) };
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
            for (key, _) in &page.rows {
                let damaged = || StoreError::Row { what: format!("{key:?}"), why: "it is of no time".into() };
                let (at, space, id) = rows::parse_aged(key).ok_or_else(damaged)?;
                // All behind it were used later still.
                if at >= collect::ago(now, self.how.protect) {
                    return Ok(going);
                }
                let row = RowKey { table: Table::Aged, key: key.clone() };
                scan.after = Some(key.clone());
                self.pace(5).await?;
                if self.chosen.contains(&id) {
                    continue;
                }
                let Some(looked) = self.look(&space, id, now).await? else {
                    self.drop_row(row).await?;
                    continue;
                };
                let since = if looked.pinned { now } else { looked.used };
                if since > at {
                    self.move_on(&space, id, row, since).await?;
                    continue;
                }
                let mut one = self.store.going(
                    &space,
                    &looked.execution,
                    looked.is_record,
                    looked.used,
                    rule,
                    self.reason(rule, &looked, 0, now),
                    Some(row),
                );
                one.frees = self.freed_with(&space, &looked.execution, shed).await?;
                freed += one.frees;
                going.insert(id, one);
                if freed >= want.bytes() || going.len() >= TOGETHER || shed.remembered() >= SHARED {
                    return Ok(going);
                }
            }
            if !page.more {
                return Ok(going);
            }
        }
    }

    /// It was used later than its row says.
    async fn move_on(&self, space: &Space, id: ExecutionId, row: RowKey, since: Timestamp) -> Result<(), StoreError> {
        if self.dry_run {
            return Ok(());
        }
        let place = rows::aged(space, since, id);
        self.store
            .transact(|mut txn| {
                txn.delete(row.clone());
                txn.put(place.clone(), "");
                async move { Ok((txn, ())) }
            })
            .await
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
    async fn go(&mut self, going: BTreeMap<ExecutionId, Going>) -> Result<(), StoreError> {
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

    /// Where rules have changed, everything that has ended is looked at by the new ones.
    async fn learn_rules(&mut self) -> Result<(), StoreError> {
        let text = self.how.rules.text();
        let known = super::super::fact(&*self.store.inner.meta, RULES).await?;
        if known.as_deref().unwrap_or("[]") == text || self.dry_run {
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
                        self.store.schedule_by_rules(&mut txn, space, execution, how);
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
    /// Removes a pin of a blob or tree that has ended, and what stands for it by time.
    async fn end_pin(&self, space: &Space, id: [u8; 16], now: Timestamp, due: RowKey) -> Result<(), StoreError> {
        let (due, id) = (&due, &id);
        self.transact(|mut txn| async move {
            txn.delete(due.clone());
            let row = rows::pin(space, id);
            let Some(there) = txn.get_one(row.clone()).await? else { return Ok((txn, ())) };
            let pin = values::pin_from(there.value).map_err(StoreError::row("a pin"))?;
            match pin.expires {
                Some(expires) if expires > now => txn.put(rows::due(space, expires, &Due::Pin(*id)), ""),
                None => {}
                Some(_) => self.uncount_pin(&mut txn, space, id, &pin).await?,
            }
            Ok((txn, ()))
        })
        .await
    }

    /// Has what a pin refers to uncounted, in the batch by which it goes.
    pub(in crate::store) async fn uncount_pin(
        &self,
        txn: &mut super::super::Txn,
        space: &Space,
        id: &[u8; 16],
        pin: &provender_core::blob::Pin,
    ) -> Result<(), StoreError> {
        let place = rows::tally(space, &Referrer::Pin(*id));
        let tally = txn.get_one(place.clone()).await?.map(|row| values::tally_from(row.value)).transpose();
        let tally = tally.map_err(StoreError::row("a pin"))?;
        txn.put(place, values::tally_to(&Tally::end(pin.references(), tally.as_ref())));
        txn.delete(rows::pin(space, id));
        Ok(())
    }

    /// Deletes specs that nothing has any more.
    async fn drop_specs(&self, specs: &[(Space, Digest, RowKey)]) -> Result<(), StoreError> {
        if specs.is_empty() {
            return Ok(());
        }
        let places: Vec<_> = specs.iter().map(|(space, spec, _)| rows::spec(space, spec)).collect();
        let there = self.inner.meta.get(&places).await?;
        // In this order: whoever begins with one from now on writes it anew, whoever had begun before is found here, and whoever has ended
        // is to be counted, or has been.
        let run = self.specs_that_run().await?;
        if !self.inner.meta.scan(&Scan { limit: 1, ..Scan::prefix(Table::Tally, "") }).await?.rows.is_empty() {
            // They are looked at again by the next run.
            return Ok(());
        }
        for (specs, there) in specs.chunks(SPECS).zip(there.chunks(SPECS)) {
            let run = &run;
            self.transact(|mut txn| async move {
                let each =
                    specs.iter().flat_map(|(space, spec, _)| [rows::spec(space, spec), rows::spec_count(space, spec)]);
                let found = txn.get(&each.collect::<Vec<_>>()).await?;
                for (((space, spec, due), there), pair) in specs.iter().zip(there).zip(found.chunks_exact(2)) {
                    let is_same = pair[0].as_ref().map(|row| row.version) == there.as_ref().map(|row| row.version);
                    if run.contains(&(space.clone(), *spec)) || !is_same {
                        continue;
                    }
                    if pair[1].is_none() {
                        txn.delete(rows::spec(space, spec));
                    }
                    txn.delete(due.clone());
                }
                Ok((txn, ()))
            })
            .await?;
        }
        Ok(())
    }

    /// The specs that somebody runs now.
    async fn specs_that_run(&self) -> Result<BTreeSet<(Space, Digest)>, StoreError> {
        let (mut scan, mut specs) = (Scan::prefix(Table::Lease, ""), BTreeSet::new());
        loop {
            let page = self.inner.meta.scan(&scan).await?;
            let mut wanted = Vec::with_capacity(page.rows.len());
            for (key, row) in &page.rows {
                let Some((space, key)) = rows::parse_key(key) else { continue };
                let lease = values::lease_from(row.value.clone()).map_err(StoreError::row(&key))?;
                wanted.push((rows::execution(&space, lease.execution), space));
            }
            let keys: Vec<_> = wanted.iter().map(|(key, _)| key.clone()).collect();
            for ((_, space), row) in wanted.into_iter().zip(self.inner.meta.get(&keys).await?) {
                let Some(row) = row else { continue };
                let execution = values::execution_from(row.value).map_err(StoreError::row("an execution that runs"))?;
                specs.insert((space, execution.spec));
            }
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                return Ok(specs);
            }
        }
    }
}
