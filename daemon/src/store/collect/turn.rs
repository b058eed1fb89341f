//! Whose turn it is to collect: one row, which counts on as long as that daemon lives.
//!
//! It saves work and guards nothing: whatever a run does expects what it was decided by.

use std::time::Duration;

use provender_core::batch::{Batch, Expect, Row};
use provender_core::{RowKey, digest, rows};

use super::super::transact::{Settled, settle};
use super::super::{Store, StoreError};
use crate::clock;

/// How often a sign of life is given.
const BEAT: Duration = Duration::from_secs(3);
/// After how long without one another daemon goes on, and how often it looks.
const GONE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(250);

pub(super) struct Turn {
    store: Store,
    id: String,
    beats: u64,
    told: Duration,
}

fn row() -> RowKey {
    rows::store("collector")
}

impl Turn {
    /// Takes the turn, from one who gives no sign of life if need be; `None` if another daemon collects now.
    pub(super) async fn take(store: &Store) -> Result<Option<Turn>, StoreError> {
        let since = clock::monotonic();
        let first = read(store).await?;
        loop {
            let now = read(store).await?;
            if first.as_ref().map(|row| row.version) != now.as_ref().map(|row| row.version) {
                return Ok(None);
            }
            // Where there is no other daemon, it is of one that has died.
            if now.is_none() || !store.is_shared() || clock::monotonic().saturating_sub(since) > GONE {
                let id = digest::hex(&clock::random::<8>());
                let turn = Turn { store: store.clone(), id, beats: 0, told: clock::monotonic() };
                return Ok(turn.write(now).await?.then_some(turn));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn write(&self, there: Option<Row>) -> Result<bool, StoreError> {
        let mut batch = Batch::new(clock::batch_id());
        batch.expect(row(), Expect::as_read(there.as_ref())).put(row(), format!("{} {}", self.id, self.beats));
        Ok(matches!(settle(&*self.store.inner.meta, batch).await?, Settled::Committed))
    }

    /// Gives a sign of life, if it is time. Fails if another one has taken over.
    pub(super) async fn beat(&mut self) -> Result<(), StoreError> {
        if clock::monotonic().saturating_sub(self.told) < BEAT {
            return Ok(());
        }
        (self.told, self.beats) = (clock::monotonic(), self.beats + 1);
        let there = read(&self.store).await?;
        match self.is_mine(there.as_ref()) && self.write(there).await? {
            true => Ok(()),
            false => Err(StoreError::Collecting),
        }
    }

    fn is_mine(&self, there: Option<&Row>) -> bool {
        there.is_some_and(|there| there.value.starts_with(self.id.as_bytes()))
    }

    /// The next one may begin.
    pub(super) async fn end(self) {
        let ended = async {
            let there = read(&self.store).await?;
            if self.is_mine(there.as_ref()) {
                let mut batch = Batch::new(clock::batch_id());
                batch.expect(row(), Expect::as_read(there.as_ref())).delete(row());
                settle(&*self.store.inner.meta, batch).await?;
            }
            Ok::<_, StoreError>(())
        };
        // It goes stale by itself.
        if let Err(error) = ended.await {
            tracing::debug!(error = %super::chain(&error), "the end of a collection could not be noted");
        }
    }
}

async fn read(store: &Store) -> Result<Option<Row>, StoreError> {
    Ok(store.inner.meta.get(&[row()]).await?.pop().flatten())
}
