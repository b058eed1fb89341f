//! When records were last answers, about.
//!
//! An answer costs a look into memory; the first of a while also a line in a file of this daemon, which is not synced but outlives it, and all
//! of them together are written into the metadata a second later. Invariants: what was answered is written down within [`FLUSH`], or by the
//! next daemon that starts on this file; a record that is about to be collected is answered with only once it was said that it stays.
//!
//! Whoever collects says first which records leave, then waits for those who may have read before that and have not noted it yet: of its own
//! daemon they are counted; those of others have [`OTHERS`], and who is slower than that looks again ([`Answering::is_late`]).

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use provender_core::key::TaskKey;
use provender_core::name::Space;
use provender_core::{Timestamp, rows};
use provender_proto::rows as values;

use super::{Store, StoreError};
use crate::clock;

/// How often what was answered is written into the metadata.
pub(super) const FLUSH: Duration = Duration::from_secs(1);
/// How long whoever collects waits for the answers of daemons beside it, and of its own.
const OTHERS: Duration = Duration::from_millis(2500);
const OWN: Duration = Duration::from_millis(5);
/// What of that an answer may take from its first read on, and writing it down after that.
const LATE: Duration = Duration::from_millis(500);
const BEHIND: Duration = Duration::from_millis(1500);
/// How many keys are remembered, at 8 bytes each, or a little more.
const MOST: usize = 1 << 20;
/// How many are written in one batch.
const BATCH: usize = 1_000;

/// What was answered lately.
#[derive(Debug, Default)]
pub(super) struct Used {
    state: Mutex<State>,
    hash: RandomState,
    /// Whether other daemons answer from the same metadata.
    shared: AtomicBool,
    /// How many answers are on their way that were begun in an even or an odd round.
    answering: [AtomicU64; 2],
    round: AtomicU64,
}

/// An answer on its way, from before its first read until it is noted.
pub(super) struct Answering<'a> {
    used: &'a Used,
    round: usize,
    since: Duration,
}

impl Answering<'_> {
    /// Whether another daemon's collector may not have waited for it.
    pub(super) fn is_late(&self) -> bool {
        let state = self.used.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::monotonic();
        let is_behind = state.waiting_since.is_some_and(|since| now.saturating_sub(since) > BEHIND);
        self.used.shared.load(Ordering::Relaxed) && (is_behind || now.saturating_sub(self.since) > LATE)
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.used.answering[self.round].fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Debug, Default)]
struct State {
    /// Hashes of those that were written down since `since`.
    known: HashSet<u64>,
    since: Option<Timestamp>,
    /// Those that are not in the metadata yet.
    waiting: Vec<(Space, TaskKey)>,
    /// Since when some of these, or of those that are being written, are not.
    waiting_since: Option<Duration>,
    file: Option<File>,
}

impl Used {
    /// Notes those that were not noted lately.
    fn note<'a>(&self, space: &Space, keys: impl Iterator<Item = &'a TaskKey>, now: Timestamp, after: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stale = |since: Timestamp| since > now || Duration::from_millis(now.millis() - since.millis()) > after;
        if state.since.is_none_or(stale) || state.known.len() >= MOST {
            state.known.clear();
            state.since = Some(now);
        }
        let mut lines = Vec::new();
        for key in keys {
            if state.known.insert(self.hash.hash_one((space, key))) {
                append(&mut lines, space, key);
                state.waiting.push((space.clone(), key.clone()));
                state.waiting_since.get_or_insert_with(clock::monotonic);
            }
        }
        if let (Some(file), false) = (&mut state.file, lines.is_empty())
            && let Err(error) = file.write_all(&lines)
        {
            tracing::debug!(%error, "what was answered could not be noted in the file");
        }
    }

    fn take(&self) -> Vec<(Space, TaskKey)> {
        std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).waiting)
    }

    fn give_back(&self, keys: Vec<(Space, TaskKey)>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).waiting.extend(keys);
    }

    /// What is in the metadata need not be in the file.
    fn written(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_all = state.waiting.is_empty();
        state.waiting_since = (!is_all).then(clock::monotonic);
        if let (Some(file), true) = (&state.file, is_all)
            && let Err(error) = file.set_len(0)
        {
            tracing::debug!(%error, "the file of what was answered could not be emptied");
        }
    }
}

/// A line: the lengths, then the texts. A line that was cut off is none.
fn append(lines: &mut Vec<u8>, space: &Space, key: &TaskKey) {
    for text in [space.as_str(), key.as_str()] {
        lines.extend_from_slice(&(text.len() as u16).to_be_bytes());
        lines.extend_from_slice(text.as_bytes());
    }
}

