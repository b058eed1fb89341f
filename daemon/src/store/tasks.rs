//! The executor's API: lookup, begin, heartbeat, commit, fail.

use std::collections::BTreeMap;

use bytes::Bytes;
use provender_core::batch::{RowKey, Table, Version};
use provender_core::execution::{Outcome, State};
use provender_core::key::TaskKey;
use provender_core::name::{Name, Space};
use provender_core::transition::{self, Begun, Ended, Evidence, Known, Record, Request};
use provender_core::tree::Tree;
use provender_core::{Digest, Execution, ExecutionId, Spec, Timestamp, Verdict, rows, view};
use provender_proto::rows as values;

use super::{Store, StoreError, Txn};
use crate::clock;

/// What a lookup says of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The verdict.
    pub verdict: Verdict,
    /// The execution that it rests on.
    pub execution: Option<ExecutionId>,
    /// The outputs of a success.
    pub outputs: Option<Digest>,
    /// Why it is not SUCCEEDED, for people.
    pub reason: String,
}

/// What `begin` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// It is done.
    Hit(Execution),
    /// Do it.
    Lease(Execution, std::time::Duration),
    /// Somebody else is at it.
    Busy(Execution),
}

impl Store {
    /// The verdicts of keys, in their order.
    pub async fn lookup(&self, space: &Space, keys: &[TaskKey]) -> Result<Vec<Answer>, StoreError> {
        let wanted: Vec<_> = keys.iter().flat_map(|key| [rows::key(space, key), rows::lease(space, key)]).collect();
        let found = self.inner.meta.get(&wanted).await?;
        let mut answers = Vec::with_capacity(keys.len());
        for (key, pair) in keys.iter().zip(found.chunks_exact(2)) {
            let known = decode_known(key, pair)?;
            let (verdict, execution) = (known.verdict(), known.evidence());
            self.inner.metrics.lookups.with_label_values(&[verdict.as_str()]).inc();
            let outputs = known.answer().map(|record| record.outputs);
            answers.push(Answer { verdict, execution, outputs, reason: reason(&known) });
        }
        self.explain_failures(space, &mut answers).await?;
        Ok(answers)
    }

    /// Adds the reasons that stand with the executions.
    async fn explain_failures(&self, space: &Space, answers: &mut [Answer]) -> Result<(), StoreError> {
        let failed = |answer: &Answer| matches!(answer.verdict, Verdict::Failed | Verdict::Abandoned);
        let ids: Vec<_> =
            answers.iter().filter(|answer| failed(answer)).filter_map(|answer| answer.execution).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mut executions = self.executions(space, &ids).await?;
        for answer in answers.iter_mut().filter(|answer| failed(answer)) {
            let execution = answer.execution.and_then(|id| executions.remove(&id));
            answer.reason = execution.and_then(|execution| execution.reason).unwrap_or_default();
        }
        Ok(())
    }

    /// Asks for a hit or a lease. A hit moves the `latest` of the name that it was asked under.
    pub async fn begin(&self, space: &Space, request: &Request) -> Result<Begin, StoreError> {
        let begun = self
            .transact(|mut txn| async move {
                let now = clock::now();
                let (known, _) = self.known(&mut txn, space, &request.key).await?;
                let begun = match transition::begin(&known, request, self.inner.incarnation, now) {
                    Begun::Hit(record) => {
                        let execution = self.execution_in(&mut txn, space, record.execution).await?;
                        self.show(&mut txn, space, &request.spec.name, &execution, now).await?;
                        Begin::Hit(execution)
                    }
                    Begun::Busy(lease) => Begin::Busy(self.execution_in(&mut txn, space, lease.execution).await?),
                    Begun::Granted { lease, execution, fresh } => {
                        if fresh {
                            self.write_begin(&mut txn, space, &execution, &request.spec).await?;
                            txn.put(rows::lease(space, &request.key), values::lease_to(&lease));
                        }
                        Begin::Lease(*execution, lease.ttl)
                    }
                };
                Ok((txn, begun))
            })
            .await?;
        let outcome = match &begun {
            Begin::Hit(_) => "hit",
            Begin::Lease(..) => "lease",
            Begin::Busy(_) => "busy",
        };
        self.inner.metrics.begins.with_label_values(&[outcome]).inc();
        Ok(begun)
    }

