//! What collection has to leave alone: what is pinned, was answered with lately, is referred to, or relied on by who runs.
//!
//! Owns [`Kept`], and the rules by which each batch is judged that takes something away. They are written anew here, from what a user is
//! promised; none asks the code that is tested.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use provender_blobs::Location;
use provender_core::batch::{Batch, Table};
use provender_core::blob::{Pin, Pinned, Place, Stored};
use provender_core::collect::ago;
use provender_core::execution::State;
use provender_core::transition::KeyRow;
use provender_core::{Digest, Execution, ExecutionId, TaskKey, Timestamp, rows};
use provender_daemon::store::located;
use provender_proto::rows as values;

use super::clock::wall;
use super::ledger::Ledger;

/// An answer is written down again after this part of the protection, so the protection may be that much shorter.
const AGAIN: u32 = 3;
/// An answer is written down so soon, if nothing is at fault.
const NOTED: Duration = Duration::from_secs(4);

/// When a record was an answer, to a question that was asked then.
#[derive(Debug, Clone, Copy)]
struct Answered {
    asked: Duration,
    /// Whether something was at fault while it had to be written down.
    faulty: bool,
}

/// What has to stay.
#[derive(Debug, Default)]
pub(super) struct Kept {
    protect: Duration,
    /// Pins, by their rows.
    pins: BTreeMap<(Table, Bytes), Pin>,
    answered: BTreeMap<ExecutionId, Answered>,
    /// Until when each key's record was used, as far as that is written down.
    used: BTreeMap<TaskKey, Timestamp>,
    /// What executors were told is there, or stored, while they held their leases.
    relied: BTreeMap<ExecutionId, BTreeSet<Digest>>,
    /// Where anything was ever stored.
    locations: BTreeSet<Location>,
}

/// What a batch takes away.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) executions: BTreeSet<ExecutionId>,
    blobs: BTreeSet<Digest>,
}

impl Taken {
    pub(super) fn of(batch: &Batch) -> Taken {
        let mut taken = Taken::default();
        for (row, _) in batch.writes.iter().filter(|(_, value)| value.is_none()) {
            match row.table {
                Table::Execution => taken.executions.extend(rows::parse_execution(&row.key).map(|(_, id)| id)),
                Table::Blob => taken.blobs.extend(rows::parse_blob(&row.key)),
                Table::Holding => {
                    taken.blobs.extend(row.key.last_chunk::<40>().and_then(|key| Digest::from_bytes(key)))
                }
                _ => {}
            }
        }
        taken
    }
}

impl Kept {
    pub(super) fn new(protect: Duration) -> Kept {
        Kept { protect, ..Kept::default() }
    }

    /// Somebody who asked then was told of a record.
    pub(super) fn answered(&mut self, record: ExecutionId, asked: Duration, fault: Duration) {
        let last = self.answered.entry(record).or_insert(Answered { asked, faulty: true });
        if asked >= last.asked {
            *last = Answered { asked, faulty: fault > asked };
        }
    }

    /// Something is at fault.
    pub(super) fn fault(&mut self, now: Duration) {
        let lately = self.answered.values_mut().filter(|answered| answered.asked + NOTED >= now);
        lately.for_each(|answered| answered.faulty = true);
    }

    /// An executor that holds its lease relies on blobs.
    pub(super) fn relies(&mut self, id: ExecutionId, digests: impl IntoIterator<Item = Digest>) {
        self.relied.entry(id).or_default().extend(digests);
    }
}

/// Judges what a batch takes away, and takes in what it says of pins and of what is used.
pub(super) fn taken(
    ledger: &mut Ledger,
    now: Duration,
    batch: &Batch,
    taken: &Taken,
    keys: &BTreeMap<TaskKey, KeyRow>,
) -> Vec<String> {
    let mut events = Vec::new();
    for id in &taken.executions {
        execution(ledger, now, *id);
        events.push(format!("{id} is collected"));
    }
    if !taken.blobs.is_empty() {
        blobs(ledger, now, &taken.blobs, keys);
    }
    for (row, value) in &batch.writes {
        match (row.table, value) {
            (Table::Pin | Table::RecordPin, Some(value)) => {
                let pin = values::pin_from(value.clone()).unwrap();
                events.push(format!("{} is pinned until {:?}", pin.what, pin.expires));
                ledger.kept.pins.insert((row.table, row.key.clone()), pin);
            }
            (Table::Pin | Table::RecordPin, None) => {
                let pin = ledger.kept.pins.remove(&(row.table, row.key.clone()));
                events.extend(pin.map(|pin| format!("{} is pinned no more", pin.what)));
            }
            (Table::Used, Some(value)) => {
                let (_, key) = rows::parse_key(&row.key).unwrap();
                ledger.kept.used.insert(key, values::holding_from(value.clone()).unwrap());
            }
            _ => {}
        }
    }
    for id in &taken.executions {
        let gone = ledger.executions.remove(id);
        ledger.collected.extend(gone.map(|gone| (*id, gone)));
    }
    taken.blobs.iter().for_each(|digest| _ = ledger.blobs.remove(digest));
    events
}

