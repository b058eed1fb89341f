//! `kill -9` of each part, signals, and stops: never a success that was none, and nothing acknowledged is lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use provender_tests::child::{Running, eventually, processes, string};
use rustix::process::{Signal, kill_process};

use crate::world::{World, verdict};

/// A command that is held up until `go` is there, by a sleep that only this test has.
struct Held {
    run: Running,
    sleep: String,
}

const HELD: &[&str] = &["--name", "held", "--key", "test:held", "--out", "out"];

/// What it does: part of its work, then it waits, then the rest.
fn script(sleep: &str) -> String {
    format!("echo x >>count; echo part >out; echo >started; test -e go || sleep {sleep}; echo whole >out")
}

/// Starts it, under a lease of so many seconds.
fn hold(world: &World, ttl: &str, more: &[&str]) -> Held {
    let sleep = format!("8640{}", std::process::id());
    let mut run = world.start(&[HELD, &["--ttl", ttl], more].concat(), &script(&sleep));
    eventually("the command has started", || {
        assert!(run.ended().is_none(), "{}", run.stderr());
        world.path("started").exists() && !processes("sleep", &sleep).is_empty()
    });
    Held { run, sleep }
}

impl Held {
    fn all_dead(&self) {
        eventually("the command's processes are dead", || {
            processes("sleep", &self.sleep).is_empty() && processes("sh", &self.sleep).is_empty()
        });
    }

    /// Lets the command go on; it thinks that its sleep is over.
    fn release(&self) {
        for pid in processes("sleep", &self.sleep) {
            kill_process(pid, Signal::KILL).unwrap();
        }
    }
}

/// The next run runs the command, to its end, and that counts.
fn the_next_run_runs(world: &World, sleep: &str) {
    world.write("go", "");
    let again = world.run(HELD, &script(sleep)).ok();
    assert_eq!((again.result(), world.count("count"), world.read("out")), ("ran".into(), 2, "whole\n".into()));
    assert_eq!(world.verdict("test:held"), "SUCCEEDED");
}

#[test]
fn the_command_is_killed() {
    let world = World::new();
    let held = hold(&world, "1", &[]);
    assert_eq!(world.verdict("test:held"), "RUNNING");
    kill_process(processes("sh", &held.sleep)[0], Signal::KILL).unwrap();
    held.all_dead();
    let Held { run, sleep } = held;
    let ran = run.wait().code(128 + 9);
    assert_eq!((ran.result(), world.verdict("test:held")), ("failed".into(), "FAILED".into()));
    the_next_run_runs(&world, &sleep);
}

#[test]
fn provender_is_killed() {
    let world = World::new();
    let held = hold(&world, "1", &[]);
    held.run.signal(Signal::KILL);
    held.all_dead();
    assert_ne!(world.verdict("test:held"), "SUCCEEDED");
    let Held { run, sleep } = held;
    run.wait().signalled(Signal::KILL);
    eventually("the lease expires", || world.verdict("test:held") == "ABANDONED");
    assert_eq!(world.cli(&["--json", "ls", "--failed"]).ok().lines().len(), 1);
    the_next_run_runs(&world, &sleep);
}

#[test]
fn the_guards_are_killed() {
    let world = World::new();
    let held = hold(&world, "1", &[]);
    let guards = processes("/proc/self/exe", &held.sleep);
    assert!(guards.len() >= 2, "{guards:?}");
    kill_process(guards[0], Signal::KILL).unwrap();
    held.all_dead();
    let Held { run, sleep } = held;
    assert_ne!(run.wait().status.code(), Some(0));
    assert_eq!(world.verdict("test:held"), "FAILED");
    the_next_run_runs(&world, &sleep);
}

#[test]
fn provenderd_is_killed_and_stays_away() {
    for (more, code) in [(&[][..], 125), (&["--best-effort"], 0)] {
        let mut world = World::new();
        let held = hold(&world, "1", more);
        world.daemon.kill();
        held.release();
        let Held { run, sleep } = held;
        let ran = run.wait().code(code).says(&["cannot reach provenderd"]);
        assert_eq!((ran.result(), world.read("out")), ("unrecorded".into(), "whole\n".into()));
        world.daemon.restart();
        assert_ne!(world.verdict("test:held"), "SUCCEEDED");
        the_next_run_runs(&world, &sleep);
    }
}

/// Nobody can beat to a daemon that is stopped, as by a paused virtual machine.
#[test]
fn provenderd_is_stopped_for_longer_than_a_lease_lasts() {
    for _ in 0..3 {
        let world = World::new();
        let held = hold(&world, "2", &[]);
        world.daemon.signal(Signal::STOP);
        std::thread::sleep(Duration::from_secs(4));
        world.daemon.signal(Signal::CONT);
        assert_eq!(world.verdict("test:held"), "RUNNING");
        held.release();
        let Held { run, sleep: _ } = held;
        assert_eq!(run.wait().ok().result(), "ran");
        assert_eq!(world.verdict("test:held"), "SUCCEEDED");
    }
}

#[test]
fn provenderd_is_killed_and_comes_back_in_time() {
    let mut world = World::new();
    let held = hold(&world, "60", &[]);
    world.daemon.kill();
    world.daemon.restart();
    assert_eq!(world.verdict("test:held"), "RUNNING");
    held.release();
    assert_eq!(held.run.wait().ok().result(), "ran");
    assert_eq!(world.verdict("test:held"), "SUCCEEDED");
}

