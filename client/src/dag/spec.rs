//! What a task's key stands for, as the store keeps it.

use std::collections::BTreeMap;

use bytes::Bytes;
use provender_core::key::TaskKey;
use provender_core::spec::{Input, Mount};
use provender_core::tree::Node;
use provender_core::{Digest, ExecutionId, Spec, json};

use super::bencode::{Dict, Value, decode};
use super::file::Task;

/// What a key's success made, where that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Made {
    /// The tree of its outputs.
    pub(super) outputs: Option<Digest>,
    /// The execution that made it.
    pub(super) execution: Option<ExecutionId>,
}

/// The spec of a task; `made` says what its dependencies came to.
pub(super) fn spec(task: &Task, made: impl Fn(&TaskKey) -> Option<Made>) -> Spec {
    let mut spec = Spec::new(task.name.clone());
    // It was encoded when the file was read, so it decodes.
    let entries = match decode(&task.raw) {
        Ok(Value::Dict(entries)) => entries,
        _ => Dict::default(),
    };
    for (key, value) in &entries {
        match (*key, value.as_text()) {
            (b"inputs", _) => {}
            (b"command", Some(command)) => spec.command = vec!["sh".into(), "-c".into(), command.to_owned().into()],
            (b"image", Some(image)) => spec.image = Some(image.into()),
            (b"sha", Some(version)) => spec.code_version = Some(version.into()),
            (key, _) => _ = spec.params.insert(json::member(key), to_json(value)),
        }
    }
    spec.inputs = task
        .dependencies
        .iter()
        .map(|dependency| {
            let made = made(&dependency.key);
            let content = made.and_then(|made| made.outputs).map(|digest| Node::Directory { digest });
            let execution = made.and_then(|made| made.execution);
            let input = Input { mount: Mount::CheckedOut, content, key: Some(dependency.key.clone()), execution };
            (dependency.label.clone(), input)
        })
        .collect::<BTreeMap<Bytes, Input>>();
    spec.policy.refuse_empty = true;
    spec.raw = Some(task.raw.clone());
    spec
}

/// The depth is bounded by the decoder's.
fn to_json(value: &Value<'_>) -> serde_json::Value {
    match value {
        Value::Integer(number) => (*number).into(),
        Value::Bytes(bytes) => json::bytes(bytes),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Dict(entries) => entries.iter().map(|(key, value)| (json::member(key), to_json(value))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dag::file::File;
    use crate::dag::testing::{dict, file, integer, text};
    use serde_json::json;

    #[test]
    fn what_is_known_has_its_field_and_the_rest_are_params() {
        let odd = dict(&[(b"\xff", Value::Bytes(b"\xfe"))]);
        let list = Value::List(Box::new([integer(1), odd.clone()]));
        let entries = dict(&[
            (b"command", text("make")),
            (b"image", text("debian")),
            (b"sha", integer(7)),
            (b"list", list),
            (b"z", text("ä")),
        ]);
        let bytes = file(&[("down", entries, &[("up", &"a".repeat(64))])]);
        let parsed = File::parse(&bytes, "p/").unwrap();
        let task = &parsed.tasks()[0];
        let made = Made { outputs: Some(Digest::of(b"tree")), execution: Some(ExecutionId([3; 16])) };
        let spec = spec(task, |_| Some(made));
        assert_eq!(
            (spec.name.as_str(), spec.image.as_deref(), spec.code_version.as_deref()),
            ("p/down", Some("debian"), None)
        );
        assert_eq!(spec.command, ["sh", "-c", "make"]);
        let params: serde_json::Value = spec.params.clone().into_iter().collect();
        assert_eq!(params, json!({ "sha": 7, "list": [1, { "\\xff": { "b64": "/g==" } }], "z": "ä" }));
        let input = &spec.inputs[&b"up"[..]];
        assert_eq!(input.key.as_ref().unwrap().as_str(), format!("alamode:{}", "a".repeat(64)));
        assert_eq!(
            (&input.content, input.execution),
            (&Some(Node::Directory { digest: Digest::of(b"tree") }), made.execution)
        );
        assert!(spec.policy.refuse_empty);
        assert_eq!(spec.raw.as_ref(), Some(&task.raw));
    }
}
