//! Runs the suite over each backend of `Blobs`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use provender_blobs::{Blobs, Memory};
use provender_tests::bucket::Server;
use provender_tests::child::soak;
use provender_tests::conformance::blobs::{self as suite, packed::Packed};
use provender_tests::faulty::{Course, Plan, Step, World};
use tempfile::TempDir;

/// Every test of every backend, in a module by the backend's name.
macro_rules! every_backend {
    ($($test:ident)*) => {
        mod memory { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::suite::$test(super::memory_store()).await;
            }
        )* }
        mod disk { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let dir = super::folder();
                super::suite::$test(super::suite::disk::open(dir.path(), None).await.unwrap()).await;
            }
        )* }
        mod frames { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let dir = super::folder();
                super::suite::$test(super::packed(&dir).await).await;
            }
        )* }
        mod faulty { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let dir = super::folder();
                let disk = super::suite::disk::open(dir.path(), None).await.unwrap();
                super::suite::$test(super::World::new(super::Slow).over::<dyn super::Blobs>(disk)).await;
            }
        )* }
        /// All on one server, since that takes long to start.
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn bucket_keeps_the_suite() {
            let server = Server::start();
            $(
                println!(stringify!($test));
                suite::$test(suite::bucket::open(&server, stringify!($test)).await).await;
                let frames = suite::bucket::open(&server, concat!("frames-", stringify!($test))).await;
                suite::$test(Arc::new(Packed(frames))).await;
            )*
        }
    };
}

every_backend! {
    sizes_round_trip
    ranges
    missing_is_not_found
    a_wrong_digest_leaves_nothing
    a_dropped_stage_leaves_nothing
    copies_of_one_blob_are_apart
    locations_are_never_reused
    listing_goes_on_while_publishing
    an_open_reader_outlives_removal
    aliases_are_computed
}

/// Tests of the bucket backend alone.
macro_rules! in_a_bucket {
    ($($test:ident)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            suite::bucket::$test(&Server::start()).await;
        }
    )* };
}

mod bucket {
    use super::{Server, suite};

    in_a_bucket! {
        parts
        frames
        sweeps
        refusals
        tampering
        faults
        packs_of_ten_thousand
        packs_of_all_sizes
        packs_tampered_with
        packs_through_faults
    }
}

/// Tests of the disk backend alone, each in a folder of its own.
macro_rules! on_disk {
    ($($module:ident :: $test:ident ( $($program:ident)? ))*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            suite::$module::$test($($program(),)? folder().path()).await;
        }
    )* };
}

on_disk! {
    disk::given_up_transfers_leave_no_file()
    disk::tampering_is_noticed()
    disk::a_folder_that_is_not_there_is_unavailable()
    disk::instances_share_a_folder()
    disk::what_is_cut_off_is_gone_on_with()
    disk::a_sweep_goes_by_age()
    crash::a_killed_writer_is_swept(writer)
    crash::what_a_killed_writer_published_is_whole(writer)
    full::no_space()
    full::no_inodes()
}

#[test]
fn a_large_blob_takes_little_memory() {
    suite::crash::a_large_blob_takes_little_memory(writer(), folder().path());
}

/// 256 MiB, with `PROVENDER_SOAK` 5 GiB.
fn large() -> u64 {
    if soak() { 5 << 10 } else { 256 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_blob_comes_back_from_disk() {
    let dir = folder();
    suite::a_large_blob_comes_back(suite::disk::open(dir.path(), None).await.unwrap(), large()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_blob_comes_back_from_frames() {
    let dir = folder();
    suite::a_large_blob_comes_back(packed(&dir).await, large()).await;
}

async fn packed(dir: &TempDir) -> Arc<dyn Blobs> {
    Arc::new(Packed(suite::disk::open(dir.path(), None).await.unwrap()))
}

/// Each call takes its time, some more than others, so that they overtake each other.
#[derive(Debug)]
struct Slow;

impl Plan for Slow {
    fn course(&self, step: &Step) -> Course {
        let time = |of: u64| Duration::from_micros(step.number * of % 5 * 300);
        Course { before: time(3), after: time(7), ..Course::default() }
    }
}

fn memory_store() -> Arc<dyn Blobs> {
    Arc::new(Memory::new())
}

fn folder() -> TempDir {
    TempDir::new().unwrap()
}

fn writer() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_blob_writer"))
}
