//! An à la mode file, read and verified.
//!
//! Such a file is one bencoded dictionary, of which `tasks` alone counts here: task name -> the spec that its user wrote, with
//! `inputs` (dependency name -> the dependency's hash) and `output`, the task's own hash. Invariant: each task of a [`File`]
//! has the hash that it says, so its key stands for exactly its [`Task::raw`], and no task depends on itself by whatever way.
//! It must not know the store.

use std::path::Path;

use bytes::Bytes;
use provender_core::digest::hex;
use provender_core::key::TaskKey;
use provender_core::name::{Name, NameError};
use provender_core::tree::check_name;
use sha2::{Digest as _, Sha256};

use super::bencode::{self, BencodeError, Dict, Value, get};
use super::plan::Plan;

/// The largest file, in bytes.
pub const MAX_FILE: u64 = 64 << 20;
/// The largest task, in bytes, so that its spec fits the store's limit in whatever form.
pub const MAX_TASK: usize = 512 << 10;
/// The scheme of à la mode's keys.
pub const SCHEME: &str = "alamode";

/// Why a file is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// As given.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It has more than [`MAX_FILE`] bytes.
    #[error("it has more than {MAX_FILE} bytes, the most that are read")]
    TooLarge,
    /// It is no bencode.
    #[error("it is no à la mode file, or damaged: {0}")]
    Bencode(#[from] BencodeError),
    /// It is bencode of another shape.
    #[error("it is no à la mode file: {0}")]
    Shape(String),
    /// A task is not what a task is.
    #[error("task {task:?}: `{}` {why}", field.escape_debug())]
    Task {
        /// Its name.
        task: String,
        /// Of what in it.
        field: String,
        /// What is wrong.
        why: String,
    },
    /// A task cannot be called so.
    #[error("task {task:?} cannot be recorded as what --prefix and its name make: {source}")]
    Name {
        /// Its name.
        task: String,
        /// Why.
        source: NameError,
    },
    /// A task has another hash than it says.
    #[error(
        "task {task:?}: `output` is {declared}, and its hash {found}: it was changed after it was written. (A task whose own spec \
         has a key `output` can't be verified either: call that key something else)"
    )]
    Mismatch {
        /// Its name.
        task: String,
        /// What it says.
        declared: String,
        /// What it comes to.
        found: String,
    },
    /// Tasks depend on each other.
    #[error("tasks depend on each other in a circle: {0}")]
    Cycle(String),
}

/// The tasks of a file, sorted by name.
#[derive(Debug)]
pub struct File {
    pub(super) tasks: Vec<Task>,
    pub(super) plan: Plan,
}

/// One task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// What the file calls it.
    pub title: String,
    /// What the store calls it: a prefix, then that.
    pub name: Name,
    /// `alamode:` and its hash.
    pub key: TaskKey,
    /// What is to be run, in a shell's words, if that is said as text.
    pub command: Option<String>,
    /// What it depends on.
    pub dependencies: Vec<Dependency>,
    /// The bencoded dictionary that is hashed: without `output`.
    pub raw: Bytes,
}

/// Something that a task depends on. The hash alone says what; the label is where the task finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The dependency's name at the time of writing.
    pub label: Bytes,
    /// Its key; no task of the file need have it.
    pub key: TaskKey,
}

impl Dependency {
    /// The label for people.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.label).into_owned()
    }
}

impl File {
    /// Reads and verifies a file; `prefix` comes before each name.
    pub fn read(path: &Path, prefix: &str) -> Result<File, FileError> {
        use std::io::Read;
        let failed = |source| FileError::Read { path: path.display().to_string(), source };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
        File::parse(&bytes, prefix)
    }

