//! Who waits for which row, and the task that wakes them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use provender_core::RowKey;
use tokio::sync::Notify;

/// The rows that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Feed {
    waiting: Mutex<HashMap<RowKey, Arc<Notify>>>,
}

impl Feed {
    /// What is notified when the row changes. Ask for it, and `enable` its future, before reading the row.
    pub(super) fn of(&self, key: &RowKey) -> Arc<Notify> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.entry(key.clone()).or_default().clone()
    }

    /// Wakes those who wait for the row, and forgets rows that nobody waits for any more.
    pub(super) fn changed(&self, key: &RowKey) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notify) = waiting.get(key) {
            notify.notify_waiters();
            if Arc::strong_count(notify) == 1 {
                waiting.remove(key);
            }
        }
    }

    /// Wakes everybody: changes may have been missed.
    pub(super) fn all_changed(&self) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.values().for_each(|notify| notify.notify_waiters());
    }
}
