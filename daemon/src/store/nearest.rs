//! The nearest success of a name: the one whose spec agrees most with another one.
//!
//! Invariant: a bounded number of records is looked at, however many there are: the newest ones, and where there are more, those that
//! agree in all but one field, which the index finds. It must not know the measure.

use std::collections::BTreeMap;

use provender_core::batch::Table;
use provender_core::execution::State;
use provender_core::key::TaskKey;
use provender_core::name::Space;
use provender_core::nearest::Likeness;
use provender_core::search::{Condition, Query};
use provender_core::{Execution, ExecutionId, Spec, rows};

use super::provenance::SPECS;
use super::{Store, StoreError};
use crate::meta::Scan;

/// How many of the newest records are looked at.
const NEWEST: usize = 200;
/// How many times each search goes on that has found nothing yet.
const CALLS: usize = 8;
/// How many fields and inputs the index is asked for at most.
const ASKED: usize = 16;

impl Store {
    /// The success under a spec's name whose spec agrees most with it, the newest of several, and its spec; none of the key itself.
    pub(super) async fn nearest(
        &self,
        space: &Space,
        key: &TaskKey,
        spec: &Spec,
    ) -> Result<Option<(Execution, Spec)>, StoreError> {
        let scan = Scan { limit: NEWEST, ..Scan::prefix(Table::NameRecord, rows::by_name_prefix(space, &spec.name)) };
        let page = self.inner.meta.scan(&scan).await?;
        let newest: Vec<_> = page.rows.iter().filter_map(|(row, _)| rows::trailing_execution(row)).collect();
        let mut candidates = newest;
        if page.more {
            for id in self.all_but_one(space, key, spec).await? {
                candidates.extend((!candidates.contains(&id)).then_some(id));
            }
        }
        self.most_alike(space, key, spec, candidates).await
    }

    /// Of the successes under a spec's name the newest that agrees in all fields and inputs, and for each of these the newest that agrees
    /// in all others.
    async fn all_but_one(&self, space: &Space, key: &TaskKey, spec: &Spec) -> Result<Vec<ExecutionId>, StoreError> {
        let conditions: Vec<_> = Likeness::of(key.scheme(), spec).conditions().take(ASKED).collect();
        let always = [Condition::is("name", spec.name.as_str()), Condition::is("verdict", "SUCCEEDED")];
        let mut found = Vec::new();
        for left_out in std::iter::once(None).chain((0..conditions.len()).map(Some)) {
            let others = conditions.iter().enumerate().filter(|(at, _)| Some(*at) != left_out).map(|(_, one)| one);
            let query = Query::of(always.iter().chain(others).cloned().collect());
            let mut cursor = None;
            for _ in 0..CALLS {
                let (page, next) = self.search(space, &query, cursor, 1).await?;
                found.extend(page.iter().map(|execution| execution.id));
                cursor = next.filter(|_| page.is_empty());
                if cursor.is_none() {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// The one of these executions, of which the first of two that agree as much is taken.
    async fn most_alike(
        &self,
        space: &Space,
        key: &TaskKey,
        spec: &Spec,
        candidates: Vec<ExecutionId>,
    ) -> Result<Option<(Execution, Spec)>, StoreError> {
        let likeness = Likeness::of(key.scheme(), spec);
        let mut best: Option<(_, Execution, Spec)> = None;
        for piece in candidates.chunks(SPECS) {
            let mut found = self.executions(space, piece).await?;
            found.retain(|_, execution| execution.state == State::Succeeded && execution.key != *key);
            let digests: BTreeMap<_, _> = found.values().map(|execution| (execution.spec, ())).collect();
            let specs = self.specs(space, &digests.into_keys().collect::<Vec<_>>()).await?;
            for id in piece {
                let Some(execution) = found.remove(id) else { continue };
                let Some(theirs) = specs.get(&execution.spec) else { continue };
                let agreement = likeness.with(theirs);
                if best.as_ref().is_none_or(|(most, ..)| agreement > *most) {
                    best = Some((agreement, execution, theirs.clone()));
                }
            }
        }
        Ok(best.map(|(_, execution, spec)| (execution, spec)))
    }
}
