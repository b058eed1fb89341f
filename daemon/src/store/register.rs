//! Registering: what keys stand for, made known before anybody attempts them.
//!
//! Invariant: registering changes no verdict, record, lease or `latest`; registering the same again writes nothing.

use std::collections::{BTreeMap, BTreeSet};

use provender_core::batch::Row;
use provender_core::collect::{References, Referrer, Tally};
use provender_core::key::TaskKey;
use provender_core::name::{NameRow, Space};
use provender_core::transition::{self, KeyRow};
use provender_core::{Answer, Digest, Spec, rows};
use provender_proto::rows as values;

use super::catalog::{Described, Registered};
use super::{Store, StoreError};

/// How many keys are registered in one batch.
const BATCH: usize = 500;

impl Store {
    /// Makes specs and names known for keys, in pieces; whether the store knew nothing of each key, in their order. Of a key that
    /// was registered before, the first spec stays.
    pub async fn register(&self, space: &Space, tasks: &[(TaskKey, Spec)]) -> Result<Vec<bool>, StoreError> {
        let mut fresh = Vec::with_capacity(tasks.len());
        for piece in tasks.chunks(BATCH) {
            fresh.extend(self.register_piece(space, piece).await?);
        }
        Ok(fresh)
    }

    async fn register_piece(&self, space: &Space, tasks: &[(TaskKey, Spec)]) -> Result<Vec<bool>, StoreError> {
        let digests: Vec<Digest> = tasks.iter().map(|(_, spec)| spec.digest()).collect();
        let digests = &digests;
        self.transact(|mut txn| async move {
            let keys: Vec<_> = tasks.iter().map(|(key, _)| rows::key(space, key)).collect();
            let names: Vec<_> = tasks.iter().map(|(_, spec)| rows::name(space, &spec.name)).collect();
            let (key_rows, name_rows) = (txn.get(&keys).await?, txn.get(&names).await?);
            // Leases are only looked at: no reason to collide.
            let leases: Vec<_> = tasks.iter().map(|(key, _)| rows::lease(space, key)).collect();
            let specs: Vec<_> = digests.iter().map(|digest| rows::spec(space, digest)).collect();
            let leases = self.inner.meta.get(&leases).await?;
            let (mut seen, mut named) = (BTreeSet::new(), BTreeMap::new());
            let mut fresh = Vec::with_capacity(tasks.len());
            for (at, (key, spec)) in tasks.iter().enumerate() {
                let first = seen.insert(key);
                fresh.push(first && key_rows[at].is_none() && leases[at].is_none());
                if first && let Some(row) = transition::register(&key_row(key, key_rows[at].as_ref())?, digests[at]) {
                    txn.put(keys[at].clone(), values::key_to(&row));
                    // Whoever collects specs must not be about to delete this one.
                    txn.put(specs[at].clone(), values::spec_to(spec));
                    let references = References { spec: Some(digests[at]), ..References::default() };
                    let tally = Tally::begin(references);
                    txn.put(rows::tally(space, &Referrer::Registration(key.clone())), values::tally_to(&tally));
                }
                let found = name_rows[at].as_ref().map(|row| values::name_from(row.value.clone()));
                let found = found.transpose().map_err(StoreError::row(&spec.name))?;
                if found.as_ref().is_none_or(|found| found.latest.is_none()) {
                    named.insert(names[at].clone(), (found, key));
                }
            }
            for (row, (found, key)) in named {
                let now = NameRow { latest: None, registered: Some(key.clone()) };
                if found.as_ref() != Some(&now) {
                    txn.put(row.clone(), values::name_to(&now));
                }
            }
            Ok((txn, fresh))
        })
        .await
    }

    /// What a key stands for that was registered and rests on no execution.
    pub(super) async fn registered(
        &self,
        space: &Space,
        key: &TaskKey,
        answer: Answer,
    ) -> Result<Option<Described>, StoreError> {
        let row = self.inner.meta.get(&[rows::key(space, key)]).await?.pop().flatten();
        let Some(digest) = key_row(key, row.as_ref())?.spec else { return Ok(None) };
        let spec = self.inner.meta.get(&[rows::spec(space, &digest)]).await?.pop().flatten();
        let what = format!("the spec of {key}");
        let spec = spec.ok_or_else(|| StoreError::Row { what: what.clone(), why: "it is missing".into() })?;
        let spec = values::spec_from(spec.value).map_err(StoreError::row(what))?;
        Ok(Some(Described::Registered(Box::new(Registered { key: key.clone(), spec, answer }))))
    }
}

fn key_row(key: &TaskKey, row: Option<&Row>) -> Result<KeyRow, StoreError> {
    let row = row.map(|row| values::key_from(row.value.clone())).transpose().map_err(StoreError::row(key))?;
    Ok(row.unwrap_or_default())
}

#[cfg(test)]
mod tests;
