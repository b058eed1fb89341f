//! More who ask at once than any build has: 500 for one key, and each of 10,000 keys asked for by one.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::{self, FuturesUnordered};
use provender_client::{Begin, Begun, Client, Remote};
use provender_core::execution::Executor;
use provender_core::name::{Name, Space};
use provender_core::{ExecutionId, Spec, TaskKey};
use provender_proto::v1::begin_reply::Reply;
use provender_proto::v1::{State, Verdict};
use provender_tests::child::soak;

use crate::cluster::Cluster;
use crate::raw::{Asked, Raw};
use crate::world::World;

/// How many connections there are.
const CONNECTIONS: usize = 50;
/// How many ask for one key.
const CROWD: usize = 500;
/// A TTL in which no lease runs out, however busy the machine is; in milliseconds.
const LONG: u64 = 600_000;

async fn connect(cluster: &Cluster) -> Vec<Raw> {
    let mut connections = Vec::new();
    for n in 0..CONNECTIONS {
        connections.push(Raw::to(&cluster.remote(n)).await);
    }
    connections
}

/// Who has the lease, and who has been told so and waits.
struct Crowd {
    holder: Asked,
    waiters: Vec<Asked>,
}

impl Crowd {
    /// All ask at once.
    async fn ask(connections: &[Raw]) -> Crowd {
        let asking: FuturesUnordered<_> = (0..CROWD)
            .map(|n| async move {
                let mut asked = connections[n % CONNECTIONS].begin("test:crowd", LONG, &[]).await.unwrap();
                let first = asked.next().await.unwrap();
                (asked, first)
            })
            .collect();
        let (mut holders, mut waiters) = (Vec::new(), Vec::new());
        for (asked, first) in asking.collect::<Vec<_>>().await {
            match first {
                Reply::Lease(_) => holders.push(asked),
                Reply::Busy(holder) => waiters.push((asked, holder.id)),
                other => panic!("{other:?} before anybody has done anything"),
            }
        }
        assert_eq!((holders.len(), waiters.len()), (1, CROWD - 1), "one has the lease and the others wait");
        let holder = holders.remove(0);
        assert!(waiters.iter().all(|(_, busy)| *busy == holder.id), "all are told who has it");
        Crowd { holder, waiters: waiters.into_iter().map(|(waiter, _)| waiter).collect() }
    }

    /// What all those who wait hear in the end, and prints how long after `since` they did.
    async fn hear(waiters: Vec<Asked>, what: &str, since: Instant) -> Vec<Reply> {
        let hearing: FuturesUnordered<_> = waiters
            .into_iter()
            .map(|mut waiter| async move { (waiter.last().await.unwrap(), since.elapsed()) })
            .collect();
        let heard: Vec<_> = hearing.collect().await;
        let times = heard.iter().map(|(_, at)| *at);
        let (first, last) = (times.clone().min().unwrap(), times.max().unwrap());
        eprintln!(
            "crowd: {} heard of the {what}, the first {first:.0?} and the last {last:.0?} after it was asked for",
            heard.len()
        );
        heard.into_iter().map(|(reply, _)| reply).collect()
    }
}

async fn one_has_the_lease_and_all_hear_of_its_success(cluster: &Cluster) {
    let connections = connect(cluster).await;
    let Crowd { holder, waiters } = Crowd::ask(&connections).await;
    let since = Instant::now();
    let hearing = tokio::spawn(Crowd::hear(waiters, "success", since));
    let made = connections[0].commit(&holder.id, None).await.unwrap();
    assert_eq!(made.state(), State::Succeeded);
    for reply in hearing.await.unwrap() {
        match reply {
            Reply::Hit(hit) => assert_eq!((&hit.id, hit.state()), (&holder.id, State::Succeeded)),
            other => panic!("no hit but {other:?}"),
        }
    }
    assert_eq!(connections[1].history("test:crowd").await.len(), 1, "single flight");
}

