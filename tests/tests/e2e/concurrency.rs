//! Many who want one key at once: one of them runs the command.

use provender_tests::child::{Running, eventually};
use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::world::{World, start, verdict};

impl Cluster {
    fn count(&self) -> usize {
        std::fs::read_to_string(self.shared("count")).unwrap_or_default().lines().count()
    }

    /// Asks, as one of the users, for a command that waits for `go` and then ends with `code`.
    fn ask(&self, user: usize, code: i32) -> Running {
        let shared = self.shared("");
        let shared = shared.display();
        let script = format!(
            "echo x >>{shared}/count; until test -e {shared}/go; do sleep 0.05; done; mkdir out; echo made >out/file; exit {code}"
        );
        start(&self.users[user], &["--name", "one", "--key", "test:one", "--ttl", "2", "--out", "out"], &script)
    }

    /// The first user runs the command, the others wait for that.
    fn one_runs_and_others_wait(&self, code: i32) -> (Running, Vec<Running>) {
        let holder = self.ask(0, code);
        eventually("the command runs", || self.count() == 1);
        let waiters: Vec<_> = (1..self.users.len()).map(|user| self.ask(user, code)).collect();
        eventually("all others wait", || waiters.iter().all(|waiter| waiter.stderr().contains("waiting for exec:")));
        (holder, waiters)
    }

    fn go(&self) {
        std::fs::write(self.shared("go"), "").unwrap();
    }

    fn all_have_the_output(&self) {
        for n in 0..self.users.len() {
            let made = self.shared(&format!("u{n}/out/file"));
            assert_eq!(std::fs::read_to_string(&made).unwrap(), "made\n", "{}", made.display());
        }
    }
}

/// All at once, with nobody first; and once more, when all is there.
fn the_command_runs_once(cluster: &Cluster) {
    let all: Vec<_> = (0..cluster.users.len()).map(|user| cluster.ask(user, 0)).collect();
    cluster.go();
    let mut results: Vec<_> = all.into_iter().map(|run| run.wait().ok().result()).collect();
    results.sort();
    assert_eq!((results.pop().as_deref(), cluster.count()), (Some("ran"), 1));
    assert!(results.iter().all(|result| result == "hit"), "{results:?}");
    cluster.all_have_the_output();
    assert_eq!(cluster.ask(0, 0).wait().ok().result(), "hit");
}

fn waiters_get_the_success(cluster: &Cluster) {
    let (holder, waiters) = cluster.one_runs_and_others_wait(0);
    cluster.go();
    assert_eq!(holder.wait().ok().result(), "ran");
    for waiter in waiters {
        let ran = waiter.wait().ok();
        assert_eq!(ran.result(), "hit", "{}", ran.err());
    }
    assert_eq!(cluster.count(), 1);
    cluster.all_have_the_output();
}

fn waiters_are_told_of_a_failure(cluster: &Cluster) {
    let (holder, waiters) = cluster.one_runs_and_others_wait(3);
    cluster.go();
    let failed = holder.wait().code(3).record();
    for waiter in waiters {
        let told = waiter.wait().code(3);
        assert_eq!((told.result(), &told.record()["execution"]), ("failed".into(), &failed["execution"]));
    }
    assert_eq!(cluster.count(), 1, "nobody tried again");
    assert_eq!(verdict(&cluster.users[0], "test:one"), "FAILED");
}

fn a_waiter_takes_over_from_the_dead(cluster: &Cluster) {
    let (holder, waiters) = cluster.one_runs_and_others_wait(0);
    holder.signal(Signal::KILL);
    holder.wait().signalled(Signal::KILL);
    eventually("another runs it", || cluster.count() == 2);
    cluster.go();
    let mut results: Vec<_> = waiters.into_iter().map(|waiter| waiter.wait().ok().result()).collect();
    results.sort();
    assert_eq!((results.pop().as_deref(), cluster.count()), (Some("ran"), 2));
    assert!(results.iter().all(|result| result == "hit"), "{results:?}");
    assert_eq!(verdict(&cluster.users[0], "test:one"), "SUCCEEDED");
}

/// What of a cluster is gone does not matter: what was stored through it is there.
fn another_daemon_has_it_all(cluster: &mut Cluster) {
    cluster.go();
    assert_eq!(cluster.ask(0, 0).wait().ok().result(), "ran");
    cluster.daemons[0].kill();
    assert_eq!(cluster.ask(1, 0).wait().ok().result(), "hit");
    let seen = cluster.users[1].run(["cat", "one", "out/file"]).ok();
    assert_eq!(seen.out(), "made\n");
    cluster.daemons[0].restart();
    assert_eq!(cluster.ask(0, 0).wait().ok().result(), "hit");
}

#[test]
fn two_ask_at_once() {
    the_command_runs_once(&Cluster::one(2));
}

#[test]
fn ten_ask_at_once() {
    the_command_runs_once(&Cluster::one(10));
}

#[test]
fn those_who_wait_get_the_success() {
    waiters_get_the_success(&Cluster::one(4));
}

#[test]
fn those_who_wait_are_told_of_a_failure() {
    waiters_are_told_of_a_failure(&Cluster::one(4));
}

#[test]
fn one_who_waits_takes_over_from_the_dead() {
    a_waiter_takes_over_from_the_dead(&Cluster::one(4));
}

#[test]
fn postgres_two_ask_at_once() {
    the_command_runs_once(&Cluster::two_on_postgres(2));
}

#[test]
fn postgres_ten_ask_at_once() {
    the_command_runs_once(&Cluster::two_on_postgres(10));
}

#[test]
fn postgres_those_who_wait_are_told() {
    waiters_get_the_success(&Cluster::two_on_postgres(4));
    waiters_are_told_of_a_failure(&Cluster::two_on_postgres(4));
}

#[test]
fn postgres_one_who_waits_takes_over_from_the_dead() {
    a_waiter_takes_over_from_the_dead(&Cluster::two_on_postgres(4));
}

#[test]
fn postgres_another_daemon_has_it_all() {
    another_daemon_has_it_all(&mut Cluster::two_on_postgres(2));
}

#[test]
fn different_keys_run_side_by_side() {
    let world = World::new();
    let go = world.path("go");
    let ask = |n: usize| {
        let provender = world.provender.at(&world.path(&n.to_string()));
        // Each waits for all the others: they only end if they run at the same time.
        let script = format!("echo >>{0}; until [ $(wc -l <{0}) = 5 ]; do sleep 0.05; done; echo {n}", go.display());
        start(&provender, &["--name", "side"], &script)
    };
    let all: Vec<_> = (0..5).map(ask).collect();
    for (n, run) in all.into_iter().enumerate() {
        assert_eq!(run.wait().ok().out(), format!("{n}\n"));
    }
}
