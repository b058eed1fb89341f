//! The data folder: its layout version, and the lock that keeps a second daemon out.
//!
//! Invariant: its layout's number is never ahead of what is in it: it is written when a folder is made, after a migration, and at the
//! end of a restore.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::store::LAYOUT;

/// What the layout file begins with; the number follows.
const MARK: &str = "provender data ";
const LAYOUT_FILE: &str = "layout";
const LOCK: &str = "lock";
/// The layout file before it is whole.
const FRESH: &str = "layout.new";
/// Where the embedded engine keeps metadata.
pub(crate) const META: &str = "meta";
/// That a restore has begun here, and not come to its end.
const RESTORING: &str = "restoring";
/// Where metadata is kept as it was before a migration.
const SNAPSHOTS: &str = "snapshots";
/// What was answered and is not in the metadata yet.
const USED: &str = "used.log";

/// The data folder, locked for as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    layout: Option<u32>,
    /// Whether a restore had begun here before.
    was_restoring: bool,
    _lock: File,
}

/// Why the data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The system refused.
    #[error("the data folder {}: cannot {doing}: {source}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What failed.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Another daemon has it.
    #[error("the data folder {} is in use by another provenderd{pid}; stop that one first, or choose another folder with --data", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Its process, if it could be told.
        pid: String,
    },
    /// A newer version made it.
    #[error(
        "the data folder {} has layout {found}, and this provenderd knows layouts up to {LAYOUT}: use the newer version that wrote it, or another folder with --data. What was in it before it was migrated may stand in {}: `provenderd restore` restores that",
        path.display(), path.join(SNAPSHOTS).display()
    )]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its layout.
        found: u32,
    },
    /// A restore was cut off in it.
    #[error("a restore into the data folder {} has not come to its end: run `provenderd restore` again, which goes on from there, or choose another folder with --data", path.display())]
    Restoring {
        /// The folder.
        path: PathBuf,
    },
    /// There is a store, where one is to be restored.
    #[error("the data folder {} holds a store already: restore into an empty or new one, with --data", path.display())]
    Taken {
        /// The folder.
        path: PathBuf,
    },
    /// It holds something else.
    #[error("{} is not empty and is no data folder of provenderd: choose an empty or new folder with --data", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
}

impl DataDir {
    /// Opens the folder, making it where there is none, and takes its lock.
    pub fn open(path: &Path, group: bool) -> Result<DataDir, DataError> {
        let names = make(path)?;
        let ours = [LAYOUT_FILE, LOCK, FRESH, RESTORING, "lost+found"];
        if !names.iter().any(|name| name == LAYOUT_FILE || name == RESTORING)
            && !names.iter().all(|name| ours.iter().any(|ours| name == ours))
        {
            return Err(DataError::Foreign { path: path.into() });
        }
        let lock = lock(path)?;
        let layout = read_layout(path)?;
        let restoring = path.join(RESTORING).exists();
        if restoring && layout.is_none() {
            return Err(DataError::Restoring { path: path.into() });
        }
        let data = DataDir { path: path.into(), layout, was_restoring: restoring, _lock: lock };
        match layout {
            None => data.write(LAYOUT)?,
            // The layout is the last word of a restore but for taking the mark away.
            Some(_) if restoring => data.unmark()?,
            Some(_) => {}
        }
        // Members of a socket_group pass through to the socket; nobody else comes in.
        data.set_mode(if group { 0o711 } else { 0o700 })?;
        Ok(data)
    }

    /// Opens a folder for a restore: one without a store, or in which a restore was cut off. What else is in it stays: blobs, say,
    /// beside which metadata alone is restored.
    pub fn restore(path: &Path) -> Result<DataDir, DataError> {
        let failed = |doing| move |source| DataError::Io { path: path.into(), doing, source };
        let names = make(path)?;
        let known = [LOCK, FRESH, RESTORING, SNAPSHOTS, USED, "lost+found", "blobs"];
        if names.iter().any(|name| name == LAYOUT_FILE) {
            return Err(DataError::Taken { path: path.into() });
        }
        let was_restoring = names.iter().any(|name| name == RESTORING);
        let strange = |name: &std::ffi::OsString| !known.iter().any(|known| name == known);
        if !was_restoring && names.iter().any(strange) {
            return Err(DataError::Foreign { path: path.into() });
        }
        let lock = lock(path)?;
        File::create(path.join(RESTORING)).and_then(|file| file.sync_all()).map_err(failed("mark it"))?;
        File::open(path).and_then(|dir| dir.sync_all()).map_err(failed("mark it"))?;
        let data = DataDir { path: path.into(), layout: None, was_restoring, _lock: lock };
        data.set_mode(0o700)?;
        Ok(data)
    }

    /// The restore is through: from now on the folder can be served. Its rows are of this layout.
    pub fn restored(&self, layout: u32) -> Result<(), DataError> {
        // Of a store that was here before: what it answered says nothing of this one.
        if let Err(source) = fs::remove_file(self.used())
            && source.kind() != io::ErrorKind::NotFound
        {
            return Err(DataError::Io { path: self.path.clone(), doing: "remove what was answered before", source });
        }
        self.write(layout)?;
        self.unmark()
    }

    fn unmark(&self) -> Result<(), DataError> {
        let unmarked = fs::remove_file(self.path.join(RESTORING)).and_then(|()| File::open(&self.path)?.sync_all());
        unmarked.map_err(|source| DataError::Io { path: self.path.clone(), doing: "take its mark away", source })
    }

