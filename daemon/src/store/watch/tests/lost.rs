//! What is LOST is found by testing, and told like everything else.

use bytes::Bytes;
use provender_blobs::BlobsConfig;
use provender_core::Digest;
use provender_core::event::Noted;
use provender_core::execution::Outcome;
use provender_core::tree::{Node, Tree};
use tempfile::TempDir;

use super::*;
use crate::meta::{self, Memory, Meta, MetaConfig};
use crate::metrics::Metrics;
use crate::store::watch::tell::event_of;

use Verdict::{Failed, Lost, Running, Succeeded};

async fn worlds() -> Vec<(Store, TempDir)> {
    let mut worlds = Vec::new();
    for rocks in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let meta: Arc<dyn Meta> = match rocks {
            true => meta::open(&MetaConfig::default(), folder.path()).await.unwrap(),
            false => Arc::new(Memory::default()),
        };
        let blobs = BlobsConfig::Disk { dir: folder.path().join("blobs") };
        let store = Store::open(meta, &blobs, Vec::new(), Arc::new(Metrics::new().unwrap())).await.unwrap();
        followed(&store);
        worlds.push((store, folder));
    }
    worlds
}

/// Bytes too many for a row.
fn large(n: u8) -> Bytes {
    vec![n; 100_000].into()
}

async fn put(store: &Store, n: u8) -> Digest {
    store.put_bytes(&space(), large(n)).await.unwrap()
}

/// Commits an attempt that has begun, with the bytes `large(n)`.
async fn commit(store: &Store, id: ExecutionId, n: u8) {
    let mut tree = Tree::new();
    tree.insert("file", Node::File { digest: put(store, n).await, executable: false }).unwrap();
    let root = store.put_small(&space(), vec![tree.encode().unwrap()]).await.unwrap()[0];
    let outcome = Outcome { outputs: Some(root), ..outcome(0) };
    assert_eq!(store.commit(&space(), id, &outcome).await.unwrap().0.state, State::Succeeded);
}

async fn succeed(store: &Store, request: &Request, n: u8) {
    begin(store, request).await;
    commit(store, request.id, n).await;
}

/// Deletes the file of `large(n)`, and has it noticed.
async fn lose(store: &Store, folder: &TempDir, n: u8) {
    let hex = Digest::of(&large(n)).hex();
    let shard = folder.path().join("blobs/objects").join(&hex[..2]);
    let mut entries = std::fs::read_dir(shard).unwrap().map(|entry| entry.unwrap());
    let file = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(&hex)).unwrap();
    std::fs::remove_file(file.path()).unwrap();
    let read = store.read_whole(&space(), &Digest::of(&large(n)), 1 << 20).await;
    assert!(matches!(read, Err(StoreError::Lost { .. })), "{read:?}");
}

async fn next(watcher: &mut Watching) -> (Verdict, Option<ExecutionId>) {
    let (event, _) = watcher.event().await;
    assert_eq!(event.key, key(1), "{event:?}");
    (event.verdict, event.execution)
}

fn id(n: u8) -> Option<ExecutionId> {
    Some(ExecutionId([n; 16]))
}

fn again(n: u8) -> Request {
    attempt(1, n, "name")
}

#[tokio::test]
async fn what_is_lost_and_what_heals_is_told() {
    for (store, folder) in worlds().await {
        succeed(&store, &again(1), 1).await;
        succeed(&store, &attempt(2, 2, "name"), 2).await;
        succeed(&store, &attempt(3, 3, "other"), 1).await;
        // Asked for under this name as well, and yet told under its own.
        store.begin(&space(), &attempt(3, 4, "name"), None).await.unwrap();
        for watched in [keys([1, 2]), prefixes(&["na"]), Watched { prefixes: vec!["n".into()], ..keys([1]) }] {
            let mut watcher = watch(&store, &watched, None).await;
            watcher.first().await;
            let mut looked = Looked::new(&store).await;
            let mut told = Vec::new();
            for _ in 0..2 {
                lose(&store, &folder, 1).await;
                let (event, _) = watcher.event().await;
                assert_eq!((&event.key, looked.up(1).await), (&key(1), Lost));
                assert!(event.reason.contains("was found missing") && event.name == Name::new("name").ok());
                told.push((event.verdict, event.execution, event.reason));
                put(&store, 1).await;
                let (event, _) = watcher.event().await;
                assert_eq!((&event.key, looked.up(1).await), (&key(1), Succeeded));
                told.push((event.verdict, event.execution, event.reason));
            }
            assert_eq!(told, looked.said);
        }
        let all = Watched { prefixes: vec![String::new()], ..Watched::default() };
        let mut watcher = watch(&store, &all, None).await;
        watcher.first().await;
        lose(&store, &folder, 1).await;
        let lost = HashSet::from([watcher.event().await.0.key, watcher.event().await.0.key]);
        assert_eq!(lost, HashSet::from([key(1), key(3)]));
        // Who begins to watch a name under which something is LOST is told so, and hears when it heals.
        let mut later = watch(&store, &prefixes(&["na"]), None).await;
        let (first, _) = later.first().await;
        assert!(first.iter().any(|event| event.key == key(1) && event.verdict == Lost), "{first:?}");
        put(&store, 1).await;
        assert_eq!(next(&mut later).await, (Succeeded, id(1)));
    }
}

