//! Restore: a node of the store becomes a file or folder at a destination, whole or not at all.
//!
//! Invariants: everything is built in a private folder beside the destination and renamed into place; every byte was
//! checked against its digest; no symlink below the named folder is followed; a hostile tree ends in an error before it
//! fills the disk.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use provender_core::digest::Digest;
use provender_core::tree::{MAX_DEPTH, MAX_PATHS, Node, Tree, TreeError};

use super::beneath::{self, Blocked};
use super::capture::Counts;
use super::outputs::{OutputPath, Outputs};
use super::plan::{Fetch, FetchError, Plan};
use super::staging::{Put, Staging};
use super::write::{Folder, Writer};

/// How a restore goes about it.
#[derive(Debug, Clone, Copy)]
pub struct RestoreOptions {
    /// Replace what stands at the destination, rather than refuse.
    pub force: bool,
    /// The most files, folders and symlinks that are written.
    pub max_entries: u64,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        RestoreOptions { force: false, max_entries: MAX_PATHS }
    }
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Something stands at the destination.
    #[error("{} exists", path.display())]
    Exists {
        /// The destination.
        path: PathBuf,
    },
    /// The folder of the destination is not there.
    #[error("the folder {} does not exist", path.display())]
    NoParent {
        /// The folder.
        path: PathBuf,
    },
    /// The destination is `.`, `..` or `/`.
    #[error("{} cannot be replaced: name a file or folder to be made", path.display())]
    NoName {
        /// The destination.
        path: PathBuf,
    },
    /// The system refused something.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The system refused bytes on their way into a file.
    #[error("cannot write: {source}")]
    Write {
        /// What it said.
        source: io::Error,
    },
    /// A symlink, or something else that is no folder, stands on the way to an output.
    #[error("{} is {what}: an output path must not lead through one", path.display())]
    InTheWay {
        /// What stands there.
        path: PathBuf,
        /// Its kind.
        what: &'static str,
    },
    /// The store could not give a blob.
    #[error("cannot fetch: {source}")]
    Fetch {
        /// Why.
        source: FetchError,
    },
    /// The store did not give a blob that it was asked for.
    #[error("the store did not deliver the blob {digest}")]
    Missing {
        /// Which.
        digest: Digest,
    },
    /// The store gave other bytes than those asked for.
    #[error("the blob {digest} arrived with other contents")]
    Corrupt {
        /// Which.
        digest: Digest,
    },
    /// A folder's bytes are no folder.
    #[error("the folder {digest} cannot be read: {source}")]
    Tree {
        /// Which.
        digest: Digest,
        /// Why.
        source: TreeError,
    },
    /// There are too many paths.
    #[error("more than {max_entries} files and folders would be written")]
    TooMany {
        /// [`RestoreOptions::max_entries`].
        max_entries: u64,
    },
    /// Folders are nested beyond [`MAX_DEPTH`].
    #[error("its folders are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// The file system is too full.
    #[error("{needed} bytes would be written to {}, where {free} are free", path.display())]
    NoSpace {
        /// The folder written to.
        path: PathBuf,
        /// Bytes in all files together.
        needed: u64,
        /// Bytes that this user may still use.
        free: u64,
    },
    /// The stored outputs are not the declared ones.
    #[error("the stored outputs are not the declared ones: {what}")]
    OtherOutputs {
        /// How they differ.
        what: String,
    },
}

impl RestoreError {
    pub(super) fn io(path: &Path, source: io::Error) -> RestoreError {
        RestoreError::Io { path: path.into(), source }
    }

    pub(super) fn blocked(base: &Path, blocked: Blocked) -> RestoreError {
        match blocked {
            Blocked::Missing { path } => RestoreError::io(&base.join(path), io::ErrorKind::NotFound.into()),
            Blocked::Symlink { path } => RestoreError::InTheWay { path: base.join(path), what: "a symbolic link" },
            Blocked::NotFolder { path } => RestoreError::InTheWay { path: base.join(path), what: "no folder" },
            Blocked::Io { path, source } => RestoreError::io(&base.join(path), source),
        }
    }
}

/// Restores `node` as `dest`, whose parent folder exists; symlinks on the way there are the user's own.
///
/// Files get mode 0644 or 0755 and folders 0755, less the umask.
pub fn restore(fetch: &dyn Fetch, node: &Node, dest: &Path, options: RestoreOptions) -> Result<Counts, RestoreError> {
    let name = dest.file_name().ok_or_else(|| RestoreError::NoName { path: dest.into() })?.as_bytes();
    let exists = || RestoreError::Exists { path: dest.into() };
    if !options.force && dest.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let parent = match dest.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder = beneath::open_folder(parent).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => RestoreError::NoParent { path: parent.into() },
        _ => RestoreError::io(parent, source),
    })?;
    let plan = Plan::new(fetch, node, parent, options.max_entries)?;
    check_space(&plan, parent, &folder)?;
    let staging = Staging::new(folder, super::RESTORE_PREFIX).map_err(|source| RestoreError::io(parent, source))?;
    let mut writer = Writer::new(fetch, &plan);
    writer.write(&Folder::top(staging.folder().clone()), &Bytes::from_static(b"new"), node)?;
    writer.finish()?;
    let put = if options.force { staging.put("new", name).map(|_| ()) } else { staging.put_new("new", name) };
    match put {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(exists()),
        put => put.map(|()| plan.counts).map_err(|source| RestoreError::io(dest, source)),
    }
}

