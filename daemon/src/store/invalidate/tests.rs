use provender_core::execution::{Executor, Outcome};
use provender_core::provenance::Branch;
use provender_core::transition::{Refused, Request};

use super::*;
use crate::store::provenance::tests::{input, run, spec};
use crate::store::tests::{begin, outcome, stores};
use crate::store::{Begin, Described};

const MANY: usize = 1_000_000;

fn keys(keys: &[&str]) -> Invalidate {
    let by = Executor { user: "eve".into(), host: "here".into(), ..Executor::default() };
    let keys = keys.iter().map(|key| key.parse().unwrap()).collect();
    Invalidate { keys, cause: Cause { by, text: "bad compiler".into(), rule: None }, ..Invalidate::default() }
}

fn names(names: &[&str]) -> Invalidate {
    Invalidate { names: names.iter().map(|name| Name::new(*name).unwrap()).collect(), ..keys(&[]) }
}

async fn carry_out(store: &Store, asked: Invalidate) -> Vec<Voided> {
    let mut invalidation = store.invalidate(&Space::default(), asked, MANY);
    let mut all = Vec::new();
    while let Some(part) = invalidation.next().await.unwrap() {
        assert!(!part.truncated);
        all.extend(part.entries);
    }
    all
}

/// What changed: a key and what of it.
fn changed(voided: &[Voided]) -> Vec<String> {
    let mut changed: Vec<_> = voided
        .iter()
        .filter_map(|entry| {
            let key = entry.key.as_ref()?;
            let what = match (entry.record.is_some(), entry.withdrawn.is_some()) {
                (true, true) => "both",
                (true, false) => "record",
                (false, true) => "lease",
                (false, false) => return None,
            };
            Some(format!("{key} {what}{}", if entry.downstream { " down" } else { "" }))
        })
        .collect();
    changed.sort();
    changed
}

async fn verdict(store: &Store, key: &str) -> (Verdict, String) {
    let answer = store.lookup(&Space::default(), &[key.parse().unwrap()]).await.unwrap().pop().unwrap();
    (answer.verdict, answer.reason)
}

async fn latest(store: &Store, name: &str) -> Option<ExecutionId> {
    store.latest(&Space::default(), &Name::new(name).unwrap()).await.unwrap().map(|execution| execution.id)
}

async fn hold(store: &Store, key: &str, spec: provender_core::Spec) -> Request {
    let (id, ttl) = (ExecutionId(clock::random()), std::time::Duration::ZERO);
    let request = Request {
        id,
        key: key.parse().unwrap(),
        spec,
        executor: Executor::default(),
        ttl,
        check: false,
        remarks: Default::default(),
    };
    begin(store, &request).await;
    request
}

