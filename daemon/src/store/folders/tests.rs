use super::*;
use crate::store::provenance::tests::{run, spec};
use crate::store::tests::stores;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

#[tokio::test]
async fn failures_have_a_hierarchy_of_their_own() {
    for (store, _folder) in stores().await {
        let space = Space::default();
        run(&store, "t:1", spec("a", vec![]), b"1", 0).await;
        let deep = run(&store, "t:2", spec("a/b/c", vec![]), b"2", 1).await;
        run(&store, "t:3", spec("d", vec![]), b"3", 1).await;
        let again = run(&store, "t:3", spec("d", vec![]), b"3", 1).await;
        run(&store, "t:3", spec("d", vec![]), b"3", 0).await;
        let children = async |branch, prefix: Option<&str>| {
            let prefix = prefix.map(name);
            store.children(&space, branch, prefix.as_ref(), None, 10).await.unwrap().0
        };
        assert_eq!(children(Branch::Tasks, None).await, ["a", "d"]);
        assert_eq!(children(Branch::Tasks, Some("a")).await, [""; 0]);
        assert_eq!(children(Branch::Failed, None).await, ["a", "d"]);
        assert_eq!(children(Branch::Failed, Some("a")).await, ["b"]);
        assert_eq!(store.children(&space, Branch::Failed, None, None, 1).await.unwrap(), (vec!["a".into()], true));
        assert_eq!(
            store.children(&space, Branch::Failed, None, Some("a"), 1).await.unwrap(),
            (vec!["d".into()], false)
        );
        let changed = async |branch, text| store.changed(&space, branch, &name(text)).await.unwrap();
        assert_eq!(changed(Branch::Failed, "a").await, deep.ended);
        assert_eq!(changed(Branch::Failed, "a/b/c").await, deep.ended);
        assert_eq!(changed(Branch::Failed, "d").await, again.ended);
        assert_eq!(changed(Branch::Tasks, "a/b").await, None);
        assert_eq!(changed(Branch::Failed, "x").await, None);
        let (folders, _) = store.folders(&space, Branch::Failed, &name("d"), None, 10).await.unwrap();
        assert_eq!(folders.len(), 2);
        let last = store.in_folder(&space, Branch::Failed, &name("d"), again.folder.as_ref().unwrap()).await.unwrap();
        assert_eq!(last, Some(again));
        assert_eq!(store.in_folder(&space, Branch::Tasks, &name("d"), &"x".repeat(100_000)).await.unwrap(), None);
    }
}

#[tokio::test]
async fn keys_are_listed_by_scheme() {
    for (store, _folder) in stores().await {
        let space = Space::default();
        for (n, key) in ["a:1", "a-b:1", "a:3", "ab:1", "z:1"].into_iter().enumerate() {
            run(&store, key, spec("n", vec![]), &[1, n as u8], i32::from(key == "z:1")).await;
        }
        store.register(&space, &[("a:2".parse().unwrap(), spec("n", vec![]))]).await.unwrap();
        assert_eq!(store.schemes(&space).await.unwrap(), ["a", "a-b", "ab", "z"]);
        let keys = async |scheme, after, limit| store.keys(&space, scheme, after, limit).await.unwrap();
        assert_eq!(keys("a", None, 10).await, (vec!["1".into(), "3".into()], false));
        assert_eq!(keys("a", None, 1).await, (vec!["1".into()], true));
        assert_eq!(keys("a", Some("1"), 1).await, (vec!["3".into()], false));
        assert_eq!(keys("z", None, 1).await, (vec![], false));
        assert_eq!(keys("A", None, 1).await, (vec![], false));
        let record = async |key: &str| store.record(&space, &key.parse().unwrap()).await.unwrap();
        assert_eq!(record("a:1").await.map(|place| place.name), Some(name("n")));
        assert!(record("a:2").await.is_none() && record("z:1").await.is_none() && record("y:1").await.is_none());
        assert!(store.schemes(&Space::new("other").unwrap()).await.unwrap().is_empty());
    }
}
