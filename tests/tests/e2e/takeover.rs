//! Keys that are taken over from executors that sleep and from daemons that die: who comes late is refused and told why, nothing
//! that anyone sees changes, and single flight holds.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use provender_proto::v1::begin_reply::Reply;
use provender_proto::v1::{State, Verdict};
use provender_tests::child::{Running, eventually};
use provender_tests::provender::Provender;
use rustix::process::Signal;
use tonic::{Code, Status};

use crate::cluster::Cluster;
use crate::mount::Mounted;
use crate::raw::{Asked, Raw, keep, until};
use crate::world::start;

/// All that can be seen of `test:one`, whose name is `one`: by the command line, and below a mount point if there is one.
fn seen(provender: &Provender, point: Option<&Path>) -> Vec<String> {
    let ask = |args: &[&str]| provender.run(args).out();
    let mut seen = vec![
        ask(&["--json", "status", "test:one", "one"]),
        ask(&["--json", "show", "test:one"]),
        ask(&["--json", "show", "one"]),
        ask(&["--json", "history", "one"]),
        ask(&["--json", "ls", "--failed"]),
        ask(&["--json", "ls"]),
        ask(&["cat", "one", "out"]),
    ];
    if let Some(point) = point {
        let names = |folder: &str| {
            let mut names: Vec<_> = std::fs::read_dir(point.join(folder)).into_iter().flatten().flatten().collect();
            names.sort_by_key(|entry| entry.file_name());
            format!("{:?}", names.iter().map(|entry| entry.file_name()).collect::<Vec<_>>())
        };
        let link = |path: &str| format!("{:?}", std::fs::read_link(point.join(path)));
        seen.extend([names("tasks/one"), names("failed/one"), link("tasks/one/latest"), link("keys/test/one")]);
        seen.push(std::fs::read_to_string(point.join("tasks/one/latest/out/out")).unwrap_or_default());
    }
    seen
}

/// One who goes to sleep over his work, and another one.
struct Two {
    sleeper: Provender,
    other: Provender,
    folders: [PathBuf; 2],
}

impl Two {
    /// Starts a command that says that it runs, and ends when it is let go.
    fn ask(&self, who: usize) -> Running {
        let provender = [&self.sleeper, &self.other][who].env("WHO", ["sleeper", "other"][who]);
        let script = "echo >running; until test -e go; do sleep 0.02; done; echo by $WHO >out; echo >ended";
        // Only the sleeper is to be late, however busy the machine is.
        let ttl = ["1", "60"][who];
        start(&provender, &["--name", "one", "--key", "test:one", "--ttl", ttl, "--out", "out"], script)
    }

    fn has(&self, who: usize, file: &str) -> bool {
        self.folders[who].join(file).exists()
    }

    fn let_go(&self, who: usize) {
        std::fs::write(self.folders[who].join("go"), "").unwrap();
    }

    /// The sleeper's `provender` stops while its command runs.
    fn falls_asleep(&self) -> Running {
        let sleeper = self.ask(0);
        eventually("the sleeper's command runs", || self.has(0, "running"));
        sleeper.signal(Signal::STOP);
        sleeper
    }

    /// The sleeper's command comes to its end, unnoticed; another takes over and succeeds; the sleeper wakes up and would commit.
    fn one_wakes_up_after_another_succeeded(&self, point: Option<&Path>) {
        let sleeper = self.falls_asleep();
        self.let_go(0);
        eventually("the sleeper's command has ended", || self.has(0, "ended"));
        self.let_go(1);
        let made = self.ask(1).wait().ok();
        assert_eq!(made.result(), "ran");
        let before = seen(&self.other, point);
        assert_eq!(before[6], "by other\n");
        sleeper.signal(Signal::CONT);
        let late = sleeper.wait().code(125).says(&[
            "lease was lost",
            "has already ended as ABANDONED",
            "not heard of for 1 s",
            "has taken it over",
        ]);
        assert!(!late.err().contains("\"ran\""), "{}", late.err());
        assert_eq!(seen(&self.other, point), before);
        assert_eq!(seen(&self.sleeper, point), before);
    }

