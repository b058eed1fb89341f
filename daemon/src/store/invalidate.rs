//! Invalidation: what the store is told not to rely on any more, by key, by name, by what is searched for, and all that was made from it; and eviction by hand, of
//! what it is not to keep.
//!
//! Owns [`Invalidation`]. Invariants: what is said of a key was decided and written in one transaction; asked again, it changes
//! nothing more, so one that was cut off is begun again; a dry run reads and decides the same, and writes nothing; memory is bounded
//! by the limit on what is walked to. The rule is [`provender_core::transition::invalidate()`].

mod running;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use bytes::Bytes;
use provender_core::batch::{Table, Version};
use provender_core::execution::State;
use provender_core::key::TaskKey;
use provender_core::name::{Name, Space};
use provender_core::search::Query;
use provender_core::transition::invalidate::{self as rule, Voided};
use provender_core::transition::{self, Cause, Ended, Known};
use provender_core::{Answer, Execution, ExecutionId, Verdict, rows};
use provender_proto::rows as values;

use super::lineage::Walk;
use super::lookup::{decode_known, known_rows};
use super::{Store, StoreError};
use crate::clock;
use crate::meta::Scan;

/// How many keys one transaction changes.
const BATCH: usize = 50;

/// What is to be invalidated, and why.
#[derive(Debug, Clone, Default)]
pub struct Invalidate {
    /// These keys.
    pub keys: Vec<TaskKey>,
    /// The keys whose records stand under these names, and those that are being run under them.
    pub names: Vec<Name>,
    /// The keys whose records were made by executions of which this holds, and those that are being run by such.
    pub query: Option<Query>,
    /// Also the keys of all that was made, over any number of steps, from what those made.
    pub downstream: bool,
    /// Say what would be invalidated, and change nothing.
    pub dry_run: bool,
    /// Who asks, and why.
    pub cause: Cause,
}

/// A part of what an invalidation did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Part {
    /// What became of keys.
    pub entries: Vec<Voided>,
    /// Whether there is more downstream than the limit.
    pub truncated: bool,
}

/// An invalidation under way. Dropped, it stops where it is.
#[derive(Debug)]
pub struct Invalidation {
    store: Store,
    space: Space,
    asked: Invalidate,
    steps: VecDeque<Step>,
    /// Up to where the change feed is known to hold nothing that concerns it.
    since: Option<Version>,
    walk: Walk,
    limit: usize,
    /// The keys that were asked for by themselves, or told of.
    told: HashSet<TaskKey>,
    /// Names under which nothing was found yet, and what was void before under some of them.
    nothing: BTreeSet<Name>,
    void_before: BTreeMap<Name, Verdict>,
}

#[derive(Debug)]
enum Step {
    Keys(Vec<TaskKey>),
    Name(Name, Option<Bytes>),
    Search(Option<Bytes>),
    Down,
    Running(Option<Bytes>),
    /// What has ended since it began.
    Since,
    Names,
}

/// A key, if it is still what it was chosen for.
#[derive(Debug, Clone)]
struct Target {
    key: TaskKey,
    only: Only,
}

#[derive(Debug, Clone, Copy)]
enum Only {
    Any,
    /// If this execution is its record.
    Record(ExecutionId),
    /// If it has no answer, and this execution is at it.
    Holder(ExecutionId),
}

impl Only {
    fn holds(self, known: &Known) -> bool {
        let record = known.row.record.as_ref().map(|record| record.execution);
        match self {
            Only::Any => true,
            Only::Record(id) => record == Some(id),
            Only::Holder(id) => known.answer().is_none() && rule::holder(known) == Some(id),
        }
    }
}

