//! Who is at it now: of live leases, those whose executions run under an invalidated name, or consume what is invalidated.
//!
//! Edges of provenance are written by commits, so what has not ended is found by its spec. There are as many as commands run.

use bytes::Bytes;
use provender_core::batch::Table;
use provender_core::{Execution, Spec, rows};

use super::{BATCH, Invalidation, Only, Step, Target, Voided};
use crate::meta::Scan;
use crate::store::StoreError;
use crate::store::provenance::{TRACED, Want};

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
            if !(named || self.asked.downstream && self.consumes(&execution).await?) {
                continue;
            }
            let mut voided = self.void(&[Target { key, only: Only::Holder(holder) }]).await?;
            for entry in &mut voided {
                entry.downstream = !named;
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
