//! The change feed is complete and in commit order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use provender_core::batch::{Change, Expect, RowKey, Table, Version};
use provender_core::time::Timestamp;
use provender_daemon::meta::{CommitError, Meta, MetaError, Scan};

use super::{Storage, all, batch, fed, get, name, put, quiet};

/// How long to wait for what must come: only a broken engine needs it.
const HANG: Duration = Duration::from_secs(60);

/// Follows the feed from `cursor` until a change of `last` comes by.
pub async fn follow(meta: &dyn Meta, mut cursor: Version, last: &provender_core::batch::RowKey) -> Vec<Change> {
    let mut seen = Vec::new();
    let following = async {
        loop {
            let page = meta.changes(cursor, 3).await.unwrap();
            assert!(page.cursor >= cursor);
            assert!(page.changes.iter().all(|change| change.version > cursor && change.version <= page.cursor));
            cursor = page.cursor;
            let empty = page.changes.is_empty();
            seen.extend(page.changes);
            if seen.iter().any(|change| change.key == *last) {
                return;
            }
            if empty {
                meta.changed(cursor).await;
            }
        }
    };
    tokio::time::timeout(HANG, following).await.expect("the last change comes");
    assert!(seen.is_sorted_by_key(|change| change.version), "out of commit order: {seen:?}");
    seen
}

pub async fn the_feed_has_every_change_in_commit_order(storage: &dyn Storage) {
    const TASKS: usize = 6;
    const TIMES: usize = 40;
    let meta = storage.open().await;
    // Whoever else has the storage open commits too.
    let other = if storage.is_shared() { storage.open().await } else { Arc::clone(&meta) };
    let followers: Vec<_> = [&meta, &other, &meta]
        .map(|meta| {
            let meta = Arc::clone(meta);
            tokio::spawn(async move { follow(&*meta, Version(0), &fed("last")).await })
        })
        .into();
    let committers = (0..TASKS).map(|task| {
        let meta = Arc::clone(if task % 2 == 0 { &meta } else { &other });
        tokio::spawn(async move {
            let mut done = Vec::new();
            for n in 0..TIMES {
                let key = fed(name(task * TIMES + n));
                let mut batch = batch();
                match n % 4 {
                    3 => batch.delete(key.clone()),
                    _ => batch.put(key.clone(), "").put(quiet("q"), ""),
                };
                done.push((meta.commit(batch).await.unwrap(), (key, n % 4 == 3)));
            }
            done
        })
    });
    let mut done: BTreeMap<_, _> =
        join_all(committers.collect::<Vec<_>>()).await.into_iter().flat_map(Result::unwrap).collect();
    done.insert(put(&*meta, fed("last"), "").await, (fed("last"), false));
    let expected: Vec<_> = done.into_iter().map(|(version, (key, deleted))| Change { version, key, deleted }).collect();
    assert_eq!(expected.len(), TASKS * TIMES + 1);
    for follower in join_all(followers).await {
        assert_eq!(follower.unwrap(), expected);
    }
}

pub async fn a_batch_is_never_split_in_the_feed(storage: &dyn Storage) {
    let meta = storage.open().await;
    for n in 0..4 {
        let mut batch = batch();
        (0..5).for_each(|m| {
            batch.put(fed(name(n * 5 + m)), "");
        });
        meta.commit(batch).await.unwrap();
    }
    for limit in [0, 1, 4, 5, 6, 10, 11, 19, 20, 21] {
        let mut cursor = Version(0);
        let mut seen = Vec::new();
        while seen.len() < 20 {
            let page = meta.changes(cursor, limit).await.unwrap();
            assert_eq!(page.changes.len() % 5, 0, "limit {limit}");
            assert!(!page.changes.is_empty() && page.changes.len() < limit.max(1) + 5, "limit {limit}");
            assert!(page.cursor > cursor);
            cursor = page.cursor;
            seen.extend(page.changes.into_iter().map(|change| change.key));
        }
        assert!(seen.into_iter().eq((0..20).map(|n| fed(name(n)))));
    }
}

pub async fn the_cursor_moves_over_what_is_not_fed(storage: &dyn Storage) {
    let meta = storage.open().await;
    assert_eq!(
        (meta.head().await.unwrap(), meta.changes(Version(0), 1).await.unwrap().cursor),
        (Version(0), Version(0))
    );
    put(&*meta, fed("a"), "").await;
    let mut head = Version(0);
    for n in 0..10 {
        head = put(&*meta, quiet(name(n)), "").await;
    }
    let page = meta.changes(Version(0), 10).await.unwrap();
    assert_eq!((page.changes.len(), page.cursor), (1, head));
    assert_eq!(meta.head().await.unwrap(), head);
    // A cursor that the storage never gave is of another history.
    assert!(matches!(meta.changes(Version(head.0 + 1), 10).await, Err(MetaError::Trimmed { .. })));
}

