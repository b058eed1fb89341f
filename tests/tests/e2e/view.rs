//! The mounted view, whole: by `provenderd --mount` and by `provender mount`, which must show the same.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use provender_tests::child::{eventually, string};

use crate::mounted::{Site, is_mounted};
use crate::world::{World, odd_folder, snapshot};

/// The one execution of a name that is not `latest`, for a name that has one.
fn folder_of(site: &Site, branch: &str, name: &str) -> PathBuf {
    let all = std::fs::read_dir(site.own().join(branch).join(name)).unwrap();
    let mut all: Vec<_> = all.map(|entry| entry.unwrap().file_name()).filter(|name| name != "latest").collect();
    assert_eq!(all.len(), 1, "{all:?}");
    Path::new(branch).join(name).join(all.pop().unwrap())
}

#[track_caller]
fn succeeds(program: &str, args: &[&std::ffi::OsStr]) -> String {
    let out = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program} runs here: {error}"));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.is_empty(), "{program} {args:?}: {} {said}", out.status);
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn xattr(path: &Path, name: &str) -> String {
    let mut value = vec![0; 4096];
    let size =
        rustix::fs::getxattr(path, name, &mut value[..]).unwrap_or_else(|error| panic!("{path:?} {name}: {error}"));
    value.truncate(size);
    String::from_utf8(value).unwrap()
}

/// A little store with all that the view can show.
fn furnish(world: &World) {
    odd_folder(&world.path("odd"));
    world.write("source", "source");
    world
        .run(&["--name", "lib/made", "--in", "odd", "--in", "source", "--out", "out"], "cp -a odd out; echo said")
        .ok();
    let used = ["--name", "app", "--in", "LIB=lib/made", "--in", "source", "--out", "app"];
    world.run(&used, "ls $PROVENDER_IN_LIB/out >app; echo gone >&2").ok();
    world.run(&["--name", "app/test"], "echo it broke >&2; exit 3").code(3);
    world.write("put", "put by hand");
    world.cli(&["put", "put", "--name", "by hand"]).ok();
    world.run(&["--name", "of/bytes", "--in", "app", "--out", "copy"], "cp app copy").ok();
}

#[test]
fn everything_made_is_found_by_name_key_and_provenance() {
    let site = Site::new();
    let world = &site.world;
    furnish(world);
    let (lib, app) = (folder_of(&site, "tasks", "lib/made"), folder_of(&site, "tasks", "app"));
    let failed = folder_of(&site, "failed", "app/test");
    let copy = folder_of(&site, "tasks", "of/bytes");
    for point in site.both() {
        let at =
            |path: &Path| std::fs::canonicalize(point.join(path)).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let text = |path: PathBuf| std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));

        assert_eq!(snapshot(&point.join(&lib).join("out/out")), snapshot(&world.path("odd")));
        assert_eq!(at(&Path::new("tasks/lib/made/latest").join("out")), at(&lib.join("out")));

        // By key.
        let key = string(&world.cli(&["--json", "show", "app"]).ok().json()["record"]["key"]);
        let (scheme, id) = key.split_once(':').unwrap();
        assert_eq!(at(&Path::new("keys").join(scheme).join(id)), at(&app));
        assert_eq!(xattr(&point.join(&app), "user.provender.key"), key);
        assert_eq!(xattr(&point.join(&app), "user.provender.name"), "app");
        assert_eq!(xattr(&point.join("tasks/lib/made"), "user.provender.name"), "lib/made");
        let record: serde_json::Value = serde_json::from_str(&text(point.join(&app).join("record.json"))).unwrap();
        assert_eq!(xattr(&point.join(&app), "user.provender.execution"), string(&record["execution"]));
        let digest = provender_core::Digest::of(&std::fs::read(point.join(&app).join("out/app")).unwrap()).hex();
        assert_eq!(xattr(&point.join(&app).join("out/app"), "user.provender.digest"), digest);

        // What it was made of: another's outputs, and a file whose bytes the store was never given.
        assert_eq!(at(&app.join("inputs/LIB")), at(&lib));
        let unheld: serde_json::Value =
            serde_json::from_str(&text(point.join(&app).join("inputs/source.json"))).unwrap();
        assert!(unheld.to_string().contains(&provender_core::Digest::of(b"source").hex()), "{unheld}");
        // What was made by a task is known by its bytes, too.
        assert_eq!(at(&copy.join("inputs/app")), at(&app));

        // What was made of it.
        let users: Vec<_> =
            point.join(&lib).join("used-by").read_dir().unwrap().map(|user| user.unwrap().path()).collect();
        assert_eq!(users.len(), 1, "{users:?}");
        assert_eq!(std::fs::canonicalize(&users[0]).unwrap(), at(&app));
        assert!(users[0].file_name().unwrap().as_bytes().starts_with(b"app@"));
        let user = point.join(&app).join("used-by").read_dir().unwrap().next().unwrap().unwrap();
        assert!(user.file_name().as_bytes().starts_with(b"of%2Fbytes@"), "{user:?}");

        // A failure, apart.
        assert_eq!(text(point.join(&failed).join("stderr")), "it broke\n");
        assert!(!point.join("tasks/app/test").exists() && !point.join(&failed).join("out").exists());
        let record: serde_json::Value = serde_json::from_str(&text(point.join(&failed).join("record.json"))).unwrap();
        assert_eq!(record["exit"], serde_json::json!({"code": 3}), "{record}");
        assert!(!point.join("failed/lib").exists());
    }
}

