//! Aside: what stands at the declared outputs is out of the way while the command runs, so that a leftover is never taken
//! for an output.
//!
//! Invariant: nothing of the user's is lost to a command that did not succeed. After a `kill -9` the folder stays where it is,
//! under a name that says what it is ([`super::ASIDE_PREFIX`]); nobody touches it again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use bytes::Bytes;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::beneath::{self, Blocked};
use super::outputs::{OutputPath, Outputs};
use super::restore::RestoreError;
use super::staging::Staging;

/// What was moved aside. Dropped without a word, it is put back.
#[must_use = "dropping it puts everything back"]
#[derive(Default)]
pub struct Aside {
    /// By the parts of the folder beside whose entries they stand.
    stagings: HashMap<Vec<Bytes>, Staging>,
    moved: Vec<OutputPath>,
}

/// Moves what stands at each of `outputs` below `base` into a hidden folder beside it, and makes the folders on the way.
pub fn move_aside(base: &Path, outputs: &Outputs) -> Result<Aside, RestoreError> {
    let folder = beneath::open_folder(base).map_err(|source| RestoreError::io(base, source))?;
    // Filled step by step: a failure drops it, which puts back what was moved.
    let mut aside = Aside::default();
    for output in outputs.iter() {
        let (parts, name) = output.split();
        let parent = match beneath::make_folders(&folder, parts) {
            Ok(parent) => parent,
            Err(Blocked::NotFolder { .. }) => continue,
            Err(blocked) => return Err(RestoreError::blocked(base, blocked)),
        };
        if matches!(rustix::fs::statat(&parent, &name[..], AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT)) {
            continue;
        }
        let failed = |source| RestoreError::io(&base.join(beneath::joined(output.parts())), source);
        let staging = match aside.stagings.entry(parts.to_vec()) {
            Entry::Occupied(made) => made.into_mut(),
            Entry::Vacant(place) => place.insert(Staging::new(parent, super::ASIDE_PREFIX).map_err(failed)?),
        };
        if staging.take(name, &staged(aside.moved.len())).map_err(failed)? {
            aside.moved.push(output.clone());
        }
    }
    Ok(aside)
}

fn staged(index: usize) -> String {
    format!("old-{index}")
}

impl Aside {
    /// Removes what was moved aside: the command has succeeded.
    pub fn discard(mut self) {
        self.moved.clear();
    }

    /// After a failure: puts everything back, and removes what the command made in its place. What it made where nothing
    /// stood before is left to be looked at.
    pub fn put_back(self) {
        drop(self);
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        for (index, output) in self.moved.drain(..).enumerate() {
            let (parts, name) = output.split();
            let Some(staging) = self.stagings.get_mut(parts) else { continue };
            // What the command made is left in the staging folder, and goes with it.
            if let Err(error) = staging.put(&staged(index), name) {
                tracing::warn!(%output, %error, "what stood at an output could not be put back: it is kept aside");
                staging.keep();
            }
        }
    }
}

#[cfg(test)]
mod tests;
