//! Collection: what of the old goes, by which rule, and what keeps the rest.
//!
//! Owns [`Referrer`] and [`Tally`], by which it is counted who refers to what, and [`horizon`], before which nobody relies on what is not
//! counted; [`rules`] says which executions go by age or number, [`shed`] how many for want of room. The unit is the execution with all
//! that it refers to; a blob goes when nothing refers to it any more. Invariant: whatever was relied on at or after the horizon stays.
//! It must not know rows, batches or the blobs themselves.

use std::fmt;
use std::time::Duration;

use crate::digest::Digest;
use crate::execution::{Execution, ExecutionId, State};
use crate::key::TaskKey;
use crate::name::Name;
use crate::time::Timestamp;
use crate::transition::{KeyRow, Known};

pub mod rules;
pub mod shed;

/// How many bytes a digest takes in the list of a closure.
const DIGEST: u64 = 40;

/// What refers to blobs by itself; blobs refer to others through it alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Referrer {
    /// An execution that has ended.
    Execution(ExecutionId),
    /// A pin of a blob or tree.
    Pin([u8; 16]),
    /// A key that was registered with a spec. It refers to no blobs.
    Registration(TaskKey),
}

impl fmt::Display for Referrer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Referrer::Execution(id) => write!(f, "execution {id}"),
            Referrer::Pin(id) => write!(f, "pin {}", crate::digest::hex(id)),
            Referrer::Registration(key) => write!(f, "the registration of {key}"),
        }
    }
}

/// Why nothing may refer to a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Idle {
    /// It has just come.
    Fresh,
    /// The last that referred to it has gone.
    Left,
}

/// What is to be looked at when its time has come.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Due {
    /// Whether an execution still stays.
    Execution(ExecutionId),
    /// Whether a pin of a blob or tree has ended.
    Pin([u8; 16]),
    /// Whether a name has more successes than it is to keep.
    Name(Name),
    /// Whether anything still has a spec.
    Spec(Digest),
}

/// Everything that one referrer refers to, in an order that never changes: its spec, some blobs, and a list of blobs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct References {
    /// Its spec.
    pub spec: Option<Digest>,
    /// Blobs that are named one by one.
    pub blobs: Vec<Digest>,
    /// The blob that lists the others, sorted, 40 bytes each (see [`Digest::to_bytes`]). It is one of the referred to itself.
    pub closure: Option<Digest>,
}

impl References {
    /// What an execution that has ended refers to. Outputs that no commit has looked through are kept by nothing.
    pub fn of(execution: &Execution) -> References {
        let logs = [execution.outcome.stdout, execution.outcome.stderr].into_iter().flatten().map(|log| log.digest);
        let mut blobs: Vec<_> = if execution.closure.is_some() { Vec::new() } else { logs.collect() };
        blobs.sort_unstable();
        blobs.dedup();
        References { spec: Some(execution.spec), blobs, closure: execution.closure }
    }

    /// How many they are. The list has as many digests as fit into its size.
    pub fn len(&self) -> u64 {
        self.named() + self.closure.map_or(0, |closure| 1 + closure.size / DIGEST)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those before the list: how many they are.
    fn named(&self) -> u64 {
        u64::from(self.spec.is_some()) + self.blobs.len() as u64
    }

    /// Which the `at`-th one is.
    pub fn at(&self, at: u64) -> Option<Reference> {
        let blobs = u64::from(self.spec.is_some());
        if let (Some(spec), 0) = (self.spec, at) {
            return Some(Reference::Spec(spec));
        }
        if at < self.named() {
            return self.blobs.get(usize::try_from(at - blobs).ok()?).copied().map(Reference::Blob);
        }
        let closure = self.closure?;
        match at - self.named() {
            0 => Some(Reference::Blob(closure)),
            listed if listed <= closure.size / DIGEST => Some(Reference::Listed(listed - 1)),
            _ => None,
        }
    }
}

/// One of the [`References`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    /// A spec.
    Spec(Digest),
    /// A blob.
    Blob(Digest),
    /// The blob that stands at this place of the list.
    Listed(u64),
}

