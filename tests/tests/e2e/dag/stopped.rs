//! Runs that are stopped: by `kill -9`, by signals, by a daemon that goes.

use provender_tests::child::{Running, eventually, processes};
use rustix::process::Signal;

use super::file::Dag;
use super::{COUNTED, Tasks, ends, reason, sums};

/// A task that writes, waits unless `go` is there, and writes the rest; one that depends on it; one that does not.
fn held(sleep: &str) -> Dag {
    let command = format!("{COUNTED} echo part >output/made; test -e go || sleep {sleep}; echo whole >output/made");
    let next = format!("{COUNTED} cp inputs/held/made output/made");
    Dag::default().task("held", &command, &[]).task("next", &next, &["held"])
}

fn started(tasks: &Tasks, run: &mut Running, sleep: &str) {
    eventually("the command has started", || {
        assert!(run.ended().is_none(), "{}", run.stderr());
        tasks.count() > 0 && !processes("sleep", sleep).is_empty()
    });
}

fn all_dead(sleep: &str) {
    eventually("the command's processes are dead", || {
        processes("sleep", sleep).is_empty() && processes("sh", sleep).is_empty()
    });
}

#[test]
fn a_run_that_was_killed_leaves_no_success_and_no_orphan() {
    let (tasks, sleep) = (Tasks::new(), format!("8650{}", std::process::id()));
    let dag = held(&sleep);
    let mut run = tasks.start(&dag, &["--ttl", "1"]);
    started(&tasks, &mut run, &sleep);
    run.signal(Signal::KILL);
    run.wait().signalled(Signal::KILL);
    all_dead(&sleep);
    assert_ne!(tasks.world.verdict(&dag.key("held")), "SUCCEEDED");
    eventually("the lease expires", || tasks.world.verdict(&dag.key("held")) == "ABANDONED");
    assert_eq!(tasks.world.verdict(&dag.key("next")), "UNKNOWN");
    tasks.world.write("src/go", "");
    assert_eq!((sums(&tasks.run(&dag, &[]).ok()), tasks.count()), ([2, 0, 0, 0], 3));
    tasks.world.cli(&["get", "next"]).ok();
    assert_eq!(tasks.world.read("next/made"), "whole\n");
}

#[test]
fn an_interrupt_reaches_all_commands_and_is_a_failure_at_once() {
    let tasks = Tasks::new();
    let script = "trap 'echo got; exit 42' TERM INT; echo a >output/a; echo x >>$COUNT; sleep 8651 & wait";
    let dag = Dag::default().task("one", &format!(": 1; {script}"), &[]).task("two", &format!(": 2; {script}"), &[]);
    let dag = dag.task("wait", COUNTED, &[]).task("after", COUNTED, &["one"]);
    for (n, signal) in [Signal::INT, Signal::TERM].into_iter().enumerate() {
        let run = tasks.start(&dag, &["-j", "2", "--ttl", "3600"]);
        eventually("two commands run", || tasks.count() == 2 * (n + 1));
        run.signal(signal);
        let ran = run.wait().code(128 + signal.as_raw()).says(&["interrupted by signal"]);
        let ends = ends(&ran);
        let expected = [("after", "skipped"), ("one", "failed"), ("two", "failed"), ("wait", "skipped")];
        assert!(expected.iter().all(|(name, end)| ends[*name] == *end), "{ends:?}");
        assert!(reason(&ran, "one").contains("interrupted by signal") && reason(&ran, "one").contains("exited 42"));
        for name in ["one", "two"] {
            assert_eq!(tasks.world.verdict(&dag.key(name)), "FAILED");
            assert_eq!(tasks.world.cli(&["logs", name]).ok().out(), "got\n");
        }
        assert_eq!(tasks.world.verdict(&dag.key("wait")), "UNKNOWN");
        tasks.nothing_left();
    }
}

#[test]
fn without_a_daemon_nothing_runs() {
    let (mut tasks, dag) = (Tasks::new(), held("0"));
    tasks.world.daemon.stop();
    tasks.run(&dag, &[]).code(125).says(&["cannot reach provenderd"]);
    assert_eq!(tasks.count(), 0);
}

#[test]
fn a_holder_elsewhere_that_fails_is_a_failure_here() {
    let tasks = Tasks::new();
    let dag = Dag::default().task(
        "shared",
        &format!("{COUNTED} while ! test -e $COUNT.stop; do sleep 0.05; done; exit 5"),
        &[],
    );
    let free = "echo >$COUNT.free; echo >output/x";
    let dag = dag.task("next", COUNTED, &["shared"]).task("then", free, &[]);
    let mut first = tasks.start(&dag, &["-j", "1"]);
    eventually("it runs", || {
        assert!(first.ended().is_none(), "{}", first.stderr());
        tasks.count() == 1
    });
    let second = tasks.start(&dag, &["-j", "1"]);
    eventually("the second one waits", || second.stderr().contains("waiting for exec:"));
    eventually("and does something else meanwhile", || tasks.world.path("count.free").exists());
    tasks.world.write("count.stop", "");
    let sums: Vec<_> = [first, second].into_iter().map(|run| sums(&run.wait().code(1))).collect();
    assert_eq!((sums, tasks.count()), (vec![[0, 1, 1, 1], [1, 0, 1, 1]], 1));
}
