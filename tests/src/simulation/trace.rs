//! What happened in a simulation, in order: counted, hashed, and kept as text only where somebody will read it.

use std::collections::BTreeMap;
use std::fmt::{Arguments, Write};
use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

/// The trace of one simulation.
#[derive(Debug, Default)]
pub(super) struct Trace {
    keeps: bool,
    hasher: DefaultHasher,
    line: String,
    /// Each event, if they are kept.
    pub(super) lines: Vec<String>,
    /// How many events of each kind there were.
    pub(super) counts: BTreeMap<&'static str, u64>,
}

impl Trace {
    /// An empty one; whether it keeps the text.
    pub(super) fn new(keeps: bool) -> Trace {
        Trace { keeps, ..Trace::default() }
    }

    /// Something happened at a virtual time.
    pub(super) fn event(&mut self, at: Duration, kind: &'static str, detail: Arguments<'_>) {
        *self.counts.entry(kind).or_default() += 1;
        self.line.clear();
        // Writing to a string does not fail.
        _ = write!(self.line, "{:>9.3} {kind}: {detail}", at.as_secs_f64());
        self.hasher.write(self.line.as_bytes());
        if self.keeps {
            self.lines.push(self.line.clone());
        }
    }

    /// Counts what is no event of its own.
    pub(super) fn count(&mut self, kind: &'static str) {
        *self.counts.entry(kind).or_default() += 1;
    }

    /// Everything so far, as one number.
    pub(super) fn hash(&self) -> u64 {
        self.hasher.finish()
    }
}
