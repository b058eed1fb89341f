//! Everything that the view shows, through the kernel and the programs that people use.

use std::collections::BTreeSet;

use bytes::Bytes;
use provender_fuse::Entry;
use provender_fuse::memory::Wanted;

use super::*;

/// Two successes that read what each other made, a third under a nasty name, a failure and a hit.
struct Store {
    source: Arc<MemorySource>,
    /// Folders, relative to the mount.
    lib: String,
    app: String,
    odd: String,
    failed: String,
}

const NEEDLE: &str = "the needle in the haystack\n";

fn attempt(source: &MemorySource, task: &str, id: &str, inputs: &[(&[u8], Wanted)]) -> Attempt {
    let (stdout, stderr) = (Some(source.put("said\n")), Some(source.put("")));
    let inputs = inputs.iter().map(|(name, wanted)| (Bytes::copy_from_slice(name), wanted.clone())).collect();
    Attempt { stdout, stderr, inputs, ..Attempt::new(name(task), key(id), AT) }
}

fn made_by(id: &str) -> Wanted {
    Wanted { key: Some(key(id)), content: None }
}

fn store(scratch: &Path) -> Store {
    let made = scratch.join("made");
    fs::create_dir(&made).expect("made");
    make(&made);
    fs::write(made.join("needle"), NEEDLE).expect("written");
    let source = Arc::new(MemorySource::new());
    let outputs = ingest(&source, &made);
    let content = |node| Wanted { key: None, content: Some(node) };
    let run = Node::File { digest: source.put("#!/bin/sh\necho held\n"), executable: true };
    let lost = Node::File { digest: Digest::of(b"never stored"), executable: false };
    let inputs = [
        (&b"app"[..], made_by("c0ffee00")),
        (b"bin/run", content(run)),
        (b"folder", content(Node::Directory { digest: outputs })),
        (b"link", content(Node::Symlink { target: "bin/run".into() })),
        (b"lost", content(lost.clone())),
        (b"lost.json", content(lost)),
        (b"later", made_by("1a7e0000")),
        (b"\xff\n", made_by("c0ffee00")),
    ];
    let lib = source.commit(Attempt { outputs: Some(outputs), ..attempt(&source, "zstd/lib", "566a13d4", &inputs) });
    let app = attempt(&source, "app", "c0ffee00", &[(b"lib", made_by("566a13d4"))]);
    let app = source.commit(Attempt { outputs: Some(source.put_tree(&Tree::new()).expect("small")), ..app });
    let nasty = format!("latest/out/100% 😀\u{202e}/{}", "é".repeat(200));
    let odd = source.commit(attempt(&source, &nasty, "%/..", &[(b"lib", made_by("566a13d4"))]));
    let failed = source.fail(attempt(&source, "app", "bad00000", &[]));
    source.hit(&name("another/name/of/lib"), &key("566a13d4")).expect("a success");
    let folder = |branch: &str, entry: &Entry| {
        let parts: Vec<String> = entry.name.parts().map(provender_core::view::encode).collect();
        format!("{branch}/{}/{}", parts.join("/"), entry.folder)
    };
    let (lib, app, odd) = (folder("tasks", &lib), folder("tasks", &app), folder("tasks", &odd));
    Store { source, lib, app, odd, failed: folder("failed", &failed) }
}

/// The names in a folder.
fn names(folder: &Path) -> BTreeSet<Vec<u8>> {
    let entries = fs::read_dir(folder).expect("readable");
    entries.map(|entry| entry.expect("readable").file_name().as_bytes().to_vec()).collect()
}

