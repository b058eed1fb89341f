//! Listing, folder by folder.
//!
//! Invariant: names in order, at most one shard's in memory. What is no blob's file is skipped and reported, never an
//! error: anybody may have put it there.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use provender_core::digest::unhex;
use tracing::warn;

use super::root::OBJECTS;
use super::{Store, shard};
use crate::{BlobError, Location, Page};

/// The blobs after `after`, whole shards of them until there are more than `limit`.
pub(super) fn list(store: &Store, after: Option<&Location>, limit: usize) -> Result<Page, BlobError> {
    store.root()?;
    page(&store.dir.join(OBJECTS), after, limit).map_err(|error| store.failed("list", error))
}

fn page(objects: &Path, after: Option<&Location>, limit: usize) -> io::Result<Page> {
    let first = after.map_or([0, 0], shard);
    let mut locations = Vec::new();
    'pages: for (a, outer) in shards(objects, first[0])? {
        for (b, inner) in shards(&outer, if a == first[0] { first[1] } else { 0 })? {
            locations.extend(blobs(&inner, [a, b])?.into_iter().filter(|location| Some(location) > after));
            if locations.len() > limit {
                break 'pages;
            }
        }
    }
    let more = locations.len() > limit;
    locations.truncate(limit);
    let next = locations.last().copied().filter(|_| more);
    Ok(Page { locations, next })
}

/// The sub-folders named by a byte, from `first` on, in order.
fn shards(dir: &Path, first: u8) -> io::Result<Vec<(u8, std::path::PathBuf)>> {
    let mut shards = Vec::new();
    for (name, kind) in entries(dir)? {
        let byte = name.to_str().and_then(|name| unhex(name).filter(|[byte]| format!("{byte:02x}") == name));
        match byte {
            Some([byte]) if kind.is_dir() => shards.extend((byte >= first).then(|| (byte, dir.join(&name)))),
            _ => foreign(dir, &name),
        }
    }
    shards.sort();
    Ok(shards)
}

/// The blobs in one shard, in order.
fn blobs(dir: &Path, here: [u8; 2]) -> io::Result<Vec<Location>> {
    let mut locations = Vec::new();
    for (name, kind) in entries(dir)? {
        let location = name.to_str().and_then(|name| name.parse().ok()).filter(|location| shard(location) == here);
        match location {
            Some(location) if kind.is_file() => locations.push(location),
            _ => foreign(dir, &name),
        }
    }
    locations.sort();
    Ok(locations)
}

fn entries(dir: &Path) -> io::Result<Vec<(OsString, fs::FileType)>> {
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
