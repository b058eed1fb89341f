//! The file system itself, in the terms of any kernel: numbers, names, handles.
//!
//! Owns [`View`]: what a lookup, a listing, an attribute or a read over a [`Source`] answers. Invariants: there is no operation
//! that changes anything; memory grows with what the kernel holds (numbers, handles) and a bounded cache, whatever the trees
//! say; no lock of the whole view is held while the source is asked. It must not know fuser.

mod content;
mod edges;
mod folder;
mod inodes;
mod kept;
mod link;
mod listing;
mod names;
mod node;
mod pages;
mod recent;
mod small;
mod stale;
mod trees;
mod xattrs;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use provender_core::{Timestamp, tree};

pub use self::content::OpenFile;
pub use self::inodes::ROOT;
use self::inodes::{Inode, Inodes};
pub use self::listing::Item;
use self::listing::Listing;
pub use self::node::Kind;
use self::node::Node;
use self::recent::Recent;
use self::small::Small;
pub use self::stale::{Change, Stale};
use self::trees::Trees;
use crate::shards::Shards;
use crate::source::{Source, SourceError};

/// How a view behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The time that folders show which have none of their own, such as the root.
    pub since: Timestamp,
    /// How many bytes of directories are kept, about.
    pub cache_bytes: u64,
    /// How many bytes of small files are kept, about.
    pub small_bytes: u64,
    /// The largest directory that is shown, in encoded bytes.
    pub max_tree_bytes: u64,
    /// How long the inputs of an execution, which may be learned later, are gone by without asking again.
    pub inputs_valid: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            since: Timestamp::default(),
            cache_bytes: 64 << 20,
            small_bytes: 64 << 20,
            max_tree_bytes: tree::MAX_ENCODED,
            inputs_valid: Duration::from_secs(1),
        }
    }
}

/// What `stat` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// The inode's number.
    pub number: u64,
    /// The type of file.
    pub kind: Kind,
    /// Bytes: of a file's content or a link's target; 0 for a directory.
    pub size: u64,
    /// Permissions: 0555 for directories and what can be run, 0444 for other files, 0777 for links.
    pub mode: u16,
    /// When it was committed: all its times.
    pub at: Timestamp,
}

/// Attributes, and how long they may be gone by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What was found.
    pub attributes: Attributes,
    /// For so long they will not change.
    pub valid: Duration,
    /// For so long the name that led there will not mean anything else.
    pub named: Duration,
}

/// Why a view cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The source's fault, or its "no".
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The file behind a content cannot be read.
    #[error("reading a stored file: {0}")]
    Io(#[source] rustix::io::Errno),
    /// Nothing has that name.
    #[error("not found")]
    NotFound,
    /// The number is not known: it was never given out, or has been forgotten.
    #[error("no such inode")]
    Forgotten,
    /// What stands there has another number by now: this one is open by way of another file.
    #[error("it is to be looked up again")]
    Retired,
    /// There is no such open handle of this type.
    #[error("no such handle")]
    NoHandle,
    /// Something that is no directory was looked into.
    #[error("not a directory")]
    NotDirectory,
    /// A directory was opened as a file.
    #[error("is a directory")]
    IsDirectory,
    /// Something that is no link was read as one.
    #[error("not a symbolic link")]
    NotLink,
    /// A link was opened as a file.
    #[error("not a file")]
    NotFile,
    /// It has no extended attribute of that name.
    #[error("no such attribute")]
    NoAttribute,
    /// No name is that long: the kernel asks for up to 1,024 bytes.
    #[error("a name is over the limit of {} bytes", tree::MAX_NAME)]
    LongName,
    /// A link's target is longer than the kernel follows.
    #[error("a link's target of {size} bytes is over the limit of {}", tree::MAX_TARGET)]
    LongTarget {
        /// Its bytes.
        size: usize,
    },
    /// A directory is larger than the view takes.
    #[error("a directory of {size} encoded bytes is over the limit of {limit}")]
    TooLarge {
        /// Its encoded bytes.
        size: u64,
        /// [`Settings::max_tree_bytes`].
        limit: u64,
    },
}

/// What nodes answer from.
struct Context {
    source: Arc<dyn Source>,
    trees: Trees,
    small: Small,
    recent: Recent,
    since: Timestamp,
}

enum Handle {
    /// An open of a number; without content, the kernel reads it by itself.
    File(u64, Option<OpenFile>),
    Directory(Mutex<Listing>),
}

/// A store as a read-only file system.
pub struct View {
    context: Context,
    inodes: Inodes,
    handles: Shards<Arc<Handle>>,
    next_handle: AtomicU64,
}

impl View {
    /// A view of `source`.
    pub fn new(source: Arc<dyn Source>, settings: Settings) -> View {
        View {
            context: Context {
                source,
                trees: Trees::new(settings.cache_bytes, settings.max_tree_bytes),
                small: Small::new(settings.small_bytes),
                recent: Recent::new(settings.inputs_valid),
                since: settings.since,
            },
            inodes: Inodes::new(Node::Root),
            handles: Shards::default(),
            next_handle: AtomicU64::new(1),
        }
    }

    /// What `name` in the directory `parent` stands for. Each success counts as one lookup, to be given back by
    /// [`View::forget`].
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Found, ViewError> {
        let parent = self.inode(parent)?;
        let node = parent.node.child(&self.context, name)?;
        let shape = node.shape(&self.context)?;
        let named = parent.node.holds(&node);
        let inode = self.inodes.remember(&parent, name, node);
        Ok(Found { named, ..found(&inode, shape) })
    }

