//! Counting referrers of few references together, since a batch each would cost far more than what it counts.
//!
//! Invariants: those of [`super::count`]; what is counted here is so in one batch from first to last, with others that are. Whatever is not as it
//! should be is left to that room.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::{StreamExt, stream};
use provender_core::batch::{Row, RowKey};
use provender_core::collect::{Due, Idle, Reference, Referrer, Tally};
use provender_core::name::Space;
use provender_core::{Digest, Timestamp, rows};
use provender_proto::rows as values;

use super::super::blobs::INLINE_MAX;
use super::super::{Store, StoreError};
use super::Run;
use crate::clock;

/// How many references one batch counts.
const TOGETHER: u64 = 2_000;

/// A referrer of which nothing is counted yet, or all.
struct Small {
    space: Space,
    referrer: Referrer,
    tally: Tally,
    /// What it refers to: the counts, and the blobs that they are of.
    keys: Vec<(RowKey, Option<Digest>)>,
    /// Its row, for who goes on with it if it cannot be counted here.
    row: (Bytes, Row),
}

impl Run<'_> {
    /// Counts, or takes back, what referrers refer to that refer to little; gives back the rows of the others.
    pub(super) async fn count_together(&mut self, tallies: Vec<(Bytes, Row)>) -> Result<Vec<(Bytes, Row)>, StoreError> {
        let (mut rest, mut group, mut references) = (Vec::new(), Vec::new(), 0);
        for row in tallies {
            let damaged = || StoreError::Row { what: format!("{:?}", row.0), why: "it is of no referrer".into() };
            let (space, referrer) = rows::parse_tally(&row.0).ok_or_else(damaged)?;
            let tally = values::tally_from(row.1.value.clone()).map_err(StoreError::row(&referrer))?;
            if !is_small(&referrer, &tally) {
                rest.push(row);
                continue;
            }
            references += tally.references.len();
            group.push(Small { space, referrer, tally, keys: Vec::new(), row });
            if references >= TOGETHER {
                rest.extend(self.count_group(std::mem::take(&mut group)).await?);
                references = 0;
            }
        }
        rest.extend(self.count_group(group).await?);
        Ok(rest)
    }

    async fn count_group(&mut self, mut group: Vec<Small>) -> Result<Vec<(Bytes, Row)>, StoreError> {
        if !self.store.add_references(&mut group).await? {
            return Ok(group.into_iter().map(|one| one.row).collect());
        }
        let gone = group.iter_mut().filter_map(|one| Some((one.space.clone(), one.tally.gone.take()?)));
        let gone = gone.collect::<Vec<_>>();
        let store = self.store;
        let erased = gone.iter().map(|(space, gone)| store.erase(space, gone)).collect::<Vec<_>>();
        let erased: Vec<Result<usize, StoreError>> =
            stream::iter(erased).buffer_unordered(self.store.at_once()).collect().await;
        for rows in erased {
            self.pace(rows?).await?;
        }
        let counted = self.store.count_all(&group).await?;
        let mut rest = Vec::new();
        for (one, counted) in group.into_iter().zip(counted) {
            match counted {
                true => {
                    self.done.counted += 1;
                    self.pace(2 * one.keys.len() + 2).await?;
                }
                false => rest.push(one.row),
            }
        }
        Ok(rest)
    }
}

/// Whether it can be counted in one step. A success without a list is not whole yet.
fn is_small(referrer: &Referrer, tally: &Tally) -> bool {
    let all = if tally.adds { 0 } else { tally.references.len() };
    let list = tally.references.closure;
    tally.done == all
        && tally.references.len() <= TOGETHER
        && list.is_none_or(|list| list.size <= INLINE_MAX)
        && (list.is_some() || !tally.adds || !matches!(referrer, Referrer::Execution(_)))
}

