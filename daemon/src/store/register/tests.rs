use provender_core::execution::State;
use provender_core::name::Name;
use provender_core::{Ref, Verdict};

use super::*;
use crate::store::tests::{begin, outcome, request, store, stores};

fn task(key: &str, name: &str) -> (TaskKey, Spec) {
    (key.parse().unwrap(), Spec::new(Name::new(name).unwrap()))
}

async fn describe(store: &Store, reference: &str) -> Result<Described, StoreError> {
    store.describe(&Space::default(), &reference.parse::<Ref>().unwrap()).await
}

#[tokio::test]
async fn what_is_registered_is_known_and_has_not_succeeded() {
    for (store, _folder) in stores().await {
        let (space, tasks) = (Space::default(), [task("t:1", "a/b"), task("t:2", "c")]);
        assert_eq!(store.register(&space, &tasks).await.unwrap(), [true, true]);
        assert_eq!(store.register(&space, &tasks).await.unwrap(), [false, false]);
        let answer = store.lookup(&space, &[tasks[0].0.clone()]).await.unwrap().swap_remove(0);
        assert_eq!((answer.verdict, answer.execution), (Verdict::Unknown, None));
        assert_eq!(answer.reason, "registered, never attempted");
        for reference in ["t:1", "a/b"] {
            let Described::Registered(found) = describe(&store, reference).await.unwrap() else { panic!() };
            assert_eq!((&found.key, &found.spec), (&tasks[0].0, &tasks[0].1));
        }
        let (names, _) = store.names(&space, "", None, 10).await.unwrap();
        let names: Vec<_> = names.iter().map(|named| (named.name.as_str(), named.last.is_some())).collect();
        assert_eq!(names, [("a/b", false), ("c", false)]);
        assert!(describe(&store, "t:3").await.is_err());
        let other = Space::new("other").unwrap();
        assert!(store.describe(&other, &"t:1".parse().unwrap()).await.is_err());
    }
}

#[tokio::test]
async fn registering_moves_nothing_that_executions_did() {
    let (store, space, first) = (store().await, Space::default(), request(1));
    begin(&store, &first).await;
    // Its key is known by its lease alone.
    let tasks = [(first.key.clone(), Spec::new(Name::new("other").unwrap()))];
    assert_eq!(store.register(&space, &tasks).await.unwrap(), [false]);
    let verdict = async || store.lookup(&space, std::slice::from_ref(&first.key)).await.unwrap().swap_remove(0).verdict;
    assert_eq!(verdict().await, Verdict::Running);
    store.heartbeat(&space, first.id).await.unwrap();
    store.fail(&space, first.id, "why", &outcome(1)).await.unwrap();
    assert_eq!(store.register(&space, &tasks).await.unwrap(), [false]);
    assert_eq!(verdict().await, Verdict::Failed);
    let second = provender_core::transition::Request { id: provender_core::ExecutionId([9; 16]), ..first.clone() };
    begin(&store, &second).await;
    assert!(store.commit(&space, second.id, &outcome(0)).await.unwrap().1);
    let again = [(first.key.clone(), Spec::new(Name::new("name").unwrap()))];
    assert_eq!(store.register(&space, &again).await.unwrap(), [false]);
    assert_eq!(verdict().await, Verdict::Succeeded);
    let Described::Task(latest) = describe(&store, "name").await.unwrap() else { panic!() };
    assert_eq!((latest.0.id, latest.0.state), (second.id, State::Succeeded));
    // The name that it never ran under leads to what its key has become.
    let Described::Task(other) = describe(&store, "other").await.unwrap() else { panic!() };
    assert_eq!(other.0.id, second.id);
}

#[tokio::test]
async fn many_are_registered_in_pieces_and_each_once() {
    let (store, space) = (store().await, Space::default());
    let mut tasks: Vec<_> = (0..2_300).map(|n| task(&format!("t:{n}"), &format!("n/{n}"))).collect();
    tasks.push(task("t:0", "again"));
    tasks.push(task("t:2299", "again"));
    let fresh = store.register(&space, &tasks).await.unwrap();
    assert_eq!(fresh.iter().filter(|fresh| **fresh).count(), 2_300);
    assert_eq!(fresh[2_300..], [false, false]);
    let Described::Registered(found) = describe(&store, "t:2299").await.unwrap() else { panic!() };
    assert_eq!(found.spec.name.as_str(), "n/2299");
    let Described::Registered(found) = describe(&store, "again").await.unwrap() else { panic!() };
    assert_eq!(found.key.as_str(), "t:2299");
}
