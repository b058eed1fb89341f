//! One directory of an output tree, read from its encoding as it is needed.
//!
//! Invariants: what is held is the place of every [`SPAN`]th entry, so that a million entries take as much memory as a few thousand; the
//! whole encoding was looked through once, and is what [`provender_core::Tree`] would have written. The bytes of a large one stay where
//! the source has them.

use provender_core::Digest;
use provender_core::tree::{Entry, MAGIC, Stands};

use super::ViewError;
use super::content::OpenFile;
use crate::source::{Content, Source, SourceError};

/// How many entries lie between two places that are known.
const SPAN: usize = 64;
/// The largest encoding that is held in memory, in bytes: a lookup reads it a dozen times.
const HELD: u64 = 4 << 20;
/// How many bytes are read at once, by who goes through them.
const WINDOW: usize = 256 << 10;

/// A directory.
#[derive(Debug)]
pub(super) struct Folder {
    bytes: OpenFile,
    size: u64,
    entries: usize,
    /// Where every [`SPAN`]th entry begins.
    marks: Box<[u32]>,
}

/// Where an entry stands, for who goes on from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// How many entries come before it.
    pub(super) number: usize,
    offset: u64,
}

impl Folder {
    /// The directory of that digest, looked through.
    pub(super) fn open(source: &dyn Source, digest: Digest) -> Result<Folder, ViewError> {
        let bytes = OpenFile::new(source.open(digest)?, digest.size)?.held(HELD)?;
        let damaged = |why: &str| SourceError::Damaged { what: format!("the directory {digest}: {why}") };
        if bytes.read(0, MAGIC.len())? != MAGIC {
            return Err(damaged("no tree begins like this").into());
        }
        let mut folder = Folder { bytes, size: digest.size, entries: 0, marks: Box::default() };
        let (mut marks, mut last) = (Vec::new(), Vec::new());
        let mut refused = None;
        let end = folder.each(folder.begin(), |place, entry| {
            if place.number.is_multiple_of(SPAN) {
                // An encoding is at most 64 MiB long.
                marks.push(place.offset as u32);
            }
            refused = match entry.check() {
                Err(error) => Some(error.to_string()),
                Ok(()) if place.number > 0 && entry.name <= &last[..] => Some("an entry out of order".into()),
                Ok(()) => None,
            };
            last.clear();
            last.extend_from_slice(entry.name);
            refused.is_none()
        })?;
        if let Some(why) = refused {
            return Err(damaged(&why).into());
        }
        folder.entries = end.number;
        folder.marks = marks.into();
        Ok(folder)
    }

    /// About how many bytes of memory it takes.
    pub(super) fn weight(&self) -> u64 {
        let held = match self.bytes.content() {
            Content::Bytes(bytes) => bytes.len() as u64,
            // A descriptor, and what the kernel and the source keep with it.
            Content::Fd(_) => 16 << 10,
            Content::Reader(_) => 1 << 20,
        };
        held + 4 * self.marks.len() as u64 + 256
    }

    /// Where the first entry stands.
    pub(super) fn begin(&self) -> Place {
        Place { number: 0, offset: MAGIC.len() as u64 }
    }

    /// Where the entry stands that `number` others come before; the end, if there are no more.
    pub(super) fn place(&self, number: usize) -> Result<Place, ViewError> {
        let mark = (number / SPAN).min(self.marks.len().saturating_sub(1));
        let Some(offset) = self.marks.get(mark) else { return Ok(self.begin()) };
        let near = Place { number: mark * SPAN, offset: u64::from(*offset) };
        self.each(near, |place, _| place.number < number)
    }

