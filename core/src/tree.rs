//! Trees: canonical directories.
//!
//! Owns [`Tree`], one directory's sorted entries, and its encoding, which is a blob like any other; a directory inside
//! refers to its own tree's digest (a Merkle DAG). Invariant: equal directories have equal bytes, and only canonical
//! bytes decode. FIFOs, sockets and devices cannot be expressed. What a tree says is not trusted to be small: a few shared
//! trees can stand for 2^40 paths, so whoever walks one bounds the walk.
//!
//! The encoding, after the magic line `provender tree 1\n`, is for each entry, sorted by name as bytes: a kind byte (`f` file,
//! `x` executable file, `l` symlink, `d` directory), the name's length as one byte (1 to 255) and the name; then for a
//! symlink its target's length as big-endian `u16` and the target, for the others the 40 bytes of the digest.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use crate::digest::Digest;

/// What every encoding begins with; by itself, the directory with nothing in it.
pub const MAGIC: &[u8] = b"provender tree 1\n";

/// The longest name of an entry, in bytes: what Linux file systems carry.
pub const MAX_NAME: usize = 255;
/// The longest target of a symlink, in bytes.
pub const MAX_TARGET: usize = 4095;
/// The longest encoding of one directory, in bytes: about a million entries.
pub const MAX_ENCODED: u64 = 64 << 20;
/// The deepest nesting that is stored or restored.
pub const MAX_DEPTH: usize = 256;
/// How many paths a tree that is stored as an output may stand for, itself included.
pub const MAX_PATHS: u64 = 10_000_000;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Node {
    /// A regular file.
    File {
        /// Its bytes.
        digest: Digest,
        /// Whether its owner may run it.
        executable: bool,
    },
    /// A symbolic link, kept as written and never followed.
    Symlink {
        /// 1 to [`MAX_TARGET`] bytes without NUL.
        target: Bytes,
    },
    /// A directory.
    Directory {
        /// The digest of its encoded [`Tree`].
        digest: Digest,
    },
}

impl Node {
    /// The blob that the node refers to; a symlink has none.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Node::File { digest, .. } | Node::Directory { digest } => Some(*digest),
            Node::Symlink { .. } => None,
        }
    }
}

/// A name that an entry may have: 1 to 255 bytes, neither `.` nor `..`, no `/`, no NUL.
pub fn check_name(name: &[u8]) -> Result<(), TreeError> {
    let why = match name {
        b"" => "is empty",
        b"." | b".." => "is reserved",
        _ if name.len() > MAX_NAME => "is longer than 255 bytes",
        _ if name.contains(&b'/') => "has a slash",
        _ if name.contains(&0) => "has a NUL byte",
        _ => return Ok(()),
    };
    Err(TreeError::Name { name: Bytes::copy_from_slice(name), why })
}

/// One directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    entries: BTreeMap<Bytes, Node>,
}

/// Why a directory is refused.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// An entry's name cannot stand in a directory.
    #[error("the entry name {:?} {why}", String::from_utf8_lossy(name))]
    Name {
        /// The name.
        name: Bytes,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A symlink's target is empty, too long, or has a NUL byte.
    #[error(
        "the symlink {:?} has a target that is empty, longer than {MAX_TARGET} bytes, or holds a NUL byte",
        String::from_utf8_lossy(name)
    )]
    Target {
        /// The link's name.
        name: Bytes,
    },
    /// Two entries have one name.
    #[error("the entry {:?} is there twice", String::from_utf8_lossy(name))]
    Twice {
        /// The name.
        name: Bytes,
    },
    /// The directory takes more than [`MAX_ENCODED`] bytes.
    #[error("the directory is larger than {MAX_ENCODED} bytes when encoded (about a million entries)")]
    TooLarge,
    /// The bytes are not what [`Tree::encode`] makes.
    #[error("the bytes are not a canonical tree: {why} at byte {at}")]
    NotCanonical {
        /// Where reading stopped.
        at: usize,
        /// What was met there.
        why: &'static str,
    },
}

impl fmt::Debug for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Tree {
    /// A directory without entries.
    pub fn new() -> Tree {
        Tree::default()
    }

    /// Adds an entry.
    pub fn insert(&mut self, name: impl Into<Bytes>, node: Node) -> Result<(), TreeError> {
        let name = name.into();
        check_name(&name)?;
        if let Node::Symlink { target } = &node {
            check_target(&name, target)?;
        }
        match self.entries.insert(name.clone(), node) {
            None => Ok(()),
            Some(_) => Err(TreeError::Twice { name }),
        }
    }

    /// The entry of that name.
    pub fn get(&self, name: &[u8]) -> Option<&Node> {
        self.entries.get(name)
    }

