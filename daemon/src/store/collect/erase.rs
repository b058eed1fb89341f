//! The rows by which a collected execution was found, beside those that went with it: its places in the index, and its edges.
//!
//! Invariant: it may be cut off anywhere and begun again; whoever follows a row that is left finds no execution, and passes over it.

use std::collections::BTreeSet;

use provender_core::batch::Table;
use provender_core::name::{Name, Space};
use provender_core::{Digest, Execution, ExecutionId, RowKey, Spec, rows};
use provender_proto::rows as values;

use super::super::index::postings;
use super::super::{Store, StoreError};
use crate::meta::Scan;

/// How many rows one batch deletes.
const PIECE: usize = 1_000;

impl Store {
    /// Deletes them; how many rows were looked at.
    pub(super) async fn erase(&self, space: &Space, gone: &Execution) -> Result<usize, StoreError> {
        let id = gone.id;
        let spec = self.inner.meta.get(&[rows::spec(space, &gone.spec)]).await?.pop().flatten();
        let spec = spec.map(|row| values::spec_from(row.value)).transpose();
        let spec = spec.map_err(StoreError::row(format!("the spec of execution {id}")))?;
        let looked = match spec {
            Some(spec) => self.erase_edges(space, gone, &spec).await?,
            None => 0,
        };
        Ok(looked + self.tidy_names(space, gone).await?)
    }

    async fn erase_edges(&self, space: &Space, gone: &Execution, spec: &Spec) -> Result<usize, StoreError> {
        let id = gone.id;
        // A failure has left the same rows as a success, though nobody is told that it made these.
        let made = match gone.outcome.outputs {
            Some(root) => self.stands_at(space, root, spec).await?,
            None => BTreeSet::new(),
        };
        let mut doomed = postings(space, gone, spec);
        for (name, input) in &spec.inputs {
            let digest = input.content.as_ref().and_then(|node| node.digest());
            doomed.extend(input.key.as_ref().map(|producer| rows::consumer_of_key(space, producer, id, name)));
            doomed.extend(digest.map(|digest| rows::consumer_of_digest(space, &digest, id, name)));
        }
        let digests: Vec<_> = made.into_iter().collect();
        doomed.extend(digests.iter().map(|digest| rows::producer(space, digest, id)));
        let looked = doomed.len() + digests.len();
        self.delete_rows(&doomed).await?;
        for digest in &digests {
            self.forget_maker(space, digest, id).await?;
        }
        Ok(looked)
    }

    pub(super) async fn delete_rows(&self, doomed: &[RowKey]) -> Result<(), StoreError> {
        for piece in doomed.chunks(PIECE) {
            self.transact(|mut txn| {
                piece.iter().for_each(|row| txn.delete(row.clone()));
                async move { Ok((txn, ())) }
            })
            .await?;
        }
        Ok(())
    }

    /// Bytes that it was the first to make were made by the next one, if there is one.
    async fn forget_maker(&self, space: &Space, made: &Digest, id: ExecutionId) -> Result<(), StoreError> {
        self.transact(|mut txn| async move {
            let place = rows::maker(space, made);
            let Some(row) = txn.get_one(place.clone()).await? else { return Ok((txn, ())) };
            let (first, _) = values::maker_from(row.value).map_err(StoreError::row(made))?;
            let scan = Scan { limit: 2, ..Scan::prefix(Table::Producer, rows::producers_prefix(space, made)) };
            let others = self.inner.meta.scan(&scan).await?.rows;
            let others: Vec<_> = others.iter().filter_map(|(key, _)| rows::trailing_execution(key)).collect();
            match others.first() {
                None => txn.delete(place),
                Some(next) if first == id => txn.put(place, values::maker_to(*next, others.len() > 1)),
                Some(_) => {}
            }
            Ok((txn, ()))
        })
        .await
    }

    /// The names under which it was shown, if nothing is left there.
    async fn tidy_names(&self, space: &Space, gone: &Execution) -> Result<usize, StoreError> {
        let mut looked = self.tidy_name(space, &gone.name).await?;
        loop {
            let scan = Scan { limit: PIECE, ..Scan::prefix(Table::Shown, rows::shown_prefix(space, gone.id)) };
            let page = self.inner.meta.scan(&scan).await?;
            for (row, _) in &page.rows {
                if let Some(name) = rows::parse_shown(space, gone.id, row) {
                    looked += self.tidy_name(space, &name).await?;
                }
            }
            let places: Vec<_> = page.rows.into_iter().map(|(key, _)| RowKey { table: Table::Shown, key }).collect();
            self.delete_rows(&places).await?;
            if !page.more {
                return Ok(looked);
            }
        }
    }

    /// A name under which nothing is left is none any more.
    async fn tidy_name(&self, space: &Space, name: &Name) -> Result<usize, StoreError> {
        self.transact(|mut txn| async move {
            // Each failure writes it anew.
            let row = rows::failed_name(space, name);
            if txn.get_one(row.clone()).await?.is_some() && self.has_none(Table::FailedFolder, space, name).await? {
                txn.delete(row);
            }
            Ok((txn, ()))
        })
        .await?;
        if !self.has_none(Table::NameHistory, space, name).await?
            || !self.has_none(Table::NameRecord, space, name).await?
        {
            return Ok(4);
        }
        let registered = self.name_row(space, name).await?.registered;
        if registered.is_none() {
            self.transact(|mut txn| async move {
                let row = rows::name(space, name);
                if txn.get_one(row.clone()).await?.is_some()
                    && self.has_none(Table::NameHistory, space, name).await?
                    && self.has_none(Table::NameRecord, space, name).await?
                {
                    txn.delete(row);
                }
                Ok((txn, ()))
            })
            .await?;
            // Who began under it at that moment took it for there.
            if !self.has_none(Table::NameHistory, space, name).await? {
                let there = &provender_core::name::NameRow::default();
                self.transact(|mut txn| async move {
                    let row = rows::name(space, name);
                    if txn.get_one(row.clone()).await?.is_none() {
                        txn.put(row, values::name_to(there));
                    }
                    Ok((txn, ()))
                })
                .await?;
            }
        }
        Ok(8)
    }

    /// Whether a table has no row of a name.
    async fn has_none(&self, table: Table, space: &Space, name: &Name) -> Result<bool, StoreError> {
        let scan = Scan { limit: 1, ..Scan::prefix(table, rows::by_name_prefix(space, name)) };
        Ok(self.inner.meta.scan(&scan).await?.rows.is_empty())
    }
}
