//! Room for what comes: who uploads sets it aside first, and has collection make some if there is none.
//!
//! What was known last counts, so that nobody reads anything for it. Invariant: by all that daemons together admit, no more comes than the quota,
//! but for what one of them admits while it does not yet know of another's; what is protected never goes for it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use provender_core::collect::shed::{Limits, Room};

use super::super::{Store, StoreError};
use super::SPARE;
use crate::clock;

/// How long an upload waits for room, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(100);
/// From how many bytes on the disk is looked at for one upload.
const LARGE: u64 = 1 << 20;
/// How long after a run in vain none is called for just because too much is stored.
const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(300);

/// What was known last of the room, and what has come since.
#[derive(Debug, Default)]
pub(in crate::store) struct Known(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    limits: Limits,
    room: Room,
    /// The bytes that uploads under way have set aside.
    set_aside: u64,
    /// How many runs have begun, and which was the last that ended.
    begun: u64,
    ended: u64,
    /// Changes while a run takes something away.
    progress: u64,
    /// Until then another run for want of room would find no more than the last one.
    in_vain_until: Duration,
}

impl State {
    /// What there is for an upload of which so many bytes are on the disk already.
    fn room_for(&self, there: u64) -> Room {
        Room {
            used: self.room.used.saturating_add(self.set_aside),
            free: self.room.free.map(|free| free.saturating_add(there)),
            ..self.room
        }
    }
}

impl Known {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, room: Room, limits: Limits) {
        let mut state = self.state();
        let asked = state.room.asked;
        (state.room, state.limits) = (Room { asked, ..room }, limits);
    }

    /// Whether somebody waits for room.
    pub(super) fn is_asked(&self) -> bool {
        self.state().room.asked > 0
    }

    /// A run has taken something away.
    pub(super) fn progressed(&self) {
        let mut state = self.state();
        state.progress = state.progress.wrapping_add(1);
    }

    /// Whether a run for want of room may find something.
    pub(super) fn is_worth_it(&self) -> bool {
        clock::monotonic() >= self.state().in_vain_until
    }

    /// A run has not made the room that is wanted.
    pub(super) fn in_vain(&self, protect: Duration) {
        self.state().in_vain_until = clock::monotonic() + (protect / 10).clamp(SHORT, LONG);
    }

    /// The most that somebody waits for. It is asked for once, unless this is to change nothing.
    pub(super) fn asked(&self, dry_run: bool) -> u64 {
        let asked = &mut self.state().room.asked;
        if dry_run { *asked } else { std::mem::take(asked) }
    }

    /// So many bytes more are stored, or fewer.
    pub(in crate::store) fn grow(&self, bytes: i64) {
        let mut state = self.state();
        state.room.used = state.room.used.saturating_add_signed(bytes);
        state.room.free = state.room.free.map(|free| free.saturating_add_signed(bytes.saturating_neg()));
    }

    /// A run begins; its number.
    pub(super) fn begin(&self) -> u64 {
        let mut state = self.state();
        state.begun += 1;
        state.begun
    }

    /// A run has ended, however that was.
    pub(super) fn end(&self, run: u64) {
        self.state().ended = run;
    }
}

/// Room that is set aside until this is dropped.
pub(in crate::store) struct SetAside {
    store: Store,
    bytes: u64,
}

impl Drop for SetAside {
    fn drop(&mut self) {
        let mut state = self.store.inner.collecting.room.state();
        state.set_aside = state.set_aside.saturating_sub(self.bytes);
    }
}

impl Store {
    /// Sets aside room for so many more bytes if there is some, of which so many are on the disk already.
    pub(in crate::store) fn admit_now(&self, bytes: u64, there: u64) -> Option<SetAside> {
        let mut state = self.inner.collecting.room.state();
        let is_there = state.limits.admits(state.room_for(there), bytes);
        is_there.then(|| self.set_aside(&mut state, bytes))
    }

    fn set_aside(&self, state: &mut State, bytes: u64) -> SetAside {
        state.set_aside = state.set_aside.saturating_add(bytes);
        SetAside { store: self.clone(), bytes }
    }

    /// Sets aside room for so many more bytes, of which so many are on the disk already, and waits until there is some. Fails if collection
    /// makes none.
    pub(in crate::store) async fn admit(&self, bytes: u64, there: u64) -> Result<SetAside, StoreError> {
        // Others fill the disk as well.
        if bytes >= LARGE
            && let Some(disk) = self.inner.blobs.space().await?
        {
            self.inner.collecting.room.state().room.free = Some(disk.free.saturating_sub(SPARE));
        }
        let (mut until, mut called, mut progress) = (clock::monotonic() + PATIENCE, None, 0);
        loop {
            {
                let mut state = self.inner.collecting.room.state();
                let (limits, room) = (state.limits, state.room_for(there));
                let called = *called.get_or_insert(state.begun);
                if state.progress != progress {
                    (until, progress) = (clock::monotonic() + PATIENCE, state.progress);
                }
                // What a run has not made room for may be old enough for the next one, if that is soon.
                let in_vain = state.ended > called && self.collection().protect > PATIENCE;
                let too_large = limits.quota.is_some_and(|quota| bytes > quota);
                // Nor is room made for what would not fit into all of it.
                let hopeless = room.free.is_some_and(|free| bytes > free.saturating_add(room.used));
                let is_last = too_large || in_vain || hopeless || clock::monotonic() > until;
                // How much is free is known by hearsay: what is too much for the disk it says itself.
                let room = if is_last { Room { free: None, ..room } } else { room };
                if limits.admits(room, bytes) {
                    // Who else waits asks again.
                    state.room.asked = 0;
                    return Ok(self.set_aside(&mut state, bytes));
                }
                if is_last {
                    return Err(full(bytes, room.used, limits.quota.unwrap_or(u64::MAX)));
                }
                state.room.asked = state.room.asked.max(bytes);
            }
            self.call_collection();
            tokio::time::sleep(AGAIN).await;
        }
    }
}

fn full(bytes: u64, used: u64, quota: u64) -> StoreError {
    let what = match bytes > quota {
        true => format!("it has {bytes} bytes, and {quota} may be stored in all; raise `gc.quota_bytes`"),
        false => format!(
            "{used} of the {quota} bytes that may be stored are taken or set aside, and nothing more may be collected now; \
             unpin, raise `gc.quota_bytes`, or try again once what was used lately is older"
        ),
    };
    StoreError::Full { what }
}