#[test]
fn links_lead_to_folders() {
    bounded("whole::links_lead_to_folders", |scratch| {
        let (Store { source, lib, app, odd, failed }, point) = (store(scratch), scratch.join("point"));
        let _mount = mount(&source, &point).expect("mounted");
        let same = |link: String, folder: &str| {
            let led = point.join(&link).canonicalize().unwrap_or_else(|error| panic!("{link}: {error}"));
            assert_eq!(led, point.join(folder), "{link}");
        };
        same("keys/run/566a13d4".into(), &lib);
        same("keys/run/%25%2F..".into(), &odd);
        same("tasks/app/latest".into(), &app);
        same(format!("{lib}/inputs/app"), &app);
        same(format!("{app}/inputs/lib"), &lib);
        same(format!("{odd}/inputs/lib/inputs/app/inputs/lib"), &lib);
        let app_folder = app.rsplit('/').next().expect("a folder");
        same(format!("{lib}/used-by/app@{app_folder}"), &app);
        let hit = lib.replace("zstd/lib", "another/name/of/lib");
        same(format!("{hit}/used-by/app@{app_folder}"), &app);
        for folder in [&lib, &hit] {
            let used_by = point.join(folder).join("used-by");
            assert_eq!(names(&used_by).len(), 2);
            let mut led: Vec<PathBuf> =
                names(&used_by).iter().map(|link| used_by.join(OsStr::from_bytes(link))).collect();
            led.iter_mut().for_each(|link| *link = link.canonicalize().expect("leads there"));
            assert!(led.contains(&point.join(&app)) && led.contains(&point.join(&odd)));
        }

        let inputs = point.join(&lib).join("inputs");
        let expected: [&[u8]; 8] =
            [b"%FF%0A", b"app", b"bin%2Frun", b"folder", b"later.json", b"link", b"lost%2Ejson", b"lost.json.json"];
        assert_eq!(names(&inputs), expected.map(<[u8]>::to_vec).into());
        assert_eq!(run(&mut Command::new(inputs.join("bin%2Frun"))), "held\n");
        assert_eq!(inventory(&inputs.join("folder")), inventory(&scratch.join("made")));
        assert_eq!(fs::read_link(inputs.join("link")).expect("a link"), Path::new("bin/run"));
        let document = fs::read(inputs.join("later.json")).expect("readable");
        assert_eq!(fs::metadata(inputs.join("later.json")).expect("there").len(), document.len() as u64);

        let documents: [&[u8]; 4] = [b"record.json", b"spec.json", b"stderr", b"stdout"];
        assert_eq!(names(&point.join(&failed)), documents.map(<[u8]>::to_vec).into());
        assert_eq!(fs::read(point.join(&failed).join("stdout")).expect("readable"), b"said\n");
        for missing in ["failed/app/latest", "keys/none", "keys/run/none", "keys/Run", "tasks/out", "failed/zstd"] {
            let error = fs::symlink_metadata(point.join(missing)).expect_err(missing);
            assert_eq!(errno(error), Errno::NOENT, "{missing}");
        }

        // The key is learned: soon the file is gone, and the link is there. The test as a whole has a limit.
        let later = source.commit(attempt(&source, "later", "1a7e0000", &[])).folder;
        while fs::symlink_metadata(inputs.join("later")).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        same(format!("{lib}/inputs/later"), &format!("tasks/later/{later}"));
        let gone = errno(fs::read(inputs.join("later.json")).expect_err("made by now"));
        assert!([Errno::NOENT, Errno::STALE].contains(&gone), "{gone}");
        assert!(!names(&inputs).contains(&b"later.json"[..]));
        source.invalidate(&key("566a13d4"));
        assert!(fs::symlink_metadata(point.join("keys/run/566a13d4")).is_err());
        assert!(fs::symlink_metadata(point.join("tasks/zstd/lib/latest")).is_err());
    });
}

