//! The executor's API: lookup, begin, heartbeat, commit, fail.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use provender_core::batch::{RowKey, Table, Version};
use provender_core::execution::{Outcome, State};
use provender_core::key::TaskKey;
use provender_core::name::{Name, NameRow, Space};
use provender_core::transition::{self, Begun, Ended, Evidence, Known, Record, Request};
use provender_core::tree::Tree;
use provender_core::{Digest, Execution, ExecutionId, Spec, Timestamp, Verdict, rows, view};
use provender_proto::{convert, rows as values};

use super::feed::Waiter;
use super::{Store, StoreError, Txn};
use crate::clock;

/// The longest reason that is kept, in bytes.
const MAX_REASON: usize = 8 << 10;
/// How many provenance edges are written at once.
const EDGES: usize = 1_000;

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

/// What the rows of a key say, within one transaction.
pub(super) struct Standing {
    pub(super) known: Known,
    pub(super) lease_version: Option<Version>,
    pub(super) incarnation: u64,
    /// How far the log of lost digests had grown.
    pub(super) lost: u64,
}

/// What was found out for a commit.
struct Gathered {
    evidence: Evidence,
    /// The root and what stands at the declared paths: what this execution will be known to have made.
    made: BTreeSet<Digest>,
}

/// What `begin` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// It is done.
    Hit(Execution),
    /// Do it, and beat within this time; it is a check of that execution's record, if there is one.
    Lease(Execution, std::time::Duration, Option<ExecutionId>),
    /// Somebody else is at it.
    Busy(Execution),
    /// The one that was waited for has failed.
    Failed(Execution),
}

impl Store {
    /// The verdicts of keys, in their order.
    pub async fn lookup(&self, space: &Space, keys: &[TaskKey]) -> Result<Vec<Answer>, StoreError> {
        let mut answers = Vec::with_capacity(keys.len());
        for known in self.known_of(space, keys).await? {
            let (verdict, execution) = (known.verdict(), known.evidence());
            self.inner.metrics.lookups.with_label_values(&[verdict.as_str()]).inc();
            let outputs = known.answer().map(|record| record.outputs);
            answers.push(Answer { verdict, execution, outputs, reason: reason(&known) });
        }
        self.explain_failures(space, &mut answers).await?;
        Ok(answers)
    }

