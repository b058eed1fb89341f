//! Comparing two executions: where they part, and what came of it.
//!
//! Owns [`Cause`], the rules by which specs are compared ([`changes`], [`input_differs`], [`is_same_task`]), and [`Comparison`], the whole
//! answer. Invariants: equal specs have no changes; of specs with different digests something is told, unless it is the name alone,
//! which is no cause; what a secret was is never told. It must not know where specs come from, nor who made an input.

pub mod document;
pub mod text;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::Value;

use crate::diff;
use crate::digest::Digest;
use crate::execution::{Execution, ExecutionId};
use crate::fields::{self, Field};
use crate::json as face;
use crate::key::TaskKey;
use crate::name::Name;
use crate::spec::{Input, Mount, Spec, Variable};
use crate::tree::Node;

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

/// The fields in which two specs differ, each standing for its key: all but the name, what the inputs are, and the specs as their tools
/// wrote them (see [`wording`]), which repeat the same in other words.
pub fn changes((old_key, old): (&TaskKey, &Spec), (new_key, new): (&TaskKey, &Spec)) -> Vec<Change> {
    // Words of one tool compare with its own alone.
    let words = if old_key.scheme() == new_key.scheme() { new_key.scheme() } else { "" };
    let (olds, news) = (fields::of_spec(words, old), fields::of_spec(words, new));
    let mut changes = Vec::new();
    let paths: BTreeSet<_> = olds.keys().chain(news.keys()).collect();
    for path in paths.into_iter().filter(|path| olds.get(*path) != news.get(*path)) {
        changes.push(Change { field: path.clone(), old: told(olds.get(path)), new: told(news.get(path)) });
    }
    let mut say = |field: String, old: Option<Told>, new: Option<Told>| changes.push(Change { field, old, new });
    // What has one text as a field, and is not the same.
    let command = |spec: &Spec| Some(Told::Value(spec.command.iter().map(|word| face::bytes(word)).collect()));
    if old.command != new.command && olds.get("command") == news.get("command") {
        say("command".into(), command(old), command(new));
    }
    let codes = |spec: &Spec| spec.policy.exit_codes.iter().copied().collect::<BTreeSet<_>>();
    if old.policy.refuse_empty != new.policy.refuse_empty {
        let refused = |spec: &Spec| Some(Told::Value(spec.policy.refuse_empty.into()));
        say("policy.refuse_empty".into(), refused(old), refused(new));
    }
    for (name, old, new) in paired(&old.inputs, &new.inputs) {
        if let (Some(old), Some(new)) = (old, new)
            && old.mount != new.mount
        {
            let out = |input: &Input| Some(Told::Value((input.mount == Mount::CheckedOut).into()));
            say(format!("inputs.{}.checked_out", face::member(name)), out(old), out(new));
        }
    }
    if olds.len().max(news.len()) >= fields::MAX_FIELDS {
        beyond(old, new, &mut say);
    }
    // The same codes in another order are the same.
    changes.retain(|change| change.field != "policy.exit_codes" || codes(old) != codes(new));
    changes.iter_mut().for_each(shorten);
    changes.sort_by(|one, other| one.field.cmp(&other.field));
    changes.dedup_by(|one, other| one.field == other.field);
    changes
}

/// Has long values begin near to where they part, and end: what is told of a field has a bound.
fn shorten(change: &mut Change) {
    let long = |told: &Option<Told>| matches!(told, Some(Told::Value(value)) if weight(value) > MAX_VALUE);
    if !long(&change.old) && !long(&change.new) {
        return;
    }
    let text = |told: &Option<Told>| match told {
        Some(Told::Value(Value::String(text))) => Some(text.clone()),
        Some(Told::Value(value)) => Some(value.to_string()),
        _ => None,
    };
    let (old, new) = (text(&change.old), text(&change.new));
    let (Some(old), Some(new)) = (old.clone().or_else(|| new.clone()), new.or(old)) else { return };
    let (old, new) = text::around(&old, &new, MAX_VALUE);
    for (told, text) in [(&mut change.old, old), (&mut change.new, new)] {
        if let Some(Told::Value(value)) = told {
            *value = text.into();
        }
    }
}

