//! The data folder and the configuration: what a daemon refuses to start on, and a disk that is full.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use provender_tests::child::eventually;
use provender_tests::daemon::Daemon;
use provender_tests::provender::Provender;

use crate::world::{World, folder};

#[test]
fn a_second_daemon_is_told_of_the_first() {
    let mut world = World::new();
    let pid = world.daemon.pid().as_raw_nonzero().to_string();
    // Not beside the first one's log, which is that one's.
    let link = world.root().join("link");
    std::os::unix::fs::symlink(world.data(), &link).unwrap();
    Daemon::refused(&link, &[]).code(1).says(&["in use", &pid, "--data"]);
    world.cli(&["ls"]).ok();
    world.daemon.kill();
    world.daemon.restart();
    world.cli(&["ls"]).ok();
}

#[test]
fn a_newer_layout_and_a_foreign_folder_are_refused_untouched() {
    let mut world = World::new();
    world.daemon.stop();
    let layout = world.data().join("layout");
    let ours = std::fs::read_to_string(&layout).unwrap();
    std::fs::write(&layout, "provender data 99\n").unwrap();
    Daemon::refused(&world.data(), &[]).code(1).says(&["layout 99", "newer"]);
    assert_eq!(std::fs::read_to_string(&layout).unwrap(), "provender data 99\n");
    std::fs::write(&layout, ours).unwrap();
    world.daemon.restart();

    let foreign = world.path("foreign");
    world.write("foreign/thesis.tex", "");
    Daemon::refused(&foreign, &[]).code(1).says(&["foreign", "not empty", "--data"]);
    assert_eq!(foreign.read_dir().unwrap().count(), 1);
    world.write("file", "");
    Daemon::refused(&world.path("file"), &[]).code(1).says(&["file"]);
}

#[test]
fn a_configuration_that_is_not_understood_is_refused() {
    let folder = folder();
    let (data, file) = (folder.path().join("d"), folder.path().join("provenderd.toml"));
    let refused = |config: &str, words: &[&str]| {
        std::fs::write(&file, config).unwrap();
        let flags = ["--config", file.to_str().unwrap()];
        Daemon::refused(&data, &flags).code(1).says(&["provenderd.toml"]).says(words);
        assert!(!data.exists(), "nothing is made");
    };
    refused("datadir = \"/x\"", &["datadir", "line 1"]);
    refused("[meta]\nengine = \"rocksdb\"\nurl = \"x\"", &["url"]);
    refused("[blobs]\nbackend = \"tape\"", &["tape"]);
    refused("listen = \"here\"", &["listen"]);
    let absent = folder.path().join("absent.toml");
    Daemon::refused(&data, &["--config", absent.to_str().unwrap()]).code(1).says(&["absent.toml", "cannot be read"]);
    Daemon::refused(&data, &["--listen", "here"]).code(2).says(&["--listen"]);
    Daemon::refused(&data, &["--log", "a=b=c"]).code(1);
    let config = "socket_group = \"no-such-group\"";
    std::fs::write(&file, config).unwrap();
    Daemon::refused(&data, &["--config", file.to_str().unwrap()]).code(1).says(&["no-such-group"]);
}

#[test]
fn engines_that_do_not_answer_are_named() {
    let folder = folder();
    let file = folder.path().join("provenderd.toml");
    std::fs::write(&file, "[meta]\nengine = \"postgres\"\nurl = \"host=/nowhere user=u dbname=d\"").unwrap();
    let refused = Daemon::refused(&folder.path().join("d"), &["--config", file.to_str().unwrap()]).code(1);
    assert!(refused.err().contains("PostgreSQL") || refused.err().contains("postgres"), "{}", refused.err());
}

/// A small file system of its own; unmounted, and its loop device detached, when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path, megabytes: u64) -> SmallDisk {
        assert!(rustix::process::geteuid().is_root(), "this test mounts a small file system: run it as root");
        let (image, point) = (folder.join("image"), folder.join("disk"));
        std::fs::File::create(&image).and_then(|file| file.set_len(megabytes << 20)).unwrap();
        std::fs::create_dir(&point).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).args([&image, &point]));
        SmallDisk(point)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

/// Takes all that is left.
fn fill(filler: &Path) {
    let mut file = std::fs::File::create(filler).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![0; size]).and_then(|()| file.sync_data()).is_ok() {}
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

