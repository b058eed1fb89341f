//! What became of a batch is decided once.

use std::sync::Arc;

use provender_core::batch::{Expect, Fate};
use provender_core::time::Timestamp;
use provender_daemon::meta::{CommitError, MetaError};

use super::{Storage, batch, fed, get, made_at, put};

pub async fn a_batch_commits_once_however_often_it_is_sent(storage: &dyn Storage) {
    let meta = storage.open().await;
    let mut once = batch();
    once.expect(fed("x"), Expect::Absent).put(fed("x"), "once");
    let version = meta.commit(once.clone()).await.unwrap();
    put(&*meta, fed("x"), "later").await;
    assert_eq!(meta.commit(once.clone()).await.unwrap(), version);
    assert_eq!(meta.resolve(once.id).await.unwrap(), Fate::Committed(version));
    assert_eq!(get(&*meta, &fed("x")).await.unwrap().value, "later");

    let mut twice = batch();
    twice.expect(fed("y"), Expect::Absent).put(fed("y"), "twice");
    let (a, b) = tokio::join!(meta.commit(twice.clone()), meta.commit(twice.clone()));
    assert_eq!(a.unwrap(), b.unwrap());
}

pub async fn an_aborted_batch_never_commits(storage: &dyn Storage) {
    let meta = storage.open().await;
    let mut late = batch();
    late.put(fed("x"), "late");
    let head = meta.head().await.unwrap();
    assert_eq!(meta.resolve(late.id).await.unwrap(), Fate::Aborted);
    assert_eq!(meta.resolve(late.id).await.unwrap(), Fate::Aborted);
    for _ in 0..2 {
        let refused = meta.commit(late.clone()).await;
        assert!(matches!(refused, Err(CommitError::Aborted { id }) if id == late.id), "{refused:?}");
    }
    assert_eq!(get(&*meta, &fed("x")).await, None);
    assert_eq!(meta.changes(head, 10).await.unwrap().changes, []);
}

pub async fn commit_and_abort_race_for_one_fate(storage: &dyn Storage) {
    let meta = storage.open().await;
    for round in 0..200 {
        let key = fed(format!("r{round}"));
        let mut racing = batch();
        racing.put(key.clone(), "");
        let id = racing.id;
        let other = Arc::clone(&meta);
        let commit = tokio::spawn(async move { other.commit(racing).await });
        for _ in 0..round % 4 {
            tokio::task::yield_now().await;
        }
        let fate = meta.resolve(id).await.unwrap();
        match (fate, commit.await.unwrap(), get(&*meta, &key).await) {
            (Fate::Committed(version), Ok(same), Some(row)) => assert_eq!((same, row.version), (version, version)),
            (Fate::Aborted, Err(CommitError::Aborted { .. }), None) => {}
            other => panic!("{other:?}"),
        }
    }
}

pub async fn fates_are_forgotten_by_age(storage: &dyn Storage) {
    let meta = storage.open().await;
    let (mut old, mut young) = (made_at(1_000), made_at(2_000));
    old.put(fed("old"), "");
    young.put(fed("young"), "");
    meta.commit(old.clone()).await.unwrap();
    let version = meta.commit(young.clone()).await.unwrap();
    for _ in 0..2 {
        meta.trim(provender_core::batch::Version(0), Timestamp::from_millis(2_000)).await.unwrap();
    }
    assert_eq!(meta.commit(young.clone()).await.unwrap(), version);
    assert_eq!(meta.resolve(young.id).await.unwrap(), Fate::Committed(version));
    // Whether it happened is not known any more, so it must neither happen again nor be called aborted.
    let refused = meta.commit(old.clone()).await;
    assert!(matches!(refused, Err(CommitError::NotCommitted { source: MetaError::Forgotten { .. } })), "{refused:?}");
    assert!(matches!(meta.resolve(old.id).await, Err(MetaError::Forgotten { .. })));
    // The mark never goes back.
    meta.trim(provender_core::batch::Version(0), Timestamp::from_millis(500)).await.unwrap();
    assert!(matches!(meta.resolve(old.id).await, Err(MetaError::Forgotten { .. })));
}
