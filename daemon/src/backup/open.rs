//! Opening the folder that a backup is to be written to.
//!
//! Invariant: a folder that is somebody else's, or another store's, or lies where the store itself does, is left as it was.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use provender_blobs::{Blobs, BlobsConfig};

use super::BackupError;
use super::files::Local;
use super::folder::{BLOBS, Folder, Marker};

/// A folder that backups are written to. Nobody else writes to it as long as this lives.
#[derive(Debug, Clone)]
pub struct Target {
    /// The folder.
    pub folder: Folder,
    /// The blob store within it.
    pub blobs: Arc<dyn Blobs>,
}

/// Opens a folder for the backups of this store, and makes it if it is missing. It must not lie within `own`.
pub async fn open(dir: &Path, store: &str, own: &[PathBuf]) -> Result<Target, BackupError> {
    if !dir.is_absolute() {
        return Err(BackupError::Relative { dir: dir.into() });
    }
    for data in own {
        if resolved(dir).starts_with(resolved(data)) {
            return Err(BackupError::Inside { dir: dir.into(), data: data.clone() });
        }
    }
    let folder = Folder::new(Arc::new(Local::create(dir).await?), dir);
    let marker = folder.marker().await?;
    if let Some(found) = marker.as_ref().map(|marker| &marker.store).filter(|found| **found != store) {
        return Err(BackupError::OtherStore { dir: dir.into(), found: found.clone(), ours: store.into() });
    }
    let known = marker.as_ref().and_then(|marker| marker.blobs);
    if marker.is_some() && known.is_none() {
        return Err(BackupError::Foreign { dir: dir.into(), name: super::folder::MARKER.into() });
    }
    let config = BlobsConfig::Disk { dir: dir.join(BLOBS) };
    let blobs = provender_blobs::open(&config, known).await.map_err(|error| BackupError::blobs(dir, error))?;
    if marker.is_none() {
        folder.mark(&Marker { store: store.into(), blobs: Some(blobs.id()) }).await?;
    }
    Ok(Target { folder, blobs })
}

/// Where a path leads, as far as it is there.
fn resolved(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    match there {
        Some((above, real)) => real.join(path.strip_prefix(above).unwrap_or(Path::new(""))),
        None => path.into(),
    }
}
