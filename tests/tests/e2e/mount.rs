//! `provenderd --mount`: the same bytes as `get`, read-only, gone with the daemon.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use provender_tests::daemon::Daemon;
use tempfile::TempDir;

use crate::mounted::is_mounted;
use crate::world::{World, folder, odd_folder, snapshot};

/// A world whose store is also mounted; what is left mounted by a daemon that was killed goes with it.
pub(crate) struct Mounted {
    world: World,
    place: TempDir,
}

impl Mounted {
    pub(crate) fn new() -> Mounted {
        Mounted::with("")
    }

    /// With a daemon of this configuration (TOML).
    pub(crate) fn with(config: &str) -> Mounted {
        let place = folder();
        let world = World::with(config, &["--mount", place.path().join("m").to_str().unwrap()]);
        Mounted { world, place }
    }

    fn point(&self) -> PathBuf {
        self.place.path().join("m")
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    pub(crate) fn daemon(&mut self) -> &mut Daemon {
        &mut self.world.daemon
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.point().join(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.world.daemon.signal(rustix::process::Signal::KILL);
        if is_mounted(&self.point()) {
            let _ = Command::new("umount").arg("--lazy").arg(self.point()).status();
        }
    }
}

#[test]
fn it_shows_what_get_restores() {
    let mounted = Mounted::new();
    let world = &mounted.world;
    odd_folder(&world.path("odd"));
    let ran = world
        .run(&["--name", "some/name", "--in", "odd", "--out", "out"], "cp -a odd out; echo to-out; echo to-err >&2");
    let id = ran.ok().record()["execution"].as_str().unwrap().to_owned();
    world.cli(&["get", "some/name", "got"]).ok();
    let latest = mounted.at("tasks/some/name/latest");
    assert_eq!(snapshot(&latest.join("out")), snapshot(&world.path("got")));
    assert_eq!(snapshot(&latest.join("out/out")), snapshot(&world.path("odd")));

    // What is said of it.
    let shown = world.cli(&["--json", "show", "some/name"]).ok().json();
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(latest.join("record.json")).unwrap()).unwrap();
    assert_eq!((&record, record["execution"].as_str()), (&shown["record"], Some(id.as_str())));
    let spec: serde_json::Value = serde_json::from_slice(&std::fs::read(latest.join("spec.json")).unwrap()).unwrap();
    assert_eq!(spec, shown["spec"]);
    let read = |name: &str| std::fs::read_to_string(latest.join(name)).unwrap();
    assert_eq!((read("stdout"), read("stderr")), ("to-out\n".into(), "to-err\n".into()));
}

#[test]
fn latest_moves_with_successes_alone() {
    let mounted = Mounted::new();
    let world = &mounted.world;
    let run = |script: &str| world.run(&["--name", "n", "--out", "out"], script);
    let latest = || std::fs::read_to_string(mounted.at("tasks/n/latest/out/out")).unwrap();
    run("echo 1 >out").ok();
    assert_eq!(latest(), "1\n");
    run("echo 2 >out").ok();
    assert_eq!(latest(), "2\n");
    run("echo 3 >out; echo why >&2; exit 1").code(1);
    assert_eq!(latest(), "2\n");
    assert_eq!(run("echo 1 >out").ok().result(), "hit");
    assert_eq!(latest(), "1\n", "a hit is the latest too");
    // Two records and `latest`.
    assert_eq!(mounted.at("tasks/n").read_dir().unwrap().count(), 3);
}

#[test]
fn nothing_in_it_can_be_changed() {
    let mounted = Mounted::new();
    mounted.world.run(&["--name", "n", "--out", "out"], "mkdir out; echo kept >out/file").ok();
    let out = mounted.at("tasks/n/latest/out/out");
    let refused = |result: std::io::Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    refused(std::fs::write(out.join("file"), "x"));
    refused(std::fs::write(out.join("new"), "x"));
    refused(std::fs::remove_file(out.join("file")));
    refused(std::fs::create_dir(mounted.at("tasks/mine")));
    refused(std::fs::rename(out.join("file"), out.join("moved")));
    refused(std::fs::set_permissions(out.join("file"), std::os::unix::fs::PermissionsExt::from_mode(0o600)));
    assert_eq!(std::fs::read_to_string(out.join("file")).unwrap(), "kept\n");
}

#[test]
fn a_stop_unmounts_and_a_stale_one_is_cleared() {
    let mut mounted = Mounted::new();
    mounted.world.run(&["--name", "n", "--out", "out"], "echo made >out").ok();
    let made = mounted.at("tasks/n/latest/out/out");
    assert!(is_mounted(&mounted.point()));
    mounted.world.daemon.kill();
    assert!(is_mounted(&mounted.point()), "nobody was left to unmount it");
    assert_eq!(std::fs::read(&made).unwrap_err().kind(), ErrorKind::NotConnected);
    mounted.world.daemon.restart();
    assert_eq!(std::fs::read_to_string(&made).unwrap(), "made\n");

    // Also while somebody has a file open.
    let open = std::fs::File::open(&made).unwrap();
    mounted.world.daemon.stop();
    assert!(!is_mounted(&mounted.point()));
    assert_eq!(mounted.point().read_dir().unwrap().count(), 0);
    drop(open);
    mounted.world.daemon.restart();
    assert_eq!(std::fs::read_to_string(&made).unwrap(), "made\n");
}

#[test]
fn a_bad_mount_point_is_named() {
    let world = World::new();
    world.write("full/file", "");
    let refused = |point: &Path| {
        let flags = ["--mount", point.to_str().unwrap()];
        Daemon::refused(&world.root().join("d2"), &flags).code(1)
    };
    refused(&world.path("full")).says(&["full", "not empty"]);
    refused(&world.path("full/file")).says(&["not a directory"]);
}