#[tokio::test]
async fn what_happens_over_a_lost_record_is_told_in_order() {
    for (store, folder) in worlds().await {
        for (round, watched) in [keys([1]), prefixes(&["na"])].into_iter().enumerate() {
            let fresh = |n: u8| again(n + 100 * round as u8);
            invalidate(&store, vec![key(1)]).await;
            succeed(&store, &fresh(1), 1).await;
            let made = Some(fresh(1).id);
            let mut watcher = watch(&store, &watched, None).await;
            watcher.first().await;
            // In vain, twice, and then it heals.
            lose(&store, &folder, 1).await;
            assert_eq!(next(&mut watcher).await, (Lost, made));
            for n in [2, 3] {
                begin(&store, &fresh(n)).await;
                assert_eq!(next(&mut watcher).await, (Running, Some(fresh(n).id)));
                match n {
                    2 => _ = store.fail(&space(), fresh(n).id, "why", &outcome(1)).await.unwrap(),
                    _ => _ = store.commit(&space(), fresh(n).id, &outcome(1)).await.unwrap(),
                }
                assert_eq!(next(&mut watcher).await, (Failed, Some(fresh(n).id)));
                let answer = store.lookup(&space(), &[key(1)]).await.unwrap().remove(0);
                assert_eq!((answer.verdict, answer.execution), (Failed, Some(fresh(n).id)));
            }
            put(&store, 1).await;
            assert_eq!(next(&mut watcher).await, (Succeeded, made));
            // A check is nothing to tell, until it turns out to be an attempt; an hour of silence ends it.
            begin(&store, &Request { check: true, ..fresh(4) }).await;
            lose(&store, &folder, 1).await;
            assert_eq!(next(&mut watcher).await, (Running, Some(fresh(4).id)));
            put(&store, 1).await;
            assert_eq!(next(&mut watcher).await, (Succeeded, made));
            lose(&store, &folder, 1).await;
            assert_eq!(next(&mut watcher).await, (Running, Some(fresh(4).id)));
            expire(&store).await;
            assert_eq!(next(&mut watcher).await, (Verdict::Abandoned, Some(fresh(4).id)));
            put(&store, 1).await;
            assert_eq!(next(&mut watcher).await, (Succeeded, made));
        }
        // A success that replaces the lost one; what becomes of that does not matter any more.
        let mut watcher = watch(&store, &keys([1]), None).await;
        watcher.first().await;
        lose(&store, &folder, 1).await;
        assert_eq!(next(&mut watcher).await.0, Verdict::Abandoned, "the newer news, since its last attempt");
        succeed(&store, &again(9), 9).await;
        assert_eq!([next(&mut watcher).await, next(&mut watcher).await], [(Running, id(9)), (Succeeded, id(9))]);
        put(&store, 1).await;
        last(&store).await;
        assert_eq!(watcher.all().await, []);
    }
}

/// Who was cut off at any moment hears, going on, of what is LOST and of what has healed.
#[tokio::test]
async fn who_goes_on_hears_of_losses_in_between() {
    for (store, folder) in worlds().await {
        succeed(&store, &again(1), 1).await;
        succeed(&store, &attempt(2, 2, "name"), 2).await;
        for watched in [keys([1]), prefixes(&["na"])] {
            let mut watcher = watch(&store, &watched, None).await;
            let (_, whole) = watcher.first().await;
            lose(&store, &folder, 1).await;
            let resumed = async |cursor| {
                let mut watcher = watch(&store, &watched, Some(cursor)).await;
                (watcher.event().await.0, watcher)
            };
            let (event, told_so) = watcher.event().await;
            assert_eq!(event.verdict, Lost);
            let Heard::Reached(after) = watcher.hear().await else { panic!("it goes on") };
            // While it is lost: repeated, as it may be.
            for cursor in [whole, told_so.unwrap(), after] {
                let (event, _) = resumed(cursor).await;
                assert_eq!((event.key, event.verdict), (key(1), Lost));
            }
            put(&store, 1).await;
            // Who had been told of the loss is told that it is over.
            for cursor in [told_so.unwrap(), after] {
                let mut watcher = watch(&store, &watched, Some(cursor)).await;
                while watcher.event().await.0.key != key(1) {}
            }
            assert_eq!(next(&mut watcher).await, (Succeeded, id(1)));
            let Heard::Reached(healed) = watcher.hear().await else { panic!("it goes on") };
            assert!(after.lost && !healed.lost, "{after} {healed}");
            lose(&store, &folder, 1).await;
            let (event, mut watcher) = resumed(healed).await;
            assert_eq!((event.key, event.verdict), (key(1), Lost));
            put(&store, 1).await;
            assert_eq!(next(&mut watcher).await, (Succeeded, id(1)));
        }
    }
}

