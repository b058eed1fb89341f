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
        if let Node::Symlink { target } = &node
            && (target.is_empty() || target.len() > MAX_TARGET || target.contains(&0))
        {
            return Err(TreeError::Target { name });
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
        let mut reader = Reader { bytes, at: 0 };
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(TreeError::NotCanonical { at: 0, why: "no tree begins like this" });
        }
        let mut tree = Tree::new();
        while reader.at < bytes.len() {
            let start = reader.at;
            let kind = reader.take(1)?[0];
            let len = usize::from(reader.take(1)?[0]);
            let name = reader.take(len)?;
            let node = match kind {
                b'f' | b'x' => Node::File { digest: reader.digest()?, executable: kind == b'x' },
                b'd' => Node::Directory { digest: reader.digest()? },
                b'l' => {
                    let len = reader.take(2)?;
                    let len = usize::from(u16::from_be_bytes([len[0], len[1]]));
                    Node::Symlink { target: reader.take(len)? }
                }
                _ => return Err(TreeError::NotCanonical { at: start, why: "an unknown kind of entry" }),
            };
            if tree.entries.last_key_value().is_some_and(|(last, _)| *last > name) {
                return Err(TreeError::NotCanonical { at: start, why: "an entry out of order" });
            }
            tree.insert(name, node)?;
        }
        Ok(tree)
    }
}

struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, len: usize) -> Result<Bytes, TreeError> {
        let end = self.at + len;
        if end > self.bytes.len() {
            return Err(TreeError::NotCanonical { at: self.at, why: "an early end" });
        }
        let part = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(part)
    }

    fn digest(&mut self) -> Result<Digest, TreeError> {
        let at = self.at;
        let bytes = self.take(40)?;
        Digest::from_bytes(&bytes).ok_or(TreeError::NotCanonical { at, why: "no digest" })
    }
}

#[cfg(test)]
mod tests;