fn parse(mut lines: &[u8]) -> Vec<(Space, TaskKey)> {
    let mut text = || {
        let (len, rest) = lines.split_first_chunk()?;
        let (text, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        lines = rest;
        std::str::from_utf8(text).ok().map(str::to_owned)
    };
    let pair = || Some((Space::new(text()?).ok()?, text()?.parse().ok()?));
    std::iter::from_fn(pair).collect()
}

impl Store {
    /// Notes what is answered in this file, after taking over what stands in it. `shared` says whether other daemons answer as well.
    pub async fn note_uses(&self, path: &Path, shared: bool) -> Result<(), StoreError> {
        self.inner.used.shared.store(shared, Ordering::Relaxed);
        let opened = OpenOptions::new().read(true).append(true).create(true).open(path).and_then(|mut file| {
            let mut lines = Vec::new();
            file.read_to_end(&mut lines)?;
            Ok((file, lines))
        });
        let (file, lines) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "what is answered is not noted in a file: if this daemon is killed, collection may not know of its last second");
                return Ok(());
            }
        };
        self.inner.used.give_back(parse(&lines));
        self.inner.used.state.lock().unwrap_or_else(PoisonError::into_inner).file = Some(file);
        self.flush_used().await
    }

    /// Whether other daemons may be at the same metadata.
    pub(super) fn is_shared(&self) -> bool {
        self.inner.used.shared.load(Ordering::Relaxed)
    }

    /// An answer begins: nothing of what it is made from was read yet.
    pub(super) fn answering(&self) -> Answering<'_> {
        let used = &self.inner.used;
        loop {
            let round = used.round.load(Ordering::SeqCst);
            let at = (round % 2) as usize;
            used.answering[at].fetch_add(1, Ordering::SeqCst);
            let answering = Answering { used, round: at, since: clock::monotonic() };
            // Else whoever waits may have looked in between.
            if used.round.load(Ordering::SeqCst) == round {
                return answering;
            }
        }
    }

    /// Says that these were answers. To be said before they are told.
    pub(super) fn note_used<'a>(&self, space: &Space, keys: impl Iterator<Item = &'a TaskKey>) {
        self.inner.used.note(space, keys, clock::now(), self.collection().touch_after());
    }

    /// Writes what was answered into the metadata.
    pub async fn flush_used(&self) -> Result<(), StoreError> {
        let mut waiting = self.inner.used.take();
        while !waiting.is_empty() {
            let rest = waiting.split_off(waiting.len().min(BATCH));
            let (now, piece) = (clock::now(), &waiting);
            let written = self.transact(|mut txn| {
                piece.iter().for_each(|(space, key)| txn.put(rows::used(space, key), values::holding_to(now)));
                async move { Ok((txn, ())) }
            });
            if let Err(error) = written.await {
                self.inner.used.give_back(waiting.into_iter().chain(rest).collect());
                return Err(error);
            }
            waiting = rest;
        }
        self.inner.used.written();
        Ok(())
    }

    /// Does so again and again.
    pub async fn flush_forever(self) {
        loop {
            tokio::time::sleep(FLUSH).await;
            if let Err(error) = self.flush_used().await {
                tracing::debug!(error = %super::chain(&error), "what was answered could not be written down; it will be tried again");
            }
        }
    }

    /// Says of records that were about to be collected that they stay.
    pub(super) async fn rescue(&self, space: &Space, keys: &[TaskKey]) -> Result<(), StoreError> {
        self.transact(|mut txn| async move {
            let places: Vec<_> = keys.iter().map(|key| rows::key(space, key)).collect();
            let now = clock::now();
            for ((key, place), row) in keys.iter().zip(&places).zip(txn.get(&places).await?) {
                let Some(row) = row else { continue };
                let mut row = values::key_from(row.value).map_err(StoreError::row(key))?;
                if row.leaving {
                    row.leaving = false;
                    txn.put(place.clone(), values::key_to(&row));
                    txn.put(rows::used(space, key), values::holding_to(now));
                }
            }
            Ok((txn, ()))
        })
        .await
    }
}

/// Returns once whatever was read for an answer before is in the metadata, of every daemon that is alive. One at a time calls it.
pub(super) async fn wait_for_answers(store: &Store) -> Result<(), StoreError> {
    let used = &store.inner.used;
    let before = used.round.fetch_add(1, Ordering::SeqCst) % 2;
    while used.answering[before as usize].load(Ordering::SeqCst) > 0 {
        tokio::time::sleep(OWN).await;
    }
    if store.is_shared() {
        tokio::time::sleep(OTHERS).await;
    }
    store.flush_used().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_off_is_none() {
        let (space, key) = (Space::default(), "t:one".parse::<TaskKey>().expect("valid"));
        let mut lines = Vec::new();
        append(&mut lines, &space, &key);
        let one = lines.len();
        append(&mut lines, &space, &"t:two".parse().expect("valid"));
        for cut in 0..lines.len() {
            assert_eq!(parse(&lines[..cut]).len(), cut / one, "{cut}");
        }
        assert_eq!(parse(&lines).len(), 2);
        assert_eq!(parse(&lines)[0], (space, key));
    }
}
