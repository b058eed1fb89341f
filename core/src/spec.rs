//! Task specs: what a key stands for.
//!
//! Owns [`Spec`], its identity, and the key that `provender run` derives from one. Invariant: whatever can change what the
//! command makes, as far as it was declared, is in the key; the name, the working folder and the rest of the environment are not.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::digest::{Digest, hex};
use crate::encode::Encoder;
use crate::execution::ExecutionId;
use crate::key::TaskKey;
use crate::name::Name;
use crate::policy::Policy;
use crate::tree::Node;

/// A declared environment variable. Unset is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variable {
    /// It is not set.
    Unset,
    /// Its value, as bytes.
    Plain(Bytes),
    /// The hash of a value that is not kept; see [`Variable::secret`].
    Secret([u8; 32]),
}

impl Variable {
    /// A secret value as it is kept: its BLAKE3 under a key derived from the variable's name, so that equal values of two
    /// variables do not show.
    pub fn secret(name: &[u8], value: &[u8]) -> Variable {
        let key = blake3::derive_key("provender 2026-11-22 secret environment variable", name);
        Variable::Secret(*blake3::keyed_hash(&key, value).as_bytes())
    }
}

/// How an input reaches the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mount {
    /// The command reads the path that is the input's name.
    InPlace,
    /// It is checked out for the command, who is told where by `PROVENDER_IN_<name>`.
    CheckedOut,
}

/// Something that the task reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// How it reaches the command.
    pub mount: Mount,
    /// The content, where it is known.
    pub content: Option<Node>,
    /// The key that made it, where one did; the store may never have seen it.
    pub key: Option<TaskKey>,
    /// The execution that made it, where one did.
    pub execution: Option<ExecutionId>,
}

/// What a key stands for. Byte strings are paths, arguments and values, which need not be UTF-8.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// What it is called.
    pub name: Name,
    /// The command and its arguments.
    pub command: Vec<Bytes>,
    /// The image or environment it runs in, in the executor's words.
    pub image: Option<String>,
    /// The version of the code it runs.
    pub code_version: Option<String>,
    /// Named parameters; values are JSON.
    pub params: BTreeMap<String, serde_json::Value>,
    /// Declared environment variables.
    pub env: BTreeMap<Bytes, Variable>,
    /// What it reads, by name.
    pub inputs: BTreeMap<Bytes, Input>,
    /// The paths that it must make.
    pub outputs: Vec<Bytes>,
    /// What counts as success.
    pub policy: Policy,
    /// The spec as its own tool writes it.
    pub raw: Option<Bytes>,
}

impl Spec {
    /// A spec that says nothing but a name.
    pub fn new(name: Name) -> Spec {
        Spec {
            name,
            command: Vec::new(),
            image: None,
            code_version: None,
            params: BTreeMap::new(),
            env: BTreeMap::new(),
            inputs: BTreeMap::new(),
            outputs: Vec::new(),
            policy: Policy::default(),
            raw: None,
        }
    }

    /// The identity of the whole spec: equal specs share it, specs that differ in more than the order of outputs do not.
    pub fn digest(&self) -> Digest {
        let mut encoder = Encoder::new("provender spec 1");
        encoder.bytes(self.name.as_str());
        self.encode_command(&mut encoder);
        let text = |encoder: &mut Encoder, text: &String| {
            encoder.bytes(text);
        };
        encoder.option(self.image.as_ref(), text).option(self.code_version.as_ref(), text);
        encoder.list(&self.params, |encoder, (name, value)| {
            encoder.bytes(name);
            encode_json(encoder, value);
        });
        encoder.list(self.inputs.values(), |encoder, input| {
            encoder.option(input.key.as_ref(), |encoder, key| {
                encoder.bytes(key.as_str());
            });
            encoder.option(input.execution, |encoder, id| {
                encoder.bytes(id.0);
            });
        });
        encoder.option(self.raw.as_ref(), |encoder, raw| {
            encoder.bytes(raw);
        });
        encoder.digest_of_all()
    }

    /// The key that `provender run` asks for: `run:` and the BLAKE3 over the command, the declared environment, the inputs' names and
    /// contents, the outputs' paths and the policy.
    pub fn run_key(&self) -> TaskKey {
        let mut encoder = Encoder::new("provender run key 1");
        self.encode_command(&mut encoder);
        TaskKey::new("run", &hex(&encoder.digest_of_all().hash)).expect("`run` and 64 digits are a key")
    }

    fn encode_command(&self, encoder: &mut Encoder) {
        encoder.list(&self.command, |encoder, argument| {
            encoder.bytes(argument);
        });
        encoder.list(&self.env, |encoder, (name, value)| {
            match value {
                Variable::Unset => encoder.number(0),
                Variable::Plain(value) => encoder.number(1).bytes(value),
                Variable::Secret(hash) => encoder.number(2).bytes(hash),
            }
            .bytes(name);
        });
        encoder.list(&self.inputs, |encoder, (name, input)| {
            encoder.bytes(name).number(match input.mount {
                Mount::InPlace => 0,
                Mount::CheckedOut => 1,
            });
            encoder.option(input.content.as_ref(), encode_node);
        });
        let mut outputs: Vec<_> = self.outputs.iter().collect();
        outputs.sort();
        encoder.list(outputs, |encoder, path| {
            encoder.bytes(path);
        });
        let mut codes: Vec<_> = self.policy.exit_codes.iter().map(|code| i64::from(*code) as u64).collect();
        codes.sort_unstable();
        encoder.list(codes, |encoder, code| {
            encoder.number(code);
        });
        encoder.list(&self.policy.required, |encoder, (path, least)| {
            encoder.bytes(path).number(*least);
        });
        encoder.number(u64::from(self.policy.refuse_empty));
    }
}

fn encode_node(encoder: &mut Encoder, node: &Node) {
    match node {
        Node::File { digest, executable } => encoder.number(if *executable { 1 } else { 0 }).digest(digest),
        Node::Directory { digest } => encoder.number(2).digest(digest),
        Node::Symlink { target } => encoder.number(3).bytes(target),
    };
}

/// Members are sorted here, since whether serde_json keeps them sorted depends on features that another crate may turn on.
fn encode_json(encoder: &mut Encoder, value: &serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::Array(items) => encoder.number(1).list(items, encode_json),
        Value::Object(members) => {
            let members: BTreeMap<_, _> = members.iter().collect();
            encoder.number(2).list(members, |encoder, (name, value)| {
                encoder.bytes(name);
                encode_json(encoder, value);
            })
        }
        scalar => encoder.number(0).bytes(scalar.to_string()),
    };
}

#[cfg(test)]
mod tests;