/// The counting of one referrer, under way. Each step of it is one batch, so whatever is interrupted, nothing is counted twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Whether it is to be counted; else what was counted of it is taken back.
    pub adds: bool,
    /// How many of its references, from the first on, are counted now.
    pub done: u64,
    /// What it refers to.
    pub references: References,
    /// Of a collected execution: itself, until the rows are gone by which it was found.
    pub gone: Option<Box<Execution>>,
}

impl Tally {
    /// Of what has just come.
    pub fn begin(references: References) -> Tally {
        Tally { adds: true, done: 0, references, gone: None }
    }

    /// Of what goes, of which all is counted unless `under_way` says otherwise.
    pub fn end(references: References, under_way: Option<&Tally>) -> Tally {
        let done = under_way.map_or(references.len(), |tally| tally.done);
        Tally { adds: false, done, references, gone: None }
    }

    /// Whether it is through.
    pub fn is_through(&self) -> bool {
        match self.adds {
            true => self.done >= self.references.len(),
            false => self.done == 0 && self.gone.is_none(),
        }
    }

    /// Which references are next, at most so many: from where, and how many.
    pub fn next(&self, most: u64) -> (u64, u64) {
        match self.adds {
            true => (self.done, most.min(self.references.len().saturating_sub(self.done))),
            false => (self.done.saturating_sub(most), most.min(self.done)),
        }
    }

    /// The same once so many more are done.
    pub fn after(&self, many: u64) -> Tally {
        let done = if self.adds { self.done + many } else { self.done.saturating_sub(many) };
        Tally { done, ..self.clone() }
    }
}

/// What was collected last of a key, and by which rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// When.
    pub at: Timestamp,
    /// By which rule (see [`rules::Rule`]).
    pub rule: String,
    /// In words.
    pub reason: String,
}

/// The moment before which whatever nothing counted refers to is relied on by nobody: `protect` before now, and `touch` before the
/// oldest execution began that runs now, since an answer "present" renews what was not touched for that long.
///
/// It holds for all that was counted after the running ones were looked up.
pub fn horizon(
    now: Timestamp,
    protect: Duration,
    touch: Duration,
    running: impl IntoIterator<Item = Timestamp>,
) -> Timestamp {
    let oldest = running.into_iter().map(|began| ago(began, touch)).min();
    let protected = ago(now, protect);
    oldest.map_or(protected, |oldest| oldest.min(protected))
}

/// A moment so long before another.
pub fn ago(at: Timestamp, before: Duration) -> Timestamp {
    Timestamp::from_millis(at.millis().saturating_sub(u64::try_from(before.as_millis()).unwrap_or(u64::MAX)))
}

/// A moment so long after another.
pub fn later(at: Timestamp, after: Duration) -> Timestamp {
    Timestamp::from_millis(at.millis().saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)))
}

/// What a key's row says once an execution of it is collected: its record is EVICTED, and that it once failed is forgotten. Who runs it
/// now goes on.
pub fn collect(known: &Known, execution: &Execution, collected: &Collected) -> KeyRow {
    let mut row = known.row.clone();
    // That another one's record is about to go is still so.
    row.leaving &= row.record.as_ref().is_some_and(|record| record.execution != execution.id);
    let evicted = known.evicted(execution.id, collected);
    if let Some(record) = evicted {
        (row.record, row.last) = (Some(record), None);
    } else if row.last.as_ref().is_some_and(|last| last.execution == execution.id) {
        row.last = None;
    }
    row.collected = Some(collected.clone());
    row
}

/// Whether an execution is what its key answers with, or could answer with again.
pub fn is_record(known: &Known, execution: &Execution) -> bool {
    let record = known.row.record.as_ref().filter(|record| record.execution == execution.id);
    execution.state == State::Succeeded && record.is_some() && crate::transition::invalidate::stands(known)
}

#[cfg(test)]
mod tests;
