//! What one watcher knows of losses: which keys it was told of as LOST, and which changes of the log it has yet to look into.
//!
//! Invariant: the cursor stays before the first change of the log that was not looked into. What is remembered is bounded; where it
//! does not suffice, whole records are told again.

use std::collections::HashMap;

use provender_core::ExecutionId;
use provender_core::batch::Version;
use provender_core::event::Cursor;
use provender_core::key::TaskKey;

use super::PUT_OFF;

/// How many keys are remembered.
const KEYS: usize = 10_000;

/// What is to be found out by testing records.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Due {
    /// Also of keys that were told of as LOST, whether they are whole again.
    pub(super) healing: bool,
    /// It is not known which those are: all that are whole.
    pub(super) unsure: bool,
    /// Of keys that were told of as LOST, what their verdicts are now, though the records still are.
    pub(super) again: bool,
}

#[derive(Debug, Default)]
pub(super) struct Losses {
    /// The newest position of the log that was heard of.
    newest: u64,
    /// The keys of which the watcher knows that a record is LOST, and which.
    known: HashMap<TaskKey, ExecutionId>,
    /// Whether there were more of them.
    more: bool,
    /// What heals up to here may have been told of as LOST before the watcher was cut off.
    unsure: Option<Version>,
    due: Option<Due>,
    held: Option<Version>,
    put_off: u32,
}

impl Losses {
    /// Of one who watches from `head` on, when something is LOST already if there is `any` entry in the log.
    pub(super) fn from_now(newest: u64, head: Version, any: bool) -> Losses {
        Losses { newest, due: any.then(Due::default), held: any.then_some(head), ..Losses::default() }
    }

    /// Of one who goes on: only if it was told of something LOST, that has to be found out anew.
    pub(super) fn resumed(newest: u64, cursor: Cursor) -> Losses {
        let unsure = cursor.lost.then_some(Version(u64::MAX));
        Losses { unsure, ..Losses::from_now(newest, cursor.version, cursor.lost) }
    }

    /// A digest was lost.
    pub(super) fn entered(&mut self, version: Version, position: u64) {
        self.newest = self.newest.max(position);
        self.hold(version);
    }

    /// A digest was stored anew.
    pub(super) fn healed(&mut self, version: Version) {
        let unsure = self.more || self.unsure.is_some_and(|unsure| version <= unsure);
        let due = self.hold(version);
        due.healing = true;
        due.unsure |= unsure;
    }

    fn hold(&mut self, version: Version) -> &mut Due {
        self.held.get_or_insert(Version(version.0.saturating_sub(1)));
        self.due.get_or_insert_default()
    }

    /// What is to be looked into, if it is time: when nothing else is at hand, or it was put off long enough.
    pub(super) fn due(&mut self, idle: bool) -> Option<Due> {
        if !idle && self.put_off < PUT_OFF {
            return None;
        }
        self.put_off = 0;
        self.due.take()
    }

    /// All that was due was looked into, when the feed had come to `head`.
    pub(super) fn done(&mut self, head: Version) {
        self.held = None;
        self.unsure = self.unsure.map(|unsure| unsure.min(head));
    }

    /// The feed was taken in up to here.
    pub(super) fn passed(&mut self, at: Version) {
        self.put_off += u32::from(self.due.is_some());
        if self.due.is_none() && self.unsure.is_some_and(|unsure| unsure <= at) {
            self.unsure = None;
        }
    }

    /// The watcher is told of a key, which has a record that is LOST, or none.
    pub(super) fn told(&mut self, key: &TaskKey, lost: Option<ExecutionId>) {
        match lost {
            None => _ = self.known.remove(key),
            Some(_) if self.known.len() >= KEYS && !self.known.contains_key(key) => self.more = true,
            Some(record) => _ = self.known.insert(key.clone(), record),
        }
    }

    /// The record of a key that the watcher knows to be LOST.
    pub(super) fn of(&self, key: &TaskKey) -> Option<ExecutionId> {
        self.known.get(key).copied()
    }

    /// Whether something may be lost that a record with this stamp was not tested for.
    pub(super) fn newer_than(&self, stamp: u64) -> bool {
        self.newest > stamp
    }

    /// Whether something has to be looked into before the cursor goes on.
    pub(super) fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// From where to go on, once all up to `version` was told.
    pub(super) fn cursor(&self, incarnation: u64, version: Version) -> Cursor {
        let version = self.held.map_or(version, |held| held.min(version));
        Cursor { incarnation, version, lost: !self.known.is_empty() || self.more || self.unsure.is_some() }
    }
}
