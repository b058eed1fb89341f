pub(super) mod counting;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use provender_blobs::BlobsConfig;
use provender_core::blob::Pinned;
use provender_core::execution::{Executor, Exit, Log, Outcome, State};
use provender_core::name::{Name, Space};
use provender_core::transition::{Refused, Request};
use provender_core::tree::{Node, Tree};
use provender_core::{Digest, ExecutionId, Spec, Timestamp, Verdict, rows};

use super::*;
use crate::meta::{self, Memory, MetaConfig};

pub(super) async fn over(meta: Arc<dyn Meta>) -> Store {
    let metrics = Arc::new(Metrics::new().unwrap());
    Store::open(meta, &BlobsConfig::Memory {}, Vec::new(), metrics).await.unwrap()
}

pub(super) async fn store() -> Store {
    over(Arc::new(Memory::default())).await
}

/// A store, and how often its metadata is read.
pub(super) async fn counted() -> (Store, Arc<counting::Counting>) {
    let counting = Arc::new(counting::Counting::new(Arc::new(Memory::default())));
    (over(counting.clone()).await, counting)
}

/// A store on each embedded engine; the folder goes with the value.
pub(super) async fn stores() -> [(Store, Option<tempfile::TempDir>); 2] {
    let folder = tempfile::tempdir().unwrap();
    let rocks = meta::open(&MetaConfig::default(), folder.path()).await.unwrap();
    [(store().await, None), (over(rocks).await, Some(folder))]
}

pub(crate) fn request(n: u16) -> Request {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&n.to_be_bytes());
    Request {
        id: ExecutionId(id),
        key: format!("test:{n}").parse().unwrap(),
        spec: Spec::new(Name::new("name").unwrap()),
        executor: Executor::default(),
        ttl: Duration::ZERO,
        check: false,
        remarks: Default::default(),
    }
}

pub(crate) fn outcome(code: i32) -> Outcome {
    Outcome { exit: Some(Exit::Code(code)), ..Outcome::default() }
}

pub(crate) async fn begin(store: &Store, request: &Request) {
    let begun = store.begin(&Space::default(), request, None).await.unwrap();
    assert!(matches!(begun, Begin::Lease(..)), "{begun:?}");
}

/// A tree that holds one file of these bytes.
async fn tree_of(store: &Store, bytes: &'static [u8]) -> Digest {
    let digest = store.put_small(&Space::default(), vec![Bytes::from_static(bytes)]).await.unwrap()[0];
    let mut tree = Tree::new();
    tree.insert("file", Node::File { digest, executable: false }).unwrap();
    store.put_small(&Space::default(), vec![tree.encode().unwrap()]).await.unwrap()[0]
}

#[tokio::test]
async fn failures_are_found_behind_many_successes() {
    let (store, space) = (store().await, Space::default());
    for n in 0..1_200 {
        begin(&store, &request(n)).await;
        store.commit(&space, request(n).id, &outcome(i32::from(n == 3))).await.unwrap();
    }
    let name = Name::new("name").unwrap();
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.history(&space, Ok(&name), true, cursor, 10);
        let (executions, next) = tokio::time::timeout(Duration::from_secs(60), page).await.unwrap().unwrap();
        found.extend(executions.into_iter().map(|execution| (execution.id, execution.state)));
        match next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(found, [(request(3).id, State::Failed)]);
}

#[tokio::test]
async fn what_is_sent_twice_is_answered_the_same() {
    let (store, space, first) = (store().await, Space::default(), request(1));
    begin(&store, &first).await;
    begin(&store, &first).await;
    let sent = Outcome { outputs: Some(tree_of(&store, b"x").await), ..outcome(0) };
    let (a, b) = tokio::join!(store.commit(&space, first.id, &sent), store.commit(&space, first.id, &sent));
    assert_eq!(a.unwrap(), b.unwrap());
    let again = store.commit(&space, first.id, &sent).await.unwrap();
    assert!(again.1 && again.0.state == State::Succeeded);
    let other = Outcome { outputs: Some(tree_of(&store, b"y").await), ..outcome(0) };
    let refused = store.commit(&space, first.id, &other).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused(Refused::Ended { state: State::Succeeded, .. })), "{refused:?}");
}

