//! Bringing a store of an older layout to this one, in place.
//!
//! Layout 1 had two levels of folders, so that nearly each new blob made a folder, and had three of them synced. Invariants: before
//! anything moves, the marker says so, and older versions refuse the store instead of missing blobs; a crash anywhere is gone on from
//! by whoever opens the store next, one at a time; blobs keep their locations. A move changes the file's signature, so that each blob is read once
//! before its parts are served again.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, FlockOperation, Mode, flock, mkdirat, statat, unlinkat};
use rustix::io::Errno;
use tracing::info;

use super::marker::{self, LAYOUT, Marker};
use super::root::{OBJECTS, Root};
use super::{listing, object, shard, staging};
use crate::{BlobError, Location, StoreId};

/// How often an old folder is looked through: nobody publishes into one for ever.
const LOOKS: u32 = 5;

/// Migrates the store in `dir`, if it is this one and of an older layout.
pub(super) fn migrate(dir: &Path, id: StoreId) -> Result<(), BlobError> {
    let Ok(root) = Root::unproven(dir) else { return Ok(()) };
    match marker::read(dir, &root)? {
        Some(marker) if marker.id == id => finish(dir, &root, marker),
        // Another one is not ours to change.
        _ => Ok(()),
    }
}

/// Goes on with a migration, or begins it.
pub(super) fn finish(dir: &Path, root: &Root, marker: Marker) -> Result<(), BlobError> {
    if marker.from.is_none() {
        return Ok(());
    }
    let failed = |error: io::Error| BlobError::io(dir.display(), "migrate", error);
    // One at a time; for another one it may be over by then.
    flock(root, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    let Some(marker @ Marker { from: Some(from), .. }) = marker::read(dir, root)? else { return Ok(()) };
    info!(store = %dir.display(), from, to = LAYOUT, "migrating the blob store");
    marker.replace(root).map_err(failed)?;
    let moved = flatten(dir, root).map_err(failed)?;
    Marker { from: None, ..marker }.replace(root).map_err(failed)?;
    info!(store = %dir.display(), blobs = moved, "the blob store is migrated");
    Ok(())
}

/// Makes all folders of blobs, durably.
pub(super) fn make_shards(root: &Root) -> io::Result<()> {
    for byte in 0..=u8::MAX {
        match mkdirat(root, shard(byte), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(root.sync(OBJECTS)?)
}

/// Moves blobs up from the second level; others may be doing the same. How many were moved.
fn flatten(dir: &Path, root: &Root) -> io::Result<u64> {
    make_shards(root)?;
    let mut moved = 0;
    for (byte, outer) in listing::shards(&dir.join(OBJECTS))? {
        let shard = shard(byte);
        let mut inner = Vec::new();
        for (name, kind) in listing::entries(&outer)? {
            inner.extend(name.to_str().filter(|_| kind.is_dir()).map(str::to_owned));
        }
        for looks in 1.. {
            for inner in &inner {
                moved += lift(root, byte, inner, &outer)?;
            }
            // The new names first: no name is to be lost with the folder that it was in.
            root.sync(&shard)?;
            let mut left = Vec::new();
            for inner in std::mem::take(&mut inner) {
                match unlinkat(root, format!("{shard}/{inner}"), AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => left.push((inner, error)),
                }
            }
            // A daemon of the older layout that still runs may have published in between: that is moved as well.
            let came = |(inner, error): &(String, Errno)| {
                *error == Errno::NOTEMPTY && blobs_in(byte, &outer.join(inner)).is_ok_and(|blobs| !blobs.is_empty())
            };
            let (again, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|left| looks < LOOKS && came(left));
            // What is no blob stays where somebody put it.
            for (inner, error) in others {
                tracing::warn!(folder = %outer.join(inner).display(), %error, "left a folder");
            }
            inner = again.into_iter().map(|(inner, _)| inner).collect();
            if inner.is_empty() {
                break;
            }
        }
    }
    Ok(moved)
}

/// Moves the blobs of one folder of the second level; how many.
fn lift(root: &Root, byte: u8, inner: &str, outer: &Path) -> io::Result<u64> {
    let (shard, mut moved) = (shard(byte), 0);
    for location in blobs_in(byte, &outer.join(inner))? {
        let (from, to) = (format!("{shard}/{inner}/{location}"), object(&location));
        match staging::rename_new(root, &from, &to) {
            Ok(()) => moved += 1,
            Err(Errno::NOENT) => {}
            // Where renaming is linking and unlinking, a crash left both names.
            Err(Errno::EXIST) if inode(root, &from)? == inode(root, &to)? => {
                unlinkat(root, &from, AtFlags::empty())?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(moved)
}

/// The blobs in a folder, as far as they belong below this byte; none if another migration has removed it.
fn blobs_in(byte: u8, dir: &Path) -> io::Result<Vec<Location>> {
    let entries = match listing::entries(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let locations = entries.into_iter().filter_map(|(name, _)| name.to_str()?.parse::<Location>().ok());
    Ok(locations.filter(|location| location.digest.hash[0] == byte).collect())
}

fn inode(root: &Root, path: &str) -> Result<u64, Errno> {
    statat(root, path, AtFlags::SYMLINK_NOFOLLOW).map(|stat| stat.st_ino)
}

/// Whether the folder of blobs holds anything that making a store does not leave there.
pub(super) fn is_in_use(objects: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(objects)? {
        // Empty folders of blobs are left by a maker that was killed.
        match fs::read_dir(entry?.path()) {
            Ok(mut names) => {
                if names.next().is_some() {
                    return Ok(true);
                }
            }
            Err(_) => return Ok(true),
        }
    }
    Ok(false)
}
