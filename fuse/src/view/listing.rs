//! The listing of one open directory.
//!
//! Invariant: an item's cookie is how many items were listed before it, so that reading can go on from any cookie that was given out,
//! for as long as the directory is open: what was listed then is listed again unless it is gone, and nothing twice. A listing costs
//! what it is long; of a long one little is held (see [`pages`](super::pages) and [`folder`](super::folder)).

use std::sync::Arc;

use provender_core::view::{INPUTS, OUT, STDERR, STDOUT, USED_BY};
use provender_core::{key, tree};

use super::folder::{Folder, Place};
use super::inodes::Inode;
use super::node::{DOCUMENTS, FAILED, KEYS, Kind, Node, TASKS};
use super::pages::Pages;
use super::{Context, ViewError, edges};
use crate::source::{Branch, Entry, Input, SourceError};

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

/// Some items' types and names.
pub(super) type Names = Vec<(Kind, Box<[u8]>)>;

/// What has been read of a directory so far.
#[derive(Debug)]
pub(super) struct Listing {
    inode: Arc<Inode>,
    rest: Rest,
}

/// What comes after the dots.
#[derive(Debug)]
enum Rest {
    Unread,
    /// Few enough to be held.
    Held(Names),
    Folder {
        folder: Arc<Folder>,
        next: Place,
    },
    Inputs(Arc<[Input]>),
    Pages(Pages),
}

/// How many items are dots.
const DOTS: u64 = 2;

impl Listing {
    pub(super) fn new(inode: Arc<Inode>) -> Listing {
        Listing { inode, rest: Rest::Unread }
    }

    /// Gives `each` item from `cookie` on, with the cookie of what follows it, until it returns `false`. From 0 on the directory is
    /// seen as it is now. After an error it can be asked again.
    pub(super) fn each(
        &mut self,
        context: &Context,
        cookie: u64,
        mut each: impl FnMut(&Item, u64) -> bool,
    ) -> Result<(), ViewError> {
        if cookie == 0 {
            self.rest = Rest::Unread;
        }
        let dots = [(self.inode.number, "."), (self.inode.parent, "..")];
        for (place, (number, name)) in (0..).zip(dots).skip_while(|(place, _)| *place < cookie) {
            let item = Item { number, kind: Kind::Directory, name: name.as_bytes().into() };
            if !each(&item, place + 1) {
                return Ok(());
            }
        }
        let from = cookie.saturating_sub(DOTS);
        let number = usize::try_from(from).unwrap_or(usize::MAX);
        let path = &self.inode.path;
        let mut give = |kind, name: &[u8], place: u64| {
            let item = Item { number: path.child(name).number(), kind, name: name.into() };
            each(&item, DOTS + place + 1)
        };
        if matches!(self.rest, Rest::Unread) {
            self.rest = rest(context, &self.inode.node)?;
        }
        match &mut self.rest {
            Rest::Unread => Ok(()),
            Rest::Held(names) => {
                _ = (from..).zip(names.iter().skip(number)).all(|(place, (kind, name))| give(*kind, name, place));
                Ok(())
            }
            Rest::Inputs(inputs) => {
                _ = (from..).zip(inputs.iter().skip(number)).all(|(place, input)| {
                    let (kind, component) = edges::component(inputs, input);
                    give(kind, component.as_bytes(), place)
                });
                Ok(())
            }
            Rest::Folder { folder, next } => {
                let begin = if next.number == number { *next } else { folder.place(number)? };
                *next = folder.each(begin, |place, entry| give(kind(&entry), entry.name, place.number as u64))?;
                Ok(())
            }
            Rest::Pages(pages) => pages.each(context, &self.inode, from, give),
        }
    }
}

fn rest(context: &Context, node: &Node) -> Result<Rest, ViewError> {
    let source = &context.source;
    Ok(match node {
        Node::Root => Rest::Held(names(Kind::Directory, [FAILED, KEYS, TASKS])),
        Node::Names(..) | Node::Scheme(_) | Node::UsedBy(_) => Rest::Pages(Pages::default()),
        Node::Keys => {
            let schemes = source.schemes()?;
            if let Some(scheme) = schemes.iter().find(|scheme| !key::is_scheme(scheme)) {
                return Err(SourceError::Damaged { what: format!("{scheme:?} is no scheme") }.into());
            }
            Rest::Held(names(Kind::Directory, schemes))
        }
        Node::Execution(branch, entry) => Rest::Held(execution(*branch, entry)),
        Node::Inputs(entry) => Rest::Inputs(context.recent.inputs(&**source, entry)?),
        Node::Tree { digest, .. } => {
            let folder = context.trees.get(&**source, *digest)?;
            Rest::Folder { next: folder.begin(), folder }
        }
        Node::Document { .. } | Node::Unheld { .. } | Node::Blob { .. } | Node::Link { .. } => Rest::Unread,
    })
}

pub(super) fn names(kind: Kind, texts: impl IntoIterator<Item: Into<String>>) -> Names {
    texts.into_iter().map(|text| (kind, text.into().into_bytes().into())).collect()
}

fn execution(branch: Branch, entry: &Entry) -> Names {
    let edges = [entry.outputs.map(|_| OUT), Some(INPUTS), Some(USED_BY)];
    let directories = edges.into_iter().flatten().filter(|_| branch == Branch::Tasks);
    let logs = [entry.stdout.map(|_| STDOUT), entry.stderr.map(|_| STDERR)];
    let files = DOCUMENTS.into_iter().map(|(name, _)| name).chain(logs.into_iter().flatten());
    [names(Kind::Directory, directories), names(Kind::File, files)].concat()
}

fn kind(entry: &tree::Entry<'_>) -> Kind {
    match entry.stands {
        tree::Stands::File { .. } => Kind::File,
        tree::Stands::Symlink { .. } => Kind::Link,
        tree::Stands::Directory { .. } => Kind::Directory,
    }
}
