//! Fields: what a spec says, as paths with one value each, for searching and comparing.
//!
//! Owns the paths. They are those of the JSON faces: `params.model.lr`, `env.MODE`, `image`. What à la mode writes in its own words is said in
//! those: `sha` for the version of the code, and its other entries without `params.` before them. Invariant: equal specs have equal fields; a
//! secret has no value here. Inputs are no fields: what differs in them is found in what made them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::json;
use crate::spec::{Spec, Variable};

/// The most fields that are told of one spec; what comes after stays as it is, and is neither searched nor compared by itself.
pub const MAX_FIELDS: usize = 4_096;

/// The longest path, and how many bytes all paths of one spec or value may have: what goes beyond stays whole, as one value. So hostile nesting
/// cannot repeat a long name at each of many leaves.
const MAX_PATH: usize = 1 << 10;
const MAX_PATHS: usize = 256 << 10;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq)]
pub enum Field {
    /// A value: a scalar, or a list of scalars. An unset variable is null.
    Value(Value),
    /// The hash of a secret.
    Secret([u8; 32]),
}

impl Field {
    /// The value; none of a secret.
    pub fn value(&self) -> Option<&Value> {
        match self {
            Field::Value(value) => Some(value),
            Field::Secret(_) => None,
        }
    }
}

/// The scheme whose specs are in à la mode's words.
const ALAMODE: &str = "alamode";

/// The fields of a spec that stands for a key of this scheme.
pub fn of_spec(scheme: &str, spec: &Spec) -> BTreeMap<String, Field> {
    let mut fields = BTreeMap::new();
    let mut put = |path: String, value: Value| {
        if fields.len() < MAX_FIELDS {
            fields.insert(path, Field::Value(value));
        }
    };
    let mut room = MAX_PATHS;
    if !spec.command.is_empty() {
        put("command".into(), command(spec).into());
    }
    let version = if scheme == ALAMODE { "sha" } else { "code_version" };
    for (path, value) in [("image", &spec.image), (version, &spec.code_version)] {
        value.iter().for_each(|value| put(path.into(), value.as_str().into()));
    }
    for (name, value) in &spec.params {
        let path = if scheme == ALAMODE { name.clone() } else { format!("params.{name}") };
        flatten(path, value, &mut room, &mut put);
    }
    if !spec.outputs.is_empty() {
        let mut outputs: Vec<_> = spec.outputs.iter().collect();
        outputs.sort();
        put("outputs".into(), outputs.into_iter().map(|path| json::bytes(path)).collect());
    }
    if spec.policy.exit_codes != [0] {
        put("policy.exit_codes".into(), spec.policy.exit_codes.clone().into());
    }
    for (path, least) in &spec.policy.required {
        put(format!("policy.required.{}", json::member(path)), (*least).into());
    }
    for (name, variable) in &spec.env {
        let field = match variable {
            Variable::Unset => Field::Value(Value::Null),
            Variable::Plain(value) => Field::Value(json::bytes(value)),
            Variable::Secret(hash) => Field::Secret(*hash),
        };
        if fields.len() < MAX_FIELDS {
            fields.insert(format!("env.{}", json::member(name)), field);
        }
    }
    fields
}

/// The fields of a value under a path: those of objects and of lists that hold more than scalars by themselves.
pub fn of_value(path: &str, value: &Value) -> BTreeMap<String, Value> {
    let (mut fields, mut room) = (BTreeMap::new(), MAX_PATHS);
    flatten(path.into(), value, &mut room, &mut |path, value| {
        if fields.len() < MAX_FIELDS {
            fields.insert(path, value);
        }
    });
    fields
}

