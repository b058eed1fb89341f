//! Testing records again, when the log of lost digests has changed: those of the watched keys, and of the names under the prefixes.
//!
//! Invariant: it goes in steps of bounded work, and remembers no more than where it is. What is told of a key is what stands at
//! the moment; if an event brought that about which the watcher has not come to, that event tells it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use provender_core::batch::{Table, Version};
use provender_core::event::{self, Watched};
use provender_core::key::TaskKey;
use provender_core::name::{Name, Space};
use provender_core::transition::Known;
use provender_core::{Execution, ExecutionId, rows};
use provender_proto::rows as values;

use super::losses::Due;
use super::{KEYS, Watching, tell};
use crate::meta::Scan;
use crate::store::{Store, StoreError};

/// A pass over all that is watched.
#[derive(Debug)]
pub(super) struct Pass {
    due: Due,
    steps: VecDeque<Step>,
}

#[derive(Debug)]
enum Step {
    Keys(Vec<TaskKey>),
    /// The names under a prefix, after a row.
    Names(String, Option<Bytes>),
    /// The records of these names, of the first of them after a row.
    Records(VecDeque<Name>, Option<Bytes>),
    /// The records of all names, after a row.
    All(Option<Bytes>),
}

impl Pass {
    pub(super) fn new(watched: &Watched, due: Due) -> Pass {
        let keys: Vec<_> = watched.keys.iter().cloned().collect();
        let mut steps: VecDeque<_> = keys.chunks(KEYS).map(|keys| Step::Keys(keys.to_vec())).collect();
        match watched.prefixes.iter().any(String::is_empty) {
            true => steps.push_back(Step::All(None)),
            false => steps.extend(watched.prefixes.iter().map(|prefix| Step::Names(prefix.clone(), None))),
        }
        Pass { due, steps }
    }

    /// Some of the keys whose records it comes to; `None` at the end.
    async fn next(
        &mut self,
        store: &Store,
        space: &Space,
        watched: &Watched,
    ) -> Result<Option<Vec<TaskKey>>, StoreError> {
        let Some(step) = self.steps.pop_front() else { return Ok(None) };
        let ids = match step {
            Step::Keys(keys) => return Ok(Some(keys)),
            Step::Names(prefix, after) => {
                let scan = Scan { after, limit: KEYS, ..Scan::prefix(Table::Name, rows::name_prefix(space, &prefix)) };
                let page = store.inner.meta.scan(&scan).await?;
                if let Some((last, _)) = page.rows.last().filter(|_| page.more) {
                    self.steps.push_front(Step::Names(prefix, Some(last.clone())));
                }
                let names = page.rows.iter().filter_map(|(key, _)| rows::parse_name(space, key));
                self.steps.push_front(Step::Records(names.collect(), None));
                return Ok(Some(Vec::new()));
            }
            Step::Records(names, after) => self.records(store, space, names, after).await?,
            Step::All(after) => {
                let all = rows::name_prefix(space, "");
                let scan = Scan { after, limit: KEYS, ..Scan::prefix(Table::NameRecord, all) };
                let page = store.inner.meta.scan(&scan).await?;
                if let Some((last, _)) = page.rows.last().filter(|_| page.more) {
                    self.steps.push_front(Step::All(Some(last.clone())));
                }
                page.rows.iter().filter_map(|(key, _)| rows::trailing_execution(key)).collect()
            }
        };
        let made = store.executions(space, &ids).await?;
        // What is listed for a hit under another name is told under its own.
        let keys =
            made.into_values().filter(|execution| watched.has_name(&execution.name)).map(|execution| execution.key);
        Ok(Some(keys.collect::<BTreeSet<_>>().into_iter().collect()))
    }

    /// The records of some of the names.
    async fn records(
        &mut self,
        store: &Store,
        space: &Space,
        mut names: VecDeque<Name>,
        mut after: Option<Bytes>,
    ) -> Result<Vec<ExecutionId>, StoreError> {
        let mut ids = Vec::new();
        while let Some(name) = names.front() {
            let prefix = rows::by_name_prefix(space, name);
            let scan = Scan { after: after.take(), limit: KEYS, ..Scan::prefix(Table::NameRecord, prefix) };
            let page = store.inner.meta.scan(&scan).await?;
            ids.extend(page.rows.iter().filter_map(|(key, _)| rows::trailing_execution(key)));
            match page.rows.last().filter(|_| page.more) {
                Some((last, _)) => after = Some(last.clone()),
                None => _ = names.pop_front(),
            }
            if ids.len() >= KEYS / 2 && !names.is_empty() {
                self.steps.push_front(Step::Records(names, after));
                break;
            }
        }
        Ok(ids)
    }
}

impl Watching {
    /// A step of a pass.
    pub(super) async fn go_on(&mut self, mut pass: Pass) -> Result<(), StoreError> {
        let store = self.store.clone();
        let _turn = store.inner.pages.testing().await;
        match pass.next(&store, &self.space, &self.watched).await? {
            Some(keys) => {
                self.retest(&keys, pass.due, self.at).await?;
                self.pass = Some(pass);
            }
            None => {
                self.losses.done(store.inner.meta.head().await?);
                if self.begun {
                    self.reached();
                }
            }
        }
        Ok(())
    }

    /// Tests records anew, and tells of those of which the watcher knows otherwise. It was told all up to `upto`.
    pub(super) async fn retest(&mut self, keys: &[TaskKey], due: Due, upto: Version) -> Result<(), StoreError> {
        let standing = self.store.standing(&self.space, keys).await?;
        let mut news = Vec::new();
        for (key, (known, _)) in keys.iter().zip(&standing) {
            let (lost, told) = (event::lost_record(known), self.losses.of(key));
            let whole = known.answer().is_some() && (due.healing && told.is_some() || due.unsure);
            if whole || lost.is_some() && (lost != told || due.again) {
                news.push((key, known, lost));
            }
        }
        let made = self.store.evidence_of(&self.space, news.iter().map(|(_, known, _)| *known)).await?;
        for (key, known, lost) in news {
            let Some((of, written)) = known.evidence().and_then(|id| made.get(&id)) else { continue };
            if *written > upto {
                continue;
            }
            if self.watched.has(key, Some(&of.name)) {
                self.losses.told(key, lost);
                self.push(tell::event_of(key, known, Some(of)), upto);
            } else if lost.is_none() {
                // It has succeeded anew, under a name that is not asked for.
                self.losses.told(key, None);
            }
        }
        Ok(())
    }
}

impl Store {
    /// The executions that verdicts rest on, each with the version that wrote it last: when it began, or ended.
    pub(super) async fn evidence_of<'a>(
        &self,
        space: &Space,
        known: impl Iterator<Item = &'a Known>,
    ) -> Result<BTreeMap<ExecutionId, (Execution, Version)>, StoreError> {
        let ids: Vec<_> = known.filter_map(Known::evidence).collect::<BTreeSet<_>>().into_iter().collect();
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let wanted: Vec<_> = ids.iter().map(|id| rows::execution(space, *id)).collect();
        let found = ids.into_iter().zip(self.inner.meta.get(&wanted).await?);
        let decode = |(id, row): (ExecutionId, Option<provender_core::batch::Row>)| {
            let row = row?;
            let execution = values::execution_from(row.value).map_err(StoreError::row(format!("execution {id}")));
            Some(execution.map(|execution| (id, (execution, row.version))))
        };
        found.filter_map(decode).collect()
    }
}
