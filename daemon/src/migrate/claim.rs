//! Being the one that migrates.
//!
//! Invariant: whatever is written holds only if the row still says what this one wrote last, so that one who was taken over changes
//! nothing any more.

use std::sync::Arc;
use std::time::Duration;

use provender_core::batch::{Batch, Expect, Row, RowKey, Version};
use provender_core::rows;

use super::MigrateError;
use crate::clock;
use crate::meta::Meta;
use crate::store::{LAYOUT, Moving, Settled, Standing, StoreError, settle, standing};

/// How often a sign of life is given while a step takes long.
const BEAT: Duration = Duration::from_secs(5);
/// How often a batch is tried whose fate was decided against it.
const ATTEMPTS: u32 = 20;

/// The row, as this one wrote it.
#[derive(Debug)]
pub(super) struct Claim {
    meta: Arc<dyn Meta>,
    moving: Moving,
    version: Version,
}

/// What became of a batch.
pub(super) enum Written {
    Done,
    /// A row that it read was changed meanwhile.
    Changed,
}

fn row() -> RowKey {
    rows::store("layout")
}

async fn read(meta: &dyn Meta) -> Result<Option<Row>, StoreError> {
    Ok(meta.get(&[row()]).await?.pop().flatten())
}

impl Claim {
    /// Takes it over from whoever had it, if nobody else does so at the same time.
    pub(super) async fn take(meta: &Arc<dyn Meta>) -> Result<Option<Claim>, MigrateError> {
        let by = clock::random();
        for _ in 0..ATTEMPTS {
            let there = read(&**meta).await?;
            let moving = match standing(&**meta).await? {
                Some(Standing::At(from)) if from < LAYOUT => {
                    Moving { from, to: LAYOUT, by, beat: 0, snapshot: None, after: None }
                }
                Some(Standing::Moving(moving)) if moving.by == by => {
                    let version = there.map(|there| there.version).unwrap_or_default();
                    return Ok(Some(Claim { meta: meta.clone(), moving, version }));
                }
                Some(Standing::Moving(moving)) if moving.to <= LAYOUT => {
                    Moving { to: LAYOUT, by, beat: moving.beat + 1, ..moving }
                }
                _ => return Ok(None),
            };
            let mut batch = Batch::new(clock::batch_id());
            batch.expect(row(), Expect::as_read(there.as_ref())).put(row(), moving.text());
            settle(&**meta, batch).await?;
        }
        Err(StoreError::Contended { attempts: ATTEMPTS }.into())
    }

    pub(super) fn moving(&self) -> &Moving {
        &self.moving
    }

    pub(super) fn meta(&self) -> &dyn Meta {
        &*self.meta
    }

    /// Commits a batch together with a sign of life, and with `change` to where the step is.
    pub(super) async fn commit(
        &mut self,
        batch: &Batch,
        change: impl Fn(&mut Moving),
    ) -> Result<Written, MigrateError> {
        let mut moving = self.moving.clone();
        moving.beat += 1;
        change(&mut moving);
        self.write(batch, moving.text(), Some(moving)).await
    }

    /// Changes where it is.
    pub(super) async fn change(&mut self, change: impl Fn(&mut Moving)) -> Result<(), MigrateError> {
        self.commit(&Batch::new(clock::batch_id()), change).await.map(drop)
    }

    /// The layout is reached; with the last one the claim ends.
    pub(super) async fn reached(&mut self, layout: u32) -> Result<(), MigrateError> {
        if layout < LAYOUT {
            return self.change(|moving| (moving.from, moving.after) = (layout, None)).await;
        }
        self.write(&Batch::new(clock::batch_id()), layout.to_string(), None).await?;
        self.moving.from = layout;
        Ok(())
    }

    async fn write(&mut self, batch: &Batch, text: String, then: Option<Moving>) -> Result<Written, MigrateError> {
        for _ in 0..ATTEMPTS {
            let mut batch = Batch { id: clock::batch_id(), ..batch.clone() };
            batch.expect(row(), Expect::At(self.version)).put(row(), text.clone());
            let settled = settle(&*self.meta, batch.clone()).await?;
            let there = read(&*self.meta).await?;
            if let Settled::Committed = settled {
                // Nobody else writes it unless this one stood still.
                match there.filter(|there| there.value == text.as_bytes()) {
                    Some(there) => self.version = there.version,
                    None => return Err(MigrateError::Overtaken),
                }
                self.moving = then.unwrap_or_else(|| self.moving.clone());
                return Ok(Written::Done);
            }
            if there.is_none_or(|there| there.version != self.version) {
                return Err(MigrateError::Overtaken);
            }
            let keys: Vec<_> = batch.expect.keys().filter(|key| **key != row()).cloned().collect();
            let now = self.meta.get(&keys).await?;
            if keys.iter().zip(&now).any(|(key, now)| batch.expect.get(key) != Some(&Expect::as_read(now.as_ref()))) {
                return Ok(Written::Changed);
            }
        }
        Err(StoreError::Contended { attempts: ATTEMPTS }.into())
    }

    /// Gives signs of life while `work` goes on.
    pub(super) async fn beating<T>(&mut self, work: impl Future<Output = T>) -> Result<T, MigrateError> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(BEAT) => self.change(|_| {}).await?,
            }
        }
    }
}
