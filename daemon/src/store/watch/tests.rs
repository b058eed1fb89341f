//! What watchers are told, compared with what lookups say, over each embedded engine.

use std::collections::{BTreeMap, HashSet};

use provender_core::execution::State;
use provender_core::name::Name;
use provender_core::transition::Request;
use provender_core::{Answer, ExecutionId, Spec, Timestamp, Verdict};

use super::super::tests::{begin, outcome, request, stores};
use super::super::{Begin, Invalidate};
use super::*;

mod lost;

/// A net: only what is broken takes so long.
const HANG: Duration = Duration::from_secs(20);
/// The last thing that a watcher under test is told.
const LAST: u16 = 9_999;

fn space() -> Space {
    Space::default()
}

fn key(n: u16) -> TaskKey {
    request(n).key
}

/// The key `test:n`, attempted as `id` under a name.
fn attempt(n: u16, id: u8, name: &str) -> Request {
    let spec = Spec::new(Name::new(name).unwrap());
    Request { id: ExecutionId([id; 16]), spec, ..request(n) }
}

fn keys(keys: impl IntoIterator<Item = u16>) -> Watched {
    Watched { keys: keys.into_iter().chain([LAST]).map(key).collect(), prefixes: Vec::new() }
}

/// The keys of which the last thing to be told is one.
fn prefixes(prefixes: &[&str]) -> Watched {
    let prefixes = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
    Watched { keys: HashSet::from([key(LAST)]), prefixes }
}

async fn watch(store: &Store, watched: &Watched, cursor: Option<Cursor>) -> Watching {
    store.watching(&space(), watched.clone(), cursor).await.unwrap()
}

/// The store, with its follower at work.
fn followed(store: &Store) {
    tokio::spawn(store.clone().watch());
}

/// Brings about the last thing to be told.
async fn last(store: &Store) {
    begin(store, &request(LAST)).await;
}

impl Watching {
    async fn hear(&mut self) -> Heard {
        tokio::time::timeout(HANG, self.next()).await.expect("something is told").unwrap()
    }

    /// The next event and the cursor after it.
    async fn event(&mut self) -> (Event, Option<Cursor>) {
        let event = async {
            loop {
                if let Heard::Event(event, cursor) = self.next().await.unwrap() {
                    return (event, cursor);
                }
            }
        };
        tokio::time::timeout(HANG, event).await.expect("something happens")
    }

    /// All that is told until the watcher has a cursor.
    async fn first(&mut self) -> (Vec<Event>, Cursor) {
        let mut first = Vec::new();
        loop {
            match self.hear().await {
                Heard::Event(event, None) => first.push(event),
                Heard::Event(event, cursor) => panic!("{event:?} {cursor:?}"),
                Heard::Reached(cursor) => return (first, cursor),
            }
        }
    }

    /// All events until the last one, with their cursors.
    async fn all(&mut self) -> Vec<(Event, Cursor)> {
        let mut all = Vec::new();
        loop {
            let (event, cursor) = self.event().await;
            if event.key == key(LAST) && event.verdict == Verdict::Running {
                return all;
            }
            all.push((event, cursor.expect("it has begun")));
        }
    }
}

/// What a lookup says, as it is told.
type Said = (Verdict, Option<ExecutionId>, String);

fn said(events: impl IntoIterator<Item = (Event, Cursor)>) -> Vec<Said> {
    events.into_iter().map(|(event, _)| (event.verdict, event.execution, event.reason)).collect()
}

/// What lookups of one key say, one change after the other.
struct Looked {
    store: Store,
    said: Vec<Said>,
}

impl Looked {
    async fn new(store: &Store) -> Looked {
        let mut looked = Looked { store: store.clone(), said: Vec::new() };
        looked.up(1).await;
        looked.said.clear();
        looked
    }

    /// Notes what a lookup says, if that is news.
    async fn up(&mut self, n: u16) -> Verdict {
        let Answer { verdict, execution, reason, .. } = self.store.lookup(&space(), &[key(n)]).await.unwrap().remove(0);
        let before = self.said.last().map(|(verdict, execution, _)| (*verdict, *execution));
        if before != Some((verdict, execution)) {
            self.said.push((verdict, execution, reason));
        }
        verdict
    }
}

async fn invalidate(store: &Store, keys: Vec<TaskKey>) {
    let mut invalidation = store.invalidate(&space(), Invalidate { keys, ..Invalidate::default() }, 1_000);
    while invalidation.next().await.unwrap().is_some() {}
}

