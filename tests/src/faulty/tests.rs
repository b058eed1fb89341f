use std::task::Poll;

use futures::FutureExt;
use provender_blobs::{Blobs, put};
use provender_core::batch::{Batch, BatchId, Fate};
use provender_core::{RowKey, rows};
use provender_daemon::meta::{CommitError, Memory, Meta};

use super::*;

fn meta(act: Act) -> (Memory, World, Arc<Faulty<dyn Meta>>) {
    let (memory, world) = (Memory::default(), World::new(Arc::new(Once::new(0, act))));
    let faulty = world.over::<dyn Meta>(Arc::new(memory.clone()));
    (memory, world, faulty)
}

fn row() -> RowKey {
    rows::store("x")
}

fn batch() -> Batch {
    let mut batch = Batch::new(BatchId([1; 16]));
    batch.put(row(), "v");
    batch
}

async fn is_there(meta: &Memory) -> bool {
    meta.get(&[row()]).await.unwrap()[0].is_some()
}

#[tokio::test]
async fn a_commit_fails_as_it_is_told() {
    for (act, happens) in [(Act::Refuse, false), (Act::LoseCall, false), (Act::LoseAnswer, true)] {
        let (memory, _, faulty) = meta(act);
        match (act, faulty.commit(batch()).await) {
            (Act::Refuse, Err(CommitError::NotCommitted { .. })) => {}
            (_, Err(CommitError::Unknown { id, .. })) => assert_eq!(id, batch().id),
            (_, other) => panic!("{act:?}: {other:?}"),
        }
        assert_eq!(is_there(&memory).await, happens, "{act:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_lingers_happens_unless_it_is_aborted_before() {
    for aborts in [false, true] {
        let (memory, _, faulty) = meta(Act::Linger(Duration::from_secs(5)));
        assert!(matches!(faulty.commit(batch()).await, Err(CommitError::Unknown { .. })));
        assert!(!is_there(&memory).await);
        if aborts {
            assert_eq!(faulty.resolve(batch().id).await.unwrap(), Fate::Aborted);
        }
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(is_there(&memory).await, !aborts);
    }
}

#[tokio::test]
async fn a_world_that_stands_still_answers_nobody() {
    for (act, happens) in [(Act::StopBefore, false), (Act::StopAfter, true)] {
        let (memory, world, faulty) = meta(act);
        let commit = async { faulty.commit(batch()).await.map(drop) };
        tokio::select! {
            biased;
            done = commit => panic!("{done:?}"),
            () = world.stopped() => {}
        }
        assert_eq!(is_there(&memory).await, happens);
        assert!(faulty.get(&[row()]).now_or_never().is_none() && faulty.head().now_or_never().is_none());
        let changed = faulty.changed(Default::default());
        tokio::pin!(changed);
        assert_eq!(futures::poll!(changed), Poll::Pending);
    }
}

#[tokio::test]
async fn every_call_is_a_step() {
    let world = World::new(Arc::new(Once::new(2, Act::Refuse)));
    let faulty = world.over::<dyn Blobs>(Arc::new(provender_blobs::Memory::new()));
    assert!(put(&*faulty, "abc".into(), None).await.is_err(), "it is published third");
    let published = put(&*faulty, "abc".into(), None).await.unwrap();
    assert_eq!(world.steps(), 6);
    let reader = faulty.open(&published.location, 0..3).await.unwrap();
    assert_eq!(reader.into_bytes().await.unwrap(), "abc");
    assert_eq!(world.steps(), 9, "it is opened, read, and read to its end");
}

#[tokio::test]
async fn what_rots_shows_to_readers_of_that_copy() {
    let rotten = Rotten::new(Arc::new(provender_blobs::Memory::new()));
    let (a, b) = (put(&rotten, "abc".into(), None).await.unwrap(), put(&rotten, "abc".into(), None).await.unwrap());
    rotten.rot(a.location);
    async fn read(rotten: &Rotten, location: &provender_blobs::Location) -> bytes::Bytes {
        rotten.open(location, 0..3).await.unwrap().into_bytes().await.unwrap()
    }
    assert_ne!(read(&rotten, &a.location).await, "abc");
    assert_eq!(read(&rotten, &b.location).await, "abc");
}
