//! The store's folder, opened and proven to be the store's.
//!
//! Owns [`Root`]. Invariant: all that is done relative to a [`Root`] is done on the file system that holds the marker
//! that was read, whatever is mounted or unmounted over its path meanwhile.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, fsync, openat};
use rustix::io::Errno;

use super::marker::Marker;
use super::{PLAIN, marker};
use crate::{BlobError, StoreId};

pub(super) const STAGING: &str = "staging";
pub(super) const OBJECTS: &str = "objects";

/// The open folder.
#[derive(Debug)]
pub(super) struct Root(OwnedFd);

impl Root {
    /// Opens `dir`, which must hold the store `id`.
    pub(super) fn open(dir: &Path, id: StoreId) -> Result<Root, BlobError> {
        let unavailable = |why: String| BlobError::Unavailable { store: dir.display().to_string(), why };
        let root = Root::unproven(dir).map_err(|error| unavailable(format!("cannot open its folder: {error}")))?;
        match marker::read(dir, &root)? {
            Some(found) if found.id != id => {
                Err(unavailable(format!("its folder holds the store {} instead of {id}", found.id)))
            }
            Some(Marker { from: None, .. }) => Ok(root),
            Some(_) => Err(unavailable("it is being migrated to another layout; try again".into())),
            None => Err(unavailable(format!("its folder has no file {:?}; is it mounted?", marker::NAME))),
        }
    }

    /// Opens `dir`, whatever it holds.
    pub(super) fn unproven(dir: &Path) -> io::Result<Root> {
        Ok(Root(openat(CWD, dir, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Opens a file below, without following a link at the end of its path.
    pub(super) fn file(&self, path: &str, flags: OFlags, mode: Mode) -> Result<File, Errno> {
        openat(&self.0, path, flags | PLAIN, mode).map(File::from)
    }

    /// Makes the names in the folder at `path` durable.
    pub(super) fn sync(&self, path: &str) -> Result<(), Errno> {
        fsync(self.file(path, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
