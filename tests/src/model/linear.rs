//! Whether a concurrent history is linearizable: whether there is an order of its calls, in which each lies between its sending and its
//! answer, that the model could have gone through with the same answers.
//!
//! The search is Wing and Gong's ("Testing and verifying concurrent objects", 1993) with Lowe's memory of what was tried ("Testing for
//! linearizability", 2017): a set of calls that are done and the state they led to is looked at once. Linearizability is local (Herlihy
//! and Wing 1990), so a history is judged key by key. A call of unknown outcome may have happened at any time after it was sent, or
//! never.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use provender_core::Timestamp;
use provender_core::execution::State;

use super::history::{Call, Done};
use super::rules::Model;
use super::step::{Id, Key, Said};

/// Judges a history, key by key; the calls of a key for which there is no order are told.
pub fn judge(before: &Model, calls: &[Call], of: impl Fn(Id) -> Key) -> Result<(), String> {
    let mut by_key: BTreeMap<Key, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        by_key.entry(call.key(&of)).or_default().push(call);
    }
    for (key, calls) in by_key {
        assert!(calls.len() <= 128, "a history of one key has at most 128 calls");
        let mut search = Search { calls: &calls, tried: HashSet::new() };
        if !search.goes_on(0, before) {
            let lines: Vec<_> = calls.iter().map(|call| format!("  {call}\n")).collect();
            return Err(format!("no order of the calls about {key} explains what they were told:\n{}", lines.concat()));
        }
    }
    Ok(())
}

struct Search<'a> {
    calls: &'a [&'a Call],
    tried: HashSet<(u128, Model)>,
}

impl Search<'_> {
    /// Whether the calls that are not in `done` have an order, from a state.
    fn goes_on(&mut self, done: u128, state: &Model) -> bool {
        let open = || self.calls.iter().enumerate().filter(|(n, _)| done & (1 << n) == 0);
        // Of what nobody was told, nothing must have happened.
        if open().all(|(_, call)| call.said.is_none()) {
            return true;
        }
        if !self.tried.insert((done, state.clone())) {
            return false;
        }
        // Whatever comes next was sent before any other that is open was answered.
        let answered = |call: &Call| if call.said.is_some() { call.answered } else { u64::MAX };
        let first = open().map(|(_, call)| answered(call)).min().unwrap_or(u64::MAX);
        let next: Vec<_> = open().filter(|(_, call)| call.sent < first).map(|(n, call)| (n, *call)).collect();
        next.into_iter().any(|(n, call)| after(state, call).is_some_and(|state| self.goes_on(done | (1 << n), &state)))
    }
}

/// The state to which a call leads, unless it would be told something else there.
fn after(state: &Model, call: &Call) -> Option<Model> {
    let mut next = state.clone();
    let said = match &call.done {
        Done::Step(step) => next.apply(step, Timestamp::default()),
        Done::Lookup(key) => {
            let (verdict, execution, outputs) = next.lookup(*key);
            Said::Verdict(verdict, execution, outputs)
        }
        Done::Sees(key, second) => {
            let now = Duration::from_secs(*second);
            let lease = next.keys.get(key).and_then(|known| known.lease);
            let watch = &mut next.watches[0];
            watch.clock = now;
            match lease {
                Some(lease)
                    if watch.seen.get(key).is_some_and(|(by, beats, _)| (*by, *beats) == (lease.by, lease.beats)) => {}
                Some(lease) => _ = watch.seen.insert(*key, (lease.by, lease.beats, now)),
                None => _ = watch.seen.remove(key),
            }
            Said::Done
        }
        Done::Expires(key, second) => {
            let now = Duration::from_secs(*second);
            let watch = &mut next.watches[0];
            // First it looks.
            if watch.clock != now {
                return None;
            }
            let lease = next.keys.get(key).and_then(|known| known.lease);
            if let Some((by, beats, _)) = watch.seen.get(key).copied().filter(|(.., since)| *since < now) {
                watch.seen.remove(key);
                // It was due if it still is as it was seen.
                if lease.is_some_and(|lease| (lease.by, lease.beats) == (by, beats)) {
                    next.end(by, State::Abandoned);
                }
            }
            Said::Done
        }
    };
    next.kinds.clear();
    match &call.said {
        Some(told) if *told != said => None,
        _ => Some(next),
    }
}

#[cfg(test)]
mod tests {
    use provender_core::Verdict;

    use super::super::history::before;
    use super::super::step::{Content, Name, Step};
    use super::*;

    const KEY: Key = Key(0);

    fn call(done: Done, said: Option<Said>, sent: u64, answered: u64) -> Call {
        Call { client: 0, done, said, sent, answered }
    }

    fn begin(n: u16, said: Said, sent: u64, answered: u64) -> Call {
        let (id, name, check, twice) = (Id(n), Name(0), false, false);
        let step = Step::Begin { client: 0, id, key: KEY, name, check, seconds: 1, waited: None, twice };
        call(Done::Step(step), Some(said), sent, answered)
    }