    /// What is notified when the key's row changes; see [`super::feed::Feed::of`].
    pub fn key_changes(&self, space: &Space, key: &TaskKey) -> std::sync::Arc<tokio::sync::Notify> {
        self.inner.feed.of(&rows::key(space, key))
    }

    /// Keeps a lease; says how long it lasts from now.
    pub async fn heartbeat(&self, space: &Space, id: ExecutionId) -> Result<std::time::Duration, StoreError> {
        self.transact(|mut txn| async move {
            let execution = self.execution_in(&mut txn, space, id).await?;
            let (known, _) = self.known(&mut txn, space, &execution.key).await?;
            let lease = transition::heartbeat(&known, &execution, self.inner.incarnation)?;
            txn.put(rows::lease(space, &execution.key), values::lease_to(&lease));
            Ok((txn, lease.ttl))
        })
        .await
    }

    /// Ends an execution as a success if all holds, else as a failure with the reason. Says also whether it became the record.
    /// Asked again after a lost answer, it answers the same.
    pub async fn commit(
        &self,
        space: &Space,
        id: ExecutionId,
        outcome: &Outcome,
    ) -> Result<(Execution, bool), StoreError> {
        // First without a walk: an executor that was fenced out shall not cost one.
        let (execution, spec) = self.execution_and_spec(space, id).await?;
        if let Some(ended) = self.ended_so(&execution, outcome, space).await? {
            return Ok(ended);
        }
        let known = self.known_now(space, &execution.key).await?;
        transition::heartbeat(&known, &execution, self.inner.incarnation)?;

        let mut outcome = outcome.clone();
        let root = match outcome.outputs {
            Some(root) => root,
            None => {
                let empty =
                    Tree::new().encode().map_err(|source| StoreError::Tree { digest: Digest::of(b""), source })?;
                self.put_small(space, vec![empty]).await?[0]
            }
        };
        outcome.outputs = Some(root);
        let evidence = self.evidence(space, &spec, &outcome, root).await?;
        let (spec, outcome, evidence) = (&spec, &outcome, &evidence);
        let ended = self
            .transact(|mut txn| async move {
                let execution = self.execution_in(&mut txn, space, id).await?;
                let (known, _) = self.known(&mut txn, space, &execution.key).await?;
                let (incarnation, now) = (self.inner.incarnation, clock::now());
                let ended = transition::commit(&known, &execution, spec, outcome.clone(), evidence, incarnation, now)?;
                let recorded = ended.recorded;
                let execution = self.write_end(&mut txn, space, ended, Some(spec)).await?;
                Ok((txn, (execution, recorded)))
            })
            .await?;
        self.inner.metrics.ended.with_label_values(&[ended.0.state.verdict().as_str()]).inc();
        Ok(ended)
    }

    /// Ends an execution as a failure.
    pub async fn fail(
        &self,
        space: &Space,
        id: ExecutionId,
        reason: &str,
        outcome: &Outcome,
    ) -> Result<Execution, StoreError> {
        let blobs: Vec<_> =
            [outcome.outputs, outcome.stdout.map(|log| log.digest), outcome.stderr.map(|log| log.digest)]
                .into_iter()
                .flatten()
                .collect();
        let missing = self.find_missing(space, &blobs).await?;
        if !missing.is_empty() {
            return Err(StoreError::Missing { missing });
        }
        let ended = self
            .transact(|mut txn| async move {
                let execution = self.execution_in(&mut txn, space, id).await?;
                if execution.state == State::Failed && execution.outcome == *outcome {
                    return Ok((txn, execution));
                }
                let (known, _) = self.known(&mut txn, space, &execution.key).await?;
                let (incarnation, now) = (self.inner.incarnation, clock::now());
                let ended = transition::fail(&known, &execution, reason.to_owned(), outcome.clone(), incarnation, now)?;
                let execution = self.write_end(&mut txn, space, ended, None).await?;
                Ok((txn, execution))
            })
            .await?;
        self.inner.metrics.ended.with_label_values(&["FAILED"]).inc();
        Ok(ended)
    }