    /// The sleeper wakes up while another one is at it: its command is stopped, the other one goes on.
    fn one_wakes_up_while_another_is_at_it(&self, point: Option<&Path>) {
        let sleeper = self.falls_asleep();
        let other = self.ask(1);
        eventually("the other's command runs", || self.has(1, "running"));
        let before = seen(&self.other, point);
        assert!(before[0].contains("RUNNING"), "{before:?}");
        sleeper.signal(Signal::CONT);
        sleeper.wait().code(125).says(&["the command was stopped, since its lease was lost", "has taken it over"]);
        assert_eq!(seen(&self.other, point), before);
        self.let_go(0);
        self.let_go(1);
        assert_eq!(other.wait().ok().result(), "ran");
        assert!(!self.has(0, "ended"), "nobody works for nothing");
        assert_eq!(seen(&self.sleeper, point)[6], "by other\n");
    }
}

fn two_of_one_world(mounted: &Mounted) -> Two {
    let world = mounted.world();
    let folders = ["sleeper", "other"].map(|name| world.root().join(name));
    let [sleeper, other] = [&folders[0], &folders[1]].map(|folder| world.provender.at(folder));
    Two { sleeper, other, folders }
}

/// The sleeper asks one daemon, the other one the other.
fn two_of_a_cluster(cluster: &Cluster) -> Two {
    let folders = [cluster.shared("u0"), cluster.shared("u1")];
    Two { sleeper: cluster.users[0].clone(), other: cluster.users[1].clone(), folders }
}

#[test]
fn an_executor_that_slept_past_its_lease_is_refused_and_nothing_changes() {
    for wake_up in [Two::one_wakes_up_after_another_succeeded, Two::one_wakes_up_while_another_is_at_it] {
        let mounted = Mounted::new();
        wake_up(&two_of_one_world(&mounted), Some(&mounted.at("")));
    }
}

#[test]
fn postgres_an_executor_that_slept_past_its_lease_is_refused_and_nothing_changes() {
    for wake_up in [Two::one_wakes_up_after_another_succeeded, Two::one_wakes_up_while_another_is_at_it] {
        wake_up(&two_of_a_cluster(&Cluster::two_on_postgres(2)), None);
    }
}

/// The lease ran out: whatever the late one says is refused with that.
#[track_caller]
fn is_late(said: Result<impl std::fmt::Debug, Status>) {
    let status = said.expect_err("it is late");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    for word in ["ABANDONED", "not heard of for 1 s"] {
        assert!(status.message().contains(word), "no {word:?} in {status:?}");
    }
}

