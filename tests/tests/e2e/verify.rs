//! `provender verify` and the scrub: each damage is found, the rest is right, and a run heals.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use provender_tests::child::eventually;
use provender_tests::conformance::blobs::bytes;
use provender_tests::daemon::Daemon;
use serde_json::json;

use crate::world::World;

/// The files of all large blobs.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = dir.read_dir().unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Changes a byte, as a disk does: nothing else tells of it.
fn decay(file: &Path, at: u64) {
    let before = file.metadata().unwrap();
    let mode = before.permissions();
    std::fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
    let open = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    open.read_exact_at(&mut byte, at).unwrap();
    open.write_all_at(&[byte[0] ^ 4], at).unwrap();
    open.set_modified(before.modified().unwrap()).unwrap();
    std::fs::set_permissions(file, mode).unwrap();
}

fn made(world: &World, n: u64) {
    std::fs::write(world.path(&format!("in{n}")), bytes(n, 400_000)).unwrap();
    let input = format!("in{n}");
    world
        .run(
            &["--name", &format!("made/{n}"), "--key", &format!("test:{n}"), "--in", &input, "--out", "out"],
            &format!("cat {input} {input} >out"),
        )
        .ok();
}

fn file_of(world: &World, size: u64) -> PathBuf {
    let all = files(&world.data().join("blobs/objects"));
    all.into_iter().find(|file| file.metadata().unwrap().len() == size).unwrap()
}

#[test]
fn each_damage_is_found_and_a_run_heals() {
    let world = World::new();
    let empty = world.cli(&["--json", "verify"]).ok().json();
    assert_eq!(empty["lost"], json!(0));
    (1..4).for_each(|n| made(&world, n));
    for deep in [false, true] {
        let args: &[&str] = if deep { &["--json", "verify", "--deep"] } else { &["--json", "verify"] };
        let said = world.cli(args).ok().json();
        assert!(said["blobs"].as_u64().unwrap() >= 6 && said["read"].as_u64() <= said["bytes"].as_u64(), "{said}");
        assert_eq!((said["lost"].clone(), said["deep"].clone()), (json!(0), json!(deep)));
    }
    assert!(world.cli(&["verify"]).ok().out().contains("all are there and right"));

    // One file is gone, in another a byte has changed.
    let outs: Vec<_> = files(&world.data().join("blobs/objects"))
        .into_iter()
        .filter(|file| file.metadata().unwrap().len() == 800_000)
        .collect();
    assert_eq!(outs.len(), 3);
    std::fs::remove_file(&outs[0]).unwrap();
    decay(&outs[1], 654_321);
    let said = world.cli(&["--json", "verify", "--deep"]).code(1).json();
    assert_eq!((said["lost"].clone(), said["found"].clone()), (json!(2), json!(2)), "{said}");
    let verdicts = || (1..4).map(|n| world.verdict(&format!("test:{n}"))).filter(|verdict| verdict == "LOST").count();
    assert_eq!(verdicts(), 2);
    let again = world.cli(&["--json", "verify"]).code(1).json();
    assert_eq!((again["lost"].clone(), again["found"].clone()), (json!(2), json!(0)), "{again}");
    (1..4).for_each(|n| made(&world, n));
    assert_eq!(verdicts(), 0);
    assert_eq!(world.cli(&["--json", "verify", "--deep"]).ok().json()["lost"], json!(0));
}

#[test]
fn the_scrub_finds_decay_by_itself() {
    let world = World::with("[scrub]\nevery_seconds = 1\n", &[]);
    made(&world, 1);
    decay(&file_of(&world, 800_000), 5);
    eventually("the scrub has found it", || world.verdict("test:1") == "LOST");
    made(&world, 1);
    assert_eq!(world.verdict("test:1"), "SUCCEEDED");
}

#[test]
fn a_bad_rate_is_refused() {
    let world = World::new();
    world.cli(&["verify", "--rate", "0"]).code(2).says(&["--rate"]);
}

/// The largest file of the metadata whose name holds this.
fn of_metadata(world: &World, sought: &str) -> PathBuf {
    let all = files(&world.data().join("meta")).into_iter();
    let named = all.filter(|file| file.file_name().unwrap().to_str().unwrap().contains(sought));
    named.max_by_key(|file| file.metadata().unwrap().len()).unwrap()
}

#[test]
fn damaged_metadata_is_refused_or_found_and_named() {
    let mut world = World::new();
    (0..12).for_each(|n| made(&world, n));
    let said = world.cli(&["--json", "verify"]).ok().json();
    assert!(said["rows"].as_u64().unwrap() > 200, "{said}");
    assert_eq!((said["damaged"].clone(), said["damage"].clone()), (json!(0), json!([])));
    let said = world.cli(&["--json", "verify", "--deep"]).ok().json();
    assert_eq!((said["outboards"].clone(), said["mended"].clone()), (json!(12), json!(0)), "{said}");
    let text = world.cli(&["verify", "--deep"]).ok().out();
    assert!(text.contains("12 outboards: all are right") && text.contains("of metadata: all are right"), "{text}");
    world.daemon.stop();
    // What its log holds goes into sorted files at the next start; what comes then is in a log.
    world.daemon.restart();
    made(&world, 20);
    world.daemon.stop();

    // The header of the first record has its length at 4 and its type at 6.
    for (sought, at) in [("CURRENT", 3), ("MANIFEST-", 5), ("MANIFEST-", 6), (".log", 5), (".log", 6), (".log", 200)] {
        let file = of_metadata(&world, sought);
        decay(&file, at);
        let meta = world.data().join("meta");
        let refused = Daemon::refused(&world.data(), &[]).code(1);
        refused.says(&["the metadata is damaged", meta.to_str().unwrap(), "provenderd restore"]);
        decay(&file, at);
    }
    let file = of_metadata(&world, ".sst");
    decay(&file, file.metadata().unwrap().len() * 2 / 3);
    world.daemon.restart();
    let said = world.cli(&["--json", "verify"]).code(1).json();
    assert!(said["damaged"].as_u64().unwrap() > 0 && said["lost"] == json!(0), "{said}");
    let damage = said["damage"][0].as_str().unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(damage.contains(name) && damage.contains("provenderd restore"), "{damage}");
    let text = world.cli(&["verify"]).code(1).out();
    assert!(text.contains("of metadata: damaged in") && text.contains(name), "{text}");
    // Whatever is still answered is right.
    for n in 0..12 {
        let told = world.cli(&["--json", "status", &format!("test:{n}")]);
        assert!(!told.status.success() || told.out().contains("SUCCEEDED"), "{}", told.out());
    }
}
