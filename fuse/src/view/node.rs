//! What can stand at a path, and what stands below it.
//!
//! Owns [`Node`], one variant for each kind of place. A new kind of file or folder is a variant here, an arm in [`Node::child`]
//! and [`Node::shape`], and a page in `listing`. Invariant: a node says all that is needed to answer for it without its path,
//! and refers to no large buffer. It must not know numbers or handles.

use std::sync::Arc;
use std::time::Duration;

use provender_core::view::{INPUTS, LATEST, OUT, RECORD, SPEC, STDERR, STDOUT, USED_BY, is_folder};
use provender_core::{Digest, Name, Timestamp, key, tree};

use super::{Context, ViewError, edges, link, names};
use crate::source::{Branch, Document, Entry};

/// How many children are asked for at once.
pub(super) const PAGE: usize = 1024;
/// What the root holds.
pub(super) const TASKS: &str = "tasks";
pub(super) const KEYS: &str = "keys";
pub(super) const FAILED: &str = "failed";
/// An execution's rendered files.
pub(super) const DOCUMENTS: [(&str, Document); 2] = [(RECORD, Document::Record), (SPEC, Document::Spec)];

/// How long the kernel may go by what cannot change: for as long as it likes.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long it may go by a folder that can be collected or get newer children.
const BRIEFLY: Duration = Duration::from_secs(1);
/// How long it may go by a link that can come to mean another, so that it is right within a second.
const MOVING: Duration = Duration::from_millis(500);

/// The type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
}

/// A place in the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// `/`
    Root,
    /// `/tasks` or `/failed`, or a folder of the name, or the beginning of names, below it.
    Names(Branch, Option<Name>),
    /// The folder of an execution.
    Execution(Branch, Arc<Entry>),
    /// A rendered file of an execution.
    Document { entry: Arc<Entry>, which: Document, size: u64 },
    /// What a success read.
    Inputs(Arc<Entry>),
    /// The file that stands for an input which the store does not hold.
    Unheld { entry: Arc<Entry>, input: Box<[u8]>, digest: Digest },
    /// Who read what a success made.
    UsedBy(Arc<Entry>),
    /// `/keys`
    Keys,
    /// The keys of a scheme.
    Scheme(String),
    /// A directory of an output tree.
    Tree { digest: Digest, at: Timestamp },
    /// A file of an output tree, or a log.
    Blob { digest: Digest, executable: bool, at: Timestamp },
    /// A symlink: of an output tree, or to an execution's folder. One that comes to lead elsewhere is another node.
    Link { target: Box<[u8]>, at: Timestamp },
}

/// What `stat` tells of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) size: u64,
    pub(super) executable: bool,
    pub(super) at: Timestamp,
}

