//! Who runs now, and the moment before which nobody relies on what is not counted.

use provender_core::batch::Table;
use provender_core::name::Space;
use provender_core::{Execution, Timestamp, collect, rows};
use provender_proto::rows as values;

use super::super::{Store, StoreError};
use super::Collection;
use crate::clock;
use crate::meta::Scan;

impl Store {
    /// The moment before which nobody relies on what is not counted, once all is counted that is to be counted now.
    pub(super) async fn horizon(&self, how: &Collection) -> Result<Timestamp, StoreError> {
        let (now, mut began) = (clock::now(), Vec::new());
        self.running(|_, running| began.push(running.began)).await?;
        Ok(collect::horizon(now, how.protect, how.touch_after(), began))
    }

    /// The executions that run now.
    pub(super) async fn running(&self, mut each: impl FnMut(Space, Execution)) -> Result<(), StoreError> {
        let mut scan = Scan::prefix(Table::Lease, "");
        loop {
            let page = self.inner.meta.scan(&scan).await?;
            let mut wanted = Vec::with_capacity(page.rows.len());
            for (key, row) in &page.rows {
                let damaged =
                    || StoreError::Row { what: format!("{key:?}"), why: "its key is not one of a lease".into() };
                let (space, task) = rows::parse_key(key).ok_or_else(damaged)?;
                let lease = values::lease_from(row.value.clone()).map_err(StoreError::row(&task))?;
                wanted.push((rows::execution(&space, lease.execution), space));
            }
            let keys: Vec<_> = wanted.iter().map(|(key, _)| key.clone()).collect();
            for ((_, space), row) in wanted.into_iter().zip(self.inner.meta.get(&keys).await?) {
                let Some(row) = row else { continue };
                let running = values::execution_from(row.value).map_err(StoreError::row("an execution that runs"))?;
                each(space, running);
            }
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                return Ok(());
            }
        }
    }
}
