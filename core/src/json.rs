//! The JSON faces: what `--json` prints and what the mounted view's `.json` files hold.
//!
//! Invariant: fields are never renamed or given another type within one value of `v`. Times are RFC 3339 UTC with milliseconds,
//! bytes are integers, and what is not UTF-8 is `{"b64": …}`.

use std::collections::BTreeMap;

use base64::Engine;
use serde_json::{Map, Value, json};

use crate::digest::{Digest, hex};
use crate::execution::{Execution, Exit, Log};
use crate::spec::{Input, Mount, Spec, Variable};
use crate::tree::Node;

/// The version of the JSON faces, the `v` field of each document.
pub const V: u32 = 1;

/// A document as a file: for people, and the same each time.
pub fn file(document: &Value) -> bytes::Bytes {
    format!("{document:#}\n").into()
}

/// Bytes that mostly are text.
pub fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "b64": base64::engine::general_purpose::STANDARD.encode(bytes) }),
    }
}

/// The bytes of which [`bytes()`] made a value that is no text.
pub(crate) fn no_text(value: &Value) -> Option<Vec<u8>> {
    let members = value.as_object().filter(|members| members.len() == 1)?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(members.get("b64")?.as_str()?).ok()?;
    Some(bytes).filter(|bytes| std::str::from_utf8(bytes).is_err())
}

/// The name of an object's member; one that is no UTF-8 has its bad bytes as `\xNN`.
pub fn member(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) => text.to_owned(),
        Err(_) => name.escape_ascii().to_string(),
    }
}

