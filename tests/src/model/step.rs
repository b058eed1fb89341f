//! The words of a case: who does what, and what is answered. Their texts are sentences, since a failing case is read by people.

use std::fmt;

use provender_core::Verdict;
use provender_core::execution::State;

/// How many keys there are. The last one's task reads what the first one's makes.
pub const KEYS: u8 = 4;
/// How many names there are.
pub const NAMES: u8 = 2;
/// How many executors there are.
pub const CLIENTS: u8 = 3;

/// An execution, numbered in the order in which they are thought of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u16);

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u8);

impl Key {
    /// The key whose outputs its task reads.
    pub fn reads(self) -> Option<Key> {
        (self.0 == KEYS - 1).then_some(Key(0))
    }
}

/// A name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub u8);

/// What a task can make: a folder with one file, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Content {
    /// An empty folder.
    Nothing,
    /// A file too small for the policy.
    Tiny,
    /// A file that is kept as a row.
    Small(u8),
    /// A file that is kept as a file.
    Large(u8),
}

impl Content {
    /// All that are made of something.
    pub const ALL: [Content; 5] =
        [Content::Tiny, Content::Small(0), Content::Small(1), Content::Large(0), Content::Large(1)];

    /// The blobs that it is made of, in the order in which a commit looks at them.
    pub fn blobs(self) -> Vec<Blob> {
        match self {
            Content::Nothing => Vec::new(),
            made => vec![Blob::Folder(made), Blob::File(made)],
        }
    }

    /// Whether the success policy takes it: `out` is there, with 10 bytes at least.
    pub fn passes(self) -> bool {
        !matches!(self, Content::Nothing | Content::Tiny)
    }
}

/// One blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Blob {
    /// The folder of a content.
    Folder(Content),
    /// The file in it.
    File(Content),
}

impl Blob {
    /// Whether it is kept as a file.
    pub fn is_file(self) -> bool {
        matches!(self, Blob::File(Content::Large(_)))
    }

    /// Whether it is what a task wrote, and not a folder.
    pub fn is_content(self) -> bool {
        matches!(self, Blob::File(_))
    }
}

/// What is done to a blob under the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Harm {
    /// Its file or row is deleted.
    Deleted,
    /// One of its bytes is another one.
    Changed,
}

/// What is invalidated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// One key.
    Key(Key),
    /// One name.
    Name(Name),
    /// One key, and all that was made from it.
    Downstream(Key),
}

/// What a pin keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pinned {
    /// The record of a key.
    Key(Key),
    /// The records that stand under a name.
    Name(Name),
    /// The records under all names.
    All,
    /// A folder and what is in it.
    Tree(Content),
}

/// A collection. Between two nights lies nothing that the store calls long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Collect {
    /// Whether for want of room as well, of which there is never enough.
    pub room: bool,
    /// Whether a night passes first.
    pub night: bool,
    /// Which key is looked up after it.
    pub used: Option<Key>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "its text says what a field is")]
pub enum Step {
    Begin { client: u8, id: Id, key: Key, name: Name, check: bool, seconds: u64, waited: Option<Id>, twice: bool },
    Beat { client: u8, id: Id },
    Upload { client: u8, content: Content, whole: bool },
    Commit { client: u8, id: Id, exit: i32, content: Option<Content>, twice: bool },
    Fail { client: u8, id: Id },
    Invalidate { client: u8, what: What },
    Evict { client: u8, key: Key },
    Pin { client: u8, what: Pinned },
    Unpin { client: u8, what: Pinned },
    Harm { blob: Blob, how: Harm },
    Read { client: u8, blob: Blob, way: u8 },
    Kill { client: u8 },
    Pause { client: u8 },
    Resume { client: u8 },
    Tick { daemon: usize, millis: u64 },
    Restart { daemons: Vec<usize> },
    Restore,
    Collect { daemon: usize, how: Collect },
}

impl Step {
    /// The exit code that a `Fail` reports; no commit does.
    pub const FAILS_WITH: i32 = 2;

    /// Who takes it, if that is an executor.
    pub fn client(&self) -> Option<u8> {
        match self {
            Step::Begin { client, .. }
            | Step::Beat { client, .. }
            | Step::Upload { client, .. }
            | Step::Commit { client, .. }
            | Step::Fail { client, .. }
            | Step::Invalidate { client, .. }
            | Step::Evict { client, .. }
            | Step::Pin { client, .. }
            | Step::Unpin { client, .. }
            | Step::Read { client, .. }
            | Step::Kill { client }
            | Step::Pause { client }
            | Step::Resume { client } => Some(*client),
            Step::Harm { .. } | Step::Tick { .. } | Step::Restart { .. } | Step::Restore | Step::Collect { .. } => None,
        }
    }
}

