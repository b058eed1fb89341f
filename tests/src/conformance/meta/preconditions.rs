//! Batches hold as if they came one after the other.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::join_all;
use provender_core::batch::{Expect, Version};
use provender_daemon::meta::{CommitError, Meta};

use super::{Storage, batch, fed, get, increment, name, number, put, quiet};

pub async fn preconditions_of_rows_written_and_only_read(storage: &dyn Storage) {
    let meta = storage.open().await;
    let old = put(&*meta, fed("there"), "1").await;
    let new = put(&*meta, fed("there"), "2").await;
    let refused = [(fed("there"), Expect::Absent), (fed("there"), Expect::At(old)), (fed("not"), Expect::At(new))];
    for (key, expect) in refused {
        // The row is only read, and then also written.
        for written in [fed("other"), key.clone()] {
            let mut batch = batch();
            batch.expect(key.clone(), expect).put(written, "bad");
            let refused = meta.commit(batch).await;
            assert!(matches!(&refused, Err(CommitError::Conflict { key: it }) if *it == key), "{refused:?}");
        }
    }
    assert_eq!((get(&*meta, &fed("other")).await, get(&*meta, &fed("not")).await), (None, None));
    let mut good = batch();
    good.expect(fed("there"), Expect::At(new)).expect(fed("not"), Expect::Absent).put(fed("other"), "good");
    let version = meta.commit(good).await.unwrap();
    assert_eq!(get(&*meta, &fed("other")).await.unwrap().version, version);
    assert_eq!(get(&*meta, &fed("there")).await.unwrap().version, new);
}

pub async fn a_batch_is_all_or_nothing(storage: &dyn Storage) {
    let meta = storage.open().await;
    put(&*meta, fed("x"), "old").await;
    let mut refused = batch();
    refused.put(fed("a"), "").delete(fed("x")).put(quiet("b"), "").expect(fed("z"), Expect::At(Version(1)));
    assert!(matches!(meta.commit(refused).await, Err(CommitError::Conflict { .. })));
    let rows = meta.get(&[fed("a"), fed("x"), quiet("b")]).await.unwrap();
    assert_eq!(rows.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, false]);

    // And for whoever looks while it happens.
    let writer = tokio::spawn({
        let meta = Arc::clone(&meta);
        async move {
            for n in 0..200 {
                let mut batch = batch();
                match n % 2 {
                    0 => batch.put(fed("l"), n.to_string()).put(quiet("r"), n.to_string()),
                    _ => batch.delete(fed("l")).delete(quiet("r")),
                };
                meta.commit(batch).await.unwrap();
            }
        }
    });
    while !writer.is_finished() {
        let rows = meta.get(&[fed("l"), quiet("r")]).await.unwrap();
        assert_eq!(rows[0], rows[1]);
    }
    writer.await.unwrap();
}

pub async fn a_row_written_anew_never_gets_an_old_version(storage: &dyn Storage) {
    let meta = storage.open().await;
    let mut last = Version(0);
    for round in 0..20 {
        let version = put(&*meta, fed("x"), round.to_string()).await;
        assert!(version > last);
        let mut delete = batch();
        delete.expect(fed("x"), Expect::At(version)).delete(fed("x"));
        last = meta.commit(delete).await.unwrap();
        assert!(last > version);
        let mut stale = batch();
        stale.expect(fed("x"), Expect::At(version)).put(fed("y"), "");
        assert!(matches!(meta.commit(stale).await, Err(CommitError::Conflict { .. })));
    }
}

/// Every handle that may be open at the same time: two of them if the storage is shared.
async fn handles(storage: &dyn Storage) -> Vec<Arc<dyn Meta>> {
    let mut handles = vec![storage.open().await];
    if storage.is_shared() {
        handles.push(storage.open().await);
    }
    handles
}

pub async fn of_two_that_deny_each_other_one_wins(storage: &dyn Storage) {
    let handles = handles(storage).await;
    let mut winners = BTreeSet::new();
    for round in 0..300 {
        let (x, y) = (fed(format!("x{round}")), fed(format!("y{round}")));
        let (mut a, mut b) = (batch(), batch());
        a.expect(y.clone(), Expect::Absent).put(x.clone(), "a");
        b.expect(x.clone(), Expect::Absent).put(y.clone(), "b");
        // Each in a task of its own, and neither always the first.
        let (first, second) = if round % 2 == 0 { (a, b) } else { (b, a) };
        let (here, there) = (Arc::clone(&handles[0]), Arc::clone(handles.last().unwrap()));
        let tasks = [
            tokio::spawn(async move { here.commit(first).await }),
            tokio::spawn(async move { there.commit(second).await }),
        ];
        let results: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
        let won: Vec<_> = results.iter().map(Result::is_ok).collect();
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "{results:?}");
        assert!(results.iter().any(|result| matches!(result, Err(CommitError::Conflict { .. }))), "{results:?}");
        let rows = handles[0].get(&[x, y]).await.unwrap();
        assert_eq!(rows.iter().flatten().count(), 1);
        winners.insert(rows[0].is_some());
    }
    assert_eq!(winners.len(), 2, "the same one always won, so they did not meet");
}

pub async fn counters_lose_nothing(storage: &dyn Storage) {
    const TASKS: usize = 8;
    const TIMES: usize = 40;
    let handles = handles(storage).await;
    let task = |n: usize| {
        let meta = Arc::clone(&handles[n % handles.len()]);
        tokio::spawn(async move {
            let mut versions = Vec::new();
            for _ in 0..TIMES {
                versions.push(increment(&*meta, &fed("shared")).await);
                increment(&*meta, &quiet(name(n))).await;
            }
            versions
        })
    };
    let versions: BTreeSet<Version> =
        join_all((0..TASKS).map(task)).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(versions.len(), TASKS * TIMES, "two commits shared a version");
    assert_eq!(number(get(&*handles[0], &fed("shared")).await.as_ref()), TASKS * TIMES);
    for n in 0..TASKS {
        assert_eq!(number(get(&*handles[0], &quiet(name(n))).await.as_ref()), TIMES);
    }
}

pub async fn a_caller_that_goes_away_commits_whole_or_not_at_all(storage: &dyn Storage) {
    let meta = storage.open().await;
    let mut ids = Vec::new();
    for n in 0..100 {
        let mut batch = batch();
        batch.put(fed(name(n)), "").put(quiet(name(n)), "");
        ids.push(batch.id);
        let task = tokio::spawn({
            let meta = Arc::clone(&meta);
            async move { meta.commit(batch).await.is_ok() }
        });
        for _ in 0..n % 5 {
            tokio::task::yield_now().await;
        }
        task.abort();
        // Those who stay are served all the same.
        increment(&*meta, &fed("counter")).await;
    }
    for (n, id) in ids.into_iter().enumerate() {
        let fate = meta.resolve(id).await.unwrap();
        let rows = meta.get(&[fed(name(n)), quiet(name(n))]).await.unwrap();
        let version = match fate {
            provender_core::batch::Fate::Committed(version) => Some(version),
            provender_core::batch::Fate::Aborted => None,
        };
        assert!(rows.iter().all(|row| row.as_ref().map(|row| row.version) == version), "{fate:?} {rows:?}");
    }
    assert_eq!(number(get(&*meta, &fed("counter")).await.as_ref()), 100);
}
