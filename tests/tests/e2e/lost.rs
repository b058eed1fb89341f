//! Bytes that are lost under the daemon: nobody gets wrong ones, their task is LOST, the next run makes them anew. A disk that is
//! not there is no loss.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use provender_core::Digest;
use provender_tests::child::{eventually, string};

use crate::mount::Mounted;
use crate::world::{World, verdict};

/// Output that is too large for a row.
fn content(letter: char) -> String {
    format!("{}\n", letter.to_string().repeat(99_999))
}

/// `test:LETTER`, which makes one file of that letter.
fn run(world: &World, letter: char) -> provender_tests::child::Ran {
    let (name, key) = (format!("name-{letter}"), format!("test:{letter}"));
    let script = format!("head -c 99999 /dev/zero | tr '\\0' {letter} >out; echo >>out; echo ran >>ran-{letter}");
    world.run(&["--name", &name, "--key", &key, "--out", "out"], &script)
}

/// The one file in which the store has a blob.
fn file(world: &World, content: &str) -> PathBuf {
    let hex = Digest::of(content.as_bytes()).hex();
    let shard = blobs(world).join("objects").join(&hex[..2]).join(&hex[2..4]);
    fs::read_dir(shard).unwrap().next().unwrap().unwrap().path()
}

fn blobs(world: &World) -> PathBuf {
    world.data().join("blobs")
}

#[test]
fn a_deleted_file_and_a_flipped_byte_are_found_out_and_made_anew() {
    type Harm = (fn(&Path), &'static str);
    let harms: [Harm; 2] = [
        (|file| fs::remove_file(file).unwrap(), "missing"),
        (|file| fs::OpenOptions::new().write(true).open(file).unwrap().write_all_at(b"?", 70_000).unwrap(), "damaged"),
    ];
    for (harm, says) in harms {
        for first in ["get", "cat", "mount", "run"] {
            let mounted = Mounted::new();
            let world = mounted.world();
            let made = string(&run(world, 'a').ok().record()["execution"]);
            run(world, 'b').ok();
            assert_eq!(verdict(&world.provender, "test:a"), "SUCCEEDED");
            fs::remove_file(world.path("out")).unwrap();
            harm(&file(world, &content('a')));

            let shown = mounted.at("tasks/name-a/latest/out/out");
            let say = "is lost or damaged";
            match first {
                "get" => _ = world.cli(&["get", "test:a", "got"]).says(&[say]),
                "cat" => assert_eq!(world.cli(&["cat", "test:a", "out"]).says(&[say]).out(), ""),
                "mount" => {
                    assert_eq!(fs::read(&shown).unwrap_err().raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()))
                }
                // A hit that cannot be restored.
                _ => _ = run(world, 'a').code(125).says(&[say]),
            }
            assert!(!world.path("got").exists() && !world.path("out").exists());

            let text = world.cli(&["status", "test:a"]).code(1).out();
            let hex = Digest::of(content('a').as_bytes()).hex();
            let reason = format!("blob:{hex} (100000 bytes) was found {says} at 20");
            assert!(text.starts_with("LOST ") && text.contains(&reason), "{text}");
            let json = world.cli(&["--json", "status", "test:a", "name-a"]).code(1).lines();
            for line in &json {
                assert_eq!((&line["verdict"], &line["execution"]), (&"LOST".into(), &made.as_str().into()));
                assert!(string(&line["reason"]).starts_with(&reason) && line["outputs"].is_null(), "{line}");
            }
            // From now on nobody gets it, by whatever way, and the name has no latest.
            world.cli(&["cat", "test:a", "out"]).code(1).says(&["LOST", &reason]);
            eventually("the name has no latest", || !shown.exists());
            world.cli(&["get", "name-a", "got"]).code(1).says(&["LOST", &hex]);
            // What does not refer to it is as it was.
            assert_eq!(world.cli(&["cat", "name-b", "out"]).ok().out(), content('b'));
            world.cli(&["status", "test:b"]).ok();

            run(world, 'a').ok();
            assert_eq!((world.count("ran-a"), world.count("ran-b")), (2, 1), "made anew");
            world.cli(&["status", "test:a", "test:b", "name-a"]).ok();
            assert_eq!(world.cli(&["cat", "test:a", "out"]).ok().out(), content('a'));
            eventually("the name has a latest", || shown.exists());
            assert_eq!(fs::read_to_string(&shown).unwrap(), content('a'));
            run(world, 'a').ok();
            assert_eq!(world.count("ran-a"), 2, "a hit");
        }
    }
}

#[test]
fn a_disk_that_is_not_there_is_no_loss() {
    let mounted = Mounted::new();
    let world = mounted.world();
    for letter in ['a', 'b'] {
        run(world, letter).ok();
    }
    let (disk, away) = (blobs(world), world.root().join("away"));
    fs::rename(&disk, &away).unwrap();
    for empty in [false, true] {
        if empty {
            fs::create_dir(&disk).unwrap();
        }
        let got = world.cli(&["get", "test:a", "got"]);
        assert!(!got.status.success() && !world.path("got").exists());
        got.says(&["not available"]);
        assert!(fs::read(mounted.at("tasks/name-b/latest/out/out")).is_err());
        world.cli(&["status", "test:a", "test:b"]).ok();
    }
    fs::remove_dir(&disk).unwrap();
    fs::rename(&away, &disk).unwrap();
    world.cli(&["status", "test:a", "test:b", "name-a", "name-b"]).ok();
    for letter in ['a', 'b'] {
        assert_eq!(world.cli(&["cat", &format!("name-{letter}"), "out"]).ok().out(), content(letter));
        assert_eq!(
            fs::read_to_string(mounted.at(&format!("tasks/name-{letter}/latest/out/out"))).unwrap(),
            content(letter)
        );
    }
    assert_eq!((world.count("ran-a"), world.count("ran-b")), (1, 1));
}