impl Node {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Node::Root | Node::Names(..) | Node::Execution(..) | Node::Inputs(_) | Node::UsedBy(_) => Kind::Directory,
            Node::Keys | Node::Scheme(_) | Node::Tree { .. } => Kind::Directory,
            Node::Document { .. } | Node::Unheld { .. } | Node::Blob { .. } => Kind::File,
            Node::Link { .. } => Kind::Link,
        }
    }

    /// How long the kernel may go by the node's attributes. What can be collected is asked for again.
    pub(super) fn valid(&self) -> Duration {
        match self {
            Node::Names(_, Some(_)) | Node::Execution(..) => BRIEFLY,
            _ => FOREVER,
        }
    }

    /// How long it may go by the name in this directory that has led to `child`. What a folder's name means never changes; that
    /// it is gone shows in its attributes.
    pub(super) fn holds(&self, child: &Node) -> Duration {
        match (self, child) {
            (Node::Names(..), Node::Link { .. }) | (Node::Scheme(_), _) => MOVING,
            // An input's key can be learned later, and a consumer collected.
            (Node::Inputs(_) | Node::UsedBy(_), _) => BRIEFLY,
            _ => FOREVER,
        }
    }

    /// Whether the kernel may keep a listing of it.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self, Node::Root | Node::Execution(..) | Node::Tree { .. })
    }

    /// Asks whether what can be collected is still there.
    pub(super) fn check(&self, context: &Context) -> Result<(), ViewError> {
        match self {
            Node::Execution(branch, entry) => {
                let there = context.source.entry(*branch, &entry.name, &entry.folder)?;
                there.map(drop).ok_or(ViewError::NotFound)
            }
            _ => Ok(()),
        }
    }

    /// Its size and time; that there is such a name comes out here too.
    pub(super) fn shape(&self, context: &Context) -> Result<Shape, ViewError> {
        let directory = |at| Shape { size: 0, executable: true, at };
        let file = |size, at| Shape { size, executable: false, at };
        Ok(match self {
            Node::Root | Node::Names(_, None) | Node::Keys | Node::Scheme(_) => directory(context.since),
            Node::Names(branch, Some(name)) => {
                directory(context.source.changed(*branch, name)?.ok_or(ViewError::NotFound)?)
            }
            Node::Execution(_, entry) | Node::Inputs(entry) | Node::UsedBy(entry) => directory(entry.at),
            Node::Document { entry, size, .. } => file(*size, entry.at),
            Node::Unheld { entry, digest, .. } => file(digest.size, entry.at),
            Node::Tree { at, .. } => directory(*at),
            Node::Blob { digest, executable, at } => Shape { size: digest.size, executable: *executable, at: *at },
            Node::Link { target, at } => file(target.len() as u64, *at),
        })
    }

    /// The node that `component` in this one stands for. For a name, [`Node::shape`] tells whether it exists.
    pub(super) fn child(&self, context: &Context, component: &[u8]) -> Result<Node, ViewError> {
        if component.len() > tree::MAX_NAME {
            return Err(ViewError::LongName);
        }
        let text = || std::str::from_utf8(component).map_err(|_| ViewError::NotFound);
        match self {
            Node::Root => match text()? {
                TASKS => Ok(Node::Names(Branch::Tasks, None)),
                KEYS => Ok(Node::Keys),
                FAILED => Ok(Node::Names(Branch::Failed, None)),
                _ => Err(ViewError::NotFound),
            },
            Node::Names(branch, prefix) => below_name(context, *branch, prefix.as_ref(), text()?),
            Node::Execution(branch, entry) => below_execution(context, *branch, entry, text()?),
            Node::Inputs(entry) => edges::input(context, entry, text()?),
            Node::UsedBy(entry) => edges::consumer(context, entry, text()?),
            Node::Keys => match text()? {
                // Not asked for what can be no scheme.
                scheme if key::is_scheme(scheme) && context.source.schemes()?.iter().any(|known| known == scheme) => {
                    Ok(Node::Scheme(scheme.to_owned()))
                }
                _ => Err(ViewError::NotFound),
            },
            Node::Scheme(scheme) => {
                let key = names::key(context, scheme, text()?)?;
                link::record(context, &key).map(link::node)
            }
            Node::Tree { digest, at } => {
                let folder = context.trees.get(&*context.source, *digest)?;
                folder.find(component, |stands| Node::stands(stands, *at))?.ok_or(ViewError::NotFound)
            }
            Node::Document { .. } | Node::Unheld { .. } | Node::Blob { .. } => Err(ViewError::NotDirectory),
            Node::Link { .. } => Err(ViewError::NotDirectory),
        }
    }

    fn stands(stands: tree::Stands<'_>, at: Timestamp) -> Node {
        match stands {
            tree::Stands::File { digest, executable } => Node::Blob { digest, executable, at },
            tree::Stands::Directory { digest } => Node::Tree { digest, at },
            tree::Stands::Symlink { target } => Node::Link { target: target.into(), at },
        }
    }

    pub(super) fn in_tree(node: &tree::Node, at: Timestamp) -> Node {
        match node {
            tree::Node::File { digest, executable } => Node::Blob { digest: *digest, executable: *executable, at },
            tree::Node::Directory { digest } => Node::Tree { digest: *digest, at },
            // A copy: the target may be a slice of more.
            tree::Node::Symlink { target } => Node::Link { target: target[..].into(), at },
        }
    }
}

fn below_name(context: &Context, branch: Branch, prefix: Option<&Name>, component: &str) -> Result<Node, ViewError> {
    match prefix {
        Some(name) if component == LATEST && branch == Branch::Tasks => link::latest(context, name).map(link::node),
        Some(name) if is_folder(component) => {
            let entry = context.source.entry(branch, name, component)?.ok_or(ViewError::NotFound)?;
            // Where it stands is where it was found: the links below count on it.
            let entry = Entry { name: name.clone(), folder: component.to_owned(), ..entry };
            Ok(Node::Execution(branch, Arc::new(entry)))
        }
        _ => names::child(context, branch, prefix, component).map(|name| Node::Names(branch, Some(name))),
    }
}

fn below_execution(context: &Context, branch: Branch, entry: &Arc<Entry>, component: &str) -> Result<Node, ViewError> {
    let log = |digest: Option<Digest>| {
        let digest = digest.ok_or(ViewError::NotFound)?;
        Ok(Node::Blob { digest, executable: false, at: entry.at })
    };
    match (branch, component) {
        (Branch::Tasks, OUT) => {
            let digest = entry.outputs.ok_or(ViewError::NotFound)?;
            Ok(Node::Tree { digest, at: entry.at })
        }
        (Branch::Tasks, INPUTS) => Ok(Node::Inputs(entry.clone())),
        (Branch::Tasks, USED_BY) => Ok(Node::UsedBy(entry.clone())),
        (_, STDOUT) => log(entry.stdout),
        (_, STDERR) => log(entry.stderr),
        _ => {
            let known = DOCUMENTS.into_iter().find(|(name, _)| *name == component);
            let (_, which) = known.ok_or(ViewError::NotFound)?;
            let size = context.source.document(entry, which)?.len() as u64;
            Ok(Node::Document { entry: entry.clone(), which, size })
        }
    }
}
