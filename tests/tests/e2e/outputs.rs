//! `run`: whose outputs are whose, what is left after a failure, and how it ends when it is told to.

use provender_tests::child::eventually;
use rustix::process::Signal;

use crate::world::{World, key};

/// What is left in the working folder of provender's own.
fn leftovers(world: &World) -> Vec<String> {
    let names = std::fs::read_dir(world.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.starts_with(".provender")).collect()
}

#[test]
fn two_that_make_one_path_do_so_one_after_the_other() {
    let world = World::new();
    let make = |name: &str, script: &str| world.start(&["--name", name, "--out", "out"], script);
    let first = make("first", "echo 1 >out; until test -e go; do sleep 0.05; done");
    eventually("the first has begun", || world.read("out") == "1\n");
    let second = make("second", "echo 2 >out");
    eventually("the second waits", || second.stderr().contains("waiting for another provender run that makes"));
    assert_eq!(world.read("out"), "1\n");
    world.write("go", "");
    assert_eq!(first.wait().ok().result(), "ran");
    assert_eq!(second.wait().ok().result(), "ran");
    assert_eq!(world.cli(&["cat", "first", "out"]).ok().out(), "1\n");
    assert_eq!(world.cli(&["cat", "second", "out"]).ok().out(), "2\n");
}

#[test]
fn a_hit_waits_for_who_makes_its_path_and_a_signal_ends_that() {
    let world = World::new();
    let make = |name: &str, script: &str| world.start(&["--name", name, "--out", "out"], script);
    make("hit", "echo hit >out").wait().ok();
    let holder = make("holder", "echo made >out; until test -e go; do sleep 0.05; done");
    eventually("the holder has begun", || world.read("out") == "made\n");
    let waits = "waiting for another provender run that makes";
    for (script, signal) in [("echo hit >out", Signal::TERM), ("echo other >out", Signal::HUP)] {
        let waiter = make("waiter", script);
        eventually("it waits", || waiter.stderr().contains(waits));
        waiter.signal(signal);
        waiter.wait().code(128 + signal.as_raw()).says(&["interrupted by signal"]);
    }
    let failed = world.cli(&["--json", "history", "waiter", "--failed"]).ok().lines();
    assert_eq!(failed.len(), 1, "the one that had the lease gave it back: {failed:?}");
    world.write("go", "");
    assert_eq!(holder.wait().ok().result(), "ran");
    assert_eq!(world.cli(&["cat", "holder", "out"]).ok().out(), "made\n");
}

#[test]
fn a_run_inside_a_run_may_make_part_of_its_output() {
    let world = World::new();
    let provender = provender_tests::child::program("provender");
    let inner = |out: &str| format!("{} run --name inner --out {out} -- sh -c 'echo in >{out}'", provender.display());
    let script = format!("mkdir out; {} && {}", inner("out/part"), inner("beside"));
    assert_eq!(world.run(&["--name", "outer", "--out", "out", "--out", "beside"], &script).ok().result(), "ran");
    assert_eq!(world.cli(&["cat", "outer", "out/part"]).ok().out(), "in\n");
}

#[test]
fn after_a_failure_what_stood_there_is_back() {
    let world = World::new();
    world.write("out/old", "old");
    let run = |script: &str| world.run(&["--name", "fails", "--out", "out", "--out", "deep/new"], script);
    run("mkdir out; echo half >out/half; echo half >deep/new; exit 3").code(3);
    assert_eq!((world.read("out/old"), world.read("deep/new")), ("old".into(), "half\n".into()));
    assert!(!world.path("out/half").exists() && leftovers(&world).is_empty(), "{:?}", leftovers(&world));
    run("mkdir out; echo whole >out/whole; echo whole >deep/new").ok();
    assert!(world.path("out/whole").exists() && !world.path("out/old").exists());
    assert!(leftovers(&world).is_empty());
}

#[test]
fn what_is_piped_in_is_in_no_key_and_reaches_nobody() {
    let world = World::new();
    let program = provender_tests::child::program("provender");
    // It would hang if it read what never ends.
    let line = format!("yes | {} run --name pipe --out out -- sh -c 'wc -c >out'", program.display());
    world.run(&["--name", "around", "--out", "out"], &line).ok();
    assert_eq!(world.cli(&["cat", "pipe", "out"]).ok().out(), "0\n");
}

#[test]
fn a_failure_is_said_even_quietly() {
    let world = World::new();
    let run = |script: &str| world.cli(&["-q", "run", "--name", "quiet", "--out", "out", "--", "sh", "-c", script]);
    run("exit 3").code(3).says(&["provender: failed quiet", "exited 3"]);
    run("true").code(1).says(&["\"out\" is not there"]);
    assert_eq!(run("echo >out").ok().err(), "");
    world.cli(&["logs", "quiet"]).ok();
}

#[test]
fn waiters_outlive_a_restart_of_the_daemon() {
    let mut world = World::new();
    let args = ["--name", "one", "--key", "test:one", "--ttl", "60", "--out", "out"];
    let ask =
        |world: &World| world.start(&args, "echo x >>count; until test -e go; do sleep 0.05; done; echo made >out");
    let holder = ask(&world);
    eventually("the command runs", || world.count("count") == 1);
    let waiter = ask(&world);
    eventually("the other waits", || waiter.stderr().contains("waiting for exec:"));
    world.daemon.kill();
    eventually("it is noticed", || waiter.stderr().contains("asked again"));
    world.daemon.restart();
    world.write("go", "");
    assert_eq!((holder.wait().ok().result(), waiter.wait().ok().result()), ("ran".into(), "hit".into()));
    assert_eq!(world.count("count"), 1);
}

