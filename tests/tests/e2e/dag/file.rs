//! Task files as à la mode writes them, written here by its rules.

use std::collections::BTreeMap;
use std::fmt::Write;

use sha2::{Digest, Sha256};

/// A value, already encoded.
pub(crate) type Encoded = Vec<u8>;

/// A text.
pub(crate) fn text(text: &str) -> Encoded {
    format!("{}:{text}", text.len()).into_bytes()
}

/// A list.
pub(crate) fn list(items: impl IntoIterator<Item = Encoded>) -> Encoded {
    [vec![b'l'], items.into_iter().flatten().collect(), vec![b'e']].concat()
}

/// A dictionary.
pub(crate) fn dict<'a>(entries: impl IntoIterator<Item = (&'a str, Encoded)>) -> Encoded {
    let entries: BTreeMap<_, _> = entries.into_iter().collect();
    let entries = entries.into_iter().flat_map(|(key, value)| [text(key), value].concat());
    [b'd'].into_iter().chain(entries).chain([b'e']).collect()
}

/// A file that is put together task by task.
#[derive(Clone, Default)]
pub(crate) struct Dag {
    tasks: BTreeMap<String, Encoded>,
    hashes: BTreeMap<String, String>,
}

impl Dag {
    /// With a task of this command, which depends on tasks that are there already.
    pub(crate) fn task(self, name: &str, command: &str, needs: &[&str]) -> Dag {
        self.spec(name, &[("command", command), ("image", "demo"), ("sha", "1")], needs)
    }

    /// The same, with any texts in its spec.
    pub(crate) fn spec(self, name: &str, spec: &[(&str, &str)], needs: &[&str]) -> Dag {
        let spec: Vec<_> = spec.iter().map(|(key, value)| (*key, text(value))).collect();
        self.encoded(name, &spec, needs)
    }

    /// The same, with any values.
    pub(crate) fn encoded(mut self, name: &str, spec: &[(&str, Encoded)], needs: &[&str]) -> Dag {
        let inputs = dict(needs.iter().map(|needed| (*needed, text(&self.hash(needed)))));
        let entries = || spec.iter().cloned().chain([("inputs", inputs.clone())]);
        let mut hash = String::new();
        for byte in Sha256::digest(dict(entries())) {
            write!(hash, "{byte:02x}").unwrap();
        }
        self.tasks.insert(name.into(), dict(entries().chain([("output", text(&hash))])));
        self.hashes.insert(name.into(), hash);
        self
    }

    /// Without a task; that others depend on it stays.
    pub(crate) fn without(mut self, name: &str) -> Dag {
        self.tasks.remove(name).unwrap();
        self
    }

    /// A task's hash.
    pub(crate) fn hash(&self, name: &str) -> String {
        self.hashes[name].clone()
    }

    /// A task's key.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("alamode:{}", self.hash(name))
    }

    /// The file's bytes.
    pub(crate) fn bytes(&self) -> Encoded {
        let tasks = dict(self.tasks.iter().map(|(name, task)| (name.as_str(), task.clone())));
        dict([("meta", dict([])), ("tasks", tasks), ("toposort", b"le".to_vec())])
    }
}
