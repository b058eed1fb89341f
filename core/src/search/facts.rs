//! Facts: what is known of an execution, as fields with one scalar each, and which of it the index has.
//!
//! Owns the fields' paths, which are those of the JSON faces. A list says each of its members. Invariant: secrets are no facts; the facts of
//! an end without what was measured are a constant number.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::Value;

use super::term;
use crate::execution::{Execution, Exit};
use crate::spec::Spec;
use crate::{fields, json};

/// The most terms of one spec that the index has, and as many of what one execution measured. What comes after them is not found, but in
/// what another condition finds it is looked at like the rest.
pub const MAX_TERMS: usize = 1_000;

/// A field and a scalar.
pub type Fact = (String, Value);
/// A field and a term in the index.
pub type Term = (String, Vec<u8>);

/// A value as a word: of a text the text, of others what JSON writes.
pub fn word(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => text.into(),
        value => value.to_string().into(),
    }
}

fn fact(field: impl Into<String>, value: impl Into<Value>) -> Fact {
    (field.into(), value.into())
}

/// A list says each of its members.
fn each(path: String, value: Value, facts: &mut Vec<Fact>) {
    match value {
        Value::Array(items) if !items.is_empty() => facts.extend(items.into_iter().map(|item| (path.clone(), item))),
        value => facts.push((path, value)),
    }
}

/// What a spec says: its fields as JSON names them, the program that its command begins with, and of each input the hash of its content,
/// its key, and `exec:ID`.
pub fn of_spec(spec: &Spec) -> Vec<Fact> {
    let mut facts = Vec::new();
    let program = match &spec.command[..] {
        [shell, flag, script] if shell == "sh" && flag == "-c" => {
            String::from_utf8_lossy(script).split_whitespace().next().map(str::to_owned)
        }
        words => words.first().map(|word| String::from_utf8_lossy(word).into_owned()),
    };
    facts.extend(program.map(|program| fact("program", program)));
    // Under no scheme fields have the paths that they have in spec.json.
    for (path, field) in fields::of_spec("", spec) {
        if let fields::Field::Value(value) = field {
            each(path, value, &mut facts);
        }
    }
    for (name, input) in &spec.inputs {
        let field = format!("inputs.{}", json::member(name));
        let content = input.content.as_ref().and_then(|node| node.digest()).map(|digest| digest.hex());
        let key = input.key.as_ref().map(ToString::to_string);
        let execution = input.execution.map(|id| format!("exec:{id}"));
        facts.extend([content, key, execution].into_iter().flatten().map(|text| fact(&*field, text)));
    }
    facts
}

/// Who attempts what, under which name.
fn of_begin(execution: &Execution) -> Vec<Fact> {
    let executor = &execution.executor;
    vec![
        fact("name", execution.name.as_str()),
        fact("executor.program", &*executor.program),
        fact("executor.user", &*executor.user),
        fact("executor.host", &*executor.host),
    ]
}

/// How far it has come, and what came of it.
fn of_results(execution: &Execution) -> Vec<Fact> {
    let mut facts = vec![fact("verdict", execution.state.verdict().as_str())];
    if execution.ended.is_some() {
        let (outcome, usage) = (&execution.outcome, &execution.outcome.usage);
        facts.extend(outcome.exit.map(|exit| match exit {
            Exit::Code(code) => fact("exit.code", code),
            Exit::Signal(signal) => fact("exit.signal", signal),
        }));
        facts.extend(execution.rule.iter().map(|rule| fact("rule", &**rule)));
        facts.extend(outcome.outputs.iter().map(|outputs| fact("outputs.hash", outputs.hex())));
        facts.extend([
            fact("usage.wall_ms", usage.wall_ms),
            fact("usage.user_ms", usage.user_ms),
            fact("usage.system_ms", usage.system_ms),
            fact("usage.peak_rss", usage.peak_rss),
        ]);
    }
    facts
}

fn of_labels(execution: &Execution) -> Vec<Fact> {
    let label = |(name, value)| fact(format!("labels.{name}"), value);
    execution.remarks.labels.iter().map(label).collect()
}

fn of_metrics(metrics: &crate::execution::Metrics) -> Vec<Fact> {
    let mut facts = Vec::new();
    for (name, value) in metrics {
        for (path, value) in fields::of_value(&format!("metrics.{name}"), value) {
            each(path, value, &mut facts);
        }
    }
    facts
}

/// What is known of an execution without its spec.
pub(super) fn of_execution(execution: &Execution) -> Vec<Fact> {
    let mut facts = of_begin(execution);
    facts.push(fact("began", execution.began.to_string()));
    facts.extend(of_results(execution));
    facts.extend(of_labels(execution));
    facts.extend(of_metrics(&execution.outcome.metrics));
    facts
}

/// Each term once, in the order of the facts up to a number.
fn terms(facts: Vec<Fact>, most: usize) -> BTreeSet<Term> {
    let mut terms = BTreeSet::new();
    for (field, value) in &facts {
        for term in term::of(value) {
            if terms.len() >= most {
                return terms;
            }
            terms.insert((field.clone(), term));
        }
    }
    terms
}

/// The terms that stand for an execution from its begin on: who and what. When it began is where they stand.
pub fn begin_terms(execution: &Execution, spec: &Spec) -> BTreeSet<Term> {
    terms([of_begin(execution), of_spec(spec)].concat(), MAX_TERMS)
}

/// Those of what came of it up to now, at most 9.
pub fn result_terms(execution: &Execution) -> BTreeSet<Term> {
    terms(of_results(execution), usize::MAX)
}

/// Those of its labels.
pub fn label_terms(execution: &Execution) -> BTreeSet<Term> {
    terms(of_labels(execution), usize::MAX)
}

/// Those of what it measured.
pub fn metric_terms(metrics: &crate::execution::Metrics) -> BTreeSet<Term> {
    terms(of_metrics(metrics), MAX_TERMS)
}
