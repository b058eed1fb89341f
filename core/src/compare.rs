//! Comparing two executions: where they part, and what came of it.
//!
//! Owns [`Cause`], the rules by which specs are compared ([`changes`], [`input_differs`], [`is_same_task`]), and [`Comparison`], the whole
//! answer. Invariants: equal specs have no changes; of specs with different digests something is told, unless it is the name alone,
//! which is no cause; what a secret was is never told. It must not know where specs come from, nor who made an input.

pub mod document;
mod rules;
pub mod text;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::Value;

use crate::diff;
use crate::digest::Digest;
use crate::execution::{Execution, ExecutionId};
use crate::fields;
use crate::key::TaskKey;
use crate::name::Name;
use crate::tree::Node;

pub use rules::{changes, input_differs, is_related, is_same_task, wording};

/// Longer values of fields are cut to where they differ, to about so many bytes.
pub const MAX_VALUE: usize = 64 << 10;

/// What one side says at a path.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// A value; an unset variable is null.
    Value(Value),
    /// A secret, whose value is not known.
    Secret,
}

/// A field of two sides; absent where a side has none.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its path, as in [`fields`].
    pub field: String,
    /// What the first side says.
    pub old: Option<Told>,
    /// What the second side says.
    pub new: Option<Told>,
}

impl Change {
    /// Whether the sides differ. That two secrets do is known only to who made this.
    pub fn differs(&self) -> bool {
        self.old != self.new || self.old == Some(Told::Secret)
    }
}

/// In what a task parts from another.
#[derive(Debug, Clone, PartialEq)]
pub enum Difference {
    /// A field of its spec.
    Field(Change),
    /// What stands at a path of an input that nobody is known to have made.
    Content {
        /// The input's name.
        input: Bytes,
        /// The path in it; empty for itself.
        path: Bytes,
        /// What the first side has there.
        old: Option<Node>,
        /// What the second side has there.
        new: Option<Node>,
    },
    /// An input that only one side has, or that comes from elsewhere: the name of the task that made it, else its key, else
    /// `blob:HEX` or `tree:HEX`.
    Input {
        /// The input's name.
        input: Bytes,
        /// Where the first side has it from.
        old: Option<String>,
        /// Where the second side has it from.
        new: Option<String>,
    },
    /// The same was done with the same, and made something else.
    Unstable,
    /// The keys differ, and it is not known in what.
    Unknown {
        /// The first side's key.
        old: TaskKey,
        /// The second side's key.
        new: TaskKey,
    },
}

impl Difference {
    /// The word for its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Difference::Field(_) => "field",
            Difference::Content { .. } => "content",
            Difference::Input { .. } => "input",
            Difference::Unstable => "unstable",
            Difference::Unknown { .. } => "unknown",
        }
    }

    /// About how many bytes it takes.
    pub fn weight(&self) -> usize {
        let told = |told: &Option<Told>| match told {
            Some(Told::Value(value)) => weight(value),
            _ => 8,
        };
        64 + match self {
            Difference::Field(change) => change.field.len() + told(&change.old) + told(&change.new),
            Difference::Content { input, path, .. } => input.len() + path.len() + 160,
            Difference::Input { input, old, new } => {
                input.len() + [old, new].into_iter().flatten().map(String::len).sum::<usize>()
            }
            Difference::Unstable => 0,
            Difference::Unknown { old, new } => old.as_str().len() + new.as_str().len(),
        }
    }
}

fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => 32 + text.len(),
        // What is nested deeper stands at paths of its own.
        Value::Array(items) => items.iter().map(|item| 32 + item.as_str().map_or(0, str::len)).sum(),
        _ => 32,
    }
}

/// A difference that others come from.
#[derive(Debug, Clone, PartialEq)]
pub struct Cause {
    /// The task in which it is, as the second side calls it.
    pub name: Name,
    /// Its key on the second side.
    pub key: TaskKey,
    /// The execution of it on the first side, if there is one.
    pub old: Option<ExecutionId>,
    /// The one on the second side.
    pub new: Option<ExecutionId>,
    /// How many steps up from what was asked for.
    pub distance: u32,
    /// What it is.
    pub is: Difference,
}

/// What is compared.
#[derive(Debug, Clone, PartialEq)]
pub enum Side {
    /// An execution.
    Execution(Box<Execution>),
    /// A key that was registered and never attempted, and what it is called.
    Registered(TaskKey, Name),
    /// Bytes.
    Blob(Digest),
    /// A directory.
    Tree(Digest),
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The first side.
    pub old: Side,
    /// The second side.
    pub new: Side,
    /// Where they part, nearest first.
    pub causes: Vec<Cause>,
    /// What either measured, by path, also where that is the same.
    pub metrics: Vec<Change>,
    /// The labels of either, likewise.
    pub labels: Vec<Change>,
    /// Where their outputs differ, or the two trees or blobs, in the order of a tree.
    pub outputs: Vec<diff::Difference>,
    /// Whether there are more causes.
    pub truncated_causes: bool,
    /// Whether there are more outputs.
    pub truncated_outputs: bool,
    /// Why the outputs could not be compared to the end, if so.
    pub unread: Option<String>,
    /// Whether they are of different tasks, and nothing of these or of their inputs is the same.
    pub unrelated: bool,
}

impl Comparison {
    /// Of two sides, of which nothing is known yet.
    pub fn new(old: Side, new: Side) -> Comparison {
        Comparison {
            old,
            new,
            causes: Vec::new(),
            metrics: Vec::new(),
            labels: Vec::new(),
            outputs: Vec::new(),
            truncated_causes: false,
            truncated_outputs: false,
            unread: None,
            unrelated: false,
        }
    }
}

/// The entries of two maps by name, where either has one.
pub fn paired<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)> {
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    names.into_iter().map(|name| (name, old.get(name), new.get(name)))
}

/// What two executions measured, each value at its path, also where that is the same.
pub fn metrics(old: Option<&Execution>, new: Option<&Execution>) -> Vec<Change> {
    let flat = |execution: Option<&Execution>| -> BTreeMap<String, Value> {
        let metrics = execution.into_iter().flat_map(|execution| &execution.outcome.metrics);
        metrics.flat_map(|(name, value)| fields::of_value(name, value)).collect()
    };
    side_by_side(&flat(old), &flat(new))
}

/// The labels of two executions, also where they are the same.
pub fn labels(old: Option<&Execution>, new: Option<&Execution>) -> Vec<Change> {
    let all = |execution: Option<&Execution>| -> BTreeMap<String, Value> {
        let labels = execution.into_iter().flat_map(|execution| execution.remarks.labels.iter());
        labels.map(|(name, value)| (name.to_owned(), value.into())).collect()
    };
    side_by_side(&all(old), &all(new))
}

fn side_by_side(old: &BTreeMap<String, Value>, new: &BTreeMap<String, Value>) -> Vec<Change> {
    let value = |value: Option<&Value>| value.cloned().map(Told::Value);
    let all = paired(old, new);
    all.map(|(field, old, new)| Change { field: field.clone(), old: value(old), new: value(new) }).collect()
}

#[cfg(test)]
mod tests;
