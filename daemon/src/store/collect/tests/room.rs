//! What goes for want of room, and what that is reckoned by.

use super::*;

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

#[tokio::test]
async fn what_was_used_later_than_its_row_says_goes_in_its_turn() {
    for (store, _folder) in stores().await {
        store.configure(Collection { quota: Some(100_000), high: 10, low: 1, ..how(Vec::new()) });
        let requests: Vec<_> = (1..5).map(|n| of(n, "a")).collect();
        for (n, request) in requests.iter().enumerate() {
            made(&store, request, &[bytes(n as u8, 1_000)]).await;
        }
        // Each was used since, the last one first.
        for request in requests.iter().rev() {
            assert_eq!(verdict(&store, request).await.0, Verdict::Succeeded);
            store.flush_used().await.unwrap();
            moment().await;
        }
        let ids = |going: &[Going]| going.iter().map(|one| one.execution).collect::<Vec<_>>();
        let planned = plan(&store).await;
        let (_, going) = collect(&store).await;
        assert_eq!(ids(&planned), ids(&going));
        assert_eq!(ids(&going), [4, 3, 2, 1].map(|n| of(n, "").id));
    }
}
