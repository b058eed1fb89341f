//! The state machine of executions: every change that a task key can go through, as pure functions.
//!
//! Owns [`Known`], what the rows of one key say, and the transitions register, begin, heartbeat, commit, fail, expire and
//! [`invalidate()`] over it.
//! Invariants: one lease a key; only the execution that the lease row names can move the key on (a fenced-out one changes
//! nothing); a record is made by a commit alone; the first record stays the answer while it is SUCCEEDED. It must not know rows,
//! batches or how the facts were gathered.

use std::time::Duration;

use crate::collect::Collected;
use crate::digest::Digest;
use crate::execution::{Execution, ExecutionId, Executor, Outcome, State, Verdict};
use crate::key::TaskKey;
use crate::lease::Lease;
use crate::policy::{self, Found, Policy};
use crate::remarks::Remarks;
use crate::spec::Spec;
use crate::time::Timestamp;

pub mod invalidate;

pub use invalidate::{Cause, Invalidated, invalidate};

/// The committed success that lookups of a key answer with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The execution that made it.
    pub execution: ExecutionId,
    /// The tree of its outputs.
    pub outputs: Digest,
    /// The blob that lists every digest it refers to, as sorted 40-byte entries (see [`Digest::to_bytes`]).
    pub closure: Digest,
    /// When it was committed.
    pub committed: Timestamp,
    /// Up to where the log of lost digests was tested against the closure.
    pub stamp: u64,
    /// What became of it since, if it is not the answer any more.
    pub void: Option<Void>,
}

/// Why a record is no answer any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Void {
    /// `Lost`, `Evicted` or `Invalidated`.
    pub verdict: Verdict,
    /// For people: which blob, which rule, by whom.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// Of `Lost`: the first blob that is.
    pub blob: Option<Digest>,
    /// Of `Evicted`: the rule by which it was collected.
    pub rule: Option<String>,
}

/// The last execution of a key that came to an end, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Last {
    /// Which.
    pub execution: ExecutionId,
    /// How it ended.
    pub state: State,
    /// When.
    pub at: Timestamp,
}

/// The row of a task key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRow {
    /// The record, if there ever was one.
    pub record: Option<Record>,
    /// The last ended execution; none if the record was voided since.
    pub last: Option<Last>,
    /// The identity of the spec that the key was first registered with, if it was; what was attempted stands with executions.
    pub spec: Option<Digest>,
    /// Whether the record is about to be collected: whoever answers with it has to say so first.
    pub leaving: bool,
    /// What was collected of it last.
    pub collected: Option<Collected>,
}

/// All that the rows of one key say at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// Its own row.
    pub row: KeyRow,
    /// Its lease.
    pub lease: Option<Lease>,
}

impl Known {
    /// What a lookup says.
    pub fn verdict(&self) -> Verdict {
        match (&self.row.record, &self.lease, &self.row.last) {
            (Some(Record { void: None, .. }), _, _) => Verdict::Succeeded,
            (_, Some(_), _) => Verdict::Running,
            // Voiding a record forgets the last end, so one that stands beside it is the newer news.
            (Some(Record { void: Some(void), .. }), None, None) => void.verdict,
            (_, None, Some(last)) => last.state.verdict(),
            (None, None, None) => Verdict::Unknown,
        }
    }

    /// The record, while it is the answer.
    pub fn answer(&self) -> Option<&Record> {
        self.row.record.as_ref().filter(|record| record.void.is_none())
    }

    /// The record as it is once its execution is collected, if it is this one's and was not void for another reason.
    pub fn evicted(&self, execution: ExecutionId, collected: &Collected) -> Option<Record> {
        let record = self.row.record.as_ref().filter(|record| record.execution == execution)?;
        let void = Void {
            verdict: Verdict::Evicted,
            reason: collected.reason.clone(),
            at: collected.at,
            blob: None,
            rule: Some(collected.rule.clone()),
        };
        let stays = record.void.as_ref().filter(|void| void.verdict != Verdict::Lost);
        stays.is_none().then(|| Record { void: Some(void), ..record.clone() })
    }

    /// The execution that the verdict rests on.
    pub fn evidence(&self) -> Option<ExecutionId> {
        let last = || self.row.last.as_ref().map(|last| last.execution);
        match self.verdict() {
            Verdict::Running => self.lease.as_ref().map(|lease| lease.execution),
            Verdict::Failed | Verdict::Abandoned => last(),
            _ => self.row.record.as_ref().map(|record| record.execution),
        }
    }
}