#[test]
fn full_disk_is_told_and_survived() {
    let place = folder();
    let disk = SmallDisk::mount(place.path(), 160);
    let config = format!("[blobs]\nbackend = \"disk\"\ndir = \"{}/blobs\"\n", disk.0.display());
    let world = World::inside(folder(), &config, &[]);
    world.write("kept", vec![1; 2 << 20]);
    world.cli(&["put", "kept", "--name", "kept"]).ok();
    world.write("large", vec![2; 200 << 20]);
    world.cli(&["put", "large", "--name", "large"]).code(125).says(&["space"]);
    let made = world.run(&["--name", "large", "--in", "large", "--out", "out"], "cp large out").code(125);
    assert_eq!(made.result(), "unrecorded");
    assert_ne!(world.verdict("large"), "SUCCEEDED");

    assert!(world.cli(&["cat", "kept", "kept"]).ok().stdout == vec![1; 2 << 20], "it goes on reading");
    // Filled to the brim from outside; then space comes back.
    let filler = disk.0.join("filler");
    fill(&filler);
    world.write("more", vec![3; 3 << 20]);
    world.cli(&["put", "more", "--name", "more"]).code(125).says(&["space"]);
    std::fs::remove_file(filler).unwrap();
    world.cli(&["put", "more", "--name", "more"]).ok();
    assert!(world.cli(&["cat", "more", "more"]).ok().stdout == vec![3; 3 << 20]);
}

#[test]
fn full_disk_of_backups_is_told_and_survived() {
    let place = folder();
    let disk = SmallDisk::mount(place.path(), 64);
    let world = World::new();
    let dir = disk.0.join("backups");
    let dir = dir.to_str().unwrap();
    for (n, name) in [(1, "first"), (2, "second")] {
        world.write(name, vec![n; 3 << 20]);
        world.cli(&["put", name, "--name", name]).ok();
        let filler = disk.0.join("filler");
        if n == 2 {
            fill(&filler);
            world.cli(&["admin", "backup", dir]).code(125).says(&["no space is left", "backups before are whole"]);
            let checked = Daemon::once(&world.data(), &["restore", dir, "--check"]).ok();
            assert!(checked.out().starts_with("whole: backup 1"), "{}", checked.out());
            std::fs::remove_file(&filler).unwrap();
        }
        world.cli(&["admin", "backup", dir]).ok();
    }
    let checked = Daemon::once(&world.data(), &["restore", dir, "--check"]).ok();
    assert!(checked.out().starts_with("whole: backup 2"), "{}", checked.out());
    world.cli(&["cat", "second", "second"]).ok();
}

#[test]
fn full_disk_of_records_is_told_and_survived() {
    let place = folder();
    let disk = SmallDisk::mount(place.path(), 64);
    let file = place.path().join("provenderd.toml");
    // RocksDB sets aside what its log may come to.
    std::fs::write(&file, "[meta]\nengine = \"rocksdb\"\nwrite_buffer_bytes = 4194304\n").unwrap();
    let daemon = Daemon::start(&disk.0.join("d"), &["--config", file.to_str().unwrap()]);
    let work = place.path().join("w");
    std::fs::create_dir(&work).unwrap();
    let provender = Provender::new(&place.path().join("h"), &work, &daemon.remote());
    let put = |n: usize| {
        std::fs::write(work.join("row"), row(n)).unwrap();
        provender.run(["put", "row", "--name", &format!("row{n}")])
    };
    put(0).ok();
    let filler = disk.0.join("filler");
    fill(&filler);
    // Small blobs and records are rows: what they need is soon more than what a full disk has.
    let refused = (1..1000).find_map(|n| Some(put(n)).filter(|ran| ran.status.code() != Some(0)));
    refused.expect("the disk is full").code(125).says(&["space"]);
    assert!(reads(&provender, 0), "it goes on reading");
    std::fs::remove_file(filler).unwrap();
    eventually("writing goes on", || put(2000).status.success());
    assert!(reads(&provender, 2000) && reads(&provender, 0));
}

/// A blob that is small enough to be a row, and that no other is like.
fn row(n: usize) -> Vec<u8> {
    (0..10_000).map(|at| ((at * n) ^ (at >> 7)) as u8).collect()
}

fn reads(provender: &Provender, n: usize) -> bool {
    provender.run(["cat", &format!("row{n}"), "row"]).ok().stdout == row(n)
}
