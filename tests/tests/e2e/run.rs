//! `run`: what it makes, what it says, and what counts as success.

use std::os::unix::fs::PermissionsExt;

use crate::world::{World, key, odd_folder, snapshot};

#[test]
fn a_hit_restores_all_that_the_command_wrote() {
    let world = World::new();
    odd_folder(&world.path("odd"));
    let script = "echo x >>count; cp -a odd out; echo made >single; echo to-out; echo to-err >&2";
    let run = || world.run(&["--name", "odd", "--in", "odd", "--out", "out", "--out", "single"], script).ok();
    assert_eq!(run().result(), "ran");
    let made = snapshot(&world.path("out"));
    assert_eq!(made, snapshot(&world.path("odd")));

    std::fs::remove_dir_all(world.path("out")).unwrap();
    std::fs::remove_file(world.path("single")).unwrap();
    let hit = run();
    assert_eq!(hit.result(), "hit");
    assert_eq!(snapshot(&world.path("out")), made);
    assert_eq!(world.read("single"), "made\n");
    assert_eq!(hit.out(), "to-out\n", "standard output is replayed there");
    assert!(hit.err().starts_with("to-err\n"), "{}", hit.err());
    let mode = |path: &str| world.path(path).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("out/tool"), mode("out/nothing")), (0o755, 0o644));

    // What stands there already is left alone; what does not belong there goes.
    let before = world.path("single").metadata().unwrap().modified().unwrap();
    assert_eq!(run().result(), "hit");
    assert_eq!(world.path("single").metadata().unwrap().modified().unwrap(), before);
    world.write("out/stray", "");
    world.write("single", "tampered");
    assert_eq!(run().result(), "hit");
    assert_eq!((snapshot(&world.path("out")), world.read("single")), (made, "made\n".into()));
    assert_eq!(world.count("count"), 1);
}

#[test]
fn it_says_what_it_did_for_people() {
    let world = World::new();
    let run = |script: &str| world.cli(&["run", "--name", "say", "--out", "out", "--", "sh", "-c", script]);
    run("echo a >out").ok().says(&["provender: ran say exec:"]);
    run("echo a >out").ok().says(&["provender: hit say exec:"]);
    run("exit 3").code(3).says(&["provender: failed say exec:", "exited 3"]);
    let quiet = world.cli(&["--quiet", "run", "--name", "say", "--", "sh", "-c", "echo unheard; echo too >&2"]).ok();
    assert_eq!((quiet.out(), quiet.err()), (String::new(), String::new()));
    assert_eq!(world.cli(&["logs", "say"]).ok().out(), "unheard\n");
}

#[test]
fn an_output_before_exit_1_is_no_success() {
    let world = World::new();
    for n in 1..=2 {
        let ran = world.run(&["--name", "bad", "--out", "out"], "echo x >>count; echo made >out; exit 1").code(1);
        assert_eq!((ran.result(), world.count("count")), ("failed".into(), n));
        assert_eq!(world.verdict(&key(&ran)), "FAILED");
    }
    assert_eq!(world.cli(&["--json", "history", "bad", "--failed"]).ok().lines().len(), 2);
    world.cli(&["get", "bad", "there"]).code(1);
}

#[test]
fn exit_0_without_a_declared_output_is_failed() {
    let world = World::new();
    let run = || world.run(&["--name", "none", "--out", "made", "--out", "the out"], "echo x >>count; echo a >made");
    assert!(run().code(1).record()["reason"].as_str().unwrap().contains("\"the out\""));
    world.write("the out", "a leftover");
    world.write("made", "before");
    let ran = run().code(1);
    assert!(ran.record()["reason"].as_str().unwrap().contains("\"the out\""), "{}", ran.err());
    assert_eq!((ran.result(), world.verdict(&key(&ran))), ("failed".into(), "FAILED".into()));
    assert_eq!((world.read("the out"), world.read("made")), ("a leftover".into(), "before".into()), "both are back");
    assert_eq!(world.count("count"), 2);
    let left: Vec<_> = std::fs::read_dir(world.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "nothing else is left: {left:?}");
}

#[test]
fn exit_codes_are_the_commands_own() {
    let world = World::new();
    world.write("plain", "no program");
    let run = |words: &[&str]| world.provender.run(["--json", "run", "--name", "code", "--"].iter().chain(words));
    run(&["./plain"]).code(126).says(&["plain"]);
    run(&["no-such-program"]).code(127).says(&["no-such-program"]);
    run(&["sh", "-c", "exit 77"]).code(77);
    let killed = run(&["sh", "-c", "kill -TERM $$"]).code(128 + 15);
    assert_eq!(killed.record()["exit"]["signal"], 15);
    assert!(world.cli(&["--json", "history", "code"]).ok().lines().iter().all(|line| line["verdict"] == "FAILED"));
}

#[test]
fn a_key_of_ones_own_has_one_record_and_many_names() {
    let world = World::new();
    let run = |name: &str, script: &str| world.run(&["--name", name, "--key", "mine:1", "--out", "out"], script).ok();
    assert_eq!(run("one", "echo first >out").result(), "ran");
    assert_eq!(run("two", "echo second >out").result(), "hit");
    assert_eq!(world.read("out"), "first\n");
    for reference in ["one", "two", "mine:1"] {
        assert_eq!(world.cli(&["cat", reference, "out"]).ok().out(), "first\n", "{reference}");
        assert_eq!(world.verdict(reference), "SUCCEEDED");
    }
    let execution = |name| world.cli(&["--json", "show", name]).ok().json()["record"]["execution"].clone();
    assert_eq!(execution("one"), execution("two"));
    let names = world.cli(&["--json", "ls"]).ok().lines();
    let names: Vec<_> = names.iter().map(|line| (line["name"].as_str().unwrap(), &line["latest"]["key"])).collect();
    assert_eq!(names, [("one", &"mine:1".into()), ("two", &"mine:1".into())]);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_runs() {
    let world = World::new();
    world.write("src/a", "a");
    let run = |args: &[&str]| world.run(&[&["--name", "bad"], args].concat(), "echo x >>count");
    for (args, word) in [
        (&["--out", "/abs"][..], "relative"),
        (&["--out", "../up"], "working folder"),
        (&["--out", "a", "--out", "a/b"], "overlap"),
        (&["--in", "L=exec:12"], "--in L"),
        (&["--name", "a//b"], "name"),
        (&["--key", "nokey"], "key"),
        (&["--ttl", "0"], "1 to 3600"),
        (&["--in", "src", "--out", "src/gen"], "overlap"),
        (&["--in", "src/a", "--out", "src"], "overlap"),
        (&["--in", "src", "--in", "src"], "twice"),
    ] {
        run(args).code(2).says(&[word]);
    }
    for (args, word) in
        [(&["--in", "missing"][..], "missing"), (&["--in", "L=nothing/of/that/name"], "nothing/of/that/name")]
    {
        run(args).code(125).says(&[word]);
    }
    assert_eq!(world.count("count"), 0);
    assert!(world.cli(&["--json", "ls"]).ok().lines().is_empty());
}
