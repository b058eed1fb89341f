use std::sync::Arc;

use bytes::Bytes;
use provender_core::blob::Pinned;
use provender_core::collect::rules::Keep;
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
async fn each_rule_takes_what_the_plan_said_and_says_so() {
    let keep = |prefix: &str, latest, used, failed| Keep {
        prefix: prefix.into(),
        latest,
        used_within: used,
        failed_within: failed,
    };
    let short = Some(Duration::from_millis(1));
    let long = Some(Duration::from_secs(3600));
    for (rule, keep, goes) in [
        ("latest", keep("a", Some(1), None, None), &[1, 2][..]),
        ("latest", keep("a", Some(2), None, None), &[1]),
        ("unused", keep("a", None, short, None), &[1, 2, 3]),
        ("unused", keep("", Some(1), short, None), &[1, 2]),
        ("none", keep("a", Some(1), long, None), &[]),
        ("none", keep("ab", Some(1), short, short), &[]),
        ("failed", keep("a/x", None, None, short), &[4]),
        ("failed", keep("", None, None, short), &[4]),
        ("none", keep("", None, None, long), &[]),
    ] {
        for (store, _folder) in stores().await {
            store.configure(how(vec![keep.clone()]));
            for n in 1..4 {
                made(&store, &of(n, "a"), &[bytes(n as u8, 30_000), bytes(9, 20_000)]).await;
                moment().await;
            }
            begin(&store, &of(4, "a/x")).await;
            store.fail(&space(), of(4, "a/x").id, "it broke", &outcome(1)).await.unwrap();
            moment().await;
            let planned = plan(&store).await;
            let (done, going) = collect(&store).await;
            let ids =
                |going: &[Going]| going.iter().map(|one| (one.execution, one.rule, one.frees)).collect::<Vec<_>>();
            assert_eq!(ids(&planned), ids(&going), "{rule} {keep:?}");
            let went: Vec<_> = going.iter().map(|one| one.execution).collect();
            let expected: Vec<_> = goes.iter().map(|n| of(*n, "").id).collect();
            assert_eq!(went, expected, "{rule} {keep:?}");
            assert_eq!(done.spared, 0);
            for n in 1..5 {
                let request = of(n, if n == 4 { "a/x" } else { "a" });
                let (verdict, by, reason) = verdict(&store, &request).await;
                let gone = goes.contains(&n);
                let failed = if n == 4 { Some("exit_codes") } else { None };
                assert_eq!(by.as_deref(), if gone { Some(rule) } else { failed }, "{n} {keep:?}");
                match (n, gone) {
                    (4, true) => assert_eq!(verdict, Verdict::Unknown),
                    (4, false) => assert_eq!(verdict, Verdict::Failed),
                    (_, true) => assert_eq!(verdict, Verdict::Evicted),
                    (_, false) => assert_eq!(verdict, Verdict::Succeeded),
                }
                assert_eq!(reason.contains(&format!("by the rule `{rule}`")), gone, "{reason}");
                let found = store.execution(&space(), request.id).await;
                assert_eq!(found.is_err(), gone);
            }
            // Bytes that two share go with the last one.
            let frees: u64 = going.iter().map(|one| one.frees).sum();
            assert_eq!(frees, done.frees);
            moment().await;
            let (after, again) = collect(&store).await;
            assert!(again.is_empty(), "{again:?}");
            assert_eq!(done.bytes + after.bytes, frees, "what the plan frees is what is removed: {done:?} {after:?}");
        }
    }
}

