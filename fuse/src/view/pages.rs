//! The items of a directory that grows while it is read, page by page.
//!
//! Invariant: what was listed keeps its place. Of a page that was read long ago only its beginning is held, and eight bytes of each item:
//! read again, what came meanwhile is left out, and what is gone is missed by nobody.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use provender_core::view::{self, LATEST, encode};

use super::inodes::Inode;
use super::listing::{Names, names};
use super::node::{Kind, Node, PAGE};
use super::{Context, ViewError, edges, link};
use crate::source::{Branch, Page, SourceError};

/// How many pages are held as they are: who reads on may take a few steps back.
const HELD: usize = 2;
/// How many pages an old one may have grown to, until the rest of it counts as gone.
const GROWN: usize = 8;

/// Where a page begins.
#[derive(Debug, Clone, Default)]
enum Next {
    #[default]
    Begin,
    Folders {
        after: Option<String>,
    },
    Parts {
        after: Option<String>,
    },
    Keys {
        after: Option<String>,
    },
    Consumers {
        after: Option<Bytes>,
    },
    End,
}

/// A page that has been read.
#[derive(Debug)]
struct Read {
    begins: Next,
    /// How many items come before its own.
    before: u64,
    /// Of each item the number that its path has.
    marks: Box<[u64]>,
}

/// An item, and how many come before it.
type Placed = (u64, Kind, Box<[u8]>);

/// What has been read so far.
#[derive(Debug, Default)]
pub(super) struct Pages {
    read: Vec<Read>,
    /// The last of them, by their place in `read`.
    held: VecDeque<(usize, Vec<Placed>)>,
    next: Next,
}

impl Pages {
    /// Gives `each` item from a place on, with its place, until it returns `false`.
    pub(super) fn each(
        &mut self,
        context: &Context,
        inode: &Inode,
        from: u64,
        mut each: impl FnMut(Kind, &[u8], u64) -> bool,
    ) -> Result<(), ViewError> {
        // A place that was never given stands for nothing, and costs nothing.
        if self.given() < from {
            return Ok(());
        }
        let mut from = from;
        loop {
            let index = match self.read.partition_point(|page| page.before <= from).checked_sub(1) {
                Some(index) if from < self.end_of(index) => index,
                _ if matches!(self.next, Next::End) => return Ok(()),
                _ => {
                    self.read_on(context, inode)?;
                    continue;
                }
            };
            for (place, kind, name) in self.page(context, inode, index)?.iter().filter(|(place, ..)| *place >= from) {
                if !each(*kind, name, *place) {
                    return Ok(());
                }
            }
            from = self.end_of(index);
        }
    }

    /// How many items have been read so far.
    fn given(&self) -> u64 {
        self.read.len().checked_sub(1).map_or(0, |last| self.end_of(last))
    }

    fn end_of(&self, index: usize) -> u64 {
        self.read[index].before + self.read[index].marks.len() as u64
    }

    /// Reads the page that comes next.
    fn read_on(&mut self, context: &Context, inode: &Inode) -> Result<(), ViewError> {
        let (names, next) = page(context, &inode.node, &self.next)?;
        let begins = std::mem::replace(&mut self.next, next);
        if names.is_empty() {
            return Ok(());
        }
        let before = self.given();
        let marks = names.iter().map(|(_, name)| mark(inode, name)).collect();
        self.read.push(Read { begins, before, marks });
        self.hold(
            self.read.len() - 1,
            (before..).zip(names).map(|(place, (kind, name))| (place, kind, name)).collect(),
        );
        Ok(())
    }

    /// A page that was read before, read again if it is not held.
    fn page(&mut self, context: &Context, inode: &Inode, index: usize) -> Result<&[Placed], ViewError> {
        if !self.held.iter().any(|(held, _)| *held == index) {
            let again = self.again(context, inode, &self.read[index])?;
            self.hold(index, again);
        }
        Ok(self.held.iter().find(|(held, _)| *held == index).map_or(&[], |(_, items)| items))
    }

    fn hold(&mut self, index: usize, items: Vec<Placed>) {
        self.held.push_back((index, items));
        if self.held.len() > HELD {
            self.held.pop_front();
        }
    }