    /// Verifies the bytes of a file; `prefix` comes before each name.
    pub fn parse(bytes: &[u8], prefix: &str) -> Result<File, FileError> {
        if bytes.len() as u64 > MAX_FILE {
            return Err(FileError::TooLarge);
        }
        let shape = |what: &str| FileError::Shape(what.into());
        let Value::Dict(top) = bencode::decode(bytes)? else { return Err(shape("it is no dictionary")) };
        let tasks = match get(&top, b"tasks") {
            Some(Value::Dict(tasks)) => tasks,
            Some(other) => return Err(shape(&format!("`tasks` is {}, no dictionary", other.kind()))),
            None => return Err(shape("it has no `tasks`")),
        };
        let tasks = tasks.iter().map(|(name, task)| read(name, task, prefix)).collect::<Result<Vec<_>, _>>()?;
        // By what is declared, and first: what depends on itself has no hash that could be right.
        let plan = Plan::new(&tasks).map_err(|cycle| FileError::Cycle(cycle.to_string()))?;
        tasks.iter().try_for_each(verify)?;
        Ok(File { tasks, plan })
    }

    /// The tasks, sorted by name.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }
}

/// Reads one task, without looking at its hash.
fn read(name: &[u8], value: &Value<'_>, prefix: &str) -> Result<Task, FileError> {
    let title = String::from_utf8_lossy(name).into_owned();
    let wrong = |field: &str, why: String| FileError::Task { task: title.clone(), field: field.into(), why };
    let whole = std::str::from_utf8(name).map_err(|_| wrong("name", "is no UTF-8".into()))?;
    let named =
        Name::new(format!("{prefix}{whole}")).map_err(|source| FileError::Name { task: title.clone(), source })?;
    let Value::Dict(entries) = value else {
        return Err(wrong("tasks", format!("has {} there, no dictionary", value.kind())));
    };
    let declared = match get(entries, b"output") {
        Some(output) => output.as_text().and_then(key).ok_or_else(|| wrong("output", not_hash(output)))?,
        None => return Err(wrong("output", "is missing".into())),
    };
    let mut dependencies = Vec::new();
    match get(entries, b"inputs") {
        Some(Value::Dict(inputs)) => {
            for (label, hash) in inputs {
                let field = || format!("inputs.{}", String::from_utf8_lossy(label));
                let key = hash.as_text().and_then(key).ok_or_else(|| wrong(&field(), not_hash(hash)))?;
                dependencies.push(Dependency { label: Bytes::copy_from_slice(label), key });
            }
        }
        Some(other) => return Err(wrong("inputs", format!("is {}, no dictionary", other.kind()))),
        None => return Err(wrong("inputs", "is missing".into())),
    }
    let hashed: Dict<'_> = entries.iter().filter(|(key, _)| *key != b"output").cloned().collect();
    let raw = Value::Dict(hashed).encode()?;
    if raw.len() > MAX_TASK {
        return Err(wrong("tasks", format!("has {} bytes there, and a task at most {MAX_TASK}", raw.len())));
    }
    let command = get(entries, b"command").and_then(Value::as_text).map(str::to_owned);
    Ok(Task { title, name: named, key: declared, command, dependencies, raw: raw.into() })
}

fn verify(task: &Task) -> Result<(), FileError> {
    let found = hex(Sha256::digest(&task.raw).as_slice());
    if found == task.key.id() {
        return Ok(());
    }
    Err(FileError::Mismatch { task: task.title.clone(), declared: task.key.id().into(), found })
}

impl Task {
    /// Whether each dependency can be a folder of its label; if not, why.
    pub(super) fn check_labels(&self) -> Result<(), FileError> {
        for dependency in &self.dependencies {
            check_name(&dependency.label).map_err(|error| FileError::Task {
                task: self.title.clone(),
                field: format!("inputs.{}", dependency.shown()),
                why: format!("cannot be a folder in `inputs/`: {error}"),
            })?;
        }
        Ok(())
    }
}

/// The key of a hash: 64 hexadecimal digits, lower case.
fn key(hash: &str) -> Option<TaskKey> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_hash = hash.len() == 64 && hash.bytes().all(is_digit);
    is_hash.then(|| TaskKey::new(SCHEME, hash).expect("`alamode` and 64 digits are a key"))
}

fn not_hash(value: &Value<'_>) -> String {
    match value.as_text() {
        Some(text) => {
            format!("is {:?}, not 64 hexadecimal digits in lower case", text.chars().take(80).collect::<String>())
        }
        None => format!("is {}, not 64 hexadecimal digits as text", value.kind()),
    }
}

#[cfg(test)]
mod tests;