#[test]
fn programs_walk_everything() {
    bounded("whole::programs_walk_everything", |scratch| {
        let (Store { source, lib, app, .. }, point) = (store(scratch), scratch.join("point"));
        let _mount = mount(&source, &point).expect("mounted");
        let all = inventory(&point);
        let count = |kind: &str| {
            let found = run(Command::new("find").arg(&point).args(["-mindepth", "1", "-type", kind, "-printf", "x"]));
            found.len()
        };
        let of = |mode: u32| all.values().filter(|(found, ..)| found & 0o170_000 == mode).count();
        assert_eq!((count("d"), count("f"), count("l")), (of(0o040_000), of(0o100_000), of(0o120_000)));
        assert!(all.len() > 100, "{}", all.len());

        // The needle is in `out` of two folders of one success, and in an input of both.
        let grep = run(Command::new("grep").args(["-rlF", NEEDLE.trim()]).arg(&point));
        let found: BTreeSet<&str> = grep.lines().collect();
        assert_eq!((found.len(), grep.lines().count()), (4, 4), "{grep}");
        assert!(found.contains(&*format!("{}/{lib}/out/needle", point.display())));

        let (tar, copy, untarred) = (scratch.join("all.tar"), scratch.join("copy"), scratch.join("untarred"));
        fs::create_dir(&untarred).expect("made");
        run(Command::new("tar").arg("-C").arg(&point).arg("-cf").arg(&tar).arg("."));
        run(Command::new("tar").arg("-C").arg(&untarred).arg("-xf").arg(&tar));
        run(Command::new("cp").arg("-a").arg(&point).arg(&copy));
        for twin in [&copy, &untarred] {
            run(Command::new("diff").args(["-r", "--no-dereference"]).arg(&point).arg(twin));
            // The copy's links lead into the copy.
            let led = twin.join(&app).join("inputs/lib").canonicalize().expect("leads there");
            assert_eq!(led, twin.join(&lib));
            assert_eq!(twin.join("keys/run/c0ffee00").canonicalize().expect("leads there"), twin.join(&app));
            run(Command::new("chmod").args(["-R", "u+w"]).arg(twin));
        }
        run(Command::new("ls").args(["-lRa"]).arg(&point));

        // One file each, so that the same file is counted each time that it is met.
        let files = || all.values().filter(|(mode, ..)| mode & 0o170_000 != 0o040_000).map(|(_, size, _)| *size);
        let du = |how: &[&str]| -> u64 {
            let said = run(Command::new("du").args(["-s", "-l"]).args(how).arg(&point));
            said.split_whitespace().next().and_then(|sum| sum.parse().ok()).expect("a number")
        };
        assert_eq!(du(&["--block-size=512"]), files().map(|size| size.div_ceil(512)).sum::<u64>());
        assert_eq!(du(&["--apparent-size", "--block-size=1"]), files().sum::<u64>());
        assert!(run(Command::new("df").arg(&point)).contains("provender"));
        let said = rustix::fs::statvfs(&point).expect("told");
        assert_eq!((said.f_namemax, said.f_bavail), (255, 0));
        assert!(said.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    });
}

#[test]
fn attributes_say_what_it_is() {
    bounded("whole::attributes_say_what_it_is", |scratch| {
        let (Store { source, lib, odd, failed, .. }, point) = (store(scratch), scratch.join("point"));
        let _mount = mount(&source, &point).expect("mounted");
        let get = |path: &str, name: &str| {
            let mut value = vec![0; 4096];
            let len = rustix::fs::lgetxattr(point.join(path), format!("user.provender.{name}"), &mut value)?;
            value.truncate(len);
            Ok::<String, Errno>(String::from_utf8(value).expect("text"))
        };
        let list = |path: &str| {
            let mut names = vec![0; 4096];
            let len = rustix::fs::llistxattr(point.join(path), &mut names)?;
            Ok::<String, Errno>(String::from_utf8(names[..len].to_vec()).expect("text").replace("user.provender.", ""))
        };
        let entry = |branch, task: &str, folder: &str| {
            let folder = folder.rsplit('/').next().expect("a folder");
            source.entry(branch, &name(task), folder).expect("known").expect("there")
        };
        let made = entry(Branch::Tasks, "zstd/lib", &lib);
        assert_eq!(list(&lib), Ok("execution\0key\0name\0".to_owned()));
        assert_eq!(get(&lib, "execution"), Ok(made.id.to_string()));
        assert_eq!(get(&lib, "key"), Ok("run:566a13d4".into()));
        assert_eq!(get(&lib, "name"), Ok("zstd/lib".into()));
        assert_eq!(get(&failed, "key"), Ok("run:bad00000".into()));
        assert_eq!(get(&format!("{failed}/record.json"), "execution").map(|id| id.len()), Ok(32));
        assert_eq!(get(&format!("{lib}/spec.json"), "execution"), Ok(made.id.to_string()));
        // The whole name where its parts are encoded or shortened.
        let (folders, _) = odd.rsplit_once('/').expect("a path");
        let whole = format!("latest/out/100% 😀\u{202e}/{}", "é".repeat(200));
        assert_eq!((get(folders, "name"), get(&odd, "name")), (Ok(whole.clone()), Ok(whole)));
        assert_eq!(get("tasks/zstd", "name"), Ok("zstd".into()));
        assert_eq!(get("failed/app", "name"), Ok("app".into()));

        let digest = |path: &str| get(path, "digest");
        assert_eq!(digest(&format!("{lib}/out")), Ok(made.outputs.expect("some").hex()));
        assert_eq!(digest(&format!("{lib}/out/plain")), Ok(Digest::of(b"plain").hex()));
        assert_eq!(digest(&format!("{lib}/stdout")), Ok(Digest::of(b"said\n").hex()));
        assert_eq!(digest(&format!("{lib}/inputs/folder")), digest(&format!("{lib}/out")));
        assert_eq!(list(&format!("{lib}/out/deep")), Ok("digest\0".to_owned()));

        let none: [&str; 8] = ["", "tasks", "keys", "keys/run", "tasks/app/latest", "keys/run/566a13d4", &lib, &failed];
        assert!(none.iter().all(|path| digest(path) == Err(Errno::NODATA)));
        assert_eq!(list("tasks"), Ok(String::new()));
        assert_eq!(get(&format!("{lib}/inputs/later.json"), "digest"), Err(Errno::NODATA));

        // Sizes: asked for, too small, and exact.
        let (path, attribute) = (point.join(&lib), "user.provender.key");
        assert_eq!(rustix::fs::getxattr_query(&path, attribute), Ok(12));
        assert_eq!(rustix::fs::getxattr(&path, attribute, &mut [0; 11]), Err(Errno::RANGE));
        assert_eq!(rustix::fs::getxattr(&path, attribute, &mut [0; 12]), Ok(12));
        let all = "user.provender.execution\0user.provender.key\0user.provender.name\0".len();
        assert_eq!(rustix::fs::listxattr_query(&path), Ok(all));
        assert_eq!(rustix::fs::listxattr(&path, &mut vec![0; all - 1][..]), Err(Errno::RANGE));
        assert_eq!(rustix::fs::setxattr(&path, attribute, b"x", XattrFlags::empty()), Err(Errno::ROFS));
        assert_eq!(rustix::fs::removexattr(&path, attribute), Err(Errno::ROFS));
    });
}

#[test]
fn nothing_can_be_changed_anywhere() {
    bounded("whole::nothing_can_be_changed_anywhere", |scratch| {
        let (Store { source, lib, failed, .. }, point) = (store(scratch), scratch.join("point"));
        let _mount = mount(&source, &point).expect("mounted");
        let before = inventory(&point);
        let edges = ["inputs", "used-by", "inputs/folder"].map(|edges| format!("{lib}/{edges}"));
        let here = ["", "tasks", "tasks/zstd", "keys", "keys/run", "failed", "failed/app", &lib, &failed];
        for folder in here.into_iter().chain(edges.iter().map(String::as_str)) {
            let folder = point.join(folder);
            let new = folder.join("new");
            let flags = OFlags::CREATE | OFlags::WRONLY;
            let mut refused = vec![
                ("create", rustix::fs::open(&new, flags, Mode::RUSR).map(|_| ())),
                ("mkdir", rustix::fs::mkdir(&new, Mode::RWXU)),
                ("symlink", rustix::fs::symlink("x", &new)),
                ("mknod", rustix::fs::mknodat(CWD, &new, rustix::fs::FileType::Fifo, Mode::RUSR, 0)),
                ("chmod", rustix::fs::chmod(&folder, Mode::RWXU)),
                ("setxattr", rustix::fs::setxattr(&folder, "user.x", b"x", XattrFlags::empty())),
                ("access", rustix::fs::access(&folder, rustix::fs::Access::WRITE_OK)),
            ];
            for entry in fs::read_dir(&folder).expect("readable") {
                let path = entry.expect("readable").path();
                let flags = if path.symlink_metadata().expect("there").is_dir() {
                    rustix::fs::AtFlags::REMOVEDIR
                } else {
                    rustix::fs::AtFlags::empty()
                };
                refused.push(("remove", rustix::fs::unlinkat(CWD, &path, flags)));
                refused.push(("rename", rustix::fs::rename(&path, &new)));
            }
            for (what, result) in refused {
                assert_eq!(result, Err(Errno::ROFS), "{what} in {folder:?}");
            }
        }
        assert_eq!(inventory(&point), before);
    });
}

#[test]
fn hostile_trees_cost_what_is_walked() {
    bounded("whole::hostile_trees_cost_what_is_walked", |scratch| {
        let (source, point) = (Arc::new(MemorySource::new()), scratch.join("point"));
        let file = Node::File { digest: source.put("at the end"), executable: false };
        let mut bottom = Tree::new();
        bottom.insert("f", file).expect("valid");
        let bottom = source.put_tree(&bottom).expect("small");
        let nest = |digest: Digest, names: &[&'static str]| {
            let mut tree = Tree::new();
            for name in names {
                tree.insert(*name, Node::Directory { digest }).expect("valid");
            }
            source.put_tree(&tree).expect("small")
        };
        let commit = |task: &str, outputs: Digest| {
            source.commit(Attempt { outputs: Some(outputs), ..Attempt::new(name(task), key(task), AT) });
            point.join(format!("tasks/{task}/latest/out"))
        };
        let deep = commit("deep", (0..10_000).fold(bottom, |digest, _| nest(digest, &["d"])));
        let wide = commit("wide", (0..40).fold(bottom, |digest, _| nest(digest, &["a", "b"])));
        let mut leads_out = b"provender tree 1\nl\x02..".to_vec();
        leads_out.extend(b"\x00\x04/etc");
        let evil = commit("evil", source.put(leads_out));
        let _mount = mount(&source, &point).expect("mounted");

        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let mut folder = rustix::fs::open(&deep, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("opened");
        for level in 0..10_000 {
            folder = rustix::fs::openat(&folder, "d", flags, Mode::empty())
                .unwrap_or_else(|error| panic!("level {level}: {error}"));
        }
        let mut end = String::new();
        let file = rustix::fs::openat(&folder, "f", OFlags::RDONLY, Mode::empty()).expect("opened");
        File::from(file).read_to_string(&mut end).expect("readable");
        assert_eq!(end, "at the end");

        assert_eq!(fs::read(wide.join("a/b".repeat(20).replace("ba", "b/a")).join("f")).expect("there"), b"at the end");
        let found = run(Command::new("find").arg("-H").arg(&wide).args(["-maxdepth", "7", "-printf", "x"]));
        assert_eq!(found.len(), (1 << 8) - 1);

        for refused in [
            fs::read_dir(&evil).and_then(|entries| entries.collect::<Result<Vec<_>, _>>()).map(|_| ()),
            fs::metadata(evil.join("x")).map(|_| ()),
        ] {
            assert_eq!(errno(refused.expect_err("no tree")), Errno::IO);
        }
    });
}
