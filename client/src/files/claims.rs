//! Claims: two runs that make the same path, or one in the other, do so one after the other.
//!
//! A claim is an advisory lock on a file of the user's cache that stands for the path: exclusive for an output, shared for every
//! folder above it. Invariants: whoever cannot have all takes none, so nobody waits while holding one; a run inside a
//! claimed run's command never waits for it. Users with other caches, and other programs, are not kept out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use provender_core::digest::Digest;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::beneath;
use super::outputs::Outputs;

/// The variable that tells runs inside the command what is claimed for them: the names of locks, with commas between.
pub const HELD_VARIABLE: &str = "PROVENDER_HELD_OUTPUTS";

/// Each lock is an open file; a run with more outputs claims its whole working folder.
const MAX: usize = 200;

/// What is to be claimed.
#[derive(Debug, Clone)]
pub struct Claims {
    folder: PathBuf,
    /// Absolute paths, and whether they are for us alone.
    wanted: BTreeMap<PathBuf, bool>,
    /// Names of locks that runs around us hold.
    held: BTreeSet<String>,
}

/// Claims that are held until this is dropped.
#[derive(Debug)]
pub struct Claimed {
    _locks: Vec<Lock>,
    names: BTreeSet<String>,
}

#[derive(Debug)]
struct Lock {
    _file: File,
    /// The file to remove at the end, if nobody shares it.
    own: Option<PathBuf>,
}

impl Claims {
    /// Claims for `outputs` below `cwd`, with locks in `folder`, which is made; `held` is the value of [`HELD_VARIABLE`].
    pub fn new(folder: &Path, cwd: &Path, outputs: &Outputs, held: &str) -> io::Result<Claims> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let cwd = cwd.canonicalize()?;
        let mut wanted = wanted(outputs.iter().map(|output| cwd.join(beneath::joined(output.parts()))));
        if wanted.len() > MAX {
            wanted = self::wanted([cwd]);
        }
        let held = held.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Ok(Claims { folder: folder.into(), wanted, held })
    }

    /// Takes all, or says which path is another's now.
    pub fn take(&self) -> io::Result<Result<Claimed, &Path>> {
        let mut claimed = Claimed { _locks: Vec::new(), names: self.held.clone() };
        for (path, own) in &self.wanted {
            let name = Digest::of(path.as_os_str().as_bytes()).hex();
            if self.held.contains(&name) {
                continue;
            }
            match lock(&self.folder.join(&name), *own)? {
                Some(lock) => claimed._locks.push(lock),
                None => return Ok(Err(path)),
            }
            claimed.names.insert(name);
        }
        Ok(Ok(claimed))
    }
}

impl Claimed {
    /// The value of [`HELD_VARIABLE`] for the command.
    pub fn variable(&self) -> String {
        self.names.iter().map(String::as_str).collect::<Vec<_>>().join(",")
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still locked. If this fails an empty file stays, which harms nobody.
        if let Some(path) = &self.own {
            let _ = fs::remove_file(path);
        }
    }
}

fn wanted(outputs: impl IntoIterator<Item = PathBuf>) -> BTreeMap<PathBuf, bool> {
    let mut wanted = BTreeMap::new();
    for output in outputs {
        for above in output.ancestors().skip(1) {
            wanted.entry(above.to_owned()).or_insert(false);
        }
        wanted.insert(output, true);
    }
    wanted
}

fn lock(path: &Path, own: bool) -> io::Result<Option<Lock>> {
    let operation = if own { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
    loop {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match rustix::io::retry_on_intr(|| flock(&file, operation)) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let ours = file.metadata()?;
        match fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                return Ok(Some(Lock { _file: file, own: own.then(|| path.to_owned()) }));
            }
            // Its last holder has removed it: what we hold is no lock on anything.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        locks: tempfile::TempDir,
        work: tempfile::TempDir,
    }

    impl World {
        fn new() -> World {
            World { locks: tempfile::tempdir().unwrap(), work: tempfile::tempdir().unwrap() }
        }

        fn claims(&self, outputs: &[&str], held: &str) -> Claims {
            let outputs = Outputs::parse(outputs).unwrap();
            Claims::new(self.locks.path(), self.work.path(), &outputs, held).unwrap()
        }

        fn take(&self, outputs: &[&str], held: &str) -> Option<Claimed> {
            self.claims(outputs, held).take().unwrap().ok()
        }
    }

    #[test]
    fn one_path_has_one_maker_and_neighbours_dont_mind() {
        let world = World::new();
        let one = world.take(&["a/b", "c"], "").unwrap();
        for others in [&["c"][..], &["a"], &["a/b/d"], &["x", "c"]] {
            assert!(world.take(others, "").is_none(), "{others:?}");
        }
        let neighbours = world.take(&["a/x", "x"], "").unwrap();
        drop(one);
        assert!(world.take(&["a"], "").is_none());
        drop(neighbours);
        assert!(world.take(&["a"], "").is_some());
        let work = world.work.path().canonicalize().unwrap();
        let left = fs::read_dir(world.locks.path()).unwrap().count();
        assert_eq!(left, work.ancestors().count(), "only those stay that are shared, as the folders above");
    }

    #[test]
    fn a_run_inside_does_not_wait_for_the_one_around_it() {
        let world = World::new();
        let outer = world.take(&["a/b"], "").unwrap();
        for inside in ["a/b", "a/b/c", "a", "a/x"] {
            let inner = world.take(&[inside], &outer.variable()).expect(inside);
            assert!(world.take(&["a/b"], &inner.variable()).is_some(), "nor the one inside that");
        }
        let _sibling = world.take(&["a/b/c"], &outer.variable()).unwrap();
        assert!(world.take(&["a/b/c"], &outer.variable()).is_none(), "siblings wait for each other");
    }

    #[test]
    fn so_many_outputs_claim_the_folder() {
        let world = World::new();
        let many: Vec<_> = (0..MAX).map(|n| format!("out{n}")).collect();
        let many = world.take(&many.iter().map(String::as_str).collect::<Vec<_>>(), "").unwrap();
        assert!(world.take(&["another"], "").is_none());
        assert!(many._locks.len() < MAX);
    }
}
