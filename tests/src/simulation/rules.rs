//! The plain rules that every commit must keep, in whatever way it came about.
//!
//! Owns [`committed`], which judges one batch against the [`Ledger`] and then takes it in. The rules are written anew here, from what a
//! user is promised; none asks the code that is tested.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use provender_blobs::Blobs;
use provender_core::batch::{Batch, Table};
use provender_core::blob::{Place, Stored};
use provender_core::execution::{Exit, State};
use provender_core::lease::Lease;
use provender_core::transition::KeyRow;
use provender_core::{Digest, Execution, ExecutionId, TaskKey, Verdict, rows};
use provender_daemon::store::located;
use provender_proto::rows as values;

use super::audit::read;
use super::content::made;
use super::kept::{self, Taken};
use super::ledger::{Freed, Ledger, Made};

/// The rows of one batch that mean something to a rule.
#[derive(Default)]
struct Writes {
    keys: BTreeMap<TaskKey, KeyRow>,
    leases: BTreeMap<TaskKey, Option<Lease>>,
    executions: BTreeMap<ExecutionId, Execution>,
    blobs: BTreeMap<Digest, Stored>,
    inline: BTreeMap<Digest, Bytes>,
}

impl Writes {
    fn of(batch: &Batch) -> Writes {
        let mut writes = Writes::default();
        for (row, value) in &batch.writes {
            match (row.table, value) {
                (Table::Key, value) => {
                    let key = rows::parse_key(&row.key).unwrap().1;
                    let row = value.as_ref().map(|value| values::key_from(value.clone()).unwrap());
                    writes.keys.insert(key, row.unwrap_or_default());
                }
                (Table::Lease, value) => {
                    let lease = value.as_ref().map(|value| values::lease_from(value.clone()).unwrap());
                    writes.leases.insert(rows::parse_key(&row.key).unwrap().1, lease);
                }
                (Table::Execution, Some(value)) => {
                    let execution = values::execution_from(value.clone()).unwrap();
                    writes.executions.insert(execution.id, execution);
                }
                (Table::Blob, Some(value)) => {
                    let digest = rows::parse_blob(&row.key).unwrap();
                    writes.blobs.insert(digest, values::blob_from(value.clone()).unwrap());
                }
                (Table::Inline, Some(value)) => {
                    writes.inline.insert(Digest::from_bytes(&row.key[1..41]).unwrap(), value.clone());
                }
                _ => {}
            }
        }
        writes
    }
}

/// What the batch of one daemon, committed at `now`, makes of the truth.
pub(super) async fn committed(
    ledger: &mut Ledger,
    blobs: &dyn Blobs,
    daemon: usize,
    now: Duration,
    batch: &Batch,
) -> Vec<String> {
    let (writes, taken) = (Writes::of(batch), Taken::of(batch));
    ledger.commits += 1;
    for (digest, stored) in &writes.blobs {
        blob(ledger, blobs, *digest, stored, writes.inline.get(digest)).await;
        ledger.blobs.insert(*digest, stored.clone());
        if let Some(bytes) = writes.inline.get(digest) {
            let entries = bytes.chunks_exact(40).filter_map(Digest::from_bytes).collect();
            ledger.closures.insert(*digest, entries);
        }
    }
    let mut events = kept::taken(ledger, now, batch, &taken, &writes.keys);
    // How each execution was, before this.
    let ended: Vec<_> = writes.executions.values().filter(|execution| execution.state != State::Running).collect();
    let ends = |ledger: &Ledger, id: ExecutionId| {
        let was = ledger.executions.get(&id).is_some_and(|was| was.state == State::Running);
        was && ended.iter().any(|ended| ended.id == id)
    };
    for (key, row) in &writes.keys {
        key_row(ledger, key, row, &|ledger, id| ends(ledger, id), &writes, &taken);
    }
    for execution in writes.executions.values() {
        ended_or_begun(ledger, execution, &writes, daemon, now);
        events.push(format!("{} {} is {:?} by daemon {daemon}", execution.key, execution.id, execution.state));
    }
    for (key, lease) in &writes.leases {
        lease_row(ledger, key, lease.as_ref(), &|ledger, id| ends(ledger, id), &writes);
    }
    for execution in writes.executions.values() {
        ledger.executions.insert(execution.id, execution.clone());
    }
    for (key, lease) in writes.leases {
        match lease {
            Some(lease) => _ = ledger.leases.insert(key, (lease, now)),
            None => _ = ledger.leases.remove(&key),
        }
    }
    ledger.keys.extend(writes.keys);
    ledger.note_standings();
    events
}