#[tokio::test]
async fn a_void_record_is_no_hit_and_no_latest_until_it_is_made_again() {
    for (store, _folder) in stores().await {
        let space = Space::default();
        let first = run(&store, "t:a", spec("n", vec![]), b"a", 0).await;
        let second = run(&store, "t:b", spec("n", vec![]), b"b", 0).await;
        assert_eq!(latest(&store, "n").await, Some(second.id));
        let dry = carry_out(&store, Invalidate { dry_run: true, ..keys(&["t:b"]) }).await;
        assert_eq!((verdict(&store, "t:b").await.0, latest(&store, "n").await), (Verdict::Succeeded, Some(second.id)));
        let voided = carry_out(&store, keys(&["t:b"])).await;
        let told = |voided: &[Voided]| voided.iter().map(|entry| (entry.key.clone(), entry.record)).collect::<Vec<_>>();
        assert_eq!((told(&dry), voided[0].record), (told(&voided), Some(second.id)));
        let (said, why) = verdict(&store, "t:b").await;
        assert_eq!(said, Verdict::Invalidated);
        assert!(why.starts_with("invalidated by eve@here at ") && why.ends_with("Z: bad compiler"), "{why}");
        // The name's next newest is its latest, in each face; the void one stays as it was made.
        assert_eq!(latest(&store, "n").await, Some(first.id));
        let name = Name::new("n").unwrap();
        assert_eq!(store.latest_folder(&space, &name).await.unwrap().unwrap().0.id, first.id);
        assert_eq!(store.names(&space, "", None, 9).await.unwrap().0[0].latest.as_ref().unwrap().id, first.id);
        let Described::Task(task) = store.describe(&space, &"n".parse().unwrap()).await.unwrap() else { panic!() };
        assert_eq!(task.0.id, first.id);
        let Described::Task(task) = store.describe(&space, &"n@1".parse().unwrap()).await.unwrap() else { panic!() };
        assert_eq!((task.0, task.2.verdict), (second.clone(), Verdict::Invalidated));
        assert_eq!(store.keys(&space, "t", None, 9).await.unwrap().0, ["a"]);
        assert!(store.record(&space, &"t:b".parse().unwrap()).await.unwrap().is_none());
        assert_eq!(store.folders(&space, Branch::Tasks, &name, None, 9).await.unwrap().0.len(), 2);
        // Twice is once: the first reason stays.
        let again = carry_out(&store, keys(&["t:b", "t:b"])).await;
        assert_eq!((changed(&again), again.len(), verdict(&store, "t:b").await.1), (vec![], 1, why));
        carry_out(&store, keys(&["t:a"])).await;
        assert_eq!(latest(&store, "n").await, None);
        assert!(store.changed(&space, Branch::Tasks, &name).await.unwrap().is_some(), "its folders are still there");
        let none = store.describe(&space, &"n".parse().unwrap()).await.unwrap_err().to_string();
        assert!(none.contains("is INVALIDATED"), "{none}");
        let third = run(&store, "t:b", spec("n", vec![]), b"other", 0).await;
        assert_eq!((verdict(&store, "t:b").await.0, third.diverges_from), (Verdict::Succeeded, None));
        assert_eq!(latest(&store, "n").await, Some(third.id));
        assert_eq!(store.execution(&space, second.id).await.unwrap(), second);
    }
}

#[tokio::test]
async fn a_holder_is_fenced_and_told_and_the_next_one_goes_on() {
    for (store, _folder) in stores().await {
        let space = Space::default();
        let held = hold(&store, "t:x", spec("n", vec![])).await;
        let voided = carry_out(&store, keys(&["t:x"])).await;
        assert_eq!((changed(&voided), voided[0].verdict), (vec!["t:x lease".to_owned()], Verdict::Abandoned));
        let (said, why) = verdict(&store, "t:x").await;
        assert_eq!((said, &why), (Verdict::Abandoned, &voided[0].reason));
        for refused in [
            store.heartbeat(&space, held.id).await.map(drop),
            store.commit(&space, held.id, &outcome(0)).await.map(drop),
            store.fail(&space, held.id, "why", &Outcome::default()).await.map(drop),
        ] {
            let refused = refused.unwrap_err();
            assert!(matches!(refused, StoreError::Refused(Refused::Ended { state: State::Abandoned, .. })));
            let said = refused.to_string();
            assert!(said.contains("withdrawn by eve@here") && said.ends_with(": bad compiler"), "{said}");
        }
        assert_eq!((verdict(&store, "t:x").await, latest(&store, "n").await), ((said, why), None));
        // Who waited for it is not told of a failure: it gets the lease.
        let waiter = Request { id: ExecutionId([9; 16]), ..held.clone() };
        let begun = store.begin(&space, &waiter, Some(held.id)).await.unwrap();
        assert!(matches!(begun, Begin::Lease(..)), "{begun:?}");
        let other = Request { id: ExecutionId([8; 16]), ..held };
        assert!(matches!(store.begin(&space, &other, None).await.unwrap(), Begin::Busy(_)), "one flight");
    }
}

