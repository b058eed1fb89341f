//! Watching: a stream of what becomes of keys and of what runs under names, that can be taken up again where it was left.
//!
//! Events stand in the change feed, written by the batches that they tell of ([`tell`]). One task of each daemon reads that feed, and
//! hands what concerns watchers to all of them ([`pages`]); a watcher that begins, or that falls behind, reads the feed by itself
//! until it has caught up. Versions decide what it was told, so nothing is left out or told twice between the two. What is LOST
//! stands nowhere: it is found by testing records again whenever the log of lost digests changes ([`pass`]).
//!
//! Invariants: the cursor of what is told never goes beyond what was not told yet; however slow the reader is and whatever happens
//! meanwhile, memory is bounded. It must not know the wire.

mod losses;
mod pages;
mod pass;
mod take;
mod tell;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use provender_core::batch::{Table, Version};
use provender_core::event::{self, Cursor, Event, Watched};
use provender_core::key::TaskKey;
use provender_core::name::Space;
use provender_core::rows;
use provender_core::transition::Known;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use self::losses::Losses;
use self::pages::Page;
use self::pass::Pass;
use super::lookup::{decode_known, known_rows};
use super::{Store, StoreError};
use crate::clock;
use crate::meta::{MetaError, Scan};

pub(super) use self::pages::Pages;

/// How many changes a watcher that is behind reads at once.
const PAGE: usize = 1_000;
/// How many keys are read at once.
const KEYS: usize = 1_000;
/// After how many pages of the feed a loss is looked into, though there may be more losses in the next ones.
const PUT_OFF: u32 = 16;
/// A watcher that was told nothing for so long is told how far it has come.
const REACHED: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 10_000 });

/// What a watcher hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A verdict, and from where to go on after it; nowhere yet before the first [`Heard::Reached`].
    Event(Event, Option<Cursor>),
    /// All that there was so far has been told.
    Reached(Cursor),
}

/// One who watches. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Watching {
    store: Store,
    space: Space,
    watched: Watched,
    incarnation: u64,
    pages: broadcast::Receiver<Arc<Page>>,
    /// All of the feed up to here was taken in.
    at: Version,
    /// Whether there may be more in the feed than what will be handed out.
    behind: bool,
    ready: VecDeque<Heard>,
    /// The keys whose verdicts come first, those not told yet at the end.
    first: Vec<TaskKey>,
    /// Up to where of the feed what was told first of a key is the outcome of.
    told_first: HashMap<TaskKey, Version>,
    losses: Losses,
    pass: Option<Pass>,
    /// Whether it has come as far as to have a cursor.
    begun: bool,
    /// When it was last told something.
    told: Duration,
    _counted: Counted,
}

impl Store {
    /// Begins to watch: from a cursor on, else from now, with the verdicts that the keys have first.
    pub async fn watching(
        &self,
        space: &Space,
        watched: Watched,
        cursor: Option<Cursor>,
    ) -> Result<Watching, StoreError> {
        // Before anything is read, so that no page falls in between.
        let pages = self.inner.pages.subscribe();
        let incarnation = super::fact(&*self.inner.meta, pages::INCARNATION).await?;
        let damaged = || StoreError::Row { what: "the store's incarnation".into(), why: "it is unreadable".into() };
        let incarnation = incarnation.and_then(|text| text.parse().ok()).ok_or_else(damaged)?;
        let mut first = Vec::new();
        let (at, losses) = match cursor {
            Some(cursor) if cursor.incarnation != incarnation => {
                return Err(gone("it is of the store as it was before it was restored from a backup"));
            }
            Some(cursor) => {
                self.inner.meta.changes(cursor.version, 1).await.map_err(left_behind(cursor.version))?;
                (cursor.version, Losses::resumed(self.lost_head().await?, cursor))
            }
            None => {
                first.extend(watched.keys.iter().cloned());
                // Before the log is read: what enters it later is in the feed.
                let head = self.inner.meta.head().await?;
                let log = Scan { limit: 1, ..Scan::prefix(Table::Lost, rows::lost_prefix()) };
                let any = !watched.prefixes.is_empty() && !self.inner.meta.scan(&log).await?.rows.is_empty();
                (head, Losses::from_now(self.lost_head().await?, head, any))
            }
        };
        Ok(Watching {
            store: self.clone(),
            space: space.clone(),
            watched,
            incarnation,
            pages,
            at,
            behind: cursor.is_some(),
            ready: VecDeque::new(),
            first,
            told_first: HashMap::new(),
            losses,
            pass: None,
            begun: false,
            told: clock::monotonic(),
            _counted: Counted::new(self),
        })
    }

    /// What the rows of keys say, as [`Store::known_of`] does, each with the version of its newest row.
    async fn standing(&self, space: &Space, keys: &[TaskKey]) -> Result<Vec<(Known, Version)>, StoreError> {
        let wanted = keys.iter().flat_map(|key| known_rows(space, key));
        let wanted: Vec<_> = wanted.chain([rows::store(rows::LOST_HEAD)]).collect();
        let mut found = self.inner.meta.get(&wanted).await?;
        let lost = super::lost::head(found.pop().flatten())?;
        let pairs = || keys.iter().zip(found.chunks_exact(2));
        let mut known = pairs().map(|(key, pair)| decode_known(key, pair)).collect::<Result<Vec<_>, _>>()?;
        self.test_records(space, keys, &mut known, lost).await?;
        let newest =
            |pair: &[Option<_>]| pair.iter().flatten().map(|row: &provender_core::batch::Row| row.version).max();
        let versions = pairs().map(|(_, pair)| newest(pair).unwrap_or_default());
        Ok(known.into_iter().zip(versions).collect())
    }
}

