//! What `latest` of a name is: the success that was last asked for or made under it, while it can be relied on.
//!
//! Invariant: no execution is the latest whose key has no record, or a record with other outputs; it is passed over for the newest
//! other success of the name, so that readers fall back to the one before.

use std::collections::BTreeMap;

use provender_core::batch::Table;
use provender_core::name::{Name, Space};
use provender_core::{Execution, ExecutionId, rows};

use super::{Store, StoreError};
use crate::meta::Scan;

/// How many older successes are looked at together.
const PAGE: usize = 100;
/// How many older successes are looked at until a name has no latest.
const MOST: usize = 10_000;

impl Store {
    /// The execution that `latest` of a name means.
    pub async fn latest(&self, space: &Space, name: &Name) -> Result<Option<ExecutionId>, StoreError> {
        let Some(id) = self.name_row(space, name).await?.latest else { return Ok(None) };
        Ok(self.latest_of(space, name, id).await?.map(|execution| execution.id))
    }

    /// The latest of a name whose row says that it is this execution.
    pub(super) async fn latest_of(
        &self,
        space: &Space,
        name: &Name,
        id: ExecutionId,
    ) -> Result<Option<Execution>, StoreError> {
        if let Some(execution) = self.reliable(space, &[id]).await?.remove(&id) {
            return Ok(Some(execution));
        }
        let mut scan = Scan { limit: PAGE, ..Scan::prefix(Table::NameRecord, rows::by_name_prefix(space, name)) };
        for _ in 0..MOST / PAGE {
            let page = self.inner.meta.scan(&scan).await?;
            let ids: Vec<_> = page.rows.iter().filter_map(|(key, _)| rows::trailing_execution(key)).collect();
            let mut found = self.reliable(space, &ids).await?;
            if let Some(newest) = ids.iter().find_map(|id| found.remove(id)) {
                return Ok(Some(newest));
            }
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                break;
            }
        }
        Ok(None)
    }

    /// Those of the executions whose outputs are what their keys answer with.
    pub(super) async fn reliable(
        &self,
        space: &Space,
        ids: &[ExecutionId],
    ) -> Result<BTreeMap<ExecutionId, Execution>, StoreError> {
        let mut executions = self.executions(space, ids).await?;
        let keys: Vec<_> = executions.values().map(|execution| execution.key.clone()).collect();
        let mut known = self.known_of(space, &keys).await?.into_iter();
        executions.retain(|_, execution| {
            let outputs = known.next().and_then(|known| known.answer().map(|record| record.outputs));
            outputs.is_some() && outputs == execution.outcome.outputs
        });
        Ok(executions)
    }
}
