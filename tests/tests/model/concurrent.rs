//! Executors that run at once: each short history must have an order that the model could have gone through.

use std::sync::Arc;

use proptest::test_runner::{RngAlgorithm, TestRng};
use provender_tests::conformance::meta::Storage;
use provender_tests::model::count::Counts;
use provender_tests::model::history::{self, Done, Size};
use provender_tests::model::linear;
use provender_tests::model::things::Things;
use provender_tests::model::world::{World, folder};

use super::engines::{Database, InMemory, Rocks};
use super::machine::{random, setting};

const SIZE: Size = Size { clients: 4, calls: 7, keys: 2 };

/// Judges many histories; several are recorded at once, each by executors of its own.
async fn judge(engine: &str, storage: &dyn Storage, histories: u64) {
    let (disk, mut counts) = (folder(), Counts::default());
    let daemons = if storage.is_shared() { 2 } else { 1 };
    let mut world = World::start(storage, disk.path(), daemons, Arc::default()).await;
    let histories = histories * setting("PROVENDER_SOAK").map_or(1, |_| 10);
    for n in 0..histories {
        // Keys of one history are no other's.
        let things = Things::new(u64::MAX - n);
        let rngs = (0..SIZE.clients).map(|_| {
            let seed: [u8; 32] = [random(), random(), random(), random()].concat().try_into().unwrap();
            TestRng::from_seed(RngAlgorithm::ChaCha, &seed)
        });
        let rngs = rngs.collect();
        let calls = history::record(&mut world, things, SIZE, rngs).await;
        let unknown = calls.iter().filter(|call| call.said.is_none()).count();
        assert_eq!(unknown, 0, "{engine}: nothing fails here: {calls:#?}");
        counts.add(calls.iter().map(|call| match (&call.done, call.said.as_ref()) {
            (Done::Lookup(_), _) => "lookup",
            (Done::Sees(..) | Done::Expires(..), _) => "time passes",
            (Done::Step(step), said) => history::kind(step, said),
        }));
        if let Err(why) = linear::judge(&history::before(), &calls, |id| history::key_of(id, SIZE)) {
            panic!("{engine}: {why}");
        }
    }
    println!("{engine}: {histories} histories\n{counts}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_histories_are_linearizable_in_memory() {
    judge("memory", &InMemory::default(), 1_500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_histories_are_linearizable_on_rocksdb() {
    judge("rocksdb", &Rocks::new(), 400).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_histories_are_linearizable_on_postgres() {
    judge("postgres", &Database::new(), 250).await;
}
