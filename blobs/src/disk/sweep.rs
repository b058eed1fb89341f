//! Clearing away what dead writers left in staging.
//!
//! Invariant: a file whose writer lives is locked, and stays.

use std::fs;
use std::io;
use std::time::SystemTime;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, unlinkat};
use rustix::io::Errno;
use tracing::warn;

use super::Store;
use super::root::{Root, STAGING};
use crate::BlobError;

/// Removes the staging files that nobody holds and that were last written to before `before`; counts them.
pub(super) fn sweep(store: &Store, before: SystemTime) -> Result<u64, BlobError> {
    let failed = |error| store.failed("sweep staging", error);
    let root = store.root()?;
    let mut swept = 0;
    for entry in fs::read_dir(store.dir.join(STAGING)).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        match name.to_str() {
            Some(name) if remove_dead(&root, &format!("{STAGING}/{name}"), before).map_err(failed)? => swept += 1,
            Some(_) => {}
            None => warn!(?name, "skipped what is no staging file"),
        }
    }
    Ok(swept)
}

fn remove_dead(root: &Root, path: &str, before: SystemTime) -> io::Result<bool> {
    // Writable, as NFS takes an exclusive lock on nothing else.
    let file = match root.file(path, OFlags::RDWR, Mode::empty()) {
        // Sealed by who was killed before it was published.
        Err(Errno::ACCESS) => root.file(path, OFlags::RDONLY, Mode::empty()),
        opened => opened,
    };
    let file = match file {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => {
            warn!(path, %error, "skipped what is no staging file");
            return Ok(false);
        }
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.modified()? >= before {
        return Ok(false);
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(false),
        locked => locked?,
    }
    match unlinkat(root, path, AtFlags::empty()) {
        // Published between being listed and being locked.
        Err(Errno::NOENT) => Ok(false),
        unlinked => Ok(unlinked.map(|()| true)?),
    }
}