/// Lets all leases run out that there are.
async fn expire(store: &Store) {
    let mut follower = store.follow(|| Duration::ZERO).await.unwrap();
    follower.step(|| Duration::from_secs(7_200)).await.unwrap();
}

#[tokio::test]
async fn every_verdict_is_told_once_and_in_order() {
    use Verdict::{Abandoned, Failed, Invalidated, Running, Succeeded};
    for (store, _folder) in stores().await {
        followed(&store);
        let mut watchers = [
            watch(&store, &keys([1]), None).await,
            watch(&store, &prefixes(&["na"]), None).await,
            watch(&store, &Watched { keys: HashSet::from([key(1), key(LAST)]), prefixes: vec!["".into()] }, None).await,
        ];
        let mut cursors = Vec::new();
        for watcher in &mut watchers {
            let (first, cursor) = watcher.first().await;
            assert!(first.iter().all(|event| event.verdict == Verdict::Unknown && event.name.is_none()), "{first:?}");
            cursors.push(cursor);
        }
        let (space, mut looked) = (space(), Looked::new(&store).await);
        let again = |id| attempt(1, id, "name");

        begin(&store, &again(1)).await;
        assert_eq!(looked.up(1).await, Running);
        store.heartbeat(&space, again(1).id).await.unwrap();
        begin(&store, &again(1)).await;
        store.fail(&space, again(1).id, "broken", &outcome(1)).await.unwrap();
        assert_eq!(looked.up(1).await, Failed);
        begin(&store, &again(2)).await;
        looked.up(1).await;
        store.commit(&space, again(2).id, &outcome(3)).await.unwrap();
        assert_eq!(looked.up(1).await, Failed);
        begin(&store, &again(3)).await;
        looked.up(1).await;
        for _ in 0..2 {
            store.commit(&space, again(3).id, &outcome(0)).await.unwrap();
            assert_eq!(looked.up(1).await, Succeeded);
        }
        // Neither a hit nor a check is news, however that ends.
        assert!(matches!(store.begin(&space, &again(4), None).await.unwrap(), Begin::Hit(_)));
        for (id, code) in [(4, 0), (5, 1)] {
            begin(&store, &Request { check: true, ..again(id) }).await;
            store.commit(&space, again(id).id, &outcome(code)).await.unwrap();
        }
        begin(&store, &Request { check: true, ..again(6) }).await;
        expire(&store).await;
        looked.up(1).await;
        invalidate(&store, vec![key(1)]).await;
        invalidate(&store, vec![key(1)]).await;
        assert_eq!(looked.up(1).await, Invalidated);
        begin(&store, &again(7)).await;
        looked.up(1).await;
        expire(&store).await;
        assert_eq!(looked.up(1).await, Abandoned);
        begin(&store, &again(8)).await;
        looked.up(1).await;
        invalidate(&store, vec![key(1)]).await;
        assert_eq!(looked.up(1).await, Abandoned);
        begin(&store, &again(9)).await;
        looked.up(1).await;
        store.commit(&space, again(9).id, &outcome(0)).await.unwrap();
        assert_eq!(looked.up(1).await, Succeeded);
        begin(&store, &Request { check: true, ..again(10) }).await;
        invalidate(&store, vec![key(1)]).await;
        assert_eq!(looked.up(1).await, Invalidated);
        last(&store).await;

        assert_eq!(looked.said.len(), 14);
        for (watcher, cursor) in watchers.iter_mut().zip(cursors) {
            let all = watcher.all().await;
            assert!(all.iter().all(|(event, _)| event.key == key(1) && event.name == Name::new("name").ok()));
            assert!(all.is_sorted_by_key(|(event, cursor)| (event.at, cursor.version)));
            assert_eq!(said(all.clone()), looked.said);
            // From each of its cursors on, the rest is told, and from the first one all.
            for (n, cursor) in [cursor].into_iter().chain(all.into_iter().map(|(_, cursor)| cursor)).enumerate() {
                let mut later = watch(&store, &watcher.watched, Some(cursor)).await;
                assert_eq!(later.first().await, (Vec::new(), cursor));
                assert_eq!(said(later.all().await), looked.said[n..]);
            }
        }
        // Who watches from now on is told how it is.
        let mut now = watch(&store, &keys([1]), None).await;
        let (first, _) = now.first().await;
        let first = first.into_iter().find(|event| event.key == key(1)).unwrap();
        assert_eq!(Some(&(first.verdict, first.execution, first.reason.clone())), looked.said.last());
        assert_eq!(first.name, Name::new("name").ok());
        assert_eq!(store.metrics().watching.get(), 4);
        drop((now, watchers));
        assert_eq!(store.metrics().watching.get(), 0);
    }
}