#[tokio::test]
async fn the_least_recently_used_go_until_the_low_mark_and_the_quota_holds() {
    for (store, _folder) in stores().await {
        store.configure(Collection { quota: Some(400_000), ..how(Vec::new()) });
        for n in 1..9 {
            made(&store, &of(n, "a"), &[bytes(n as u8, 50_000)]).await;
            moment().await;
        }
        // The first was used again.
        assert_eq!(verdict(&store, &of(1, "a")).await.0, Verdict::Succeeded);
        store.flush_used().await.unwrap();
        moment().await;
        let planned = plan(&store).await;
        let (done, going) = collect(&store).await;
        let ids = |going: &[Going]| going.iter().map(|one| one.execution).collect::<Vec<_>>();
        assert_eq!(ids(&going), [of(2, "").id, of(3, "").id], "{done:?}");
        assert_eq!(ids(&planned), ids(&going));
        assert!(going.iter().all(|one| one.rule == Rule::Quota && one.frees > 50_000));
        assert!(done.used <= 340_000 && done.kept == 0, "{done:?}");
        for n in 1..9 {
            let expected = if [2, 3].contains(&n) { Verdict::Evicted } else { Verdict::Succeeded };
            assert_eq!(verdict(&store, &of(n, "a")).await.0, expected, "{n}");
        }
        assert!(collect(&store).await.1.is_empty());
    }
}

#[tokio::test]
async fn what_is_used_or_pinned_meanwhile_stays() {
    for (store, _folder) in stores().await {
        let keep = vec![Keep { used_within: Some(Duration::from_millis(1)), ..Keep::default() }];
        store.configure(Collection { protect: Duration::from_secs(1), ..how(keep) });
        let moment = || tokio::time::sleep(Duration::from_millis(1_500));
        for n in 1..6 {
            made(&store, &of(n, "a/b"), &[bytes(n as u8, 30_000)]).await;
        }
        let pin = async |what| store.pin(&space(), what, "why".into(), "me".into(), None).await.unwrap();
        pin(Pinned::Key(of(1, "").key)).await;
        moment().await;
        assert_eq!(verdict(&store, &of(2, "")).await.0, Verdict::Succeeded);
        let (_, going) = collect(&store).await;
        let mut went: Vec<_> = going.iter().map(|one| one.execution).collect();
        went.sort();
        assert_eq!(went, [of(3, "").id, of(4, "").id, of(5, "").id]);
        moment().await;
        pin(Pinned::Prefix("a".into())).await;
        assert!(collect(&store).await.1.is_empty());
        assert_eq!(store.unpin(&space(), &Pinned::Prefix("a".into()), Some("other")).await.unwrap(), []);
        assert_eq!(store.unpin(&space(), &Pinned::Prefix("a".into()), None).await.unwrap().len(), 1);
        pin(Pinned::Name(Name::new("a").unwrap())).await;
        moment().await;
        let (_, going) = collect(&store).await;
        assert_eq!(going.iter().map(|one| one.execution).collect::<Vec<_>>(), [of(2, "").id]);
        assert_eq!(verdict(&store, &of(1, "")).await.0, Verdict::Succeeded);
    }
}

