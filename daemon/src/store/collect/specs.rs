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
        let mut used = BTreeSet::new();
        self.running(|space, running| _ = used.insert((space, running.spec))).await?;
        self.specs_to_count(&mut used).await?;
        for (specs, there) in specs.chunks(SPECS).zip(there.chunks(SPECS)) {
            let used = &used;
            self.transact(|mut txn| async move {
                let each =
                    specs.iter().flat_map(|(space, spec, _)| [rows::spec(space, spec), rows::spec_count(space, spec)]);
                let found = txn.get(&each.collect::<Vec<_>>()).await?;
                for (((space, spec, due), there), pair) in specs.iter().zip(there).zip(found.chunks_exact(2)) {
                    let is_same = pair[0].as_ref().map(|row| row.version) == there.as_ref().map(|row| row.version);
                    if used.contains(&(space.clone(), *spec)) || !is_same {
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

    /// The specs of executions that are to be counted.
    async fn specs_to_count(&self, specs: &mut BTreeSet<(Space, Digest)>) -> Result<(), StoreError> {
        let mut scan = Scan::prefix(Table::Tally, "");
        loop {
            let page = self.inner.meta.scan(&scan).await?;
            for (key, row) in &page.rows {
                let damaged = || StoreError::Row { what: format!("{key:?}"), why: "it is of no referrer".into() };
                let (space, referrer) = rows::parse_tally(key).ok_or_else(damaged)?;
                let tally = values::tally_from(row.value.clone()).map_err(StoreError::row(&referrer))?;
                specs.extend(tally.references.spec.map(|spec| (space, spec)));
            }
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                return Ok(());
            }
        }
    }
}
