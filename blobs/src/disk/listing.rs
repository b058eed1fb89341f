//! Listing, folder by folder.
//!
//! Invariant: names in order, at most one shard's in memory. What is no blob's file is skipped and reported, never an
//! error: anybody may have put it there.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use provender_core::digest::unhex;
use tracing::warn;

use super::Store;
use super::root::OBJECTS;
use crate::{BlobError, Location, Page};

/// The blobs after `after`, whole shards of them until there are more than `limit`.
pub(super) fn list(store: &Store, after: Option<&Location>, limit: usize) -> Result<Page, BlobError> {
    store.root()?;
    page(&store.dir.join(OBJECTS), after, limit).map_err(|error| store.failed("list", error))
}

fn page(objects: &Path, after: Option<&Location>, limit: usize) -> io::Result<Page> {
    let first = after.map_or(0, |after| after.digest.hash[0]);
    let mut locations = Vec::new();
    for (byte, shard) in shards(objects)?.into_iter().filter(|(byte, _)| *byte >= first) {
        locations.extend(blobs(&shard, byte)?.into_iter().filter(|location| Some(location) > after));
        if locations.len() > limit {
            break;
        }
    }
    let more = locations.len() > limit;
    locations.truncate(limit);
    let next = locations.last().copied().filter(|_| more);
    Ok(Page { locations, next })
}

/// The folders named by a byte, in order.
pub(super) fn shards(dir: &Path) -> io::Result<Vec<(u8, PathBuf)>> {
    let mut shards = Vec::new();
    for (name, kind) in entries(dir)? {
        let byte = name.to_str().and_then(|name| unhex(name).filter(|[byte]| format!("{byte:02x}") == name));
        match byte {
            Some([byte]) if kind.is_dir() => shards.push((byte, dir.join(&name))),
            _ => foreign(dir, &name),
        }
    }
    shards.sort();
    Ok(shards)
}

/// The blobs in one shard, in order.
fn blobs(dir: &Path, here: u8) -> io::Result<Vec<Location>> {
    let mut locations = Vec::new();
    for (name, kind) in entries(dir)? {
        let location = name
            .to_str()
            .and_then(|name| name.parse().ok())
            .filter(|location: &Location| location.digest.hash[0] == here);
        match location {
            Some(location) if kind.is_file() => locations.push(location),
            _ => foreign(dir, &name),
        }
    }
    locations.sort();
    Ok(locations)
}

pub(super) fn entries(dir: &Path) -> io::Result<Vec<(OsString, fs::FileType)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type() {
            Ok(kind) => entries.push((entry.file_name(), kind)),
            // Removed since it was listed, where the file system does not tell the type along with the name.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}

fn foreign(dir: &Path, name: &OsString) {
    warn!(folder = %dir.display(), ?name, "skipped what is no blob");
}
