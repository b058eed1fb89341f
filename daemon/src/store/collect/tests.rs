use std::sync::Arc;

use bytes::Bytes;
use provender_core::blob::Pinned;
use provender_core::collect::rules::{Keep, Rules};
use provender_core::execution::{Outcome, State};
use provender_core::transition::Request;
use provender_core::tree::{Node, Tree};
use provender_core::{Digest, Ref, Spec, Table, Verdict};

use super::*;
use crate::meta::{Memory, Meta, Scan};
use crate::store::tests::{begin, outcome, over, request, stores};
use provender_core::collect;
use provender_proto::rows as values;

fn space() -> Space {
    Space::default()
}

/// Nothing is protected for longer than a moment, and nothing goes by itself.
fn how(keep: Vec<Keep>) -> Collection {
    Collection {
        protect: Duration::from_millis(60),
        rules: Rules::new(keep),
        every: Duration::ZERO,
        ..Collection::default()
    }
}

async fn moment() {
    tokio::time::sleep(Duration::from_millis(110)).await;
}

async fn collect(store: &Store) -> (Collected, Vec<Going>) {
    let mut going = Vec::new();
    let done = store.collect(false, &mut |one| going.push(one.clone())).await.unwrap();
    assert_eq!(store.audit().await.unwrap(), Vec::<String>::new());
    (done, going)
}

async fn plan(store: &Store) -> Vec<Going> {
    let mut going = Vec::new();
    store.collect(true, &mut |one| going.push(one.clone())).await.unwrap();
    going
}

fn of(n: u16, name: &str) -> Request {
    let mut request = request(n);
    request.spec = Spec::new(Name::new(if name.is_empty() { "a" } else { name }).unwrap());
    request.spec.params = [("n".to_owned(), serde_json::json!(n))].into();
    request
}

/// As a user uploads.
async fn put(store: &Store, bytes: Vec<u8>) -> Result<Digest, StoreError> {
    let mut upload = store.upload(&space(), None);
    upload.write(Bytes::from(bytes)).await?;
    upload.finish().await
}

/// A tree of files of these bytes.
async fn tree(store: &Store, files: &[Vec<u8>]) -> Digest {
    let mut tree = Tree::new();
    for (n, bytes) in files.iter().enumerate() {
        let digest = put(store, bytes.clone()).await.unwrap();
        tree.insert(format!("f{n}"), Node::File { digest, executable: false }).unwrap();
    }
    store.put_small(&space(), vec![tree.encode().unwrap()]).await.unwrap()[0]
}

/// A success that made these files.
async fn made(store: &Store, request: &Request, files: &[Vec<u8>]) -> Digest {
    begin(store, request).await;
    let root = tree(store, files).await;
    let sent = Outcome { outputs: Some(root), ..outcome(0) };
    let (ended, _) = store.commit(&space(), request.id, &sent).await.unwrap();
    assert_eq!(ended.state, State::Succeeded);
    root
}

fn bytes(n: u8, len: usize) -> Vec<u8> {
    vec![n; len]
}

async fn verdict(store: &Store, request: &Request) -> (Verdict, Option<String>, String) {
    let answer = store.lookup(&space(), std::slice::from_ref(&request.key)).await.unwrap().pop().unwrap();
    (answer.verdict, answer.rule, answer.reason)
}

/// Another attempt at a key, under the same name.
fn at(key: &Request, n: u16) -> Request {
    Request { key: key.key.clone(), check: true, ..of(n, key.spec.name.as_str()) }
}

mod pins;
mod room;
mod rules;

#[tokio::test]
async fn what_nothing_refers_to_goes_and_the_rest_stays() {
    for (store, _folder) in stores().await {
        store.configure(how(Vec::new()));
        let kept = made(&store, &of(1, "a"), &[bytes(1, 100), bytes(2, 40_000)]).await;
        let loose = store.put_small(&space(), vec![Bytes::from_static(b"loose")]).await.unwrap()[0];
        let large = put(&store, bytes(3, 50_000)).await.unwrap();
        let (done, _) = collect(&store).await;
        assert_eq!(done.blobs, 0, "it was uploaded a moment ago");
        moment().await;
        let (done, going) = collect(&store).await;
        assert_eq!((done.blobs, going.len()), (2, 0), "{done:?}");
        assert_eq!(done.bytes, 50_005);
        for digest in [loose, large] {
            assert_eq!(store.find_missing(&space(), &[digest]).await.unwrap(), [digest]);
            assert!(matches!(store.read_whole(&space(), &digest, 1 << 20).await, Err(StoreError::NotFound { .. })));
        }
        assert_eq!(store.tree(&space(), &kept).await.unwrap().len(), 2);
        assert_eq!(verdict(&store, &of(1, "a")).await.0, Verdict::Succeeded);
        // The same bytes again are another copy.
        let again = put(&store, bytes(3, 50_000)).await.unwrap();
        assert!(store.read_whole(&space(), &again, 1 << 20).await.unwrap() == bytes(3, 50_000));
        collect(&store).await;
    }
}

#[tokio::test]
async fn whoever_runs_keeps_what_it_was_told_is_there() {
    for (store, _folder) in stores().await {
        store.configure(how(Vec::new()));
        begin(&store, &of(1, "a")).await;
        let root = tree(&store, &[bytes(1, 30_000)]).await;
        moment().await;
        let (done, _) = collect(&store).await;
        assert_eq!(done.blobs, 0, "it runs");
        let sent = Outcome { outputs: Some(root), ..outcome(0) };
        assert!(store.commit(&space(), of(1, "").id, &sent).await.unwrap().1);
        moment().await;
        assert_eq!(collect(&store).await.0.blobs, 0);
        assert_eq!(verdict(&store, &of(1, "")).await.0, Verdict::Succeeded);
    }
}

