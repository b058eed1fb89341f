//! The state machine: walks over the whole API, step by step beside the model, until every kind of transition was taken often.
//!
//! In most cases it is collected as well. `PROPTEST_CASES` asks for more cases and `PROVENDER_SOAK=1` for ten times as many of each kind.
//! A failure prints the shortest walk that fails as well, and the seed; `PROVENDER_SEED` walks that one again.

use std::sync::{Arc, Mutex};

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use provender_tests::conformance::meta::Storage;
use provender_tests::model::choose::{Case, Size};
use provender_tests::model::count::{Counts, KINDS, OF_COLLECTION, OF_SEVERAL};
use provender_tests::model::drive::{self, Look};
use provender_tests::model::world::{Clock, World, folder};

use super::engines::{Database, InMemory, Rocks};

pub(crate) fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Walks as many cases as it takes to take each kind `least` times.
fn walk<S: Storage>(engine: &str, storage: impl Fn() -> S, lanes: usize, look: Look, least: u64) {
    const MOST: u64 = 400;
    // Cases lie upon what others left behind, but not upon that of many: all of it is audited after each.
    const TOGETHER: u64 = 8;
    let mut place = (storage(), folder());
    let daemons = if place.0.is_shared() { 2 } else { 1 };
    let soak = setting("PROVENDER_SOAK").map_or(1, |_| 10);
    let clock = Arc::new(Clock::default());
    let shown = clock.clone();
    // A thread that ends forgets it.
    let show = move || std::mem::forget(shown.clone().show());
    let _here = clock.clone().show();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).on_thread_start(show).enable_all().build().unwrap();
    let counts = Mutex::new(Counts::default());
    let kinds = || KINDS.iter().chain(OF_SEVERAL.iter().filter(|_| daemons > 1));
    let (least, wanted) = (least * soak, setting("PROPTEST_CASES").unwrap_or(1));
    let (mut cases, one) = (0, setting("PROVENDER_SEED"));
    let fewer = || {
        let counts = counts.lock().unwrap();
        [counts.fewer(kinds(), least), counts.fewer(OF_COLLECTION, least / 20)].concat()
    };
    while cases < wanted || (one.is_none() && cases < MOST * soak && !fewer().is_empty()) {
        if cases > 0 && cases % TOGETHER == 0 {
            place = (storage(), folder());
        }
        let run = |case: Case| {
            let taken = runtime.block_on(async {
                let mut world = World::start(&place.0, place.1.path(), case.daemons, clock.clone()).await;
                drive::run(&case, &mut world, look).await
            });
            counts.lock().unwrap().merge(taken.map_err(TestCaseError::fail)?);
            Ok(())
        };
        cases += 1;
        let seed = one.unwrap_or_else(|| u64::from_le_bytes(random()));
        // Where nothing is ever collected histories grow longer.
        let size = Size { lanes, rounds: 50, daemons, collects: seed % 4 > 0 };
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let config = Config { cases: 1, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        match runner.run(&size, run) {
            Ok(()) => {}
            Err(TestError::Fail(why, case)) => {
                panic!("PROVENDER_SEED={seed} on {engine}: {why}\nin a case of {case:?}")
            }
            Err(TestError::Abort(why)) => panic!("{engine}: {why}"),
        }
    }
    println!("{engine}: {cases} cases\n{}", counts.lock().unwrap());
    let fewer = fewer();
    assert!(one.is_some() || fewer.is_empty(), "{engine}: taken too seldom in {cases} cases: {fewer:?}");
}

pub(crate) fn random() -> [u8; 8] {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

#[test]
fn the_store_is_as_the_model_says_in_memory() {
    walk("memory", InMemory::default, 12, Look::Always, 1_000);
}

#[test]
fn the_store_is_as_the_model_says_on_rocksdb() {
    walk("rocksdb", Rocks::new, 12, Look::Every(4), 1_000);
}

/// A step here is some ten round trips, so that a thousand of each kind is for the soak.
#[test]
fn the_store_is_as_the_model_says_on_postgres() {
    walk("postgres", Database::new, 24, Look::Every(8), 100);
}