/// Paused between upload and commit: all that it made is in the store, and its commit is refused all the same.
async fn a_pause_before_the_commit(cluster: &Cluster) {
    let (late, next) = (Raw::to(&cluster.remote(0)).await, Raw::to(&cluster.remote(1)).await);
    let user = &cluster.users[0];
    let execution = late.lease("test:one", 1_000, &["out"]).await;
    let root = late.upload(vec![b'a'; 100_000]).await;
    // Who waits takes over, by whichever daemon.
    let taken = next.lease("test:one", 600_000, &["out"]).await;
    let all_refused = async || {
        let before = seen(user, None);
        is_late(late.heartbeat(&execution).await);
        is_late(late.commit(&execution, Some(root)).await);
        is_late(next.commit(&execution, Some(root)).await);
        is_late(late.fail(&execution, "because").await);
        assert_eq!(seen(user, None), before);
    };
    all_refused().await;
    assert_eq!(next.lookup(vec!["test:one".into()]).await[0].execution, taken, "it is the other's");
    let content = vec![b'b'; 100_000];
    let other = next.upload(content.clone()).await;
    assert_eq!(next.commit(&taken, Some(other)).await.unwrap().state(), State::Succeeded);
    all_refused().await;
    assert!(user.run(["cat", "one", "out"]).ok().stdout == content);
    let ends: Vec<_> = next.history("test:one").await.iter().map(|execution| execution.state()).collect();
    assert_eq!(ends, [State::Succeeded, State::Abandoned]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_after_a_pause_past_the_lease_is_refused_and_changes_nothing() {
    a_pause_before_the_commit(&Cluster::one(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_a_commit_after_a_pause_past_the_lease_is_refused_and_changes_nothing() {
    a_pause_before_the_commit(&Cluster::two_on_postgres(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_the_leases_of_a_killed_daemon_pass_on_by_the_other() {
    const TTL: Duration = Duration::from_secs(3);
    let mut cluster = Cluster::two_on_postgres(4);
    let [dying, living] = [Raw::to(&cluster.remote(0)).await, Raw::to(&cluster.remote(1)).await];
    let (ttl, keys) = (TTL.as_millis() as u64, (0..20).map(|n| format!("test:{n}")).collect::<Vec<_>>());

    // Executors who beat, by one daemon; for each of their keys two wait at the other one. And one who beats at that.
    let (mut held, mut waiting) = (Vec::new(), Vec::new());
    for key in &keys {
        let execution = dying.lease(key, ttl, &[]).await;
        keep(&dying, &execution);
        held.push(execution);
    }
    let kept = living.lease("test:kept", ttl, &[]).await;
    let keeping = keep(&living, &kept);
    for key in &keys {
        let mut pair = [living.begin(key, 600_000, &[]).await.unwrap(), living.begin(key, 600_000, &[]).await.unwrap()];
        for waiter in &mut pair {
            assert!(matches!(waiter.next().await.unwrap(), Reply::Busy(_)));
        }
        waiting.push(pair);
    }
    // The same with real ones, and with one who waits by the dying daemon.
    let (count, go) = (cluster.shared("count"), cluster.shared("go"));
    let script =
        format!("echo x >>{}; until test -e {}; do sleep 0.05; done; echo made >out", count.display(), go.display());
    let ask = |user: usize| {
        start(&cluster.users[user], &["--name", "one", "--key", "test:one", "--ttl", "3", "--out", "out"], &script)
    };
    let count = || std::fs::read_to_string(&count).unwrap_or_default().lines().count();
    let holder = ask(0);
    eventually("the command runs", || count() == 1);
    let [next, cut_off] = [ask(1), ask(2)];
    eventually("they wait", || [&next, &cut_off].iter().all(|waiter| waiter.stderr().contains("waiting for exec:")));

    cluster.daemons[0].kill();
    let killed = Instant::now();
    let hear = |mut waiter: Asked| {
        tokio::spawn(async move {
            let reply = waiter.next().await.unwrap();
            (waiter, reply, killed.elapsed())
        })
    };
    let heard: Vec<_> = waiting.into_iter().map(|pair| pair.map(hear)).collect();
    let mut last = Duration::ZERO;
    for (pair, (key, before)) in heard.into_iter().zip(keys.iter().zip(&held)) {
        let (mut leases, mut others) = (Vec::new(), Vec::new());
        for told in pair {
            let (waiter, reply, at) = told.await.unwrap();
            last = last.max(at);
            match reply {
                Reply::Lease(_) => leases.push(waiter.id.clone()),
                Reply::Busy(holder) => others.push((waiter, holder.id)),
                other => panic!("{other:?} of {key}"),
            }
        }
        assert_eq!((leases.len(), others.len()), (1, 1), "one takes {key} over");
        let (mut other, told) = others.remove(0);
        assert_eq!(told, leases[0], "the other is told who has it now");
        living.commit(&leases[0], None).await.unwrap();
        assert!(matches!(other.next().await.unwrap(), Reply::Hit(hit) if hit.id == leases[0]));
        let ends: Vec<_> = living.history(key).await.into_iter().map(|one| (one.id.clone(), one.state())).collect();
        assert_eq!(ends, [(leases[0].clone(), State::Succeeded), (before.clone(), State::Abandoned)], "single flight");
    }
    eprintln!(
        "takeover: {} leases of a killed daemon passed on; the last waiter heard {:.2?} after the kill, of which {TTL:?} are the TTL",
        keys.len(),
        last
    );

    eventually("one who waits by the living daemon takes over", || count() == 2);
    std::fs::write(&go, "").unwrap();
    assert_eq!(next.wait().ok().result(), "ran");
    holder.wait().code(125).says(&["cannot reach provenderd"]);
    assert!(!keeping.is_finished(), "what is held by the living daemon is not touched");
    assert_eq!(living.verdict("test:kept").await, Verdict::Running);
    assert_eq!(living.commit(&kept, None).await.unwrap().state(), State::Succeeded);
    assert_eq!(living.history("test:kept").await.len(), 1);

    cluster.daemons[0].restart();
    assert_eq!(cut_off.wait().ok().result(), "hit");
    assert_eq!(count(), 2, "one for the holder that was cut off, one for the success");
    let back = Raw::to(&cluster.remote(0)).await;
    for (key, execution) in keys.iter().zip(&held) {
        let status = back.commit(execution, None).await.expect_err("it is late");
        assert!(status.message().contains("ABANDONED"), "{status:?}");
        until(&back, key, |verdict| verdict == Verdict::Succeeded).await;
    }
}
