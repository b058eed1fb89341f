//! The listing of one open directory.
//!
//! Invariant: an item's cookie is its place in the listing, so that reading can go on from any cookie that was given out, for as
//! long as the directory is open; the items are fetched page by page, each once, so that a listing costs what it is long.

use std::sync::Arc;

use provender_core::tree;
use provender_core::view::{LATEST, encode};

use super::inodes::Inode;
use super::node::{DOCUMENTS, Kind, Node, OUT, PAGE, STDERR, STDOUT, TASKS};
use super::{Context, ViewError};
use crate::source::{Entry, Page};

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The number that a lookup would give.
    pub number: u64,
    /// The type of file.
    pub kind: Kind,
    /// The name: a copy, since a tree's names are slices of its whole encoding.
    pub name: Box<[u8]>,
}

/// Where the next page begins.
#[derive(Debug)]
enum Next {
    Begin,
    Folders { after: Option<String> },
    Parts { after: Option<String> },
    Entries { after: Box<[u8]> },
    End,
}

/// What has been read of a directory so far.
#[derive(Debug)]
pub(super) struct Listing {
    inode: Arc<Inode>,
    items: Vec<Item>,
    next: Next,
}

type Names = Vec<(Kind, Box<[u8]>)>;

impl Listing {
    pub(super) fn new(inode: Arc<Inode>) -> Listing {
        let item = |number, name: &str| Item { number, kind: Kind::Directory, name: name.as_bytes().into() };
        let items = vec![item(inode.number, "."), item(inode.parent, "..")];
        Listing { inode, items, next: Next::Begin }
    }

    /// Forgets what was read, so that the directory is seen as it is now.
    pub(super) fn rewind(&mut self) {
        *self = Listing::new(self.inode.clone());
    }

    /// The item at a place, fetched if need be; `None` beyond the last. After an error it can be asked for again.
    pub(super) fn item(&mut self, context: &Context, place: usize) -> Result<Option<&Item>, ViewError> {
        while self.items.len() <= place && !matches!(self.next, Next::End) {
            let (names, next) = self.page(context)?;
            let path = &self.inode.path;
            let item = |(kind, name): (Kind, Box<[u8]>)| Item { number: path.child(&name).number(), kind, name };
            self.items.extend(names.into_iter().map(item));
            self.next = next;
        }
        Ok(self.items.get(place))
    }

    fn page(&self, context: &Context) -> Result<(Names, Next), ViewError> {
        let source = &context.source;
        Ok(match (&self.inode.node, &self.next) {
            (Node::Root, _) => (vec![(Kind::Directory, TASKS.as_bytes().into())], Next::End),
            (Node::Names(Some(name)), Next::Begin) => {
                let latest = source.latest(name)?.map(|_| (Kind::Link, LATEST.as_bytes().into()));
                (latest.into_iter().collect(), Next::Folders { after: None })
            }
            (Node::Names(Some(name)), Next::Folders { after }) => {
                let (page, last) = directories(source.folders(name, after.as_deref(), PAGE)?, String::clone);
                (page, if last.is_some() { Next::Folders { after: last } } else { Next::Parts { after: None } })
            }
            (Node::Names(None), Next::Begin) => (Vec::new(), Next::Parts { after: None }),
            (Node::Names(prefix), Next::Parts { after }) => {
                let page = source.children(prefix.as_ref(), after.as_deref(), PAGE)?;
                let (page, last) = directories(page, |part| encode(part));
                (page, if last.is_some() { Next::Parts { after: last } } else { Next::End })
            }
            (Node::Execution(entry), _) => (execution(entry), Next::End),
            // The empty name sorts before all others.
            (Node::Tree { .. }, Next::Begin) => (Vec::new(), Next::Entries { after: Box::default() }),
            (Node::Tree { digest, .. }, Next::Entries { after }) => {
                let tree = context.trees.get(&**source, *digest)?;
                let page: Names =
                    tree.after(after).take(PAGE).map(|(name, node)| (kind(node), name[..].into())).collect();
                let last = page.last().filter(|_| page.len() == PAGE).map(|(_, name)| name.clone());
                (page, last.map_or(Next::End, |after| Next::Entries { after }))
            }
            _ => (Vec::new(), Next::End),
        })
    }
}

/// A page of directories, and after which item the next one begins, if there is a next one.
fn directories(page: Page<String>, component: impl Fn(&String) -> String) -> (Names, Option<String>) {
    let names = page.items.iter().map(|item| (Kind::Directory, component(item).into_bytes().into())).collect();
    (names, page.items.into_iter().next_back().filter(|_| page.more))
}

fn execution(entry: &Entry) -> Names {
    let logs = [(STDOUT, entry.stdout), (STDERR, entry.stderr)];
    let logs = logs.into_iter().filter(|(_, log)| log.is_some()).map(|(name, _)| name);
    let files =
        DOCUMENTS.into_iter().map(|(name, _)| name).chain(logs).map(|name| (Kind::File, name.as_bytes().into()));
    [(Kind::Directory, OUT.as_bytes().into())].into_iter().chain(files).collect()
}

fn kind(node: &tree::Node) -> Kind {
    match node {
        tree::Node::File { .. } => Kind::File,
        tree::Node::Symlink { .. } => Kind::Link,
        tree::Node::Directory { .. } => Kind::Directory,
    }
}
