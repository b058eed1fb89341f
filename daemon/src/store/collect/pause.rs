//! A pause for whoever copies the store: what was there when they began is there until they are done.
//!
//! It is a fact that says until when, and is renewed while they live. Invariant: no bytes are removed before that, unless room is wanted, which
//! goes before.

use std::time::Duration;

use provender_core::collect::later;
use provender_core::{Timestamp, rows};
use tokio_util::task::AbortOnDropHandle;

use super::super::{Store, StoreError, chain, fact};
use crate::clock;

/// How long a sign of life lasts, and how often one is given.
const LASTS: Duration = Duration::from_secs(60);
const BEAT: Duration = Duration::from_secs(15);
/// The fact of until when.
pub(crate) const PAUSED: &str = "pause";

impl Store {
    /// Has no bytes removed until what this gives is dropped, and a minute longer at the most.
    pub(crate) async fn pause_removal(&self) -> Result<AbortOnDropHandle<()>, StoreError> {
        self.prolong_pause().await?;
        let store = self.clone();
        Ok(AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                tokio::time::sleep(BEAT).await;
                if let Err(error) = store.prolong_pause().await {
                    tracing::warn!(error = %chain(&error), "what is copied may be collected meanwhile");
                }
            }
        })))
    }

    async fn prolong_pause(&self) -> Result<(), StoreError> {
        let until = later(clock::now(), LASTS);
        self.transact(|mut txn| {
            txn.put(rows::store(PAUSED), until.millis().to_string());
            async move { Ok((txn, ())) }
        })
        .await
    }

    /// Whether removing bytes has to wait.
    pub(super) async fn is_paused(&self) -> Result<bool, StoreError> {
        let until = fact(&*self.inner.meta, PAUSED).await?.and_then(|text| text.parse().ok());
        Ok(until.is_some_and(|until| Timestamp::from_millis(until) > clock::now()))
    }
}
