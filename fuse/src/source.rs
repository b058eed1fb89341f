//! The seam: what a view needs of a store.
//!
//! Owns the [`Source`] trait and the plain types that it speaks. It must not know FUSE, inodes, paths or how components are
//! encoded: names and digests come in as they are.

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
pub use provender_core::provenance::Branch;
use provender_core::provenance::{Origin, Place};
use provender_core::{Digest, Execution, ExecutionId, Name, Spec, TaskKey, Timestamp, json, spec};

/// A store as the view sees it: one space of it, what has ended and has a folder.
///
/// Calls come from the kernel's threads, several at once, and block: each must end within [`time_left`](crate::time_left), with
/// [`SourceError::TimedOut`] if need be, for a process that reads the mount waits for it and cannot be killed meanwhile.
/// What a source hands out has been checked against its digest, or is checked as it is read; the view checks sizes, and that
/// folders are folders. `None` and empty pages say that there is no such thing; [`SourceError`] that it could not be told.
pub trait Source: Send + Sync + 'static {
    /// When the newest folder of this name was made, if it has any; else any moment that seldom changes, such as that of the
    /// newest below it, as long as names with folders lie below. `None`: neither.
    fn changed(&self, branch: Branch, name: &Name) -> Result<Option<Timestamp>, SourceError>;

    /// The parts that follow `prefix` (`None`: the first parts) in names with folders, each once, sorted as bytes, those that
    /// sort after `after`, at most `limit` of them: with `a`, `a/b/c` and `a/d`, those below `a` are `b` and `d`.
    fn children(
        &self,
        branch: Branch,
        prefix: Option<&Name>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<String>, SourceError>;

    /// The folders of exactly this name (see [`provender_core::view::folder`]), sorted as bytes, those that sort after `after`,
    /// at most `limit` of them.
    fn folders(
        &self,
        branch: Branch,
        name: &Name,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<String>, SourceError>;

    /// The execution that stands in a folder of exactly this name.
    fn entry(&self, branch: Branch, name: &Name, folder: &str) -> Result<Option<Entry>, SourceError>;

    /// The success that `latest` of exactly this name means.
    fn latest(&self, name: &Name) -> Result<Option<Entry>, SourceError>;

    /// What a success read, sorted by name as bytes, each name once. May change: a key can be learned later.
    fn inputs(&self, entry: &Entry) -> Result<Arc<[Input]>, SourceError>;

    /// The successes that read what this one made, each once, in any stable order, from `after` on (`None`: from the first), at
    /// most `limit` of them.
    fn consumers(&self, entry: &Entry, after: Option<&Bytes>, limit: usize) -> Result<Consumers, SourceError>;

    /// Whether the execution at `place`, whose `at` is ignored, is one of those; it comes back with its time.
    fn is_consumer(&self, entry: &Entry, place: &Place) -> Result<Option<Place>, SourceError>;

    /// The schemes of the keys that the store knows, sorted.
    fn schemes(&self) -> Result<Vec<String>, SourceError>;

    /// The ids of the scheme's SUCCEEDED keys, sorted as bytes, those that sort after `after`, at most `limit` of them.
    fn keys(&self, scheme: &str, after: Option<&str>, limit: usize) -> Result<Page<String>, SourceError>;

    /// Where the record of a key stands; `None` unless the key is SUCCEEDED.
    fn record(&self, key: &TaskKey) -> Result<Option<Place>, SourceError>;

    /// A rendered file of an execution: the same bytes each time, at most a few MiB.
    fn document(&self, entry: &Entry, which: Document) -> Result<Bytes, SourceError>;

    /// The bytes of a file, a log, or a directory's encoding. What is returned stays readable until it is dropped, whatever is
    /// collected meanwhile. The view keeps a bounded number of directories.
    fn open(&self, digest: Digest) -> Result<Content, SourceError>;
}

/// Some items of a longer, sorted list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The items; at least one if there are more.
    pub items: Vec<T>,
    /// Whether others may follow the last one.
    pub more: bool,
}