/// All paths below a folder with what `stat` tells, following no link; timestamps too.
fn listing(point: &Path) -> BTreeMap<OsString, (u32, u64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let metadata = point.join(&path).symlink_metadata().unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let content = match metadata.file_type() {
            kind if kind.is_symlink() => std::fs::read_link(point.join(&path)).unwrap().into_os_string().into_vec(),
            kind if kind.is_dir() => {
                let entries = std::fs::read_dir(point.join(&path)).unwrap();
                left.extend(entries.map(|entry| path.join(entry.unwrap().file_name())));
                Vec::new()
            }
            _ => std::fs::read(point.join(&path)).unwrap(),
        };
        // Folders that stand for no execution show when they were mounted.
        let timeless = path.components().count() < 2 || (path.starts_with("keys") && metadata.is_dir());
        let time = if timeless { 0 } else { metadata.mtime() };
        found.insert(path.into_os_string(), (metadata.mode(), metadata.size(), time, content));
    }
    found
}

#[test]
fn both_mounts_show_the_same_and_common_tools_walk_them() {
    let site = Site::new();
    let world = &site.world;
    furnish(world);
    let (own, remote) = (site.own(), site.remote());
    let (ours, theirs) = (listing(&own), listing(&remote));
    for (path, entry) in &ours {
        assert_eq!(theirs.get(path), Some(entry), "{path:?}");
    }
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.len() > 50, "{}", ours.len());

    let copies = site.path("copies");
    std::fs::create_dir(&copies).unwrap();
    for (n, point) in site.both().iter().enumerate() {
        let found = succeeds("find", &[point.as_os_str(), "-print0".as_ref()]);
        assert_eq!(found.matches('\0').count(), ours.len());
        succeeds(
            "find",
            &["-L".as_ref(), point.join("tasks/app/latest/out").as_os_str(), "-type".as_ref(), "f".as_ref()],
        );
        let copied = copies.join(format!("cp{n}"));
        succeeds("cp", &["-a".as_ref(), point.as_os_str(), copied.as_os_str()]);
        succeeds("diff", &["-r".as_ref(), "--no-dereference".as_ref(), point.as_os_str(), copied.as_os_str()]);
        // Links are relative, so they lead within the copy.
        assert!(copied.join("tasks/app/latest/inputs/LIB/out/out/tool").starts_with(&copied));
        assert_eq!(std::fs::read_to_string(copied.join("tasks/app/latest/inputs/LIB/stdout")).unwrap(), "said\n");
        let synced = copies.join(format!("rsync{n}/"));
        succeeds("rsync", &["-a".as_ref(), point.join("").as_os_str(), synced.as_os_str()]);
        succeeds("diff", &["-r".as_ref(), "--no-dereference".as_ref(), point.as_os_str(), synced.as_os_str()]);
        let archive = copies.join(format!("tar{n}"));
        succeeds("tar", &["-cf".as_ref(), archive.as_os_str(), "-C".as_ref(), point.as_os_str(), ".".as_ref()]);
        assert!(
            succeeds("grep", &["-rl".as_ref(), "it broke".as_ref(), point.as_os_str()]).contains("/failed/app/test/")
        );
        succeeds("du", &["-s".as_ref(), point.as_os_str()]);
        world.cli(&["get", "lib/made", copies.join(format!("get{n}")).to_str().unwrap()]).ok();
        let out = point.join("tasks/lib/made/latest/out");
        succeeds(
            "diff",
            &["-r".as_ref(), "--no-dereference".as_ref(), out.as_os_str(), copies.join(format!("get{n}")).as_os_str()],
        );
    }
}