/// Restores declared outputs below `base`: `root` is a tree that holds exactly those, as `capture_set` makes it.
///
/// Folders on the way are made as needed, what stands at an output is replaced. Nothing is replaced before everything is
/// there, and what was replaced comes back if a later one fails.
pub fn restore_set(
    fetch: &dyn Fetch,
    root: &Digest,
    base: &Path,
    outputs: &Outputs,
    options: RestoreOptions,
) -> Result<Counts, RestoreError> {
    let folder = beneath::open_folder(base).map_err(|source| RestoreError::io(base, source))?;
    let plan = Plan::new(fetch, &Node::Directory { digest: *root }, base, options.max_entries)?;
    let nodes = declared_nodes(&plan, root, outputs)?;
    check_space(&plan, base, &folder)?;
    let mut writer = Writer::new(fetch, &plan);
    let mut stagings = HashMap::<&[Bytes], Staging>::new();
    for (index, (output, node)) in nodes.iter().enumerate() {
        let (parts, _) = output.split();
        let staging = match stagings.get(parts) {
            Some(staging) => staging,
            None => {
                let parent =
                    beneath::make_folders(&folder, parts).map_err(|blocked| RestoreError::blocked(base, blocked))?;
                let made = Staging::new(parent, super::RESTORE_PREFIX);
                let made = made.map_err(|source| RestoreError::io(&base.join(beneath::joined(parts)), source))?;
                stagings.entry(parts).or_insert(made)
            }
        };
        writer.write(&Folder::top(staging.folder().clone()), &Bytes::from(staged(index)), node)?;
    }
    writer.finish()?;
    let mut done: Vec<(&Staging, Put, usize, &Bytes)> = Vec::new();
    for (index, (output, _)) in nodes.iter().enumerate() {
        let (parts, name) = output.split();
        let Some(staging) = stagings.get(parts) else { continue };
        match staging.put(&staged(index), name) {
            Ok(put) => done.push((staging, put, index, name)),
            Err(source) => {
                for (staging, put, index, name) in done.iter().rev() {
                    if let Err(error) = staging.undo(put, &staged(*index), name) {
                        tracing::warn!(name = %String::from_utf8_lossy(name), %error, "an output was not put back");
                    }
                }
                return Err(RestoreError::io(&base.join(beneath::joined(output.parts())), source));
            }
        }
    }
    Ok(plan.counts)
}

fn staged(index: usize) -> String {
    format!("new-{index}")
}

/// What is stored for each declared path; anything missing or beyond them is an error.
fn declared_nodes<'a>(
    plan: &Plan,
    root: &Digest,
    outputs: &'a Outputs,
) -> Result<Vec<(&'a OutputPath, Node)>, RestoreError> {
    let declared: Vec<_> = outputs.iter().collect();
    let mut nodes = Vec::with_capacity(declared.len());
    gather(plan, &plan.tree(root)?, &declared, 0, &mut nodes)?;
    Ok(nodes)
}

/// Matches `declared`, which all share their first `depth` parts, against the folder that those lead to.
fn gather<'a>(
    plan: &Plan,
    tree: &Tree,
    declared: &[&'a OutputPath],
    depth: usize,
    nodes: &mut Vec<(&'a OutputPath, Node)>,
) -> Result<(), RestoreError> {
    let other = |what: String| RestoreError::OtherOutputs { what };
    let mut expected = 0;
    for group in declared.chunk_by(|a, b| a.parts()[depth] == b.parts()[depth]) {
        expected += 1;
        let first = group[0];
        match tree.get(&first.parts()[depth]) {
            Some(node) if first.parts().len() == depth + 1 => nodes.push((first, node.clone())),
            Some(Node::Directory { digest }) => gather(plan, &plan.tree(digest)?, group, depth + 1, nodes)?,
            _ => return Err(other(format!("{first} is not among them"))),
        }
    }
    if tree.len() != expected {
        return Err(other("there are more of them".into()));
    }
    Ok(())
}

fn check_space(plan: &Plan, path: &Path, folder: impl AsFd) -> Result<(), RestoreError> {
    let stat = rustix::fs::fstatvfs(folder).map_err(|errno| RestoreError::io(path, errno.into()))?;
    let (needed, free) = (plan.counts.bytes, stat.f_bavail.saturating_mul(stat.f_frsize));
    // Some network and virtual file systems do not know: they say zero blocks.
    if stat.f_blocks > 0 && needed > free {
        return Err(RestoreError::NoSpace { path: path.into(), needed, free });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
