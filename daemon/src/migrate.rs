//! Bringing a store to the layout of this version, step by step.
//!
//! Owns the list of steps, and the row that says that one is under way ([`crate::store`]'s layout). Invariants: before the first step
//! all rows are kept as a snapshot that can be restored; each step goes on where it was cut off, in bounded batches, every one of which expects
//! that nobody has taken over; the new number is written last. Of several daemons one migrates and the others wait; one that
//! stands still for [`Patience`] is taken over from. It must not know what a step does.

mod claim;
mod collection;
mod index;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::backup::{BackupError, Files, Folder, Local, snapshot_rows};
use crate::clock;
use crate::meta::{Meta, MetaError};
use crate::store::{LAYOUT, Moving, Standing, StoreError, chain, standing};

use self::claim::Claim;

/// How long a migration may show no sign of life before another daemon takes it over; `None` where no other can be at it.
pub type Patience = Option<Duration>;

/// What is right for engines that several daemons share.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How often one that waits looks.
const LOOK: Duration = Duration::from_millis(250);

/// Why a store was not migrated.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The store cannot be migrated or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The rows could not be kept before.
    #[error("before a migration the metadata is kept in {}, which failed: {}", dir.display(), chain(source))]
    Snapshot {
        /// Where.
        dir: PathBuf,
        /// Why.
        source: BackupError,
    },
    /// Another daemon has taken over.
    #[error("another provenderd has taken over the migration of this store: start again once it is through")]
    Overtaken,
}

impl From<MetaError> for MigrateError {
    fn from(error: MetaError) -> MigrateError {
        MigrateError::Store(error.into())
    }
}

/// Brings the store to [`LAYOUT`], if it is older; whether anything was to be done. The snapshots are kept in `snapshots`.
pub async fn migrate(meta: &Arc<dyn Meta>, snapshots: &Path, patience: Patience) -> Result<bool, MigrateError> {
    match begin(meta, patience).await? {
        None => Ok(false),
        Some(claim) => {
            let name = claim.moving().snapshot.clone().unwrap_or_else(|| {
                format!("layout-{}-{}", claim.moving().from, clock::now().to_string().replace([':', '.'], "-"))
            });
            let dir = snapshots.join(&name);
            let failed = |source| MigrateError::Snapshot { dir: dir.clone(), source };
            let files: Arc<dyn Files> = Arc::new(Local::create(&dir).await.map_err(failed)?);
            carry_out(meta, claim, &name, &Folder::new(files, &dir)).await.map(|()| true)
        }
    }
}

/// The same with a folder that is open, for tests.
pub async fn migrate_with(meta: &Arc<dyn Meta>, folder: &Folder, patience: Patience) -> Result<bool, MigrateError> {
    match begin(meta, patience).await? {
        None => Ok(false),
        Some(claim) => carry_out(meta, claim, "snapshot", folder).await.map(|()| true),
    }
}

/// Waits until this daemon is the one that migrates, or nothing is to be done any more.
async fn begin(meta: &Arc<dyn Meta>, patience: Patience) -> Result<Option<Claim>, MigrateError> {
    let mut seen: Option<(Moving, Duration)> = None;
    loop {
        let moving = match standing(&**meta).await? {
            None | Some(Standing::At(LAYOUT)) => return Ok(None),
            Some(Standing::At(from)) if from < LAYOUT => None,
            Some(Standing::At(found)) => return Err(StoreError::Layout { found, known: LAYOUT }.into()),
            Some(Standing::Moving(moving)) if moving.to > LAYOUT => {
                return Err(StoreError::Layout { found: moving.to, known: LAYOUT }.into());
            }
            Some(Standing::Moving(moving)) => Some(moving),
            Some(Standing::Restoring) => return Err(StoreError::Restoring.into()),
            Some(Standing::Unknown) => return Err(StoreError::Layout { found: u32::MAX, known: LAYOUT }.into()),
        };
        if let (Some(moving), Some(patience)) = (&moving, patience) {
            let now = clock::monotonic();
            match &seen {
                Some((last, since)) if last == moving && now.saturating_sub(*since) >= patience => {
                    tracing::warn!(from = moving.from, to = moving.to, "taking over a migration that stands still");
                }
                Some((last, _)) if last == moving => {
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
                other => {
                    if other.is_none() {
                        tracing::info!(
                            from = moving.from,
                            to = moving.to,
                            "another provenderd migrates the store; waiting"
                        );
                    }
                    seen = Some((moving.clone(), now));
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
            }
        }
        if let Some(claim) = Claim::take(meta).await? {
            return Ok(Some(claim));
        }
        // Somebody else was first.
        seen = None;
    }
}

async fn carry_out(meta: &Arc<dyn Meta>, mut claim: Claim, name: &str, folder: &Folder) -> Result<(), MigrateError> {
    tracing::info!(from = claim.moving().from, to = LAYOUT, "migrating the store");
    if claim.moving().snapshot.is_none() {
        let snapshot = async {
            let snapshot = meta.snapshot().await?;
            snapshot_rows(&*snapshot, folder).await
        };
        let failed = |source| MigrateError::Snapshot { dir: folder.dir().into(), source };
        claim.beating(snapshot).await?.map_err(failed)?;
        claim.change(|moving| moving.snapshot = Some(name.to_owned())).await?;
        tracing::info!(snapshot = %folder.dir().display(), "the metadata is kept as it was; remove it once all is well");
    }
    while claim.moving().from < LAYOUT {
        let from = claim.moving().from;
        match from {
            1 => index::every_execution_is_in_the_index(&mut claim).await?,
            2 => collection::everything_is_to_be_counted(&mut claim).await?,
            found => return Err(StoreError::Layout { found, known: LAYOUT }.into()),
        }
        claim.reached(from + 1).await?;
        tracing::info!(layout = from + 1, "the store is migrated");
    }
    Ok(())
}