async fn all_hear_of_a_failure_and_none_tries_again(cluster: &Cluster) {
    let connections = connect(cluster).await;
    let Crowd { holder, waiters } = Crowd::ask(&connections).await;
    let since = Instant::now();
    let hearing = tokio::spawn(Crowd::hear(waiters, "failure", since));
    connections[0].fail(&holder.id, "it does not compile").await.unwrap();
    for reply in hearing.await.unwrap() {
        match reply {
            Reply::Failed(failed) => assert_eq!((&failed.id, failed.reason()), (&holder.id, "it does not compile")),
            other => panic!("not told of the failure but {other:?}"),
        }
    }
    assert_eq!(connections[1].verdict("test:crowd").await, Verdict::Failed);
    assert_eq!(connections[1].history("test:crowd").await.len(), 1, "nobody tried again");
}

/// Begins and commits them all, each by a task of its own; then asks for them all.
async fn each_gets_a_lease_and_its_success(cluster: &Cluster, keys: usize) {
    let connections = connect(cluster).await;
    let (began, key) = (Instant::now(), |n: usize| format!("test:each-{n}"));
    let served: FuturesUnordered<_> = (0..keys)
        .map(|n| {
            let raw = connections[n % CONNECTIONS].clone();
            tokio::spawn(async move {
                let execution = raw.lease(&key(n), LONG, &[]).await;
                let made = raw.commit(&execution, None).await.unwrap();
                assert_eq!((made.state(), &made.key), (State::Succeeded, &key(n)));
                execution
            })
        })
        .collect();
    let executions: Vec<_> = served.map(Result::unwrap).collect().await;
    assert_eq!(executions.iter().collect::<HashSet<_>>().len(), keys);
    let served = began.elapsed();
    let answers = connections[0].lookup((0..keys).map(key).collect()).await;
    let executions: HashSet<_> = executions.into_iter().collect();
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer.verdict(), Verdict::Succeeded, "{}", key(n));
        assert!(executions.contains(&answer.execution), "{}", key(n));
    }
    assert_eq!(answers.len(), keys);
    let looked_up = began.elapsed() - served;
    eprintln!("crowd: {keys} keys begun and committed in {served:.1?}, looked up in {looked_up:.0?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_500_who_ask_at_once_one_gets_the_lease_and_all_hear_of_the_end() {
    one_has_the_lease_and_all_hear_of_its_success(&Cluster::one(0)).await;
    all_hear_of_a_failure_and_none_tries_again(&Cluster::one(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_of_500_who_ask_at_once_one_gets_the_lease_and_all_hear_of_the_end() {
    one_has_the_lease_and_all_hear_of_its_success(&Cluster::two_on_postgres(0)).await;
    all_hear_of_a_failure_and_none_tries_again(&Cluster::two_on_postgres(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_10000_keys_is_served() {
    each_gets_a_lease_and_its_success(&Cluster::one(0), 10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_each_of_thousands_of_keys_is_served() {
    // A commit there costs a few round trips.
    let keys = if soak() { 10_000 } else { 2_000 };
    each_gets_a_lease_and_its_success(&Cluster::two_on_postgres(0), keys).await;
}

/// As the Rust client is used by a build: thousands of begins share one connection.
#[tokio::test(flavor = "multi_thread")]
async fn one_connection_carries_thousands_of_begins() {
    const BEGINS: usize = 3_000;
    let world = World::new();
    let remote = Remote::find(Some(&world.daemon.remote())).unwrap();
    let client = &Client::connect(&remote, Space::default()).await.unwrap();
    let asked = (0..BEGINS).map(|n| async move {
        let key: TaskKey = format!("test:{n}").parse().unwrap();
        let spec = Spec::new(Name::new("many").unwrap());
        let begin = Begin {
            key: &key,
            spec: &spec,
            execution: ExecutionId((n as u128).to_be_bytes()),
            executor: &Executor::default(),
            ttl: Duration::from_millis(LONG),
            wait: true,
            check: false,
            remarks: Default::default(),
        };
        client.begin(begin, |_| {}).await
    });
    let begun: Vec<_> = stream::iter(asked).buffer_unordered(256).collect().await;
    let refused: Vec<_> = begun.iter().filter(|begun| !matches!(begun, Ok(Begun::Lease(_)))).collect();
    assert!(refused.is_empty(), "{} of {BEGINS}, such as {:?}", refused.len(), refused[0]);
}