/// A blob's row is written once its bytes are there, and marked as lost only if they are not.
async fn blob(ledger: &mut Ledger, blobs: &dyn Blobs, digest: Digest, stored: &Stored, inline: Option<&Bytes>) {
    let was = ledger.blobs.get(&digest).cloned();
    let same = was.as_ref().is_some_and(|was| was.nonce == stored.nonce);
    if let (true, Some(was)) = (same, was) {
        let marks = stored.lost != was.lost;
        let decayed = ledger.decayed.contains(&digest);
        ledger.must(!marks || (was.lost.is_none() && decayed), "nothing is lost that is there", || {
            format!("{digest} was {was:?} and is {stored:?}")
        });
        return;
    }
    let bytes = match stored.place {
        Place::Inline => inline.cloned(),
        Place::Backend { .. } => read(blobs, &located(&digest, stored).0).await,
    };
    let right = bytes.is_some_and(|bytes| Digest::of(&bytes) == digest);
    ledger.must(right, "bytes are durable before they are recorded", || format!("{digest}: {stored:?}"));
    kept::stored(ledger, &digest, stored);
    ledger.must(stored.lost.is_none(), "what is stored anew is not lost", || format!("{digest}: {stored:?}"));
    ledger.decayed.remove(&digest);
}

type Ends<'a> = &'a dyn Fn(&Ledger, ExecutionId) -> bool;

/// A key's row moves by the end of who held its lease, by an operator, or by collection; a restamp tells the truth.
fn key_row(ledger: &mut Ledger, key: &TaskKey, row: &KeyRow, ends: Ends<'_>, writes: &Writes, taken: &Taken) {
    let was = ledger.keys.get(key).cloned().unwrap_or_default();
    let (before, answers) = (was.record.clone(), ledger.standing(key).1.is_some());
    if let Some(record) = &row.record {
        let stale: Vec<_> = ledger.losses(&record.closure).into_iter().filter(|(_, at)| *at <= record.stamp).collect();
        ledger.must(stale.is_empty() || record.void.is_some(), "a stamp covers no loss", || {
            format!("{key} is stamped {} over {stale:?}", record.stamp)
        });
        match before {
            Some(before) if before.execution == record.execution => {
                ledger.must(record.stamp >= before.stamp, "a stamp only grows", || format!("{key}: {record:?}"));
                let voided = record.void != before.void;
                let evicted = record.void.as_ref().is_some_and(|void| void.verdict == Verdict::Evicted)
                    && taken.executions.contains(&record.execution);
                let asked = ledger.invalidated.contains(key);
                ledger.must(
                    !voided || (before.void.is_none() && (asked || evicted)),
                    "a record is void by an operator or by collection",
                    || format!("{key} was {before:?} and is {record:?}"),
                );
                let same = (record.outputs, record.closure) == (before.outputs, before.closure);
                ledger.must(same, "a record stays as it was made", || format!("{key}: {record:?}"));
            }
            _ => {
                let by = writes.executions.get(&record.execution);
                let genuine = by.is_some_and(|by| by.state == State::Succeeded) && ends(ledger, record.execution);
                ledger.must(genuine, "a record is made by a commit", || format!("{key}: {record:?} by {by:?}"));
                let (closure, stood) = (record.closure, ledger.commits);
                ledger.records.insert(record.execution, Made { closure, stood, whole: 0 });
                // It may have been lost when that was decided, and healed in between.
                let since = ledger.attempts.get(&record.execution).and_then(|attempt| attempt.ending);
                let free = since.is_some_and(|since| ledger.stood(key, since, |(_, answer)| answer.is_none()));
                ledger.must(!answers || free, "the first record stays the answer", || {
                    format!("{key}: {before:?}, then {record:?}")
                });
            }
        }
    } else {
        // That one was collected is forgotten in the end.
        let void = before.as_ref().and_then(|record| record.void.as_ref());
        let forgotten = void.is_some_and(|void| void.verdict == Verdict::Evicted);
        ledger.must(before.is_none() || forgotten, "no record vanishes", || format!("{key}: {before:?}"));
    }
    if let Some(last) = row.last.as_ref().filter(|last| was.last.as_ref() != Some(last)) {
        ledger
            .must(ends(ledger, last.execution), "only who held the lease moves the key", || format!("{key}: {last:?}"));
    }
}

