//! Taking executions from view: their records are EVICTED, and the rows go by which people find them.
//!
//! A record is answered with by lookups that write nothing, so before it goes its key's row says that it is leaving: who answers with it
//! from then on says first that it stays. Whoever has answered before has written that down by the time that a run goes on. Invariant: in
//! one batch the record is void, the execution is gone, and what it referred to is to be uncounted; the batch expects that it was neither
//! used nor pinned.

use futures::{StreamExt, stream};
use provender_core::batch::{RowKey, Table};
use provender_core::collect::rules::Rule;
use provender_core::collect::{self, Collected, References, Referrer, Tally};
use provender_core::execution::State;
use provender_core::name::Space;
use provender_core::transition::Known;
use provender_core::{Execution, Timestamp, rows};
use provender_proto::rows as values;

use super::super::lookup::{decode_known, known_rows};
use super::super::used;
use super::super::{Store, StoreError, Txn};
use super::{Going, PINS, Run};
use crate::clock;

/// How many keys are told at once that their records leave.
const LEAVING: usize = 200;
/// How many go side by side; and where lookups come over the same few connections.
const AT_ONCE: usize = 16;
const AT_ONCE_SHARED: usize = 2;
/// How often pins are read anew for a piece.
const PINNED_MEANWHILE: usize = 10;
/// How many rows one that goes is about.
const ROWS: usize = 20;

impl Run<'_> {
    /// Takes these away, unless somebody has come to need them; in a dry run only says so.
    pub(super) async fn take_away(&mut self, going: &[Going]) -> Result<(), StoreError> {
        for one in going {
            (self.tell)(one);
            self.done.executions += 1;
            self.done.records += u64::from(one.is_record);
            self.done.frees += one.frees;
        }
        if self.dry_run || going.is_empty() {
            return Ok(());
        }
        let records: Vec<_> = going.iter().filter(|one| one.is_record).collect();
        for piece in records.chunks(LEAVING) {
            self.store.announce(piece).await?;
            self.pace(2 * piece.len()).await?;
        }
        if !records.is_empty() {
            used::wait_for_answers(self.store).await?;
        }
        for piece in going.chunks(64 * AT_ONCE) {
            let mut left: Vec<_> = piece.iter().collect();
            for _ in 0..PINNED_MEANWHILE {
                let (store, pins) = (self.store, &self.pins);
                let buried = left.iter().map(|one| async move { (*one, store.bury(one, pins).await) });
                let buried: Vec<_> =
                    stream::iter(buried.collect::<Vec<_>>()).buffer_unordered(self.store.at_once()).collect().await;
                left.clear();
                for (one, buried) in buried {
                    match buried? {
                        Buried::Gone => {
                            self.store.inner.metrics.collected.with_label_values(&[one.rule.as_str()]).inc();
                        }
                        Buried::Stays => self.done.spared += 1,
                        Buried::PinsChanged => left.push(one),
                    }
                }
                self.store.inner.collecting.room.progressed();
                if left.is_empty() {
                    break;
                }
                self.pins = self.store.record_pins(false).await?;
            }
            // They are still said to leave, and the next run goes on.
            self.done.spared += left.len() as u64;
            self.pace(ROWS * piece.len()).await?;
        }
        Ok(())
    }
}

/// What became of one that was to go.
enum Buried {
    Gone,
    /// Somebody has come to need it.
    Stays,
    /// Which pins there are has to be read anew.
    PinsChanged,
}

impl Store {
    /// How many are worked at side by side.
    pub(super) fn at_once(&self) -> usize {
        if self.is_shared() { AT_ONCE_SHARED } else { AT_ONCE }
    }

    /// An execution that goes.
    #[expect(clippy::too_many_arguments, reason = "they are the parts of one thing")]
    pub(super) fn going(
        &self,
        space: &Space,
        execution: &Execution,
        is_record: bool,
        used: Timestamp,
        rule: Rule,
        reason: String,
        row: Option<RowKey>,
    ) -> Going {
        Going {
            space: space.clone(),
            execution: execution.id,
            key: execution.key.clone(),
            name: execution.name.clone(),
            is_record,
            used,
            rule,
            reason,
            frees: 0,
            row,
        }
    }

    /// Says of records that they are about to go.
    async fn announce(&self, going: &[&Going]) -> Result<(), StoreError> {
        self.transact(|mut txn| async move {
            let keys: Vec<_> = going.iter().map(|one| rows::key(&one.space, &one.key)).collect();
            for ((one, place), row) in going.iter().zip(&keys).zip(txn.get(&keys).await?) {
                let Some(row) = row else { continue };
                let mut row = values::key_from(row.value).map_err(StoreError::row(&one.key))?;
                let is_it = row.record.as_ref().is_some_and(|record| record.execution == one.execution);
                if is_it && !row.leaving {
                    row.leaving = true;
                    txn.put(place.clone(), values::key_to(&row));
                }
            }
            Ok((txn, ()))
        })
        .await
    }