#[tokio::test]
async fn another_space_keeps_its_own() {
    let store = over(Arc::new(Memory::default()) as Arc<dyn Meta>).await;
    store.configure(how(Vec::new()));
    let other = Space::new("other").unwrap();
    let mut digests = Vec::new();
    for space in [&space(), &other] {
        let mut upload = store.upload(space, None);
        upload.write(Bytes::from(bytes(1, 30_000))).await.unwrap();
        digests.push(upload.finish().await.unwrap());
    }
    store.pin(&other, Pinned::Blob(digests[0]), String::new(), String::new(), None).await.unwrap();
    moment().await;
    assert_eq!(collect(&store).await.0.blobs, 0);
    assert_eq!(store.find_missing(&space(), &digests[..1]).await.unwrap(), digests[..1]);
    assert_eq!(store.read_whole(&other, &digests[0], 1 << 20).await.unwrap().len(), 30_000);
    store.unpin(&other, &Pinned::Blob(digests[0]), None).await.unwrap();
    assert_eq!(collect(&store).await.0.blobs, 1);
}

#[tokio::test]
async fn nothing_is_left_of_what_went_but_that_it_went() {
    let meta: Arc<dyn Meta> = Arc::new(Memory::default());
    let store = over(meta.clone()).await;
    let everything = Duration::from_millis(1);
    let keep = Keep { used_within: Some(everything), failed_within: Some(everything), ..Keep::default() };
    store.configure(Collection { tombstones: 2, ..how(vec![keep]) });
    for n in 1..5 {
        made(&store, &of(n, &format!("deep/name{n}")), &[bytes(n as u8, 30_000)]).await;
    }
    begin(&store, &of(5, "fails")).await;
    store.fail(&space(), of(5, "").id, "it broke", &outcome(1)).await.unwrap();
    // It is asked for under another name as well.
    let also = Request { spec: of(1, "other").spec, ..of(1, "deep/name1") };
    store.begin(&space(), &also, None).await.unwrap();
    moment().await;
    for _ in 0..3 {
        collect(&store).await;
        moment().await;
    }
    let left: Vec<_> = {
        let mut left = Vec::new();
        // How much is stored may stand in one row that is to be added up.
        let of_nothing = [Table::Store, Table::Usage];
        for table in Table::ALL.into_iter().filter(|table| table.has_rows() && !of_nothing.contains(table)) {
            let rows = meta.scan(&Scan::prefix(table, "")).await.unwrap().rows;
            left.extend(rows.into_iter().map(|(key, _)| (table, key.escape_ascii().to_string())));
        }
        left
    };
    let count = |table| left.iter().filter(|(of, _)| *of == table).count();
    assert_eq!((count(Table::Key), count(Table::Tombstone)), (2, 2), "{left:#?}");
    assert_eq!(left.len(), 4, "{left:#?}");
    assert!(store.describe(&space(), &Ref::Key(of(1, "").key)).await.is_err());
    // Its next run heals.
    made(&store, &of(1, "deep/name1"), &[bytes(1, 30_000)]).await;
    assert_eq!(verdict(&store, &of(1, "")).await.0, Verdict::Succeeded);
    assert_eq!(store.audit().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn successes_without_lists_and_lost_lists_are_made_whole() {
    for (store, _folder) in stores().await {
        store.configure(how(Vec::new()));
        let whole = made(&store, &of(1, "a"), &[bytes(1, 30_000)]).await;
        let list = store.execution(&space(), of(1, "").id).await.unwrap().closure.unwrap();
        // As one is that was made before there were lists, and is not the record.
        store
            .transact(|mut txn| {
                let store = store.clone();
                async move {
                    let place = rows::execution(&space(), of(1, "").id);
                    let mut execution = store.execution_in(&mut txn, &space(), of(1, "").id).await?;
                    execution.closure = None;
                    let tally = collect::Tally::begin(collect::References::of(&execution));
                    txn.put(place, values::execution_to(&execution));
                    let referrer = collect::Referrer::Execution(execution.id);
                    txn.put(rows::tally(&space(), &referrer), values::tally_to(&tally));
                    Ok((txn, ()))
                }
            })
            .await
            .unwrap();
        // The list of another is lost before it was counted.
        let other = made(&store, &of(2, "a"), &[bytes(2, 30_000), bytes(3, 20)]).await;
        let lost = store.execution(&space(), of(2, "").id).await.unwrap().closure.unwrap();
        let stored = store.stored(&lost).await.unwrap().unwrap();
        store
            .transact(|mut txn| {
                txn.delete(rows::inline(&lost, stored.nonce));
                async move { Ok((txn, ())) }
            })
            .await
            .unwrap();
        moment().await;
        for _ in 0..2 {
            let (done, going) = collect(&store).await;
            assert_eq!((going.len(), done.blobs), (0, 0), "{done:?}");
            moment().await;
        }
        assert_eq!(store.execution(&space(), of(1, "").id).await.unwrap().closure, Some(list));
        assert_eq!(store.tree(&space(), &whole).await.unwrap().len(), 1);
        assert_eq!(store.tree(&space(), &other).await.unwrap().len(), 2);
        assert_eq!(verdict(&store, &of(2, "")).await.0, Verdict::Succeeded);
    }
}
