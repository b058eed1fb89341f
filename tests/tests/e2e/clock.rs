//! The daemons' wall clock steps and is wrong, by libfaketime: nothing expires early, nothing hangs, and nobody is turned away.
//!
//! The monotonic clock is left alone, as a step of the system's clock leaves it.

use std::path::PathBuf;
use std::time::Duration;

use provender_core::Timestamp;
use provender_core::batch::BatchId;
use provender_proto::v1::begin_reply::Reply;
use provender_proto::v1::{State, Verdict};
use provender_tests::child::eventually;
use provender_tests::daemon::Daemon;
use tempfile::TempDir;

use crate::cluster::Cluster;
use crate::raw::{Raw, keep};
use crate::world::{folder, start};

const HOUR: i64 = 3_600;
const YEAR: i64 = 365 * 24 * HOUR;
/// How far a clock may be from where it was put, because time passes while it is looked at.
const SLACK: i64 = 300;

/// What a daemon's wall clock says, as an offset from the real one.
struct Clock(TempDir);

impl Clock {
    fn at(offset: i64) -> Clock {
        let clock = Clock(folder());
        clock.step(offset);
        clock
    }

    /// From now on it is so many seconds ahead of the real one.
    fn step(&self, offset: i64) {
        let new = self.0.path().join("new");
        std::fs::write(&new, format!("{offset:+}\n")).unwrap();
        std::fs::rename(new, self.0.path().join("offset")).unwrap();
    }