/// What differs in specs that have more fields than are told of: those whole that hold them.
fn beyond(old: &Spec, new: &Spec, say: &mut impl FnMut(String, Option<Told>, Option<Told>)) {
    for (name, old, new) in paired(&old.params, &new.params).filter(|(_, old, new)| old != new) {
        say(format!("params.{name}"), old.cloned().map(Told::Value), new.cloned().map(Told::Value));
    }
    let variable = |variable: &Variable| match variable {
        Variable::Plain(value) => Told::Value(face::bytes(value)),
        Variable::Unset => Told::Value(Value::Null),
        Variable::Secret(_) => Told::Secret,
    };
    for (name, old, new) in paired(&old.env, &new.env).filter(|(_, old, new)| old != new) {
        say(format!("env.{}", face::member(name)), old.map(variable), new.map(variable));
    }
}

/// That two specs, in which nothing else differs, are written in other words by their tools. What they say is not told.
pub fn wording(old: &Spec, new: &Spec) -> Option<Change> {
    (old.raw != new.raw).then(|| Change { field: "raw".into(), old: None, new: None })
}

/// The entries of two maps by name, where either has one.
pub fn paired<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)> {
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    names.into_iter().map(|name| (name, old.get(name), new.get(name)))
}

fn told(field: Option<&Field>) -> Option<Told> {
    Some(match field? {
        Field::Value(value) => Told::Value(value.clone()),
        Field::Secret(_) => Told::Secret,
    })
}

/// Whether one input of two specs differs, for a key of this scheme. A key of `run` is made of what is in its inputs, whoever made that;
/// others are made of the keys before them, so that these are a difference by themselves.
pub fn input_differs(scheme: &str, old: &Input, new: &Input) -> bool {
    let contents = old.content.is_some() && new.content.is_some();
    let content = contents && old.content != new.content;
    let origin = old.key != new.key || (old.key.is_none() && old.execution != new.execution && !contents);
    match scheme {
        "run" if contents => content,
        _ => content || origin || old.content.is_some() != new.content.is_some() && old.key.is_none(),
    }
}

/// Whether two specs are of one task, as a person would see it: the last parts of their names are the same, or the same command is
/// run; of specs without a command, any field is the same.
pub fn is_same_task((old_key, old): (&TaskKey, &Spec), (new_key, new): (&TaskKey, &Spec)) -> bool {
    let last = |spec: &Spec| spec.name.as_str().rsplit('/').next().map(str::to_owned);
    if last(old) == last(new) || old_key == new_key {
        return true;
    }
    match (old.command.is_empty(), new.command.is_empty()) {
        (false, false) => old.command == new.command,
        (true, true) => shares_a_field(old, new),
        _ => false,
    }
}

/// Whether two specs say, read or are anything alike.
pub fn is_related(old: (&TaskKey, &Spec), new: (&TaskKey, &Spec)) -> bool {
    let inputs = old.1.inputs.values();
    let digests: BTreeSet<_> = inputs.clone().filter_map(|input| input.content.as_ref()?.digest()).collect();
    let keys: BTreeSet<_> = inputs.clone().filter_map(|input| input.key.as_ref()).collect();
    let executions: BTreeSet<_> = inputs.filter_map(|input| input.execution).collect();
    let shared = |input: &Input| {
        input.content.as_ref().and_then(Node::digest).is_some_and(|digest| digests.contains(&digest))
            || input.key.as_ref().is_some_and(|key| keys.contains(key))
            || input.execution.is_some_and(|id| executions.contains(&id))
    };
    is_same_task(old, new) || shares_a_field(old.1, new.1) || new.1.inputs.values().any(shared)
}

fn shares_a_field(old: &Spec, new: &Spec) -> bool {
    let (olds, news) = (fields::of_spec("", old), fields::of_spec("", new));
    olds.iter().any(|(path, field)| news.get(path) == Some(field))
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
