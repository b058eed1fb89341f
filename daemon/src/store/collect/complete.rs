//! Lists of what something refers to, made where there is none: of pins and successes from before there were any, and of those that were lost.
//!
//! Invariant: a list is made before what it belongs to is counted, so nothing is swept meanwhile.

use provender_core::batch::Table;
use provender_core::blob::{Pin, Pinned};
use provender_core::collect::{References, Referrer, Tally};
use provender_core::execution::State;
use provender_core::name::Space;
use provender_core::{Digest, Execution, rows};
use provender_proto::rows as values;

use super::super::pins::PinId;
use super::super::{Store, StoreError, fact};
use crate::meta::Scan;

/// The fact that all pins are counted, or to be.
const COMPLETE: &str = "pins-complete";

impl Store {
    /// Has trees that were pinned before pins named all that they refer to walked, once for each store.
    pub(super) async fn complete_pins(&self) -> Result<(), StoreError> {
        if fact(&*self.inner.meta, COMPLETE).await?.is_some() {
            return Ok(());
        }
        let mut scan = Scan::prefix(Table::Pin, "");
        loop {
            let page = self.inner.meta.scan(&scan).await?;
            for (key, row) in &page.rows {
                let (Some(space), Some(id)) = (rows::space_of(key), key.last_chunk().copied()) else { continue };
                let pin = values::pin_from(row.value.clone()).map_err(StoreError::row("a pin"))?;
                self.complete_pin(&space, id, pin).await?;
            }
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                break;
            }
        }
        self.transact(|mut txn| {
            txn.put(rows::store(COMPLETE), "yes");
            async move { Ok((txn, ())) }
        })
        .await
    }

    async fn complete_pin(&self, space: &Space, id: PinId, mut pin: Pin) -> Result<(), StoreError> {
        if let (Pinned::Tree(root), None) = (&pin.what, pin.closure) {
            match self.walk(space, *root, std::iter::empty(), None).await {
                Ok(walked) => pin.closure = Some(self.put_bytes(space, walked.encode()).await?),
                Err(error @ (StoreError::Missing { .. } | StoreError::NotFound { .. } | StoreError::Lost { .. })) => {
                    tracing::warn!(%error, pinned = %pin.what, "a pinned tree is not whole; what is left of it is not kept");
                }
                Err(error) => return Err(error),
            }
        }
        let closure = pin.closure;
        self.transact(|mut txn| async move {
            let row = rows::pin(space, &id);
            let Some(there) = txn.get_one(row.clone()).await? else { return Ok((txn, ())) };
            // It may have another reason and end by now.
            let mut there = values::pin_from(there.value).map_err(StoreError::row("a pin"))?;
            if there.closure.is_none() && txn.get_one(rows::tally(space, &Referrer::Pin(id))).await?.is_none() {
                there.closure = closure;
                self.begin_pin(&mut txn, space, &id, &there, true).await?;
                txn.put(row, values::pin_to(&there));
            }
            Ok((txn, ()))
        })
        .await
    }

    /// The list of what a success refers to, stored anew; `None` if it has none, or is not whole.
    async fn list_anew(&self, space: &Space, execution: &Execution) -> Result<Option<Digest>, StoreError> {
        let (State::Succeeded, Some(outputs)) = (execution.state, execution.outcome.outputs) else { return Ok(None) };
        let (_, spec) = self.execution_and_spec(space, execution.id).await?;
        let logs = [execution.outcome.stdout, execution.outcome.stderr].into_iter().flatten().map(|log| log.digest);
        match self.walk(space, outputs, logs, Some(&spec)).await {
            Ok(walked) => Ok(Some(self.put_bytes(space, walked.encode()).await?)),
            Err(error @ (StoreError::Missing { .. } | StoreError::NotFound { .. } | StoreError::Lost { .. })) => {
                tracing::warn!(execution = %execution.id, %error, "a success is not whole; what is left of it is not kept");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives a success from before there were lists one, unless it is the record, whose list is known: what is to be counted then.
    pub(super) async fn complete_execution(
        &self,
        space: &Space,
        referrer: &Referrer,
        tally: Tally,
    ) -> Result<Tally, StoreError> {
        let Referrer::Execution(id) = referrer else { return Ok(tally) };
        if !tally.adds || tally.done > 0 || tally.references.closure.is_some() {
            return Ok(tally);
        }
        let execution = match self.execution(space, *id).await {
            Err(StoreError::NotFound { .. }) => return Ok(tally),
            execution => execution?,
        };
        let Some(list) = self.list_anew(space, &execution).await? else { return Ok(tally) };
        self.transact(|mut txn| async move {
            let place = rows::tally(space, referrer);
            let Some(there) = txn.get_one(place.clone()).await? else {
                return Ok((txn, Tally::begin(References::default())));
            };
            let there = values::tally_from(there.value).map_err(StoreError::row(referrer))?;
            let execution = self.execution_in(&mut txn, space, *id).await;
            if !there.adds || there.done > 0 || there.references.closure.is_some() || execution.is_err() {
                return Ok((txn, there));
            }
            let execution = Execution { closure: Some(list), ..execution? };
            let tally = Tally::begin(References::of(&execution));
            txn.put(rows::execution(space, *id), values::execution_to(&execution));
            txn.put(place, values::tally_to(&tally));
            Ok((txn, tally))
        })
        .await
    }

    /// Makes a list that was lost once more, from the outputs; whether it can be read now.
    pub(super) async fn heal_list(&self, space: &Space, execution: &Execution) -> Result<bool, StoreError> {
        let Some(list) = execution.closure else { return Ok(false) };
        if self.list_anew(space, execution).await? != Some(list) {
            return Ok(false);
        }
        Ok(self.read_whole(space, &list, list.size).await.is_ok())
    }
}
