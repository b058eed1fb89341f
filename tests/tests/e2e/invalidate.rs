//! `provender invalidate`: what is void runs again, who was at it is told, and nothing else changes.

use provender_tests::child::{eventually, string};
use serde_json::Value;

use crate::world::{World, key};

/// Makes `out` from what `in` was given as, and counts.
fn make(world: &World, name: &str, inputs: &[&str]) -> String {
    let out = format!("{name}.out");
    let args = [&["--name", name, "--out", &out][..], inputs].concat();
    let ran = world.run(
        &args,
        &format!("echo x >>{name}.count; cat \"${{PROVENDER_IN_from:-/dev/null}}\"/* >{out} 2>&1; echo {name} >>{out}"),
    );
    key(&ran.ok())
}

fn field(lines: &[Value], name: &str) -> Vec<String> {
    let mut fields: Vec<_> = lines.iter().map(|line| string(&line[name])).collect();
    fields.sort();
    fields
}

#[test]
fn what_is_downstream_runs_again_and_a_dry_run_says_what() {
    let world = World::new();
    let a = make(&world, "a", &[]);
    let b = make(&world, "b", &["--in", "from=a"]);
    let c = make(&world, "c", &["--in", "from=b"]);
    let apart = make(&world, "apart", &[]);
    let args = ["--json", "invalidate", &a, "--downstream", "--reason", "bad \u{fc} compiler"];
    let dry = world.cli(&[&args[..], &["--dry-run"]].concat()).ok().lines();
    for key in [&a, &b, &c, &apart] {
        assert_eq!(world.verdict(key), "SUCCEEDED");
    }
    let done = world.cli(&args).ok().lines();
    let mut all = [a.clone(), b.clone(), c.clone()];
    all.sort();
    assert_eq!((field(&dry, "key"), field(&dry, "record")), (all.to_vec(), field(&done, "record")));
    assert_eq!(
        (field(&done, "key"), done[0]["dry_run"].clone(), dry[0]["dry_run"].clone()),
        (all.to_vec(), false.into(), true.into())
    );
    for key in [&a, &b, &c] {
        let status = world.cli(&["--json", "status", key]).code(1).lines();
        assert_eq!(string(&status[0]["verdict"]), "INVALIDATED");
        let why = string(&status[0]["reason"]);
        assert!(why.starts_with("invalidated by ") && why.ends_with("Z: bad \u{fc} compiler"), "{why}");
    }
    assert_eq!(world.verdict(&apart), "SUCCEEDED");
    // Nobody gets what is void by its key or name; its execution is still there.
    world.cli(&["get", &a, "there"]).code(1).says(&["INVALIDATED", "bad \u{fc} compiler"]);
    world.cli(&["get", "a", "there"]).code(1).says(&["INVALIDATED"]);
    world.run(&["--name", "d", "--in", &format!("from={a}")], "true").code(125).says(&["INVALIDATED"]);
    let record = done.iter().find(|line| string(&line["key"]) == a).map(|line| string(&line["record"])).unwrap();
    world.cli(&["get", &format!("exec:{record}"), "there"]).ok();
    let shown = world.cli(&["show", "a"]).ok().out();
    assert!(shown.contains("INVALIDATED invalidated by ") && shown.contains("bad \u{fc} compiler"), "{shown}");
    // Again is the same; then each runs once more, and is a hit from then on.
    world.cli(&args).ok();
    assert_eq!((make(&world, "a", &[]), make(&world, "a", &[]), world.count("a.count")), (a.clone(), a.clone(), 2));
    assert_eq!((make(&world, "b", &["--in", "from=a"]), world.count("b.count")), (b, 2));
    assert_eq!(world.verdict(&a), "SUCCEEDED");
    assert_eq!(world.cli(&["--json", "history", "a"]).ok().lines().len(), 2);
    world.cli(&["cat", "a", "a.out"]).ok();
}

#[test]
fn a_name_and_what_it_is_not() {
    let world = World::new();
    let (one, two) = (make(&world, "n", &[]), make(&world, "n/below", &[]));
    world.cli(&["invalidate", "nobody", "t:never"]).code(1).says(&["nobody", "t:never has no record"]);
    world.cli(&["invalidate", "n@2"]).code(1);
    world.cli(&["invalidate"]).code(2);
    let done = world.cli(&["invalidate", "n", "--dry-run"]).ok().out();
    assert!(done.starts_with("would be INVALIDATED") && done.contains(&one), "{done}");
    world.cli(&["invalidate", "n@1"]).ok();
    assert_eq!((world.verdict(&one), world.verdict(&two)), ("INVALIDATED".into(), "SUCCEEDED".into()));
    world.cli(&["invalidate", "n"]).ok().says(&["void already"]);
}

#[test]
fn who_is_at_it_is_stopped_and_told_and_its_waiter_goes_on() {
    let world = World::new();
    world.write("out", "before");
    let script = "echo x >>count; echo part >out; echo >started; test -e go || sleep 86400; echo whole >out";
    let args = ["--name", "held", "--key", "t:held", "--out", "out", "--ttl", "1"];
    let held = world.start(&args, script);
    eventually("the command has started", || world.path("started").exists());
    let other = world.root().join("other");
    std::fs::create_dir(&other).unwrap();
    let elsewhere = world.provender.at(&other);
    let waiter = crate::world::start(&elsewhere, &args, "echo theirs >out");
    eventually("it is waited for", || waiter.stderr().contains("waiting for"));
    let done = world.cli(&["--json", "invalidate", "t:held", "--reason", "wrong input"]).ok().lines();
    // Its command is stopped, nothing of it is seen, and what stood there is back.
    held.wait().code(125).says(&["withdrawn by ", "wrong input"]);
    assert_eq!((world.read("out"), world.count("count")), ("before".into(), 1));
    let waited = waiter.wait().ok();
    assert_eq!(waited.result(), "ran");
    assert_eq!(std::fs::read_to_string(other.join("out")).unwrap(), "theirs\n");
    let history = world.cli(&["--json", "history", "held"]).ok().lines();
    assert_eq!((string(&history[1]["verdict"]), &history[1]["execution"]), ("ABANDONED".into(), &done[0]["withdrawn"]));
    assert!(string(&history[1]["reason"]).ends_with("wrong input"));
    assert_eq!(string(&history[0]["verdict"]), "SUCCEEDED");
    assert_eq!(world.cli(&["cat", "held", "out"]).ok().out(), "theirs\n");
}
