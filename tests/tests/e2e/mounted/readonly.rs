//! Every call that would change something is answered as a real read-only file system answers it.
//!
//! The same tree stands in both mounts and on an ext4 that is mounted read-only; `calls.c` asks all three, as root and as somebody else, and
//! the answers are compared. No right answer is written down here, except the few that may differ, each with its reason.
//! pjdfstest makes what it asks of, so it cannot be run on what is read-only; those of its cases that such a file system can be asked are in
//! `calls.c`, each for every call.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::symlink;
use std::path::Path;

use provender_tests::loop_disk::LoopDisk;

use super::{Site, latest, succeeds};

const SOMEBODY: &[&str] = &["--reuid", "65534", "--regid", "65534", "--clear-groups"];

/// Answers that may differ: how the call begins, on what it is made, and why.
const DIFFER: &[(&str, &str, &str)] = &[
    (
        "ioctl(fd, FS_IOC_GETFLAGS",
        "",
        "the view has none of ext4's attributes (as chattr sets them), and asking changes nothing",
    ),
    ("ioctl(fd, FS_IOC_FSGETXATTR", "", "likewise"),
];

/// The entries that `calls.c` knows; the tool is itself.
fn tree(at: &Path, asker: &Path) {
    std::fs::create_dir_all(at.join("folder")).unwrap();
    std::fs::create_dir(at.join("bare")).unwrap();
    let files = [("file", 5_000), ("folder/file", 100), ("empty", 0), (&"n".repeat(255), 10)];
    for (path, size) in files {
        std::fs::write(at.join(path), vec![b'#'; size]).unwrap();
    }
    std::fs::copy(asker, at.join("tool")).unwrap();
    for (to, link) in [
        ("file", "to_file"),
        ("folder", "to_folder"),
        ("missing", "dangling"),
        ("loop2", "loop1"),
        ("loop1", "loop2"),
        ("self", "self"),
    ] {
        symlink(to, at.join(link)).unwrap();
    }
}

/// What a file system answers, by call.
fn answers(asker: &Path, at: &Path, other: &Path, who: &[&str]) -> BTreeMap<String, String> {
    // Where it is, it asks from there, so that it also asks for a program that is being run.
    let tool = at.join("tool");
    let asker = if tool.exists() { &tool } else { asker };
    let (asker, at, other) = (asker.to_str().unwrap(), at.to_str().unwrap(), other.to_str().unwrap());
    let there = ["env", "-C", at, asker, other];
    let said = succeeds(&[&["setpriv"][..], who, &there].concat()).out();
    let lines = said.lines().map(|line| line.rsplit_once(": ").unwrap_or_else(|| panic!("{line:?}")));
    lines.map(|(call, answer)| (call.to_owned(), answer.to_owned())).collect()
}

/// Which line of [`DIFFER`] says why the answer to a call may be another.
fn excuse(call: &str) -> Option<usize> {
    DIFFER.iter().position(|(what, on, _)| call.starts_with(what) && call.contains(on))
}

#[test]
fn each_call_is_answered_as_by_a_read_only_ext4() {
    let site = Site::new();
    let asker = site.path("calls");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/mounted/calls.c");
    succeeds(&["cc", "-D_FILE_OFFSET_BITS=64", "-Wall", "-Werror", "-o", asker.to_str().unwrap(), source]);
    tree(&site.world.path("tree"), &asker);
    site.put("tree", "tree");

    // A copy of what the mount shows, so with its permissions, owner and depth.
    let disks = site.path("disks");
    std::fs::create_dir(&disks).unwrap();
    let disk = LoopDisk::mount(&disks, 16 << 20, &["mkfs.ext4", "-m", "0"]);
    let shown = latest(&site.own(), "tree");
    let (model, other) = (disk.path().join("tree"), site.path("other"));
    succeeds(&["cp", "-a", shown.join(".").to_str().unwrap(), model.to_str().unwrap()]);
    std::fs::set_permissions(disk.path(), std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
    succeeds(&["mount", "-o", "remount,ro,nosuid,nodev", disk.path().to_str().unwrap()]);
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("other"), "").unwrap();
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();

    let (mut wrong, mut excused) = (Vec::new(), BTreeSet::new());
    for (called, who) in [("root", &[][..]), ("somebody", SOMEBODY)] {
        let of_tree = answers(&asker, &model, &other, who);
        assert!(of_tree.len() > 10_000, "{}", of_tree.len());
        for point in site.both() {
            // Also a folder of the view itself, where nothing is called so. Once: each missing name is a question to the store.
            let once = who.is_empty() && point == site.own();
            let of_nothing = once.then(|| answers(&asker, &model.join("bare"), &other, who));
            let shown = [(latest(&point, "tree"), Some(&of_tree)), (point.join("tasks"), of_nothing.as_ref())];
            for (at, right) in shown.into_iter().filter_map(|(at, right)| Some((at, right?))) {
                let given = answers(&asker, &at, &other, who);
                assert_eq!(given.len(), right.len());
                for (call, answer) in right.iter().filter(|(call, answer)| given[*call] != **answer) {
                    match excuse(call) {
                        Some(line) => drop(excused.insert(line)),
                        None => wrong.push(format!("{call}, in {at:?} as {called}: {answer}, here {}", given[call])),
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} answers differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(
        excused.len(),
        DIFFER.len(),
        "a line of DIFFER can go: only those with these numbers are needed: {excused:?}"
    );
    // Nothing has come of it.
    assert_eq!(crate::world::snapshot(&shown), crate::world::snapshot(&site.world.path("tree")));
}