impl Store {
    /// Begins an invalidation that walks to at most `limit` executions; [`Invalidation::next`] carries it out.
    pub fn invalidate(&self, space: &Space, mut asked: Invalidate, limit: usize) -> Invalidation {
        let mut steps = VecDeque::new();
        let (mut seen, mut keys) = (HashSet::new(), std::mem::take(&mut asked.keys));
        keys.retain(|key| seen.insert(key.clone()));
        steps.extend(keys.chunks(BATCH).map(|keys| Step::Keys(keys.to_vec())));
        let nothing: BTreeSet<_> = asked.names.iter().cloned().collect();
        // Who is at it under a name before the records under it: whoever commits in between stands among these.
        if asked.cause.rule.is_none() && (!nothing.is_empty() || asked.query.is_some()) {
            steps.push_back(Step::Running(None));
        }
        steps.extend(nothing.iter().map(|name| Step::Name(name.clone(), None)));
        steps.extend(asked.query.iter().map(|_| Step::Search(None)));
        if asked.downstream {
            steps.extend([Step::Down, Step::Running(None), Step::Since]);
        }
        steps.push_back(Step::Names);
        Invalidation {
            store: self.clone(),
            space: space.clone(),
            walk: self.walk_down(space, limit),
            asked,
            steps,
            since: None,
            limit,
            told: seen,
            nothing,
            void_before: BTreeMap::new(),
        }
    }
}

