//! The rules by which two specs are compared: what is a difference, and whether they are of one task.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Change, MAX_VALUE, Told, paired, text, weight};
use crate::fields::{self, Field};
use crate::json as face;
use crate::key::TaskKey;
use crate::spec::{Input, Mount, Spec, Variable};
use crate::tree::Node;

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