#[tokio::test]
async fn who_waited_for_a_failure_is_told_and_does_not_run_it_again() {
    let (store, space, holder) = (store().await, Space::default(), request(1));
    begin(&store, &holder).await;
    let waiter = Request { id: ExecutionId([9; 16]), ..holder.clone() };
    assert!(matches!(store.begin(&space, &waiter, None).await.unwrap(), Begin::Busy(busy) if busy.id == holder.id));
    store.fail(&space, holder.id, "why", &outcome(1)).await.unwrap();
    let told = store.begin(&space, &waiter, Some(holder.id)).await.unwrap();
    assert!(matches!(told, Begin::Failed(failed) if failed.reason.as_deref() == Some("why")));
    begin(&store, &Request { id: ExecutionId([8; 16]), ..holder }).await;
}

#[tokio::test]
async fn a_restore_fences_those_who_began_before_it() {
    let (store, space, held) = (store().await, Space::default(), request(1));
    begin(&store, &held).await;
    store.heartbeat(&space, held.id).await.unwrap();
    store
        .transact(|mut txn| {
            txn.put(rows::store("incarnation"), "2");
            async move { Ok((txn, ())) }
        })
        .await
        .unwrap();
    for refused in [
        store.heartbeat(&space, held.id).await.map(drop),
        store.commit(&space, held.id, &outcome(0)).await.map(drop),
        store.fail(&space, held.id, "why", &outcome(1)).await.map(drop),
    ] {
        assert!(matches!(refused, Err(StoreError::Refused(Refused::Fenced { .. }))), "{refused:?}");
    }
    let answer = store.lookup(&space, &[held.key]).await.unwrap().swap_remove(0);
    assert_ne!(answer.verdict, Verdict::Succeeded);
}

#[tokio::test]
async fn only_those_who_wait_are_noted_down() {
    let (store, space, key) = (store().await, Space::default(), request(1).key);
    let (first, second) = (store.key_changes(&space, &key), store.key_changes(&space, &key));
    {
        let changed = first.changed();
        tokio::pin!(changed);
        changed.as_mut().enable();
        store.inner.feed.changed(&rows::key(&space, &key));
        changed.await;
    }
    drop(first);
    assert_eq!(store.inner.feed.len(), 1);
    drop(second);
    assert_eq!(store.inner.feed.len(), 0);
}

#[tokio::test]
async fn keeping_prolongs_and_never_shortens() {
    let (store, space) = (store().await, Space::default());
    let digest = tree_of(&store, b"x").await;
    let keep = |owner: &str, seconds| {
        store.keep(&space, Pinned::Tree(digest), "r".into(), owner.into(), Duration::from_secs(seconds))
    };
    let long = keep("a", 1_000).await.unwrap();
    assert_eq!(keep("a", 1).await.unwrap(), long);
    assert!(keep("b", 1).await.unwrap() < long);
    assert!(keep("a", u64::MAX / 1_000).await.unwrap() > long);
    assert!(keep("a", 0).await.unwrap() < Timestamp::MAX);
}

#[tokio::test]
async fn another_space_knows_nothing() {
    let (store, space, other) = (store().await, Space::default(), Space::new("other").unwrap());
    let digest = tree_of(&store, b"x").await;
    assert_eq!(store.find_missing(&space, &[digest]).await.unwrap(), []);
    assert_eq!(store.find_missing(&other, &[digest]).await.unwrap(), [digest]);
    assert!(store.by_hash(&other, &digest.hash).await.unwrap().is_none());
    assert!(matches!(store.read_whole(&other, &digest, 1_000).await, Err(StoreError::NotFound { .. })));
    assert_eq!(store.read_small(&other, &[digest]).await.unwrap(), [None]);
    // Who has the bytes may have them there too.
    let mut upload = store.upload(&other, Some(digest));
    upload.write(store.read_whole(&space, &digest, 1_000).await.unwrap()).await.unwrap();
    assert_eq!(upload.finish().await.unwrap(), digest);
    assert_eq!(store.find_missing(&other, &[digest]).await.unwrap(), []);
}

