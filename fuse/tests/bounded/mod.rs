//! Running a test's body so that it ends, and leaves nothing mounted, whatever it does.

use std::fs;
use std::path::Path;
use std::process::Command;

const SCRATCH: &str = "PROVENDER_TEST_SCRATCH";
/// How long a body may take before its process is killed, in seconds.
const BOUND: &str = "120";

/// Runs `body` in a process of its own, which is killed if it takes too long, with an empty folder. `test` is the name of the
/// calling test, by which that process finds its way back here.
pub(crate) fn bounded(test: &str, body: impl FnOnce(&Path)) {
    if let Some(scratch) = std::env::var_os(SCRATCH) {
        return body(Path::new(&scratch));
    }
    check();
    let scratch = tempfile::tempdir().expect("a folder");
    let path = scratch.path().canonicalize().expect("there");
    let output = Command::new("timeout")
        .args(["--signal=KILL", BOUND])
        .arg(std::env::current_exe().expect("known"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(SCRATCH, &path)
        .output()
        .expect("timeout (coreutils) is there");
    let left: Vec<String> = mounts().filter(|point| Path::new(point).starts_with(&path)).collect();
    for point in &left {
        // Before the folder is removed, or removing it would meet the mount.
        let _ = Command::new("umount").args(["-l", "--"]).arg(point).status();
    }
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{said}", output.status);
    assert!(said.contains("1 passed"), "no test is called {test}: {said}");
    assert_eq!(left, Vec::<String>::new(), "left mounted");
}

/// Says what is missing, instead of failing somehow.
fn check() {
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    assert!(device.is_ok(), "these tests mount: they take a /dev/fuse that this user can open ({device:?})");
    let has_helper = || Command::new("fusermount3").arg("--version").output().is_ok();
    let can_mount = rustix::process::geteuid().is_root() || has_helper();
    assert!(can_mount, "these tests mount: they take root, or fusermount3 (Debian package fuse3)");
}

/// Runs a command that must succeed, within bounds, and gives what it prints.
pub(crate) fn run(command: &mut Command) -> String {
    let mut bounded = Command::new("timeout");
    bounded.args(["--signal=KILL", "60"]).arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        bounded.current_dir(folder);
    }
    let output = bounded.output().expect("timeout (coreutils) is there");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {} {said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// How many mounts there are at a path (without symlinks).
pub(crate) fn tables_at(point: &Path) -> usize {
    mounts().filter(|mount| Path::new(mount) == point).count()
}

fn mounts() -> impl Iterator<Item = String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("readable");
    let points: Vec<String> =
        table.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| point.replace("\\040", " ")).collect();
    points.into_iter()
}
