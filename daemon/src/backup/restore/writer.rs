//! Writing rows in bounded batches, as long as nobody else has taken over.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use provender_core::batch::{Batch, Expect, RowKey, Table, Version};
use provender_core::rows;

use crate::backup::BackupError;
use crate::clock;
use crate::meta::{Meta, Scan};
use crate::store::{Settled, Standing, StoreError, settle};

/// A batch ends with the row that reaches so many rows,
const ROWS: usize = 1_000;
/// or so many bytes.
const BYTES: usize = 2 << 20;
/// How often a batch is tried whose fate was decided against it.
const ATTEMPTS: u32 = 20;

/// Writes into a store that is claimed.
pub(super) struct Writer {
    meta: Arc<dyn Meta>,
    dir: PathBuf,
    /// The version at which the layout's row says that it is ours.
    claim: Version,
    rows: Vec<(RowKey, Option<Bytes>)>,
    bytes: usize,
}

impl Writer {
    /// Says that a restore goes on here, where there was nothing, or in the place of one that was cut off: another may have come to its end
    /// since that was looked at.
    pub(super) async fn claim(meta: Arc<dyn Meta>, dir: &Path, word: &str) -> Result<Writer, BackupError> {
        let key = rows::store("layout");
        for _ in 0..ATTEMPTS {
            let there = meta.get(std::slice::from_ref(&key)).await?.pop().flatten();
            if let Some(there) = there.as_ref().filter(|there| there.value == word) {
                let (claim, dir) = (there.version, dir.to_owned());
                return Ok(Writer { meta, dir, claim, rows: Vec::new(), bytes: 0 });
            }
            let text = there.as_ref().map(|there| String::from_utf8_lossy(&there.value));
            if !matches!(text.as_deref().map(Standing::read), None | Some(Standing::Restoring)) {
                return Err(BackupError::NotEmpty { what: "the metadata".into() });
            }
            let mut batch = Batch::new(clock::batch_id());
            batch.expect(key.clone(), Expect::as_read(there.as_ref())).put(key.clone(), word.to_owned());
            settle(&*meta, batch).await?;
        }
        Err(StoreError::Contended { attempts: ATTEMPTS }.into())
    }

    /// Removes all rows but the claim.
    pub(super) async fn clear(&mut self) -> Result<(), BackupError> {
        let claim = rows::store("layout");
        for table in Table::ALL {
            loop {
                let page = self.meta.scan(&Scan::prefix(table, "")).await?;
                let keys = page.rows.into_iter().map(|(key, _)| RowKey { table, key });
                let keys: Vec<_> = keys.filter(|key| *key != claim).collect();
                if keys.is_empty() {
                    break;
                }
                for key in keys {
                    self.add(key, None).await?;
                }
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Writes a row, sooner or later.
    pub(super) async fn put(&mut self, key: RowKey, value: Bytes) -> Result<(), BackupError> {
        self.add(key, Some(value)).await
    }

    async fn add(&mut self, key: RowKey, value: Option<Bytes>) -> Result<(), BackupError> {
        self.bytes += key.key.len() + value.as_ref().map_or(0, Bytes::len);
        self.rows.push((key, value));
        if self.rows.len() >= ROWS || self.bytes >= BYTES { self.flush().await } else { Ok(()) }
    }

    /// Writes all that was put.
    pub(super) async fn flush(&mut self) -> Result<(), BackupError> {
        self.bytes = 0;
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() { Ok(()) } else { self.commit(&rows).await }
    }

    /// Writes all that was put, then these, which end the claim, in one batch.
    pub(super) async fn finish(mut self, facts: impl Iterator<Item = (RowKey, Bytes)>) -> Result<(), BackupError> {
        self.flush().await?;
        self.commit(&facts.map(|(key, value)| (key, Some(value))).collect::<Vec<_>>()).await
    }

    async fn commit(&self, rows: &[(RowKey, Option<Bytes>)]) -> Result<(), BackupError> {
        let claim = rows::store("layout");
        for _ in 0..ATTEMPTS {
            let mut batch = Batch::new(clock::batch_id());
            batch.expect(claim.clone(), Expect::At(self.claim));
            batch.writes.extend(rows.iter().cloned());
            if let Settled::Committed = settle(&*self.meta, batch).await? {
                return Ok(());
            }
            let there = self.meta.get(std::slice::from_ref(&claim)).await?.pop().flatten();
            if there.is_none_or(|there| there.version != self.claim) {
                return Err(BackupError::Busy { dir: self.dir.clone() });
            }
        }
        Err(StoreError::Contended { attempts: ATTEMPTS }.into())
    }

    /// The rows that are written by now.
    pub(super) fn meta(&self) -> &dyn Meta {
        &*self.meta
    }
}
