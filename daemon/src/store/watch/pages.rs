//! Handing out: what of the change feed concerns watchers, read and decoded once for all of them.
//!
//! Invariant: a page has everything that concerns watchers between its two versions; pages that are sent follow each other without a
//! gap, unless the follower lost its place, which shows in their versions. How many pages wait is bounded: a watcher that is
//! slower loses some, and reads the feed instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use provender_core::batch::{Change, Table, Version};
use provender_core::event::Noted;
use provender_core::name::Space;
use provender_core::rows;
use provender_proto::rows as values;
use tokio::sync::{Semaphore, SemaphorePermit, broadcast};

use crate::meta::Changes;
use crate::store::error::chain;

/// How many pages wait for the slowest watcher.
pub(super) const WAITING: usize = 16;
/// How many watchers of this daemon test records at the same time.
const TESTING: usize = 2;
/// The fact that is raised when the store was restored.
pub(super) const INCARNATION: &str = "incarnation";

/// A part of the feed.
#[derive(Debug)]
pub(super) struct Page {
    /// It begins after this version.
    pub(super) after: Version,
    /// And has all up to this one.
    pub(super) upto: Version,
    pub(super) told: Vec<(Version, Told)>,
}

/// What concerns watchers.
#[derive(Debug)]
pub(super) enum Told {
    /// A verdict has changed.
    Event(Space, Box<Noted>),
    /// A digest was entered into the log of lost ones, at this position.
    Loss(u64),
    /// One was stored anew.
    Healing,
    /// The store was restored.
    Restored,
}

/// Where pages are handed out.
#[derive(Debug)]
pub(in crate::store) struct Pages {
    sender: broadcast::Sender<Arc<Page>>,
    reached: AtomicU64,
    testing: Semaphore,
}

impl Default for Pages {
    fn default() -> Pages {
        Pages { sender: broadcast::Sender::new(WAITING), reached: AtomicU64::new(0), testing: Semaphore::new(TESTING) }
    }
}

impl Pages {
    /// A follower begins at a version: what watchers have not heard before it, they read by themselves.
    pub(in crate::store) fn begin(&self, at: Version) {
        self.send(Page { after: at, upto: at, told: Vec::new() });
        self.reached.store(at.0, Ordering::Release);
    }

    /// Hands out what a follower has read since it last handed out something, which was up to `sent`; gives the new place.
    pub(in crate::store) fn hand_out(&self, sent: Version, page: &Changes) -> Version {
        // Whoever begins to watch now has this page behind it.
        let nobody = self.sender.receiver_count() == 0;
        let told = if nobody { Vec::new() } else { told(&page.changes) };
        let quiet = told.is_empty();
        if !quiet {
            self.send(Page { after: sent, upto: page.cursor, told });
        }
        self.reached.store(page.cursor.0, Ordering::Release);
        if quiet && !nobody { sent } else { page.cursor }
    }

    /// All up to here was sent.
    pub(super) fn reached(&self) -> Version {
        Version(self.reached.load(Ordering::Acquire))
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Page>> {
        self.sender.subscribe()
    }

    /// Leave to test records: few do so at a time, and each for a short while.
    pub(super) async fn testing(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.testing.acquire().await.ok()
    }

    fn send(&self, page: Page) {
        // An error means that nobody watches.
        _ = self.sender.send(Arc::new(page));
    }
}

/// What of some changes concerns watchers.
pub(super) fn told(changes: &[Change]) -> Vec<(Version, Told)> {
    let one = |change: &Change| {
        let told = match change.key.table {
            Table::Event => event(change)?,
            Table::Lost if change.deleted => Told::Healing,
            Table::Lost => Told::Loss(rows::parse_lost(&change.key.key)?),
            Table::Store if change.key == rows::store(INCARNATION) => Told::Restored,
            _ => return None,
        };
        Some((change.version, told))
    };
    changes.iter().filter_map(one).collect()
}

/// One that cannot be read was written by a later version: nobody here would understand it.
fn event(change: &Change) -> Option<Told> {
    let (space, event) = rows::parse_event(&change.key.key)?;
    match values::event_from(event) {
        Ok(noted) => Some(Told::Event(space, Box::new(noted))),
        Err(error) => {
            tracing::warn!(version = change.version.0, error = %chain(&error), "an event cannot be read; it is not told");
            None
        }
    }
}
