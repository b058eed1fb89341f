use std::collections::BTreeMap;

use super::rules::{Judgement, Keep, Rule, Rules, Subject, covers};
use super::shed::{Limits, Room, Shed, Want};
use super::*;
use proptest::prelude::*;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_longest_prefix_of_whole_parts_counts() {
    let keep = |prefix: &str, latest| Keep { prefix: prefix.into(), latest: Some(latest), ..Keep::default() };
    let rules = Rules::new(vec![keep("", 9), keep("ci", 1), keep("ci/release/", 5)]);
    for (name, latest) in
        [("ci", 1), ("ci/x", 1), ("cinema", 9), ("ci/release", 5), ("ci/release/a", 5), ("ci/releases", 1)]
    {
        assert_eq!(rules.of(name).and_then(|keep| keep.latest), Some(latest), "{name}");
    }
    assert!(Rules::default().of("a").is_none() && !covers("a/b", "a"));
}

#[test]
fn each_rule_says_what_it_keeps_and_until_when() {
    let (latest, used) = (Some(2), Some(seconds(100)));
    let record = |used, newer| Subject::Record { used: at(used), newer };
    let other = |ended| Subject::Other { ended: at(ended) };
    for (latest, used_within, subject, says) in [
        (None, None, record(1, 99), Judgement::Stays),
        (latest, None, record(1, 1), Judgement::Stays),
        (latest, None, record(1, 2), Judgement::Goes(Rule::Latest)),
        // Who has just been answered stays a while.
        (latest, None, record(995, 2), Judgement::Until(at(1005))),
        (None, used, record(899, 0), Judgement::Goes(Rule::Unused)),
        (None, used, record(900, 0), Judgement::Until(at(1000))),
        (latest, used, record(1, 1), Judgement::Stays),
        (latest, used, record(950, 5), Judgement::Until(at(1050))),
        (latest, used, record(1, 2), Judgement::Goes(Rule::Unused)),
        (None, None, other(1), Judgement::Stays),
    ] {
        let rules = Rules::new(vec![Keep { latest, used_within, ..Keep::default() }]);
        assert_eq!(rules.judge("n", subject, seconds(10), at(1000)), says, "{latest:?} {used_within:?} {subject:?}");
    }
    let rules = Rules::new(vec![Keep { failed_within: Some(seconds(50)), ..Keep::default() }]);
    assert_eq!(rules.judge("n", other(949), seconds(10), at(1000)), Judgement::Goes(Rule::Failed));
    assert_eq!(rules.judge("n", other(950), seconds(10), at(1000)), Judgement::Until(at(1000)));
    assert_eq!(rules.judge("n", record(1, 9), seconds(10), at(1000)), Judgement::Stays);
    assert_eq!(Rules::default().judge("n", other(1), seconds(10), at(1000)), Judgement::Stays);
}

#[test]
fn the_horizon_is_before_whoever_runs() {
    assert_eq!(horizon(at(1000), seconds(300), seconds(100), []), at(700));
    assert_eq!(horizon(at(1000), seconds(300), seconds(100), [at(990), at(900)]), at(700));
    assert_eq!(horizon(at(1000), seconds(300), seconds(100), [at(990), at(500)]), at(400));
    assert_eq!(horizon(at(10), seconds(300), seconds(100), [at(5)]), at(0));
}

