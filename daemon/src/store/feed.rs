//! Who waits for which row, and waking them; and who follows all of them.
//!
//! Invariant: a row stands here only while somebody waits for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use provender_core::RowKey;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, broadcast};

use super::Store;

/// How many changes may wait for who follows them all, before it loses some.
const FOLLOWED: usize = 4096;

/// The rows that somebody waits for.
#[derive(Debug)]
pub(super) struct Feed {
    waiting: Mutex<BTreeMap<RowKey, Arc<Notify>>>,
    all: broadcast::Sender<RowKey>,
}

impl Default for Feed {
    fn default() -> Feed {
        Feed { waiting: Mutex::default(), all: broadcast::Sender::new(FOLLOWED) }
    }
}

impl Feed {
    /// Wakes those who wait for the row.
    pub(super) fn changed(&self, key: &RowKey) {
        if let Some(notify) = self.waiting().get(key) {
            notify.notify_waiters();
        }
        // Nobody may follow.
        _ = self.all.send(key.clone());
    }

    /// Wakes everybody: changes may have been missed.
    pub(super) fn all_changed(&self) {
        self.waiting().values().for_each(|notify| notify.notify_waiters());
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting().len()
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<RowKey, Arc<Notify>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits for a row, until dropped.
#[derive(Debug)]
pub struct Waiter {
    store: Store,
    key: RowKey,
    notify: Arc<Notify>,
}

impl Store {
    /// The rows of the change feed, as they change from now on, soon after. Who is slow is told that it missed some.
    pub fn changing(&self) -> broadcast::Receiver<RowKey> {
        self.inner.feed.all.subscribe()
    }
}

impl Waiter {
    pub(super) fn new(store: &Store, key: RowKey) -> Waiter {
        let notify = store.inner.feed.waiting().entry(key.clone()).or_default().clone();
        Waiter { store: store.clone(), key, notify }
    }

    /// Ready when the row changes. `enable` it before reading the row, so that no change falls in between.
    pub fn changed(&self) -> Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.store.inner.feed.waiting();
        // It goes under the lock, so that of several who go at once the last one sees that it is.
        drop(std::mem::take(&mut self.notify));
        if waiting.get(&self.key).is_some_and(|notify| Arc::strong_count(notify) == 1) {
            waiting.remove(&self.key);
        }
    }
}
