//! `provender gc` and pins: what the rules do not keep goes and nothing else, and runs again when it is asked for.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use provender_tests::child::{Ran, eventually, string};
use serde_json::{Value, json};

use crate::world::{World, key};

/// One of each name stays; nothing goes by itself.
const CONFIG: &str =
    "[gc]\nprotect_seconds = 1\nevery_seconds = 0\n[[gc.keep]]\nlatest = 1\nfailed_within_seconds = 0\n";

/// A little longer than what was used is protected, from the second on in which that is written down.
fn outlive_protection() {
    sleep(Duration::from_millis(2_400));
}

/// Makes a version of `name`: its key, and its output's file in the blob folder is one of 100,000 bytes and `version`.
fn make(world: &World, name: &str, version: usize) -> Ran {
    let input = format!("in{version}");
    world.write(&input, version.to_string());
    let script = format!("echo x >>count; head -c {} /dev/zero | tr '\\0' '{version}' >out", 100_000 + version);
    world.run(&["--name", name, "--in", &input, "--out", "out"], &script).ok()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = dir.read_dir().unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The versions whose outputs are in the blob folder.
fn stored(world: &World) -> Vec<u64> {
    let files = files(&world.data().join("blobs/objects"));
    let mut sizes: Vec<_> = files.iter().map(|file| file.metadata().unwrap().len() - 100_000).collect();
    sizes.sort();
    sizes
}

/// What goes, in the order that it is told, and the sums.
fn gc(world: &World, args: &[&str]) -> (Vec<Value>, Value) {
    let mut lines = world.cli(&[&["--json", "gc"][..], args].concat()).ok().lines();
    let summary = lines.pop().unwrap()["summary"].clone();
    assert_eq!(summary["executions"], json!(lines.len()));
    (lines, summary)
}

fn keys(lines: &[Value]) -> Vec<String> {
    let mut keys: Vec<_> = lines.iter().map(|line| string(&line["key"])).collect();
    keys.sort();
    keys
}

fn sorted(mut keys: Vec<String>) -> Vec<String> {
    keys.sort();
    keys
}

#[test]
fn a_gc_takes_exactly_what_its_dry_run_said_and_what_went_runs_again() {
    let world = World::with(CONFIG, &[]);
    let made: Vec<_> = (1..4).map(|version| key(&make(&world, "n", version))).collect();
    let old = sorted(made[..2].to_vec());
    // What was used a moment ago stays.
    assert_eq!(keys(&gc(&world, &[]).0), Vec::<String>::new());
    outlive_protection();
    let (planned, sums) = gc(&world, &["--dry-run"]);
    assert_eq!((keys(&planned), string(&planned[0]["rule"])), (old.clone(), "latest".into()));
    assert_eq!((&sums["records"], &sums["blobs"]), (&json!(2), &json!(0)));
    assert!(planned.iter().all(|line| line["dry_run"] == true && line["record"] == true), "{planned:?}");
    // A dry run takes nothing.
    assert_eq!(made.iter().map(|key| world.verdict(key)).collect::<Vec<_>>(), ["SUCCEEDED"; 3]);
    assert_eq!(stored(&world), [1, 2, 3]);
    // That was a use.
    outlive_protection();
    let text = world.cli(&["gc", "--dry-run", "--list", "1"]).ok().out();
    assert!(text.starts_with("latest ") && text.contains("2 executions would go, of these 2 records"), "{text}");
    assert_eq!(text.lines().count(), 3, "{text}");

    let (gone, did) = gc(&world, &[]);
    assert_eq!((keys(&gone), &did["frees"], &did["spared"]), (old.clone(), &sums["frees"], &json!(0)));
    assert!(did["frees"].as_u64().unwrap() > 200_000, "{did}");
    for key in &old {
        let status = world.cli(&["--json", "status", key]).code(1).lines();
        assert_eq!((string(&status[0]["verdict"]), string(&status[0]["rule"])), ("EVICTED".into(), "latest".into()));
        let (why, at) = (world.cli(&["why", key]).ok().out(), string(&status[0]["at"]));
        assert!(why.contains("rule: latest") && why.contains(&at) && why.contains("newer successes of n"), "{why}");
        world.cli(&["get", key, "there"]).code(1);
    }
    // What stays is whole.
    assert_eq!(world.verdict(&made[2]), "SUCCEEDED");
    world.cli(&["get", "n", "there"]).ok();
    assert_eq!(world.read("there/out"), "3".repeat(100_003));
    assert_eq!(world.cli(&["--json", "history", "n"]).ok().lines().len(), 1);
    // Bytes go as well, and only theirs.
    outlive_protection();
    eventually("the bytes of what went are removed", || {
        gc(&world, &[]);
        stored(&world) == [3]
    });
    // What is left to be done is nothing.
    let (gone, did) = gc(&world, &[]);
    let none = json!(0);
    assert_eq!((gone.len(), &did["frees"], &did["blobs"], &did["bytes"]), (0, &none, &none, &none), "{did}");
    assert_eq!(world.cli(&["--json", "verify", "--deep"]).ok().json()["lost"], none);
    // It runs again, once.
    let again = make(&world, "n", 1);
    assert_eq!((again.result(), key(&again), world.count("count")), ("ran".into(), made[0].clone(), 4));
    assert_eq!((make(&world, "n", 1).result(), world.verdict(&made[0])), ("hit".into(), "SUCCEEDED".into()));
    assert_eq!(world.read("out"), "1".repeat(100_001));
}

#[test]
fn a_gc_spares_what_is_pinned_until_it_is_unpinned() {
    let world = World::with(CONFIG, &[]);
    let made: Vec<_> = (1..4).map(|version| key(&make(&world, "n", version))).collect();
    let (pinned, other) = (made[0].as_str(), made[1].as_str());
    let wide = key(&make(&world, "keep/this", 4));
    make(&world, "keep/this", 5);
    let id = string(&world.cli(&["--json", "history", pinned]).ok().lines()[0]["execution"]);
    world.cli(&["pin", &format!("exec:{id}")]).code(1).says(&["one execution", pinned, "tree:"]);
    world.cli(&["pin", pinned, "--reason", "first", "--for", "7d"]).ok().says(&["pinned", "until"]);
    world.cli(&["pin", pinned, "--reason", "paper\nfigure"]).ok().says(&["for good"]);
    world.cli(&["pin", "--prefix", "keep/"]).ok();
    // One whose time is over keeps nothing.
    world.cli(&["pin", other, "--for", "1s"]).ok();
    outlive_protection();
    let (gone, sums) = gc(&world, &["--dry-run"]);
    assert_eq!(keys(&gone), [other]);
    let (gone, _) = gc(&world, &[]);
    assert_eq!((keys(&gone), sums["records"].clone()), (vec![other.to_owned()], json!(1)));

    let pins = world.cli(&["--json", "pins"]).ok().lines();
    assert_eq!(pins.len(), 2, "{pins:?}");
    let of = |kind: &str| pins.iter().find(|pin| pin["what"]["kind"] == kind).unwrap();
    assert_eq!((&of("key")["what"]["value"], &of("key")["reason"]), (&json!(pinned), &json!("paper\nfigure")));
    assert_eq!((&of("key")["expires"], &of("prefix")["what"]["value"]), (&Value::Null, &json!("keep")));
    let text = world.cli(&["pins"]).ok().out();
    assert!(text.lines().count() == 2 && text.contains("for good  paper\\nfigure"), "{text}");

    let stranger = world.provender.env("USER", "somebody-else");
    stranger.run(["unpin", pinned]).code(1).says(&["somebody-else@", "--any-owner"]);
    assert_eq!(keys(&gc(&world, &["--dry-run"]).0), Vec::<String>::new());
    world.cli(&["unpin", pinned]).ok().says(&["unpinned"]);
    world.cli(&["unpin", pinned]).code(1).says(&["not pinned"]);
    stranger.run(["unpin", "--prefix", "keep", "--any-owner"]).ok();
    assert!(world.cli(&["pins"]).ok().out().is_empty());
    let left = sorted(vec![pinned.to_owned(), wide]);
    // Their names are looked at again once something is made under them.
    make(&world, "n", 6);
    make(&world, "keep/this", 7);
    outlive_protection();
    let (gone, _) = gc(&world, &[]);
    assert!(left.iter().all(|key| keys(&gone).contains(key)), "{gone:?}");
    assert!(left.iter().all(|key| world.verdict(key) == "EVICTED"));
}

#[test]
fn a_gc_spares_pinned_bytes_of_what_went() {
    let world = World::with(CONFIG, &[]);
    let old = key(&make(&world, "n", 1));
    let tree = string(&world.cli(&["--json", "status", &old]).ok().lines()[0]["outputs"]["hash"]);
    let tree = format!("tree:{tree}");
    make(&world, "n", 2);
    world.cli(&["pin", &tree]).ok();
    world.cli(&["pin", &format!("tree:{}", "0".repeat(64))]).code(1).says(&["not in the store"]);
    outlive_protection();
    assert_eq!(keys(&gc(&world, &[]).0), [old]);
    for _ in 0..2 {
        outlive_protection();
        gc(&world, &[]);
    }
    assert_eq!(stored(&world), [1, 2]);
    world.cli(&["get", &tree, "there"]).ok();
    assert_eq!(world.read("there/out"), "1".repeat(100_001));
    world.cli(&["unpin", &tree]).ok();
    eventually("its bytes are removed", || {
        gc(&world, &[]);
        stored(&world) == [2]
    });
}
