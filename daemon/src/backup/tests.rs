//! Backups of stores on real disks, over each embedded engine, restored into the other one.

mod damage;
mod refusals;
mod world;

use std::collections::BTreeSet;

use bytes::Bytes;
use provender_core::blob::Pinned;
use provender_core::name::{Name, Space};
use provender_core::remarks::Remark;
use provender_core::search::Query;
use provender_core::transition::{Refused, Request};
use provender_core::{Digest, ExecutionId, Table, Verdict};

use self::world::{Engine, World, content, dump, large, same, succeed, verdict, whole};
use super::*;
use crate::store::tests::{begin, outcome, request};
use crate::store::{Store, StoreError};

fn space() -> Space {
    Space::default()
}

/// Something of everything.
async fn fill(world: &World) {
    let store = &world.store;
    for n in 0..20 {
        succeed(store, n).await;
    }
    begin(store, &request(100)).await;
    store.fail(&space(), request(100).id, "it broke", &outcome(1)).await.unwrap();
    // Who is at it now.
    begin(store, &request(101)).await;
    let label = Remark { labels: [("kept".to_owned(), "yes".to_owned())].into(), ..Remark::default() };
    store.annotate(&space(), request(3).id, &label).await.unwrap();
    let digest = store.put_small(&space(), vec![Bytes::from_static(b"pinned")]).await.unwrap()[0];
    let hour = std::time::Duration::from_secs(3600);
    store.keep(&space(), Pinned::Blob(digest), "why".into(), "who".into(), hour).await.unwrap();
    world.lose(4).await;
    assert_eq!(verdict(store, 4).await, Verdict::Lost);
}

async fn found(store: &Store, condition: &str) -> BTreeSet<ExecutionId> {
    let query = Query::parse(&[condition.to_owned()]).unwrap();
    store.search(&space(), &query, None, 100).await.unwrap().0.into_iter().map(|execution| execution.id).collect()
}