    /// Gives `lookups` lookups back; with the last the number loses its meaning.
    pub fn forget(&self, number: u64, lookups: u64) {
        self.inodes.forget(number, lookups);
    }

    /// The attributes of a number.
    pub fn attributes(&self, number: u64) -> Result<Found, ViewError> {
        let inode = self.inode(number)?;
        inode.node.check(&self.context)?;
        Ok(found(&inode, inode.node.shape(&self.context)?))
    }

    /// Where a link leads.
    pub fn read_link(&self, number: u64) -> Result<Bytes, ViewError> {
        match &self.inode(number)?.node {
            Node::Link { target, .. } => Ok(Bytes::copy_from_slice(target)),
            _ => Err(ViewError::NotLink),
        }
    }

    /// The names of the extended attributes of a number, sorted.
    pub fn xattrs(&self, number: u64) -> Result<Vec<&'static str>, ViewError> {
        Ok(self.inode(number)?.node.xattrs().into_iter().map(|(name, _)| name).collect())
    }

    /// The value of one of them.
    pub fn xattr(&self, number: u64, name: &[u8]) -> Result<String, ViewError> {
        let all = self.inode(number)?.node.xattrs();
        let (_, value) = all.into_iter().find(|(known, _)| known.as_bytes() == name).ok_or(ViewError::NoAttribute)?;
        Ok(value)
    }

    /// [`View::content`], held.
    #[cfg(test)]
    pub(crate) fn open(&self, number: u64) -> Result<u64, ViewError> {
        let content = self.content(number)?;
        Ok(self.hold(number, Some(content)))
    }

    /// The content of a file, open.
    pub fn content(&self, number: u64) -> Result<OpenFile, ViewError> {
        let inode = self.inode(number)?;
        let source = &self.context.source;
        match &inode.node {
            Node::Blob { digest, .. } => self.context.small.open(&**source, *digest),
            Node::Document { entry, which, size } => OpenFile::new(source.document(entry, *which)?.into(), *size),
            Node::Unheld { entry, input, digest } => {
                OpenFile::new(edges::document(&self.context, entry, input, digest)?.into(), digest.size)
            }
            node if node.kind() == Kind::Directory => Err(ViewError::IsDirectory),
            _ => Err(ViewError::NotFile),
        }
    }

    /// A handle for an open of `number`, good until [`View::release`], whatever is collected meanwhile. Without content there is
    /// nothing to read through it.
    pub fn hold(&self, number: u64, content: Option<OpenFile>) -> u64 {
        self.keep(Handle::File(number, content))
    }

    /// Gives what stands at this number's path another number at its next lookup, since this one cannot be opened as it has to be.
    pub fn retire(&self, number: u64) {
        self.inodes.retire(number);
    }

    /// The bytes of an open file from `offset` on: `len` of them, or as many as there are.
    pub fn read(&self, handle: u64, offset: u64, len: usize) -> Result<Bytes, ViewError> {
        match &*self.handle(handle)? {
            Handle::File(_, Some(file)) => file.read(offset, len),
            Handle::File(_, None) | Handle::Directory(_) => Err(ViewError::NoHandle),
        }
    }

    /// Opens a directory for listing.
    pub fn open_directory(&self, number: u64) -> Result<u64, ViewError> {
        let inode = self.inode(number)?;
        if inode.node.kind() != Kind::Directory {
            return Err(ViewError::NotDirectory);
        }
        Ok(self.keep(Handle::Directory(Mutex::new(Listing::new(inode)))))
    }

    /// Whether a directory's listing never changes, so that the kernel may keep it.
    pub fn is_settled(&self, number: u64) -> bool {
        self.inodes.get(number).is_some_and(|inode| inode.node.is_settled())
    }

    /// Gives `each` item of an open directory from `cookie` on, with the cookie of what follows it, until `each` returns
    /// `false` for "no room". 0 is the cookie of the first item, and reads the directory anew.
    pub fn list(&self, handle: u64, cookie: u64, each: impl FnMut(&Item, u64) -> bool) -> Result<(), ViewError> {
        let handle = self.handle(handle)?;
        let Handle::Directory(listing) = &*handle else { return Err(ViewError::NoHandle) };
        listing.lock().each(&self.context, cookie, each)
    }

    /// Closes a handle of either type, and says which number it was an open of, if it was for reading.
    pub fn release(&self, handle: u64) -> Option<u64> {
        let closed = self.handles.with(handle, |handles| handles.remove(&handle));
        match *closed? {
            Handle::File(number, _) => Some(number),
            Handle::Directory(_) => None,
        }
    }

    fn inode(&self, number: u64) -> Result<Arc<Inode>, ViewError> {
        self.inodes.get(number).ok_or(ViewError::Forgotten)
    }

    fn handle(&self, handle: u64) -> Result<Arc<Handle>, ViewError> {
        self.handles.with(handle, |handles| handles.get(&handle).cloned()).ok_or(ViewError::NoHandle)
    }

    fn keep(&self, handle: Handle) -> u64 {
        let number = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.handles.with(number, |handles| handles.insert(number, Arc::new(handle)));
        number
    }
}

fn found(inode: &Inode, shape: node::Shape) -> Found {
    let kind = inode.node.kind();
    let mode = match kind {
        Kind::Link => 0o777,
        _ if shape.executable => 0o555,
        _ => 0o444,
    };
    let attributes = Attributes { number: inode.number, kind, size: shape.size, mode, at: shape.at };
    let valid = inode.node.valid();
    Found { attributes, valid, named: valid }
}

#[cfg(test)]
mod tests;
