//! Invalidation: somebody says that what a key stands for is not to be relied on, whatever was recorded. And eviction: it was right, but
//! is kept no longer.
//!
//! Invariants: executions and the record stay, for history; a record that is no answer already stays as it was voided first, except a
//! lost one, which could heal; whoever is at a key that is invalidated loses the lease, and is told by whom, while an eviction leaves them alone. It must not know how keys are chosen.

use super::{Known, Last, Record, Void};
use crate::execution::{Execution, ExecutionId, Executor, State, Verdict};
use crate::key::TaskKey;
use crate::name::Name;
use crate::time::Timestamp;

/// Who invalidates, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cause {
    /// Who, in its own words.
    pub by: Executor,
    /// Why; may be empty.
    pub text: String,
    /// The rule by which it is collected, if it is.
    pub rule: Option<String>,
}

impl Cause {
    /// What is kept: `what` was done, by whom, when, why.
    fn reason(&self, what: &str, at: Timestamp) -> String {
        let Executor { user, host, .. } = &self.by;
        let why = if self.text.is_empty() { String::new() } else { format!(": {}", self.text) };
        format!("{what} by {user}@{host} at {at}{why}")
    }
}

/// What is told of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voided {
    /// The key; none for a name under which there was nothing to do.
    pub key: Option<TaskKey>,
    /// The name: as asked for, else that of the record or of who was at it; none if there is neither.
    pub name: Option<Name>,
    /// The execution whose record is void now.
    pub record: Option<ExecutionId>,
    /// The execution whose lease was withdrawn.
    pub withdrawn: Option<ExecutionId>,
    /// The verdict afterwards.
    pub verdict: Verdict,
    /// Why it is that one.
    pub reason: String,
    /// Whether it was reached from another key, and not asked for by itself.
    pub downstream: bool,
}

/// What an invalidation comes to. Neither part: there was nothing to be done.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Invalidated {
    /// The record, void now.
    pub record: Option<Record>,
    /// The execution that held the lease, abandoned now. The lease goes.
    pub withdrawn: Option<Execution>,
    /// What the key's rows say after it.
    pub after: Known,
}

impl Invalidated {
    /// Whether anything changes.
    pub fn changes(&self) -> bool {
        self.record.is_some() || self.withdrawn.is_some()
    }
}

/// Whether invalidating the key would make its record void: it is the answer, or could become it again.
pub fn stands(known: &Known) -> bool {
    let void = known.row.record.as_ref().map(|record| record.void.as_ref().map(|void| void.verdict));
    matches!(void, Some(None | Some(Verdict::Lost)))
}

/// The execution that invalidating the key withdraws.
pub fn holder(known: &Known) -> Option<ExecutionId> {
    known.lease.as_ref().map(|lease| lease.execution)
}

