//! `show`, `status`, `history`, `ls`, `logs`: what can be asked of what was done; and the pages that come with it.

use provender_tests::child::string;

use crate::world::World;

#[test]
fn the_newest_records_of_a_name_are_counted() {
    let world = World::new();
    for content in ["1", "2", "3"] {
        world.write("file", content);
        world.cli(&["put", "file", "--name", "n"]).ok();
    }
    for (reference, content) in [("n", "3"), ("n@1", "3"), ("n@2", "2"), ("n@3", "1")] {
        assert_eq!(world.cli(&["cat", reference, "file"]).ok().out(), content, "{reference}");
    }
    world.cli(&["cat", "n@4", "file"]).code(1).says(&["n@4"]);
    world.cli(&["cat", "n@0", "file"]).code(2);
    assert_eq!(world.cli(&["history", "n"]).ok().out().lines().count(), 3);
    assert_eq!(world.cli(&["--json", "history", "n", "-n", "2"]).ok().lines().len(), 2);
    // What was made before, asked for again, is the latest.
    world.write("file", "1");
    world.cli(&["put", "file", "--name", "n"]).ok();
    assert_eq!(world.cli(&["cat", "n", "file"]).ok().out(), "1");
}

#[test]
fn names_of_every_kind_are_listed_and_found() {
    let world = World::new();
    let long = "x".repeat(255);
    let names = ["a b/c d", "r\u{f6}k/\u{2603}", "50%/latest", "out", &long, "trailing@x", "run:literal", "v@2"];
    for name in names {
        world.run(&["--name", name, "--out", "out"], &format!("echo '{name}' >out")).ok();
    }
    let mut listed: Vec<_> =
        world.cli(&["--json", "ls"]).ok().lines().iter().map(|line| string(&line["name"])).collect();
    listed.sort();
    let mut expected = names.map(str::to_owned);
    expected.sort();
    assert_eq!(listed, expected);
    for name in names {
        let reference = format!("name:{name}");
        assert_eq!(world.cli(&["cat", &reference, "out"]).ok().out(), format!("{name}\n"));
    }
    assert_eq!(world.cli(&["ls", "a b/"]).ok().out().lines().count(), 1);
    assert!(world.cli(&["ls", "none"]).ok().out().is_empty());
}

#[test]
fn a_hundred_and_more_are_listed_in_pages() {
    let world = World::new();
    for n in 0..120 {
        world.write("file", n.to_string());
        world.cli(&["put", "file", "--name", "many"]).ok();
    }
    let lines = world.cli(&["--json", "history", "many", "-n", "1000"]).ok().lines();
    let mut ids: Vec<_> = lines.iter().map(|line| string(&line["execution"])).collect();
    assert_eq!(ids.len(), 120);
    let ended: Vec<_> = lines.iter().map(|line| string(&line["ended"])).collect();
    assert!(ended.is_sorted_by(|a, b| a >= b), "newest first");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 120, "each once");
}

#[test]
fn failures_are_kept_and_shown() {
    let world = World::new();
    world.run(&["--name", "good"], "true").ok();
    world.run(&["--name", "bad"], "echo to-out; echo to-err >&2; exit 9").code(9);
    world.run(&["--name", "mixed", "--key", "test:1"], "true").ok();
    world.run(&["--name", "mixed", "--key", "test:2"], "exit 1").code(1);
    let names = |args: &[&str]| -> Vec<String> {
        world.cli(&[&["--json", "ls"], args].concat()).ok().lines().iter().map(|line| string(&line["name"])).collect()
    };
    assert_eq!(names(&[]), ["bad", "good", "mixed"]);
    assert_eq!(names(&["--failed"]), ["bad", "mixed"]);
    let text = world.cli(&["ls", "--failed"]).ok().out();
    assert!(text.contains("FAILED") && text.contains("latest success"), "{text}");

    let failed = world.cli(&["--json", "history", "bad"]).ok().lines().remove(0);
    let execution = format!("exec:{}", string(&failed["execution"]));
    let logs = world.cli(&["logs", &execution]).ok();
    assert_eq!((logs.out(), logs.err()), ("to-out\n".into(), "to-err\n".into()));
    assert!(world.cli(&["show", &execution]).ok().out().contains("exited 9"));
    assert!(world.cli(&["history", "bad"]).ok().out().contains("exited 9"));
    let text = world.cli(&["status", "test:1", "test:2"]).code(1).out();
    assert!(text.contains("SUCCEEDED") && text.contains("FAILED") && text.contains("exited 1"), "{text}");
    world.cli(&["status", "test:1"]).ok();
}

