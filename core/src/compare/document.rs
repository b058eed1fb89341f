//! A comparison as JSON: what `diff --json` prints, and the causes in `why --json`.
//!
//! Invariant: whole, unlike the text; a side that has nothing at a field or path has no member there, which null would not tell from an unset
//! variable.

use serde_json::{Map, Value, json};

use super::{Cause, Change, Comparison, Difference, Side, Told};
use crate::json as face;
use crate::tree::Node;

/// The whole comparison.
pub fn comparison(of: &Comparison) -> Value {
    json!({
        "v": face::V,
        "old": side(&of.old),
        "new": side(&of.new),
        "unrelated": of.unrelated,
        "causes": of.causes.iter().map(cause).collect::<Vec<_>>(),
        "truncated_causes": of.truncated_causes,
        "metrics": of.metrics.iter().map(change).collect::<Vec<_>>(),
        "labels": of.labels.iter().map(change).collect::<Vec<_>>(),
        "outputs": of.outputs.iter().map(|one| {
            let mut document = Map::from_iter([
                ("path".to_owned(), face::bytes(&one.path)),
                ("change".to_owned(), one.kind().into()),
            ]);
            nodes(&mut document, one.old.as_ref(), one.new.as_ref());
            Value::Object(document)
        }).collect::<Vec<_>>(),
        "truncated_outputs": of.truncated_outputs,
        "unread": of.unread,
    })
}

/// A cause.
pub fn cause(cause: &Cause) -> Value {
    let mut document = match &cause.is {
        Difference::Field(of) => match change(of) {
            Value::Object(members) => members,
            _ => Map::new(),
        },
        Difference::Content { input, path, old, new } => {
            let mut document =
                Map::from_iter([("input".to_owned(), face::bytes(input)), ("path".to_owned(), face::bytes(path))]);
            nodes(&mut document, old.as_ref(), new.as_ref());
            document
        }
        Difference::Input { input, old, new } => {
            let mut document = Map::from_iter([("input".to_owned(), face::bytes(input))]);
            put(&mut document, "old", old.as_deref().map(Value::from));
            put(&mut document, "new", new.as_deref().map(Value::from));
            document
        }
        Difference::Unstable => Map::new(),
        Difference::Unknown { old, new } => {
            Map::from_iter([("old".to_owned(), old.as_str().into()), ("new".to_owned(), new.as_str().into())])
        }
    };
    let execution = |id: Option<crate::ExecutionId>| Value::from(id.map(|id| id.to_string()));
    document.extend([
        ("task".to_owned(), cause.name.as_str().into()),
        ("key".to_owned(), cause.key.as_str().into()),
        ("old_execution".to_owned(), execution(cause.old)),
        ("new_execution".to_owned(), execution(cause.new)),
        ("distance".to_owned(), cause.distance.into()),
        ("kind".to_owned(), cause.is.kind().into()),
    ]);
    Value::Object(document)
}

fn side(side: &Side) -> Value {
    match side {
        Side::Execution(execution) => face::execution(execution),
        Side::Registered(key, name) => json!({ "key": key.as_str(), "name": name.as_str(), "execution": null }),
        Side::Blob(digest) => json!({ "ref": format!("blob:{}", digest.hex()), "size": digest.size }),
        Side::Tree(digest) => json!({ "ref": format!("tree:{}", digest.hex()) }),
    }
}

/// A field of two sides. Of a secret it is known that there is one.
fn change(change: &Change) -> Value {
    let value = |told: &Option<Told>| match told {
        Some(Told::Value(value)) => Some(value.clone()),
        Some(Told::Secret) => Some(json!({ "secret": true })),
        None => None,
    };
    let secret = [&change.old, &change.new].iter().any(|told| **told == Some(Told::Secret));
    let mut document =
        Map::from_iter([("field".to_owned(), change.field.as_str().into()), ("secret".to_owned(), secret.into())]);
    put(&mut document, "old", value(&change.old));
    put(&mut document, "new", value(&change.new));
    Value::Object(document)
}

fn nodes(document: &mut Map<String, Value>, old: Option<&Node>, new: Option<&Node>) {
    put(document, "old", old.map(face::node));
    put(document, "new", new.map(face::node));
}

fn put(document: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        document.insert(name.to_owned(), value);
    }
}