#[tokio::test]
async fn a_pinned_tree_keeps_what_it_shares_with_what_goes() {
    for (store, _folder) in stores().await {
        store.configure(how(vec![Keep { used_within: Some(Duration::from_millis(1)), ..Keep::default() }]));
        let root = made(&store, &of(1, "a"), &[bytes(1, 30_000), bytes(2, 30_000)]).await;
        made(&store, &of(2, "a"), &[bytes(1, 30_000), bytes(3, 30_000)]).await;
        let (_, pin) = store.pin(&space(), Pinned::Tree(root), "why".into(), "me".into(), None).await.unwrap();
        assert!(pin.closure.is_some());
        moment().await;
        let (first, going) = collect(&store).await;
        assert_eq!(going.len(), 2);
        moment().await;
        let (second, _) = collect(&store).await;
        assert!((first.bytes + second.bytes) / 30_000 == 1, "only what the second alone had: {first:?} {second:?}");
        let held = store.tree(&space(), &root).await.unwrap();
        for (_, node) in held.iter() {
            let digest = node.digest().unwrap();
            assert_eq!(store.read_whole(&space(), &digest, 1 << 20).await.unwrap().len(), 30_000);
        }
        assert_eq!(store.unpin(&space(), &Pinned::Tree(root), None).await.unwrap().len(), 1);
        collect(&store).await;
        moment().await;
        collect(&store).await;
        assert_eq!(store.find_missing(&space(), &[root]).await.unwrap(), [root]);
        assert_eq!(store.usage().await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_pin_that_ends_lets_go_and_one_that_is_renewed_does_not() {
    for (store, _folder) in stores().await {
        store.configure(how(Vec::new()));
        let mut digests = Vec::new();
        for n in 1..3 {
            let root = tree(&store, &[bytes(n, 30_000)]).await;
            let time = Duration::from_millis(100);
            store.keep(&space(), Pinned::Tree(root), "put".into(), "me".into(), time).await.unwrap();
            digests.push(root);
        }
        collect(&store).await;
        let long = Duration::from_secs(3600);
        store.keep(&space(), Pinned::Tree(digests[0]), "put".into(), "me".into(), long).await.unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
        collect(&store).await;
        collect(&store).await;
        moment().await;
        collect(&store).await;
        assert!(store.tree(&space(), &digests[0]).await.is_ok());
        assert!(matches!(store.tree(&space(), &digests[1]).await, Err(StoreError::NotFound { .. })));
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
async fn uploads_wait_for_room_and_are_refused_where_everything_is_protected() {
    let store = over(Arc::new(Memory::default()) as Arc<dyn Meta>).await;
    store.configure(Collection { quota: Some(300_000), protect: Duration::from_millis(100), ..how(Vec::new()) });
    let background = tokio::spawn(store.clone().collect_forever());
    let watch = tokio::spawn(store.clone().watch_room());
    for n in 1..30 {
        made(&store, &of(n, "a"), &[bytes(n as u8, 50_000)]).await;
        moment().await;
    }
    let kept = store.history(&space(), Ok(&Name::new("a").unwrap()), false, None, 100).await.unwrap().0;
    assert!(kept.len() >= 4, "no more goes than has to: {}", kept.len());
    assert!(store.usage().await.unwrap() <= 300_000);
    // However long it waits, what it uploads is protected while it runs.
    begin(&store, &of(100, "a")).await;
    let root = tree(&store, &[bytes(100, 120_000)]).await;
    store.pin(&space(), Pinned::Tree(root), String::new(), String::new(), None).await.unwrap();
    let listed =
        async || store.history(&space(), Ok(&Name::new("a").unwrap()), false, None, 100).await.unwrap().0.len();
    let before = listed().await;
    let refused = put(&store, bytes(101, 300_001)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    // Nothing goes for what would not fit into all of it.
    tokio::time::sleep(SOON * 3).await;
    assert!(before > 1 && listed().await == before, "{before}");
    assert!(store.tree(&space(), &root).await.is_ok());
    background.abort();
    watch.abort();
}

#[tokio::test]
async fn a_pin_of_a_name_keeps_what_is_shown_there_from_elsewhere() {
    for (store, _folder) in stores().await {
        store.configure(how(vec![Keep { used_within: Some(Duration::from_millis(1)), ..Keep::default() }]));
        for n in 1..4 {
            made(&store, &of(n, "ci/app"), &[bytes(n as u8, 30_000)]).await;
        }
        for (n, name) in [(1, "release/1"), (2, "other/2")] {
            let also = Request { spec: of(n, name).spec, ..of(n, "ci/app") };
            assert!(matches!(store.begin(&space(), &also, None).await.unwrap(), crate::store::Begin::Hit(_)));
        }
        for what in [Pinned::Prefix("release".into()), Pinned::Name(Name::new("other/2").unwrap())] {
            store.pin(&space(), what, String::new(), String::new(), None).await.unwrap();
        }
        moment().await;
        let (_, going) = collect(&store).await;
        assert_eq!(going.iter().map(|one| one.execution).collect::<Vec<_>>(), [of(3, "").id]);
        store.unpin(&space(), &Pinned::Prefix("release".into()), None).await.unwrap();
        moment().await;
        let (_, going) = collect(&store).await;
        assert_eq!(going.iter().map(|one| one.execution).collect::<Vec<_>>(), [of(1, "").id]);
    }
}

#[tokio::test]
async fn a_pin_that_has_ended_is_none_and_one_of_something_else_takes_no_other_along() {
    let store = over(Arc::new(Memory::default()) as Arc<dyn Meta>).await;
    store.configure(how(vec![Keep { used_within: Some(Duration::from_millis(1)), ..Keep::default() }]));
    for n in 1..4 {
        made(&store, &of(n, "a"), &[bytes(n as u8, 30_000)]).await;
    }
    let short = Some(Duration::from_millis(1));
    store.pin(&space(), Pinned::Key(of(1, "").key), String::new(), String::new(), short).await.unwrap();
    moment().await;
    // While it runs somebody pins one of those that go, and the others go all the same.
    let (pinning, mut going) = (store.clone(), 0);
    let done = store
        .collect(false, &mut |_| {
            going += 1;
            if going == 1 {
                let store = pinning.clone();
                let pin = async move {
                    let what = Pinned::Key(of(2, "").key);
                    store.pin(&space(), what, String::new(), String::new(), None).await
                };
                let handle = tokio::runtime::Handle::current();
                std::thread::spawn(move || handle.block_on(pin).unwrap());
                std::thread::sleep(Duration::from_millis(200));
            }
        })
        .await
        .unwrap();
    assert_eq!((going, done.spared), (3, 1));
    let verdicts = [1, 2, 3].map(|n| of(n, ""));
    for (request, expected) in verdicts.iter().zip([Verdict::Evicted, Verdict::Succeeded, Verdict::Evicted]) {
        assert_eq!(verdict(&store, request).await.0, expected);
    }
    let rows = store.meta().scan(&Scan::prefix(Table::RecordPin, "")).await.unwrap().rows;
    assert_eq!(rows.len(), 1, "the one that had ended is no more");
}

#[tokio::test]
async fn a_plan_by_new_rules_says_what_they_take() {
    let meta: Arc<dyn Meta> = Arc::new(Memory::default());
    let store = over(meta.clone()).await;
    store.configure(how(Vec::new()));
    for n in 1..4 {
        made(&store, &of(n, "a"), &[bytes(n as u8, 100)]).await;
        moment().await;
    }
    assert!(plan(&store).await.is_empty());
    let store = over(meta).await;
    store.configure(how(vec![Keep { latest: Some(1), ..Keep::default() }]));
    let ids = |going: Vec<Going>| going.into_iter().map(|one| one.execution).collect::<Vec<_>>();
    assert_eq!(ids(plan(&store).await), [of(1, "").id, of(2, "").id]);
    assert_eq!(ids(collect(&store).await.1), [of(1, "").id, of(2, "").id]);
}

#[tokio::test]
async fn nothing_is_removed_while_somebody_copies_unless_room_is_wanted() {
    let store = over(Arc::new(Memory::default()) as Arc<dyn Meta>).await;
    store.configure(Collection { quota: Some(100_000), ..how(Vec::new()) });
    let loose = put(&store, bytes(1, 30_000)).await.unwrap();
    let copying = store.pause_removal().await.unwrap();
    moment().await;
    assert_eq!(collect(&store).await.0.blobs, 0);
    assert!(store.find_missing(&space(), &[loose]).await.unwrap().is_empty());
    put(&store, bytes(2, 69_000)).await.unwrap();
    moment().await;
    assert_eq!(collect(&store).await.0.blobs, 2);
    drop(copying);
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

#[tokio::test]
async fn room_is_given_once() {
    let store = over(Arc::new(Memory::default()) as Arc<dyn Meta>).await;
    store.configure(Collection { quota: Some(100_000), protect: Duration::from_secs(3_600), ..how(Vec::new()) });
    collect(&store).await;
    let first = store.admit(60_000, 0).await.unwrap();
    let wait = Duration::from_millis(300);
    assert!(tokio::time::timeout(wait, store.admit(60_000, 0)).await.is_err(), "it may come back yet");
    drop(store.admit(40_000, 0).await.unwrap());
    // Once a run was in vain nothing is to be waited for.
    let second = {
        let store = store.clone();
        tokio::spawn(async move { store.admit(60_000, 0).await.map(drop) })
    };
    moment().await;
    collect(&store).await;
    assert!(matches!(second.await.unwrap(), Err(StoreError::Full { .. })));
    drop(first);
    store.admit(100_000, 0).await.unwrap();
}

#[tokio::test]
async fn who_answers_with_a_record_that_leaves_keeps_it() {
    for (store, _folder) in stores().await {
        store.configure(how(vec![Keep { used_within: Some(Duration::from_millis(1)), ..Keep::default() }]));
        made(&store, &of(1, "a"), &[bytes(1, 30_000)]).await;
        made(&store, &of(2, "a"), &[bytes(2, 30_000)]).await;
        moment().await;
        let asked = store.clone();
        // Whoever reads for an answer now is waited for once it was said that the record leaves, before it goes.
        let asking = tokio::spawn(async move {
            let answering = asked.answering();
            loop {
                let known = asked.known_of(&space(), &[of(1, "").key]).await.unwrap().remove(0);
                if known.row.leaving {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    let answered = verdict(&asked, &of(1, "")).await.0;
                    drop(answering);
                    return answered;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let (done, going) = collect(&store).await;
        assert_eq!((asking.await.unwrap(), going.len(), done.spared), (Verdict::Succeeded, 2, 1));
        assert_eq!(verdict(&store, &of(1, "")).await.0, Verdict::Succeeded);
        assert_eq!(verdict(&store, &of(2, "")).await.0, Verdict::Evicted);
    }
}

#[tokio::test]
async fn bytes_that_several_share_count_once() {
    for (store, _folder) in stores().await {
        store.configure(Collection { quota: Some(100_000), ..how(Vec::new()) });
        // It is uploaded by each of the first two.
        for (n, shared) in [(1, true), (2, true), (3, false)] {
            let own = [bytes(n as u8, 30_000)];
            let files: Vec<_> = own.into_iter().chain(shared.then(|| bytes(9, 100_000))).collect();
            made(&store, &of(n, "a"), &files).await;
            moment().await;
        }
        let thousands = |bytes: u64| bytes / 1000;
        assert_eq!(thousands(store.usage().await.unwrap()), 190);
        let planned = plan(&store).await;
        let frees = |going: &[Going]| going.iter().map(|one| (one.execution, one.frees)).collect::<Vec<_>>();
        let (done, going) = collect(&store).await;
        assert_eq!(frees(&planned), frees(&going));
        assert_eq!(going.iter().map(|one| thousands(one.frees)).collect::<Vec<_>>(), [30, 130], "{done:?}");
        assert_eq!((done.frees, thousands(done.bytes)), (going.iter().map(|one| one.frees).sum(), 160));
        assert_eq!(thousands(done.used), 30);
    }
}

#[tokio::test]
async fn what_a_part_has_alone_is_what_deleting_it_frees() {
    for (store, _folder) in stores().await {
        store.configure(how(Vec::new()));
        made(&store, &of(1, "a/x"), &[bytes(1, 30_000), bytes(9, 20_000)]).await;
        made(&store, &of(2, "a/x"), &[bytes(2, 30_000), bytes(9, 20_000)]).await;
        made(&store, &of(3, "a/y"), &[bytes(3, 40_000), bytes(9, 20_000)]).await;
        made(&store, &of(4, "b"), &[bytes(4, 50_000)]).await;
        collect(&store).await;
        let du = store.du(&space(), "a", crate::store::By::Name, &mut |_| {}).await.unwrap();
        let [x, y] = &du.groups[..] else { panic!("{du:?}") };
        assert_eq!((&*x.label, x.executions, x.records, x.bytes / 10_000, x.own / 10_000), ("a/x", 2, 2, 8, 6));
        assert_eq!((&*y.label, y.executions, y.bytes / 10_000, y.own / 10_000), ("a/y", 1, 6, 4));
        assert_eq!((du.all.executions, du.all.bytes / 10_000, du.all.own / 10_000), (3, 12, 12));
        let all = store.du(&space(), "", crate::store::By::Executor, &mut |_| {}).await.unwrap();
        assert_eq!((all.groups.len(), all.all.own), (1, all.all.bytes));
        assert_eq!(all.all.bytes, all.stored, "everything that is stored is somebody's");
    }
}
