//! What is true in a simulation: every row that was ever committed, in commit order, beside what executors and operators really did.
//!
//! Owns [`Ledger`]; [`rules`](super::rules) judges each commit against it. Invariant: it is told of a commit at the very moment at which
//! that happens, whatever its daemon is told of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use provender_core::blob::Stored;
use provender_core::lease::Lease;
use provender_core::lost::voided;
use provender_core::transition::{KeyRow, Known, Void};
use provender_core::{Digest, Execution, ExecutionId, TaskKey, Timestamp, Verdict};

use super::kept::Kept;

/// What an executor asked for, or says that it did.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    /// How many commits there had been when it first asked.
    pub(super) since: usize,
    /// How many there had been when it first asked to end.
    pub(super) ending: Option<usize>,
    /// Whether it asked for a check.
    pub(super) check: bool,
    /// What it reported: its outputs, and whether all went well.
    pub(super) reported: Vec<(Option<Digest>, bool)>,
}

/// How a lease ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Freed {
    /// When its row was last written before.
    pub(super) beat: Duration,
    /// When it ended.
    pub(super) at: Duration,
    /// How long it lasted from a beat, if it expired.
    pub(super) expired: Option<Duration>,
}

/// A record that was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    pub(super) closure: Digest,
    /// The last commit after which it was its key's record, and not void.
    pub(super) stood: usize,
    /// The last commit after which nothing of it was lost.
    pub(super) whole: usize,
}

/// A verdict, and the execution whose record answers.
pub(super) type Standing = (Verdict, Option<ExecutionId>);

/// The truth.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// How many commits there were.
    pub(super) commits: usize,
    /// Rows of keys.
    pub(super) keys: BTreeMap<TaskKey, KeyRow>,
    /// Executions that ever made a record.
    pub(super) records: BTreeMap<ExecutionId, Made>,
    /// Leases, and when each row was last written.
    pub(super) leases: BTreeMap<TaskKey, (Lease, Duration)>,
    /// Executions.
    pub(super) executions: BTreeMap<ExecutionId, Execution>,
    /// Blobs.
    pub(super) blobs: BTreeMap<Digest, Stored>,
    /// The digests in each closure, by its digest.
    pub(super) closures: BTreeMap<Digest, BTreeSet<Digest>>,
    /// How each lease ended.
    pub(super) freed: BTreeMap<ExecutionId, Freed>,
    /// What executors did.
    pub(super) attempts: BTreeMap<ExecutionId, Attempt>,
    /// Digests whose stored bytes an operator destroyed, and those of which that was ever so.
    pub(super) decayed: BTreeSet<Digest>,
    /// Those of which that was ever so.
    pub(super) ever_decayed: BTreeSet<Digest>,
    /// Keys that somebody is invalidating, or was.
    pub(super) invalidated: BTreeSet<TaskKey>,
    /// Of each daemon: when its view of the leases last failed.
    pub(super) blind: Vec<Option<Duration>>,
    /// Until when there was any fault.
    pub(super) fault: Duration,
    /// Of each key: from which commit on it stood how.
    pub(super) standings: BTreeMap<TaskKey, Vec<(usize, Standing)>>,
    /// What collection has to leave alone.
    pub(super) kept: Kept,
    /// Executions that it took.
    pub(super) collected: BTreeMap<ExecutionId, Execution>,
    /// The first rule that was broken.
    pub(super) broken: Option<String>,
}

impl Ledger {
    /// Notes that a rule is broken, unless one is already.
    pub(super) fn broke(&mut self, rule: &str, what: impl FnOnce() -> String) {
        if self.broken.is_none() {
            self.broken = Some(format!("{rule}: {}", what()));
        }
    }

    /// Breaks the rule unless it `holds`.
    pub(super) fn must(&mut self, holds: bool, rule: &str, what: impl FnOnce() -> String) {
        if !holds {
            self.broke(rule, what);
        }
    }

    /// An execution, also if it is collected by now.
    pub(super) fn execution(&self, id: ExecutionId) -> Option<&Execution> {
        self.executions.get(&id).or_else(|| self.collected.get(&id))
    }

    /// Whether this is the execution of an error, and is collected.
    pub(super) fn has_collected(&self, what: &str) -> bool {
        self.collected.keys().any(|id| what == format!("execution {id}"))
    }

    /// An executor asks for its end: what it made, and whether all went well.
    pub(super) fn report(&mut self, id: ExecutionId, made: Option<Digest>, ok: bool) {
        let commits = self.commits;
        if let Some(attempt) = self.attempts.get_mut(&id) {
            attempt.ending.get_or_insert(commits);
            attempt.reported.push((made, ok));
        }
    }

    /// The digests of a record's closure that are marked as lost, with their positions.
    pub(super) fn losses(&self, closure: &Digest) -> Vec<(Digest, u64)> {
        let digests = self.closures.get(closure).into_iter().flatten().chain([closure]);
        digests.filter_map(|digest| Some((*digest, self.blobs.get(digest)?.lost?))).collect()
    }

    /// How a key stands now.
    pub(super) fn standing(&self, key: &TaskKey) -> Standing {
        let row = self.keys.get(key).cloned().unwrap_or_default();
        let mut known = Known { row, lease: self.leases.get(key).map(|(lease, _)| lease.clone()) };
        if known.answer().is_some_and(|record| !self.losses(&record.closure).is_empty()) {
            let void = Void {
                verdict: Verdict::Lost,
                reason: String::new(),
                at: Timestamp::default(),
                blob: None,
                rule: None,
            };
            known = voided(known, void);
        }
        (known.verdict(), known.answer().map(|record| record.execution))
    }

    /// Notes how all keys stand after a commit.
    pub(super) fn note_standings(&mut self) {
        let commits = self.commits;
        for row in self.keys.values() {
            let record = row.record.as_ref().filter(|record| record.void.is_none());
            record
                .and_then(|record| self.records.get_mut(&record.execution))
                .into_iter()
                .for_each(|made| made.stood = commits);
        }
        let whole: Vec<_> =
            self.records.iter().filter(|(_, made)| self.losses(&made.closure).is_empty()).map(|(id, _)| *id).collect();
        whole.iter().filter_map(|id| self.records.get_mut(id).map(|made| made.whole = commits)).for_each(drop);
        let keys: BTreeSet<_> = self.keys.keys().chain(self.leases.keys()).cloned().collect();
        for key in keys {
            let standing = self.standing(&key);
            let past = self.standings.entry(key).or_default();
            if past.last().is_none_or(|(_, last)| *last != standing) {
                past.push((self.commits, standing));
            }
        }
    }

    /// Whether a key stood so at any moment since there had been so many commits.
    pub(super) fn stood(&self, key: &TaskKey, since: usize, so: impl Fn(&Standing) -> bool) -> bool {
        let past = self.standings.get(key).map_or(&[][..], Vec::as_slice);
        let first = past.partition_point(|(from, _)| *from <= since);
        let before = match first.checked_sub(1) {
            Some(at) => so(&past[at].1),
            None => so(&(Verdict::Unknown, None)),
        };
        before || past[first..].iter().any(|(_, standing)| so(standing))
    }

    /// For a message: how a key has stood.
    pub(super) fn past(&self, key: &TaskKey) -> String {
        let past = self.standings.get(key).map_or(&[][..], Vec::as_slice);
        past.iter()
            .rev()
            .take(6)
            .map(|(from, standing)| format!("since {from} {standing:?}"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}