/// Invalidates a key. `holder` is the execution that its lease names (see [`holder()`]). Asked again, it changes nothing more.
pub fn invalidate(known: &Known, holder: Option<&Execution>, cause: &Cause, now: Timestamp) -> Invalidated {
    let mut row = known.row.clone();
    let evicts = cause.rule.is_some();
    let holder = holder.filter(|execution| execution.state == State::Running && !evicts);
    let withdrawn = holder.map(|execution| Execution {
        state: State::Abandoned,
        ended: Some(now),
        reason: Some(cause.reason("withdrawn", now)),
        ..execution.clone()
    });
    let mut voided = None;
    if stands(known)
        && let Some(record) = &mut row.record
    {
        let (verdict, did) = match evicts {
            true => (Verdict::Evicted, "evicted"),
            false => (Verdict::Invalidated, "invalidated"),
        };
        let (reason, rule) = (cause.reason(did, now), cause.rule.clone());
        record.void = Some(Void { verdict, reason, at: now, blob: None, rule });
        voided = Some(record.clone());
        row.last = None;
    } else if let Some(execution) = &withdrawn {
        row.last = Some(Last { execution: execution.id, state: execution.state, at: now });
    }
    let changes = voided.is_some() || withdrawn.is_some();
    let lease = known.lease.clone().filter(|_| evicts || !changes);
    Invalidated { record: voided, withdrawn, after: Known { row, lease } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::lease::Lease;
    use crate::name::Name;
    use crate::transition::KeyRow;
    use std::time::Duration;

    fn cause() -> Cause {
        let by = Executor { user: "eve".into(), host: "here".into(), ..Executor::default() };
        Cause { by, text: "bad compiler".into(), rule: None }
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn record(void: Option<Verdict>) -> Record {
        let void = void.map(|verdict| Void { verdict, reason: "before".into(), at: at(1), blob: None, rule: None });
        let digest = Digest::of(b"");
        Record { execution: ExecutionId([1; 16]), outputs: digest, closure: digest, committed: at(0), stamp: 0, void }
    }

    fn running(id: u8) -> (Lease, Execution) {
        let (id, key) = (ExecutionId([id; 16]), "t:x".parse().expect("valid"));
        let name = Name::new("n").expect("valid");
        let execution = Execution::begin(id, key, name, Digest::of(b""), Executor::default(), at(2));
        (Lease::new(id, Duration::ZERO, 0), execution)
    }

    #[test]
    fn a_record_becomes_void_with_the_reason_and_stays() {
        let last = Some(Last { execution: ExecutionId([1; 16]), state: State::Succeeded, at: at(0) });
        for before in [None, Some(Verdict::Lost)] {
            let row = KeyRow { record: Some(record(before)), last: last.clone(), ..KeyRow::default() };
            let done = invalidate(&Known { row, lease: None }, None, &cause(), at(5));
            let void = done.record.as_ref().and_then(|record| record.void.clone()).expect("it is void");
            assert_eq!((void.verdict, void.at), (Verdict::Invalidated, at(5)));
            assert_eq!(void.reason, "invalidated by eve@here at 1970-01-01T00:00:00.005Z: bad compiler");
            let known = done.after;
            assert_eq!((known.verdict(), known.evidence()), (Verdict::Invalidated, Some(ExecutionId([1; 16]))));
            assert!(known.answer().is_none() && known.row.record == done.record && done.withdrawn.is_none());
            let again = invalidate(&known, None, &cause(), at(6));
            assert!(!again.changes() && again.after == known, "twice is once");
        }
    }

    #[test]
    fn what_is_no_answer_is_left_alone() {
        for record in [None, Some(record(Some(Verdict::Evicted))), Some(record(Some(Verdict::Invalidated)))] {
            let last = Some(Last { execution: ExecutionId([2; 16]), state: State::Failed, at: at(3) });
            let known = Known { row: KeyRow { record, last, ..KeyRow::default() }, lease: None };
            let done = invalidate(&known, None, &cause(), at(5));
            assert!(!done.changes() && done.after == known);
        }
    }

    #[test]
    fn who_is_at_it_is_withdrawn_and_told_by_whom() {
        let (lease, execution) = running(7);
        for (record, verdict) in [
            (None, Verdict::Abandoned),
            (Some(record(None)), Verdict::Invalidated),
            (Some(record(Some(Verdict::Invalidated))), Verdict::Abandoned),
        ] {
            let known = Known { row: KeyRow { record, ..KeyRow::default() }, lease: Some(lease.clone()) };
            assert_eq!(holder(&known), Some(execution.id));
            let done = invalidate(&known, Some(&execution), &cause(), at(5));
            let withdrawn = done.withdrawn.expect("it held the lease");
            assert_eq!((withdrawn.state, withdrawn.ended), (State::Abandoned, Some(at(5))));
            let known = done.after;
            assert_eq!((known.verdict(), known.lease.is_none()), (verdict, true));
            let refused = crate::transition::heartbeat(&known, &withdrawn, 0).expect_err("it is fenced").to_string();
            assert!(refused.contains("withdrawn by eve@here") && refused.ends_with("bad compiler"), "{refused}");
        }
    }

    #[test]
    fn an_eviction_says_by_which_rule_and_leaves_who_is_at_it_alone() {
        let (lease, execution) = running(7);
        let cause = Cause { rule: Some("by hand".into()), ..cause() };
        for lease in [None, Some(lease)] {
            let known = Known { row: KeyRow { record: Some(record(None)), ..KeyRow::default() }, lease: lease.clone() };
            let done = invalidate(&known, lease.is_some().then_some(&execution), &cause, at(5));
            let void = done.record.as_ref().and_then(|record| record.void.clone()).expect("it is void");
            assert_eq!((void.verdict, void.rule.as_deref()), (Verdict::Evicted, Some("by hand")));
            assert_eq!(void.reason, "evicted by eve@here at 1970-01-01T00:00:00.005Z: bad compiler");
            assert_eq!((done.withdrawn, &done.after.lease), (None, &lease));
            let verdict = if lease.is_some() { Verdict::Running } else { Verdict::Evicted };
            assert_eq!(done.after.verdict(), verdict);
        }
    }
}
