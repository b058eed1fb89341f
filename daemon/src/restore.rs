//! `provenderd restore`: a store out of a backup, while no daemon is at it.
//!
//! Invariant: a data folder in which a restore began is not served before one has come to its end.

use std::io::Write;
use std::time::Duration;

use provender_core::Timestamp;

use crate::backup::{self, BackupError, Folder, Listed, Manifest, Progress, Telling};
use crate::config::{Config, Restore};
use crate::data::{DataDir, DataError};
use crate::meta::{self, MetaError};
use crate::store::{StoreError, chain};

/// How often progress is logged.
const TELL: Duration = Duration::from_secs(5);

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup, or what is restored into.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The data folder.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The metadata engine.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// It cannot be restored as a whole.
    #[error("the backup {number} is damaged in {count} places")]
    Damaged {
        /// Which.
        number: u64,
        /// In how many, as far as they are told.
        count: usize,
    },
    /// Standard output.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] std::io::Error),
}

/// Restores, lists or checks, as is asked.
pub async fn restore(config: &Config, asked: &Restore) -> Result<(), RestoreError> {
    let folder = Folder::open(&asked.dir).await?;
    if asked.list {
        return list(&folder).await;
    }
    let (number, manifest) = folder.choose(asked.at).await?;
    let (telling, _) = tokio::sync::watch::channel(Progress::default());
    if asked.check {
        return check(&folder, number, &manifest, &telling).await;
    }
    let data = DataDir::restore(&config.data)?;
    let incarnation = match into(config, &data, &folder, number, &manifest, &telling).await {
        Ok(incarnation) => incarnation,
        Err(Refused { error, begun }) => {
            if !begun {
                data.unchanged()?;
            }
            return Err(error);
        }
    };
    data.restored(manifest.layout)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "restored backup {}; the store's incarnation is {} now", line(number, &manifest), incarnation)?;
    Ok(())
}

/// Why a restore failed.
struct Refused {
    error: RestoreError,
    /// Whether it had written anything by then, or may have.
    begun: bool,
}

/// Restores into what is configured; the store's incarnation.
async fn into(
    config: &Config,
    data: &DataDir,
    folder: &Folder,
    number: u64,
    manifest: &Manifest,
    telling: &Telling,
) -> Result<u64, Refused> {
    let before = |error: RestoreError| Refused { error, begun: false };
    let meta = meta::open(&config.meta, data.path()).await.map_err(|error| before(error.into()))?;
    // Metadata alone belongs to the very blob store that it was written with.
    let known = manifest.blobs.is_none().then_some(manifest.source);
    let blobs = provender_blobs::open(&config.blobs, known).await.map_err(StoreError::from);
    let blobs = blobs.map_err(|error| before(BackupError::from(error).into()))?;
    let error = match told(telling, backup::restore(folder, Some(number), meta.clone(), blobs, telling)).await {
        Ok(restored) => return Ok(restored.incarnation),
        Err(error) => error,
    };
    let full = matches!(error, BackupError::NotEmpty { .. });
    // One that was cut off after its last batch, and before the data folder was told.
    if full
        && data.was_restoring()
        && let Some(incarnation) = backup::came_through(&*meta, manifest).await.map_err(|error| before(error.into()))?
    {
        return Ok(incarnation);
    }
    // What cannot be asked may have begun.
    let begun = !full && backup::has_begun(&*meta).await.unwrap_or(true);
    Err(Refused { error: error.into(), begun })
}

async fn list(folder: &Folder) -> Result<(), RestoreError> {
    let backups = folder.backups().await?;
    let mut out = std::io::stdout().lock();
    for Listed { number, manifest } in &backups {
        match manifest {
            Ok(manifest) => writeln!(out, "{}", line(*number, manifest))?,
            Err(error) => writeln!(out, "{number}  {}", chain(error))?,
        }
    }
    match backups.is_empty() {
        true => Err(BackupError::Empty { dir: folder.dir().into() }.into()),
        false => Ok(()),
    }
}

async fn check(folder: &Folder, number: u64, manifest: &Manifest, telling: &Telling) -> Result<(), RestoreError> {
    let faults = told(telling, backup::check(folder, manifest, telling)).await?;
    let mut out = std::io::stdout().lock();
    for fault in &faults {
        writeln!(out, "{}", chain(fault))?;
    }
    match faults.len() {
        0 => Ok(writeln!(out, "whole: backup {}", line(number, manifest))?),
        count => Err(RestoreError::Damaged { number, count }),
    }
}

fn line(number: u64, manifest: &Manifest) -> String {
    let taken: Timestamp = manifest.taken;
    let totals = manifest.totals;
    let (blobs, bytes) = totals.all_blobs();
    let alone = if manifest.blobs.is_none() { "  (metadata alone)" } else { "" };
    let lost = totals.lost + manifest.missing.len() as u64;
    let lost = if lost > 0 { format!("  {lost} lost") } else { String::new() };
    format!("{number}  {taken}  {} rows  {blobs} blobs, {bytes} bytes{lost}{alone}", totals.rows)
}

