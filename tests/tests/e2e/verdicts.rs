//! Each verdict, made for real, as the command line says it: the snapshots are the examples of docs/verdicts.md.

use std::fs;
use std::path::{Path, PathBuf};

use provender_tests::child::{Running, eventually};
use rustix::process::Signal;
use serde_json::Value;

use crate::world::World;

/// The blocks of this language in a section of the document.
fn examples(heading: &str, language: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/verdicts.md");
    let document = fs::read_to_string(path).unwrap();
    let section = document.split(&format!("\n## {heading}\n")).nth(1).unwrap_or_else(|| panic!("no {heading}"));
    let section = section.split("\n## ").next().unwrap();
    let fence = format!("```{language}\n");
    let blocks = section.split(&fence).skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

/// What differs from run to run is made the same: ids, hashes, times, who and where, process ids, temporary folders.
fn same(text: &str) -> String {
    let mut out = String::new();
    let words = text.split_inclusive(|c: char| !(c.is_ascii_alphanumeric() || "-:.@_/".contains(c)));
    for word in words {
        let end = word.trim_end_matches(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let (body, rest) = word.split_at(end.len());
        let (lead, last) = body.rsplit_once(':').map_or(("", body), |(lead, last)| (lead, last));
        let hex = |n| last.len() == n && last.bytes().all(|byte| byte.is_ascii_hexdigit());
        out += &match body {
            _ if body.starts_with("20") && body.ends_with('Z') && body.len() == 24 => "<time>".to_owned(),
            _ if hex(32) || hex(64) => format!("{lead}<{}>", last.len() * 4),
            _ if body.contains('@') => "<who>".to_owned(),
            _ => body.to_owned(),
        };
        out += rest;
    }
    let out = out.replace("uid <who>", "<who>");
    // The process of an executor.
    let mut parts = out.split(", process ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| {
        all + ", process N" + part.trim_start_matches(|c: char| c.is_ascii_digit() || c == 'N')
    })
}

/// The files in which the store has blobs.
fn blobs(below: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(below) else { return vec![below.to_owned()] };
    entries.flat_map(|entry| blobs(&entry.unwrap().path())).collect()
}

/// Makes a key of this verdict, and gives who is at it.
fn make(world: &World, verdict: &str, key: &str) -> Option<Running> {
    let run = |script: &str| world.run(&["--name", "demo/task", "--key", key, "--out", "out"], script);
    let success = "head -c 100000 /dev/zero | tr '\\0' x >out";
    match verdict {
        "SUCCEEDED" => _ = run(success).ok(),
        "RUNNING" => {
            let args = ["--name", "demo/task", "--key", key, "--ttl", "60"];
            let running = world.start(&args, "sleep 60");
            eventually("it runs", || world.verdict(key) == "RUNNING");
            return Some(running);
        }
        "FAILED" => _ = run("exit 3").code(3),
        "ABANDONED" => {
            let running = world.start(&["--name", "demo/task", "--key", key, "--ttl", "1"], "sleep 60");
            eventually("it runs", || world.verdict(key) == "RUNNING");
            running.signal(Signal::KILL);
            running.wait().signalled(Signal::KILL);
            eventually("its lease runs out", || world.verdict(key) == "ABANDONED");
        }
        "LOST" => {
            run(success).ok();
            for file in blobs(&world.data().join("blobs/objects")) {
                fs::remove_file(file).unwrap();
            }
            assert!(!world.cli(&["cat", key, "out"]).status.success());
        }
        "EVICTED" => {
            run(success).ok();
            world.cli(&["evict", key, "--reason", "to make room"]).ok();
        }
        "INVALIDATED" => {
            run(success).ok();
            world.cli(&["invalidate", key, "--reason", "bad compiler"]).ok();
        }
        "UNKNOWN" => {}
        other => panic!("{other}"),
    }
    None
}

#[test]
fn each_verdict_is_said_with_its_reason_and_what_it_rests_on() {
    for verdict in ["SUCCEEDED", "RUNNING", "FAILED", "ABANDONED", "LOST", "EVICTED", "INVALIDATED", "UNKNOWN"] {
        let world = World::new();
        let _running = make(&world, verdict, "demo:task");
        let code = i32::from(verdict != "SUCCEEDED");
        let text = world.cli(&["status", "demo:task"]).code(code).out();
        assert_eq!(same(&text), same(&examples(verdict, "text")[0]), "{text}");
        let json = world.cli(&["--json", "status", "demo:task"]).code(code).out();
        let expected: Value = serde_json::from_str(&same(&examples(verdict, "json")[0])).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&same(&json)).unwrap(), expected, "{json}");
        // The name says the same of what was last done under it.
        if verdict != "UNKNOWN" {
            assert_eq!(world.verdict("demo/task"), verdict);
        }
        // Only a success is a hit, and each other verdict ends with one, but while somebody is at it.
        if verdict != "RUNNING" {
            let again = world.run(&["--name", "demo/task", "--key", "demo:task", "--out", "out"], "echo new >out").ok();
            assert_eq!(again.result(), if verdict == "SUCCEEDED" { "hit" } else { "ran" }, "{verdict}");
            assert_eq!(world.verdict("demo:task"), "SUCCEEDED");
        }
    }
}

