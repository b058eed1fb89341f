//! `ls --where`, `invalidate --where` and `evict --where`: what is found by what specs, people and results say.

use provender_tests::child::{Ran, string};
use provender_tests::provender::Provender;

use crate::cluster::Cluster;
use crate::dag::file::{Dag, dict, list, text};
use crate::world::{World, start};

/// The names of the executions that conditions find, sorted, each as often as it is found.
#[track_caller]
fn names(provender: &Provender, args: &[&str]) -> Vec<String> {
    let lines = ls(provender, args).ok().lines();
    let mut names: Vec<_> = lines.iter().map(|line| string(&line["name"])).collect();
    names.sort();
    names
}

fn ls(provender: &Provender, args: &[&str]) -> Ran {
    provender.run(["--json", "ls"].iter().chain(args))
}

/// Runs a command that measures its accuracy.
#[track_caller]
fn train(provender: &Provender, name: &str, rate: &str, accuracy: &str) {
    let provender = provender.clone().env("RATE", rate).env("ACCURACY", accuracy);
    let script =
        r#"echo "{\"eval\": {\"accuracy\": $ACCURACY}, \"rate\": \"$RATE\"}" >"$PROVENDER_METRICS"; echo "$RATE" >out"#;
    let args = ["--name", name, "--out", "out", "--env", "RATE", "--label", "team=vision"];
    let ran = start(&provender, &args, script).wait();
    assert_eq!(ran.ok().result(), "ran");
}

/// What is found on any engine.
fn searches(cluster: &Cluster) {
    let (a, b) = (&cluster.users[0], &cluster.users[1]);
    train(a, "train/small", "0.01", "0.93");
    train(b, "train/large", "1e-3", "0.95");
    start(a, &["--name", "other"], "exit 3").wait().code(3);
    for user in [a, b] {
        for (conditions, expected) in [
            (&["--where", "env.RATE=0.010"][..], &["train/small"][..]),
            (&["--where", "env.RATE<0.005"], &["train/large"]),
            (&["--where", "env.RATE=0.0001..0.1"], &["train/large", "train/small"]),
            (&["--where", "metrics.eval.accuracy>0.93"], &["train/large"]),
            (&["--where", "metrics.rate=0.01"], &["train/small"]),
            (&["--where", "name=train/*", "--where", "labels.team=vis*"], &["train/large", "train/small"]),
            (&["train/s", "--where", "labels.team=vision"], &["train/small"]),
            (&["--where", "exit.code=3"], &["other"]),
            (&["--failed", "--where", "began>2020"], &["other"]),
            (&["--where", "verdict=FAILED", "--where", "name=train/*"], &[]),
            (&["--where", "program=exit"], &["other"]),
            (&["--where", "labels.team=speech"], &[]),
        ] {
            assert_eq!(names(user, conditions), expected, "{conditions:?}");
        }
    }
    let execution = string(&ls(a, &["train/small", "--where", "verdict=SUCCEEDED"]).lines()[0]["execution"]);
    let reference = format!("exec:{execution}");
    b.run(["annotate", &reference, "--label", "team=speech", "--label", "best="]).ok();
    assert_eq!(names(a, &["--where", "labels.team=vision"]), ["train/large"]);
    assert_eq!(names(a, &["--where", "labels.team=speech", "--where", "labels.best=*"]), ["train/small"]);
}

#[test]
fn what_was_run_is_found_by_what_is_known_of_it() {
    searches(&Cluster::one(2));
}

#[test]
fn postgres_what_was_run_is_found_by_what_is_known_of_it() {
    searches(&Cluster::two_on_postgres(2));
}