/// What people would be told.
async fn told(store: &Store) -> Vec<String> {
    let keys: Vec<_> = (0..120).map(|n| request(n).key).collect();
    let mut told: Vec<_> = store
        .lookup(&space(), &keys)
        .await
        .unwrap()
        .iter()
        .map(|answer| format!("{:?} {:?}", answer.verdict, answer.outputs))
        .collect();
    let name = Name::new("name").unwrap();
    for failed in [false, true] {
        let (history, _) = store.history(&space(), Ok(&name), failed, None, 1_000).await.unwrap();
        told.extend(history.iter().map(|execution| format!("{execution:?}")));
    }
    told.push(format!("{:?}", store.latest(&space(), &name).await.unwrap()));
    told.push(format!("{:?}", found(store, "labels.kept=yes").await));
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_restored_on_another_engine_is_what_was_backed_up() {
    for (engine, other) in [(Engine::Memory, Engine::Rocks), (Engine::Rocks, Engine::Memory)] {
        let world = World::new(engine).await;
        fill(&world).await;
        let said = told(&world.store).await;
        let before = dump(&*world.meta).await;
        let first = world.backup(KEEP).await.unwrap();
        assert_eq!((first.number, first.lost(), first.kept.clone()), (1, 1, vec![1]));
        assert!(first.manifest.totals.blobs >= 19 && first.manifest.totals.inline > 19, "{first:?}");
        assert_eq!(world.check(1).await, Vec::<String>::new());

        // Other things happen; the second backup has them, and the first one not.
        for n in 20..25 {
            succeed(&world.store, n).await;
        }
        let second = world.backup(KEEP).await.unwrap();
        assert_eq!((second.number, second.copied, second.kept.clone()), (2, 5, vec![1, 2]));
        // What came was as much as each of the others.
        assert!(second.written < first.written, "{} of {}", second.written, first.written);
        let after = dump(&*world.meta).await;

        for (number, rows, holds) in [(1, before, 20), (2, after, 25)] {
            assert_eq!(world.check(number).await, Vec::<String>::new());
            let restored = World::restored(&world, other, number).await.unwrap();
            same(&dump(&*restored.meta).await, &rows, &format!("{engine:?} to {other:?}, backup {number}"));
            let store = &restored.store;
            if number == 1 {
                assert_eq!(told(store).await, said);
            }
            for n in (0..holds).filter(|n| *n != 4) {
                whole(store, n).await;
            }
            assert_eq!(verdict(store, holds).await, Verdict::Unknown);
            assert_eq!(verdict(store, 4).await, Verdict::Lost);
            assert_eq!(found(store, "labels.kept=yes").await, BTreeSet::from([request(3).id]));
            // Who was at it is fenced, and the next one goes on; what was lost heals.
            let late = store.commit(&space(), request(101).id, &outcome(0)).await;
            assert!(matches!(late, Err(StoreError::Refused(Refused::Fenced { .. }))), "{late:?}");
            let again = Request { id: ExecutionId([77; 16]), ..request(101) };
            store.begin(&space(), &again, None).await.unwrap();
            content(store, 4).await;
            assert_eq!(verdict(store, 4).await, Verdict::Succeeded);
            whole(store, 4).await;
            // It is the same store in another life: it goes on in the same folder.
            let next = restored.backup_into(&world.dir, KEEP).await.unwrap();
            assert_eq!(next.number, 2 + number);
            assert_eq!(world.check(next.number).await, Vec::<String>::new());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_taken_while_others_commit_is_one_moment() {
    let world = World::new(Engine::Rocks).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let writers: Vec<_> = (0..3)
        .map(|task| {
            let (store, stop) = (world.store.clone(), stop.clone());
            tokio::spawn(async move {
                let mut n = task;
                while !stop.is_cancelled() {
                    succeed(&store, n).await;
                    n += 3;
                }
                n
            })
        })
        .collect();
    let mut last = 0;
    for number in 1..=3 {
        while world.meta.head().await.unwrap().0 < last + 60 {
            tokio::task::yield_now().await;
        }
        let summary = world.backup(KEEP).await.unwrap();
        assert!(summary.manifest.missing.is_empty() && summary.manifest.version.0 > last);
        last = summary.manifest.version.0;
        let restored = World::restored(&world, Engine::Memory, number).await.unwrap();
        let mut succeeded = 0;
        for n in 0..2_000 {
            if verdict(&restored.store, n).await == Verdict::Succeeded {
                whole(&restored.store, n).await;
                succeeded += 1;
            }
        }
        assert!(succeeded > 0, "backup {number}");
    }
    stop.cancel();
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_vanish_under_the_store_are_lost_and_not_an_error() {
    let world = World::new(Engine::Memory).await;
    for n in 0..3 {
        succeed(&world.store, n).await;
    }
    world.remove_file(1);
    world.flip_file(2);
    world.drop_row(&content_row(0)).await;
    let summary = world.backup(KEEP).await.unwrap();
    assert_eq!((summary.manifest.missing.len(), summary.lost()), (3, 3));
    // The store knows by then.
    for n in 0..3 {
        assert_eq!(verdict(&world.store, n).await, Verdict::Lost, "{n}");
    }
    // The next one has it from there.
    let next = world.backup(KEEP).await.unwrap();
    assert_eq!((next.manifest.missing.len(), next.lost()), (0, 3));
    for number in [1, 2] {
        assert_eq!(world.check(number).await, Vec::<String>::new());
        let restored = World::restored(&world, Engine::Rocks, number).await.unwrap();
        for n in 0..3 {
            assert_eq!(verdict(&restored.store, n).await, Verdict::Lost, "{n} of {number}");
            content(&restored.store, n).await;
            assert_eq!(verdict(&restored.store, n).await, Verdict::Succeeded, "{n} of {number}");
        }
    }
}

fn content_row(n: u16) -> Digest {
    Digest::of(&world::small(n))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_old_backups_needed_goes_with_them() {
    let world = World::new(Engine::Memory).await;
    for n in 0..4 {
        succeed(&world.store, n).await;
        // As collection will do it.
        if n > 0 {
            world.forget(&large(n - 1)).await;
        }
        let summary = world.backup(2).await.unwrap();
        let number = u64::from(n) + 1;
        assert_eq!(summary.kept, (number.saturating_sub(1).max(1)..=number).collect::<Vec<_>>());
        for number in &summary.kept {
            assert_eq!(world.check(*number).await, Vec::<String>::new());
        }
        // One blob each.
        assert_eq!(world.files("blobs/objects").len(), summary.kept.len());
    }
    let pieces = world.files("rows").len();
    let named: BTreeSet<_> = world
        .folder()
        .await
        .backups()
        .await
        .unwrap()
        .iter()
        .flat_map(|listed| listed.manifest.as_ref().unwrap().pieces().map(|piece| piece.hash).collect::<Vec<_>>())
        .collect();
    assert_eq!(pieces, named.len());
    // Asked for one, one is left.
    assert_eq!(world.backup(1).await.unwrap().kept, [5]);
    assert_eq!(world.check(5).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_blobs_are_added_and_now_and_then_written_anew() {
    let world = World::new(Engine::Memory).await;
    let put = async |range: std::ops::Range<u32>| {
        let blobs = range.map(|n| Bytes::from(n.to_be_bytes().repeat(2_000))).collect();
        world.store.put_small(&space(), blobs).await.unwrap()
    };
    let digests = put(0..4_000).await;
    let first = world.backup(KEEP).await.unwrap();
    put(4_000..4_010).await;
    let second = world.backup(KEEP).await.unwrap();
    assert_eq!(second.manifest.inline[..first.manifest.inline.len()], first.manifest.inline[..]);
    assert!(second.written < 2 << 20, "{} bytes for ten blobs", second.written);
    // Most of it goes.
    for digest in &digests[..3_500] {
        world.forget_small(digest).await;
    }
    let third = world.backup(KEEP).await.unwrap();
    let bytes = |manifest: &Manifest| manifest.inline.iter().map(|piece| piece.bytes).sum::<u64>();
    assert!(bytes(&third.manifest) * 4 < bytes(&second.manifest));
    let restored = World::restored(&world, Engine::Rocks, 3).await.unwrap();
    same(&dump(&*restored.meta).await, &dump(&*world.meta).await, "after collection");
    let restored = World::restored(&world, Engine::Memory, 2).await.unwrap();
    let rows = dump(&*restored.meta).await;
    assert_eq!(rows.iter().filter(|(key, _)| key.table == Table::Inline).count(), 4_010);
    assert_eq!(
        restored.store.read_small(&space(), &digests[..1]).await.unwrap()[0].as_ref().map(Bytes::len),
        Some(8_000)
    );
    assert_eq!(verdict(&restored.store, 0).await, Verdict::Unknown);
}
