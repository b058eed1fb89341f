//! The data folder: its layout version, and the lock that keeps a second daemon out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::store::LAYOUT;

/// What the layout file begins with; the number follows.
const MARK: &str = "provender data ";
/// The layout file before it is whole.
const FRESH: &str = "layout.new";

/// The data folder, locked for as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
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
        "the data folder {} has layout {found}, and this provenderd knows layouts up to {LAYOUT}: use the newer version that wrote it, or another folder with --data",
        path.display()
    )]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its layout.
        found: u32,
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
        let failed = |doing| move |source| DataError::Io { path: path.into(), doing, source };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path).map_err(failed("make it"))?;
        let names = fs::read_dir(path).map_err(failed("list it"))?.filter_map(|entry| Some(entry.ok()?.file_name()));
        let ours =
            |name: &std::ffi::OsString| name == "layout" || name == "lock" || name == FRESH || name == "lost+found";
        let names: Vec<_> = names.collect();
        if !names.iter().any(|name| name == "layout") && !names.iter().all(ours) {
            return Err(DataError::Foreign { path: path.into() });
        }

        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = options.open(path.join("lock")).map_err(failed("open its lock"))?;
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
        check_layout(path)?;
        // Members of a socket_group pass through to the socket; nobody else comes in.
        let mode = if group { 0o711 } else { 0o700 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("set its mode"))?;
        Ok(DataDir { path: path.into(), _lock: lock })
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

fn check_layout(path: &Path) -> Result<(), DataError> {
    let failed = |doing| move |source| DataError::Io { path: path.into(), doing, source };
    let file = path.join("layout");
    match fs::read_to_string(&file) {
        Ok(text) => match text.trim().strip_prefix(MARK).and_then(|number| number.parse().ok()) {
            Some(LAYOUT) => Ok(()),
            Some(found) => Err(DataError::Newer { path: path.into(), found }),
            None => Err(DataError::Foreign { path: path.into() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Written whole or not at all, so that a crash leaves no folder that seems foreign.
            let fresh = path.join(FRESH);
            let write = || {
                let mut out = File::create(&fresh)?;
                writeln!(out, "{MARK}{LAYOUT}")?;
                out.sync_all()?;
                fs::rename(&fresh, &file)?;
                File::open(path)?.sync_all()
            };
            write().map_err(failed("write its layout"))
        }
        Err(error) => Err(failed("read its layout")(error)),
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