#[test]
fn limits_begin_at_the_high_mark_and_end_at_the_low_one() {
    let limits = Limits { quota: Some(1000), reserve: Some(100), high: 950, low: 850 };
    let room = |used, free| Room { used, free: Some(free), asked: 0 };
    assert_eq!(limits.wants(room(950, 500), 0), None);
    assert_eq!(limits.wants(room(951, 500), 0), Some(Want::Quota(101)));
    assert_eq!(limits.wants(room(951, 500), 1), None, "what goes already is not asked for twice");
    assert_eq!(limits.left(Want::Quota(101), room(951, 500), 1), Some(Want::Quota(100)), "it ends at the low mark");
    assert_eq!(limits.left(Want::Quota(101), room(850, 500), 0), None);
    assert_eq!(limits.wants(room(10, 100), 0), None);
    assert_eq!(limits.left(Want::Free(11), room(10, 109), 0), Some(Want::Free(1)));
    assert_eq!(limits.left(Want::Free(11), room(10, 110), 0), None);
    assert_eq!(limits.wants(room(10, 99), 0), Some(Want::Free(11)));
    assert_eq!(Limits { quota: None, ..limits }.wants(room(u64::MAX, 100), 0), None);
    assert_eq!(Limits::default().wants(room(u64::MAX, 0), 0), None);
    let asked = |used, asked| Room { used, free: None, asked };
    assert_eq!(limits.wants(asked(900, 100), 0), None);
    assert_eq!(limits.wants(asked(900, 101), 0), Some(Want::Quota(50)));
    assert_eq!(limits.wants(asked(800, 400), 0), Some(Want::Quota(200)));
    assert_eq!(limits.wants(asked(0, 2000), 0), None, "there is nothing to take");
    let asked = Room { used: 10, free: Some(500), asked: 600 };
    assert_eq!(limits.wants(asked, 0), Some(Want::Free(100)));
    assert_eq!(limits.wants(asked, 100), None);
    assert!(limits.admits(asked, 500) && !limits.admits(asked, 501));
    assert!(limits.admits(room(900, 500), 100) && !limits.admits(room(900, 500), 101));
}

proptest! {
    /// However many share what, whatever goes together frees exactly the blobs that nobody else refers to.
    #[test]
    fn shared_bytes_are_counted_once(
        all in prop::collection::vec(prop::collection::btree_set(0_u8..12, 0..6), 1..12),
        goes in prop::collection::vec(any::<bool>(), 12),
    ) {
        let digest = |n: &u8| Digest::of(&[*n]);
        let bytes = |n: &u8| u64::from(*n) + 1;
        let mut referrers = BTreeMap::new();
        all.iter().flatten().for_each(|n| *referrers.entry(*n).or_insert(0) += 1);
        let mut shed = Shed::default();
        for (blobs, _) in all.iter().zip(&goes).filter(|(_, goes)| **goes) {
            shed.take(blobs.iter().map(|n| (digest(n), referrers[n], bytes(n))));
        }
        let stays: std::collections::BTreeSet<_> =
            all.iter().zip(&goes).filter(|(_, goes)| !**goes).flat_map(|(blobs, _)| blobs).collect();
        let gone: u64 = referrers.keys().filter(|n| !stays.contains(n)).map(bytes).sum();
        prop_assert_eq!(shed.freed, gone);
    }

    /// Wherever it turns round, counting ends with everything counted once, or nothing.
    #[test]
    fn a_tally_counts_each_reference_once(
        named in 0_usize..4, spec in any::<bool>(), listed in prop::option::of(0_u64..20), steps in prop::collection::vec((1_u64..7, any::<bool>()), 0..20), adds in any::<bool>(),
    ) {
        let closure = listed.map(|listed| Digest { size: 40 * listed, ..Digest::of(b"list") });
        let blobs: Vec<_> = (0..named).map(|n| Digest::of(&[n as u8])).collect();
        let references = References { spec: spec.then(|| Digest::of(b"spec")), blobs, closure };
        let mut counted = vec![0_i32; references.len() as usize];
        let mut tally = Tally::begin(references.clone());
        let step = |tally: &mut Tally, counted: &mut Vec<i32>, most| {
            let (from, many) = tally.next(most);
            for place in from..from + many {
                assert!(references.at(place).is_some());
                counted[place as usize] += if tally.adds { 1 } else { -1 };
            }
            *tally = tally.after(many);
        };
        for (most, turns) in steps {
            step(&mut tally, &mut counted, most);
            if turns {
                tally.adds = !tally.adds;
            }
            prop_assert!(counted.iter().all(|count| (0..=1).contains(count)));
        }
        tally.adds = adds;
        while !tally.is_through() {
            step(&mut tally, &mut counted, 5);
        }
        prop_assert!(counted.iter().all(|count| *count == i32::from(adds)));
        prop_assert_eq!(references.at(references.len()), None);
    }
}
