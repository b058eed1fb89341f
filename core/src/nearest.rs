//! Nearest: which of several specs is the most like another one.
//!
//! Owns the measure. Invariant: it counts what differs and what agrees, field by field and input by input; the name and the order in which
//! specs came count for nothing.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::fields::{self, Field};
use crate::json;
use crate::key::TaskKey;
use crate::search::Condition;
use crate::spec::{Input, Spec};
use crate::tree::Node;

/// The longest field and value, in bytes together, that a search is asked for.
const LONG: usize = 200;

/// A spec, taken apart for comparing it with many.
#[derive(Debug)]
pub struct Likeness<'a> {
    scheme: &'a str,
    fields: BTreeMap<String, Field>,
    spec: &'a Spec,
}

impl<'a> Likeness<'a> {
    /// Of a spec that stands for a key of this scheme.
    pub fn of(scheme: &'a str, spec: &'a Spec) -> Likeness<'a> {
        Likeness { scheme, fields: fields::of_spec(scheme, spec), spec }
    }

    /// What of it a search can be asked for: fields that have one value each, and inputs by their bytes or keys; what is long is left out.
    pub fn conditions(&self) -> impl Iterator<Item = Condition> {
        let value = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Array(_) | Value::Object(_) => None,
            scalar => Some(scalar.to_string()),
        };
        let fields = self.fields.iter().filter_map(move |(field, is)| Some((field.clone(), value(is.value()?)?)));
        let inputs = self.spec.inputs.iter().filter_map(|(name, input)| {
            let hash = input.content.as_ref().and_then(Node::digest).map(|digest| digest.hex());
            let is = hash.or_else(|| input.key.as_ref().map(TaskKey::to_string))?;
            Some((format!("inputs.{}", json::member(name)), is))
        });
        let short = fields.chain(inputs).filter(|(field, value)| field.len() + value.len() <= LONG);
        short.map(|(field, value)| Condition::is(&field, value))
    }

    /// How far another spec agrees: more is nearer. Of two that agree in a part that is as large, the one that agrees in more is.
    pub fn with(&self, other: &Spec) -> Agreement {
        let theirs = fields::of_spec(self.scheme, other);
        let (same, all) = overlap(&self.fields, &theirs, |ours, theirs| ours == theirs);
        let (inputs, all_inputs) = overlap(&self.spec.inputs, &other.inputs, is_same);
        let (same, all) = (same + inputs, all + all_inputs);
        // In millionths, so that agreements have an order.
        Agreement { part: if all == 0 { 1_000_000 } else { same as u64 * 1_000_000 / all as u64 }, same }
    }
}

/// How far two specs agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Agreement {
    part: u64,
    same: usize,
}

/// How many of two maps' names have the same in both, and how many there are in either.
fn overlap<K: Ord, V>(
    ours: &BTreeMap<K, V>,
    theirs: &BTreeMap<K, V>,
    is_same: impl Fn(&V, &V) -> bool,
) -> (usize, usize) {
    let both = ours.iter().filter_map(|(name, ours)| Some((ours, theirs.get(name)?)));
    let (mut same, mut shared) = (0, 0);
    for (ours, theirs) in both {
        shared += 1;
        same += usize::from(is_same(ours, theirs));
    }
    (same, ours.len() + theirs.len() - shared)
}

/// An input is the same if its bytes are or, where those are not known of both, its key is.
fn is_same(ours: &Input, theirs: &Input) -> bool {
    match (&ours.content, &theirs.content) {
        (Some(ours), Some(theirs)) => ours == theirs,
        _ => ours.key.is_some() && ours.key == theirs.key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::name::Name;
    use crate::spec::Mount;

    fn spec(params: &[(&str, u64)], input: &[u8]) -> Spec {
        let mut spec = Spec::new(Name::new("n").expect("valid"));
        spec.image = Some("img".into());
        spec.params = params.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let content = Some(Node::File { digest: Digest::of(input), executable: false });
        spec.inputs.insert("in".into(), Input { mount: Mount::InPlace, content, key: None, execution: None });
        spec
    }

    #[test]
    fn what_differs_in_less_is_nearer() {
        let ours = spec(&[("a", 1), ("b", 2), ("c", 3)], b"x");
        let likeness = Likeness::of("run", &ours);
        let agrees = |params: &[(&str, u64)], input: &[u8]| likeness.with(&spec(params, input));
        let whole = agrees(&[("a", 1), ("b", 2), ("c", 3)], b"x");
        let order = [
            agrees(&[("a", 9)], b"y"),
            agrees(&[("a", 1), ("b", 2), ("c", 9)], b"y"),
            agrees(&[("a", 1), ("b", 2), ("c", 3), ("d", 1), ("e", 2)], b"x"),
            agrees(&[("a", 1), ("b", 2), ("c", 3)], b"y"),
            whole,
        ];
        assert!(order.is_sorted_by(|one, next| one < next), "{order:?}");
    }

    #[test]
    fn an_input_without_bytes_is_known_by_its_key() {
        let input = |key: &str, bytes: Option<&[u8]>| {
            let content = bytes.map(|bytes| Node::File { digest: Digest::of(bytes), executable: false });
            Input { mount: Mount::InPlace, content, key: key.parse().ok(), execution: None }
        };
        for (ours, theirs, same) in [
            (input("t:1", None), input("t:1", Some(b"x")), true),
            (input("t:1", None), input("t:2", None), false),
            (input("t:1", Some(b"x")), input("t:2", Some(b"x")), true),
            (input("t:1", Some(b"x")), input("t:1", Some(b"y")), false),
            (input("", None), input("", None), false),
        ] {
            assert_eq!(is_same(&ours, &theirs), same, "{ours:?} {theirs:?}");
        }
    }
}
