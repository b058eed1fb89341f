//! A crash at every step, and a failure at every step.
//!
//! Each life (what an executor or an operator does) is first carried out step by step: for each call that it makes of
//! a seam, the world stands still at that call, once before it took effect and once after, and another daemon comes up over the same
//! storage; or the call fails, and life goes on. The harness counts the steps: it goes on until a life is over before its next one.
//! On disks only calls that can change something are counted: a crash at a read leaves what the step before it left.

// Also in what tests call: a failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "steps/collecting.rs"]
mod collecting;
#[path = "steps/content.rs"]
mod content;
#[path = "steps/keeping.rs"]
mod keeping;
#[path = "steps/life.rs"]
mod life;
#[path = "steps/storage.rs"]
mod storage;

use std::collections::BTreeSet;
use std::sync::Arc;

use provender_daemon::store::Store;
use provender_tests::faulty::{Act, Once, World, changes};

use self::life::{Life, Round, lives};
use self::storage::{Disk, InMemory, Kept, OnPostgres};

/// What became of a life in a world with one fault.
enum End {
    /// The world stood still first.
    Stopped,
    /// It said that all is well, after so many attempts; the fault was met.
    Done { attempts: usize },
    /// It was over before the fault.
    Over { steps: u64 },
}

/// How often a life is begun again after an error.
const ATTEMPTS: usize = 4;
/// After so many rounds a storage is thrown away, since each round reads all of it.
const ROUNDS: u64 = 16;

/// Lives a life from the start of its daemon on, with a fault at one step.
async fn live(storage: &dyn Kept, life: &dyn Life, round: &Round, number: u64, act: Act) -> End {
    let counts = if storage.is_slow() { changes } else { |_| true };
    let (meta, blobs) = storage.open().await;
    let plain = storage::over(meta.clone(), blobs.clone()).await.unwrap();
    life.prepare(&plain, &*blobs, round).await;
    let once = Arc::new(Once::among(counts, number, act));
    let world = World::new(once.clone());
    let attempt = async || {
        let store = storage::within(&world, meta.clone(), blobs.clone()).await?;
        life.live(&store, round).await
    };
    let attempts = async {
        for attempts in 1..=ATTEMPTS {
            match attempt().await {
                Ok(()) => return attempts,
                Err(error) => assert!(attempts < ATTEMPTS, "{} at step {number} ({act:?}): {error}", life.name()),
            }
        }
        unreachable!()
    };
    let attempts = tokio::select! {
        biased;
        () = world.stopped() => return End::Stopped,
        attempts = attempts => attempts,
    };
    if once.counted() <= number { End::Over { steps: once.counted() } } else { End::Done { attempts } }
}

/// Runs one world to its end; with it go all its tasks.
fn in_a_world<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(what)
}

/// Every step of every life with these faults; prints how many there were.
fn every_step(storage: &mut dyn Kept, acts: &[Act]) {
    let mut rounds: u64 = 0;
    for life in lives() {
        let (mut stopped, mut failed, mut number) = (0, 0, 0);
        let steps = 'steps: loop {
            for act in acts {
                let round = Round::new(rounds);
                rounds += 1;
                if rounds.is_multiple_of(ROUNDS) {
                    storage.renew();
                }
                let end = in_a_world(live(storage, &*life, &round, number, *act));
                if let End::Over { steps } = end {
                    break 'steps steps;
                }
                let acknowledged = matches!(end, End::Done { .. });
                match end {
                    End::Done { attempts } => failed += usize::from(attempts > 1),
                    _ => stopped += 1,
                }
                in_a_world(async {
                    let (meta, blobs) = storage.open().await;
                    let store: Store = storage::over(meta.clone(), blobs.clone()).await.unwrap();
                    let place = format!("{} at step {number} ({act:?}), round {rounds}", life.name());
                    storage::check(&*meta, &*blobs, &life.decayed(&round), &place).await;
                    life.recover(&store, &round, acknowledged, &place).await;
                    storage::check(&*meta, &*blobs, &BTreeSet::new(), &place).await;
                });
            }
            number += 1;
        };
        println!(
            "{}: {} has {steps} steps; stopped {stopped} times, told of an error {failed} times",
            storage.name(),
            life.name()
        );
        assert_eq!(steps, number, "each step was there to fail");
        assert!(stopped + failed > 0);
    }
}

const STOPS: [Act; 2] = [Act::StopBefore, Act::StopAfter];
const FAILURES: [Act; 4] =
    [Act::Refuse, Act::LoseCall, Act::LoseAnswer, Act::Linger(std::time::Duration::from_millis(1))];

/// A fault while a store makes its first facts, which it makes again at the next try: it is one that can be used.
#[test]
fn a_first_start_that_fails_at_any_step_leaves_a_store_that_works() {
    let mut tried = 0;
    for act in FAILURES {
        for number in 0.. {
            let once = Arc::new(Once::new(number, act));
            let over = in_a_world(async {
                let (meta, blobs) = InMemory::default().open().await;
                let world = World::new(once.clone());
                let mut store = storage::within(&world, meta.clone(), blobs.clone()).await;
                if store.is_err() {
                    store = storage::within(&world, meta, blobs).await;
                }
                if once.counted() <= number {
                    return true;
                }
                let (store, round) = (store.unwrap(), Round::new(number));
                round.run(&store, 1).await.unwrap_or_else(|error| panic!("{act:?} at step {number}: {error}"));
                false
            });
            tried += 1;
            if over {
                break;
            }
        }
    }
    assert!(tried > 20, "{tried} starts");
}

#[test]
fn a_crash_at_every_step_in_memory() {
    every_step(&mut InMemory::default(), &STOPS);
}

#[test]
fn a_crash_at_every_step_on_rocksdb_and_disk() {
    every_step(&mut Disk::default(), &STOPS);
}

#[test]
fn a_crash_at_every_step_on_postgres_and_disk() {
    every_step(&mut OnPostgres::start(), &STOPS);
}

#[test]
fn a_failure_at_every_step_in_memory() {
    every_step(&mut InMemory::default(), &FAILURES);
}

#[test]
fn a_failure_at_every_step_on_rocksdb_and_disk() {
    every_step(&mut Disk::default(), &FAILURES);
}