/// One lease a key; it goes from nobody to somebody new, stays with them, and goes with their end.
fn lease_row(ledger: &mut Ledger, key: &TaskKey, lease: Option<&Lease>, ends: Ends<'_>, writes: &Writes) {
    let was = ledger.leases.get(key).map(|(lease, _)| lease.clone());
    match (&was, lease) {
        (None, Some(lease)) => {
            let id = lease.execution;
            let fresh = !ledger.executions.contains_key(&id) && writes.executions.contains_key(&id);
            ledger.must(fresh && lease.beat == 0, "a lease is given once", || format!("{key}: {lease:?}"));
            let attempt = ledger.attempts.get(&id).cloned();
            let free = |attempt: &super::ledger::Attempt| {
                attempt.check || ledger.stood(key, attempt.since, |(_, answer)| answer.is_none())
            };
            let asked = attempt.as_ref().is_some_and(free);
            ledger.must(asked, "a lease is given where there is no answer", || {
                format!("{key}: {lease:?} for {attempt:?}")
            });
        }
        (Some(was), Some(lease)) => {
            let beats = lease.execution == was.execution && lease.beat == was.beat + 1 && lease.ttl == was.ttl;
            ledger.must(beats, "one lease a key", || format!("{key} was held by {was:?} and is by {lease:?}"));
        }
        (Some(was), None) => {
            let over = ends(ledger, was.execution);
            ledger.must(over, "a lease goes with its holder's end", || format!("{key}: {was:?}"));
        }
        (None, None) => {}
    }
}

