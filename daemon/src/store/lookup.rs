//! Looking up: the rows of keys and of executions, and the answers that they give.
//!
//! Invariant: the rows of a key are read at one moment, those of thousands of keys in one read; what it costs beyond that is asked for by those answers
//! alone that are not SUCCEEDED, or whose record was not tested since something was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use provender_core::batch::{Row, RowKey, Version};
use provender_core::execution::State;
use provender_core::key::TaskKey;
use provender_core::name::Space;
use provender_core::transition::Known;
use provender_core::{Answer, Execution, ExecutionId, Spec, rows};
use provender_proto::rows as values;
use tokio_util::task::AbortOnDropHandle;

use super::{Store, StoreError, Txn};

/// Of more keys than this, each so many are looked up by themselves, side by side.
const PIECE: usize = 2_500;
/// How long a test may take that others would wait for.
const SOON: Duration = Duration::from_secs(1);

/// What the rows of a key say, within one transaction.
pub(super) struct Standing {
    pub(super) known: Known,
    pub(super) lease_version: Option<Version>,
    pub(super) incarnation: u64,
    /// How far the log of lost digests had grown.
    pub(super) lost: u64,
}

impl Store {
    /// The verdicts of keys, in their order.
    pub async fn lookup(&self, space: &Space, keys: &[TaskKey]) -> Result<Vec<Answer>, StoreError> {
        let mut answers = match keys.len() {
            0..=PIECE => self.verdicts(space, keys).await?,
            _ => {
                let pieces = keys.chunks(PIECE).map(|keys| {
                    let (store, space, keys) = (self.clone(), space.clone(), keys.to_vec());
                    AbortOnDropHandle::new(tokio::spawn(async move { store.verdicts(&space, &keys).await }))
                });
                let mut answers = Vec::with_capacity(keys.len());
                for piece in pieces.collect::<Vec<_>>() {
                    answers.extend(piece.await.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()))?);
                }
                answers
            }
        };
        let mut counts = BTreeMap::new();
        for alike in answers.chunk_by(|one, next| one.verdict == next.verdict) {
            *counts.entry(alike[0].verdict.as_str()).or_default() += alike.len() as u64;
        }
        for (verdict, count) in counts {
            self.inner.metrics.lookups.with_label_values(&[verdict]).inc_by(count);
        }
        let ids: Vec<_> = answers.iter().filter_map(Answer::rests_on).collect();
        let executions = self.executions(space, &ids).await?;
        for answer in &mut answers {
            if let Some(execution) = answer.rests_on().and_then(|id| executions.get(&id)) {
                answer.explain(execution);
            }
        }
        Ok(answers)
    }

    /// What the rows of keys come to.
    async fn verdicts(&self, space: &Space, keys: &[TaskKey]) -> Result<Vec<Answer>, StoreError> {
        let answering = self.answering();
        let known = self.answers_of(space, keys).await?;
        if !answering.is_late() {
            return Ok(known.iter().map(Answer::of).collect());
        }
        // Somebody may collect what was noted too late; what still stands once it is written down stays.
        self.flush_used().await?;
        Ok(self.answers_of(space, keys).await?.iter().map(Answer::of).collect())
    }

    /// What the rows of keys say, and notes which of them are answers.
    async fn answers_of(&self, space: &Space, keys: &[TaskKey]) -> Result<Vec<Known>, StoreError> {
        let mut known = self.known_of(space, keys).await?;
        // Who answers with a record that is about to be collected says first that it stays.
        let leaving: Vec<_> =
            (0..keys.len()).filter(|at| known[*at].row.leaving && known[*at].answer().is_some()).collect();
        if !leaving.is_empty() {
            let keys: Vec<_> = leaving.iter().map(|at| keys[*at].clone()).collect();
            self.rescue(space, &keys).await?;
            leaving.into_iter().zip(self.known_of(space, &keys).await?).for_each(|(at, read)| known[at] = read);
        }
        let answered = keys.iter().zip(&known).filter(|(_, known)| known.answer().is_some());
        self.note_used(space, answered.map(|(key, _)| key));
        Ok(known)
    }

    /// What the rows of keys say, in their order; records that cannot be served are LOST.
    pub(super) async fn known_of(&self, space: &Space, keys: &[TaskKey]) -> Result<Vec<Known>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut known = self.known_by(space, keys, |key| [rows::key(space, key)]).await?;
        // Of a record that is the answer nobody asks who holds the lease. Of the rest both rows are read, at one moment.
        let open: Vec<_> = (0..keys.len()).filter(|at| known[*at].answer().is_none()).collect();
        if !open.is_empty() {
            let keys: Vec<_> = open.iter().map(|at| keys[*at].clone()).collect();
            let read = self.known_by(space, &keys, |key| known_rows(space, key)).await?;
            open.into_iter().zip(read).for_each(|(at, read)| known[at] = read);
        }
        Ok(known)
    }

    /// What these rows of keys say at one moment, and the log of lost digests with them.
    async fn known_by<const EACH: usize>(
        &self,
        space: &Space,
        keys: &[TaskKey],
        rows_of: impl Fn(&TaskKey) -> [RowKey; EACH],
    ) -> Result<Vec<Known>, StoreError> {
        let mut wanted = Vec::with_capacity(EACH * keys.len() + 1);
        wanted.extend(keys.iter().flat_map(rows_of));
        wanted.push(rows::store(rows::LOST_HEAD));
        let mut found = self.inner.meta.get(&wanted).await?;
        let lost = super::lost::head(found.pop().flatten())?;
        let known = keys.iter().zip(found.chunks_exact(EACH)).map(|(key, found)| decode_known(key, found));
        let mut known = known.collect::<Result<Vec<_>, _>>()?;
        self.test_records(space, keys, &mut known, lost).await?;
        Ok(known)
    }

    /// An execution, and what the rows of its key say. These are two readings; a lease goes in the batch that ends its execution, so
    /// one that seems to run without it is read again: it shall be told how it ended, not that somebody fenced it out.
    pub(super) async fn attempt(
        &self,
        txn: &mut Txn,
        space: &Space,
        id: ExecutionId,
    ) -> Result<(Execution, Standing), StoreError> {
        let mut execution = self.execution_in(txn, space, id).await?;
        let standing = self.known(txn, space, &execution.key).await?;
        let holds = standing.known.lease.as_ref().is_some_and(|lease| lease.execution == id);
        if execution.state == State::Running && !holds {
            execution = self.execution_in(txn, space, id).await?;
        }
        Ok((execution, standing))
    }

    /// What is known of a key, if its record is tested.
    pub(super) async fn tested(
        &self,
        space: &Space,
        key: &TaskKey,
        known: &Known,
        lost: u64,
    ) -> Result<Known, StoreError> {
        let mut tested = known.clone();
        self.test_records(space, std::slice::from_ref(key), std::slice::from_mut(&mut tested), lost).await?;
        Ok(tested)
    }

    /// What the rows of a key say, as part of a transaction. The store's incarnation is read with them, so that a restore
    /// fences executors out whichever daemon they ask.
    pub(super) async fn known(&self, txn: &mut Txn, space: &Space, key: &TaskKey) -> Result<Standing, StoreError> {
        let [row, lease] = known_rows(space, key);
        let beside = rows::store(rows::LOST_HEAD);
        let (found, lost) = txn.get_beside(&[row, lease, rows::store("incarnation")], beside).await?;
        let incarnation = found[2].as_ref().and_then(|row| std::str::from_utf8(&row.value).ok()?.parse().ok());
        let damaged = || StoreError::Row { what: "the store's incarnation".into(), why: "it is unreadable".into() };
        Ok(Standing {
            known: decode_known(key, &found)?,
            lease_version: found[1].as_ref().map(|row| row.version),
            incarnation: incarnation.ok_or_else(damaged)?,
            lost: super::lost::head(lost)?,
        })
    }

    /// The same where nothing may wait for it: what cannot be tested soon is taken as it stands, and is LOST to who looks it up later.
    pub(super) async fn tested_soon(&self, space: &Space, key: &TaskKey, known: &Known, lost: u64) -> Known {
        let tested = tokio::time::timeout(SOON, self.tested(space, key, known, lost)).await;
        tested.ok().and_then(Result::ok).unwrap_or_else(|| known.clone())
    }

    /// An execution, as part of a transaction.
    pub(super) async fn execution_in(
        &self,
        txn: &mut Txn,
        space: &Space,
        id: ExecutionId,
    ) -> Result<Execution, StoreError> {
        let row = txn.get_one(rows::execution(space, id)).await?;
        decode_execution(id, row.map(|row| row.value))
    }

    /// An execution.
    pub async fn execution(&self, space: &Space, id: ExecutionId) -> Result<Execution, StoreError> {
        let row = self.inner.meta.get(&[rows::execution(space, id)]).await?.pop().flatten();
        decode_execution(id, row.map(|row| row.value))
    }

    /// An execution and its spec.
    pub async fn execution_and_spec(&self, space: &Space, id: ExecutionId) -> Result<(Execution, Spec), StoreError> {
        let execution = self.execution(space, id).await?;
        let row = self.inner.meta.get(&[rows::spec(space, &execution.spec)]).await?.pop().flatten();
        let what = format!("the spec of execution {id}");
        let row = row.ok_or_else(|| StoreError::Row { what: what.clone(), why: "it is missing".into() })?;
        Ok((execution, values::spec_from(row.value).map_err(StoreError::row(what))?))
    }

    /// Those of the executions that there are.
    pub(super) async fn executions(
        &self,
        space: &Space,
        ids: &[ExecutionId],
    ) -> Result<BTreeMap<ExecutionId, Execution>, StoreError> {
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let ids: Vec<_> = ids.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let wanted: Vec<_> = ids.iter().map(|id| rows::execution(space, *id)).collect();
        let found = self.inner.meta.get(&wanted).await?;
        let pairs = ids.iter().zip(found).filter_map(|(id, row)| row.map(|row| (*id, row.value)));
        pairs.map(|(id, value)| Ok((id, decode_execution(id, Some(value))?))).collect()
    }
}

pub(super) fn known_rows(space: &Space, key: &TaskKey) -> [RowKey; 2] {
    [rows::key(space, key), rows::lease(space, key)]
}

pub(super) fn decode_known(key: &TaskKey, found: &[Option<Row>]) -> Result<Known, StoreError> {
    let value = |n: usize| found.get(n).and_then(Option::as_ref).map(|row| row.value.clone());
    let row = value(0).map(|value| values::key_from(value).map_err(StoreError::row(key))).transpose()?;
    let lease = value(1).map(|value| values::lease_from(value).map_err(StoreError::row(key))).transpose()?;
    Ok(Known { row: row.unwrap_or_default(), lease })
}

fn decode_execution(id: ExecutionId, value: Option<Bytes>) -> Result<Execution, StoreError> {
    let value = value.ok_or_else(|| StoreError::NotFound { what: format!("execution {id}") })?;
    values::execution_from(value).map_err(StoreError::row(format!("execution {id}")))
}