/// Registers: the row of a key that is now known to stand for a spec, if that is news. The first spec stays, and nothing else is
/// touched: no verdict, record or lease depends on it.
pub fn register(row: &KeyRow, spec: Digest) -> Option<KeyRow> {
    row.spec.is_none().then(|| KeyRow { spec: Some(spec), ..row.clone() })
}

/// What an executor asks with.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The id that its execution will have.
    pub id: ExecutionId,
    /// The key.
    pub key: TaskKey,
    /// What the key stands for.
    pub spec: Spec,
    /// Who it is.
    pub executor: Executor,
    /// How long its lease shall last from each beat; zero for the default.
    pub ttl: Duration,
    /// Whether it wants to do the work although there is a record, which stays the answer.
    pub check: bool,
    /// What is said of its execution from the first.
    pub remarks: Remarks,
}

/// What the answer to a request is.
#[derive(Debug, Clone, PartialEq)]
pub enum Begun {
    /// There is a record: nothing is to be done.
    Hit(Record),
    /// The executor is to do the work, under this lease and execution. `fresh` unless it asked before.
    Granted {
        /// The lease, to be written if `fresh`.
        lease: Lease,
        /// The execution, to be written if `fresh`.
        execution: Box<Execution>,
        /// Whether this request made it.
        fresh: bool,
        /// The execution whose record it is a check of, if there is a record.
        checks: Option<ExecutionId>,
    },
    /// Somebody else is at it.
    Busy(Lease),
}

/// Begins: a hit, a lease, or busy. A check takes the key's one lease as well: nobody but another check waits for it while the record
/// is the answer, and should that become void meanwhile, the check is an attempt like any other.
pub fn begin(known: &Known, request: &Request, incarnation: u64, now: Timestamp) -> Begun {
    let checks = match known.answer() {
        Some(record) if !request.check => return Begun::Hit(record.clone()),
        answer => answer.map(|record| record.execution),
    };
    let (lease, fresh) = match &known.lease {
        Some(lease) if lease.execution == request.id && lease.incarnation == incarnation => (lease.clone(), false),
        Some(lease) => return Begun::Busy(lease.clone()),
        None => (Lease::new(request.id, request.ttl, incarnation), true),
    };
    let (spec, key) = (&request.spec, request.key.clone());
    let executor = request.executor.clone();
    let mut execution = Execution::begin(request.id, key, spec.name.clone(), spec.digest(), executor, now);
    execution.remarks = request.remarks.clone();
    Begun::Granted { lease, execution: Box::new(execution), fresh, checks }
}

/// Why an executor is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The key's lease names somebody else, or nobody.
    #[error("execution {execution} no longer holds the lease on {key}: {}", superseded(*by))]
    Fenced {
        /// Who asked.
        execution: ExecutionId,
        /// The key.
        key: TaskKey,
        /// Who holds it now.
        by: Option<ExecutionId>,
    },
    /// The execution has already ended, in another way than is asked now.
    #[error("execution {execution} has already ended as {}{}{}", state.verdict(), because(reason), taken_over(*by))]
    Ended {
        /// Which.
        execution: ExecutionId,
        /// How.
        state: State,
        /// Why, if it is no success.
        reason: Option<String>,
        /// Who holds its key now, or has made its record since.
        by: Option<ExecutionId>,
    },
}

impl Refused {
    fn ended(known: &Known, execution: &Execution) -> Refused {
        let holder = known.lease.as_ref().map(|lease| lease.execution);
        let since = |record: &&Record| execution.ended.is_some_and(|ended| record.committed >= ended);
        let made = known.answer().filter(since).map(|record| record.execution);
        let by = holder.or(made).filter(|by| *by != execution.id);
        // Whoever came to an end of its own was not taken over.
        let by = by.filter(|_| execution.state == State::Abandoned);
        Refused::Ended { execution: execution.id, state: execution.state, reason: execution.reason.clone(), by }
    }
}

fn because(reason: &Option<String>) -> String {
    reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default()
}

fn taken_over(by: Option<ExecutionId>) -> String {
    by.map(|by| format!("; execution {by} has taken it over")).unwrap_or_default()
}

fn superseded(by: Option<ExecutionId>) -> String {
    by.map_or("it ran out or was withdrawn".into(), |by| format!("execution {by} took it over"))
}

