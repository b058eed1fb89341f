//! What can stand at a path, and what stands below it.
//!
//! Owns [`Node`], one variant for each kind of place. A new kind of file or folder is a variant here, an arm in [`Node::child`]
//! and [`Node::shape`], and a page in `listing`. Invariant: a node says all that is needed to answer for it without its path,
//! and refers to no large buffer. It must not know numbers or handles.

use std::sync::Arc;
use std::time::Duration;

use provender_core::view::{Decoded, LATEST, decode, encode, is_folder};
use provender_core::{Digest, Name, Timestamp, tree};

use super::{Context, ViewError};
use crate::source::{Document, Entry};

/// How many children are asked for at once.
pub(super) const PAGE: usize = 1024;
/// What the root holds.
pub(super) const TASKS: &str = "tasks";
/// An execution's folder of outputs.
pub(super) const OUT: &str = "out";
/// An execution's logs.
pub(super) const STDOUT: &str = "stdout";
pub(super) const STDERR: &str = "stderr";
/// An execution's rendered files.
pub(super) const DOCUMENTS: [(&str, Document); 2] = [("record.json", Document::Record), ("spec.json", Document::Spec)];

/// How long the kernel may go by what cannot change.
const FOREVER: Duration = Duration::from_secs(24 * 3600);
/// How long it may go by a folder that can be collected or get newer children.
const BRIEFLY: Duration = Duration::from_secs(1);

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
    /// `/tasks`, or a folder of the name, or the beginning of names, below it.
    Names(Option<Name>),
    /// `latest` of a name, a link beside the folder that it means.
    Latest(Name),
    /// The folder of an execution.
    Execution(Arc<Entry>),
    /// A rendered file of an execution.
    Document { entry: Arc<Entry>, which: Document, size: u64 },
    /// A directory of an output tree.
    Tree { digest: Digest, at: Timestamp },
    /// A file of an output tree, or a log.
    Blob { digest: Digest, executable: bool, at: Timestamp },
    /// A symlink of an output tree.
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
            Node::Root | Node::Names(_) | Node::Execution(_) | Node::Tree { .. } => Kind::Directory,
            Node::Document { .. } | Node::Blob { .. } => Kind::File,
            Node::Latest(_) | Node::Link { .. } => Kind::Link,
        }
    }

    /// How long the kernel may go by what it was told of the node, and of the name that it was found by.
    pub(super) fn valid(&self) -> Duration {
        match self {
            Node::Latest(_) => Duration::ZERO,
            Node::Names(_) | Node::Execution(_) => BRIEFLY,
            _ => FOREVER,
        }
    }

    /// Its size and time; that there is such a name, or a `latest` of it, comes out here too.
    pub(super) fn shape(&self, context: &Context) -> Result<Shape, ViewError> {
        let directory = |at| Shape { size: 0, executable: true, at };
        let file = |size, at| Shape { size, executable: false, at };
        Ok(match self {
            Node::Root | Node::Names(None) => directory(context.since),
            Node::Names(Some(name)) => directory(context.source.changed(name)?.ok_or(ViewError::NotFound)?),
            Node::Latest(name) => {
                let entry = context.source.latest(name)?.ok_or(ViewError::NotFound)?;
                file(entry.folder.len() as u64, entry.at)
            }
            Node::Execution(entry) => directory(entry.at),
            Node::Document { entry, size, .. } => file(*size, entry.at),
            Node::Tree { at, .. } => directory(*at),
            Node::Blob { digest, executable, at } => Shape { size: digest.size, executable: *executable, at: *at },
            Node::Link { target, at } => file(target.len() as u64, *at),
        })
    }

    /// The node that `component` in this one stands for. For a name, [`Node::shape`] tells whether it exists.
    pub(super) fn child(&self, context: &Context, component: &[u8]) -> Result<Node, ViewError> {
        if component.len() > tree::MAX_NAME {
            return Err(ViewError::NotFound);
        }
        let text = || std::str::from_utf8(component).map_err(|_| ViewError::NotFound);
        match self {
            Node::Root if component == TASKS.as_bytes() => Ok(Node::Names(None)),
            Node::Root => Err(ViewError::NotFound),
            Node::Names(prefix) => below_name(context, prefix.as_ref(), text()?),
            Node::Execution(entry) => below_execution(context, entry, text()?),
            Node::Tree { digest, at } => match context.trees.get(&*context.source, *digest)?.get(component) {
                Some(node) => Ok(Node::in_tree(node, *at)),
                None => Err(ViewError::NotFound),
            },
            Node::Latest(_) | Node::Document { .. } | Node::Blob { .. } | Node::Link { .. } => {
                Err(ViewError::NotDirectory)
            }
        }
    }

    fn in_tree(node: &tree::Node, at: Timestamp) -> Node {
        match node {
            tree::Node::File { digest, executable } => Node::Blob { digest: *digest, executable: *executable, at },
            tree::Node::Directory { digest } => Node::Tree { digest: *digest, at },
            // A copy: the target is a slice of its whole directory's bytes.
            tree::Node::Symlink { target } => Node::Link { target: target[..].into(), at },
        }
    }
}

fn below_name(context: &Context, prefix: Option<&Name>, component: &str) -> Result<Node, ViewError> {
    match prefix {
        Some(name) if component == LATEST => return Ok(Node::Latest(name.clone())),
        Some(name) if is_folder(component) => {
            let entry = context.source.entry(name, component)?.ok_or(ViewError::NotFound)?;
            return Ok(Node::Execution(Arc::new(entry)));
        }
        _ => {}
    }
    let part = match decode(component).ok_or(ViewError::NotFound)? {
        Decoded::Whole(part) => part,
        Decoded::Shortened { stem } => whole_part(context, prefix, &stem, component)?,
    };
    let name = match prefix {
        Some(prefix) => format!("{prefix}/{part}"),
        None => part,
    };
    Ok(Node::Names(Some(Name::new(name).map_err(|_| ViewError::NotFound)?)))
}

/// The part that a shortened component stands for: one of those that begin with its stem, which lie side by side.
fn whole_part(context: &Context, prefix: Option<&Name>, stem: &str, component: &str) -> Result<String, ViewError> {
    let mut after = stem.to_owned();
    loop {
        let page = context.source.children(prefix, Some(&after), PAGE)?;
        for part in &page.items {
            if !part.starts_with(stem) {
                return Err(ViewError::NotFound);
            }
            if encode(part) == component {
                return Ok(part.clone());
            }
        }
        match page.items.into_iter().next_back() {
            Some(last) if page.more => after = last,
            _ => return Err(ViewError::NotFound),
        }
    }
}

fn below_execution(context: &Context, entry: &Arc<Entry>, component: &str) -> Result<Node, ViewError> {
    let log = |digest: Option<Digest>| {
        let digest = digest.ok_or(ViewError::NotFound)?;
        Ok(Node::Blob { digest, executable: false, at: entry.at })
    };
    match component {
        OUT => Ok(Node::Tree { digest: entry.outputs, at: entry.at }),
        STDOUT => log(entry.stdout),
        STDERR => log(entry.stderr),
        _ => {
            let known = DOCUMENTS.into_iter().find(|(name, _)| *name == component);
            let (_, which) = known.ok_or(ViewError::NotFound)?;
            let size = context.source.document(entry, which)?.len() as u64;
            Ok(Node::Document { entry: entry.clone(), which, size })
        }
    }
}