/// The depth is bounded by what is taken from outside: JSON by its parser, à la mode's files by theirs.
fn flatten(path: String, value: &Value, room: &mut usize, put: &mut impl FnMut(String, Value)) {
    let is_scalar = |value: &Value| !value.is_object() && !value.is_array();
    let below = match value {
        Value::Object(members) => members.iter().map(|(name, _)| path.len() + 1 + name.len()).sum(),
        Value::Array(items) if !items.iter().all(is_scalar) => items.len() * (path.len() + 8),
        _ => 0,
    };
    let fits = below <= *room && (below == 0 || path.len() <= MAX_PATH);
    *room -= if fits { below } else { 0 };
    match value {
        Value::Object(members) if fits && !members.is_empty() => {
            members.iter().for_each(|(name, value)| flatten(format!("{path}.{name}"), value, room, put));
        }
        Value::Array(items) if fits && !items.iter().all(is_scalar) => {
            items.iter().enumerate().for_each(|(at, value)| flatten(format!("{path}[{at}]"), value, room, put));
        }
        value => put(path, value.clone()),
    }
}

/// The command as a person would type it.
fn command(spec: &Spec) -> String {
    match &spec.command[..] {
        [shell, flag, script] if shell == "sh" && flag == "-c" => String::from_utf8_lossy(script).into_owned(),
        words => words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
    }
}

/// A word as a POSIX shell would take it.
pub fn quoted(word: &[u8]) -> String {
    let text = String::from_utf8_lossy(word);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;
    use serde_json::json;

    fn spec() -> Spec {
        let mut spec = Spec::new(Name::new("n").expect("valid"));
        spec.command = vec!["train".into(), "a b".into()];
        (spec.image, spec.code_version) = (Some("img".into()), Some("v1".into()));
        spec.params.insert("model".into(), json!({ "opt": { "lr": 0.1, "betas": [0.9, 0.99] }, "none": {} }));
        spec.params.insert("layers".into(), json!([{ "n": 1 }, 2]));
        spec.env.insert("A".into(), Variable::Unset);
        spec.env.insert("B".into(), Variable::Plain("x".into()));
        spec.env.insert("C".into(), Variable::Secret([1; 32]));
        spec.outputs = vec!["z".into(), "a".into()];
        spec.policy.required.insert("z".into(), 7);
        spec
    }

    #[test]
    fn each_has_the_path_that_it_has_in_json() {
        let mut fields = of_spec("run", &spec());
        assert_eq!(fields.remove("env.C"), Some(Field::Secret([1; 32])));
        let found: serde_json::Map<_, _> =
            fields.into_iter().map(|(path, field)| (path, field.value().expect("no secret").clone())).collect();
        let expected = json!({
            "command": "train 'a b'", "image": "img", "code_version": "v1",
            "params.model.opt.lr": 0.1, "params.model.opt.betas": [0.9, 0.99], "params.model.none": {},
            "params.layers[0].n": 1, "params.layers[1]": 2,
            "env.A": null, "env.B": "x", "outputs": ["a", "z"], "policy.required.z": 7,
        });
        assert_eq!(Value::Object(found), expected);
    }

    #[test]
    fn a_long_name_is_not_repeated_at_each_leaf() {
        let many: serde_json::Map<_, _> = (0..4_000).map(|n| (n.to_string(), n.into())).collect();
        for name in ["x".repeat(400_000), "x".repeat(900)] {
            let mut spec = spec();
            spec.params.insert(name.clone(), Value::Object(many.clone()));
            let paths: usize = of_spec("run", &spec).keys().map(String::len).sum();
            assert!(paths < MAX_PATHS + 2 * name.len() + 1_000, "{paths} bytes of paths");
            assert!(
                of_value(&name, &Value::Object(many.clone())).keys().map(String::len).sum::<usize>()
                    <= MAX_PATHS + name.len()
            );
        }
        assert_eq!(of_value("m", &Value::Object(many)).len(), 4_000);
    }

    #[test]
    fn à_la_mode_is_told_in_its_own_words() {
        let mut spec = spec();
        spec.command = vec!["sh".into(), "-c".into(), "make it".into()];
        let fields = of_spec("alamode", &spec);
        for (path, value) in [("sha", json!("v1")), ("model.opt.lr", json!(0.1)), ("command", json!("make it"))] {
            assert_eq!(fields[path], Field::Value(value), "{path}");
        }
        assert!(!fields.contains_key("code_version") && fields.keys().all(|path| !path.starts_with("params.")));
    }
}
