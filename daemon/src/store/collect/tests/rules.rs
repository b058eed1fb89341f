//! What rules for names take.

use provender_core::transition::Cause;

use super::*;
use crate::store::Invalidate;

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
async fn a_success_that_is_no_record_goes_as_what_failed_does() {
    for (store, _folder) in stores().await {
        let keep = Keep { latest: Some(9), failed_within: Some(Duration::from_millis(1)), ..Keep::default() };
        store.configure(how(vec![keep]));
        let record = of(1, "a");
        made(&store, &record, &[bytes(1, 100)]).await;
        made(&store, &at(&record, 2), &[bytes(1, 100)]).await;
        moment().await;
        let ids = |going: Vec<Going>| going.into_iter().map(|one| (one.execution, one.rule)).collect::<Vec<_>>();
        let (_, going) = collect(&store).await;
        assert_eq!(ids(going), [(of(2, "").id, Rule::Failed)], "the same again is no record");
        let cause = Cause { text: "it is wrong".into(), ..Cause::default() };
        let asked = Invalidate { keys: vec![record.key.clone()], cause, ..Invalidate::default() };
        store.invalidate(&space(), asked, 10).next().await.unwrap();
        assert_eq!(ids(plan(&store).await), [(record.id, Rule::Failed)]);
        let (_, going) = collect(&store).await;
        assert_eq!(ids(going), [(record.id, Rule::Failed)], "nor is what was invalidated");
        assert_eq!(verdict(&store, &record).await.0, Verdict::Invalidated);
    }
}

#[tokio::test]
async fn several_of_one_key_go_at_once() {
    for (store, _folder) in stores().await {
        let short = Some(Duration::from_millis(1));
        store.configure(how(vec![Keep { used_within: short, failed_within: short, ..Keep::default() }]));
        let record = of(1, "a");
        // One goes before it, and others after.
        begin(&store, &at(&record, 2)).await;
        store.fail(&space(), of(2, "").id, "it broke", &outcome(1)).await.unwrap();
        for request in [record.clone(), at(&record, 3), at(&record, 4)] {
            made(&store, &request, &[bytes(1, 100)]).await;
        }
        moment().await;
        let (done, going) = collect(&store).await;
        assert_eq!((done.spared, going.len()), (0, 4), "{done:?}");
        assert!(store.history(&space(), Err(&record.key), false, None, 9).await.unwrap().0.is_empty());
    }
}