#[tokio::test]
async fn one_who_goes_on_in_the_middle_of_an_invalidation_misses_nothing() {
    const KEYS: u16 = 120;
    for (store, _folder) in stores().await {
        followed(&store);
        for n in 0..KEYS {
            begin(&store, &request(n)).await;
            store.commit(&space(), request(n).id, &outcome(0)).await.unwrap();
        }
        let watched = prefixes(&["name"]);
        let mut watcher = watch(&store, &watched, None).await;
        watcher.first().await;
        invalidate(&store, (0..KEYS).map(key).collect()).await;
        last(&store).await;
        let all = watcher.all().await;
        let of = |all: &[(Event, Cursor)]| all.iter().map(|(event, _)| event.key.clone()).collect::<HashSet<_>>();
        assert_eq!((all.len(), of(&all).len()), (usize::from(KEYS), usize::from(KEYS)));
        assert!(all.iter().all(|(event, _)| event.verdict == Verdict::Invalidated));
        let mut again = 0;
        for n in (0..all.len()).filter(|n| n % 7 == 0 || [48, 50, 99, 118, 119].contains(n)) {
            let mut later = watch(&store, &watched, Some(all[n].1)).await;
            let rest = later.all().await;
            let both: HashSet<_> = of(&all[..=n]).union(&of(&rest)).cloned().collect();
            assert_eq!(both.len(), usize::from(KEYS), "cut off after {n}");
            again += rest.len() + n + 1 - usize::from(KEYS);
        }
        assert!(again > 0, "they do share batches");
    }
}

#[tokio::test]
async fn who_is_slow_catches_up_and_misses_nothing() {
    const TIMES: usize = 200;
    for (store, _folder) in stores().await {
        followed(&store);
        let mut watcher = watch(&store, &keys([1]), None).await;
        watcher.first().await;
        let mut expected = Vec::new();
        for n in 0..TIMES {
            let again = attempt(1, u8::try_from(n).unwrap(), "name");
            begin(&store, &again).await;
            store.fail(&space(), again.id, "why", &outcome(1)).await.unwrap();
            expected.extend([(Verdict::Running, again.id), (Verdict::Failed, again.id)]);
            // Those who read along are handed pages, those who do not lose them.
            if n % 50 == 0 {
                assert_eq!(watcher.event().await.0.verdict, Verdict::Running);
                expected.remove(0);
                while expected.len() > 20 {
                    let (event, _) = watcher.event().await;
                    assert_eq!((event.verdict, event.execution), (expected[0].0, Some(expected.remove(0).1)));
                }
                if expected.first().is_some_and(|(verdict, _)| *verdict == Verdict::Failed) {
                    watcher.event().await;
                    expected.remove(0);
                }
            }
        }
        last(&store).await;
        let rest: Vec<_> = watcher.all().await.into_iter().map(|(event, _)| event).collect();
        assert!(rest.len() > 2 * pages::WAITING, "it was far behind");
        let rest: Vec<_> = rest.into_iter().map(|event| (event.verdict, event.execution.unwrap())).collect();
        assert_eq!(rest, expected);
    }
}

#[tokio::test]
async fn names_are_watched_as_they_are_listed_and_other_spaces_never() {
    for (store, _folder) in stores().await {
        followed(&store);
        let names = ["a", "a/b", "a/b/c", "a/bc", "a/c", "b/a/b"];
        let mut watcher = watch(&store, &prefixes(&["a/b"]), None).await;
        let mut by_key = watch(&store, &keys([0]), None).await;
        for watcher in [&mut watcher, &mut by_key] {
            watcher.first().await;
        }
        for (n, name) in names.iter().enumerate() {
            let other = Space::new("other").unwrap();
            let there = attempt(u16::try_from(n).unwrap(), 100 + n as u8, name);
            assert!(matches!(store.begin(&other, &there, None).await.unwrap(), Begin::Lease(..)));
            begin(&store, &Request { id: ExecutionId([n as u8; 16]), ..there }).await;
        }
        last(&store).await;
        let listed = store.names(&space(), "a/b", None, 100).await.unwrap().0;
        let listed: HashSet<_> = listed.into_iter().map(|named| named.name.to_string()).collect();
        let told: Vec<_> = watcher.all().await.into_iter().map(|(event, _)| event).collect();
        let under: HashSet<_> = told.iter().filter_map(|event| event.name.as_ref()).map(ToString::to_string).collect();
        assert_eq!((under.len(), &under), (told.len(), &listed));
        assert!(told.iter().all(|event| event.execution < Some(ExecutionId([100; 16]))));
        assert_eq!(by_key.all().await.len(), 1);
    }
}