#[tokio::test]
async fn blobs_of_any_size_come_back_whole_and_in_part() {
    let (store, space) = (store().await, Space::default());
    for size in [0, 1, INLINE_MAX - 1, INLINE_MAX, INLINE_MAX + 1, 3 << 20] {
        let bytes: Vec<u8> = (0..size).map(|n| (n * 31 % 251) as u8).collect();
        let mut upload = store.upload(&space, None);
        for piece in bytes.chunks(100_000) {
            upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        let digest = upload.finish().await.unwrap();
        assert_eq!(digest, Digest::of(&bytes));
        assert!(store.read_whole(&space, &digest, size).await.unwrap() == bytes);
        let (from, to) = (size / 3, size - size / 5);
        let part = store.read(&space, &digest, from..to).await.unwrap().into_bytes().await.unwrap();
        assert!(part == bytes[from as usize..to as usize]);
        let found = store.read_small(&space, &[digest, Digest::of(b"none")]).await.unwrap();
        assert!(found[0].as_deref() == Some(&bytes[..]) && found[1].is_none());
    }
    let mut upload = store.upload(&space, Some(Digest::of(b"abc")));
    assert!(upload.write(Bytes::from_static(b"abcd")).await.is_err());
}

#[tokio::test]
async fn a_check_never_moves_the_record_or_latest() {
    for (store, _folder) in stores().await {
        let (space, first) = (Space::default(), request(1));
        begin(&store, &first).await;
        let made = |root| Outcome { outputs: Some(root), ..outcome(0) };
        let (x, y) = (tree_of(&store, b"x").await, tree_of(&store, b"y").await);
        store.commit(&space, first.id, &made(x)).await.unwrap();
        let name = Name::new("name").unwrap();
        let other = Name::new("other").unwrap();
        let check = |n: u8, name: &Name| Request {
            id: ExecutionId([n; 16]),
            check: true,
            remarks: Default::default(),
            spec: Spec::new(name.clone()),
            ..first.clone()
        };
        for (n, root, code) in [(7, y, 0), (8, y, 1), (9, x, 0)] {
            let asked = check(n, if n == 7 { &other } else { &name });
            let begun = store.begin(&space, &asked, None).await.unwrap();
            assert!(matches!(begun, Begin::Lease(_, _, Some(checks)) if checks == first.id), "{begun:?}");
            // Others hit at once, and another check waits.
            let hit = store.begin(&space, &Request { id: ExecutionId([70; 16]), ..first.clone() }, None).await.unwrap();
            assert!(matches!(hit, Begin::Hit(hit) if hit.id == first.id));
            let busy = store.begin(&space, &check(71, &name), None).await.unwrap();
            assert!(matches!(busy, Begin::Busy(holder) if holder.id == asked.id), "one check at a time");
            assert_eq!(
                store.lookup(&space, std::slice::from_ref(&first.key)).await.unwrap()[0].verdict,
                Verdict::Succeeded
            );
            let sent = Outcome { outputs: Some(root), ..outcome(code) };
            let (ended, recorded) = store.commit(&space, asked.id, &sent).await.unwrap();
            assert_eq!((ended.diverges_from, recorded), ((n == 7).then_some(first.id), false));
            assert_eq!(store.commit(&space, asked.id, &sent).await.unwrap(), (ended.clone(), false));
            let answer = store.lookup(&space, std::slice::from_ref(&first.key)).await.unwrap().swap_remove(0);
            assert_eq!(
                (answer.verdict, answer.execution, answer.outputs),
                (Verdict::Succeeded, Some(first.id), Some(x))
            );
            let latest = store.latest(&space, &name).await.unwrap();
            assert_eq!(latest.map(|latest| latest.id), Some(first.id));
            assert!(ended.folder.is_some(), "it is shown among the others");
        }
        assert!(store.latest(&space, &other).await.unwrap().is_none(), "a divergent one is no latest");
        assert_eq!(store.history(&space, Err(&first.key), false, None, 9).await.unwrap().0.len(), 4);
        // The same again, under another name, is as good as a hit.
        begin(&store, &check(10, &other)).await;
        store.commit(&space, ExecutionId([10; 16]), &made(x)).await.unwrap();
        assert_eq!(store.latest(&space, &other).await.unwrap().map(|latest| latest.id), Some(first.id));
        // A check whose record is invalidated is withdrawn with it.
        begin(&store, &check(11, &name)).await;
        let asked = Invalidate { keys: vec![first.key.clone()], ..Invalidate::default() };
        let part = store.invalidate(&space, asked, 9).next().await.unwrap().unwrap();
        assert_eq!((part.entries[0].record, part.entries[0].withdrawn), (Some(first.id), Some(ExecutionId([11; 16]))));
        assert!(store.commit(&space, ExecutionId([11; 16]), &made(y)).await.is_err());
        assert_eq!(
            store.lookup(&space, std::slice::from_ref(&first.key)).await.unwrap()[0].verdict,
            Verdict::Invalidated
        );
    }
}

#[tokio::test]
async fn who_waited_for_a_failure_hits_if_another_has_succeeded_since() {
    let (store, space, first) = (store().await, Space::default(), request(1));
    begin(&store, &first).await;
    store.fail(&space, first.id, "why", &outcome(1)).await.unwrap();
    let second = Request { id: ExecutionId([8; 16]), ..first.clone() };
    begin(&store, &second).await;
    store.commit(&space, second.id, &outcome(0)).await.unwrap();
    let waiter = Request { id: ExecutionId([9; 16]), ..first.clone() };
    let told = store.begin(&space, &waiter, Some(first.id)).await.unwrap();
    assert!(matches!(&told, Begin::Hit(hit) if hit.id == second.id), "{told:?}");
}

/// What a folder refers to counts also where the folder's own bytes stand as a file or a log.
#[tokio::test]
async fn a_folder_that_is_a_log_or_a_file_too_is_a_folder_all_the_same() {
    let (store, space) = (store().await, Space::default());
    let put = async |tree: &Tree| store.put_small(&space, vec![tree.encode().unwrap()]).await.unwrap()[0];
    let mut inner = Tree::new();
    inner.insert("gone", Node::File { digest: Digest::of(b"never stored"), executable: false }).unwrap();
    let inner = put(&inner).await;
    let mut root = Tree::new();
    root.insert("b", Node::Directory { digest: inner }).unwrap();
    let as_log = (put(&root).await, Some(Log { digest: inner, cut: 0 }));
    root.insert("a", Node::File { digest: inner, executable: false }).unwrap();
    let as_file = (put(&root).await, None);
    for (n, (outputs, stdout)) in [as_log, as_file].into_iter().enumerate() {
        let asked = request(n as u16);
        begin(&store, &asked).await;
        let sent = Outcome { outputs: Some(outputs), stdout, ..outcome(0) };
        let refused = store.commit(&space, asked.id, &sent).await.unwrap_err().to_string();
        assert!(refused.contains(&Digest::of(b"never stored").hex()), "{refused}");
    }
}

#[tokio::test]
async fn an_id_that_is_taken_is_refused_with_whose_it_is() {
    let (store, space, first) = (store().await, Space::default(), request(1));
    begin(&store, &first).await;
    let other = Request { key: "test:other".parse().unwrap(), ..first.clone() };
    let refused = store.begin(&space, &other, None).await.unwrap_err().to_string();
    assert!(refused.contains("test:1, which is RUNNING"), "{refused}");
    assert_eq!(store.execution(&space, first.id).await.unwrap().key, first.key);
}

#[tokio::test]
async fn several_who_stop_waiting_at_once_leave_nothing() {
    let (store, space) = (store().await, Space::default());
    for n in 0..50 {
        let waiters: Vec<_> = (0..8).map(|_| store.key_changes(&space, &request(n).key)).collect();
        let gone = waiters.into_iter().map(|waiter| std::thread::spawn(move || drop(waiter)));
        gone.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
    }
    assert_eq!(store.inner.feed.len(), 0);
}
