//! `latest` of a name: what the name's row says, unless that is void by now.
//!
//! Invariant: what is told is its key's answer at the moment of asking, so whatever voids a record (invalidation, loss, collection)
//! need not know under which names it is shown, and one that heals is back by itself. Reads are bounded: beyond
//! [`LOOK_THROUGH`] records in a row that are void, a name has no `latest`.

use std::collections::BTreeMap;

use provender_core::batch::Table;
use provender_core::name::{Name, NameRow, Space};
use provender_core::transition::Known;
use provender_core::{Execution, ExecutionId, rows};
use provender_proto::rows as values;

use super::{Store, StoreError};
use crate::meta::Scan;

/// How many records are looked at in one step.
const PAGE: usize = 100;
/// How many records of a name are looked through at most.
const LOOK_THROUGH: usize = 10_000;

impl Store {
    /// The success that `latest` of a name means: what the last begin or commit under it ended with; if that is void, its newest
    /// record that is not.
    pub async fn latest(&self, space: &Space, name: &Name) -> Result<Option<Execution>, StoreError> {
        let latest = self.name_row(space, name).await?.latest;
        Ok(self.latest_of(space, &[(name, latest)]).await?.pop().flatten())
    }

    /// The same for many names, each with what its row says, in their order.
    pub(super) async fn latest_of(
        &self,
        space: &Space,
        names: &[(&Name, Option<ExecutionId>)],
    ) -> Result<Vec<Option<Execution>>, StoreError> {
        let ids: Vec<_> = names.iter().filter_map(|(_, latest)| *latest).collect();
        let answers = self.answers(space, &ids).await?;
        let mut found = Vec::with_capacity(names.len());
        for (name, latest) in names {
            found.push(match latest.map(|id| answers.get(&id)) {
                // A name that never had one has no records either.
                None => None,
                Some(Some(execution)) => Some(execution.clone()),
                Some(None) => self.newest_answer(space, name).await?,
            });
        }
        Ok(found)
    }

    /// When the newest success of a name was recorded, whatever became of it.
    pub(super) async fn newest_record(&self, space: &Space, name: &Name) -> Result<Option<Execution>, StoreError> {
        let scan = Scan { limit: 1, ..Scan::prefix(Table::NameRecord, rows::by_name_prefix(space, name)) };
        let page = self.inner.meta.scan(&scan).await?;
        let Some(id) = page.rows.first().and_then(|(key, _)| rows::trailing_execution(key)) else { return Ok(None) };
        Ok(self.executions(space, &[id]).await?.remove(&id))
    }

    /// The row of a name.
    pub(super) async fn name_row(&self, space: &Space, name: &Name) -> Result<NameRow, StoreError> {
        match self.inner.meta.get(&[rows::name(space, name)]).await?.pop().flatten() {
            Some(row) => values::name_from(row.value).map_err(StoreError::row(name)),
            None => Ok(NameRow::default()),
        }
    }

    async fn newest_answer(&self, space: &Space, name: &Name) -> Result<Option<Execution>, StoreError> {
        let prefix = rows::by_name_prefix(space, name);
        let mut scan = Scan { limit: PAGE, ..Scan::prefix(Table::NameRecord, prefix) };
        for _ in 0..LOOK_THROUGH / PAGE {
            let page = self.inner.meta.scan(&scan).await?;
            let ids: Vec<_> = page.rows.iter().filter_map(|(key, _)| rows::trailing_execution(key)).collect();
            let mut answers = self.answers(space, &ids).await?;
            if let Some(execution) = ids.iter().find_map(|id| answers.remove(id)) {
                return Ok(Some(execution));
            }
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                break;
            }
        }
        Ok(None)
    }

    /// Those of the executions that their keys answer with now.
    async fn answers(
        &self,
        space: &Space,
        ids: &[ExecutionId],
    ) -> Result<BTreeMap<ExecutionId, Execution>, StoreError> {
        let executions = self.executions(space, ids).await?;
        let keys: Vec<_> = executions.values().map(|execution| execution.key.clone()).collect();
        let known = self.known_of(space, &keys).await?;
        let is_answer = |known: &Known, id| known.answer().is_some_and(|record| record.execution == id);
        let pairs = executions.into_iter().zip(known);
        Ok(pairs.filter(|((id, _), known)| is_answer(known, *id)).map(|(pair, _)| pair).collect())
    }
}
