//! Answers: what a lookup says of a key, and what that rests on.
//!
//! Owns [`Answer`]. Invariant: only SUCCEEDED goes without a reason, and each other verdict says since when, and what it rests on:
//! an execution, a lost blob, a rule. It must not know how rows are read.

use crate::digest::Digest;
use crate::execution::{Execution, ExecutionId, Verdict};
use crate::time::Timestamp;
use crate::transition::Known;

/// What a lookup says of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The verdict.
    pub verdict: Verdict,
    /// The execution that it rests on: the record's, who is at it, or the one that ended so.
    pub execution: Option<ExecutionId>,
    /// The outputs of a success.
    pub outputs: Option<Digest>,
    /// Since when it is so, by the clock of the daemon that wrote or found it.
    pub at: Option<Timestamp>,
    /// Of LOST: the blob that is lost, the first one if there are several.
    pub blob: Option<Digest>,
    /// Of FAILED and EVICTED: the rule that made it so; none if the executor itself said that it failed. Of UNKNOWN: by which what was
    /// known of it was collected.
    pub rule: Option<String>,
    /// Why it is not SUCCEEDED, for people.
    pub reason: String,
}

impl Answer {
    /// Of a key of which nothing is known.
    pub fn unknown(reason: impl Into<String>) -> Answer {
        let (execution, outputs, at, blob, rule) = (None, None, None, None, None);
        Answer { verdict: Verdict::Unknown, execution, outputs, at, blob, rule, reason: reason.into() }
    }

    /// What the rows of a key say. Where [`Answer::rests_on`] gives an execution, [`Answer::explain`] adds what stands with it.
    pub fn of(known: &Known) -> Answer {
        let mut answer = Answer::unknown("");
        (answer.verdict, answer.execution) = (known.verdict(), known.evidence());
        match (answer.verdict, &known.row.record, &known.row.last) {
            (Verdict::Unknown, _, _) => match &known.row.collected {
                Some(collected) => {
                    (answer.at, answer.rule) = (Some(collected.at), Some(collected.rule.clone()));
                    answer.reason = collected.reason.clone();
                }
                None if known.row.spec.is_some() => answer.reason = "registered, never attempted".into(),
                None => answer.reason = "it was never attempted".into(),
            },
            (Verdict::Running, _, _) => {}
            (Verdict::Failed | Verdict::Abandoned, _, last) => answer.at = last.as_ref().map(|last| last.at),
            (_, Some(record), _) => match &record.void {
                None => (answer.outputs, answer.at) = (Some(record.outputs), Some(record.committed)),
                Some(void) => {
                    (answer.at, answer.blob, answer.rule) = (Some(void.at), void.blob, void.rule.clone());
                    answer.reason = void.reason.clone();
                }
            },
            (_, None, _) => {}
        }
        answer
    }

    /// The execution whose own words are a part of the answer.
    pub fn rests_on(&self) -> Option<ExecutionId> {
        let told = matches!(self.verdict, Verdict::Running | Verdict::Failed | Verdict::Abandoned);
        self.execution.filter(|_| told)
    }

    /// Adds what stands with the execution that it rests on.
    pub fn explain(&mut self, execution: &Execution) {
        match self.verdict {
            Verdict::Running => {
                self.at = Some(execution.began);
                self.reason = format!("{} has been at it since {}", execution.executor, execution.began);
            }
            _ => {
                self.rule = execution.rule.clone();
                self.reason = execution.reason.clone().unwrap_or_default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::{Executor, State};
    use crate::lease::Lease;
    use crate::name::Name;
    use crate::transition::{KeyRow, Last, Record, Void};
    use std::time::Duration;

    const RECORD: ExecutionId = ExecutionId([1; 16]);
    const OTHER: ExecutionId = ExecutionId([2; 16]);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn record(verdict: Option<Verdict>) -> Record {
        let void = verdict.map(|verdict| Void {
            verdict,
            reason: "why".into(),
            at: at(5),
            blob: (verdict == Verdict::Lost).then(|| Digest::of(b"lost")),
            rule: (verdict == Verdict::Evicted).then(|| "quota".into()),
        });
        let (outputs, closure) = (Digest::of(b"o"), Digest::of(b"c"));
        Record { execution: RECORD, outputs, closure, committed: at(3), stamp: 0, void }
    }

    #[test]
    fn each_verdict_says_since_when_and_what_it_rests_on() {
        let of = |record: Option<Record>, last: Option<State>, lease: bool| {
            let last = last.map(|state| Last { execution: OTHER, state, at: at(4) });
            let row = KeyRow { record, last, ..KeyRow::default() };
            Answer::of(&Known { row, lease: lease.then(|| Lease::new(OTHER, Duration::ZERO, 0)) })
        };
        let good = of(Some(record(None)), None, true);
        assert_eq!((good.verdict, good.execution, good.at), (Verdict::Succeeded, Some(RECORD), Some(at(3))));
        assert!(good.outputs == Some(Digest::of(b"o")) && good.reason.is_empty() && good.rests_on().is_none());
        for verdict in [Verdict::Lost, Verdict::Evicted, Verdict::Invalidated] {
            let void = of(Some(record(Some(verdict))), None, false);
            assert_eq!((void.verdict, void.execution, void.at), (verdict, Some(RECORD), Some(at(5))));
            assert_eq!((&*void.reason, void.outputs, void.rests_on()), ("why", None, None));
            assert_eq!(void.blob.is_some(), verdict == Verdict::Lost);
            assert_eq!(void.rule.is_some(), verdict == Verdict::Evicted);
        }
        let unknown = of(None, None, false);
        assert_eq!((unknown.verdict, unknown.at, &*unknown.reason), (Verdict::Unknown, None, "it was never attempted"));

        let executor = Executor { program: "p".into(), user: "eve".into(), host: "here".into(), pid: 7 };
        let (key, name) = ("t:x".parse().expect("valid"), Name::new("n").expect("valid"));
        let mut execution = crate::Execution::begin(OTHER, key, name, Digest::of(b""), executor, at(2));
        for (before, state, lease, verdict, since) in [
            (Some(Verdict::Lost), None, true, Verdict::Running, at(2)),
            (None, Some(State::Failed), false, Verdict::Failed, at(4)),
            (Some(Verdict::Evicted), Some(State::Abandoned), false, Verdict::Abandoned, at(4)),
        ] {
            (execution.reason, execution.rule) = (Some("it broke".into()), Some("outputs".into()));
            let mut told = of(before.map(|before| record(Some(before))), state, lease);
            assert_eq!((told.verdict, told.rests_on()), (verdict, Some(OTHER)));
            told.explain(&execution);
            assert_eq!((told.execution, told.at, told.blob), (Some(OTHER), Some(since), None));
            match verdict {
                Verdict::Running => {
                    assert_eq!(told.reason, "eve@here (p, process 7) has been at it since 1970-01-01T00:00:00.002Z");
                }
                _ => assert_eq!((&*told.reason, told.rule.as_deref()), ("it broke", Some("outputs"))),
            }
        }
    }
}