impl Store {
    /// Reads what each refers to; whether that could be done.
    async fn add_references(&self, group: &mut [Small]) -> Result<bool, StoreError> {
        let mut lists: BTreeMap<Space, BTreeSet<Digest>> = BTreeMap::new();
        for one in &*group {
            let list = one.tally.references.closure;
            list.iter().for_each(|list| _ = lists.entry(one.space.clone()).or_default().insert(*list));
        }
        let mut read = BTreeMap::new();
        for (space, lists) in lists {
            let lists: Vec<_> = lists.into_iter().collect();
            let found = match self.read_small(&space, &lists).await {
                Err(StoreError::Lost { .. } | StoreError::NotFound { .. }) => return Ok(false),
                found => found?,
            };
            for (list, bytes) in lists.into_iter().zip(found) {
                let Some(bytes) = bytes else { return Ok(false) };
                read.insert((space.clone(), list), values::digests_from(&bytes).map_err(StoreError::row(list))?);
            }
        }
        for Small { space, tally, keys, .. } in group {
            let references = &tally.references;
            let listed = references.closure.and_then(|list| read.get(&(space.clone(), list)));
            for at in 0..references.len() {
                let blob = match references.at(at) {
                    Some(Reference::Blob(blob)) => Some(blob),
                    Some(Reference::Listed(place)) => listed.and_then(|listed| listed.get(place as usize)).copied(),
                    Some(Reference::Spec(spec)) => {
                        keys.push((rows::spec_count(space, &spec), None));
                        None
                    }
                    None => None,
                };
                keys.extend(blob.map(|blob| (rows::count(space, &blob), Some(blob))));
            }
        }
        Ok(true)
    }

    /// Counts all of them, or takes them back; which ones, since some may have turned round meanwhile.
    async fn count_all(&self, group: &[Small]) -> Result<Vec<bool>, StoreError> {
        if group.is_empty() {
            return Ok(Vec::new());
        }
        self.transact(|mut txn| async move {
            let places: Vec<_> = group.iter().map(|one| rows::tally(&one.space, &one.referrer)).collect();
            let mut is_same = Vec::with_capacity(group.len());
            for (one, row) in group.iter().zip(txn.get(&places).await?) {
                let tally = row.map(|row| values::tally_from(row.value)).transpose();
                let tally = tally.map_err(StoreError::row(&one.referrer))?;
                let was = |tally: &Tally| (tally.adds, tally.done) == (one.tally.adds, one.tally.done);
                is_same.push(tally.is_some_and(|tally| was(&tally) && tally.references == one.tally.references));
            }
            let each: Vec<_> = group.iter().zip(&places).zip(&is_same).filter(|(_, same)| **same).collect();
            let keys: BTreeSet<_> =
                each.iter().flat_map(|((one, _), _)| &one.keys).map(|(key, _)| key.clone()).collect();
            let keys: Vec<_> = keys.into_iter().collect();
            let mut counts = BTreeMap::new();
            for (key, row) in keys.iter().zip(txn.get(&keys).await?) {
                let count = row.map_or(Ok(0), |row| values::count_from(row.value));
                counts.insert(key, count.map_err(StoreError::row("a count"))?);
            }
            for ((one, _), _) in &each {
                for (key, _) in &one.keys {
                    let Some(count) = counts.get_mut(key) else { continue };
                    *count = if one.tally.adds { *count + 1 } else { count.saturating_sub(1) };
                }
            }
            let (now, mut idle) = (clock::now(), BTreeMap::new());
            for ((one, _), _) in &each {
                for (key, blob) in &one.keys {
                    // Once, however many refer to it.
                    let Some(count) = counts.remove(key) else { continue };
                    match count {
                        0 => txn.delete(key.clone()),
                        count => txn.put(key.clone(), values::count_to(count)),
                    }
                    match (count, blob, one.tally.references.spec) {
                        (1.., ..) => {}
                        (0, Some(blob), _) => idle.entry(&one.space).or_insert_with(Vec::new).push(*blob),
                        (0, None, Some(spec)) => txn.put(rows::due(&one.space, now, &Due::Spec(spec)), ""),
                        (0, None, None) => {}
                    }
                }
            }
            idle.iter().for_each(|(space, blobs)| txn.idle(space, Timestamp::MIN, Idle::Left, blobs));
            each.iter().for_each(|((_, place), _)| txn.delete((*place).clone()));
            let come = each.iter().filter_map(|((one, _), _)| match one.referrer {
                Referrer::Execution(id) if one.tally.adds => Some((&one.space, rows::execution(&one.space, id))),
                _ => None,
            });
            let (spaces, executions): (Vec<_>, Vec<_>) = come.unzip();
            for ((space, place), row) in spaces.iter().zip(&executions).zip(txn.get(&executions).await?) {
                let Some(row) = row else { continue };
                let execution = values::execution_from(row.value).map_err(StoreError::row(format!("{place:?}")))?;
                let ended = execution.ended.unwrap_or_default();
                txn.put(rows::aged(space, ended, execution.id), "");
                self.schedule_by_rules(&mut txn, space, &execution, ended, self.collection());
            }
            Ok((txn, is_same))
        })
        .await
    }
}
