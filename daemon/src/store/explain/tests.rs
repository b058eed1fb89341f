use provender_core::compare::text;
use provender_core::explain::lines;

use super::*;
use crate::store::provenance::tests::{run, spec};
use crate::store::tests::{counted, stores};

fn space() -> Space {
    Space::default()
}

fn size(bytes: u64) -> String {
    format!("{bytes} B")
}

/// An experiment of many: it agrees with others in some of these, and in all with none.
fn experiment(rate: u64, layers: u64, seed: u64) -> Spec {
    let params = [("rate", rate), ("layers", layers), ("seed", seed)];
    let params = params.into_iter().map(|(name, value)| (name.to_owned(), value.into()));
    Spec { params: params.collect(), ..spec("train", vec![]) }
}

async fn explain(store: &Store, key: &str, spec: Option<Spec>) -> Explanation {
    let mut explaining = store.explain(&space(), vec![Question { key: key.parse().unwrap(), spec }]);
    let mut told = explaining.next().await.unwrap().unwrap();
    assert!(explaining.next().await.unwrap().is_none());
    told.remove(0)
}

fn causes(of: &Explanation) -> Vec<String> {
    of.causes.iter().map(|one| text::cause(one, size)).collect()
}

#[tokio::test]
async fn the_nearest_of_many_is_found_by_few_reads() {
    let (store, meta) = counted().await;
    let fill = async |from: u64, to: u64| {
        for n in from..to {
            run(&store, &format!("t:{n}"), experiment(n % 50, n % 7, n), b"", 0).await;
        }
    };
    // The one that agrees in all but the rate is older than all that are looked at.
    run(&store, "t:near", experiment(999, 99, 1_000_000), b"", 0).await;
    fill(0, 300).await;
    let ask = async || {
        meta.reset();
        let before = meta.rows();
        let told = explain(&store, "t:new", Some(experiment(1, 99, 1_000_000))).await;
        assert_eq!(causes(&told), ["train.params.rate: 999 -> 1"]);
        assert_eq!(told.nearest.unwrap().key.as_str(), "t:near");
        (meta.reads(), meta.rows() - before)
    };
    let few = ask().await;
    fill(300, 1_500).await;
    let many = ask().await;
    assert!(many.0 <= few.0 + 10 && many.1 <= few.1 + 100, "reads and rows: {few:?} of 300, {many:?} of 1,500");
}

#[tokio::test]
async fn a_name_stands_for_what_was_done_last_under_it() {
    for (store, _folder) in stores().await {
        let name = Name::new("train").unwrap();
        let key = async || store.key_of_name(&space(), &name).await.map(|key| key.to_string());
        assert!(key().await.is_err());
        store.register(&space(), &[("t:r".parse().unwrap(), experiment(0, 0, 0))]).await.unwrap();
        assert_eq!(key().await.unwrap(), "t:r");
        let told = explain(&store, "t:r", None).await;
        assert_eq!(lines(&told, size), ["train never ran, and nothing else has succeeded under its name"]);
        run(&store, "t:a", experiment(1, 1, 1), b"a", 0).await;
        assert_eq!(key().await.unwrap(), "t:a");
        run(&store, "t:b", experiment(2, 1, 1), b"b", 0).await;
        run(&store, "t:c", experiment(3, 1, 1), b"c", 1).await;
        assert_eq!(key().await.unwrap(), "t:c", "a failure is what was done last");
        let told = explain(&store, "t:c", None).await;
        assert_eq!(
            (told.attempts, causes(&told)),
            (1, vec!["train.params.rate: 2 -> 3".to_owned()]),
            "the newest of two as near"
        );
        // Of what was registered the store knows the spec.
        let told = explain(&store, "t:r", None).await;
        assert_eq!((told.answer.verdict, told.causes.len()), (Verdict::Unknown, 3));
        let told = explain(&store, "t:a", None).await;
        assert_eq!((told.answer.verdict, told.nearest, told.causes.len()), (Verdict::Succeeded, None, 0));
        let told = explain(&store, "t:none", None).await;
        assert_eq!(lines(&told, size), ["t:none never ran, and what it stands for is not known"]);
    }
}

#[tokio::test]
async fn tasks_that_are_about_to_run_are_followed_to_one_root() {
    let (store, meta) = counted().await;
    let chain = |version: &str, n: usize| {
        let mut task = spec(&format!("line/{n}"), vec![]);
        task.code_version = Some(if n == 0 { version } else { "same" }.into());
        if n > 0 {
            let before = format!("t:{version}{}", n - 1);
            let input = crate::store::provenance::tests::input(Some(&before), None, None);
            task.inputs.insert("before".into(), input);
        }
        (format!("t:{version}{n}"), task)
    };
    for n in 0..60 {
        let (key, spec) = chain("a", n);
        run(&store, &key, spec, b"", 0).await;
    }
    let asked =
        (0..60).map(|n| chain("b", n)).map(|(key, spec)| Question { key: key.parse().unwrap(), spec: Some(spec) });
    meta.reset();
    let mut explaining = store.explain(&space(), asked.collect());
    let mut told = Vec::new();
    while let Some(piece) = explaining.next().await.unwrap() {
        told.extend(piece);
    }
    assert_eq!(told.len(), 60);
    for (n, of) in told.iter().enumerate() {
        assert_eq!(causes(of), ["line/0.code_version: a -> b"], "{n}");
        assert_eq!(of.causes[0].distance as usize, n);
    }
    assert!(meta.reads() < 60 * 12, "{} reads", meta.reads());
}

#[tokio::test]
async fn a_task_is_compared_with_the_history_that_its_inputs_are() {
    let store = crate::store::tests::store().await;
    let tasks = |n: &str, version: &str, rate: u64| {
        let mut first = Spec { code_version: Some(version.into()), ..experiment(rate, 0, 0) };
        first.name = Name::new("first").unwrap();
        let before = format!("t:first{n}");
        let mut second = spec("second", vec![]);
        second.inputs.insert("in".into(), crate::store::provenance::tests::input(Some(&before), None, None));
        [(before, first), (format!("t:second{n}"), second)]
    };
    for (n, version) in [("0", "a"), ("1", "b")] {
        for (key, spec) in tasks(n, version, 1) {
            run(&store, &key, spec, b"", 0).await;
        }
    }
    // As the first one, but for the rate; the newest success of the second task was made from the other one.
    let asked = tasks("2", "a", 2).map(|(key, spec)| Question { key: key.parse().unwrap(), spec: Some(spec) });
    let told = store.explain(&space(), asked.into()).next().await.unwrap().unwrap();
    for of in &told {
        assert_eq!(causes(of), ["first.params.rate: 1 -> 2"], "{}", of.key);
    }
}

#[tokio::test]
async fn a_name_that_was_only_hit_stands_for_its_record() {
    let store = crate::store::tests::store().await;
    run(&store, "t:a", spec("one", vec![]), b"a", 0).await;
    let mut again = crate::store::tests::request(9);
    (again.key, again.spec) = ("t:a".parse().unwrap(), spec("two", vec![]));
    assert!(matches!(store.begin(&space(), &again, None).await.unwrap(), crate::store::Begin::Hit(_)));
    let name = Name::new("two").unwrap();
    assert_eq!(store.key_of_name(&space(), &name).await.unwrap().as_str(), "t:a");
    let what = crate::store::Invalidate { keys: vec!["t:a".parse().unwrap()], ..Default::default() };
    let mut invalidation = store.invalidate(&space(), what, 10);
    while invalidation.next().await.unwrap().is_some() {}
    assert_eq!(store.key_of_name(&space(), &name).await.unwrap().as_str(), "t:a");
}