    /// What the rows of keys say, in their order; records that cannot be served are LOST.
    pub(super) async fn known_of(&self, space: &Space, keys: &[TaskKey]) -> Result<Vec<Known>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let wanted = keys.iter().flat_map(|key| known_rows(space, key));
        let wanted: Vec<_> = wanted.chain([rows::store(rows::LOST_HEAD)]).collect();
        let mut found = self.inner.meta.get(&wanted).await?;
        let lost = super::lost::head(found.pop().flatten())?;
        let known = keys.iter().zip(found.chunks_exact(2)).map(|(key, pair)| decode_known(key, pair));
        let mut known = known.collect::<Result<Vec<_>, _>>()?;
        self.test_records(space, keys, &mut known, lost).await?;
        Ok(known)
    }

    /// Adds the reasons that stand with the executions.
    async fn explain_failures(&self, space: &Space, answers: &mut [Answer]) -> Result<(), StoreError> {
        let failed = |answer: &Answer| matches!(answer.verdict, Verdict::Failed | Verdict::Abandoned);
        let ids: Vec<_> =
            answers.iter().filter(|answer| failed(answer)).filter_map(|answer| answer.execution).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let executions = self.executions(space, &ids).await?;
        for answer in answers.iter_mut().filter(|answer| failed(answer)) {
            let execution = answer.execution.and_then(|id| executions.get(&id));
            answer.reason = execution.and_then(|execution| execution.reason.clone()).unwrap_or_default();
        }
        Ok(())
    }

    /// Asks for a hit or a lease. A hit moves the `latest` of the name that it was asked under. Whoever has waited for another
    /// execution says so, and is told if that one failed, instead of doing the same again.
    pub async fn begin(
        &self,
        space: &Space,
        request: &Request,
        waited_for: Option<ExecutionId>,
    ) -> Result<Begin, StoreError> {
        let begun = self
            .transact(|mut txn| async move {
                let now = clock::now();
                let Standing { mut known, incarnation, lost, .. } = self.known(&mut txn, space, &request.key).await?;
                // After the key, so that a holder that still runs was running when the key was read.
                if let Some(holder) = waited_for {
                    let holder = self.execution_in(&mut txn, space, holder).await?;
                    if holder.state == State::Failed {
                        return Ok((txn, Begin::Failed(holder)));
                    }
                }
                let (key, one) = (std::slice::from_ref(&request.key), std::slice::from_mut(&mut known));
                self.test_records(space, key, one, lost).await?;
                let begun = match transition::begin(&known, request, incarnation, now) {
                    Begun::Hit(record) => {
                        let execution = self.execution_in(&mut txn, space, record.execution).await?;
                        self.show(&mut txn, space, &request.spec.name, &execution, now).await?;
                        Begin::Hit(execution)
                    }
                    Begun::Busy(lease) => Begin::Busy(self.execution_in(&mut txn, space, lease.execution).await?),
                    Begun::Granted { lease, execution, fresh, checks } => {
                        if fresh {
                            self.write_begin(&mut txn, space, &execution, &request.spec).await?;
                            txn.put(rows::lease(space, &request.key), values::lease_to(&lease));
                        }
                        Begin::Lease(*execution, lease.ttl, checks)
                    }
                };
                Ok((txn, begun))
            })
            .await?;
        let outcome = match &begun {
            Begin::Hit(_) => "hit",
            Begin::Lease(..) => "lease",
            Begin::Busy(_) => "busy",
            Begin::Failed(_) => "failed",
        };
        self.inner.metrics.begins.with_label_values(&[outcome]).inc();
        Ok(begun)
    }

    /// Hears of changes to the key's row.
    pub fn key_changes(&self, space: &Space, key: &TaskKey) -> Waiter {
        Waiter::new(self, rows::key(space, key))
    }

    /// Keeps a lease; says how long it lasts from now.
    pub async fn heartbeat(&self, space: &Space, id: ExecutionId) -> Result<std::time::Duration, StoreError> {
        self.transact(|mut txn| async move {
            let (execution, Standing { known, incarnation, .. }) = self.attempt(&mut txn, space, id).await?;
            let lease = transition::heartbeat(&known, &execution, incarnation)?;
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
        let asked = outcome;
        let spec = &self.execution_and_spec(space, id).await?.1;
        // First without a walk: an executor that was fenced out shall not cost one.
        let ended = self
            .transact(|mut txn| async move {
                let (execution, standing) = self.attempt(&mut txn, space, id).await?;
                let Standing { known, incarnation, .. } = standing;
                let ended = ended_so(&known, &execution, asked);
                if ended.is_none() {
                    transition::heartbeat(&known, &execution, incarnation)?;
                }
                Ok((txn, ended))
            })
            .await?;
        if let Some(ended) = ended {
            return Ok(ended);
        }
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
        let gathered = self.evidence(space, spec, &outcome, root).await?;
        // Edges come before the record, in pieces; whoever walks them passes over consumers that did not succeed.
        self.write_edges(space, id, spec, &gathered.made).await?;
        let (outcome, evidence) = (&outcome, &gathered.evidence);
        let ended = self
            .transact(|mut txn| async move {
                let (execution, standing) = self.attempt(&mut txn, space, id).await?;
                let Standing { known, incarnation, lost, .. } = standing;
                // The same call, sent twice, may have been carried out meanwhile.
                if let Some(ended) = ended_so(&known, &execution, asked) {
                    return Ok((txn, ended));
                }
                let now = clock::now();
                let tested = self.tested(space, &execution.key, &known, lost).await?;
                let (outcome, recorded) = (outcome.clone(), known.row.record);
                let mut ended = transition::commit(&tested, &execution, spec, outcome, evidence, incarnation, now)?;
                if !ended.recorded {
                    // That it is LOST is found out each time and not written down.
                    ended.row.record = recorded;
                }
                let recorded = ended.recorded;
                let execution = self.write_end(&mut txn, space, ended).await?;
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
        StoreError::missing(self.find_missing(space, &blobs).await?, blobs.len())?;
        let reason = &convert::cut(reason.to_owned(), MAX_REASON);
        let ended = self
            .transact(|mut txn| async move {
                let (execution, standing) = self.attempt(&mut txn, space, id).await?;
                let Standing { known, incarnation, lost, .. } = standing;
                if execution.state == State::Failed && execution.outcome == *outcome {
                    return Ok((txn, execution));
                }
                let tested = self.tested(space, &execution.key, &known, lost).await?;
                let (outcome, now) = (outcome.clone(), clock::now());
                let mut ended = transition::fail(&tested, &execution, reason.clone(), outcome, incarnation, now)?;
                ended.row.record = known.row.record;
                let execution = self.write_end(&mut txn, space, ended).await?;
                Ok((txn, execution))
            })
            .await?;
        self.inner.metrics.ended.with_label_values(&["FAILED"]).inc();
        Ok(ended)
    }

    async fn evidence(
        &self,
        space: &Space,
        spec: &Spec,
        outcome: &Outcome,
        root: Digest,
    ) -> Result<Gathered, StoreError> {
        // Before anything is looked at: what is lost later is newer than this stamp.
        let stamp = self.lost_head().await?;
        let logs = [outcome.stdout, outcome.stderr].into_iter().flatten().map(|log| log.digest);
        let walked = self.walk(space, root, logs, spec).await?;
        let paths = spec.outputs.iter().chain(spec.policy.required.keys());
        let (found, mut made) = self.find_paths(space, root, paths).await?;
        made.insert(root);
        let closure = self.put_bytes(space, walked.encode()).await?;
        Ok(Gathered { evidence: Evidence { outputs: root, closure, found, stamp }, made })
    }

    /// Who consumed what, and who made what.
    async fn write_edges(
        &self,
        space: &Space,
        id: ExecutionId,
        spec: &Spec,
        made: &BTreeSet<Digest>,
    ) -> Result<(), StoreError> {
        let mut edges: Vec<_> = made.iter().map(|digest| rows::producer(space, digest, id)).collect();
        for (name, input) in &spec.inputs {
            let digest = input.content.as_ref().and_then(|node| node.digest());
            edges.extend(input.key.as_ref().map(|producer| rows::consumer_of_key(space, producer, id, name)));
            edges.extend(digest.map(|digest| rows::consumer_of_digest(space, &digest, id, name)));
        }
        for piece in edges.chunks(EDGES) {
            self.transact(|mut txn| {
                piece.iter().for_each(|edge| txn.put(edge.clone(), Bytes::new()));
                async move { Ok((txn, ())) }
            })
            .await?;
        }
        self.write_makers(space, id, made).await
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
        let there = txn.get_one(row.clone()).await?;
        let there = there.map(|there| decode_execution(id, Some(there.value))).transpose()?;
        // One that runs was begun a moment ago by the same call, sent twice: its lease, which was not there when the key was read, keeps
        // this batch from holding, so that it is decided anew.
        if there.is_some_and(|there| there.state != State::Running) {
            let why = "this execution has ended; a new attempt takes a new id";
            return Err(convert::Invalid::new("execution", why).into());
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
            txn.put(name_row, values::name_to(&NameRow::default()));
        }
        txn.put(rows::key_history(space, &execution.key, began, id), Bytes::new());
        txn.put(rows::name_history(space, &execution.name, began, id), Bytes::new());
        Ok(())
    }

    /// The rows of an ended execution: as many whatever it made.
    pub(super) async fn write_end(&self, txn: &mut Txn, space: &Space, ended: Ended) -> Result<Execution, StoreError> {
        let Ended { mut execution, row, recorded } = ended;
        let at = execution.ended.unwrap_or_default();
        let key = execution.key.clone();
        let succeeded = execution.state == State::Succeeded;
        let table = if succeeded { Table::Folder } else { Table::FailedFolder };
        let folder = self.new_folder(txn, space, table, &execution.name, &key, at, execution.id).await?;
        execution.folder = Some(folder.clone());
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
        let found = found.map(|found| values::name_from(found.value).map_err(StoreError::row(name))).transpose()?;
        if found.is_some_and(|found| found.latest == Some(execution.id)) {
            return Ok(());
        }
        let at = execution.ended.unwrap_or(now);
        let listed = rows::name_record(space, name, at, execution.id);
        if txn.get_one(listed.clone()).await?.is_none() {
            let folder = self.new_folder(txn, space, Table::Folder, name, &execution.key, at, execution.id).await?;
            txn.put(listed, folder);
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

    /// An execution, and what the rows of its key say. These are two readings; a lease goes in the batch that ends its execution, so
    /// one that seems to run without it is read again: it shall be told how it ended, not that somebody fenced it out.
    async fn attempt(
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

    /// What is known of a key, LOST if its record cannot be served. That is found out each time and not written down, so whoever
    /// writes the key's row after it keeps the record as it was.
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

/// The answer to a commit that was already carried out, if this is one.
fn ended_so(known: &Known, execution: &Execution, outcome: &Outcome) -> Option<(Execution, bool)> {
    let outputs = outcome.outputs.or(execution.outcome.outputs);
    let same = execution.outcome == Outcome { outputs, ..outcome.clone() };
    let ended = matches!(execution.state, State::Succeeded | State::Failed);
    let recorded = known.row.record.as_ref().is_some_and(|record: &Record| record.execution == execution.id);
    (same && ended).then(|| (execution.clone(), recorded))
}

pub(super) fn known_rows(space: &Space, key: &TaskKey) -> [RowKey; 2] {
    [rows::key(space, key), rows::lease(space, key)]
}

pub(super) fn decode_known(key: &TaskKey, found: &[Option<provender_core::batch::Row>]) -> Result<Known, StoreError> {
    let value = |n: usize| found.get(n).and_then(Option::as_ref).map(|row| row.value.clone());
    let row = value(0).map(|value| values::key_from(value).map_err(StoreError::row(key))).transpose()?;
    let lease = value(1).map(|value| values::lease_from(value).map_err(StoreError::row(key))).transpose()?;
    Ok(Known { row: row.unwrap_or_default(), lease })
}

fn decode_execution(id: ExecutionId, value: Option<Bytes>) -> Result<Execution, StoreError> {
    let value = value.ok_or_else(|| StoreError::NotFound { what: format!("execution {id}") })?;
    values::execution_from(value).map_err(StoreError::row(format!("execution {id}")))
}

fn latest(id: ExecutionId) -> NameRow {
    NameRow { latest: Some(id), registered: None }
}

pub(super) fn reason(known: &Known) -> String {
    match (known.verdict(), &known.row.record) {
        (Verdict::Succeeded, _) => String::new(),
        (Verdict::Unknown, _) if known.row.spec.is_some() => "registered, never attempted".into(),
        (Verdict::Unknown, _) => "it was never attempted".into(),
        (Verdict::Running, _) => "an executor is at it".into(),
        (_, Some(record)) => record.void.as_ref().map(|void| void.reason.clone()).unwrap_or_default(),
        (_, None) => String::new(),
    }
}