#[test]
fn a_late_executor_that_was_superseded_changes_nothing() {
    let world = World::new();
    let held = hold(&world, "1", &[]);
    // It hangs, as on a machine that sleeps; another takes the key over and succeeds.
    held.run.signal(Signal::STOP);
    world.write("go", "");
    let other = world.provender.at(&world.root().join("other"));
    std::fs::write(world.root().join("other/go"), "").unwrap();
    let ran = crate::world::start(&other, HELD, &script(&held.sleep)).wait().ok();
    assert_eq!(ran.result(), "ran");
    let record = || world.cli(&["--json", "show", "test:held"]).ok().json()["record"].clone();
    let before = record();
    held.run.signal(Signal::CONT);
    held.all_dead();
    held.run.wait().code(125).says(&["lease"]);
    assert_eq!((record(), verdict(&other, "test:held")), (before, "SUCCEEDED".into()));
}

#[test]
fn an_interrupt_reaches_the_command_and_is_a_failure_at_once() {
    let world = World::new();
    let script = "trap 'echo got >got; exit 42' INT; echo >started; sleep 8641 & wait";
    let run = world.start(&["--name", "int", "--key", "test:int", "--ttl", "3600"], script);
    eventually("the command has started", || world.path("started").exists());
    run.signal(Signal::INT);
    let ran = run.wait().code(42);
    assert_eq!((world.read("got"), ran.result()), ("got\n".into(), "failed".into()));
    assert!(string(&ran.record()["reason"]).contains("signal 2"), "{}", ran.err());
    assert_eq!(world.verdict("test:int"), "FAILED", "though its lease would last for an hour");
}

#[test]
fn an_interrupt_ends_who_waits_and_not_who_runs() {
    let world = World::new();
    let held = hold(&world, "60", &[]);
    let waiter = world.start(HELD, &script(&held.sleep));
    eventually("it waits", || waiter.stderr().contains("waiting for exec:"));
    waiter.signal(Signal::INT);
    waiter.wait().code(128 + 2).says(&["interrupted by signal 2"]);
    assert_eq!(world.verdict("test:held"), "RUNNING");
    held.release();
    assert_eq!(held.run.wait().ok().result(), "ran");
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let mut world = World::new();
    let done = AtomicUsize::new(0);
    let small = std::process::id() as usize;
    let content = |n: usize| -> Vec<u8> {
        let sizes = [0, 1, 100, 40_000, 300_000];
        (0..sizes[n % sizes.len()]).map(|at| ((at * 31) ^ (at >> 8) ^ n ^ small) as u8).collect()
    };
    let work = |name: &str| -> BTreeMap<String, usize> {
        let mut acknowledged = BTreeMap::new();
        for n in 0.. {
            let (file, name) = (format!("{name}{n}"), format!("{name}/{n}"));
            world.write(&file, content(n));
            let words: &[&str] = match n % 2 {
                0 => &["put", &file, "--name", &name],
                _ => &[
                    "run",
                    "--name",
                    &name,
                    "--in",
                    &file,
                    "--out",
                    "out",
                    "--",
                    "sh",
                    "-c",
                    "mkdir out; cp $0 out/",
                    &file,
                ],
            };
            // Each its own folder, since they make the same output.
            let provender = world.provender.at(&world.path(&format!("of-{file}")));
            std::fs::rename(world.path(&file), world.path(&format!("of-{file}/{file}"))).unwrap();
            if provender.run(words).status.code() != Some(0) {
                return acknowledged;
            }
            acknowledged.insert(name, n);
            done.fetch_add(1, Ordering::SeqCst);
        }
        acknowledged
    };
    let acknowledged: Vec<_> = std::thread::scope(|scope| {
        let workers = ["a", "b"].map(|name| scope.spawn(move || work(name)));
        eventually("some are stored", || done.load(Ordering::SeqCst) >= 20);
        let random = getrandom_u64() % 300;
        std::thread::sleep(Duration::from_millis(random));
        kill_process(world.daemon.pid(), Signal::KILL).unwrap();
        workers.map(|worker| worker.join().unwrap()).into_iter().flatten().collect()
    });
    world.daemon.wait();
    world.daemon.restart();
    assert!(acknowledged.len() >= 20);
    for (name, n) in acknowledged {
        let file = name.replace('/', "");
        let path = if n % 2 == 0 { file } else { format!("out/{file}") };
        assert!(world.cli(&["cat", &name, &path]).ok().stdout == content(n), "{name}");
        assert_eq!(world.verdict(&name), "SUCCEEDED");
    }
}

fn getrandom_u64() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    u64::from_ne_bytes(bytes)
}

#[test]
fn a_stop_drains_and_a_run_outlives_a_restart() {
    let mut world = World::new();
    let held = hold(&world, "60", &[]);
    world.daemon.stop();
    assert!(!world.daemon.socket().exists());
    for message in ["draining", "stopped"] {
        world.daemon.logged(message);
    }
    held.release();
    world.daemon.restart();
    assert_eq!(held.run.wait().ok().result(), "ran");
    assert_eq!(world.verdict("held"), "SUCCEEDED");
}

#[test]
fn a_stop_sends_waiters_away() {
    let mut world = World::new();
    let held = hold(&world, "60", &[]);
    let waiter = world.start(HELD, &script(&held.sleep));
    eventually("it waits", || waiter.stderr().contains("waiting for exec:"));
    world.daemon.stop();
    waiter.wait().code(125).says(&["stop"]);
    world.daemon.restart();
    held.release();
    assert_eq!(held.run.wait().ok().result(), "ran");
}
