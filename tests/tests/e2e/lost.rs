//! Bytes that are lost under the daemon: nobody gets wrong ones, their task is LOST, the next run makes them anew. A disk that is
//! not there is no loss.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    let shard = blobs(world).join("objects").join(&hex[..2]);
    let mut entries = fs::read_dir(shard).unwrap().map(|entry| entry.unwrap());
    entries.find(|entry| entry.file_name().to_string_lossy().starts_with(&hex)).unwrap().path()
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

/// Bytes that are not there: told as such wherever they are asked for, and nothing is LOST.
fn is_not_there(mounted: &Mounted) {
    let world = mounted.world();
    let got = world.cli(&["get", "test:a", "got"]);
    assert!(!got.status.success() && !world.path("got").exists());
    got.says(&["not available"]);
    assert!(fs::read(mounted.at("tasks/name-b/latest/out/out")).is_err());
    assert_eq!(world.cli(&["cat", "name-b", "out"]).says(&["not available"]).out(), "");
    world.cli(&["status", "test:a", "test:b"]).ok();
}

/// They are back: all is as if nothing had been, and nothing was made anew.
fn is_back(mounted: &Mounted) {
    let world = mounted.world();
    world.cli(&["status", "test:a", "test:b", "name-a", "name-b"]).ok();
    for letter in ['a', 'b'] {
        assert_eq!(world.cli(&["cat", &format!("name-{letter}"), "out"]).ok().out(), content(letter));
        let shown = mounted.at(&format!("tasks/name-{letter}/latest/out/out"));
        assert_eq!(fs::read_to_string(shown).unwrap(), content(letter));
        assert_eq!(run(world, letter).ok().result(), "hit");
    }
    assert_eq!((world.count("ran-a"), world.count("ran-b")), (1, 1));
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
        is_not_there(&mounted);
    }
    fs::remove_dir(&disk).unwrap();
    fs::rename(&away, &disk).unwrap();
    is_back(&mounted);
}

/// An ext4 of its own on a loop device, which can be unmounted and mounted again.
struct Disk {
    device: String,
    point: PathBuf,
    _folder: tempfile::TempDir,
}

impl Disk {
    fn new() -> Disk {
        assert!(rustix::process::geteuid().is_root(), "this test mounts a small file system: run it as root");
        let folder = crate::world::folder();
        let (image, point) = (folder.path().join("image"), folder.path().join("disk"));
        fs::File::create(&image).and_then(|file| file.set_len(32 << 20)).unwrap();
        fs::create_dir(&point).unwrap();
        system("mkfs.ext4", &["-q", "-m", "0", image.to_str().unwrap()]);
        let device = system("losetup", &["--find", "--show", image.to_str().unwrap()]);
        let disk = Disk { device, point, _folder: folder };
        disk.mount();
        disk
    }

    fn mount(&self) {
        system("mount", &[&self.device, self.point.to_str().unwrap()]);
    }

    /// At once, whoever has files open there.
    fn unmount(&self) {
        system("umount", &["--lazy", self.point.to_str().unwrap()]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may be unmounted already; the device goes with its last user.
        _ = Command::new("umount").arg("--lazy").arg(&self.point).status();
        _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

/// What a program of the system says.
fn system(program: &str, args: &[&str]) -> String {
    let ran = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(ran.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn a_disk_that_is_unmounted_under_the_daemon_is_no_loss() {
    let disk = Disk::new();
    let config = format!("[blobs]\nbackend = \"disk\"\ndir = \"{}/blobs\"\n", disk.point.display());
    let mut mounted = Mounted::with(&config);
    for letter in ['a', 'b'] {
        run(mounted.world(), letter).ok();
    }
    for restart in [false, true] {
        disk.unmount();
        assert_eq!(fs::read_dir(&disk.point).unwrap().count(), 0, "what stands below the mount point");
        is_not_there(&mounted);
        if restart {
            // The disk comes back while the daemon is down.
            mounted.daemon().stop();
            disk.mount();
            mounted.daemon().restart();
        } else {
            // What cannot be stored is not recorded.
            let world = mounted.world();
            let made = world.run(&["--name", "c", "--key", "test:c", "--out", "c"], "head -c 99999 /dev/zero >c");
            assert_eq!(made.code(125).result(), "unrecorded");
            assert_ne!(world.verdict("test:c"), "SUCCEEDED");
            disk.mount();
        }
        is_back(&mounted);
    }
}