/// An execution begins with the lease, ends once while it holds it, and for the reason that it says.
fn ended_or_begun(ledger: &mut Ledger, execution: &Execution, writes: &Writes, daemon: usize, now: Duration) {
    let (id, key) = (execution.id, &execution.key);
    let lease = ledger.leases.get(key).cloned().filter(|(lease, _)| lease.execution == id);
    match ledger.executions.get(&id).map(|was| was.state) {
        None => {
            let given =
                writes.leases.get(key).is_some_and(|lease| lease.as_ref().is_some_and(|lease| lease.execution == id));
            ledger.must(given && execution.state == State::Running, "an execution begins with a lease", || {
                format!("{execution:?}")
            });
            return;
        }
        Some(State::Running) => {}
        Some(_) => {
            let same = ledger.executions.get(&id) == Some(execution);
            return ledger.must(same, "what has ended changes no more", || format!("{execution:?}"));
        }
    }
    let Some((lease, beat)) = lease else {
        return ledger.broke("only the holder ends", || format!("{execution:?}"));
    };
    let expired = execution.reason.as_deref().is_some_and(|reason| reason.contains("not heard of"));
    ledger.freed.insert(id, Freed { beat, at: now, expired: expired.then_some(lease.ttl) });
    match execution.state {
        State::Running => {}
        State::Succeeded => success(ledger, execution, writes),
        State::Failed => {
            let reported = &ledger.attempts[&id].reported;
            let failed = reported.iter().any(|(_, ok)| !ok);
            ledger.must(failed, "a failure was reported", || format!("{execution:?}"));
        }
        State::Abandoned if expired => {
            ledger.must(now >= beat + lease.ttl, "nothing expires early", || {
                format!("{id} of {key} at {now:?}, although its lease of {:?} was last written at {beat:?}", lease.ttl)
            });
            let blind = ledger.blind[daemon].filter(|blind| now < *blind + lease.ttl);
            ledger.must(blind.is_none(), "time in which nobody could beat does not count", || {
                format!("{id} of {key} at {now:?} by daemon {daemon}, which saw nothing at {blind:?}")
            });
            // Beats may fail to be committed, but not for so long, and nobody else is the cause.
            let fault = ledger.fault;
            let late = beat.max(fault) + lease.ttl + LATE;
            let prompt = fault > beat || now <= beat + lease.ttl + PROMPT;
            ledger.must(now <= late && prompt, "an expiry is told in time", || {
                format!("{id} of {key} at {now:?}, its last beat was at {beat:?}, the last fault at {fault:?}")
            });
        }
        State::Abandoned => {
            let asked = ledger.invalidated.contains(key);
            ledger.must(asked, "a lease is withdrawn by an operator alone", || format!("{execution:?}"));
        }
    }
}

/// How long after it is due an expiry is known everywhere where nothing is at fault; and after a fault has ended.
pub(super) const PROMPT: Duration = Duration::from_secs(2);
/// The same after a fault: the watch pauses for 1 s before it looks again.
pub(super) const LATE: Duration = Duration::from_secs(4);

/// A success is what its executor reported, and all bytes of it are there.
fn success(ledger: &mut Ledger, execution: &Execution, writes: &Writes) {
    let (id, outputs) = (execution.id, execution.outcome.outputs);
    let genuine = ledger.attempts[&id].reported.iter().any(|(made, ok)| *ok && *made == outputs);
    let exited = execution.outcome.exit == Some(Exit::Code(0));
    ledger.must(genuine && exited, "a success is genuine", || format!("{execution:?}"));
    let record = writes.keys.get(&execution.key).and_then(|row| row.record.clone());
    let Some(record) = record.filter(|record| record.execution == id) else { return };
    let Some(closure) = ledger.closures.get(&record.closure).cloned() else {
        return ledger.broke("a record has its closure", || format!("{record:?}"));
    };
    let whole = outputs.and_then(|root| made(&root)).is_some_and(|made| made.digests.is_subset(&closure));
    ledger.must(whole, "a closure holds all that a record refers to", || format!("{record:?}"));
    for digest in closure {
        let stored = ledger.blobs.get(&digest);
        let there = stored.is_some_and(|stored| stored.lost.is_none_or(|at| at > record.stamp));
        ledger.must(there, "a record refers to what is there", || format!("{digest} of {}", execution.key));
    }
}

/// The verdicts that a lookup may give: what was so at a moment since it was asked. A record and whether it is whole are read one after
/// the other, so a success may also be a record that stood at one moment and was whole at another.
pub(super) fn told(ledger: &mut Ledger, key: &TaskKey, since: usize, verdict: Verdict, answer: Option<ExecutionId>) {
    let made = answer.and_then(|id| ledger.records.get(&id)).filter(|_| verdict == Verdict::Succeeded);
    let stood = ledger
        .stood(key, since, |(was, by)| *was == verdict && (verdict != Verdict::Succeeded || *by == answer))
        || made.is_some_and(|made| made.stood >= since && made.whole >= since);
    let past = if stood { String::new() } else { ledger.past(key) };
    ledger.must(stood, "what is told is true", || {
        format!("{key} was said to be {verdict} by {answer:?} since {since}; it was {past}")
    });
}