    /// The answer to a commit that was already carried out, if this is one.
    async fn ended_so(
        &self,
        execution: &Execution,
        outcome: &Outcome,
        space: &Space,
    ) -> Result<Option<(Execution, bool)>, StoreError> {
        let outputs = outcome.outputs.or(execution.outcome.outputs);
        let same = execution.outcome == Outcome { outputs, ..outcome.clone() };
        if !same || !matches!(execution.state, State::Succeeded | State::Failed) {
            return Ok(None);
        }
        let known = self.known_now(space, &execution.key).await?;
        let recorded = known.row.record.is_some_and(|record: Record| record.execution == execution.id);
        Ok(Some((execution.clone(), recorded)))
    }

    async fn evidence(
        &self,
        space: &Space,
        spec: &Spec,
        outcome: &Outcome,
        root: Digest,
    ) -> Result<Evidence, StoreError> {
        let logs = [outcome.stdout, outcome.stderr].into_iter().flatten().map(|log| log.digest);
        let walked = self.walk(space, root, logs, spec).await?;
        let paths = spec.outputs.iter().chain(spec.policy.required.keys());
        let found = self.find_paths(space, root, paths).await?;
        let closure = self.put_bytes(space, walked.encode()).await?;
        Ok(Evidence { outputs: root, closure, found, stamp: 0 })
    }

    /// The rows of a begun execution.
    async fn write_begin(
        &self,
        txn: &mut Txn,
        space: &Space,
        execution: &Execution,
        spec: &Spec,
    ) -> Result<(), StoreError> {
        let (id, began) = (execution.id, execution.began);
        let row = rows::execution(space, id);
        if txn.get_one(row.clone()).await?.is_some() {
            let why = "this execution has ended; a new attempt takes a new id";
            return Err(provender_proto::convert::Invalid::new("execution", why).into());
        }
        txn.put(row, values::execution_to(execution));
        let (spec_row, name_row) = (rows::spec(space, &execution.spec), rows::name(space, &execution.name));
        // These two are never deleted or made to differ by others, so they are no reason to collide.
        let there = self.inner.meta.get(&[spec_row.clone(), name_row.clone()]).await?;
        if there[0].is_none() {
            txn.put(spec_row, values::spec_to(spec));
        }
        if there[1].is_none() {
            txn.get_one(name_row.clone()).await?;
            txn.put(name_row, values::name_to(None));
        }
        txn.put(rows::key_history(space, &execution.key, began, id), Bytes::new());
        txn.put(rows::name_history(space, &execution.name, began, id), Bytes::new());
        Ok(())
    }

    /// The rows of an ended execution; `spec` where it succeeded.
    pub(super) async fn write_end(
        &self,
        txn: &mut Txn,
        space: &Space,
        ended: Ended,
        spec: Option<&Spec>,
    ) -> Result<Execution, StoreError> {
        let Ended { mut execution, row, .. } = ended;
        let at = execution.ended.unwrap_or_default();
        let key = execution.key.clone();
        let succeeded = execution.state == State::Succeeded;
        let table = if succeeded { Table::Folder } else { Table::FailedFolder };
        let folder = self.new_folder(txn, space, table, &execution.name, &key, at, execution.id).await?;
        execution.folder = Some(folder.clone());
        txn.put(rows::key(space, &key), values::key_to(&row));
        txn.delete(rows::lease(space, &key));
        if succeeded {
            txn.put(rows::name_record(space, &execution.name, at, execution.id), folder);
            if execution.diverges_from.is_none() {
                txn.put(rows::name(space, &execution.name), values::name_to(Some(execution.id)));
            }
            for (name, input) in spec.into_iter().flat_map(|spec| &spec.inputs) {
                let edge = values::edge_to(name);
                if let Some(producer) = &input.key {
                    txn.put(rows::consumer_of_key(space, producer, execution.id), edge.clone());
                }
                if let Some(digest) = input.content.as_ref().and_then(|node| node.digest()) {
                    txn.put(rows::consumer_of_digest(space, &digest, execution.id), edge);
                }
            }
        }
        txn.put(rows::execution(space, execution.id), values::execution_to(&execution));
        Ok(execution)
    }