/// What became of a key that was invalidated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Void {
    /// Which.
    pub key: Key,
    /// Whose record is void now.
    pub record: Option<Id>,
    /// Whose lease was withdrawn.
    pub withdrawn: Option<Id>,
}

/// What a step is answered with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Said {
    /// A lease, to check this one's record if it names one.
    Lease(Option<Id>),
    /// This one's record is the answer.
    Hit(Id),
    /// This one is at it.
    Busy(Id),
    /// This one, which was waited for, has failed.
    Failed(Id),
    /// A new attempt takes a new id.
    Invalid,
    /// The lease goes on.
    Kept,
    /// The lease is another's, or nobody's.
    Fenced(Option<Id>),
    /// It has ended otherwise before.
    Ended(State),
    /// It has ended so.
    Committed {
        /// How.
        state: State,
        /// Whether it is the key's record.
        recorded: bool,
        /// The record that it differs from.
        diverges: Option<Id>,
    },
    /// Blobs are to be uploaded first.
    Missing,
    /// Bytes are lost or damaged.
    Lost,
    /// The right bytes.
    Bytes,
    /// There is no such thing.
    NotFound,
    /// What became of keys.
    Voided(Vec<Void>),
    /// A lookup's answer.
    Verdict(Verdict, Option<Id>, Option<Content>),
    /// Nothing more is to be said.
    Done,
    /// What no rule foresees.
    Other(String),
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}", char::from(b'a' + self.0))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "name {}", char::from(b'M' + self.0))
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Nothing => f.write_str("nothing"),
            Content::Tiny => f.write_str("the tiny content"),
            Content::Small(n) => write!(f, "small content {n}"),
            Content::Large(n) => write!(f, "large content {n}"),
        }
    }
}

impl fmt::Display for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blob::Folder(content) => write!(f, "the folder of {content}"),
            Blob::File(content) => write!(f, "the file of {content}"),
        }
    }
}

impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pinned::Key(key) => write!(f, "{key}"),
            Pinned::Name(name) => write!(f, "{name}"),
            Pinned::All => f.write_str("all names"),
            Pinned::Tree(content) => write!(f, "the tree of {content}"),
        }
    }
}

impl fmt::Display for Collect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.night { "after a night " } else { "" })?;
        self.used.map_or(Ok(()), |key| write!(f, "and a lookup of {key} "))?;
        f.write_str(if self.room { "it is collected for room" } else { "it is collected by rules" })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(client) = self.client() {
            write!(f, "executor {client} ")?;
        }
        match self {
            Step::Begin { id, key, name, check, seconds, waited, twice, .. } => {
                let check = if *check { " to check it" } else { "" };
                write!(f, "begins {id} of {key} under {name}{check}, for {seconds} s")?;
                waited.map_or(Ok(()), |waited| write!(f, ", having waited for {waited}"))?;
                f.write_str(if *twice { ", twice at once" } else { "" })
            }
            Step::Beat { id, .. } => write!(f, "beats for {id}"),
            Step::Upload { content, whole: true, .. } => write!(f, "uploads {content}"),
            Step::Upload { content, .. } => write!(f, "uploads the folder of {content} alone"),
            Step::Commit { id, exit, content, twice, .. } => {
                let twice = if *twice { ", twice at once" } else { "" };
                write!(f, "commits {id} with exit code {exit} and {}{twice}", content.unwrap_or(Content::Nothing))
            }
            Step::Fail { id, .. } => write!(f, "fails {id}"),
            Step::Invalidate { what: What::Key(key), .. } => write!(f, "invalidates {key}"),
            Step::Invalidate { what: What::Name(name), .. } => write!(f, "invalidates {name}"),
            Step::Invalidate { what: What::Downstream(key), .. } => write!(f, "invalidates {key} and all downstream"),
            Step::Evict { key, .. } => write!(f, "evicts {key}"),
            Step::Pin { what, .. } => write!(f, "pins {what}"),
            Step::Unpin { what, .. } => write!(f, "unpins {what}"),
            Step::Harm { blob, how: Harm::Deleted } => write!(f, "{blob} is deleted under the store"),
            Step::Harm { blob, how: Harm::Changed } => write!(f, "{blob} is changed under the store"),
            Step::Read { blob, way, .. } => write!(f, "reads {blob} (way {way})"),
            Step::Kill { .. } => f.write_str("is killed and started anew"),
            Step::Pause { .. } => f.write_str("is paused"),
            Step::Resume { .. } => f.write_str("goes on"),
            Step::Tick { daemon, millis } => write!(f, "{millis} ms pass for daemon {daemon}, which takes in the feed"),
            Step::Restart { daemons } => write!(f, "daemons {daemons:?} are killed and started anew"),
            Step::Restore => f.write_str("the store is restored"),
            Step::Collect { daemon, how } => write!(f, "{how}, by daemon {daemon}"),
        }
    }
}
