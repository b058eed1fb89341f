//! What must hold of all rows together for collection to be right, looked at from scratch.
//!
//! It reads everything, of which it remembers each blob, so it is for tests and for stores that are suspected. Nobody may write meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use provender_core::batch::{RowKey, Table};
use provender_core::collect::{Due, Reference, References, Referrer};
use provender_core::execution::State;
use provender_core::name::Space;
use provender_core::transition::Known;
use provender_core::{Digest, Execution, rows};
use provender_proto::rows as values;

use super::super::hold::UNNOTICED;
use super::super::{Store, StoreError};
use crate::meta::Scan;

#[derive(Default)]
struct Audit {
    /// What each count should be.
    counts: BTreeMap<RowKey, u64>,
    /// Which blobs counts are of, in which space.
    counted: BTreeSet<(Space, Digest)>,
    wrong: Vec<String>,
}

impl Store {
    /// Everything that is wrong with what collection keeps, in words.
    pub async fn audit(&self) -> Result<Vec<String>, StoreError> {
        let mut audit = Audit::default();
        let mut tallies = BTreeMap::new();
        for (key, value) in self.all(Table::Tally).await? {
            let Some(of) = rows::parse_tally(&key) else { continue };
            tallies.insert(of, values::tally_from(value).map_err(StoreError::row("a tally"))?);
        }
        for (key, value) in self.all(Table::Execution).await? {
            let Some((space, id)) = rows::parse_execution(&key) else { continue };
            let execution = values::execution_from(value).map_err(StoreError::row("an execution"))?;
            if execution.state == State::Running {
                continue;
            }
            if !tallies.contains_key(&(space.clone(), Referrer::Execution(id))) {
                self.expect(&mut audit, &space, &References::of(&execution), None).await?;
            }
        }
        for (key, value) in self.all(Table::Pin).await? {
            let (Some(space), Some(id)) = (rows::space_of(&key), key.last_chunk().copied()) else { continue };
            let pin = values::pin_from(value).map_err(StoreError::row("a pin"))?;
            if !tallies.contains_key(&(space.clone(), Referrer::Pin(id))) {
                self.expect(&mut audit, &space, &pin.references(), None).await?;
            }
        }
        for (key, value) in self.all(Table::Key).await? {
            let Some((space, task)) = rows::parse_key(&key) else { continue };
            let row = values::key_from(value).map_err(StoreError::row(&task))?;
            let registration = Referrer::Registration(task.clone());
            if let (Some(_), false) = (row.spec, tallies.contains_key(&(space.clone(), registration))) {
                let references = References { spec: row.spec, ..References::default() };
                self.expect(&mut audit, &space, &references, None).await?;
            }
            let known = Known { row, lease: None };
            if let Some(record) = known.answer() {
                let references = References { closure: Some(record.closure), ..References::default() };
                for digest in self.referred(&space, &references, None).await?.1 {
                    if self.held(&space, BTreeSet::from([digest])).await?.is_empty() {
                        audit.wrong.push(format!("{task} is SUCCEEDED without the blob {digest}"));
                    }
                }
                if self.executions(&space, &[record.execution]).await?.is_empty() {
                    audit.wrong.push(format!("{task} is SUCCEEDED without its execution {}", record.execution));
                }
            }
        }
        for ((space, _), tally) in &tallies {
            self.expect(&mut audit, space, &tally.references, Some(tally.done)).await?;
        }
        self.compare(&mut audit).await?;
        Ok(audit.wrong)
    }