    fn commit(n: u16, said: Option<Said>, sent: u64, answered: u64) -> Call {
        let content = Some(Content::Small(0));
        call(Done::Step(Step::Commit { client: 0, id: Id(n), exit: 0, content, twice: false }), said, sent, answered)
    }

    fn look(verdict: Verdict, id: Option<u16>, sent: u64, answered: u64) -> Call {
        let outputs = (verdict == Verdict::Succeeded).then_some(Content::Small(0));
        call(Done::Lookup(KEY), Some(Said::Verdict(verdict, id.map(Id), outputs)), sent, answered)
    }

    /// A lease is seen, seen again a second later, and then due.
    fn passed(sent: u64, answered: u64) -> [Call; 3] {
        let done = [Done::Sees(KEY, 1), Done::Sees(KEY, 2), Done::Expires(KEY, 2)];
        done.map(|done| call(done, Some(Said::Done), sent, answered))
    }

    fn recorded() -> Said {
        Said::Committed { state: State::Succeeded, recorded: true, diverges: None }
    }

    fn holds(calls: &[Call]) -> bool {
        judge(&before(), calls, |_| KEY).is_ok()
    }

    #[test]
    fn what_overlaps_may_have_come_in_any_order() {
        let busy = |id| Said::Busy(Id(id));
        assert!(holds(&[begin(1, Said::Lease(None), 0, 3), begin(2, busy(1), 1, 2)]));
        assert!(holds(&[begin(1, busy(2), 0, 3), begin(2, Said::Lease(None), 1, 2)]));
        let history = |from, to| {
            [
                begin(1, Said::Lease(None), 0, 1),
                commit(1, Some(recorded()), 2, 5),
                look(Verdict::Running, Some(1), from, to),
            ]
        };
        assert!(holds(&history(3, 4)));
    }

    #[test]
    fn two_leases_at_once_are_found_out() {
        assert!(!holds(&[begin(1, Said::Lease(None), 0, 3), begin(2, Said::Lease(None), 1, 2)]));
        // Unless the first could have run out in between.
        let [sees, sees_again, expires] = passed(0, 9);
        let both = [begin(1, Said::Lease(None), 0, 3), begin(2, Said::Lease(None), 1, 2)];
        assert!(holds(&[&[sees.clone(), sees_again, expires.clone()], &both[..]].concat()));
        // At first sight nothing runs out.
        assert!(!holds(&[&[sees, call(Done::Expires(KEY, 1), Some(Said::Done), 0, 9)], &both[..]].concat()));
    }

    #[test]
    fn a_stale_lookup_is_found_out() {
        let stale = look(Verdict::Running, Some(1), 6, 7);
        assert!(!holds(&[begin(1, Said::Lease(None), 0, 1), commit(1, Some(recorded()), 2, 5), stale]));
        // Seen, and then not any more.
        let (seen, gone) = (look(Verdict::Succeeded, Some(1), 3, 4), look(Verdict::Running, Some(1), 5, 6));
        assert!(!holds(&[begin(1, Said::Lease(None), 0, 1), commit(1, Some(recorded()), 2, 9), seen, gone]));
    }

    #[test]
    fn a_fenced_commit_that_shows_is_found_out() {
        let history = |said| {
            let taken_over = begin(2, Said::Lease(None), 4, 5);
            let calls = [begin(1, Said::Lease(None), 0, 1), taken_over, commit(1, Some(said), 6, 7)];
            [&calls[..], &passed(2, 3)].concat()
        };
        assert!(!holds(&history(recorded())));
        assert!(holds(&history(Said::Ended(State::Abandoned))));
    }

    #[test]
    fn what_beat_and_ran_out_all_the_same_is_found_out() {
        let beat = call(Done::Step(Step::Beat { client: 0, id: Id(1) }), Some(Said::Kept), 4, 5);
        let [sees, sees_again, expires] = passed(2, 3);
        let late = |call: Call| Call { sent: 6, answered: 7, ..call };
        let gone = look(Verdict::Abandoned, Some(1), 8, 9);
        let history = |between: &[Call]| {
            let calls =
                [begin(1, Said::Lease(None), 0, 1), sees.clone(), late(sees_again.clone()), late(expires.clone())];
            [&calls[..], between, std::slice::from_ref(&gone)].concat()
        };
        assert!(holds(&history(&[])));
        assert!(!holds(&history(&[beat])));
    }

    #[test]
    fn a_call_without_an_answer_may_have_happened_or_not() {
        let history = |look| [begin(1, Said::Lease(None), 0, 1), commit(1, None, 2, 3), look];
        assert!(holds(&history(look(Verdict::Succeeded, Some(1), 8, 9))));
        assert!(holds(&history(look(Verdict::Running, Some(1), 8, 9))));
        assert!(!holds(&history(look(Verdict::Failed, Some(1), 8, 9))));
    }
}
