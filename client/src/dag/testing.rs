//! What tests write files with.

use provender_core::digest::hex;
use sha2::{Digest as _, Sha256};

use super::bencode::Value;

/// A text.
pub(crate) fn text(text: &str) -> Value<'_> {
    Value::Bytes(text.as_bytes())
}

/// A number.
pub(crate) fn integer(number: i64) -> Value<'static> {
    Value::Integer(number)
}

/// A dictionary out of entries in any order.
pub(crate) fn dict<'a>(entries: &[(&'a [u8], Value<'a>)]) -> Value<'a> {
    let mut entries = entries.to_vec();
    entries.sort_by_key(|(key, _)| *key);
    Value::Dict(entries.into())
}

/// A dictionary with one more entry.
pub(crate) fn with<'a>(value: &Value<'a>, key: &'a str, entry: Value<'a>) -> Value<'a> {
    let Value::Dict(entries) = value else { panic!("no dictionary") };
    dict(&[&entries[..], &[(key.as_bytes(), entry)]].concat())
}

/// A task's hash.
pub(crate) fn hash(spec: &Value<'_>, inputs: &[(&str, &str)]) -> String {
    hex(Sha256::digest(with(spec, "inputs", labelled(inputs)).encode().unwrap()).as_slice())
}

fn labelled<'a>(inputs: &[(&'a str, &'a str)]) -> Value<'a> {
    let entries: Vec<_> = inputs.iter().map(|(label, hash)| (label.as_bytes(), text(hash))).collect();
    dict(&entries)
}

/// One task of a file: its name, what its user wrote, and its dependencies' hashes.
pub(crate) type Row<'a> = (&'a str, Value<'a>, &'a [(&'a str, &'a str)]);

/// A file of tasks that say what they are.
pub(crate) fn file(tasks: &[Row<'_>]) -> Vec<u8> {
    let outputs: Vec<_> = tasks.iter().map(|(_, spec, inputs)| hash(spec, inputs)).collect();
    let tasks: Vec<_> = tasks
        .iter()
        .zip(&outputs)
        .map(|((name, spec, inputs), output)| {
            (name.as_bytes(), with(&with(spec, "inputs", labelled(inputs)), "output", text(output)))
        })
        .collect();
    of_tasks(dict(&tasks))
}

/// A file of whatever stands at `tasks`.
pub(crate) fn of_tasks(tasks: Value<'_>) -> Vec<u8> {
    let list = || Value::List(Box::new([]));
    dict(&[(b"meta", dict(&[])), (b"tasks", tasks), (b"toposort", list()), (b"toposort_flatten", list())])
        .encode()
        .unwrap()
}