    /// Takes one away, if it still is what it was chosen for and nobody needs it.
    async fn bury(&self, going: &Going, pins: &super::Pins) -> Result<Buried, StoreError> {
        let Going { space, key, execution: id, .. } = going;
        self.transact(|mut txn| async move {
            let [key_row, lease_row] = known_rows(space, key);
            let referrer = Referrer::Execution(*id);
            let wanted = [
                key_row.clone(),
                lease_row,
                rows::execution(space, *id),
                rows::used(space, key),
                rows::tally(space, &referrer),
                rows::store(PINS),
            ];
            let found = txn.get(&wanted).await?;
            let known = decode_known(key, &found[..2])?;
            let Some(row) = &found[2] else { return Ok((txn, Buried::Stays)) };
            let execution = values::execution_from(row.value.clone()).map_err(StoreError::row(&referrer))?;
            let now = clock::now();
            let spared = |why: &str| tracing::debug!(execution = %id, "not collected: {why}");
            if execution.state == State::Running {
                return Ok((txn, Buried::Stays));
            }
            if collect::is_record(&known, &execution) {
                let used = found[3].as_ref().map(|row| values::holding_from(row.value.clone())).transpose();
                let used = used.map_err(StoreError::row(key))?;
                let lost = going.rule == Rule::Lost;
                if !going.is_record || !(known.row.leaving || lost) {
                    spared("it was answered with");
                    return Ok((txn, Buried::Stays));
                }
                if used.is_some_and(|used| used >= collect::ago(now, self.protection())) && !lost {
                    spared("it was used");
                    return self.stays(txn, space, going, known).await.map(|txn| (txn, Buried::Stays));
                }
                if !lost && found[5].as_ref().map(|row| row.version) != pins.version {
                    return Ok((txn, Buried::PinsChanged));
                }
                if !lost && self.is_pinned(pins, space, &execution).await? {
                    spared("it is pinned");
                    return self.stays(txn, space, going, known).await.map(|txn| (txn, Buried::Stays));
                }
            }
            let tally = found[4].as_ref().map(|row| values::tally_from(row.value.clone())).transpose();
            let tally = tally.map_err(StoreError::row(&referrer))?;
            self.remove_rows(&mut txn, space, going, &execution).await?;
            let collected = Collected { at: now, rule: going.rule.as_str().into(), reason: going.reason.clone() };
            let row = collect::collect(&known, &execution, &collected);
            let after = Known { row: row.clone(), lease: known.lease.clone() };
            if after.verdict() != known.verdict() {
                Store::tell(&mut txn, space, &known, &after, &execution);
            }
            if row.record.as_ref().is_none_or(|record| record.execution == *id) {
                txn.delete(rows::used(space, key));
            }
            txn.put(key_row, values::key_to(&row));
            txn.put(rows::tombstone(space, now, key), "");
            let mut tally = Tally::end(References::of(&execution), tally.as_ref());
            tally.gone = Some(Box::new(execution));
            txn.put(rows::tally(space, &referrer), values::tally_to(&tally));
            Ok((txn, Buried::Gone))
        })
        .await
    }

    /// It does not go after all.
    async fn stays(&self, mut txn: Txn, space: &Space, going: &Going, known: Known) -> Result<Txn, StoreError> {
        let mut row = known.row;
        row.leaving = false;
        txn.put(rows::key(space, &going.key), values::key_to(&row));
        Ok(txn)
    }

    /// The rows by which it is shown: under its key, its own name, and those under which it was asked for. Which these were is kept until
    /// the names themselves were looked at.
    async fn remove_rows(
        &self,
        txn: &mut Txn,
        space: &Space,
        going: &Going,
        execution: &Execution,
    ) -> Result<(), StoreError> {
        let (id, key, name, began) = (execution.id, &execution.key, &execution.name, execution.began);
        let ended = execution.ended.unwrap_or_default();
        txn.delete(rows::execution(space, id));
        txn.delete(rows::key_history(space, key, began, id));
        txn.delete(rows::name_history(space, name, began, id));
        txn.delete(rows::name_record(space, name, ended, id));
        txn.delete(rows::aged(space, ended, id));
        going.row.iter().for_each(|row| txn.delete(row.clone()));
        if let Some(folder) = &execution.folder {
            let table = if execution.state == State::Succeeded { Table::Folder } else { Table::FailedFolder };
            txn.delete(rows::folder(space, table, name, folder));
        }
        let mut scan = crate::meta::Scan::prefix(Table::Shown, rows::shown_prefix(space, id));
        loop {
            let page = self.inner.meta.scan(&scan).await?;
            for (row, _) in &page.rows {
                let Some(name) = rows::parse_shown(space, id, row) else { continue };
                let listed = rows::name_record(space, &name, ended, id);
                if let Some(folder) = txn.get_one(listed.clone()).await? {
                    let folder = String::from_utf8_lossy(&folder.value);
                    txn.delete(rows::folder(space, Table::Folder, &name, &folder));
                }
                txn.delete(listed);
            }
            scan.after = page.rows.last().map(|(key, _)| key.clone());
            if !page.more {
                return Ok(());
            }
        }
    }
}
