//! Why a key is not SUCCEEDED: each answer made for real, and what differs from the nearest success.

use std::fs;

use provender_tests::child::{Running, eventually, string};
use rustix::process::Signal;
use serde_json::Value;

use crate::world::{World, key};

/// What `why` says, as text.
#[track_caller]
fn why(world: &World, of: &str) -> String {
    world.cli(&["why", of]).ok().out()
}

#[track_caller]
fn document(world: &World, of: &str) -> Value {
    serde_json::from_str(&world.cli(&["--json", "why", of]).ok().out()).unwrap()
}

/// `train`, begun with this learning rate in its environment: with some it fails, or never ends.
fn train(world: &World, rate: &str) -> Running {
    let provender = world.provender.env("LR", rate);
    let script = "case $LR in 0.2) exit 3;; 0.3) sleep 60;; esac";
    crate::world::start(&provender, &["--name", "train", "--env", "LR", "--ttl", "1"], script)
}

#[test]
fn what_never_ran_is_compared_with_the_nearest_success() {
    let world = World::new();
    assert_eq!(why(&world, "run:00"), "run:00 never ran, and what it stands for is not known\n");
    world.cli(&["why", "train"]).code(1).says(&["train is not in the store"]);
    // The nearest is the one that agrees most, and not the newest.
    world.write("data", "1");
    let run = |env: &[(&str, &str)], more: &[&str]| {
        let provender = env.iter().fold(world.provender.clone(), |one, (name, value)| one.env(name, value));
        let args = [&["--name", "train", "--env", "A", "--env", "B", "--env", "C", "--in", "data"][..], more].concat();
        crate::world::start(&provender, &args, "true").wait()
    };
    let near = run(&[("A", "1"), ("B", "1"), ("C", "1")], &[]).ok().record();
    run(&[("A", "2"), ("B", "2"), ("C", "1")], &[]).ok();
    run(&[("A", "3"), ("B", "3"), ("C", "3")], &[]).ok();
    let told = run(&[("A", "1"), ("B", "1"), ("C", "9")], &["--why"]).ok();
    let document: Value =
        told.err().lines().find_map(|line| serde_json::from_str(line).ok()).expect("told before it ran");
    assert_eq!((&document["verdict"], &document["nearest"]["execution"]), (&"UNKNOWN".into(), &near["execution"]));
    let causes = document["causes"].as_array().unwrap();
    assert_eq!(causes.len(), 1, "{causes:?}");
    assert_eq!(
        (&causes[0]["field"], &causes[0]["old"], &causes[0]["new"]),
        (&"env.C".into(), &"1".into(), &"9".into())
    );
    // A hit has nothing to explain.
    let hit = run(&[("A", "1"), ("B", "1"), ("C", "9")], &["--why"]).ok();
    assert_eq!((hit.result().as_str(), hit.err().lines().count()), ("hit", 1));

    world.write("data", "22");
    let provender = ["A", "B"].iter().fold(world.provender.clone(), |one, name| one.env(name, "1")).env("C", "9");
    let args = ["run", "--why", "--name", "train", "--env", "A", "--env", "B", "--env", "C", "--in", "data", "--"];
    let text = provender.run(args.iter().chain(&["sh", "-c", "true"])).ok().err();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "provender: train never ran like this");
    assert!(
        lines[1].starts_with("provender:   nearest success: exec:") && lines[1].ends_with("this differs in"),
        "{text}"
    );
    assert!(lines[2].starts_with("provender:     train/inputs/data: 1 B -> 2 B"), "{text}");
    assert!(lines[3].starts_with("provender: ran train "), "{text}");
}

#[test]
fn what_runs_failed_or_was_given_up_says_who_and_how_often() {
    let world = World::new();
    train(&world, "0.1").wait().ok();
    let failed = key(&train(&world, "0.2").wait().code(3));
    assert!(why(&world, &failed).starts_with("train failed at 20"), "{}", why(&world, &failed));
    for _ in 0..2 {
        train(&world, "0.2").wait().code(3);
    }
    let text = why(&world, &failed);
    assert!(text.starts_with("train failed (the last of 3 attempts without a success) at 20"), "{text}");
    assert!(
        text.contains(": the command exited 3 (exec:") && text.contains("\n    train.env.LR: 0.1 -> 0.2\n"),
        "{text}"
    );
    assert_eq!(why(&world, "train"), text, "a name stands for what was last done under it");
    let told = document(&world, &failed);
    assert_eq!(
        (&told["attempts"], &told["rule"], &told["causes"][0]["field"]),
        (&3.into(), &"exit_codes".into(), &"env.LR".into())
    );

    let running = train(&world, "0.3");
    let slow = || string(&world.cli(&["--json", "history", "train", "-n", "1"]).ok().lines()[0]["key"]);
    eventually("it runs", || slow() != failed && world.verdict(&slow()) == "RUNNING");
    let text = why(&world, &slow());
    assert!(text.starts_with("train is running: ") && text.contains(" has been at it since 20"), "{text}");
    running.signal(Signal::KILL);
    running.wait().signalled(Signal::KILL);
    eventually("its lease runs out", || world.verdict(&slow()) == "ABANDONED");
    let text = why(&world, &slow());
    assert!(text.starts_with("train was abandoned at 20") && text.contains("not heard of for 1 s"), "{text}");
}

#[test]
fn what_was_taken_away_says_by_whom_when_and_what() {
    let world = World::new();
    let big = |n: u8| format!("head -c 100000 /dev/zero | tr '\\0' {n} >{n}");
    let make = |key: &str| {
        let args = ["--name", "made", "--key", key, "--out", "1", "--out", "2"];
        world.run(&args, &format!("{}; {}", big(1), big(2))).ok()
    };
    make("t:a");
    let text = why(&world, "t:a");
    assert!(text.starts_with("made succeeded at 20") && text.lines().count() == 1, "{text}");
    world.cli(&["invalidate", "t:a", "--reason", "bad compiler"]).ok();
    let text = why(&world, "t:a");
    assert!(text.starts_with("made was invalidated by ") && text.contains("bad compiler"), "{text}");
    assert_eq!(why(&world, "made"), text);
    assert_eq!(document(&world, "t:a")["last"]["key"], "t:a");
    make("t:a");
    world.cli(&["evict", "t:a", "--reason", "to make room"]).ok();
    let text = why(&world, "t:a");
    assert!(text.starts_with("made was evicted by ") && text.contains("to make room (rule: "), "{text}");
    // By its execution both can be asked for, also when it is no success any more.
    let made = format!("exec:{}", string(&make("t:a").record()["execution"]));
    let mut files = Vec::new();
    let mut folders = vec![world.data().join("blobs/objects")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.iter().for_each(|file| fs::remove_file(file).unwrap());
    for path in ["1", "2"] {
        assert!(!world.cli(&["cat", &made, path]).status.success());
    }
    let text = why(&world, "t:a");
    let lost = text.lines().filter(|line| line.starts_with("  lost: blob:")).count();
    assert!(text.starts_with("made is lost: ") && lost == 2, "{text}");
    let told = document(&world, "t:a");
    assert_eq!(told["lost"].as_array().unwrap().len(), 2);
    let hash = string(&told["lost"][0]["hash"]);
    assert!(text.contains(&hash), "{text}");
}