/// Something that an execution read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// What the execution calls it: a path or a label, any bytes.
    pub name: Bytes,
    /// Where it came from.
    pub origin: Origin<Place>,
    /// What `<input>.json` says; empty unless the store does not hold it.
    pub document: Bytes,
}

impl Input {
    /// An input of a spec, with where it came from.
    pub fn new(name: Bytes, origin: Origin<Place>, declared: &spec::Input) -> Input {
        let document = match origin {
            Origin::Unheld => json::file(&json::input(&name, declared)),
            Origin::Made(_) | Origin::Held(_) => Bytes::new(),
        };
        Input { name, origin, document }
    }
}

/// Some of the consumers of an execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumers {
    /// Where they stand; may be empty although there are more.
    pub items: Vec<Place>,
    /// Where the next page begins, in the source's own encoding; `None`: there is none.
    pub next: Option<Bytes>,
}

/// An ended execution, as far as its folder shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: ExecutionId,
    /// The key that it was for.
    pub key: TaskKey,
    /// The name it stands under.
    pub name: Name,
    /// Its folder there.
    pub folder: String,
    /// When it ended.
    pub at: Timestamp,
    /// The tree of its outputs; without it there is no `out`.
    pub outputs: Option<Digest>,
    /// The kept standard output; without it there is no such file.
    pub stdout: Option<Digest>,
    /// The kept standard error, likewise.
    pub stderr: Option<Digest>,
}

impl Entry {
    /// What the view shows of an execution; `None` unless it has ended and has a folder.
    pub fn of(execution: &Execution) -> Option<Entry> {
        let outcome = &execution.outcome;
        Some(Entry {
            id: execution.id,
            key: execution.key.clone(),
            name: execution.name.clone(),
            folder: execution.folder.clone()?,
            at: execution.ended?,
            outputs: outcome.outputs,
            stdout: outcome.stdout.map(|log| log.digest),
            stderr: outcome.stderr.map(|log| log.digest),
        })
    }

    /// The same in a folder of another name, under which it was asked for.
    pub fn at(execution: &Execution, name: &Name, folder: &str) -> Option<Entry> {
        Some(Entry { name: name.clone(), folder: folder.to_owned(), ..Entry::of(execution)? })
    }
}

/// The rendered files of an execution's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Document {
    /// `record.json`: what happened.
    Record,
    /// `spec.json`: what the key stands for.
    Spec,
}

impl Document {
    /// Its bytes.
    pub fn render(self, execution: &Execution, spec: &Spec) -> Bytes {
        json::file(&match self {
            Document::Record => json::record(execution),
            Document::Spec => json::spec(spec),
        })
    }
}

/// The bytes of one file.
pub enum Content {
    /// A file that holds them and nothing else.
    Fd(File),
    /// The bytes themselves.
    Bytes(Bytes),
    /// Something to ask for them.
    Reader(Box<dyn ReadAt + Send + Sync>),
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Content {
        Content::Bytes(bytes)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Fd(file) => f.debug_tuple("Fd").field(file).finish(),
            Content::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Content::Reader(_) => f.write_str("Reader"),
        }
    }
}

/// Reading at a position, by several threads at once.
pub trait ReadAt {
    /// Reads some bytes from `offset` on into `buf`, and says how many; 0 only at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, SourceError>;
}

/// Why a source cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is not in the store, or not any more.
    #[error("not found")]
    NotFound,
    /// What was asked for has been collected since it was found.
    #[error("collected since it was found")]
    Stale,
    /// The store should have it, and has it not, or has other bytes.
    #[error("lost or damaged: {what}")]
    Damaged {
        /// What is wrong, for the log.
        what: String,
    },
    /// The store cannot be reached.
    #[error("the store is unavailable")]
    Unavailable {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store took too long.
    #[error("the store did not answer in time")]
    TimedOut,
}