    /// The entry of that name, as `found` makes it of what stands there.
    pub(super) fn find<T>(&self, name: &[u8], found: impl FnOnce(Stands<'_>) -> T) -> Result<Option<T>, ViewError> {
        // Where the last mark at or before the name is.
        let (mut low, mut high) = (0, self.marks.len());
        while low < high {
            let middle = low.midpoint(high);
            let begins = self.bytes.read(u64::from(self.marks[middle]), Entry::MAX)?;
            if self.entry(&begins)?.0.name <= name { low = middle + 1 } else { high = middle }
        }
        let Some(mark) = low.checked_sub(1) else { return Ok(None) };
        let near = Place { number: mark * SPAN, offset: u64::from(self.marks[mark]) };
        let (mut found, mut result) = (Some(found), None);
        self.each(near, |_, entry| {
            if entry.name == name {
                result = found.take().map(|found| found(entry.stands));
            }
            entry.name < name
        })?;
        Ok(result)
    }

    /// Gives `each` entry from a place on, until it returns `false`; the place of the entry that it did so for, or the end.
    pub(super) fn each(&self, from: Place, mut each: impl FnMut(Place, Entry<'_>) -> bool) -> Result<Place, ViewError> {
        let mut place = from;
        // Near ones first: most who ask want one of a span.
        let mut window = 2 * Entry::MAX;
        while place.offset < self.size {
            let bytes = self.bytes.read(place.offset, window)?;
            let whole = place.offset + bytes.len() as u64 >= self.size;
            let mut at = 0;
            // Less than an entry may take is left to the next window.
            while at < bytes.len() && (whole || bytes.len() - at >= Entry::MAX) {
                let (entry, len) = self.entry(&bytes[at..])?;
                if !each(place, entry) {
                    return Ok(place);
                }
                at += len;
                place = Place { number: place.number + 1, offset: place.offset + len as u64 };
            }
            window = (window * 4).min(WINDOW);
        }
        Ok(place)
    }

    fn entry<'a>(&self, bytes: &'a [u8]) -> Result<(Entry<'a>, usize), ViewError> {
        let damaged = |why| SourceError::Damaged { what: format!("a directory of {} bytes: {why}", self.size) };
        Entry::first(bytes).map_err(|why| damaged(why).into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use provender_core::{Node, Tree};

    use super::*;
    use crate::memory::MemorySource;

    /// What a tree says of each name, and the folder read from its encoding.
    fn both(entries: &BTreeMap<Vec<u8>, Vec<u8>>) -> (Tree, Folder) {
        let (source, mut tree) = (MemorySource::new(), Tree::new());
        for (name, target) in entries {
            let node = match target.len() % 3 {
                0 => Node::File { digest: Digest::of(target), executable: target.len() > 3 },
                1 => Node::Symlink { target: target.clone().into() },
                _ => Node::Directory { digest: Digest::of(target) },
            };
            tree.insert(name.clone(), node).expect("valid");
        }
        let digest = source.put_tree(&tree).expect("small");
        (tree, Folder::open(&source, digest).expect("canonical"))
    }

    fn owned(stands: Stands<'_>) -> Node {
        match stands {
            Stands::File { digest, executable } => Node::File { digest, executable },
            Stands::Directory { digest } => Node::Directory { digest },
            Stands::Symlink { target } => Node::Symlink { target: target.to_vec().into() },
        }
    }

    fn same(tree: &Tree, folder: &Folder) {
        let mut listed = Vec::new();
        let end = folder.each(folder.begin(), |place, entry| {
            assert_eq!(place.number, listed.len());
            listed.push((entry.name.to_vec(), owned(entry.stands)));
            true
        });
        assert_eq!(end.expect("readable").number, tree.len());
        let expected: Vec<_> = tree.iter().map(|(name, node)| (name.to_vec(), node.clone())).collect();
        assert_eq!(listed, expected);
        for (number, (name, node)) in tree.iter().enumerate() {
            assert_eq!(folder.find(name, owned).expect("readable").as_ref(), Some(node));
            for absent in [&name[..name.len() - 1], &[name, &b"\0"[..]].concat(), &[name, &b"~"[..]].concat()] {
                assert_eq!(folder.find(absent, owned).expect("readable"), tree.get(absent).cloned());
            }
            let place = folder.place(number).expect("readable");
            let mut here = None;
            folder
                .each(place, |_, entry| {
                    here = Some(entry.name.to_vec());
                    false
                })
                .expect("readable");
            assert_eq!((place.number, here.as_deref()), (number, Some(&name[..])));
        }
        assert_eq!(folder.place(tree.len() + 7).expect("readable").number, tree.len());
        assert_eq!(folder.find(b"", owned).expect("readable"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn is_what_the_tree_is(entries in prop::collection::btree_map(
            prop::collection::vec(1u8..=255, 1..6).prop_filter("valid", |name| provender_core::tree::check_name(name).is_ok()),
            prop::collection::vec(1u8..=255, 1..200),
            0..300,
        )) {
            let (tree, folder) = both(&entries);
            same(&tree, &folder);
        }
    }

    /// Windows end within names and targets of the greatest length.
    #[test]
    fn the_longest_entries_are_read_whole() {
        let name = |number: usize| format!("{number:0255}").into_bytes();
        let entries = (0..300).map(|number| (name(number), vec![b'x'; 4093 + number % 3])).collect();
        let (tree, folder) = both(&entries);
        same(&tree, &folder);
    }

    #[test]
    fn what_no_tree_is_is_refused() {
        let source = MemorySource::new();
        let refused = |bytes: Vec<u8>| {
            let digest = source.put(bytes);
            assert!(matches!(Folder::open(&source, digest), Err(ViewError::Source(SourceError::Damaged { .. }))));
        };
        let (tree, _) = both(&[(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"2".to_vec())].into());
        let good = tree.encode().expect("small").to_vec();
        for cut in 0..good.len() {
            // An encoding that ends between two entries is one.
            if ![MAGIC.len(), MAGIC.len() + (good.len() - MAGIC.len()) / 2].contains(&cut) {
                refused(good[..cut].to_vec());
            }
        }
        let (first, second) = good[MAGIC.len()..].split_at((good.len() - MAGIC.len()) / 2);
        refused([MAGIC, second, first].concat());
        refused([MAGIC, first, first].concat());
        refused([MAGIC, b"q\x01a"].concat());
    }
}
