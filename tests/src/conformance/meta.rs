//! What every metadata engine must do.
//!
//! Owns the list of cases, [`meta_suite!`](crate::meta_suite), and what they need of an engine: a way to open it. A case
//! asserts what the seam promises, never how an engine keeps it.

#![expect(missing_docs, reason = "a case's name says what it asserts")]

pub mod crash;
mod fates;
mod feed;
pub mod full;
mod preconditions;
mod rows;
mod snapshot;
mod verify;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use provender_core::batch::{Batch, BatchId, Expect, Row, RowKey, Table, Version};
use provender_core::time::Timestamp;
use provender_daemon::meta::{CommitError, Meta, Scan};

pub use fates::*;
pub use feed::*;
pub use preconditions::*;
pub use rows::*;
pub use snapshot::*;
pub use verify::*;

/// One storage, empty at first.
#[async_trait]
pub trait Storage: Sync {
    /// Opens it. Unless [`Storage::is_shared`], what was opened before must have been dropped.
    async fn open(&self) -> Arc<dyn Meta>;

    /// Whether several may have it open at once.
    fn is_shared(&self) -> bool;
}

/// Every case of the suite as a test of its own, for the storage that an expression makes.
#[macro_export]
macro_rules! meta_suite {
    ($storage:expr) => {
        $crate::meta_suite! { $storage =>
            values_come_back_as_they_were
            a_get_sees_one_moment
            scans_keep_to_their_edges
            scans_are_paged_by_rows
            scans_are_paged_by_bytes
            a_scan_goes_on_while_others_write
            a_batch_of_fifty_thousand_writes
            what_was_committed_is_there_when_reopened
            preconditions_of_rows_written_and_only_read
            a_batch_is_all_or_nothing
            a_row_written_anew_never_gets_an_old_version
            of_two_that_deny_each_other_one_wins
            counters_lose_nothing
            a_caller_that_goes_away_commits_whole_or_not_at_all
            a_batch_commits_once_however_often_it_is_sent
            an_aborted_batch_never_commits
            commit_and_abort_race_for_one_fate
            fates_are_forgotten_by_age
            the_feed_has_every_change_in_commit_order
            a_batch_is_never_split_in_the_feed
            the_cursor_moves_over_what_is_not_fed
            an_event_is_in_the_feed_and_no_row
            followers_are_woken
            a_trimmed_feed_refuses_old_cursors
            a_snapshot_stays_as_it_was
            a_snapshot_is_of_one_commit
            what_is_beside_the_rows_is_verified_page_by_page
        }
    };
    ($storage:expr => $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::conformance::meta::$case(&$storage).await;
            }
        )*
    };
}

/// A row of a table that is in the feed.
pub(crate) fn fed(key: impl Into<Bytes>) -> RowKey {
    RowKey { table: Table::Key, key: key.into() }
}

/// A row of a table that is not.
pub(crate) fn quiet(key: impl Into<Bytes>) -> RowKey {
    RowKey { table: Table::Execution, key: key.into() }
}

/// The name of row `n`, in order of `n`.
pub(crate) fn name(n: usize) -> Bytes {
    format!("{n:08}").into()
}

/// A new batch made at `millis`.
pub(crate) fn made_at(millis: u64) -> Batch {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let mut random = [0; 10];
    getrandom::fill(&mut random).unwrap();
    // In order; and what is left to chance keeps the ids of several processes on one storage apart.
    random[..4].copy_from_slice(&COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    Batch::new(BatchId::new(Timestamp::from_millis(millis), random))
}

/// A new batch.
pub(crate) fn batch() -> Batch {
    made_at(1_800_000_000_000)
}

/// Commits a write of one row.
pub(crate) async fn put(meta: &dyn Meta, key: RowKey, value: impl Into<Bytes>) -> Version {
    let mut batch = batch();
    batch.put(key, value);
    meta.commit(batch).await.unwrap()
}

/// One row.
pub(crate) async fn get(meta: &dyn Meta, key: &RowKey) -> Option<Row> {
    meta.get(std::slice::from_ref(key)).await.unwrap().pop().unwrap()
}

/// All rows of a scan, page by page.
pub(crate) async fn all(meta: &dyn Meta, mut scan: Scan) -> Vec<(Bytes, Row)> {
    let mut rows = Vec::new();
    loop {
        let page = meta.scan(&scan).await.unwrap();
        assert!(page.rows.len() <= scan.limit);
        assert!(!page.more || !page.rows.is_empty(), "a page that is not the last one moves on");
        scan.after = page.rows.last().map(|(key, _)| key.clone());
        rows.extend(page.rows);
        if !page.more {
            return rows;
        }
    }
}

/// Adds one to the number in a row, however often others come first; at the end the row says how often that was done.
pub(crate) async fn increment(meta: &dyn Meta, key: &RowKey) -> Version {
    loop {
        let row = get(meta, key).await;
        let mut batch = batch();
        batch
            .expect(key.clone(), Expect::as_read(row.as_ref()))
            .put(key.clone(), (number(row.as_ref()) + 1).to_string());
        match meta.commit(batch).await {
            Ok(version) => return version,
            Err(CommitError::Conflict { key: conflict }) => assert_eq!(conflict, *key),
            Err(error) => panic!("{error:?}"),
        }
    }
}

pub(crate) fn number(row: Option<&Row>) -> usize {
    row.map_or(0, |row| std::str::from_utf8(&row.value).unwrap().parse().unwrap())
}