    /// What is still there of a page, at the places that it had.
    fn again(&self, context: &Context, inode: &Inode, read: &Read) -> Result<Vec<Placed>, ViewError> {
        let mut places: HashMap<u64, u64> = HashMap::with_capacity(read.marks.len());
        for (mark, place) in read.marks.iter().zip(read.before..) {
            places.entry(*mark).or_insert(place);
        }
        let (mut next, mut items) = (read.begins.clone(), Vec::with_capacity(read.marks.len()));
        for _ in 0..GROWN {
            let (names, following) = page(context, &inode.node, &next)?;
            for (kind, name) in names {
                if let Some(place) = places.remove(&mark(inode, &name)) {
                    items.push((place, kind, name));
                }
            }
            if places.is_empty() || matches!(following, Next::End) {
                break;
            }
            next = following;
        }
        Ok(items)
    }
}

fn mark(inode: &Inode, name: &[u8]) -> u64 {
    inode.path.child(name).number()
}

/// The page that begins somewhere, which may be empty, and where the one after it does.
fn page(context: &Context, node: &Node, begins: &Next) -> Result<(Names, Next), ViewError> {
    let source = &context.source;
    Ok(match (node, begins) {
        (Node::Names(Branch::Tasks, Some(name)), Next::Begin) => {
            let latest = source.latest(name)?.map(|_| LATEST);
            (names(Kind::Link, latest), Next::Folders { after: None })
        }
        (Node::Names(Branch::Failed, Some(_)), Next::Begin) => (Vec::new(), Next::Folders { after: None }),
        (Node::Names(branch, Some(name)), Next::Folders { after }) => {
            let page = advancing(source.folders(*branch, name, after.as_deref(), PAGE)?, after)?;
            page.items.iter().try_for_each(|folder| link::check_folder(folder))?;
            let (page, last) = components(Kind::Directory, page, String::clone);
            (page, if last.is_some() { Next::Folders { after: last } } else { Next::Parts { after: None } })
        }
        (Node::Names(_, None), Next::Begin) => (Vec::new(), Next::Parts { after: None }),
        (Node::Names(branch, prefix), Next::Parts { after }) => {
            let page = advancing(source.children(*branch, prefix.as_ref(), after.as_deref(), PAGE)?, after)?;
            let (page, last) = components(Kind::Directory, page, |part| encode(part));
            (page, if last.is_some() { Next::Parts { after: last } } else { Next::End })
        }
        (Node::Scheme(_), Next::Begin) => (Vec::new(), Next::Keys { after: None }),
        (Node::Scheme(scheme), Next::Keys { after }) => {
            let page = advancing(source.keys(scheme, after.as_deref(), PAGE)?, after)?;
            let (page, last) = components(Kind::Link, page, |id| encode(id));
            (page, if last.is_some() { Next::Keys { after: last } } else { Next::End })
        }
        (Node::UsedBy(_), Next::Begin) => (Vec::new(), Next::Consumers { after: None }),
        (Node::UsedBy(entry), Next::Consumers { after }) => {
            let page = edges::consumers(context, entry, after.as_ref())?;
            let components = page.items.iter().map(|place| view::consumer(&place.name, &place.folder));
            let next = page.next.map_or(Next::End, |after| Next::Consumers { after: Some(after) });
            (names(Kind::Link, components), next)
        }
        _ => (Vec::new(), Next::End),
    })
}

/// A page that does not begin before what it follows, so that a listing comes to an end.
fn advancing(page: Page<String>, after: &Option<String>) -> Result<Page<String>, ViewError> {
    match (page.items.last(), after) {
        (Some(last), Some(after)) if last <= after => {
            Err(SourceError::Damaged { what: format!("a page after {after:?} ends with {last:?}") }.into())
        }
        _ => Ok(page),
    }
}

/// A page of components, and after which item the next one begins, if there is a next one.
fn components(kind: Kind, page: Page<String>, component: impl Fn(&String) -> String) -> (Names, Option<String>) {
    let names = names(kind, page.items.iter().map(component));
    (names, page.items.into_iter().next_back().filter(|_| page.more))
}
