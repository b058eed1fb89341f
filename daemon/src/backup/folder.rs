//! A backup's folder: its marker, its manifests and its pieces.
//!
//! ```text
//! DIR/provender-backup     whose backups these are
//! DIR/manifests/00000012   one backup each, written last
//! DIR/rows/ab/HASH         pieces of rows, shared by all backups
//! DIR/blobs/               a blob store of its own, shared as well
//! ```
//! Invariants: every manifest names only what is whole and durable; nothing that a manifest names
//! is changed, but for what was damaged, or removed before it; what is there already was read again before another manifest names it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use provender_blobs::{Blobs, BlobsConfig, StoreId};
use provender_core::digest::hex;

use super::files::{Files, Local};
use super::manifest::{FORMAT, Manifest, Unreadable};
use super::pieces::{self, Cut, Piece};
use super::{BackupError, Totals};

pub(super) const MARKER: &str = "provender-backup";
pub(super) const MANIFESTS: &str = "manifests";
pub(super) const ROWS: &str = "rows";
pub(super) const BLOBS: &str = "blobs";

/// A folder of backups.
#[derive(Debug, Clone)]
pub struct Folder {
    files: Arc<dyn Files>,
    dir: PathBuf,
}

/// What the marker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    /// The store's id.
    pub(super) store: String,
    /// The blob store in `blobs`; `None` in a folder of rows alone.
    pub(super) blobs: Option<StoreId>,
}

/// One backup in a list.
#[derive(Debug)]
pub struct Listed {
    /// Its number: the greater, the newer.
    pub number: u64,
    /// What it says; or why it cannot be restored.
    pub manifest: Result<Manifest, BackupError>,
}

impl Folder {
    /// Over files that are open; `dir` is how they are called.
    pub fn new(files: Arc<dyn Files>, dir: &Path) -> Folder {
        Folder { files, dir: dir.into() }
    }