#[test]
fn a_name_can_be_anything_and_one_key_can_have_several() {
    let site = Site::new();
    let world = &site.world;
    let long = "n".repeat(255);
    let longest = ["m".repeat(255), "o".repeat(255), "p".repeat(255), "q".repeat(256)].join("/");
    let names = [
        "with space",
        "\u{fc}\u{2603}\u{1f4e6}",
        "100%",
        "%41",
        "latest",
        "a/latest/b",
        "out",
        "inputs/stdout",
        "record.json",
        "2026-11-21T18-02-11Z-566a13d4",
        "2026-11-21T18-02-11Z-566a13d4.2",
        "pkg:target",
        "a",
        "a/b",
        &long,
        &longest,
    ];
    for (n, name) in names.iter().enumerate() {
        world.run(&["--name", name, "--out", "out"], &format!("echo {n} >out")).ok();
        // A second success within the second, most likely.
        world.run(&["--name", name, "--out", "out"], &format!("echo {n} again >out")).ok();
    }
    for point in site.both() {
        let mut found = BTreeMap::new();
        for (path, _) in listing(&point.join("tasks")) {
            let path = point.join("tasks").join(path);
            if path.join("latest").exists() && path.join("latest").is_symlink() {
                let latest = std::fs::read_to_string(path.join("latest/out/out")).unwrap();
                assert_eq!(
                    path.read_dir()
                        .unwrap()
                        .filter(|entry| entry.as_ref().unwrap().path().join("out").exists())
                        .count()
                        - 1,
                    2,
                    "{path:?}"
                );
                found.insert(xattr(&path, "user.provender.name"), latest);
            }
        }
        let expected: BTreeMap<_, _> =
            names.iter().enumerate().map(|(n, name)| ((*name).to_owned(), format!("{n} again\n"))).collect();
        assert_eq!(found, expected);
    }
    // One key, three names.
    for name in ["one", "two", "three/deep"] {
        world.run(&["--name", name, "--out", "shared"], "echo shared >shared").ok();
    }
    for point in site.both() {
        for name in ["one", "two", "three/deep"] {
            assert_eq!(
                std::fs::read_to_string(point.join("tasks").join(name).join("latest/out/shared")).unwrap(),
                "shared\n"
            );
        }
    }
}

#[test]
fn mount_and_umount_do_what_they_say() {
    let site = Site::new();
    let world = &site.world;
    let (remote, place) = (site.remote(), site.place.path());
    assert!(is_mounted(&remote));
    world.cli(&["mount", remote.to_str().unwrap()]).code(1).says(&["mounted there already"]);
    let other = place.join("full");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("file"), "").unwrap();
    world.cli(&["mount", other.to_str().unwrap()]).code(1).says(&["not empty"]);
    world.cli(&["mount", other.join("file").to_str().unwrap()]).code(1).says(&["not a directory"]);
    world.cli(&["umount", other.to_str().unwrap()]).code(1).says(&["no provender is mounted"]);
    let nowhere = format!("unix:{}", place.join("none.sock").display());
    world.cli(&["--remote", &nowhere, "mount", place.join("new").to_str().unwrap()]).code(125).says(&["none.sock"]);

    // A server that was killed leaves a mount that the next one clears; an open file goes on after an umount.
    world.run(&["--name", "n", "--out", "out"], "echo made >out").ok();
    let made = remote.join("tasks/n/latest/out/out");
    let program = provender_tests::child::program("provender");
    let servers = || provender_tests::child::mounting(program.to_str().unwrap(), remote.to_str().unwrap());
    let [server] = servers()[..] else { panic!("{:?}", servers()) };
    rustix::process::kill_process(server, rustix::process::Signal::KILL).unwrap();
    eventually("the mount is dead", || std::fs::read(&made).is_err());
    world.cli(&["mount", remote.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read_to_string(&made).unwrap(), "made\n");
    world.cli(&["umount", remote.to_str().unwrap()]).ok();
    assert!(!is_mounted(&remote));
    eventually("its server ends", || servers().is_empty());

    // In the foreground, until a signal comes.
    let mut running = world.provender.start(["mount", "--foreground", remote.to_str().unwrap()]);
    eventually("it is mounted", || is_mounted(&remote));
    assert!(running.ended().is_none());
    running.signal(rustix::process::Signal::TERM);
    running.wait().ok();
    assert!(!is_mounted(&remote));
}

#[test]
fn nothing_in_either_can_be_changed() {
    use std::io::ErrorKind::ReadOnlyFilesystem;
    let site = Site::new();
    furnish(&site.world);
    for point in site.both() {
        let out = point.join("tasks/app/latest/out");
        let refused = |result: std::io::Result<()>| assert_eq!(result.unwrap_err().kind(), ReadOnlyFilesystem);
        refused(std::fs::write(out.join("app"), "x"));
        refused(std::fs::write(out.join("new"), "x"));
        refused(std::fs::remove_file(out.join("app")));
        refused(std::fs::remove_file(point.join("tasks/app/latest")));
        refused(std::fs::create_dir(point.join("keys/mine")));
        refused(std::fs::rename(out.join("app"), out.join("moved")));
        refused(std::os::unix::fs::symlink("a", point.join("failed/link")));
        refused(std::fs::hard_link(out.join("app"), out.join("hard")));
        refused(std::fs::File::options().write(true).open(out.join("app")).map(drop));
        let set = rustix::fs::setxattr(out.join("app"), "user.provender.digest", b"x", rustix::fs::XattrFlags::empty());
        assert_eq!(set, Err(rustix::io::Errno::ROFS));
    }
}
