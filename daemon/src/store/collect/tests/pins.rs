//! What uses and pins keep.

use super::*;

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