#[tokio::test]
async fn cursors_that_reach_nowhere_are_refused() {
    for (store, _folder) in stores().await {
        let head = store.inner.meta.head().await.unwrap();
        let cursor = |incarnation, version| Cursor { incarnation, version: Version(version), lost: false };
        let refused = async |cursor| match store.watching(&space(), keys([1]), Some(cursor)).await {
            Err(StoreError::Cursor { why }) => why,
            other => panic!("{other:?}"),
        };
        assert!(refused(cursor(2, head.0)).await.contains("restored"));
        assert!(refused(cursor(1, head.0 + 1)).await.contains("ahead"));
        let mut watcher = watch(&store, &keys([1]), None).await;
        watcher.first().await;
        last(&store).await;
        store.inner.meta.trim(Version(head.0 + 1), Timestamp::default()).await.unwrap();
        assert!(refused(cursor(1, head.0)).await.contains("a day"));
        // Who was behind is told so, too, once it looks.
        followed(&store);
        begin(&store, &request(1)).await;
        let fell_behind = tokio::time::timeout(HANG, async {
            loop {
                if let Err(error) = watcher.next().await {
                    return error;
                }
            }
        });
        assert!(matches!(fell_behind.await.unwrap(), StoreError::Cursor { .. }));
        let mut watcher = watch(&store, &keys([1]), None).await;
        watcher.first().await;
        store
            .transact(|mut txn| {
                txn.put(rows::store(pages::INCARNATION), "2");
                async move { Ok((txn, ())) }
            })
            .await
            .unwrap();
        let restored = tokio::time::timeout(HANG, async {
            loop {
                if let Err(error) = watcher.next().await {
                    return error;
                }
            }
        });
        assert!(matches!(restored.await.unwrap(), StoreError::Cursor { why } if why.contains("restored")));
    }
}

#[tokio::test]
async fn who_is_told_nothing_is_told_how_far_it_has_come() {
    let store = super::super::tests::store().await;
    followed(&store);
    let mut watcher = watch(&store, &keys([1]), None).await;
    let (_, mut before) = watcher.first().await;
    for n in 2..5 {
        begin(&store, &request(n)).await;
        let Heard::Reached(cursor) = watcher.hear().await else { panic!("nothing of this was asked for") };
        assert!(cursor > before, "{cursor} {before}");
        before = cursor;
    }
    assert_eq!(before.version, store.inner.meta.head().await.unwrap());
}

/// However many run and watch at once, each watcher is told of each key what happened to it, in order, from its cursor on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_who_come_and_go_hear_all_of_it() {
    const WORKERS: u8 = 8;
    const TIMES: u8 = 30;
    for (store, _folder) in stores().await {
        followed(&store);
        let mut watchers = tokio::task::JoinSet::new();
        for n in 0..6 {
            let store = store.clone();
            let mut watcher = watch(&store, &prefixes(&["name"]), None).await;
            watcher.first().await;
            watchers.spawn(async move {
                let (mut seen, mut cursor) = (Vec::new(), None);
                loop {
                    let (event, next) = watcher.event().await;
                    cursor = next.or(cursor);
                    if event.key == key(LAST) && event.verdict == Verdict::Running {
                        return seen;
                    }
                    seen.push((event.key, event.verdict, event.execution));
                    if seen.len() % (n * 20 + 7) == 0 {
                        watcher = watch(&store, &prefixes(&["name"]), cursor).await;
                    }
                }
            });
        }
        let mut workers = tokio::task::JoinSet::new();
        for worker in 0..WORKERS {
            let store = store.clone();
            workers.spawn(async move {
                for n in 0..TIMES {
                    let mut again = attempt(u16::from(worker), n, "name");
                    again.id.0[0] = worker;
                    begin(&store, &again).await;
                    store.fail(&space(), again.id, "why", &outcome(1)).await.unwrap();
                }
            });
        }
        workers.join_all().await;
        last(&store).await;
        for seen in watchers.join_all().await {
            let mut by_key: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for (key, verdict, execution) in seen {
                by_key.entry(key).or_default().push((execution.unwrap().0[1], verdict));
            }
            assert_eq!(by_key.len(), usize::from(WORKERS));
            for told in by_key.into_values() {
                let expected = (0..TIMES).flat_map(|n| [(n, Verdict::Running), (n, Verdict::Failed)]);
                assert_eq!(told, expected.collect::<Vec<_>>());
            }
        }
        assert_eq!(store.execution(&space(), ExecutionId([0; 16])).await.unwrap().state, State::Failed);
    }
}