/// An execution goes only if it has ended long ago, and a record only if it is not pinned and was not used lately.
fn execution(ledger: &mut Ledger, now: Duration, id: ExecutionId) {
    let Some(gone) = ledger.executions.get(&id).cloned() else {
        return ledger.broke("what is collected was there", || format!("{id}"));
    };
    let (protect, wall) = (ledger.kept.protect, wall(now));
    let long_ago = ago(wall, protect);
    let ended = gone.state != State::Running && gone.ended.is_some_and(|ended| ended <= long_ago);
    ledger.must(ended, "what has ended lately stays", || format!("at {wall}: {gone:?}"));
    let record = ledger.keys.get(&gone.key).and_then(|row| row.record.as_ref());
    if record.is_none_or(|record| record.execution != id || record.void.is_some()) {
        return;
    }
    let pinned = ledger.kept.pins.values().find(|pin| !pin.has_ended(wall) && keeps(&pin.what, &gone));
    let pinned = pinned.cloned();
    ledger.must(pinned.is_none(), "what is pinned stays", || format!("{gone:?} of {pinned:?}"));
    let used = ledger.kept.used.get(&gone.key).copied();
    ledger.must(used.is_none_or(|used| used <= long_ago), "what was used lately stays", || {
        format!("at {wall}: {gone:?} was used at {used:?}")
    });
    let answered = ledger.kept.answered.get(&id).copied();
    let kept = answered.is_none_or(|last| last.faulty || last.asked + protect - protect / AGAIN <= now);
    ledger.must(kept, "what was answered lately stays", || format!("at {now:?}: {gone:?} was an answer {answered:?}"));
}

fn keeps(what: &Pinned, gone: &Execution) -> bool {
    match what {
        Pinned::Key(key) => *key == gone.key,
        Pinned::Name(name) => *name == gone.name,
        Pinned::Prefix(prefix) => format!("{}/", gone.name).starts_with(&format!("{prefix}/")),
        Pinned::Blob(_) | Pinned::Tree(_) => false,
    }
}

/// A blob goes only if no record and no pin refers to it, and nobody who runs relies on it.
fn blobs(ledger: &mut Ledger, now: Duration, gone: &BTreeSet<Digest>, keys: &BTreeMap<TaskKey, KeyRow>) {
    let (wall, mut wrong) = (wall(now), Vec::new());
    let refers = |list: &Digest| {
        let listed = ledger.closures.get(list).into_iter().flatten();
        listed.chain([list]).find(|digest| gone.contains(digest)).copied()
    };
    let changed = keys.iter();
    for (key, row) in changed.chain(ledger.keys.iter().filter(|(key, _)| !keys.contains_key(key))) {
        let answer = row.record.as_ref().filter(|record| record.void.is_none());
        wrong.extend(answer.and_then(|record| refers(&record.closure)).map(|digest| format!("{digest} of {key}")));
    }
    for pin in ledger.kept.pins.values().filter(|pin| !pin.has_ended(wall)) {
        let list = pin.closure.as_ref().and_then(refers);
        let own = pin.what.digest().filter(|digest| gone.contains(digest));
        wrong.extend(list.or(own).map(|digest| format!("{digest} of {pin:?}")));
    }
    for (lease, _) in ledger.leases.values() {
        let relied = ledger.kept.relied.get(&lease.execution).into_iter().flatten();
        let relied = relied.filter(|digest| gone.contains(digest));
        wrong.extend(relied.map(|digest| format!("{digest}, on which {} relies", lease.execution)));
    }
    ledger.must(wrong.is_empty(), "what is needed stays", || format!("at {wall}: {wrong:?}"));
}

/// Where bytes were stored once, no others ever are: who removes them late would remove those.
pub(super) fn stored(ledger: &mut Ledger, digest: &Digest, stored: &Stored) {
    if stored.place != Place::Inline {
        let (location, _) = located(digest, stored);
        let fresh = ledger.kept.locations.insert(location);
        ledger.must(fresh, "a location is used once", || format!("{location}"));
    }
}
