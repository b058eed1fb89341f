//! The executor's API: begin, heartbeat and fail; to look up and to commit have rooms of their own.

use std::sync::OnceLock;

use provender_core::execution::{Outcome, State};
use provender_core::key::TaskKey;
use provender_core::name::Space;
use provender_core::transition::{self, Begun, KeyRow, Known, Request};
use provender_core::{Execution, ExecutionId, rows};
use provender_proto::{convert, rows as values};

use super::feed::Waiter;
use super::history::{Beginning, as_stored};
use super::lookup::Standing;
use super::{Store, StoreError};
use crate::clock;

/// The longest reason that is kept, in bytes.
pub(super) const MAX_REASON: usize = 8 << 10;

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

/// How often what a key's row names may be collected before it is read.
const COLLECTED: usize = 10;

impl Store {
    /// Asks for a hit or a lease. A hit moves the `latest` of the name that it was asked under. Whoever has waited for another
    /// execution says so, and is told if that one failed, instead of doing the same again.
    pub async fn begin(
        &self,
        space: &Space,
        request: &Request,
        waited_for: Option<ExecutionId>,
    ) -> Result<Begin, StoreError> {
        let answering = self.answering();
        let mut begun = self.begin_once(space, request, waited_for).await?;
        if let Begin::Hit(_) = &begun {
            self.note_used(space, std::iter::once(&request.key));
            if answering.is_late() {
                // Somebody may collect what was noted too late; what still stands once it is written down stays.
                self.flush_used().await?;
                begun = self.begin_once(space, request, waited_for).await?;
            }
        }
        drop(answering);
        let outcome = match &begun {
            Begin::Hit(_) => "hit",
            Begin::Lease(..) => "lease",
            Begin::Busy(_) => "busy",
            Begin::Failed(_) => "failed",
        };
        self.inner.metrics.begins.with_label_values(&[outcome]).inc();
        Ok(begun)
    }

    async fn begin_once(
        &self,
        space: &Space,
        request: &Request,
        waited_for: Option<ExecutionId>,
    ) -> Result<Begin, StoreError> {
        let ahead = &OnceLock::new();
        let mut attempts = 0;
        loop {
            let begun = self
                .transact(|mut txn| async move {
                    let Standing { mut known, incarnation, lost, .. } =
                        self.known(&mut txn, space, &request.key).await?;
                    // After what it follows was read: whoever is slow to begin has not begun before who ended meanwhile.
                    let now = ahead.get().copied().unwrap_or_else(clock::now);
                    let (key, one) = (std::slice::from_ref(&request.key), std::slice::from_mut(&mut known));
                    self.test_records(space, key, one, lost).await?;
                    // After the key, so that a holder that still runs was running when the key was read; and somebody else may have succeeded
                    // since.
                    let hits = known.answer().is_some() && !request.check;
                    if let (Some(holder), false) = (waited_for, hits) {
                        let holder = self.execution_in(&mut txn, space, holder).await?;
                        if holder.state == State::Failed {
                            return Ok((txn, Begin::Failed(holder)));
                        }
                    }
                    let begun = match transition::begin(&known, request, incarnation, now) {
                        Begun::Hit(record) => {
                            let execution = self.execution_in(&mut txn, space, record.execution).await?;
                            if known.row.leaving {
                                let row = KeyRow { leaving: false, ..known.row.clone() };
                                txn.put(rows::key(space, &request.key), values::key_to(&row));
                                txn.put(rows::used(space, &request.key), values::holding_to(now));
                            }
                            self.show(&mut txn, space, &request.spec.name, &execution, now).await?;
                            Begin::Hit(execution)
                        }
                        Begun::Busy(lease) => Begin::Busy(self.execution_in(&mut txn, space, lease.execution).await?),
                        Begun::Granted { lease, execution, fresh, checks } => {
                            if fresh {
                                let after = Known { lease: Some(lease.clone()), ..known.clone() };
                                self.tell_begun(&mut txn, space, &known, &after, &execution).await?;
                                let beginning = Beginning { space, execution: &execution, spec: &request.spec, ahead };
                                self.write_begin(&mut txn, beginning).await?;
                                txn.put(rows::lease(space, &request.key), values::lease_to(&lease));
                            }
                            Begin::Lease(*execution, lease.ttl, checks)
                        }
                    };
                    Ok((txn, begun))
                })
                .await;
            match begun {
                // What the key's row named was collected in between.
                Err(StoreError::NotFound { .. }) if waited_for.is_none() && attempts < COLLECTED => attempts += 1,
                begun => return begun,
            }
        }
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
        let (begun, spec) = self.execution_and_spec(space, id).await?;
        let policy = &spec.policy;
        if begun.state == State::Running {
            self.write_rows(&Store::metric_rows(space, &begun, outcome)).await?;
        }
        let ended = self
            .transact(|mut txn| async move {
                let (execution, standing) = self.attempt(&mut txn, space, id).await?;
                let Standing { known, incarnation, lost, .. } = standing;
                if execution.state == State::Failed && execution.outcome == *outcome {
                    return Ok((txn, execution));
                }
                let now = clock::now();
                // What cannot be tested now hinders no report; the verdict is LOST then, until the next attempt.
                let tested = self.tested_soon(space, &execution.key, &known, lost).await;
                let ended =
                    transition::fail(&tested, &execution, policy, reason.clone(), outcome.clone(), incarnation, now)?;
                Store::tell_ended(&mut txn, space, &tested, &ended);
                let execution = self.write_end(&mut txn, space, as_stored(ended, known)).await?;
                Ok((txn, execution))
            })
            .await?;
        self.inner.metrics.ended.with_label_values(&["FAILED"]).inc();
        Ok(ended)
    }
}
