//! Why a backup was not made, or not restored. Each says what to do.

use std::io;
use std::path::PathBuf;

use provender_blobs::BlobError;
use rustix::io::Errno;

use super::manifest::FORMAT;
use crate::meta::MetaError;
use crate::store::{StoreError, chain};

/// What is answered instead of a backup or a restored store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The path says nothing to another process.
    #[error("{} is not an absolute path: name the backup's folder from the root of the daemon's machine", dir.display())]
    Relative {
        /// As given.
        dir: PathBuf,
    },
    /// A backup beside what it is a backup of, and lost with it.
    #[error("{} lies within the data folder {}: name a folder elsewhere, best on another disk", dir.display(), data.display())]
    Inside {
        /// As given.
        dir: PathBuf,
        /// The data folder, or that of the blobs.
        data: PathBuf,
    },
    /// It holds something else.
    #[error("{} holds {name:?} and is no backup of provender's: name an empty or new folder, or one that holds backups of this store", dir.display())]
    Foreign {
        /// The folder.
        dir: PathBuf,
        /// What is in it.
        name: String,
    },
    /// It holds another store's backups.
    #[error("{} holds backups of the store {found}, and this is {ours}: name another folder", dir.display())]
    OtherStore {
        /// The folder.
        dir: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asks.
        ours: String,
    },
    /// Somebody is at it.
    #[error("{} is in use by another backup or restore: wait for its end", dir.display())]
    Busy {
        /// The folder.
        dir: PathBuf,
    },
    /// Made by a newer version.
    #[error(
        "{path} has format {found}, and this version knows {FORMAT}: use the version that wrote it, or a newer one"
    )]
    Newer {
        /// Which file.
        path: String,
        /// Its format.
        found: u32,
    },
    /// There is nothing to restore.
    #[error("{} holds no whole backup", dir.display())]
    Empty {
        /// The folder.
        dir: PathBuf,
    },
    /// There is no backup of this number.
    #[error("{} holds no backup {number}: --list shows those that it holds", dir.display())]
    NoSuch {
        /// The folder.
        dir: PathBuf,
        /// What was asked for.
        number: u64,
    },
    /// A file is not as it was written.
    #[error(
        "the backup is damaged: {path}: {why}; restore another one (--list shows them), or one from another folder. If the store still serves: remove this file and back up again, which writes anew what the store has of it"
    )]
    Damaged {
        /// Which file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The disk that the backup is written to is full. The backups before are untouched; the next one goes on from here.
    #[error("no space is left in {}: cannot {doing}; the backups before are whole: free some space there and ask again", dir.display())]
    Full {
        /// The backup's folder.
        dir: PathBuf,
        /// What failed.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused.
    #[error("{path}: cannot {doing}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// What failed.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// There is something where a store is to be restored.
    #[error("{what} is not empty: restore into a new data folder or database, or move away what is there")]
    NotEmpty {
        /// What.
        what: String,
    },
    /// The backup's rows are of a newer layout.
    #[error(
        "the backup has layout {found}, and this version knows {known}: restore it with the version that wrote it ({made_by}), or a newer one"
    )]
    Layout {
        /// Of the backup.
        found: u32,
        /// The newest known here.
        known: u32,
        /// The version that wrote it.
        made_by: String,
    },
    /// Rows alone, without the bytes that they are of.
    #[error(
        "this backup is of metadata alone, beside the blob store {expected}; the configured one is {found}: configure the folder that it was used with ([blobs] dir)"
    )]
    OtherBlobs {
        /// Which blob store it needs.
        expected: String,
        /// Which one is configured.
        found: String,
    },
    /// The store that is backed up or restored into.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blob store within the backup.
    #[error("the backup's blobs: {}", chain(.0))]
    Blobs(BlobError),
}

impl BackupError {
    /// The system refused to do something with a file of a backup.
    pub(super) fn io(dir: &std::path::Path, path: &str, doing: &'static str, source: io::Error) -> BackupError {
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => BackupError::Full { dir: dir.into(), doing, source },
            _ => BackupError::Io { path: dir.join(path).display().to_string(), doing, source },
        }
    }

    /// The backup's own blob store refused.
    pub(super) fn blobs(dir: &std::path::Path, error: BlobError) -> BackupError {
        match error {
            BlobError::Full { doing, source, .. } => BackupError::Full { dir: dir.into(), doing, source },
            other => BackupError::Blobs(other),
        }
    }
}

impl From<MetaError> for BackupError {
    fn from(error: MetaError) -> BackupError {
        BackupError::Store(error.into())
    }
}
