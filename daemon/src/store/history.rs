//! What is shown of an execution: its rows as it begins and ends, in histories, under names, in folders of the view.
//!
//! Invariant: whatever an execution made, its end is as many rows. What it is found by is in [`super::index`].

use std::sync::OnceLock;

use bytes::Bytes;
use provender_core::batch::Table;
use provender_core::collect::{References, Referrer, Tally};
use provender_core::execution::State;
use provender_core::key::TaskKey;
use provender_core::name::{Name, NameRow, Space};
use provender_core::transition::{Ended, Known};
use provender_core::{Execution, ExecutionId, Spec, Timestamp, rows, view};
use provender_proto::{convert, rows as values};

use super::{Store, StoreError, Txn};

/// An execution that begins, to be written.
pub(super) struct Beginning<'a> {
    pub(super) space: &'a Space,
    pub(super) execution: &'a Execution,
    pub(super) spec: &'a Spec,
    /// When it began, once some of its rows were written before the batch, also if it is decided anew.
    pub(super) ahead: &'a OnceLock<Timestamp>,
}

impl Store {
    /// The rows of a begun execution.
    pub(super) async fn write_begin(&self, txn: &mut Txn, beginning: Beginning<'_>) -> Result<(), StoreError> {
        let Beginning { space, execution, spec, .. } = beginning;
        let (id, began) = (execution.id, execution.began);
        let row = rows::execution(space, id);
        if let Some(taken) = txn.get_one(row.clone()).await? {
            let taken = values::execution_from(taken.value).map_err(StoreError::row(format!("execution {id}")))?;
            // One that runs at this key was begun a moment ago by the same call, sent twice: its lease, which was not there when the
            // key was read, keeps this batch from holding, so that it is decided anew.
            if taken.key != execution.key || taken.state != State::Running {
                let (key, verdict) = (taken.key, taken.state.verdict());
                let why =
                    format!("there is one of this id, of {key}, which is {verdict}; a new attempt takes a new id");
                return Err(convert::Invalid::new("execution", why).into());
            }
        }
        txn.put(row, values::execution_to(execution));
        let (spec_row, name_row) = (rows::spec(space, &execution.spec), rows::name(space, &execution.name));
        let there = self.inner.meta.get(std::slice::from_ref(&name_row)).await?;
        // Also if it is there: whoever collects specs that nothing has must not be about to delete this one.
        txn.put(spec_row, values::spec_to(spec));
        if there[0].is_none() {
            txn.get_one(name_row.clone()).await?;
            txn.put(name_row, values::name_to(&NameRow::default()));
        }
        self.index_begin(txn, &beginning).await?;
        txn.put(rows::key_history(space, &execution.key, began, id), Bytes::new());
        txn.put(rows::name_history(space, &execution.name, began, id), Bytes::new());
        Ok(())
    }

    /// The rows of an ended execution: as many whatever it made.
    pub(super) async fn write_end(&self, txn: &mut Txn, space: &Space, ended: Ended) -> Result<Execution, StoreError> {
        let Ended { mut execution, mut row, recorded } = ended;
        let at = execution.ended.unwrap_or_default();
        let key = execution.key.clone();
        let succeeded = execution.state == State::Succeeded;
        let table = if succeeded { Table::Folder } else { Table::FailedFolder };
        let folder = self.new_folder(txn, space, table, &execution.name, &key, at, execution.id).await?;
        execution.folder = Some(folder.clone());
        // Whatever came of it, somebody relies on the record now.
        if std::mem::take(&mut row.leaving) {
            txn.put(rows::used(space, &key), values::holding_to(at));
        }
        txn.put(rows::key(space, &key), values::key_to(&row));
        txn.delete(rows::lease(space, &key));
        if recorded {
            txn.put(rows::name_record(space, &execution.name, at, execution.id), folder);
            txn.put(rows::name(space, &execution.name), values::name_to(&latest(execution.id)));
        } else if !succeeded {
            txn.put(rows::failed_name(space, &execution.name), values::failed_name_to(at));
        } else if let (None, Some(record)) = (execution.diverges_from, &row.record) {
            // The same again: as good as a hit.
            let record = self.execution_in(txn, space, record.execution).await?;
            self.show(txn, space, &execution.name, &record, at).await?;
        }
        Store::index_end(txn, space, &execution);
        let tally = Tally::begin(References::of(&execution));
        txn.put(rows::tally(space, &Referrer::Execution(execution.id)), values::tally_to(&tally));
        txn.put(rows::execution(space, execution.id), values::execution_to(&execution));
        Ok(execution)
    }

    /// Makes a success the `latest` of a name, under which it may not have been asked for before.
    pub(super) async fn show(
        &self,
        txn: &mut Txn,
        space: &Space,
        name: &Name,
        execution: &Execution,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let row = rows::name(space, name);
        let found = self.inner.meta.get(std::slice::from_ref(&row)).await?.pop().flatten();
        let found = found.map(|found| values::name_from(found.value).map_err(StoreError::row(name))).transpose()?;
        if found.is_some_and(|found| found.latest == Some(execution.id)) {
            return Ok(());
        }
        let at = execution.ended.unwrap_or(now);
        let listed = rows::name_record(space, name, at, execution.id);
        if txn.get_one(listed.clone()).await?.is_none() {
            let folder = self.new_folder(txn, space, Table::Folder, name, &execution.key, at, execution.id).await?;
            txn.put(listed, folder);
            txn.put(rows::shown(space, execution.id, name), Bytes::new());
        }
        txn.put(row, values::name_to(&latest(execution.id)));
        Ok(())
    }

    /// Takes the first free folder of the view for an execution.
    #[expect(clippy::too_many_arguments, reason = "they are the parts of one row")]
    async fn new_folder(
        &self,
        txn: &mut Txn,
        space: &Space,
        table: Table,
        name: &Name,
        key: &TaskKey,
        at: Timestamp,
        id: ExecutionId,
    ) -> Result<String, StoreError> {
        let mut n = 1;
        loop {
            let folder = view::folder(at, key.id(), n);
            let row = rows::folder(space, table, name, &folder);
            // Only the free one is a precondition: taken ones stay taken.
            if self.inner.meta.get(std::slice::from_ref(&row)).await?.pop().flatten().is_none() {
                txn.get_one(row.clone()).await?;
                txn.put(row, Bytes::copy_from_slice(&id.0));
                return Ok(folder);
            }
            n += 1;
        }
    }
}

/// An end as its rows hold it: that a record is LOST is found out each time and not written down.
pub(super) fn as_stored(mut ended: Ended, known: Known) -> Ended {
    if !ended.recorded {
        ended.row.record = known.row.record;
    }
    ended
}

fn latest(id: ExecutionId) -> NameRow {
    NameRow { latest: Some(id), registered: None }
}