/// What was not looked into yet is behind no cursor.
#[tokio::test]
async fn a_cursor_stays_before_a_loss_that_was_not_looked_into() {
    for (store, folder) in worlds().await {
        succeed(&store, &again(1), 1).await;
        let watched = keys([1, 2]);
        let (_, before) = watch(&store, &watched, None).await.first().await;
        lose(&store, &folder, 1).await;
        begin(&store, &request(2)).await;
        let mut watcher = watch(&store, &watched, Some(before)).await;
        let (event, cursor) = watcher.event().await;
        assert_eq!((event.key, event.verdict), (key(2), Running), "losses are looked into once all is read");
        for mut watcher in [watcher, watch(&store, &watched, cursor).await] {
            loop {
                let (event, _) = watcher.event().await;
                if event.key == key(1) {
                    assert_eq!(event.verdict, Lost);
                    break;
                }
            }
        }
    }
}

/// Writes an event as it is of the key `test:1` now, changed by `change`, and `rows` beside it.
async fn note(store: &Store, of: &Request, change: impl Fn(&mut Noted), rows: impl Fn(&mut crate::store::Txn)) {
    let execution = &store.execution(&space(), of.id).await.unwrap();
    let row = store.inner.meta.get(&[rows::key(&space(), &key(1))]).await.unwrap().remove(0).unwrap();
    let known = Known { row: provender_proto::rows::key_from(row.value).unwrap(), lease: None };
    let event = event_of(&key(1), &known, Some(execution));
    let mut noted = Noted { event, stamp: 0, lost: false, quiet: false };
    change(&mut noted);
    store
        .transact(|mut txn| {
            txn.event(&space(), &provender_proto::rows::event_to(&noted));
            rows(&mut txn);
            async move { Ok((txn, ())) }
        })
        .await
        .unwrap();
}

/// A loss that entered while a success was being committed, so that neither knew of the other.
#[tokio::test]
async fn a_success_that_was_not_tested_for_a_loss_is_tested() {
    for (store, folder) in worlds().await {
        succeed(&store, &again(1), 1).await;
        lose(&store, &folder, 1).await;
        let mut watcher = watch(&store, &keys([1]), None).await;
        let (first, before) = watcher.first().await;
        assert!(first.iter().any(|event| event.verdict == Lost));
        note(&store, &again(1), |_| (), |_| ()).await;
        let (succeeded, cursor) = watcher.event().await;
        assert_eq!((succeeded.verdict, cursor.map(|cursor| cursor.version)), (Succeeded, Some(before.version)));
        let (lost, cursor) = watcher.event().await;
        assert!(lost.verdict == Lost && cursor.is_some_and(|cursor| cursor.version > before.version));
    }
}

/// A check that ended, or a run that began, while its record was lost or healed: its transaction did not know.
#[tokio::test]
async fn what_a_check_did_not_know_of_its_record_is_found_out() {
    for (store, folder) in worlds().await {
        for (round, watched) in [keys([1]), prefixes(&["na"])].into_iter().enumerate() {
            let fresh = |n: u8| again(n + 100 * round as u8);
            invalidate(&store, vec![key(1)]).await;
            succeed(&store, &fresh(1), 1).await;
            let mut watcher = watch(&store, &watched, None).await;
            watcher.first().await;
            let check = Request { check: true, ..attempt(1, 2 + 100 * round as u8, "check") };
            begin(&store, &check).await;
            lose(&store, &folder, 1).await;
            if round == 0 {
                assert_eq!(next(&mut watcher).await, (Running, Some(check.id)));
            }
            let quiet = |noted: &mut Noted| noted.quiet = true;
            note(&store, &check, quiet, |txn| txn.delete(rows::lease(&space(), &key(1)))).await;
            assert_eq!(next(&mut watcher).await, (Lost, Some(fresh(1).id)));
            put(&store, 1).await;
            // It may be told twice, by who looked into the loss and who looked after the check.
            let healed = match next(&mut watcher).await {
                (Lost, _) => next(&mut watcher).await,
                other => other,
            };
            assert_eq!(healed, (Succeeded, Some(fresh(1).id)));
            // One that thinks that it is still lost.
            let over = |noted: &mut Noted| {
                (noted.event.verdict, noted.event.execution, noted.lost) = (Running, Some(fresh(3).id), true);
                noted.event.name = Name::new("name").ok();
            };
            note(&store, &check, over, |_| ()).await;
            assert_eq!(next(&mut watcher).await, (Running, Some(fresh(3).id)));
            assert_eq!(next(&mut watcher).await, (Succeeded, Some(fresh(1).id)));
        }
    }
}