    /// The entries, sorted by name as bytes.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Bytes, &Node)> + ExactSizeIterator {
        self.entries.iter()
    }

    /// The entries whose names sort after `name`.
    pub fn after(&self, name: &[u8]) -> impl Iterator<Item = (&Bytes, &Node)> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.entries.range::<[u8], _>((Excluded(name), Unbounded))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The canonical bytes; their digest is the tree's.
    pub fn encode(&self) -> Result<Bytes, TreeError> {
        let mut out = MAGIC.to_vec();
        for (name, node) in &self.entries {
            out.push(match node {
                Node::File { executable: false, .. } => b'f',
                Node::File { executable: true, .. } => b'x',
                Node::Symlink { .. } => b'l',
                Node::Directory { .. } => b'd',
            });
            out.push(name.len() as u8);
            out.extend_from_slice(name);
            match node {
                Node::Symlink { target } => {
                    out.extend_from_slice(&(target.len() as u16).to_be_bytes());
                    out.extend_from_slice(target);
                }
                Node::File { digest, .. } | Node::Directory { digest } => out.extend_from_slice(&digest.to_bytes()),
            }
            if out.len() as u64 > MAX_ENCODED {
                return Err(TreeError::TooLarge);
            }
        }
        Ok(out.into())
    }

    /// Reads canonical bytes; anything that [`Tree::encode`] would not have written is an error.
    pub fn decode(bytes: &Bytes) -> Result<Tree, TreeError> {
        if bytes.len() as u64 > MAX_ENCODED {
            return Err(TreeError::TooLarge);
        }
        let not_canonical = |at, why| TreeError::NotCanonical { at, why };
        if !bytes.starts_with(MAGIC) {
            return Err(not_canonical(0, "no tree begins like this"));
        }
        let mut tree = Tree::new();
        let mut at = MAGIC.len();
        while at < bytes.len() {
            let (entry, len) = Entry::first(&bytes[at..]).map_err(|why| not_canonical(at, why))?;
            let name = bytes.slice_ref(entry.name);
            let node = match entry.stands {
                Stands::File { digest, executable } => Node::File { digest, executable },
                Stands::Directory { digest } => Node::Directory { digest },
                Stands::Symlink { target } => Node::Symlink { target: bytes.slice_ref(target) },
            };
            if tree.entries.last_key_value().is_some_and(|(last, _)| *last > name) {
                return Err(not_canonical(at, "an entry out of order"));
            }
            tree.insert(name, node)?;
            at += len;
        }
        Ok(tree)
    }
}

/// An entry as it stands in an encoding, for who reads a large directory without holding it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its name, not looked at yet (see [`check_name`]).
    pub name: &'a [u8],
    /// What stands there.
    pub stands: Stands<'a>,
}

/// A [`Node`] as it stands in an encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stands<'a> {
    /// A regular file.
    File {
        /// Its bytes.
        digest: Digest,
        /// Whether its owner may run it.
        executable: bool,
    },
    /// A symbolic link.
    Symlink {
        /// Not looked at yet: of any length up to 65,535 bytes.
        target: &'a [u8],
    },
    /// A directory.
    Directory {
        /// The digest of its tree.
        digest: Digest,
    },
}

impl Entry<'_> {
    /// The most bytes that an entry of a canonical tree takes.
    pub const MAX: usize = 2 + MAX_NAME + 2 + MAX_TARGET;

    /// The entry that `bytes` begin with, and how many of them it takes; or what is wrong with them.
    pub fn first(bytes: &[u8]) -> Result<(Entry<'_>, usize), &'static str> {
        fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], &'static str> {
            let (part, rest) = bytes.split_at_checked(len).ok_or(EARLY_END)?;
            *bytes = rest;
            Ok(part)
        }
        fn digest(bytes: &mut &[u8]) -> Result<Digest, &'static str> {
            Digest::from_bytes(take(bytes, 40)?).ok_or("no digest")
        }
        let rest = &mut &*bytes;
        let &[kind, len] = take(rest, 2)? else { return Err(EARLY_END) };
        let name = take(rest, usize::from(len))?;
        let stands = match kind {
            b'f' | b'x' => Stands::File { digest: digest(rest)?, executable: kind == b'x' },
            b'd' => Stands::Directory { digest: digest(rest)? },
            b'l' => {
                let &[high, low] = take(rest, 2)? else { return Err(EARLY_END) };
                Stands::Symlink { target: take(rest, usize::from(u16::from_be_bytes([high, low])))? }
            }
            _ => return Err("an unknown kind of entry"),
        };
        Ok((Entry { name, stands }, bytes.len() - rest.len()))
    }

    /// Whether it could stand in a canonical tree.
    pub fn check(&self) -> Result<(), TreeError> {
        check_name(self.name)?;
        match self.stands {
            Stands::Symlink { target } => check_target(self.name, target),
            Stands::File { .. } | Stands::Directory { .. } => Ok(()),
        }
    }
}

const EARLY_END: &str = "an early end";

fn check_target(name: &[u8], target: &[u8]) -> Result<(), TreeError> {
    match target {
        _ if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) => {
            Err(TreeError::Target { name: Bytes::copy_from_slice(name) })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
