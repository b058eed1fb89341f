//! `provender.v1.Admin`: upkeep.

use std::path::Path;

use provender_core::Timestamp;
use provender_proto::convert::Invalid;
use provender_proto::v1;

use super::Client;
use crate::error::ClientError;

/// What a backup is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackupPhase {
    /// Reading rows.
    #[default]
    Rows,
    /// Copying blobs.
    Blobs,
    /// Removing what only old backups needed.
    Pruning,
}

/// How far a backup has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BackupProgress {
    /// What it is at.
    pub phase: BackupPhase,
    /// Rows read so far.
    pub rows: u64,
    /// Large blobs looked at so far.
    pub blobs: u64,
    /// Of how many; 0 while that is not known.
    pub blobs_total: u64,
    /// Their bytes so far.
    pub bytes: u64,
    /// Of how many.
    pub bytes_total: u64,
}

/// What a backup came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSummary {
    /// Its number in its folder.
    pub number: u64,
    /// The moment whose state it holds.
    pub taken: Timestamp,
    /// Rows.
    pub rows: u64,
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Large blobs that were copied just now.
    pub copied: u64,
    /// Bytes that were written just now.
    pub written: u64,
    /// Blobs that are LOST, and of which the backup has no bytes either.
    pub lost: u64,
    /// The backups that the folder holds now.
    pub kept: Vec<u64>,
}

/// What verifying has come to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verified {
    /// Blobs that were looked at.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that were read for it.
    pub read: u64,
    /// Blobs that are lost.
    pub lost: u64,
    /// Of these, what was found just now.
    pub found: u64,
    /// Rows of metadata that were read.
    pub rows: u64,
    /// Outboards of large blobs that were looked at.
    pub outboards: u64,
    /// Of these, those that were written anew.
    pub mended: u64,
    /// Places of the metadata that are damaged.
    pub damaged: u64,
    /// What the first of these are, and what to do; empty until the end.
    pub damage: Vec<String>,
}

impl Client {
    /// Has the daemon look at every blob and row, or, `deep`, read them all, at so many bytes a second at most (0 for any). Dropping this stops it.
    pub async fn verify(
        &self,
        deep: bool,
        bytes_per_second: u64,
        mut tell: impl FnMut(Verified),
    ) -> Result<Verified, ClientError> {
        let request = v1::VerifyRequest { deep, bytes_per_second };
        let mut replies = self.admin.clone().verify(request).await.map_err(self.failed())?.into_inner();
        while let Some(reply) = replies.message().await.map_err(self.failed())? {
            let v1::VerifyReply { blobs, bytes, read, lost, found, done, rows, outboards, mended, damaged, damage } =
                reply;
            let so_far = Verified { blobs, bytes, read, lost, found, rows, outboards, mended, damaged, damage };
            if done {
                return Ok(so_far);
            }
            tell(so_far);
        }
        Err(Invalid::new("done", "verifying ended without saying so").into())
    }

    /// Has the daemon back its store up into a folder of its machine, and keep so many backups there (its default, if none is said). Dropping this
    /// stops it; another one goes on from there.
    pub async fn backup(
        &self,
        dir: &Path,
        keep: Option<u32>,
        mut tell: impl FnMut(BackupProgress),
    ) -> Result<BackupSummary, ClientError> {
        let dir = dir.to_str().ok_or_else(|| Invalid::new("dir", "it is no UTF-8"))?.to_owned();
        let request = v1::BackupRequest { dir, keep: keep.unwrap_or_default() };
        let mut replies = self.admin.clone().backup(request).await.map_err(self.failed())?.into_inner();
        while let Some(reply) = replies.message().await.map_err(self.failed())? {
            if let Some(summary) = reply.summary {
                return Ok(BackupSummary {
                    number: summary.number,
                    taken: Timestamp::from_millis(summary.taken_ms),
                    rows: summary.rows,
                    blobs: summary.blobs,
                    bytes: summary.bytes,
                    copied: summary.copied_blobs,
                    written: summary.written_bytes,
                    lost: summary.lost,
                    kept: summary.kept,
                });
            }
            let phase = match reply.phase() {
                v1::BackupPhase::Blobs => BackupPhase::Blobs,
                v1::BackupPhase::Pruning | v1::BackupPhase::Done => BackupPhase::Pruning,
                _ => BackupPhase::Rows,
            };
            let v1::BackupReply { rows, blobs, blobs_total, bytes, bytes_total, .. } = reply;
            tell(BackupProgress { phase, rows, blobs, blobs_total, bytes, bytes_total });
        }
        Err(Invalid::new("summary", "the backup ended without one").into())
    }
}