impl Invalidation {
    /// Goes on, and says what became of keys; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Part>, StoreError> {
        if self.since.is_none() {
            self.since = Some(self.store.inner.meta.head().await?);
        }
        while let Some(step) = self.steps.pop_front() {
            let part = match step {
                Step::Keys(keys) => Part { entries: self.keys(keys).await?, truncated: false },
                Step::Name(name, after) => Part { entries: self.name(name, after).await?, truncated: false },
                Step::Search(cursor) => Part { entries: self.search(cursor).await?, truncated: false },
                Step::Down => self.down().await?,
                Step::Since => Part { entries: self.since().await?, truncated: false },
                Step::Running(after) => Part { entries: self.running(after).await?, truncated: false },
                Step::Names => Part { entries: self.names(), truncated: false },
            };
            self.told.extend(part.entries.iter().filter_map(|entry| entry.key.clone()));
            if self.told.len() > self.limit || part.truncated {
                self.steps.clear();
                return Ok(Some(Part { truncated: true, ..part }));
            }
            if !part.entries.is_empty() {
                return Ok(Some(part));
            }
        }
        Ok(None)
    }

    async fn keys(&mut self, keys: Vec<TaskKey>) -> Result<Vec<Voided>, StoreError> {
        let targets: Vec<_> = keys.into_iter().map(|key| Target { key, only: Only::Any }).collect();
        let voided = self.void(&targets).await?;
        self.root(&targets).await?;
        Ok(voided)
    }

    /// A page of the records under a name.
    async fn name(&mut self, name: Name, after: Option<Bytes>) -> Result<Vec<Voided>, StoreError> {
        let prefix = rows::by_name_prefix(&self.space, &name);
        let scan = Scan { after, limit: BATCH, ..Scan::prefix(Table::NameRecord, prefix) };
        let page = self.store.inner.meta.scan(&scan).await?;
        let ids: Vec<_> = page.rows.iter().filter_map(|(key, _)| rows::trailing_execution(key)).collect();
        let mut executions = self.store.executions(&self.space, &ids).await?;
        let listed = ids.iter().filter_map(|id| executions.remove(id));
        let untold = listed.filter(|execution| !self.told.contains(&execution.key));
        let target = |execution: Execution| Target { only: Only::Record(execution.id), key: execution.key };
        let targets: Vec<_> = untold.map(target).collect();
        let mut voided = self.void(&targets).await?;
        for entry in &voided {
            match entry.record.is_some() {
                true => _ = self.nothing.remove(&name),
                false if matches!(entry.verdict, Verdict::Invalidated | Verdict::Evicted) => {
                    _ = self.void_before.insert(name.clone(), entry.verdict)
                }
                false => {}
            }
        }
        self.root(&targets).await?;
        // What was void before is history.
        voided.retain(|entry| entry.record.is_some() || entry.withdrawn.is_some());
        voided.iter_mut().for_each(|entry| entry.name = Some(name.clone()));
        if page.more {
            let after = page.rows.into_iter().next_back().map(|(key, _)| key);
            self.steps.push_front(Step::Name(name, after));
        }
        Ok(voided)
    }

    /// A page of what is searched for.
    async fn search(&mut self, cursor: Option<Bytes>) -> Result<Vec<Voided>, StoreError> {
        let Some(query) = &self.asked.query else { return Ok(Vec::new()) };
        let (executions, cursor) = self.store.search(&self.space, query, cursor, BATCH).await?;
        let succeeded = executions.into_iter().filter(|execution| execution.state == State::Succeeded);
        let untold = succeeded.filter(|execution| !self.told.contains(&execution.key));
        let target = |execution: Execution| Target { only: Only::Record(execution.id), key: execution.key };
        let targets: Vec<_> = untold.map(target).collect();
        let mut voided = self.void(&targets).await?;
        self.root(&targets).await?;
        // What was made again by another has its own answer; what is void already is told of.
        let void = |verdict| matches!(verdict, Verdict::Invalidated | Verdict::Evicted);
        voided.retain(|entry| entry.record.is_some() || entry.withdrawn.is_some() || void(entry.verdict));
        if cursor.is_some() {
            self.steps.push_front(Step::Search(cursor));
        }
        Ok(voided)
    }

    /// A step further down.
    async fn down(&mut self) -> Result<Part, StoreError> {
        let Some(piece) = self.walk.next().await? else { return Ok(Part::default()) };
        let mut part = Part { truncated: piece.truncated, ..Part::default() };
        let mut targets = Vec::new();
        for node in piece.nodes {
            let (Some(key), Some(id)) = (node.key, node.execution) else { continue };
            if node.state == Some(State::Succeeded) && !self.told.contains(&key) {
                targets.push(Target { key, only: Only::Record(id) });
            }
        }
        for targets in targets.chunks(BATCH) {
            let mut voided = self.void(targets).await?;
            voided.retain(|entry| entry.record.is_some() || entry.withdrawn.is_some());
            voided.iter_mut().for_each(|entry| entry.downstream = true);
            part.entries.extend(voided);
        }
        self.steps.push_front(Step::Down);
        Ok(part)
    }

    /// The names under which nothing was done.
    fn names(&mut self) -> Vec<Voided> {
        let (nothing, void_before) = (std::mem::take(&mut self.nothing), &self.void_before);
        let entry = |name: Name| {
            let (verdict, reason) = match void_before.get(&name) {
                Some(verdict) => (*verdict, "its records were made void before"),
                None => (Verdict::Unknown, "no record stands under this name"),
            };
            let (reason, name) = (reason.to_owned(), Some(name));
            Voided { key: None, name, record: None, withdrawn: None, verdict, reason, downstream: false }
        };
        nothing.into_iter().map(entry).collect()
    }

    /// Has what these keys' records made walked down from.
    async fn root(&mut self, targets: &[Target]) -> Result<(), StoreError> {
        if !self.asked.downstream {
            return Ok(());
        }
        let keys: Vec<_> = targets.iter().map(|target| target.key.clone()).collect();
        let known = self.store.known_of(&self.space, &keys).await?;
        let chosen = targets.iter().zip(&known).filter(|(target, known)| target.only.holds(known));
        for (target, _) in chosen {
            // What its earlier successes made may have been consumed as well.
            let (mut any, mut cursor) = (false, None);
            loop {
                let page = self.store.history(&self.space, Err(&target.key), false, cursor.take(), BATCH).await?;
                for execution in page.0.iter().filter(|execution| execution.state == State::Succeeded) {
                    self.walk.begin_at(&target.key, Some(execution));
                    any = true;
                }
                cursor = page.1;
                if cursor.is_none() {
                    break;
                }
            }
            if !any {
                self.walk.begin_at(&target.key, None);
            }
        }
        Ok(())
    }

    /// Invalidates those of the targets that still are what they were chosen for; what became of each of these.
    async fn void(&self, targets: &[Target]) -> Result<Vec<Voided>, StoreError> {
        if let Some(voided) = self.void_at_once(targets).await? {
            return Ok(voided);
        }
        // Each execution that ends takes a folder, which has to be seen by the next one.
        let mut all = Vec::new();
        for target in targets {
            all.extend(self.void_at_once(std::slice::from_ref(target)).await?.unwrap_or_default());
        }
        Ok(all)
    }

    /// The same in one transaction; `None` if more than one lease would be withdrawn.
    async fn void_at_once(&self, targets: &[Target]) -> Result<Option<Vec<Voided>>, StoreError> {
        let (store, space, asked) = (&self.store, &self.space, &self.asked);
        if targets.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let voided = store
            .transact(|mut txn| async move {
                let now = clock::now();
                let wanted: Vec<_> = targets.iter().flat_map(|target| known_rows(space, &target.key)).collect();
                let (found, lost) = (txn.get(&wanted).await?, store.lost_head().await?);
                let mut chosen = Vec::new();
                for (target, pair) in targets.iter().zip(found.chunks_exact(2)) {
                    let known = decode_known(&target.key, pair)?;
                    // A rerun of what is LOST is no check of an answer.
                    let tested = match target.only {
                        Only::Holder(_) => store.tested_soon(space, &target.key, &known, lost).await,
                        Only::Any | Only::Record(_) => known.clone(),
                    };
                    if target.only.holds(&tested) {
                        chosen.push((&target.key, known));
                    }
                }
                let records = chosen.iter().filter_map(|(_, known)| known.row.record.as_ref());
                let records: Vec<_> = records.map(|record| record.execution).collect();
                let made = store.executions(space, &records).await?;
                let mut voided = Vec::with_capacity(chosen.len());
                let mut withdrawn = 0;
                for (key, known) in chosen {
                    let holder = match rule::holder(&known) {
                        Some(id) => Some(store.execution_in(&mut txn, space, id).await?),
                        None => None,
                    };
                    let done = transition::invalidate(&known, holder.as_ref(), &asked.cause, now);
                    withdrawn += usize::from(done.withdrawn.is_some());
                    if withdrawn > 1 {
                        return Ok((store.fresh(), None));
                    }
                    voided.push(entry(key, &known, &done, &made));
                    if !asked.dry_run && holder.is_some_and(|holder| holder.state != State::Running) {
                        // It ended since its key was read, and its lease went with it: so this batch cannot hold, and all is decided anew.
                        txn.delete(rows::lease(space, key));
                    }
                    if asked.dry_run || !done.changes() {
                        continue;
                    }
                    let rests_on = done.after.evidence();
                    let of = done.withdrawn.iter().chain(made.values()).find(|made| Some(made.id) == rests_on);
                    of.into_iter().for_each(|of| Store::tell(&mut txn, space, &known, &done.after, of));
                    done.record.iter().for_each(|record| store.look_again(&mut txn, space, record, now));
                    match done.withdrawn {
                        Some(execution) => {
                            let ended = Ended { execution, row: done.after.row, recorded: false };
                            store.write_end(&mut txn, space, ended).await?;
                        }
                        None => {
                            txn.put(rows::key(space, key), values::key_to(&done.after.row));
                            if done.after.lease.is_none() {
                                txn.delete(rows::lease(space, key));
                            }
                        }
                    }
                }
                Ok((txn, Some(voided)))
            })
            .await?;
        let count = |verdict: &str, n: usize| {
            if !asked.dry_run {
                store.metrics().ended.with_label_values(&[verdict]).inc_by(n as u64);
            }
        };
        count("ABANDONED", voided.iter().flatten().filter(|entry| entry.withdrawn.is_some()).count());
        Ok(voided)
    }
}

/// What is told of a key.
fn entry(
    key: &TaskKey,
    known: &Known,
    done: &transition::Invalidated,
    made: &BTreeMap<ExecutionId, Execution>,
) -> Voided {
    let record = done.record.as_ref().map(|record| record.execution);
    let after = Answer::of(&done.after);
    let of = done.withdrawn.as_ref().filter(|_| record.is_none());
    let of = of.or_else(|| known.row.record.as_ref().and_then(|record| made.get(&record.execution)));
    let withdrawn = done.withdrawn.as_ref();
    let why = withdrawn.filter(|_| after.verdict == Verdict::Abandoned);
    let why = why.and_then(|execution| execution.reason.clone()).unwrap_or(after.reason);
    Voided {
        key: Some(key.clone()),
        name: of.map(|execution| execution.name.clone()),
        record,
        withdrawn: withdrawn.map(|execution| execution.id),
        verdict: after.verdict,
        reason: why,
        downstream: false,
    }
}

#[cfg(test)]
mod tests;