/// Byte strings as members of an object.
fn members<'a, T: 'a>(map: impl IntoIterator<Item = (&'a bytes::Bytes, T)>, value: impl Fn(T) -> Value) -> Value {
    Value::Object(map.into_iter().map(|(name, each)| (member(name), value(each))).collect::<Map<_, _>>())
}

/// A blob: its hash and size.
pub fn digest(digest: &Digest) -> Value {
    json!({ "hash": digest.hex(), "size": digest.size })
}

/// What stands at a path.
pub fn node(node: &Node) -> Value {
    match node {
        Node::File { digest, executable } => {
            json!({ "type": "file", "hash": digest.hex(), "size": digest.size, "executable": executable })
        }
        Node::Directory { digest } => json!({ "type": "tree", "hash": digest.hex() }),
        Node::Symlink { target } => json!({ "type": "symlink", "target": bytes(target) }),
    }
}

fn exit(exit: &Exit) -> Value {
    match exit {
        Exit::Code(code) => json!({ "code": code }),
        Exit::Signal(signal) => json!({ "signal": signal }),
    }
}

fn log(log: &Log) -> Value {
    json!({ "hash": log.digest.hex(), "size": log.digest.size, "cut": log.cut })
}

/// An execution: what `show` prints.
pub fn execution(execution: &Execution) -> Value {
    let Execution { outcome, executor, .. } = execution;
    json!({
        "v": V,
        "execution": execution.id.to_string(),
        "key": execution.key.as_str(),
        "name": execution.name.as_str(),
        "verdict": execution.state.verdict().as_str(),
        "reason": execution.reason,
        "rule": execution.rule,
        "spec": execution.spec.hex(),
        "began": execution.began.to_string(),
        "ended": execution.ended.map(|at| at.to_string()),
        "executor": { "program": executor.program, "user": executor.user, "host": executor.host, "pid": executor.pid },
        "attested": execution.attested,
        "diverges_from": execution.diverges_from.map(|id| id.to_string()),
        "exit": outcome.exit.as_ref().map(exit),
        "usage": {
            "wall_ms": outcome.usage.wall_ms,
            "user_ms": outcome.usage.user_ms,
            "system_ms": outcome.usage.system_ms,
            "peak_rss": outcome.usage.peak_rss,
        },
        "stdout": outcome.stdout.as_ref().map(log),
        "stderr": outcome.stderr.as_ref().map(log),
        "outputs": outcome.outputs.as_ref().map(digest),
        "metrics": outcome.metrics,
        "labels": execution.remarks.labels.iter().collect::<BTreeMap<_, _>>(),
        "note": Some(&execution.remarks.note).filter(|note| !note.is_empty()),
        "folder": execution.folder,
    })
}

/// The same as it ended: `record.json`, without what people say of it, which may change.
pub fn record(of: &Execution) -> Value {
    let mut document = execution(of);
    if let Value::Object(members) = &mut document {
        ["labels", "note"].into_iter().for_each(|name| _ = members.remove(name));
    }
    document
}

fn declared(input: &Input) -> Map<String, Value> {
    let members = [
        ("checked_out", (input.mount == Mount::CheckedOut).into()),
        ("content", input.content.as_ref().map(node).into()),
        ("key", input.key.as_ref().map(|key| key.as_str()).into()),
        ("execution", input.execution.map(|id| id.to_string()).into()),
    ];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// An input by itself: what stands in the mounted view for one that the store does not hold.
pub fn input(name: &[u8], input: &Input) -> Value {
    let mut document = declared(input);
    document.insert("v".to_owned(), V.into());
    document.insert("name".to_owned(), bytes(name));
    Value::Object(document)
}

/// A spec: `spec.json`.
pub fn spec(spec: &Spec) -> Value {
    let variable = |variable: &Variable| match variable {
        Variable::Unset => Value::Null,
        Variable::Plain(value) => bytes(value),
        Variable::Secret(hash) => json!({ "secret": hex(hash) }),
    };
    json!({
        "v": V,
        "name": spec.name.as_str(),
        "command": spec.command.iter().map(|word| bytes(word)).collect::<Vec<_>>(),
        "image": spec.image,
        "code_version": spec.code_version,
        "params": spec.params,
        "env": members(&spec.env, variable),
        "inputs": members(&spec.inputs, |input| Value::Object(declared(input))),
        "outputs": spec.outputs.iter().map(|path| bytes(path)).collect::<Vec<_>>(),
        "policy": {
            "exit_codes": spec.policy.exit_codes,
            "required": members(&spec.policy.required, |least| (*least).into()),
            "refuse_empty": spec.policy.refuse_empty,
        },
        "raw": spec.raw.as_ref().map(|raw| bytes(raw)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::{ExecutionId, Executor, State};
    use crate::name::Name;
    use crate::remarks::{Remark, Remarks};
    use crate::time::Timestamp;

    #[test]
    fn an_execution_is_as_written() {
        let executor = Executor { program: "p".into(), user: "u".into(), host: "h".into(), pid: 7 };
        let (key, name) = ("t:x".parse().expect("valid"), Name::new("n").expect("valid"));
        let at = Timestamp::from_millis;
        let mut made = Execution::begin(ExecutionId([1; 16]), key, name, Digest::of(b"s"), executor, at(1));
        (made.state, made.ended, made.outcome.exit) = (State::Succeeded, Some(at(2)), Some(Exit::Code(0)));
        made.outcome.metrics.insert("loss".into(), json!(0.5));
        let remark = Remark { labels: [("l".into(), "v".into())].into(), note: Some("good".into()), remove: vec![] };
        made.remarks = Remarks::default().with(&remark).expect("valid");
        let expected = json!({
            "v": 1,
            "execution": "01".repeat(16),
            "key": "t:x",
            "name": "n",
            "verdict": "SUCCEEDED",
            "reason": null,
            "rule": null,
            "spec": Digest::of(b"s").hex(),
            "began": "1970-01-01T00:00:00.001Z",
            "ended": "1970-01-01T00:00:00.002Z",
            "executor": { "program": "p", "user": "u", "host": "h", "pid": 7 },
            "attested": false,
            "diverges_from": null,
            "exit": { "code": 0 },
            "usage": { "wall_ms": 0, "user_ms": 0, "system_ms": 0, "peak_rss": 0 },
            "stdout": null,
            "stderr": null,
            "outputs": null,
            "metrics": { "loss": 0.5 },
            "labels": { "l": "v" },
            "note": "good",
            "folder": null,
        });
        assert_eq!(execution(&made), expected);
        let record = record(&made);
        assert!(record.get("labels").is_none() && record.get("note").is_none() && record["metrics"]["loss"] == 0.5);
    }
}
