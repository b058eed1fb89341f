//! Cold blobs in frames: smaller on the disk, and the same to everybody who reads them.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use provender_tests::child::eventually;

use crate::mount::Mounted;
use crate::world::snapshot;

/// All files of the store's blobs, whose names tell their form.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "zst")
}

#[test]
fn what_was_compressed_is_read_as_before_and_a_flipped_byte_by_nobody() {
    let mut mounted = Mounted::with("[compression]\nafter_seconds = 0\n");
    let script =
        "mkdir out; seq 1 2000000 >out/numbers; head -c 3000000 /dev/urandom >out/noise; echo small >out/small";
    mounted.world().run(&["--name", "long", "--out", "out"], script).ok();
    let before = snapshot(&mounted.world().path("out"));
    let objects = mounted.world().data().join("blobs/objects");
    let numbers = fs::read(mounted.world().path("out/numbers")).unwrap();
    // A pass begins with the daemon.
    mounted.daemon().stop();
    mounted.daemon().restart();
    eventually("the numbers are in frames, and their old file is gone", || {
        let (packed, raw): (Vec<_>, Vec<_>) = files(&objects).into_iter().partition(|path| is_packed(path));
        (packed.len(), raw.len()) == (1, 1)
    });
    let packed = files(&objects).into_iter().find(|path| is_packed(path)).unwrap();
    assert!(fs::metadata(&packed).unwrap().len() < numbers.len() as u64 / 2);

    let world = mounted.world();
    world.cli(&["get", "long", "got"]).ok();
    assert_eq!(snapshot(&world.path("got/out")), before);
    assert!(world.cli(&["cat", "long", "out/numbers"]).ok().out().as_bytes() == numbers);
    let shown = mounted.at("tasks/long/latest/out");
    assert_eq!(snapshot(&shown.join("out")), before);
    let file = fs::File::open(shown.join("out/numbers")).unwrap();
    for (at, len) in [(0, 1), (262_143, 2), (5_000_000, 70_000), (1_048_570, 2_000_000), (numbers.len() - 3, 3)] {
        let mut part = vec![0; len];
        file.read_exact_at(&mut part, at as u64).unwrap();
        assert!(part == numbers[at..at + len], "{at}");
    }
    fs::remove_dir_all(world.path("out")).unwrap();
    assert_eq!(world.run(&["--name", "long", "--out", "out"], script).ok().result(), "hit");
    assert_eq!(snapshot(&world.path("out")), before);

    let opened = fs::OpenOptions::new().read(true).write(true).open(&packed).unwrap();
    let mut byte = [0];
    opened.read_exact_at(&mut byte, 300_000).unwrap();
    opened.write_all_at(&[byte[0] ^ 4], 300_000).unwrap();
    world.cli(&["get", "long", "again"]).says(&["is lost or damaged"]);
    assert!(!world.path("again").exists());
    assert!(fs::read(shown.join("out/numbers")).is_err());
    // Somebody makes it anew, and it is there for all again.
    fs::remove_dir_all(world.path("out")).unwrap();
    assert_eq!(world.run(&["--name", "long", "--out", "out"], script).ok().result(), "ran");
    assert!(fs::read(mounted.at("tasks/long/latest/out/out/numbers")).unwrap() == numbers);
}