#[test]
fn a_hit_after_waiting_is_of_the_inputs_as_they_are_now() {
    let world = World::new();
    world.write("in", "1");
    let script = "cat in >out; echo x >>count; until test -e go; do sleep 0.05; done";
    let ask = || world.start(&["--name", "n", "--in", "in", "--out", "out"], script);
    let holder = world.provender.at(&world.root().join("other"));
    std::fs::write(world.root().join("other/in"), "1").unwrap();
    let holder = crate::world::start(&holder, &["--name", "n", "--in", "in", "--out", "out"], script);
    eventually("the command runs", || world.root().join("other/count").exists());
    let waiter = ask();
    eventually("the other waits", || waiter.stderr().contains("waiting for exec:"));
    world.write("in", "2");
    world.write("go", "");
    std::fs::write(world.root().join("other/go"), "").unwrap();
    assert_eq!(holder.wait().ok().result(), "ran");
    assert_eq!(waiter.wait().ok().result(), "ran");
    assert_eq!(world.read("out"), "2");
}

#[test]
fn names_of_inputs_and_variables_are_checked() {
    let world = World::new();
    world.write("src/a", "a");
    let run = |args: &[&str]| world.run(&[&["--name", "n", "--out", "out"], args].concat(), "cat src/a >out");
    let first = run(&["--in", "./src//a"]).ok();
    let second = run(&["--in", "src/a/"]);
    assert_eq!((first.result(), second.result(), key(&first)), ("ran".into(), "hit".into(), key(&second)));
    run(&["--in", "src", "--in", "./src/"]).code(2).says(&["twice"]);
    world.write("lib", "");
    run(&["--in", "lib", "--in", "lib=n"]).code(2).says(&["collide"]);
    for variable in ["FOO=bar", ""] {
        run(&["--env", variable]).code(2).says(&["it takes a variable's name"]);
        run(&["--secret-env", variable]).code(2).says(&["it takes a variable's name"]);
    }
    world.cli(&["history", "n", "-n", "0"]).code(2);
}

#[test]
fn the_best_effort_has_its_bounds() {
    let folder = crate::world::folder();
    let nobody = format!("unix:{}", folder.path().join("nobody.sock").display());
    let provender = provender_tests::provender::Provender::new(&folder.path().join("h"), folder.path(), &nobody);
    let run = ["run", "--best-effort", "--name", "n", "--in", "lib=n", "--", "sh", "-c", "echo ran"];
    assert_eq!(provender.run(run).code(125).says(&["lib cannot be checked out"]).out(), "");

    // A hit that the store cannot give any more: the command runs.
    let world = World::new();
    let run = |args: &[&str]| world.run(&[&["--name", "n", "--out", "out"], args].concat(), "seq 100000 >out");
    run(&[]).ok();
    let made = world.read("out");
    std::fs::remove_file(world.path("out")).unwrap();
    let script = "find \"$1\" -type f -size 588895c -exec sh -c 'printf X | dd of=\"$1\" conv=notrunc' - {} ';'";
    let data = world.data();
    let spoilt = std::process::Command::new("sh").args(["-c", script, "-"]).arg(data).status();
    assert!(spoilt.unwrap().success());
    run(&["--best-effort"]).ok().says(&["running the command without provender"]);
    assert_eq!(world.read("out"), made);
}

#[test]
fn what_was_only_tried_can_be_looked_at() {
    let world = World::new();
    world.run(&["--name", "tried", "--out", "out"], "echo why; exit 3").code(3);
    assert_eq!(world.cli(&["logs", "tried"]).ok().out(), "why\n");
    let shown = world.cli(&["show", "tried"]).ok().says(&["no success", "exec:"]);
    assert!(shown.out().contains("\noutcome    exited 3 after"), "{}", shown.out());
    assert_eq!(shown.out().matches("\ncommand ").count(), 1);
    world.cli(&["get", "tried", "no/such/folder"]).code(1);
    world.run(&["--name", "made", "--out", "out"], "echo >out").ok();
    world.cli(&["get", "made", "no/such/folder"]).code(1).says(&["does not exist", "no/such"]);
}

#[test]
fn a_get_that_is_interrupted_leaves_nothing() {
    let world = World::new();
    world.write("large", vec![7; 400_000_000]);
    world.cli(&["put", "large", "--name", "large"]).ok();
    for _ in 0..5 {
        let get = world.provender.start(["get", "large", "there"]);
        eventually("it has begun", || !leftovers(&world).is_empty() || world.path("there").exists());
        let signalled = rustix::process::kill_process(get.pid(), Signal::TERM);
        let ran = get.wait();
        assert!(leftovers(&world).is_empty(), "{:?}", leftovers(&world));
        if signalled.is_ok() && ran.status.code() == Some(143) {
            assert!(!world.path("there").exists());
            return;
        }
        _ = std::fs::remove_dir_all(world.path("there"));
    }
    panic!("it was always done before the signal");
}

#[test]
fn a_full_disk_is_told_from_a_reader_that_left() {
    let world = World::new();
    world.run(&["--name", "n", "--out", "out"], "echo hello >out").ok();
    let program = provender_tests::child::program("provender");
    let sh = |rest: &str| {
        let line = format!("{} {rest}", program.display());
        world.run(&["--name", "around", "--key", &format!("t:{}", rest.len())], &line)
    };
    sh("cat n out >/dev/full").code(125).says(&["cannot write to standard output"]);
    sh("cat n out | true").ok();
}
