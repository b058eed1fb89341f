//! Runs the suite over each backend of `Blobs`.

use std::path::Path;
use std::sync::Arc;

use provender_blobs::{Blobs, Memory};
use provender_tests::conformance::blobs as suite;
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

fn memory_store() -> Arc<dyn Blobs> {
    Arc::new(Memory::new())
}

fn folder() -> TempDir {
    TempDir::new().unwrap()
}

fn writer() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_blob_writer"))
}