fn holds<'a>(known: &'a Known, execution: &Execution, incarnation: u64) -> Result<&'a Lease, Refused> {
    if execution.state != State::Running {
        return Err(Refused::ended(known, execution));
    }
    match &known.lease {
        Some(lease) if lease.execution == execution.id && lease.incarnation == incarnation => Ok(lease),
        other => Err(Refused::Fenced {
            execution: execution.id,
            key: execution.key.clone(),
            by: other.as_ref().map(|lease| lease.execution).filter(|by| *by != execution.id),
        }),
    }
}

/// The holder says that it lives: its lease, one beat on.
pub fn heartbeat(known: &Known, execution: &Execution, incarnation: u64) -> Result<Lease, Refused> {
    let mut lease = holds(known, execution, incarnation)?.clone();
    lease.beat += 1;
    Ok(lease)
}

/// The end of an execution: what the rows of its key become. The lease goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// The execution, ended.
    pub execution: Execution,
    /// The key's row.
    pub row: KeyRow,
    /// Whether it became the key's record.
    pub recorded: bool,
}

/// What the daemon found out about the outputs that a commit names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The tree of the outputs.
    pub outputs: Digest,
    /// The blob that lists what it refers to.
    pub closure: Digest,
    /// What was found at the paths that count.
    pub found: Found,
    /// The position of the log of lost digests before the closure was looked at.
    pub stamp: u64,
}

/// Commits: a success if the policy holds, else a failure with the reason.
pub fn commit(
    known: &Known,
    execution: &Execution,
    spec: &Spec,
    outcome: Outcome,
    evidence: &Evidence,
    incarnation: u64,
    now: Timestamp,
) -> Result<Ended, Refused> {
    holds(known, execution, incarnation)?;
    let execution = &Execution { closure: Some(evidence.closure), ..execution.clone() };
    let Some(exit) = outcome.exit else {
        return end(known, execution, State::Failed, Some("the command never ran".into()), outcome, now);
    };
    if let Err(violation) = policy::judge(&spec.policy, &spec.outputs, exit, &evidence.found) {
        let mut ended = end(known, execution, State::Failed, Some(violation.to_string()), outcome, now)?;
        ended.execution.rule = Some(violation.rule().to_owned());
        return Ok(ended);
    }
    let mut ended = end(known, execution, State::Succeeded, None, outcome, now)?;
    match known.answer() {
        Some(first) if first.outputs == evidence.outputs => {}
        Some(first) => ended.execution.diverges_from = Some(first.execution),
        None => {
            (ended.recorded, ended.row.leaving) = (true, false);
            ended.row.record = Some(Record {
                execution: execution.id,
                outputs: evidence.outputs,
                closure: evidence.closure,
                committed: now,
                stamp: evidence.stamp,
                void: None,
            });
        }
    }
    Ok(ended)
}

/// Fails: the executor says that it will not commit, and why. That its command ended as the policy does not allow is seen here.
pub fn fail(
    known: &Known,
    execution: &Execution,
    policy: &Policy,
    reason: String,
    outcome: Outcome,
    incarnation: u64,
    now: Timestamp,
) -> Result<Ended, Refused> {
    holds(known, execution, incarnation)?;
    let broken = outcome.exit.and_then(|exit| policy::judge_exit(policy, exit).err());
    let mut ended = end(known, execution, State::Failed, Some(reason), outcome, now)?;
    ended.execution.rule = broken.map(|violation| violation.rule().to_owned());
    Ok(ended)
}

/// The lease, seen unchanged for its TTL, is taken from its holder.
pub fn expire(known: &Known, execution: &Execution, now: Timestamp) -> Result<Ended, Refused> {
    let ttl = known.lease.as_ref().map(|lease| lease.ttl.as_secs_f64());
    let reason = format!("its executor was not heard of for {} s", ttl.unwrap_or_default());
    end(known, execution, State::Abandoned, Some(reason), execution.outcome.clone(), now)
}

fn end(
    known: &Known,
    execution: &Execution,
    state: State,
    reason: Option<String>,
    outcome: Outcome,
    now: Timestamp,
) -> Result<Ended, Refused> {
    if execution.state != State::Running {
        return Err(Refused::ended(known, execution));
    }
    let execution = Execution { ended: Some(now), state, reason, outcome, ..execution.clone() };
    // While there is a record that is the answer, a check's end is no news of the key: should the record be lost later, that is.
    let last = match known.answer() {
        Some(_) => known.row.last.clone(),
        None => Some(Last { execution: execution.id, state, at: now }),
    };
    Ok(Ended { execution, row: KeyRow { last, ..known.row.clone() }, recorded: false })
}

#[cfg(test)]
mod tests;