    /// The folder to be read.
    pub async fn open(dir: &Path) -> Result<Folder, BackupError> {
        let dir = std::path::absolute(dir).map_err(|source| BackupError::io(dir, "", "find it", source))?;
        let folder = Folder::new(Arc::new(Local::open(&dir).await?), &dir);
        match folder.marker().await? {
            Some(_) => Ok(folder),
            None => Err(BackupError::Empty { dir }),
        }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The blob store within it.
    pub async fn blobs(&self) -> Result<Option<Arc<dyn Blobs>>, BackupError> {
        let Some(Marker { blobs: Some(id), .. }) = self.marker().await? else { return Ok(None) };
        let config = BlobsConfig::Disk { dir: self.dir.join(BLOBS) };
        let opened = provender_blobs::open(&config, Some(id)).await;
        opened.map(Some).map_err(|error| BackupError::blobs(&self.dir, error))
    }

    pub(super) fn path(&self, path: &str) -> String {
        self.dir.join(path).display().to_string()
    }

    pub(super) fn damaged(&self, path: &str, why: impl ToString) -> BackupError {
        BackupError::Damaged { path: self.path(path), why: why.to_string() }
    }

    async fn read(&self, path: &str) -> Result<Option<Bytes>, BackupError> {
        self.files.read(path).await.map_err(|source| BackupError::io(&self.dir, path, "read it", source))
    }

    async fn write(&self, path: &str, bytes: Bytes) -> Result<(), BackupError> {
        let failed = |doing| move |source| BackupError::io(&self.dir, path, doing, source);
        self.files.stage(path, bytes).await.map_err(failed("write it"))?;
        self.files.publish(path).await.map_err(failed("name it"))
    }

    pub(super) async fn remove(&self, path: &str) -> Result<(), BackupError> {
        self.files.remove(path).await.map_err(|source| BackupError::io(&self.dir, path, "remove it", source))
    }

    pub(super) async fn list(&self, path: &str) -> Result<Vec<String>, BackupError> {
        self.files.list(path).await.map_err(|source| BackupError::io(&self.dir, path, "list it", source))
    }

    /// Whose it is; `None` if it has no marker.
    pub(super) async fn marker(&self) -> Result<Option<Marker>, BackupError> {
        let Some(bytes) = self.read(MARKER).await? else { return Ok(None) };
        let damaged = || self.damaged(MARKER, "its bytes are not those that were written");
        let text = std::str::from_utf8(&bytes).map_err(|_| damaged())?;
        let format = text.strip_prefix("provender backup ").and_then(|rest| rest.split('\n').next()?.parse().ok());
        if let Some(found) = format.filter(|format| *format > FORMAT) {
            return Err(BackupError::Newer { path: self.path(MARKER), found });
        }
        let read = || {
            let mut lines = text.lines().skip(1);
            let store = lines.next()?.strip_prefix("store ")?.to_owned();
            let blobs = match lines.next()?.strip_prefix("blobs ")? {
                "" => None,
                id => Some(id.parse().ok()?),
            };
            let marker = Marker { store, blobs };
            (marker.text() == text).then_some(marker)
        };
        read().map(Some).ok_or_else(damaged)
    }

    pub(super) async fn mark(&self, marker: &Marker) -> Result<(), BackupError> {
        self.write(MARKER, marker.text().into()).await
    }

    /// The numbers of all backups, whole or not, oldest first.
    pub(super) async fn numbers(&self) -> Result<Vec<u64>, BackupError> {
        let names = self.list(MANIFESTS).await?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// All backups, oldest first.
    pub async fn backups(&self) -> Result<Vec<Listed>, BackupError> {
        let mut all = Vec::new();
        for number in self.numbers().await? {
            all.push(Listed { number, manifest: self.manifest(number).await });
        }
        Ok(all)
    }

    /// One backup: the newest, if none is named.
    pub async fn choose(&self, number: Option<u64>) -> Result<(u64, Manifest), BackupError> {
        let numbers = self.numbers().await?;
        let number = match number {
            Some(number) if numbers.contains(&number) => number,
            Some(number) => return Err(BackupError::NoSuch { dir: self.dir.clone(), number }),
            None => *numbers.last().ok_or_else(|| BackupError::Empty { dir: self.dir.clone() })?,
        };
        Ok((number, self.manifest(number).await?))
    }

    pub(super) async fn manifest(&self, number: u64) -> Result<Manifest, BackupError> {
        let path = manifest_path(number);
        let file = self.read(&path).await?.ok_or_else(|| self.damaged(&path, "it is missing"))?;
        let manifest = Manifest::decode(&file).map_err(|error| match error {
            Unreadable::Newer(found) => BackupError::Newer { path: self.path(&path), found },
            Unreadable::Damaged(why) => self.damaged(&path, why),
        })?;
        let marker = self.marker().await?;
        match marker.is_some_and(|marker| marker.store == manifest.store && marker.blobs == manifest.blobs) {
            true => Ok(manifest),
            false => Err(self.damaged(&path, format!("it is of another store than the file {MARKER} says"))),
        }
    }

    pub(super) async fn add(&self, number: u64, manifest: &Manifest) -> Result<u64, BackupError> {
        let file = manifest.encode();
        let size = file.len() as u64;
        self.write(&manifest_path(number), file).await.map(|()| size)
    }

    /// Has a piece, which may be there already, and is read then: what was damaged since is written anew. Says how many bytes were
    /// written for it.
    pub(super) async fn keep(&self, cut: Cut) -> Result<(Piece, u64), BackupError> {
        let made = tokio::task::spawn_blocking(move || pieces::to_file(&cut)).await;
        let (piece, file) = made.map_err(|_| crate::store::StoreError::Draining)?;
        let path = piece_path(&piece.hash);
        if let Some(stored) = self.stored(&path).await? {
            // Another version may have packed the same rows into other bytes, by which older manifests know them.
            let there = Piece { stored, ..piece };
            match self.rows(&there).await {
                Ok(_) => return Ok((there, 0)),
                Err(error @ BackupError::Damaged { .. }) => tracing::warn!(%error, "it is written anew"),
                Err(other) => return Err(other),
            }
        }
        self.write(&path, file).await?;
        Ok((piece, piece.stored))
    }

    /// How many bytes a file has; `None` if there is none.
    async fn stored(&self, path: &str) -> Result<Option<u64>, BackupError> {
        self.files.size(path).await.map_err(|source| BackupError::io(&self.dir, path, "look at it", source))
    }

    /// The rows of a piece, as they were written.
    pub(super) async fn rows(&self, piece: &Piece) -> Result<Vec<(Bytes, Bytes)>, BackupError> {
        let path = piece_path(&piece.hash);
        let file = self.read(&path).await?.ok_or_else(|| self.damaged(&path, "it is missing"))?;
        let piece = *piece;
        let read = tokio::task::spawn_blocking(move || pieces::from_file(&piece, file)).await;
        read.map_err(|_| crate::store::StoreError::Draining)?.map_err(|why| self.damaged(&path, why))
    }
}

impl Marker {
    fn text(&self) -> String {
        let blobs = self.blobs.map(|id| id.to_string()).unwrap_or_default();
        let text = format!("provender backup {FORMAT}\nstore {}\nblobs {blobs}\n", self.store);
        format!("{text}check {}\n", hex(blake3::hash(text.as_bytes()).as_bytes()))
    }
}

impl Totals {
    /// Large and small blobs.
    pub fn all_blobs(&self) -> (u64, u64) {
        (self.blobs + self.inline, self.blob_bytes + self.inline_bytes)
    }
}

pub(super) fn manifest_path(number: u64) -> String {
    format!("{MANIFESTS}/{number:08}")
}

pub(super) fn piece_path(hash: &[u8; 32]) -> String {
    let hex = hex(hash);
    format!("{ROWS}/{}/{hex}", &hex[..2])
}