#[test]
fn a_file_of_à_la_mode_is_found_in_its_words_and_in_those_of_its_spec() {
    let world = World::new();
    let opt = dict([("lr", text("0.01")), ("betas", list([text("0.9"), text("x")]))]);
    let load = [
        ("command", text("echo words >output/text")),
        ("image", text("train:1")),
        ("sha", text("7890123")),
        ("model", dict([("opt", opt)])),
    ];
    let file = Dag::default().encoded("load", &load, &[]).task("use", "cat inputs/load/text >output/text", &["load"]);
    world.write("file.dag", file.bytes());
    world.cli(&["dag", "run", "file.dag", "--prefix", "p/"]).ok();
    for condition in [
        "sha=7890*",
        "code_version=7890123",
        "model.opt.lr=1e-2",
        "params.model.opt.lr=0.001..0.01",
        "model.opt.betas=x",
        "model.opt.betas>=0.9",
        "image=train*",
        "command=echo words*",
        "program=echo",
    ] {
        assert_eq!(names(&world.provender, &["--where", condition]), ["p/load"], "{condition}");
    }
    let key = string(&ls(&world.provender, &["--where", "sha=7890123"]).lines()[0]["key"]);
    assert_eq!(names(&world.provender, &["--where", &format!("inputs.load={key}")]), ["p/use"]);
}

#[test]
fn they_are_listed_newest_first_with_their_names_and_up_to_a_number() {
    let world = World::new();
    for n in 0..5 {
        world.run(&["--name", &format!("n{n}"), "--label", "all="], &format!("exit {n}"));
    }
    let lines = world.cli(&["ls", "--where", "labels.all="]).ok().out();
    let listed: Vec<_> =
        lines.lines().map(|line| line.split_whitespace().nth(3).unwrap_or_default().to_owned()).collect();
    assert_eq!(listed, ["n4", "n3", "n2", "n1", "n0"]);
    assert!(
        lines.starts_with("FAILED ") && lines.lines().last().unwrap_or_default().starts_with("SUCCEEDED "),
        "{lines}"
    );
    let some = world.cli(&["ls", "--where", "labels.all=", "-n", "2"]).ok().out();
    assert_eq!(some.lines().collect::<Vec<_>>(), lines.lines().take(2).collect::<Vec<_>>());
    world.cli(&["ls", "--where", "labels.all=x"]).ok().says(&["nothing is found"]);
    // What is no condition is said before anybody is asked.
    for (condition, why) in
        [("all", "FIELD=VALUE"), ("a!=1", "no !="), ("=1", "no field"), ("a>", "no value"), ("a=..", "without ends")]
    {
        world.cli(&["--remote", "unix:/nowhere", "ls", "--where", condition]).code(2).says(&[why]);
    }
    world.cli(&["ls", "-n", "2"]).code(2);
}

#[test]
fn what_is_searched_for_is_invalidated_or_evicted() {
    let world = World::new();
    for (name, mode) in [("a", "bad"), ("b", "bad"), ("c", "good")] {
        let provender = world.provender.clone().env("MODE", mode);
        start(&provender, &["--name", name, "--env", "MODE", "--out", "out"], &format!("echo {name} >out")).wait().ok();
    }
    world.cli(&["invalidate", "--where", "env.MODE=bad", "a"]).code(2);
    world.cli(&["invalidate"]).code(2);
    world.cli(&["invalidate", "--where", "env.MODE=none"]).code(1).says(&["no record"]);
    let dry = world.cli(&["--json", "invalidate", "--where", "env.MODE=bad", "--dry-run"]).ok().lines();
    assert_eq!(dry.len(), 2);
    assert_eq!(world.verdict("a"), "SUCCEEDED");
    let done = world.cli(&["evict", "--where", "env.MODE=bad", "--where", "name=b"]).ok().out();
    assert_eq!(done.lines().count(), 1);
    let done = world.cli(&["invalidate", "--where", "env.MODE=bad"]).ok().out();
    assert_eq!(done.lines().count(), 1);
    assert!(done.contains("INVALIDATED"), "{done}");
    world.cli(&["invalidate", "--where", "env.MODE=bad"]).ok().says(&["is void already"]);
    assert_eq!(
        ["a", "b", "c"].map(|name| string(&world.cli(&["--json", "status", name]).lines()[0]["verdict"])),
        ["INVALIDATED", "EVICTED", "SUCCEEDED"]
    );
    assert_eq!(names(&world.provender, &["--where", "env.MODE=bad", "--where", "verdict=SUCCEEDED"]), ["a", "b"]);
}