impl Watching {
    /// The next thing to be told; waits for it. After an error it must not be used any more.
    pub async fn next(&mut self) -> Result<Heard, StoreError> {
        loop {
            if let Some(heard) = self.ready.pop_front() {
                self.told = clock::monotonic();
                return Ok(heard);
            }
            self.advance().await?;
        }
    }

    /// One step, of bounded work and answer.
    async fn advance(&mut self) -> Result<(), StoreError> {
        if !self.first.is_empty() {
            return self.tell_first().await;
        }
        if let Some(pass) = self.pass.take() {
            return self.go_on(pass).await;
        }
        if let Some(due) = self.losses.due(!self.begun || !self.behind) {
            self.pass = Some(Pass::new(&self.watched, due));
            return Ok(());
        }
        if !self.begun {
            self.begun = true;
            self.reached();
            return Ok(());
        }
        match self.behind {
            true => self.catch_up().await,
            false => self.wait().await,
        }
    }

    /// The verdicts that some of the keys have.
    async fn tell_first(&mut self) -> Result<(), StoreError> {
        let keys = self.first.split_off(self.first.len().saturating_sub(KEYS));
        let standing = self.store.standing(&self.space, &keys).await?;
        let made = self.store.evidence_of(&self.space, standing.iter().map(|(known, _)| known)).await?;
        for (key, (known, version)) in keys.into_iter().zip(standing) {
            let of = known.evidence().and_then(|id| made.get(&id)).map(|(execution, _)| execution);
            self.losses.told(&key, event::lost_record(&known));
            self.ready.push_back(Heard::Event(tell::event_of(&key, &known, of), None));
            self.told_first.insert(key, version);
        }
        Ok(())
    }

    /// Takes in a page of the feed that was not handed out in time.
    async fn catch_up(&mut self) -> Result<(), StoreError> {
        let page = self.store.inner.meta.changes(self.at, PAGE).await.map_err(left_behind(self.at))?;
        // What comes later is handed out, or found missing by its page's version.
        self.behind = !page.changes.is_empty();
        self.take_in(&pages::told(&page.changes), page.cursor).await
    }

    /// Waits for a page, and takes it in; tells how far it has come if that takes long.
    async fn wait(&mut self) -> Result<(), StoreError> {
        let quiet = (self.told + REACHED).saturating_sub(clock::monotonic());
        tokio::select! {
            page = self.pages.recv() => self.handed(page).await,
            () = tokio::time::sleep(quiet) => {
                // All up to here was sent before this is read.
                let reached = self.store.inner.pages.reached();
                while self.ready.is_empty() && let Some(page) = next_at_once(&mut self.pages) {
                    self.handed(page).await?;
                }
                if self.ready.is_empty() && !self.behind && !self.losses.holds() {
                    self.at = self.at.max(reached);
                    self.reached();
                }
                Ok(())
            }
        }
    }

    async fn handed(&mut self, page: Result<Arc<Page>, RecvError>) -> Result<(), StoreError> {
        match page {
            Ok(page) if page.after <= self.at => self.take_in(&page.told, page.upto).await,
            // What lies between stands in the feed.
            Ok(_) | Err(RecvError::Lagged(_)) => {
                self.behind = true;
                Ok(())
            }
            Err(RecvError::Closed) => Err(StoreError::Draining),
        }
    }

    /// Tells of a verdict; with it all up to `version` has been told.
    fn push(&mut self, event: Event, version: Version) {
        let cursor = self.begun.then(|| self.losses.cursor(self.incarnation, version));
        self.ready.push_back(Heard::Event(event, cursor));
    }

    fn reached(&mut self) {
        let cursor = self.losses.cursor(self.incarnation, self.at);
        self.ready.push_back(Heard::Reached(cursor));
    }
}

/// A page that is there already.
fn next_at_once(pages: &mut broadcast::Receiver<Arc<Page>>) -> Option<Result<Arc<Page>, RecvError>> {
    use broadcast::error::TryRecvError;
    match pages.try_recv() {
        Ok(page) => Some(Ok(page)),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Lagged(pages)) => Some(Err(RecvError::Lagged(pages))),
        Err(TryRecvError::Closed) => Some(Err(RecvError::Closed)),
    }
}

fn gone(why: impl ToString) -> StoreError {
    StoreError::Cursor { why: why.to_string() }
}

/// What it means that the feed does not go on from a version.
fn left_behind(at: Version) -> impl FnOnce(MetaError) -> StoreError {
    move |error| match error {
        MetaError::Trimmed { oldest } if at < oldest => {
            gone("what happened since is remembered for about a day, and that is over")
        }
        MetaError::Trimmed { .. } => gone("it is ahead of the store, which has been restored from a backup"),
        other => other.into(),
    }
}

/// Counts somebody who watches, until dropped.
#[derive(Debug)]
struct Counted(prometheus::IntGauge);

impl Counted {
    fn new(store: &Store) -> Counted {
        let gauge = store.metrics().watching.clone();
        gauge.inc();
        Counted(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
