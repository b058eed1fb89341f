//! Who is at it now: of live leases, those whose executions run under an invalidated name or are searched for, or consume what is invalidated; and who was,
//! when the invalidation began.
//!
//! Edges of provenance are written by commits, so what has not ended is found by its spec. There are as many as commands run.

use bytes::Bytes;
use provender_core::batch::Table;
use provender_core::{Execution, Spec, Verdict, rows};
use provender_proto::rows as values;

use super::{BATCH, Invalidation, Only, Step, Target, Voided};
use crate::meta::Scan;
use crate::store::StoreError;
use crate::store::provenance::{TRACED, Want};

/// How many changes are read at once.
const PAGE: usize = 1_000;

impl Invalidation {
    /// Withdraws a page of them.
    pub(super) async fn running(&mut self, after: Option<Bytes>) -> Result<Vec<Voided>, StoreError> {
        let scan = Scan { after, limit: BATCH, ..Scan::prefix(Table::Lease, rows::keys_prefix(&self.space, None)) };
        let page = self.store.inner.meta.scan(&scan).await?;
        let mut all = Vec::new();
        for (row, _) in &page.rows {
            let damaged = || StoreError::Row { what: format!("{row:?}"), why: "its key is not one of a lease".into() };
            let (_, key) = rows::parse_key(row).ok_or_else(damaged)?;
            if self.told.contains(&key) {
                continue;
            }
            let known = self.store.known_of(&self.space, std::slice::from_ref(&key)).await?.pop().unwrap_or_default();
            let Some(holder) = super::rule::holder(&known) else { continue };
            // It may have ended since.
            let Some(execution) = self.store.executions(&self.space, &[holder]).await?.remove(&holder) else {
                continue;
            };
            let named = self.asked.names.contains(&execution.name);
            let asked_for = named || self.searched(&execution).await?;
            if !(asked_for || self.asked.downstream && self.consumes(&execution).await?) {
                continue;
            }
            let mut voided = self.void(&[Target { key, only: Only::Holder(holder) }]).await?;
            for entry in &mut voided {
                entry.downstream = !asked_for;
                if named {
                    self.nothing.remove(&execution.name);
                }
            }
            all.extend(voided);
        }
        if page.more {
            let after = page.rows.into_iter().next_back().map(|(key, _)| key);
            self.steps.push_front(Step::Running(after));
        }
        Ok(all)
    }

    /// Goes through what has succeeded since the invalidation began: whoever consumed what is void now had no edge yet when that was
    /// walked from, and no lease any more when those were looked at. What is found is walked from in turn.
    pub(super) async fn since(&mut self) -> Result<Vec<Voided>, StoreError> {
        let Some(since) = self.since else { return Ok(Vec::new()) };
        let page = self.store.inner.meta.changes(since, PAGE).await?;
        let mut all = Vec::new();
        for change in page.changes.iter().filter(|change| change.key.table == Table::Event) {
            let Some((space, event)) = rows::parse_event(&change.key.key) else { continue };
            let event = values::event_from(event).map_err(StoreError::row(format!("{:?}", change.key)))?.event;
            let (Verdict::Succeeded, Some(id), true) = (event.verdict, event.execution, space == self.space) else {
                continue;
            };
            if self.told.contains(&event.key) {
                continue;
            }
            let Some(execution) = self.store.executions(&self.space, &[id]).await?.remove(&id) else { continue };
            if !self.consumes(&execution).await? {
                continue;
            }
            let mut voided = self.void(&[Target { key: event.key.clone(), only: Only::Record(id) }]).await?;
            voided.iter_mut().for_each(|entry| entry.downstream = true);
            self.walk.begin_at(&event.key, Some(&execution));
            all.extend(voided);
        }
        let more = page.cursor > since && !page.changes.is_empty();
        self.since = Some(page.cursor);
        if !all.is_empty() {
            // Further down, there may be others like these.
            for step in [Step::Since, Step::Running(None), Step::Down] {
                self.steps.push_front(step);
            }
        } else if more {
            self.steps.push_front(Step::Since);
        }
        Ok(all)
    }

    /// Whether an execution is searched for. Who is to be evicted is left alone.
    async fn searched(&self, execution: &Execution) -> Result<bool, StoreError> {
        let (Some(query), None) = (&self.asked.query, &self.asked.cause.rule) else { return Ok(false) };
        Ok(match query.matches_execution(execution) {
            Some(matches) => matches,
            None => query.matches(execution, &self.store.execution_and_spec(&self.space, execution.id).await?.1),
        })
    }

    /// Whether an execution has an input that comes from what was walked to.
    async fn consumes(&self, execution: &Execution) -> Result<bool, StoreError> {
        let (_, spec): (_, Spec) = self.store.execution_and_spec(&self.space, execution.id).await?;
        let inputs: Vec<_> = spec.inputs.values().collect();
        for inputs in inputs.chunks(TRACED) {
            let want = |input| Want { input, consumer: Some(execution.id), began: execution.began };
            let wants: Vec<_> = inputs.iter().map(|input| want(*input)).collect();
            for (input, traced) in inputs.iter().zip(self.store.trace(&self.space, &wants).await?) {
                let by_key = input.key.as_ref().filter(|_| input.execution.is_none());
                let came_from = traced.made.is_some_and(|made| self.walk.has_come_to(made.id));
                if came_from || by_key.is_some_and(|key| self.told.contains(key)) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