    /// The restore was refused before it wrote anything, and its engine is closed: the folder is as it was found. The mark of an earlier one
    /// stays.
    pub fn unchanged(&self) -> Result<(), DataError> {
        if self.was_restoring {
            return Ok(());
        }
        // There was none, or the folder would have been foreign.
        match fs::remove_dir_all(self.path.join(META)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(DataError::Io { path: self.path.clone(), doing: "remove what a refused restore made", source })
            }
            _ => self.unmark(),
        }
    }

    /// Whether a restore had begun here before this one.
    pub fn was_restoring(&self) -> bool {
        self.was_restoring
    }

    /// Writes the layout of this version, if another stands there.
    pub fn settle(&mut self) -> Result<(), DataError> {
        if self.layout != Some(LAYOUT) {
            self.write(LAYOUT)?;
            self.layout = Some(LAYOUT);
        }
        Ok(())
    }

    fn write(&self, layout: u32) -> Result<(), DataError> {
        let path = &self.path;
        // Written whole or not at all, so that a crash leaves no folder that seems foreign.
        let write = || {
            let fresh = path.join(FRESH);
            let mut out = File::create(&fresh)?;
            writeln!(out, "{MARK}{layout}")?;
            out.sync_all()?;
            fs::rename(&fresh, path.join(LAYOUT_FILE))?;
            File::open(path)?.sync_all()
        };
        write().map_err(|source| DataError::Io { path: path.clone(), doing: "write its layout", source })
    }

    fn set_mode(&self, mode: u32) -> Result<(), DataError> {
        let failed = |source| DataError::Io { path: self.path.clone(), doing: "set its mode", source };
        fs::set_permissions(&self.path, fs::Permissions::from_mode(mode)).map_err(failed)
    }

    /// Where metadata is kept as it was before a migration.
    pub fn snapshots(&self) -> PathBuf {
        self.path.join(SNAPSHOTS)
    }

    /// Where it is noted what was answered.
    pub fn used(&self) -> PathBuf {
        self.path.join(USED)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the unix socket of a data folder stands.
    pub fn socket(path: &Path) -> PathBuf {
        path.join("provender.sock")
    }
}

/// Makes the folder if it is missing; what is in it.
fn make(path: &Path) -> Result<Vec<std::ffi::OsString>, DataError> {
    let failed = |doing| move |source| DataError::Io { path: path.into(), doing, source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make it"))?;
    let names = fs::read_dir(path).map_err(failed("list it"))?;
    Ok(names.filter_map(|entry| Some(entry.ok()?.file_name())).collect())
}

fn lock(path: &Path) -> Result<File, DataError> {
    let failed = |doing| move |source| DataError::Io { path: path.into(), doing, source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut lock = options.open(path.join(LOCK)).map_err(failed("open its lock"))?;
    if let Err(error) = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(failed("take its lock")(error.into()));
        }
        let mut pid = String::new();
        _ = lock.read_to_string(&mut pid);
        let pid = if pid.is_empty() { pid } else { format!(" (process {})", pid.trim()) };
        return Err(DataError::Locked { path: path.into(), pid });
    }
    lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(failed("write its lock"))?;
    Ok(lock)
}

/// The layout of what is in the folder; `None` if there is nothing yet.
fn read_layout(path: &Path) -> Result<Option<u32>, DataError> {
    match fs::read_to_string(path.join(LAYOUT_FILE)) {
        Ok(text) => match text.trim().strip_prefix(MARK).and_then(|number| number.parse().ok()) {
            Some(found) if found > LAYOUT => Err(DataError::Newer { path: path.into(), found }),
            Some(found) => Ok(Some(found)),
            None => Err(DataError::Foreign { path: path.into() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DataError::Io { path: path.into(), doing: "read its layout", source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_whose_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = DataDir::open(folder.path(), false).expect("free");
        let second = DataDir::open(folder.path(), false).expect_err("taken").to_string();
        assert!(second.contains(&format!("process {}", std::process::id())), "{second}");
        drop(first);
        DataDir::open(folder.path(), false).expect("free again");
    }

    #[test]
    fn a_restore_leaves_a_mark_until_it_is_through() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        fs::write(path.join("used.log"), "of before").expect("written");
        drop(DataDir::restore(path).expect("empty"));
        fs::create_dir(path.join("meta")).expect("made");
        assert!(matches!(DataDir::open(path, false), Err(DataError::Restoring { .. })));
        let again = DataDir::restore(path).expect("goes on");
        again.restored(1).expect("written");
        assert!(!path.join("used.log").exists());
        drop(again);
        assert!(matches!(DataDir::restore(path), Err(DataError::Taken { .. })));
        let mut data = DataDir::open(path, false).expect("a store");
        assert_eq!(fs::read_to_string(path.join("layout")).expect("there"), "provender data 1\n");
        data.settle().expect("written");
        assert_eq!(fs::read_to_string(path.join("layout")).expect("there"), format!("provender data {LAYOUT}\n"));
        fs::remove_file(path.join("layout")).expect("removed");
        drop(data);
        assert!(matches!(DataDir::restore(path), Err(DataError::Foreign { .. })), "metadata of somebody's");
    }

    #[test]
    fn newer_and_foreign_folders_are_refused_untouched() {
        let folder = tempfile::tempdir().expect("a folder");
        drop(DataDir::open(folder.path(), false).expect("fresh"));
        fs::write(folder.path().join("layout"), "provender data 99\n").expect("written");
        let error = DataDir::open(folder.path(), false).expect_err("newer");
        assert!(matches!(error, DataError::Newer { found: 99, .. }));
        assert_eq!(fs::read_to_string(folder.path().join("layout")).expect("there"), "provender data 99\n");

        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("thesis.tex"), "").expect("written");
        assert!(matches!(DataDir::open(folder.path(), false), Err(DataError::Foreign { .. })));
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 1);
    }
}