    /// Makes a success the `latest` of a name, under which it may not have been asked for before.
    async fn show(
        &self,
        txn: &mut Txn,
        space: &Space,
        name: &Name,
        execution: &Execution,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let row = rows::name(space, name);
        let found = self.inner.meta.get(std::slice::from_ref(&row)).await?.pop().flatten();
        let latest = found.map(|found| values::name_from(found.value).map_err(StoreError::row(name))).transpose()?;
        if latest == Some(Some(execution.id)) {
            return Ok(());
        }
        let at = execution.ended.unwrap_or(now);
        let listed = rows::name_record(space, name, at, execution.id);
        if txn.get_one(listed.clone()).await?.is_none() {
            let folder = self.new_folder(txn, space, Table::Folder, name, &execution.key, at, execution.id).await?;
            txn.put(listed, folder);
        }
        txn.put(row, values::name_to(Some(execution.id)));
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

    /// What the rows of a key say, as part of a transaction, and the version of its lease row.
    pub(super) async fn known(
        &self,
        txn: &mut Txn,
        space: &Space,
        key: &TaskKey,
    ) -> Result<(Known, Option<Version>), StoreError> {
        let found = txn.get(&known_rows(space, key)).await?;
        let stands = found[1].as_ref().map(|row| row.version);
        Ok((decode_known(key, &found)?, stands))
    }

    /// What the rows of a key say now.
    pub(super) async fn known_now(&self, space: &Space, key: &TaskKey) -> Result<Known, StoreError> {
        decode_known(key, &self.inner.meta.get(&known_rows(space, key)).await?)
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

    /// An execution and its spec.
    pub async fn execution_and_spec(&self, space: &Space, id: ExecutionId) -> Result<(Execution, Spec), StoreError> {
        let row = self.inner.meta.get(&[rows::execution(space, id)]).await?.pop().flatten();
        let execution = decode_execution(id, row.map(|row| row.value))?;
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
        let wanted: Vec<_> = ids.iter().map(|id| rows::execution(space, *id)).collect();
        let found = self.inner.meta.get(&wanted).await?;
        let pairs = ids.iter().zip(found).filter_map(|(id, row)| row.map(|row| (*id, row.value)));
        pairs.map(|(id, value)| Ok((id, decode_execution(id, Some(value))?))).collect()
    }
}

fn known_rows(space: &Space, key: &TaskKey) -> [RowKey; 2] {
    [rows::key(space, key), rows::lease(space, key)]
}

fn decode_known(key: &TaskKey, found: &[Option<provender_core::batch::Row>]) -> Result<Known, StoreError> {
    let value = |n: usize| found.get(n).and_then(Option::as_ref).map(|row| row.value.clone());
    let row = value(0).map(|value| values::key_from(value).map_err(StoreError::row(key))).transpose()?;
    let lease = value(1).map(|value| values::lease_from(value).map_err(StoreError::row(key))).transpose()?;
    Ok(Known { row: row.unwrap_or_default(), lease })
}

fn decode_execution(id: ExecutionId, value: Option<Bytes>) -> Result<Execution, StoreError> {
    let value = value.ok_or_else(|| StoreError::NotFound { what: format!("execution {id}") })?;
    values::execution_from(value).map_err(StoreError::row(format!("execution {id}")))
}

fn reason(known: &Known) -> String {
    match (known.verdict(), &known.row.record) {
        (Verdict::Succeeded, _) => String::new(),
        (Verdict::Unknown, _) => "it was never attempted".into(),
        (Verdict::Running, _) => "an executor is at it".into(),
        (_, Some(record)) => record.void.as_ref().map(|void| void.reason.clone()).unwrap_or_default(),
        (_, None) => String::new(),
    }
}