    async fn compare(&self, audit: &mut Audit) -> Result<(), StoreError> {
        let mut there = BTreeMap::new();
        for (key, value) in self.all(Table::Count).await? {
            let count = values::count_from(value).map_err(StoreError::row("a count"))?;
            there.insert(RowKey { table: Table::Count, key }, count);
        }
        for (key, count) in &audit.counts {
            let found = there.remove(key).unwrap_or(0);
            if found != *count {
                audit.wrong.push(format!("{key:?} counts {found} and is referred to {count} times"));
            }
        }
        audit
            .wrong
            .extend(there.iter().map(|(key, count)| format!("{key:?} counts {count} and is referred to by nothing")));
        let mut idle = BTreeSet::new();
        for (key, value) in self.all(Table::Idle).await? {
            let Some((_, space, _)) = rows::parse_idle(&key) else { continue };
            let digests = values::digests_from(&value).map_err(StoreError::row("what is idle"))?;
            idle.extend(digests.into_iter().map(|digest| (space.clone(), digest)));
        }
        for (space, digest) in &audit.counted {
            if self.held(space, BTreeSet::from([*digest])).await?.is_empty() {
                audit.wrong.push(format!("{digest} is referred to and not held"));
            }
        }
        for (key, _) in self.all(Table::Holding).await? {
            let Some(space) = rows::space_of(&key) else { continue };
            let Some(digest) = key.last_chunk::<40>().and_then(|digest| Digest::from_bytes(digest)) else { continue };
            let of = (space, digest);
            if !audit.counted.contains(&of) && !idle.contains(&of) {
                audit.wrong.push(format!("{digest} is held for nothing, and no collection will find it"));
            }
        }
        let mut used = 0;
        for (key, value) in self.all(Table::Blob).await? {
            let Some(digest) = rows::parse_blob(&key) else { continue };
            used += values::blob_from(value).map_err(StoreError::row(digest))?.bytes(&digest);
        }
        let counted = self.usage().await?;
        if counted != used {
            audit.wrong.push(format!("{used} bytes are stored, and {counted} are counted"));
        }
        self.compare_specs(audit).await
    }

    async fn compare_specs(&self, audit: &mut Audit) -> Result<(), StoreError> {
        let mut due = BTreeSet::new();
        for (key, _) in self.all(Table::Due).await? {
            if let Some((_, space, Due::Spec(spec))) = rows::parse_due(&key) {
                due.insert((space, spec));
            }
        }
        let running: Vec<Execution> = self
            .all(Table::Execution)
            .await?
            .into_iter()
            .filter_map(|(_, value)| values::execution_from(value).ok())
            .filter(|execution| execution.state == State::Running)
            .collect();
        for (key, _) in self.all(Table::Spec).await? {
            let Some(space) = rows::space_of(&key) else { continue };
            let Some(spec) = key.last_chunk::<40>().and_then(|digest| Digest::from_bytes(digest)) else { continue };
            let counted = audit.counts.get(&rows::spec_count(&space, &spec)).is_some_and(|count| *count > 0);
            let tallied = !self.all(Table::Tally).await?.is_empty();
            let runs = running.iter().any(|execution| execution.spec == spec);
            if !counted && !runs && !tallied && !due.contains(&(space.clone(), spec)) {
                audit.wrong.push(format!("the spec {spec} is kept for nothing"));
            }
        }
        Ok(())
    }

    /// Adds what something refers to; of what is under way, the first so many.
    async fn expect(
        &self,
        audit: &mut Audit,
        space: &Space,
        references: &References,
        first: Option<u64>,
    ) -> Result<(), StoreError> {
        let (specs, blobs) = self.referred(space, references, first).await?;
        for spec in specs {
            *audit.counts.entry(rows::spec_count(space, &spec)).or_default() += 1;
        }
        for blob in blobs {
            *audit.counts.entry(rows::count(space, &blob)).or_default() += 1;
            audit.counted.insert((space.clone(), blob));
        }
        Ok(())
    }

    async fn referred(
        &self,
        space: &Space,
        references: &References,
        first: Option<u64>,
    ) -> Result<(Vec<Digest>, Vec<Digest>), StoreError> {
        let (mut specs, mut blobs, mut listed) = (Vec::new(), Vec::new(), 0);
        for at in 0..first.unwrap_or(references.len()) {
            match references.at(at) {
                Some(Reference::Spec(spec)) => specs.push(spec),
                Some(Reference::Blob(blob)) => blobs.push(blob),
                Some(Reference::Listed(_)) => listed += 1,
                None => {}
            }
        }
        if let (Some(closure), true) = (&references.closure, listed > 0) {
            let bytes = UNNOTICED.scope((), self.read_part(space, closure, 0..40 * listed)).await?;
            blobs.extend(values::digests_from(&bytes).map_err(StoreError::row(closure))?);
        }
        Ok((specs, blobs))
    }

    async fn all(&self, table: Table) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let (mut scan, mut all) = (Scan::prefix(table, ""), Vec::new());
        loop {
            let page = self.inner.meta.scan(&scan).await?;
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            all.extend(page.rows.into_iter().map(|(key, row)| (key, row.value)));
            if !page.more {
                return Ok(all);
            }
        }
    }
}
