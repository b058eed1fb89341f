//! Specs that nothing has any more.

use std::collections::BTreeSet;

use provender_core::batch::{RowKey, Table};
use provender_core::name::Space;
use provender_core::{Digest, rows};
use provender_proto::rows as values;

use super::super::{Store, StoreError};
use super::Run;
use crate::meta::Scan;

/// How many specs are deleted in one batch.
const SPECS: usize = 500;

impl Run<'_> {
    /// Deletes these, as far as nothing has them.
    pub(super) async fn drop_specs(&mut self, specs: &mut Vec<(Space, Digest, RowKey)>) -> Result<(), StoreError> {
        let specs = std::mem::take(specs);
        if self.dry_run {
            return Ok(());
        }
        self.pace(4 * specs.len()).await?;
        self.store.drop_specs(&specs).await
    }
}

impl Store {
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