/// Logs how far it is while it goes on.
async fn told<T>(telling: &Telling, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(TELL) => {
                let Progress { phase, rows, blobs, blobs_total, bytes, bytes_total } = *telling.borrow();
                tracing::info!(?phase, rows, blobs, blobs_total, bytes, bytes_total, "still at it");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Flags;
    use crate::metrics::Metrics;
    use crate::store::Store;
    use crate::store::tests::{begin, request};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_restore_that_died_between_its_last_steps_is_through_at_the_next_try() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, data) = (folder.path().join("backups"), folder.path().join("d"));
        let config = Config::load(Flags { data: Some(data.clone()), ..Flags::default() }).unwrap();
        let blobs = provender_blobs::BlobsConfig::Memory {};
        let meta = Arc::new(meta::Memory::default());
        let store = Store::open(meta, &blobs, Vec::new(), Arc::new(Metrics::new().unwrap())).await.unwrap();
        begin(&store, &request(1)).await;
        {
            let target = backup::open(&dir, &store.id().await.unwrap(), &[]).await.unwrap();
            backup::take(&store, &target.folder, &target.blobs, 1, &Telling::default()).await.unwrap();
        }
        let asked = Restore { dir, at: None, list: false, check: false };
        restore(&config, &asked).await.unwrap();
        assert!(matches!(restore(&config, &asked).await, Err(RestoreError::Data(DataError::Taken { .. }))));
        let (layout, mark) = (data.join("layout"), data.join("restoring"));
        // Before the mark was taken away: a daemon does it.
        std::fs::write(&mark, "").unwrap();
        drop(DataDir::open(&data, false).unwrap());
        assert!(!mark.exists() && layout.exists());
        // Before the layout was written.
        std::fs::remove_file(&layout).unwrap();
        std::fs::write(&mark, "").unwrap();
        restore(&config, &asked).await.unwrap();
        assert!(!mark.exists() && layout.exists());
        // Another store there is no end of this restore, nor is the same one of another backup.
        let (other, data) = (folder.path().join("other"), folder.path().join("e"));
        for again in [false, true] {
            let meta = Arc::new(meta::Memory::default());
            let another = Store::open(meta, &blobs, Vec::new(), Arc::new(Metrics::new().unwrap())).await.unwrap();
            let (from, dir) = if again { (&store, &asked.dir) } else { (&another, &other) };
            {
                let target = backup::open(dir, &from.id().await.unwrap(), &[]).await.unwrap();
                backup::take(from, &target.folder, &target.blobs, 9, &Telling::default()).await.unwrap();
            }
            let data = data.with_extension(again.to_string());
            let config = Config::load(Flags { data: Some(data.clone()), ..Flags::default() }).unwrap();
            restore(&config, &Restore { dir: dir.clone(), ..asked.clone() }).await.unwrap();
            std::fs::remove_file(data.join("layout")).unwrap();
            std::fs::write(data.join("restoring"), "").unwrap();
            let refused = restore(&config, &Restore { at: Some(1), ..asked.clone() }).await;
            assert!(matches!(refused, Err(RestoreError::Backup(BackupError::NotEmpty { .. }))), "{refused:?}");
            // It is the end of its own.
            restore(&config, &Restore { dir: dir.clone(), ..asked.clone() }).await.unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_refused_restore_leaves_no_mark_and_is_refused_again() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, data, kept) = (folder.path().join("backups"), folder.path().join("d"), folder.path().join("kept"));
        let memory = provender_blobs::BlobsConfig::Memory {};
        let meta = Arc::new(meta::Memory::default());
        let store = Store::open(meta, &memory, Vec::new(), Arc::new(Metrics::new().unwrap())).await.unwrap();
        {
            let target = backup::open(&dir, &store.id().await.unwrap(), &[]).await.unwrap();
            backup::take(&store, &target.folder, &target.blobs, 1, &Telling::default()).await.unwrap();
        }
        let asked = Restore { dir, at: None, list: false, check: false };
        let mut config = Config::load(Flags { data: Some(data.clone()), ..Flags::default() }).unwrap();
        // The blobs are of somebody else's.
        config.blobs = provender_blobs::BlobsConfig::Disk { dir: kept.clone() };
        let blobs = provender_blobs::open(&config.blobs, None).await.unwrap();
        let location = provender_blobs::put(&*blobs, vec![1; 9].into(), None).await.unwrap().location;
        for _ in 0..2 {
            let refused = restore(&config, &asked).await;
            assert!(matches!(refused, Err(RestoreError::Backup(BackupError::NotEmpty { .. }))), "{refused:?}");
            assert!(!data.join("restoring").exists() && !data.join("meta").exists());
        }
        blobs.remove(&location).await.unwrap();
        restore(&config, &asked).await.unwrap();
        // One that was refused after it had begun is told of until it is through.
        let data = folder.path().join("e");
        let config = Config::load(Flags { data: Some(data.clone()), ..Flags::default() }).unwrap();
        let piece = walk(&asked.dir.join("rows")).pop().unwrap();
        let bytes = std::fs::read(&piece).unwrap();
        std::fs::write(&piece, [&bytes[..bytes.len() - 1], &[!bytes[bytes.len() - 1]]].concat()).unwrap();
        for _ in 0..2 {
            let damaged = restore(&config, &asked).await;
            assert!(matches!(damaged, Err(RestoreError::Backup(BackupError::Damaged { .. }))), "{damaged:?}");
            assert!(data.join("restoring").exists());
        }
        std::fs::write(&piece, bytes).unwrap();
        restore(&config, &asked).await.unwrap();
    }

    fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
    }
}
