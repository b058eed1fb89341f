//! Committing: the facts that a commit is judged by, and the provenance that comes before its record.
//!
//! Invariants: the record comes last, in a batch that is small whatever the task made; before it stand its closure, its edges, and
//! every blob. What is committed is what this execution names, wherever it was uploaded from.

use std::collections::BTreeSet;

use provender_core::execution::{Outcome, State};
use provender_core::name::Space;
use provender_core::transition::{self, Evidence, Known, Record};
use provender_core::tree::Tree;
use provender_core::{Digest, Execution, ExecutionId, RowKey, Spec, rows};
use provender_proto::convert;

use super::history::as_stored;
use super::lookup::Standing;
use super::tasks::MAX_REASON;
use super::{Store, StoreError};
use crate::clock;

/// What was found out for a commit.
struct Gathered {
    evidence: Evidence,
    /// The root and what stands at the declared paths: what this execution will be known to have made.
    made: BTreeSet<Digest>,
}

impl Store {
    /// Ends an execution as a success if all holds, else as a failure with the reason. Says also whether it became the record.
    /// Asked again after a lost answer, it answers the same.
    pub async fn commit(
        &self,
        space: &Space,
        id: ExecutionId,
        outcome: &Outcome,
    ) -> Result<(Execution, bool), StoreError> {
        let asked = outcome;
        let (begun, spec) = &self.execution_and_spec(space, id).await?;
        // First without a walk: an executor that was fenced out shall not cost one.
        let ended = self
            .transact(|mut txn| async move {
                let (execution, Standing { known, incarnation, .. }) = self.attempt(&mut txn, space, id).await?;
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
        let measured = Store::metric_rows(space, begun, &outcome);
        self.write_edges(space, id, spec, &gathered.made, measured).await?;
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
                let outcome = outcome.clone();
                let mut ended = transition::commit(&tested, &execution, spec, outcome, evidence, incarnation, now)?;
                ended.execution.reason = ended.execution.reason.map(|reason| convert::cut(reason, MAX_REASON));
                Store::tell_ended(&mut txn, space, &tested, &ended);
                let replaced = known.row.record.as_ref().filter(|_| ended.recorded);
                replaced.into_iter().for_each(|record| self.look_again(&mut txn, space, record, now));
                let ended = as_stored(ended, known);
                let recorded = ended.recorded;
                let execution = self.write_end(&mut txn, space, ended).await?;
                Ok((txn, (execution, recorded)))
            })
            .await?;
        self.inner.metrics.ended.with_label_values(&[ended.0.state.verdict().as_str()]).inc();
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
        let walked = self.walk(space, root, logs, Some(spec)).await?;
        let paths = spec.outputs.iter().chain(spec.policy.required.keys());
        let (found, mut made) = self.find_paths(space, root, paths).await?;
        made.insert(root);
        let closure = self.put_bytes(space, walked.encode()).await?;
        Ok(Gathered { evidence: Evidence { outputs: root, closure, found, stamp }, made })
    }

    /// Who consumed what, and who made what; and what it measured, as the index has it.
    async fn write_edges(
        &self,
        space: &Space,
        id: ExecutionId,
        spec: &Spec,
        made: &BTreeSet<Digest>,
        measured: Vec<RowKey>,
    ) -> Result<(), StoreError> {
        let mut edges = measured;
        edges.extend(made.iter().map(|digest| rows::producer(space, digest, id)));
        for (name, input) in &spec.inputs {
            let digest = input.content.as_ref().and_then(|node| node.digest());
            edges.extend(input.key.as_ref().map(|producer| rows::consumer_of_key(space, producer, id, name)));
            edges.extend(digest.map(|digest| rows::consumer_of_digest(space, &digest, id, name)));
        }
        self.write_rows(&edges).await?;
        self.write_makers(space, id, made).await
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
