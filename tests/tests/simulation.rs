//! Many schedules of the simulation: a share of them in `make test`, 100,000 in `make soak`.
//!
//! `PROVENDER_SEED=N cargo test -p provender-tests --test simulation -- --nocapture` replays one and prints all that happened;
//! `PROVENDER_SCHEDULES=N` carries out so many.

// Also in what tests call: a failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use provender_tests::simulation::{Random, run};

/// How many schedules `make test` carries out.
const SHARE: u64 = 4_000;
/// How many `make soak` does.
const SOAK: u64 = 100_000;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

/// Any number, new each time.
fn fresh() -> u64 {
    getrandom::u64().unwrap()
}

/// Carries out the schedule of a seed; if a rule is broken, again with its trace.
fn one(seed: u64) -> BTreeMap<&'static str, u64> {
    match run(seed, false) {
        Ok(report) => report.counts,
        Err(broken) => {
            let again = run(seed, true).err().unwrap_or_else(|| panic!("seed {seed} broke {} only once", broken.rule));
            let from = again.trace.len().saturating_sub(400);
            again.trace[from..].iter().for_each(|line| println!("{line}"));
            panic!("seed {seed} (replay with PROVENDER_SEED={seed}) broke a rule: {}", again.rule)
        }
    }
}

#[test]
fn schedules_keep_all_rules() {
    if let Some(seed) = from_environment("PROVENDER_SEED") {
        match run(seed, true) {
            Ok(report) => println!("seed {seed} keeps all rules: {report:#?}"),
            Err(broken) => {
                broken.trace.iter().for_each(|line| println!("{line}"));
                panic!("seed {seed} broke a rule: {}", broken.rule);
            }
        }
        return;
    }
    let soak = std::env::var_os("PROVENDER_SOAK").is_some();
    let schedules = from_environment("PROVENDER_SCHEDULES").unwrap_or(if soak { SOAK } else { SHARE });
    let threads = if soak { std::thread::available_parallelism().map_or(1, usize::from) } else { 1 };
    let (base, next, began) = (fresh(), AtomicU64::new(0), Instant::now());
    println!("{schedules} schedules from base seed {base}, on {threads} threads");
    let counts = Mutex::new(BTreeMap::<&str, u64>::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut own = BTreeMap::<&str, u64>::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= schedules {
                        break;
                    }
                    // Seeds of neighbours have nothing in common.
                    let counts = one(Random::new(base.wrapping_add(number)).next());
                    counts.into_iter().for_each(|(kind, count)| *own.entry(kind).or_default() += count);
                }
                let mut all = counts.lock().unwrap();
                own.into_iter().for_each(|(kind, count)| *all.entry(kind).or_default() += count);
            });
        }
    });
    let (took, counts) = (began.elapsed().max(Duration::from_millis(1)), counts.into_inner().unwrap());
    counts.iter().for_each(|(kind, count)| println!("{count:>12} {kind}"));
    println!("{schedules} schedules kept all rules, {:.0} a second", schedules as f64 / took.as_secs_f64());
    // What never happens proves nothing.
    for kind in KINDS {
        assert!(counts.contains_key(kind) || schedules < SHARE, "no schedule had any: {kind}");
    }
}

/// What must have happened somewhere.
const KINDS: [&str; 45] = [
    "fault: refused",
    "fault: a call lost",
    "fault: an answer lost",
    "fault: a commit lingers",
    "fault: a long delay",
    "fault: an executor crashed",
    "fault: an executor paused",
    "fault: a daemon crashed",
    "fault: a daemon cut off",
    "fault: all daemons cut off",
    "fault: a wall clock steps",
    "fault: a blob rots",
    "fault: a blob vanishes",
    "blobs compressed",
    "invalidation",
    "acknowledged commits",
    "commits that lack a blob",
    "uploads that leave something out",
    "fenced",
    "waits",
    "expiries heard in time",
    "ends heard in time",
    "blobs read",
    "reads of what is lost",
    "collection",
    "collection in the end",
    "collections of blobs",
    "collections that spare something",
    "collections that were cut off",
    "collections that were overtaken",
    "keys evicted in the end",
    "schedules in which records and blobs went before",
    "blobs stored again before their bytes went",
    "uploads that met a sweep",
    "uploads that found no room",
    "reads of what is collected",
    "records pinned",
    "trees pinned",
    "unpinned",
    "SUCCEEDED",
    "RUNNING",
    "FAILED",
    "LOST",
    "ABANDONED",
    "EVICTED",
];

#[test]
fn a_seed_decides_all_that_happens() {
    for _ in 0..50 {
        let seed = fresh();
        let hash = || run(seed, false).unwrap_or_else(|broken| panic!("seed {seed}: {}", broken.rule)).hash;
        assert_eq!(hash(), hash(), "seed {seed}");
    }
}