pub async fn an_event_is_in_the_feed_and_no_row(storage: &dyn Storage) {
    let meta = storage.open().await;
    let event = |n: usize| RowKey { table: Table::Event, key: [&[b'e'; 4_000], &name(n)[..]].concat().into() };
    let before = meta.head().await.unwrap();
    let mut both = batch();
    both.put(event(2), "").put(event(1), "").put(fed("row"), "value");
    let first = meta.commit(both).await.unwrap();
    // However often it is written there is nothing that stands in the way.
    for _ in 0..2 {
        let mut again = batch();
        again.expect(event(1), Expect::Absent).put(event(1), "").put(quiet("q"), "");
        meta.commit(again).await.unwrap();
    }
    let refused = {
        let mut refused = batch();
        refused.expect(fed("row"), Expect::Absent).put(event(3), "");
        meta.commit(refused).await
    };
    assert!(matches!(refused, Err(CommitError::Conflict { .. })), "{refused:?}");
    let page = meta.changes(before, 100).await.unwrap();
    let change = |after: u64, key| Change { version: Version(first.0 + after), key, deleted: false };
    let told = [change(0, event(1)), change(0, event(2)), change(1, event(1)), change(2, event(1))];
    assert_eq!(page.changes[1..], told, "behind the rows, in the order of their keys");
    assert_eq!(page.changes[0], change(0, fed("row")));
    assert_eq!(get(&*meta, &event(1)).await, None);
    assert_eq!(all(&*meta, Scan::prefix(Table::Event, "")).await, []);
    // It wakes who follows, and goes with the feed.
    let cursor = page.cursor;
    let waiting = tokio::spawn({
        let meta = Arc::clone(&meta);
        async move { meta.changed(cursor).await }
    });
    put(&*meta, event(4), "").await;
    tokio::time::timeout(HANG, waiting).await.expect("woken").unwrap();
    meta.trim(cursor, Timestamp::default()).await.unwrap();
    let kept = meta.changes(cursor, 100).await.unwrap().changes;
    assert_eq!(kept.into_iter().map(|change| change.key).collect::<Vec<_>>(), [event(4)]);
}

pub async fn followers_are_woken(storage: &dyn Storage) {
    let meta = storage.open().await;
    let other = if storage.is_shared() { storage.open().await } else { Arc::clone(&meta) };
    for n in 0..3 {
        let cursor = meta.head().await.unwrap();
        let waiting = tokio::spawn({
            let meta = Arc::clone(&meta);
            async move { meta.changed(cursor).await }
        });
        tokio::task::yield_now().await;
        put(&*other, fed(name(n)), "").await;
        tokio::time::timeout(HANG, waiting).await.expect("woken").unwrap();
        // And who asks afterwards is told at once.
        tokio::time::timeout(HANG, meta.changed(cursor)).await.expect("already changed");
    }
}

pub async fn a_trimmed_feed_refuses_old_cursors(storage: &dyn Storage) {
    let meta = storage.open().await;
    let mut versions = Vec::new();
    for n in 0..10 {
        versions.push(put(&*meta, fed(name(n)), "").await);
    }
    meta.trim(versions[4], Timestamp::default()).await.unwrap();
    for cursor in [Version(0), versions[3]] {
        let refused = meta.changes(cursor, 100).await;
        assert!(matches!(refused, Err(MetaError::Trimmed { oldest }) if oldest == versions[4]), "{refused:?}");
    }
    let kept = meta.changes(versions[4], 100).await.unwrap();
    assert!(kept.changes.iter().map(|change| change.version).eq(versions[5..].iter().copied()));
    // The mark never goes back, nor beyond the end.
    meta.trim(Version(0), Timestamp::default()).await.unwrap();
    assert!(meta.changes(versions[3], 100).await.is_err());
    meta.trim(Version(u64::MAX), Timestamp::default()).await.unwrap();
    let head = meta.head().await.unwrap();
    assert_eq!(meta.changes(head, 100).await.unwrap().changes, []);
    let next = put(&*meta, fed("next"), "").await;
    assert_eq!(meta.changes(head, 100).await.unwrap().changes[0].version, next);
}