#[tokio::test]
async fn all_that_is_downstream_is_found_over_any_steps_and_cycles() {
    for (store, _folder) in stores().await {
        let from = |key, bytes| vec![("in", input(key, None, bytes))];
        run(&store, "t:a", spec("a", from(Some("t:c"), None)), b"a", 0).await;
        run(&store, "t:b", spec("b", from(Some("t:a"), None)), b"b", 0).await;
        // By its bytes alone, and back to the first.
        run(&store, "t:c", spec("c", from(None, Some(b"b"))), b"c", 0).await;
        run(&store, "t:no", spec("no", from(Some("t:elsewhere"), None)), b"no", 0).await;
        // Two at once are downstream, and one is not.
        let held = hold(&store, "t:run1", spec("run", from(Some("t:c"), None))).await;
        hold(&store, "t:run2", spec("run", from(None, Some(b"c")))).await;
        hold(&store, "t:free", spec("free", from(None, Some(b"no")))).await;
        let all = ["t:a record", "t:b record down", "t:c record down", "t:run1 lease down", "t:run2 lease down"];
        let down = Invalidate { downstream: true, ..keys(&["t:a"]) };
        assert_eq!(changed(&carry_out(&store, Invalidate { dry_run: true, ..down.clone() }).await), all);
        assert_eq!(verdict(&store, "t:b").await.0, Verdict::Succeeded);
        assert_eq!(changed(&carry_out(&store, down.clone()).await), all);
        for key in ["t:a", "t:b", "t:c"] {
            assert_eq!(verdict(&store, key).await.0, Verdict::Invalidated, "{key}");
        }
        assert_eq!(verdict(&store, "t:no").await.0, Verdict::Succeeded);
        assert_eq!(verdict(&store, "t:free").await.0, Verdict::Running);
        assert!(store.heartbeat(&Space::default(), held.id).await.is_err());
        assert_eq!(changed(&carry_out(&store, down).await), Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_was_made_again_since_is_not_downstream_by_its_history() {
    for (store, _folder) in stores().await {
        run(&store, "t:a", spec("a", vec![]), b"a", 0).await;
        run(&store, "t:b", spec("b", vec![("in", input(Some("t:a"), None, None))]), b"b", 0).await;
        carry_out(&store, keys(&["t:b"])).await;
        run(&store, "t:b", spec("b", vec![]), b"b2", 0).await;
        let voided = carry_out(&store, Invalidate { downstream: true, ..keys(&["t:a"]) }).await;
        assert_eq!(changed(&voided), ["t:a record"]);
        assert_eq!(verdict(&store, "t:b").await.0, Verdict::Succeeded);
    }
}

#[tokio::test]
async fn a_name_means_the_records_under_it_and_who_runs_under_it() {
    for (store, _folder) in stores().await {
        for n in 0..BATCH * 2 + 3 {
            run(&store, &format!("t:{n}"), spec("n", vec![]), b"x", 0).await;
        }
        run(&store, "t:below", spec("n/below", vec![]), b"x", 0).await;
        hold(&store, "t:held", spec("n", vec![])).await;
        hold(&store, "t:other", spec("other", vec![])).await;
        // A hit is a record under the name as well.
        let hit = Request { id: ExecutionId([1; 16]), ..hold(&store, "t:tmp", spec("n", vec![])).await };
        store.fail(&Space::default(), hold_id(&store, "t:tmp").await, "no", &Outcome::default()).await.unwrap();
        let hit = Request { key: "t:below".parse().unwrap(), ..hit };
        assert!(matches!(store.begin(&Space::default(), &hit, None).await.unwrap(), Begin::Hit(_)));
        let dry = carry_out(&store, Invalidate { dry_run: true, ..names(&["n"]) }).await;
        let voided = carry_out(&store, names(&["n", "nobody"])).await;
        let all = changed(&voided);
        assert_eq!((all.len(), changed(&dry)), (BATCH * 2 + 5, all.clone()));
        assert!(all.contains(&"t:held lease".into()) && all.contains(&"t:below record".into()));
        assert_eq!(verdict(&store, "t:other").await.0, Verdict::Running);
        let nothing: Vec<_> = voided.iter().filter(|entry| entry.key.is_none()).collect();
        assert_eq!(nothing.len(), 1);
        assert_eq!((nothing[0].name.as_ref().unwrap().as_str(), nothing[0].verdict), ("nobody", Verdict::Unknown));
        let again = carry_out(&store, names(&["n"])).await;
        assert_eq!((again.len(), again[0].verdict, again[0].key.is_none()), (1, Verdict::Invalidated, true));
    }
}

async fn hold_id(store: &Store, key: &str) -> ExecutionId {
    store.lookup(&Space::default(), &[key.parse().unwrap()]).await.unwrap().pop().unwrap().execution.unwrap()
}

#[tokio::test]
async fn two_that_end_in_one_moment_get_a_folder_each() {
    for (store, _folder) in stores().await {
        let held = [
            hold(&store, "t:00000000-a", spec("n", vec![])).await,
            hold(&store, "t:00000000-b", spec("n", vec![])).await,
        ];
        carry_out(&store, keys(&["t:00000000-a", "t:00000000-b"])).await;
        let mut folders = Vec::new();
        for request in held {
            folders.push(store.execution(&Space::default(), request.id).await.unwrap().folder.unwrap());
        }
        assert_ne!(folders[0], folders[1]);
        let (listed, _) =
            store.folders(&Space::default(), Branch::Failed, &Name::new("n").unwrap(), None, 9).await.unwrap();
        assert_eq!(listed.len(), 2);
    }
}

#[tokio::test]
async fn what_has_no_record_says_so_and_more_than_the_limit_too() {
    for (store, _folder) in stores().await {
        run(&store, "t:failed", spec("n", vec![]), b"x", 1).await;
        let voided = carry_out(&store, keys(&["t:never", "t:failed"])).await;
        let verdicts: Vec<_> = voided.iter().map(|entry| entry.verdict).collect();
        assert_eq!((changed(&voided), verdicts), (vec![], vec![Verdict::Unknown, Verdict::Failed]));
        assert_eq!(verdict(&store, "t:failed").await.0, Verdict::Failed);
        run(&store, "t:a", spec("a", vec![]), b"a", 0).await;
        for n in 0..5 {
            let inputs = vec![("in", input(Some("t:a"), None, None))];
            run(&store, &format!("t:{n}"), spec("b", inputs), b"b", 0).await;
        }
        let asked = Invalidate { downstream: true, ..keys(&["t:a"]) };
        let mut invalidation = store.invalidate(&Space::default(), asked, 4);
        let mut truncated = false;
        while let Some(part) = invalidation.next().await.unwrap() {
            truncated |= part.truncated;
        }
        assert!(truncated);
    }
}

#[tokio::test]
async fn whoever_succeeds_meanwhile_is_not_passed_over() {
    for (store, _folder) in stores().await {
        let space = Space::default();
        run(&store, "t:lib", spec("lib", vec![]), b"lib", 0).await;
        let consumer = |name| spec(name, vec![("in", input(None, None, Some(b"lib")))]);
        hold(&store, "t:app", consumer("app")).await;
        let bystander = hold(&store, "t:other", spec("other", vec![])).await;
        let asked = Invalidate { downstream: true, ..keys(&["t:lib"]) };
        let mut invalidation = store.invalidate(&space, asked, MANY);
        let mut all = invalidation.next().await.unwrap().unwrap().entries;
        // It had no edge when it was walked, and has no lease when those are looked at.
        let tree = {
            let digest = store.put_small(&space, vec![bytes::Bytes::from_static(b"app")]).await.unwrap()[0];
            let mut tree = provender_core::Tree::new();
            tree.insert("file", provender_core::Node::File { digest, executable: false }).unwrap();
            store.put_small(&space, vec![tree.encode().unwrap()]).await.unwrap()[0]
        };
        while let Some(part) = invalidation.next().await.unwrap() {
            all.extend(part.entries);
        }
        assert_eq!(changed(&all), ["t:app lease down", "t:lib record"], "it is withdrawn if it goes on");

        // The same once more, and now it commits after its input's consumers were walked, and before those who run are looked at.
        run(&store, "t:lib", spec("lib", vec![]), b"lib", 0).await;
        run(&store, "t:done", consumer("done"), b"done", 0).await;
        let at_it = hold(&store, "t:app", consumer("app")).await;
        let asked = Invalidate { downstream: true, ..keys(&["t:lib"]) };
        let mut invalidation = store.invalidate(&space, asked, MANY);
        let mut all = invalidation.next().await.unwrap().unwrap().entries;
        all.extend(invalidation.next().await.unwrap().unwrap().entries);
        assert_eq!(changed(&all), ["t:done record down", "t:lib record"]);
        let sent = Outcome { outputs: Some(tree), ..outcome(0) };
        for id in [at_it.id, bystander.id] {
            store.commit(&space, id, &sent).await.unwrap();
        }
        // And somebody has made more of it by then.
        let top = spec("top", vec![("in", input(None, Some(at_it.id), Some(b"app")))]);
        run(&store, "t:top", top, b"top", 0).await;
        while let Some(part) = invalidation.next().await.unwrap() {
            all.extend(part.entries);
        }
        let told = ["t:app record down", "t:done record down", "t:lib record", "t:top record down"];
        assert_eq!(changed(&all), told);
        assert_eq!(verdict(&store, "t:other").await.0, Verdict::Succeeded);
    }
}

#[tokio::test]
async fn what_was_made_from_an_earlier_success_of_the_key_is_downstream_of_it() {
    for (store, _folder) in stores().await {
        run(&store, "t:lib", spec("lib", vec![]), b"one", 0).await;
        run(&store, "t:app", spec("app", vec![("in", input(None, None, Some(b"one")))]), b"app", 0).await;
        carry_out(&store, keys(&["t:lib"])).await;
        run(&store, "t:lib", spec("lib", vec![]), b"two", 0).await;
        let voided = carry_out(&store, Invalidate { downstream: true, ..keys(&["t:lib"]) }).await;
        assert_eq!(changed(&voided), ["t:app record down", "t:lib record"]);
    }
}

/// What is searched for: the records that such executions made, who runs such now, and nothing that merely shares a key or a name.
#[tokio::test]
async fn what_is_searched_for_is_void_and_so_is_what_was_made_from_it() {
    for (store, _folder) in stores().await {
        let with =
            |name: &str, image: &str, inputs| provender_core::Spec { image: Some(image.into()), ..spec(name, inputs) };
        let asked = || Invalidate { query: Some(Query::parse(&["image=bad*", "verdict<Z"]).unwrap()), ..keys(&[]) };
        let first = run(&store, "t:a", with("n", "bad:1", vec![]), b"a", 0).await;
        // More than a page, and one that was made anew by another.
        for n in 0..60 {
            run(&store, &format!("t:many{n}"), with("many", "bad:2", vec![]), format!("{n}").as_bytes(), 0).await;
        }
        run(&store, "t:redone", with("n", "bad:1", vec![]), b"old", 0).await;
        carry_out(&store, keys(&["t:redone"])).await;
        run(&store, "t:redone", with("n", "good", vec![]), b"new", 0).await;
        run(&store, "t:failed", with("n", "bad:1", vec![]), b"f", 1).await;
        run(&store, "t:good", with("n", "good", vec![]), b"good", 0).await;
        run(&store, "t:down", with("d", "good", vec![("i", input(Some("t:a"), None, None))]), b"d", 0).await;
        let (bad, good) = (
            hold(&store, "t:run", with("r", "bad:1", vec![])).await,
            hold(&store, "t:fine", with("r", "good", vec![])).await,
        );
        let many = (0..60).map(|n| format!("t:many{n} record"));
        let mut expected: Vec<_> =
            many.chain(["t:a record", "t:run lease", "t:down record down"].map(str::to_owned)).collect();
        expected.sort();
        let dry = carry_out(&store, Invalidate { dry_run: true, downstream: true, ..asked() }).await;
        assert_eq!(changed(&dry), expected);
        assert_eq!(verdict(&store, "t:a").await.0, Verdict::Succeeded);
        // Eviction leaves alone who is at it, and what was made from it.
        let cause = Cause { rule: Some("by hand".into()), ..keys(&[]).cause };
        let evicted = carry_out(&store, Invalidate { dry_run: true, cause, ..asked() }).await;
        assert_eq!(
            changed(&evicted),
            expected[..].iter().filter(|what| what.ends_with(" record")).cloned().collect::<Vec<_>>()
        );
        let voided = carry_out(&store, Invalidate { downstream: true, ..asked() }).await;
        assert_eq!(changed(&voided), expected);
        assert_eq!(verdict(&store, "t:a").await.0, Verdict::Invalidated);
        for kept in ["t:redone", "t:good"] {
            assert_eq!(verdict(&store, kept).await.0, Verdict::Succeeded, "{kept}");
        }
        assert!(store.heartbeat(&Space::default(), bad.id).await.is_err());
        assert!(store.heartbeat(&Space::default(), good.id).await.is_ok());
        assert_eq!(changed(&carry_out(&store, asked()).await), [""; 0]);
        // It is found as it was, whatever became of its key.
        let query = Query::parse(&["image=bad:1", "verdict=SUCCEEDED", "name=n"]).unwrap();
        let (found, _) = store.search(&Space::default(), &query, None, 9).await.unwrap();
        assert_eq!(found.last().map(|execution| execution.id), Some(first.id));
    }
}