#[test]
fn a_failure_names_the_rule_that_was_broken() {
    let world = World::new();
    let (exit, none) = (serde_json::json!("exit_codes"), Value::Null);
    for (args, script, code, rule) in [
        (&["--key", "t:code"][..], "exit 7", 7, &exit),
        (&["--key", "t:signal"], "kill -9 $$", 137, &exit),
        (&["--key", "t:missing", "--out", "never"], "true", 1, &none),
    ] {
        world.run(&[&["--name", "n"], args].concat(), script).code(code);
        let line = world.cli(&["--json", "status", args[1]]).code(1).lines().remove(0);
        assert_eq!((&line["verdict"], &line["rule"]), (&"FAILED".into(), rule), "{line}");
        let shown = world.cli(&["--json", "history", args[1]]).ok().lines().remove(0);
        assert_eq!(shown["rule"], *rule, "{shown}");
    }
}

#[test]
fn an_eviction_is_of_the_record_alone() {
    let world = World::new();
    let make = |key: &str, name: &str| world.run(&["--name", name, "--key", key, "--out", "out"], "date +%N >out").ok();
    make("t:a", "a");
    make("t:b", "a");
    make("t:c", "c");
    let dry = world.cli(&["evict", "a", "--dry-run"]).ok().out();
    assert_eq!(dry.lines().filter(|line| line.starts_with("would be EVICTED")).count(), 2, "{dry}");
    assert_eq!(world.verdict("t:a"), "SUCCEEDED");
    world.cli(&["evict", "a"]).ok();
    for (key, verdict) in [("t:a", "EVICTED"), ("t:b", "EVICTED"), ("t:c", "SUCCEEDED")] {
        assert_eq!(world.verdict(key), verdict);
    }
    world.cli(&["get", "a", "got"]).code(1).says(&["EVICTED"]);
    world.cli(&["evict", "a"]).ok().says(&["is void already"]);
    world.cli(&["evict", "never"]).code(1);
    world.cli(&["evict", "t:never"]).code(1).says(&["has no record"]);
    // An eviction says nothing against who makes it again at this moment.
    let args = ["--name", "c", "--key", "t:c", "--check", "--out", "out"];
    let check = world.start(&args, "touch started; until test -e go; do sleep 0.05; done; echo same >out");
    eventually("it runs", || world.path("started").exists());
    world.cli(&["evict", "t:c"]).ok();
    assert_eq!(world.verdict("t:c"), "RUNNING");
    world.write("go", "");
    check.wait();
    assert_eq!(world.verdict("t:c"), "SUCCEEDED");
    assert_eq!(world.cli(&["cat", "t:c", "out"]).ok().out(), "same\n");
}
