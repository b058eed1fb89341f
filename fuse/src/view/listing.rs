//! The listing of one open directory.
//!
//! Invariant: an item's cookie is its place in the listing, so that reading can go on from any cookie that was given out, for as
//! long as the directory is open; the items are fetched page by page, each once, so that a listing costs what it is long.

use std::sync::Arc;

use bytes::Bytes;
use provender_core::view::{self, INPUTS, LATEST, OUT, STDERR, STDOUT, USED_BY, encode};
use provender_core::{key, tree};

use super::inodes::Inode;
use super::node::{DOCUMENTS, FAILED, KEYS, Kind, Node, PAGE, TASKS};
use super::{Context, ViewError, edges, link};
use crate::source::{Branch, Entry, Page, SourceError};

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
    Keys { after: Option<String> },
    Consumers { after: Option<Bytes> },
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
            (Node::Root, _) => (names(Kind::Directory, [FAILED, KEYS, TASKS]), Next::End),
            (Node::Names(Branch::Tasks, Some(name)), Next::Begin) => {
                let latest = source.latest(name)?.map(|_| LATEST);
                (names(Kind::Link, latest), Next::Folders { after: None })
            }
            (Node::Names(Branch::Failed, Some(_)), Next::Begin) => (Vec::new(), Next::Folders { after: None }),
            (Node::Names(branch, Some(name)), Next::Folders { after }) => {
                let page = source.folders(*branch, name, after.as_deref(), PAGE)?;
                page.items.iter().try_for_each(|folder| link::check_folder(folder))?;
                let (page, last) = components(Kind::Directory, page, String::clone);
                (page, if last.is_some() { Next::Folders { after: last } } else { Next::Parts { after: None } })
            }
            (Node::Names(_, None), Next::Begin) => (Vec::new(), Next::Parts { after: None }),
            (Node::Names(branch, prefix), Next::Parts { after }) => {
                let page = source.children(*branch, prefix.as_ref(), after.as_deref(), PAGE)?;
                let (page, last) = components(Kind::Directory, page, |part| encode(part));
                (page, if last.is_some() { Next::Parts { after: last } } else { Next::End })
            }
            (Node::Keys, _) => {
                let schemes = source.schemes()?;
                if let Some(scheme) = schemes.iter().find(|scheme| !key::is_scheme(scheme)) {
                    return Err(SourceError::Damaged { what: format!("{scheme:?} is no scheme") }.into());
                }
                (names(Kind::Directory, schemes), Next::End)
            }
            (Node::Scheme(_), Next::Begin) => (Vec::new(), Next::Keys { after: None }),
            (Node::Scheme(scheme), Next::Keys { after }) => {
                let page = source.keys(scheme, after.as_deref(), PAGE)?;
                let (page, last) = components(Kind::Link, page, |id| encode(id));
                (page, if last.is_some() { Next::Keys { after: last } } else { Next::End })
            }
            (Node::Execution(branch, entry), _) => (execution(*branch, entry), Next::End),
            (Node::Inputs(entry), _) => {
                let inputs = context.recent.inputs(&**source, entry)?;
                let component = |input| {
                    let (kind, component) = edges::component(&inputs, input);
                    (kind, component.into_bytes().into())
                };
                (inputs.iter().map(component).collect(), Next::End)
            }
            (Node::UsedBy(_), Next::Begin) => (Vec::new(), Next::Consumers { after: None }),
            (Node::UsedBy(entry), Next::Consumers { after }) => {
                let page = edges::consumers(context, entry, after.as_ref())?;
                let components = page.items.iter().map(|place| view::consumer(&place.name, &place.folder));
                let next = page.next.map_or(Next::End, |after| Next::Consumers { after: Some(after) });
                (names(Kind::Link, components), next)
            }
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

fn names(kind: Kind, texts: impl IntoIterator<Item: Into<String>>) -> Names {
    texts.into_iter().map(|text| (kind, text.into().into_bytes().into())).collect()
}

/// A page of components, and after which item the next one begins, if there is a next one.
fn components(kind: Kind, page: Page<String>, component: impl Fn(&String) -> String) -> (Names, Option<String>) {
    let names = names(kind, page.items.iter().map(component));
    (names, page.items.into_iter().next_back().filter(|_| page.more))
}

fn execution(branch: Branch, entry: &Entry) -> Names {
    let edges = [entry.outputs.map(|_| OUT), Some(INPUTS), Some(USED_BY)];
    let directories = edges.into_iter().flatten().filter(|_| branch == Branch::Tasks);
    let logs = [entry.stdout.map(|_| STDOUT), entry.stderr.map(|_| STDERR)];
    let files = DOCUMENTS.into_iter().map(|(name, _)| name).chain(logs.into_iter().flatten());
    [names(Kind::Directory, directories), names(Kind::File, files)].concat()
}

fn kind(node: &tree::Node) -> Kind {
    match node {
        tree::Node::File { .. } => Kind::File,
        tree::Node::Symlink { .. } => Kind::Link,
        tree::Node::Directory { .. } => Kind::Directory,
    }
}