    /// What makes a program see it.
    fn env(&self) -> [(String, String); 4] {
        let file = self.0.path().join("offset").display().to_string();
        [
            ("LD_PRELOAD", library().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", file),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
        .map(|(name, value)| (name.into(), value))
    }
}

fn library() -> PathBuf {
    let lib = PathBuf::from("/usr/lib");
    let machines = std::fs::read_dir(&lib).into_iter().flatten().flatten().map(|entry| entry.path());
    let found =
        machines.chain([lib]).map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    found.expect("these tests step a daemon's clock: apt-get install libfaketime")
}

fn borrowed(env: &[(String, String)]) -> Vec<(&str, &str)> {
    env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// How far the clock of a daemon is ahead of ours, in seconds, by an execution that it lets begin now.
async fn ahead(raw: &Raw, key: &str) -> i64 {
    let execution = raw.lease(key, 60_000, &[]).await;
    let began = raw.history(key).await[0].began_ms as i64 / 1_000;
    raw.fail(&execution, "only looking").await.unwrap();
    began - now()
}

#[allow(clippy::disallowed_methods, reason = "this is what a daemon's clock is held against")]
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_secs() as i64
}

/// Within a net: what hangs shall be told as such.
async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.unwrap_or_else(|_| panic!("it hangs: {what}"))
}

async fn steps_change_nothing(cluster: &Cluster, clock: &Clock) {
    let [one, other] = [Raw::to(&cluster.remote(0)).await, Raw::to(&cluster.remote(1)).await];
    // One who beats, one who is not to be heard of for long, and a real one; and who waits for each.
    let kept = one.lease("test:kept", 3_000, &[]).await;
    let keeping = keep(&one, &kept);
    let long = one.lease("test:long", 600_000, &[]).await;
    let mut waiting = Vec::new();
    for key in ["test:kept", "test:long"] {
        let mut waiter = other.begin(key, 60_000, &[]).await.unwrap();
        assert!(matches!(waiter.next().await.unwrap(), Reply::Busy(_)));
        waiting.push(waiter);
    }
    let [running, go] = ["running", "go"].map(|name| cluster.shared(name));
    let script = format!("echo >>{}; until test -e {}; do sleep 0.05; done", running.display(), go.display());
    let ask = |user: usize| start(&cluster.users[user], &["--name", "run", "--key", "test:run", "--ttl", "3"], &script);
    let count = || std::fs::read_to_string(&running).unwrap_or_default().lines().count();
    let holder = ask(0);
    eventually("the command runs", || count() == 1);
    let waiter = ask(1);
    eventually("it is waited for", || waiter.stderr().contains("waiting for exec:"));

    for (n, offset) in [HOUR, 0, -HOUR, 0].into_iter().enumerate() {
        // This one is dead, and its time is measured across the step.
        let dead = format!("test:dead-{n}");
        one.lease(&dead, 1_000, &[]).await;
        clock.step(offset);
        for (at, raw) in [&one, &other].into_iter().enumerate() {
            let seen = ahead(raw, &format!("test:seen-{n}-{at}")).await;
            assert!((offset - SLACK..offset + SLACK).contains(&seen), "the daemon does not see the step: {seen} s");
        }
        let taken = in_time("a lease that ran out passes on", other.lease(&dead, 60_000, &[])).await;
        assert_eq!(other.commit(&taken, None).await.unwrap().state(), State::Succeeded);
        let ends: Vec<_> = one.history(&dead).await.iter().map(|execution| execution.state()).collect();
        assert!(ends.contains(&State::Abandoned) && ends.len() == 2, "{ends:?}");
        let lookup = one.lookup(["test:kept", "test:long", "test:run"].map(str::to_owned).to_vec()).await;
        for (answer, execution) in lookup.iter().zip([Some(&kept), Some(&long), None]) {
            assert_eq!(answer.verdict(), Verdict::Running, "nothing expires early: {answer:?}");
            assert!(execution.is_none_or(|execution| answer.execution == *execution), "{answer:?}");
        }
    }
    assert!(!keeping.is_finished());
    for (execution, mut waiter) in [kept, long].iter().zip(waiting) {
        one.commit(execution, None).await.unwrap();
        match in_time("who waits hears of the end", waiter.next()).await.unwrap() {
            Reply::Hit(hit) => assert_eq!(hit.id, execution),
            other => panic!("no hit but {other:?}"),
        }
    }
    std::fs::write(go, "").unwrap();
    assert_eq!(holder.wait().ok().result(), "ran");
    assert_eq!(waiter.wait().ok().result(), "hit");
    assert_eq!(count(), 1, "single flight");
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_of_the_clock_expire_nothing_early_and_hang_nothing() {
    let clock = Clock::at(0);
    steps_change_nothing(&Cluster::one_with(2, &[], &borrowed(&clock.env())), &clock).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_steps_of_the_clock_expire_nothing_early_and_hang_nothing() {
    let clock = Clock::at(0);
    steps_change_nothing(&Cluster::two_on_postgres_with(2, &borrowed(&clock.env())), &clock).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_a_year_wrong_at_start_turns_nobody_away() {
    let place = folder();
    let mut keys = Vec::new();
    for (n, offset) in [0, -YEAR, YEAR, 0].into_iter().enumerate() {
        let clock = Clock::at(offset);
        let daemon = Daemon::start_with(&place.path().join("d"), &[], &borrowed(&clock.env()));
        let raw = Raw::to(&daemon.remote()).await;
        let seen = ahead(&raw, &format!("test:seen-{n}")).await;
        assert!((offset - SLACK..offset + SLACK).contains(&seen), "the daemon does not see its clock: {seen} s");
        // Two of one name, and one that was left behind by a dead holder.
        for attempt in ["first", "second"] {
            let key = format!("test:{attempt}-{n}");
            let execution = in_time("a lease is given", raw.lease(&key, 60_000, &[])).await;
            assert_eq!(raw.commit(&execution, None).await.unwrap().state(), State::Succeeded);
            keys.push(key);
        }
        in_time("it is left behind", raw.lease("test:dead", 1_000, &[])).await;
        in_time("a lease that ran out passes on", raw.lease("test:dead", 1_000, &[])).await;
        for answer in raw.lookup(keys.clone()).await {
            assert_eq!(answer.verdict(), Verdict::Succeeded, "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_a_clock_behind_the_ids_that_were_forgotten_turns_nobody_away() {
    let clock = Clock::at(0);
    let cluster = Cluster::two_on_postgres_with(0, &borrowed(&clock.env()));
    let [one, other] = [Raw::to(&cluster.remote(0)).await, Raw::to(&cluster.remote(1)).await];
    // As another daemon's upkeep leaves it, whose clock is right: ids of batches from before yesterday are forgotten.
    let yesterday = Timestamp::from_millis((now() - 24 * HOUR) as u64 * 1_000);
    let oldest = BatchId::new(yesterday, [0; 10]);
    let database = cluster.postgres().connect().await;
    let forgotten = database.execute("UPDATE provender_head SET oldest = $1", &[&&oldest.0[..]]).await.unwrap();
    assert_eq!(forgotten, 1);
    clock.step(-YEAR);
    for (n, raw) in [one, other].into_iter().enumerate() {
        let key = format!("test:behind-{n}");
        let execution = in_time("a lease is given", raw.lease(&key, 60_000, &[])).await;
        assert_eq!(raw.commit(&execution, None).await.unwrap().state(), State::Succeeded);
        let began = raw.history(&key).await[0].began_ms as i64 / 1_000;
        assert!(began < now() - YEAR + SLACK, "the daemon does not see its clock");
        assert_eq!(raw.verdict(&key).await, Verdict::Succeeded);
    }
}
