//! Two daemons on one PostgreSQL that collect: one at a time, and whoever stands still in the middle of a run for longer than the other one waits
//! harms nothing when it goes on.
//!
//! `PROVENDER_SOAK=1` has many rounds instead of one.

use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use provender_client::{Begin, Begun, Client, Remote};
use provender_core::execution::{Executor, Exit, Outcome};
use provender_core::name::{Name, Space};
use provender_core::tree::{Node, Tree};
use provender_core::{Digest, ExecutionId, Spec, TaskKey, Verdict};
use provender_tests::child::{Running, soak};
use rustix::process::Signal;
use serde_json::Value;

use crate::churn::{is_whole, random, sealed};
use crate::cluster::Cluster;

/// How many keys there are, each with a file of its own and one that others have.
const KEYS: u64 = 40;
/// After how long one daemon goes on with what another has begun, and some more.
const TAKEN_OVER: Duration = Duration::from_secs(16);

/// All goes that was not used for two seconds, slowly enough to be met in the middle.
fn cluster() -> Cluster {
    let gc =
        "[gc]\nprotect_seconds = 2\nevery_seconds = 0\nrows_per_second = 1500\n[[gc.keep]]\nused_within_seconds = 1\n";
    Cluster::two_on_postgres_configured(2, &[], gc)
}

struct User(Client);

impl User {
    async fn new(cluster: &Cluster, daemon: usize) -> User {
        let remote = Remote::find(Some(&cluster.remote(daemon))).unwrap();
        User(Client::connect(&remote, Space::default()).await.unwrap())
    }

    /// Has a key made unless it is; the same bytes each time, with the list of them. Whether it was made.
    async fn make(&self, n: u64) -> bool {
        let key: TaskKey = format!("again:{n}").parse().unwrap();
        let spec = Spec::new(Name::new(format!("again/{n}")).unwrap());
        let (executor, id) = (Executor::default(), ExecutionId(std::array::from_fn(|_| random() as u8)));
        let (ttl, remarks) = (Duration::from_secs(60), Default::default());
        let begin = Begin {
            key: &key,
            spec: &spec,
            execution: id,
            executor: &executor,
            ttl,
            wait: false,
            check: false,
            remarks,
        };
        match self.0.begin(begin, |_| {}).await.unwrap() {
            Begun::Hit(_) => return false,
            Begun::Lease(_) => {}
            other => panic!("nobody else is at {key}: {other:?}"),
        }
        let (root, blobs) = content(n);
        // As most clients do, also where they were told a moment ago.
        let digests: Vec<_> = blobs.iter().map(|(digest, _)| *digest).collect();
        let missing = self.0.find_missing(&digests).await.unwrap();
        let blobs: Vec<_> = blobs.into_iter().filter(|(digest, _)| missing.contains(digest)).collect();
        self.0.upload_bytes(&blobs).await.unwrap();
        let outcome = Outcome { exit: Some(Exit::Code(0)), outputs: Some(root), ..Outcome::default() };
        self.0.commit(id, &outcome).await.unwrap();
        true
    }

    async fn make_all(&self) -> usize {
        let mut made = 0;
        for n in 0..KEYS {
            made += usize::from(self.make(n).await);
        }
        made
    }

    /// All keys are SUCCEEDED, and every byte of theirs is there.
    async fn read_all(&self) {
        for n in 0..KEYS {
            let key: TaskKey = format!("again:{n}").parse().unwrap();
            let answer = self.0.lookup(std::slice::from_ref(&key)).await.unwrap().remove(0);
            assert_eq!(answer.verdict, Verdict::Succeeded, "{answer:?}");
            for (digest, bytes) in content(n).1 {
                let read =
                    self.0.bytes(&digest, 1 << 20).await.unwrap_or_else(|error| panic!("{key} is broken: {error}"));
                assert!(read == bytes, "{digest} of {key} is not what it was");
            }
        }
    }
}

/// What a key comes to: its tree, and all its blobs.
fn content(n: u64) -> (Digest, Vec<(Digest, Bytes)>) {
    let files = [sealed(40_000, n), sealed(30_000, 1_000 + n % 7), sealed(2_000, 2_000 + n)];
    assert!(files.iter().all(|bytes| is_whole(bytes)));
    let (mut tree, mut blobs) = (Tree::new(), Vec::new());
    for (n, bytes) in files.into_iter().enumerate() {
        let digest = Digest::of(&bytes);
        tree.insert(format!("f{n}"), Node::File { digest, executable: false }).unwrap();
        blobs.push((digest, bytes));
    }
    let encoded = tree.encode().unwrap();
    let root = Digest::of(&encoded);
    blobs.push((root, encoded));
    (root, blobs)
}

fn collecting(cluster: &Cluster, daemon: usize) -> Running {
    cluster.users[daemon].start(["--json", "gc"])
}

/// How many executions it chose.
fn took(ran: Running) -> u64 {
    let summary: Value = ran.wait().ok().lines().pop().unwrap()["summary"].clone();
    summary["executions"].as_u64().unwrap()
}

fn outlive_protection() {
    sleep(Duration::from_millis(3_600));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_daemons_one_collects_at_a_time() {
    let mut cluster = cluster();
    let users = [User::new(&cluster, 0).await, User::new(&cluster, 1).await];
    assert_eq!(users[0].make_all().await as u64, KEYS);
    outlive_protection();
    // Who comes second finds nothing left, since it waits for the first one's end.
    let took = [0, 1].map(|daemon| collecting(&cluster, daemon)).map(took);
    assert!(took == [KEYS, 0] || took == [0, KEYS], "{took:?}");
    assert_eq!(users[1].make_all().await as u64, KEYS);
    users[0].read_all().await;
    cluster.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_stood_still_takes_nothing_that_was_stored_again() {
    let mut cluster = cluster();
    let users = [User::new(&cluster, 0).await, User::new(&cluster, 1).await];
    users[0].make_all().await;
    for round in 0..if soak() { 60 } else { 1 } {
        outlive_protection();
        let first = collecting(&cluster, 0);
        let stopped_after = Duration::from_millis(2_000 + random() % 3_000);
        sleep(stopped_after);
        cluster.daemons[0].signal(Signal::STOP);
        let stopped = Instant::now();
        // Every other time some is made anew already before the other daemon takes over.
        let before = if round % 2 == 1 { users[1].make_all().await } else { 0 };
        let second = collecting(&cluster, 1);
        while stopped.elapsed() < TAKEN_OVER {
            sleep(Duration::from_millis(100));
        }
        let second = took(second);
        let again = users[1].make_all().await;
        cluster.daemons[0].signal(Signal::CONT);
        // While the first one goes on where it stood.
        users[1].read_all().await;
        let first = first.wait();
        println!(
            "round {round}: stopped after {stopped_after:?}; {before} made before, the other one took {second}, {again} made again; \
             the first one ended with {:?}",
            first.status.code()
        );
        assert!(before + again > 0, "all of it was gone");
        users[0].read_all().await;
        let verified = cluster.users[1].run(["--json", "verify", "--deep"]).ok().json();
        assert_eq!(verified["lost"], 0, "{verified}");
    }
    cluster.audit().await;
}