#[test]
fn logs_can_be_followed() {
    let world = World::new();
    let run = world.start(
        &["--name", "slow", "--key", "test:slow"],
        "echo first; until test -e go; do sleep 0.05; done; echo last",
    );
    provender_tests::child::eventually("it runs", || world.verdict("test:slow") == "RUNNING");
    let id = world.cli(&["--json", "status", "test:slow"]).lines().remove(0);
    let execution = format!("exec:{}", string(&id["execution"]));
    world.cli(&["logs", &execution]).code(1).says(&["still running", "-f"]);
    let following = world.provender.start(["logs", "-f", &execution]);
    world.write("go", "");
    run.wait().ok();
    assert_eq!(following.wait().ok().out(), "first\nlast\n");
}

#[test]
fn json_is_one_document_or_lines() {
    let world = World::new();
    world.run(&["--name", "n", "--key", "test:n", "--out", "out"], "printf 'bad\\377' | tee out").ok();
    let documents: [&[&str]; 5] =
        [&["show", "n"], &["show", "test:n"], &["get", "n", "got"], &["put", "out"], &["put", "out", "--name", "m"]];
    for args in documents {
        world.cli(&[&["--json"], args].concat()).ok().json();
    }
    for args in [&["status", "n", "test:n"][..], &["history", "n"], &["ls"], &["logs", "n"]] {
        assert!(!world.cli(&[&["--json"], args].concat()).ok().lines().is_empty(), "{args:?}");
    }
    let log = world.cli(&["--json", "logs", "n"]).ok().lines().remove(0);
    assert_eq!(log["data"]["b64"], "YmFk/w==");
    let record = world.cli(&["--json", "show", "n"]).ok().json()["record"].clone();
    let began = string(&record["began"]);
    assert!(began.len() == "2026-11-21T18:02:11.123Z".len() && began.ends_with('Z'), "{began}");
    assert_eq!((&record["outputs"]["size"], &record["exit"]["code"]), (&record["outputs"]["size"], &0.into()));
    assert!(record["stdout"]["size"] == 4 && record["usage"]["peak_rss"].is_u64(), "{record}");
}

#[test]
fn completions_and_manual_pages_are_made() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = world.cli(&["completions", shell]).ok().out();
        assert!(["history", "secret-env"].iter().all(|word| script.contains(word)), "{shell}");
    }
    world.cli(&["man", "pages"]).ok();
    for page in ["provender.1", "provender-run.1", "provender-get.1"] {
        assert!(world.read(&format!("pages/{page}")).contains(".TH"), "{page}");
    }
}

#[test]
fn output_that_nobody_takes_changes_no_verdict() {
    let world = World::new();
    let full = |args: &str| {
        let script =
            format!("{} {args} >/dev/full 2>/dev/full", provender_tests::child::program("provender").display());
        world.provender.behind(&["sh", "-c", &script]).run([""; 0]).status.code()
    };
    assert_eq!(full("run --name n -- sh -c 'echo heard >&2; exit 5'"), Some(5));
    assert_eq!(full("run --name n -- true"), Some(0));
    assert_eq!(full("show nothing"), Some(1));
    assert_eq!(full("ls"), Some(125), "what was asked for cannot be told");
    // A closed pipe ends it in peace.
    let script = format!("{} completions bash | head -c 1", provender_tests::child::program("provender").display());
    let ran = world.run(&["--name", "pipe"], &script).ok();
    assert_eq!(ran.err().lines().count(), 1, "{}", ran.err());
}
