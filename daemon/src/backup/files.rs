//! The files of a backup's folder: few operations, each of which is one step that a crash may come between.
//!
//! Owns the [`Files`] seam and [`Local`], a folder of this machine. Invariants: what has its name was whole and durable; a file that
//! was published is never written to again, but may be replaced as a whole. It must not know what is in the files.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::FlockOperation;

use super::BackupError;

/// The largest file that is read, in bytes: a manifest of a hundred million rows.
const LARGEST: u64 = 256 << 20;
/// What an unfinished file's name ends with.
pub(super) const FRESH: &str = ".new";
const LOCK: &str = "lock";

/// Small whole files under relative paths.
#[async_trait]
pub trait Files: Debug + Send + Sync + 'static {
    /// What is in a folder, in order; nothing if there is no such folder.
    async fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// How many bytes a file has; `None` if there is none.
    async fn size(&self, path: &str) -> io::Result<Option<u64>>;

    /// A whole file; `None` if there is none.
    async fn read(&self, path: &str) -> io::Result<Option<Bytes>>;

    /// Writes a file, durably, under a name that counts for nothing.
    async fn stage(&self, path: &str, bytes: Bytes) -> io::Result<()>;

    /// Gives what was staged its name, durably.
    async fn publish(&self, path: &str) -> io::Result<()>;

    /// Removes a file, or what was staged of it; it is fine if there is none.
    async fn remove(&self, path: &str) -> io::Result<()>;
}

/// A folder of this machine.
#[derive(Debug)]
pub struct Local {
    dir: PathBuf,
    /// Held for as long as this lives.
    _lock: Option<File>,
}

impl Local {
    /// The folder, which is made if it is missing; nobody else may be at it.
    pub async fn create(dir: &Path) -> Result<Local, BackupError> {
        let dir = dir.to_owned();
        on_thread(move || {
            let failed = |doing| move |source| (doing, source);
            let open = || {
                make(&dir).map_err(failed("make it"))?;
                // Before anything is made in it: a folder of somebody else's is left as it is.
                if let Some(name) = foreign(&dir).map_err(failed("list it"))? {
                    return Ok(Err(name));
                }
                let mut options = OpenOptions::new();
                options.read(true).write(true).create(true).truncate(false).mode(0o600);
                options.open(dir.join(LOCK)).map_err(failed("open its lock")).map(Ok)
            };
            match open() {
                Ok(Ok(file)) => lock(&dir, file, FlockOperation::NonBlockingLockExclusive),
                Ok(Err(name)) => Err(BackupError::Foreign { dir: dir.clone(), name }),
                Err((doing, source)) => Err(BackupError::io(&dir, "", doing, source)),
            }
        })
        .await
    }

    /// The folder as it is, to be read; no backup may be writing to it.
    pub async fn open(dir: &Path) -> Result<Local, BackupError> {
        let dir = dir.to_owned();
        on_thread(move || match File::open(dir.join(LOCK)) {
            Ok(file) => lock(&dir, file, FlockOperation::NonBlockingLockShared),
            // A copy of a backup needs no lock file.
            Err(error) if error.kind() == io::ErrorKind::NotFound && dir.is_dir() => {
                Ok(Local { dir: dir.clone(), _lock: None })
            }
            Err(error) => Err(BackupError::io(&dir, "", "open it", error)),
        })
        .await
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    async fn run<T: Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let path = self.dir.join(path);
        let done = tokio::task::spawn_blocking(move || work(&path)).await;
        done.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(crate::store::StoreError::Draining.into()))
}

fn lock(dir: &Path, file: File, how: FlockOperation) -> Result<Local, BackupError> {
    match rustix::fs::flock(&file, how) {
        Ok(()) => Ok(Local { dir: dir.into(), _lock: Some(file) }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(BackupError::Busy { dir: dir.into() }),
        Err(error) => Err(BackupError::io(dir, LOCK, "lock it", error.into())),
    }
}

/// What is in the folder that no backup would have left there.
fn foreign(dir: &Path) -> io::Result<Option<String>> {
    use super::folder::{BLOBS, MANIFESTS, MARKER, ROWS};
    let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names = names.collect::<io::Result<Vec<String>>>()?;
    if names.iter().any(|name| name == MARKER) {
        return Ok(None);
    }
    let fresh = format!("{MARKER}{FRESH}");
    Ok(names
        .into_iter()
        .find(|name| ![LOCK, BLOBS, &fresh, "lost+found"].contains(&&**name) || [MANIFESTS, ROWS].contains(&&**name)))
}

fn fresh(path: &Path) -> PathBuf {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(FRESH);
    fresh.into()
}

fn sync(dir: Option<&Path>) -> io::Result<()> {
    dir.map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// Makes a folder and those above it as far as they are missing, each of them durable.
fn make(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    dir.parent().map_or(Ok(()), make)?;
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync(dir.parent()),
    }
}

/// `None` instead of an error that says that there is nothing.
fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

#[async_trait]
impl Files for Local {
    async fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.run(dir, |dir| {
            let Some(entries) = if_there(fs::read_dir(dir))? else { return Ok(Vec::new()) };
            let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            let mut names = names.collect::<io::Result<Vec<_>>>()?;
            names.sort();
            Ok(names)
        })
        .await
    }

    async fn size(&self, path: &str) -> io::Result<Option<u64>> {
        self.run(path, |path| Ok(if_there(fs::symlink_metadata(path))?.map(|found| found.len()))).await
    }

    async fn read(&self, path: &str) -> io::Result<Option<Bytes>> {
        self.run(path, |path| {
            let Some(file) = if_there(File::open(path))? else { return Ok(None) };
            let mut bytes = Vec::new();
            if file.take(LARGEST + 1).read_to_end(&mut bytes)? as u64 > LARGEST {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than any file of a backup"));
            }
            Ok(Some(bytes.into()))
        })
        .await
    }

    async fn stage(&self, path: &str, bytes: Bytes) -> io::Result<()> {
        self.run(path, move |path| {
            path.parent().map_or(Ok(()), make)?;
            let write = || {
                let mut options = OpenOptions::new();
                let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(fresh(path))?;
                file.write_all(&bytes)?;
                file.sync_all()
            };
            write().inspect_err(|_| {
                // So that a full disk gets its space back.
                _ = fs::remove_file(fresh(path));
            })
        })
        .await
    }

    async fn publish(&self, path: &str) -> io::Result<()> {
        self.run(path, |path| {
            fs::rename(fresh(path), path)?;
            sync(path.parent())
        })
        .await
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        self.run(path, |path| {
            if_there(fs::remove_file(path))?;
            // Where there was no folder, there was no file.
            if_there(sync(path.parent())).map(drop)
        })
        .await
    }
}
