//! The view through the kernel: real mounts over a source in memory.
//!
//! Each test runs its body in a process of its own, which `timeout` ends: when a server dies, all that waits for its mount
//! wakes, so that no bug can hang the suite.

mod bounded;
mod whole;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bounded::{bounded, run, tables_at};
use provender_core::{Digest, Name, Node, TaskKey, Timestamp, Tree};
use provender_fuse::memory::{Attempt, MemorySource};
use provender_fuse::{Branch, Change, Mount, MountError, Options, Source};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

const AT: Timestamp = Timestamp::MAX;
/// Longer than anything takes that is going to happen.
const GRACE: Duration = Duration::from_secs(20);

fn name(text: &str) -> Name {
    Name::new(text).expect("valid")
}

fn key(id: &str) -> TaskKey {
    TaskKey::new("run", id).expect("valid")
}

fn mount(source: &Arc<MemorySource>, point: &Path) -> Result<Mount, MountError> {
    Mount::new(source.clone(), point, &Options::default())
}

/// Stores a folder of this host.
fn ingest(source: &MemorySource, folder: &Path) -> Digest {
    let mut tree = Tree::new();
    for entry in fs::read_dir(folder).expect("readable") {
        let entry = entry.expect("readable");
        let (path, metadata) = (entry.path(), entry.metadata().expect("readable"));
        let node = if metadata.is_dir() {
            Node::Directory { digest: ingest(source, &path) }
        } else if metadata.is_symlink() {
            let target = fs::read_link(&path).expect("a link");
            Node::Symlink { target: target.as_os_str().as_bytes().to_vec().into() }
        } else {
            let digest = source.put(fs::read(&path).expect("readable"));
            Node::File { digest, executable: metadata.mode() & 0o100 != 0 }
        };
        tree.insert(entry.file_name().as_bytes().to_vec(), node).expect("valid");
    }
    source.put_tree(&tree).expect("small")
}

fn commit(source: &MemorySource, task: &str, folder: &Path) -> String {
    let outputs = ingest(source, folder);
    let at = Timestamp::from_millis(1_795_284_131_042);
    let (stdout, stderr) = (Some(source.put("said\n")), Some(source.put("")));
    let made =
        Attempt { outputs: Some(outputs), stdout, stderr, ..Attempt::new(name(task), key("566a13d4c0ffee"), at) };
    source.commit(made).folder
}

/// Everything that file systems can be asked to carry.
fn make(folder: &Path) {
    let put = |name: &[u8], bytes: &[u8]| {
        let path = folder.join(OsStr::from_bytes(name));
        fs::write(&path, bytes).expect("written");
        path
    };
    let names: [&[u8]; 6] =
        [b"plain", b"with space", "Grüße 😀".as_bytes(), b"new\nline", b"invalid \xff\xfe UTF-8", &[b'n'; 255]];
    for name in names {
        put(name, name);
    }
    put(b"empty", b"");
    // Three sizes and contents, so that each form of content is met, and a file of many pages whose end is in none.
    for seed in 0..6u32 {
        let bytes: Vec<u8> = (0..300_001 + seed).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        put(format!("large {seed}").as_bytes(), &bytes);
    }
    let script = put(b"run", b"#!/bin/sh\necho \"ran with $1\"\n");
    fs::set_permissions(script, Permissions::from_mode(0o755)).expect("set");
    fs::create_dir_all(folder.join("deep/er/and deeper")).expect("made");
    fs::write(folder.join("deep/er/file"), "down here").expect("written");
    fs::create_dir(folder.join("empty folder")).expect("made");
    let links: [(&str, &[u8]); 4] =
        [("absolute", b"/etc/passwd"), ("dangling", b"nowhere"), ("inside", b"deep/er/file"), ("raw", b"\xff\n")];
    for (name, target) in links {
        std::os::unix::fs::symlink(OsStr::from_bytes(target), folder.join(name)).expect("made");
    }
}

/// What a folder holds: by path, its type, permissions, size, and content or target.
fn inventory(folder: &Path) -> BTreeMap<PathBuf, (u32, u64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(&path).expect("readable") {
            let entry = entry.expect("readable");
            let (path, metadata) = (entry.path(), fs::symlink_metadata(entry.path()).expect("there"));
            assert_eq!(entry.metadata().expect("there").ino(), metadata.ino());
            assert_eq!(entry.file_type().expect("told"), metadata.file_type());
            let (mode, size, content) = if metadata.is_dir() {
                open.push(path.clone());
                (0o40555, 0, Vec::new())
            } else if metadata.is_symlink() {
                let target = fs::read_link(&path).expect("a link");
                (0o120777, metadata.len(), target.as_os_str().as_bytes().to_vec())
            } else {
                let run = metadata.mode() & 0o100 != 0;
                (if run { 0o100555 } else { 0o100444 }, metadata.len(), fs::read(&path).expect("readable"))
            };
            all.insert(path.strip_prefix(folder).expect("below").to_owned(), (mode, size, content));
        }
    }
    all
}

#[test]
fn shows_the_same_bytes() {
    bounded("shows_the_same_bytes", |scratch| {
        let (made, point) = (scratch.join("made"), scratch.join("point"));
        fs::create_dir(&made).expect("made");
        make(&made);
        let source = Arc::new(MemorySource::new());
        let folder = commit(&source, "zstd/huf_compress.o", &made);
        let _mount = mount(&source, &point).expect("mounted");

        let task = point.join("tasks/zstd/huf_compress.o");
        assert_eq!(fs::read_link(task.join("latest")).expect("a link"), Path::new(&folder));
        let out = task.join("latest/out");
        assert_eq!(inventory(&out), inventory(&made));
        run(Command::new("diff").args(["-r", "--no-dereference"]).arg(&made).arg(&out));
        assert_eq!(fs::read(task.join("latest/stdout")).expect("readable"), b"said\n");
        assert_eq!(fs::read(task.join("latest/stderr")).expect("readable"), b"");
        for document in ["record.json", "spec.json"] {
            let path = task.join("latest").join(document);
            let size = fs::metadata(&path).expect("there").len();
            assert_eq!(fs::read(&path).expect("readable").len() as u64, size);
        }

        for path in [&task, &out, &out.join("plain"), &out.join("dangling"), &out.join("deep")] {
            let metadata = fs::symlink_metadata(path).expect("there");
            let at = UNIX_EPOCH + Duration::from_millis(1_795_284_131_042);
            assert_eq!(metadata.modified().expect("known"), at, "{path:?}");
            assert_eq!((metadata.ctime(), metadata.ctime_nsec()), (1_795_284_131, 42_000_000));
            assert_eq!((metadata.uid(), metadata.nlink()), (rustix::process::getuid().as_raw(), 1));
            let mode = if metadata.is_symlink() {
                0o777
            } else if metadata.is_dir() {
                0o555
            } else {
                0o444
            };
            assert_eq!(metadata.mode() & 0o7777, mode, "{path:?}");
        }
        assert!(!task.join("latest/nothing").exists() && !point.join("tasks/zstd/huf").exists());
        let copy = scratch.join("copy");
        run(Command::new("cp").arg("-a").arg(point.join("tasks")).arg(&copy));
        assert_eq!(inventory(&copy.join("zstd/huf_compress.o/latest/out")), inventory(&made));
        run(Command::new("chmod").args(["-R", "u+w"]).arg(&copy));
    });
}

#[test]
fn reads_any_range_and_maps() {
    bounded("reads_any_range_and_maps", |scratch| {
        let (made, point) = (scratch.join("made"), scratch.join("point"));
        fs::create_dir(&made).expect("made");
        make(&made);
        let source = Arc::new(MemorySource::new());
        commit(&source, "a", &made);
        let _mount = mount(&source, &point).expect("mounted");
        for seed in 0..6 {
            let (path, twin) =
                (point.join(format!("tasks/a/latest/out/large {seed}")), made.join(format!("large {seed}")));
            let (file, bytes) = (File::open(&path).expect("opened"), fs::read(&twin).expect("readable"));
            for (offset, len) in [(299_990, 100), (131_071, 2), (0, 1), (4095, 4098), (150_000, 140_000), (400_000, 9)]
            {
                let mut buf = vec![0; len];
                let count = file.read_at(&mut buf, offset).expect("readable");
                let from = bytes.len().min(offset as usize);
                assert_eq!(buf[..count], bytes[from..bytes.len().min(from + len)], "{offset} {len}");
            }
            let script = "import mmap,sys;a,b=[open(p,'rb') for p in sys.argv[1:]];\
                          m=mmap.mmap(a.fileno(),0,access=mmap.ACCESS_READ);sys.exit(m[:]!=b.read())";
            run(Command::new("python3").args(["-c", script]).arg(&path).arg(&twin));
            run(Command::new("cmp").arg(&path).arg(&twin));
        }
    });
}

#[test]
fn runs_a_program_from_the_mount() {
    bounded("runs_a_program_from_the_mount", |scratch| {
        let (made, point) = (scratch.join("made"), scratch.join("point"));
        fs::create_dir(&made).expect("made");
        make(&made);
        let echo = ["/usr/bin/echo", "/bin/echo"].into_iter().find(|path| Path::new(path).is_file()).expect("an echo");
        fs::copy(echo, made.join("binary")).expect("copied");
        let source = Arc::new(MemorySource::new());
        commit(&source, "a", &made);
        let _mount = mount(&source, &point).expect("mounted");
        let out = point.join("tasks/a/latest/out");
        assert_eq!(run(Command::new(out.join("run")).arg("this")), "ran with this\n");
        assert_eq!(run(Command::new(out.join("binary")).arg("that")), "that\n");
        let refused = Command::new(out.join("plain")).spawn().expect_err("not executable");
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    });
}

#[test]
fn lists_a_wide_directory() {
    bounded("lists_a_wide_directory", |scratch| {
        let point = scratch.join("point");
        let source = Arc::new(MemorySource::new());
        let mut tree = Tree::new();
        for number in 0..20_000 {
            let digest = source.put(number.to_string());
            tree.insert(format!("entry {number}"), Node::File { digest, executable: false }).expect("valid");
        }
        let outputs = source.put_tree(&tree).expect("small");
        source.commit(Attempt { outputs: Some(outputs), ..Attempt::new(name("wide"), key("1"), AT) });
        let _mount = mount(&source, &point).expect("mounted");
        let out = point.join("tasks/wide/latest/out");
        let listed = fs::read_dir(&out).expect("readable").map(|entry| entry.expect("readable").file_name());
        let listed: std::collections::BTreeSet<_> = listed.collect();
        assert_eq!(listed.len(), 20_000);
        assert!(tree.iter().all(|(name, _)| listed.contains(OsStr::from_bytes(name))));
        assert_eq!(fs::read(out.join("entry 19999")).expect("readable"), b"19999");
        let counted = run(Command::new("sh").arg("-c").arg("ls -l | grep -c '^-r--r--r-- 1 '").current_dir(&out));
        assert_eq!(counted.trim(), "20000");
    });
}

#[test]
fn nothing_can_be_changed() {
    bounded("nothing_can_be_changed", |scratch| {
        let (made, point) = (scratch.join("made"), scratch.join("point"));
        fs::create_dir(&made).expect("made");
        make(&made);
        let source = Arc::new(MemorySource::new());
        commit(&source, "a", &made);
        let _mount = mount(&source, &point).expect("mounted");
        let out = point.join("tasks/a/latest/out");
        let (file, new) = (out.join("plain"), out.join("new"));
        let now = Timespec { tv_sec: 1, tv_nsec: 1 };
        let times = Timestamps { last_access: now, last_modification: now };
        let opened = |flags: OFlags| rustix::fs::open(&file, flags, Mode::empty()).map(|_| ());
        let refused: [(&str, rustix::io::Result<()>); 20] = [
            ("create", rustix::fs::open(&new, OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).map(|_| ())),
            ("create elsewhere", rustix::fs::open(point.join("new"), OFlags::CREATE, Mode::RUSR).map(|_| ())),
            ("write", opened(OFlags::WRONLY)),
            ("read and write", opened(OFlags::RDWR)),
            ("append", opened(OFlags::WRONLY | OFlags::APPEND)),
            ("truncate on open", opened(OFlags::RDONLY | OFlags::TRUNC)),
            ("truncate", OpenOptions::new().write(true).truncate(true).open(&file).map(|_| ()).map_err(errno)),
            ("mkdir", rustix::fs::mkdir(&new, Mode::RWXU)),
            ("mknod", rustix::fs::mknodat(CWD, &new, rustix::fs::FileType::Fifo, Mode::RUSR, 0)),
            ("unlink", rustix::fs::unlink(&file)),
            ("rmdir", rustix::fs::rmdir(out.join("empty folder"))),
            ("rename", rustix::fs::rename(&file, &new)),
            ("symlink", rustix::fs::symlink("x", &new)),
            ("replace latest", rustix::fs::unlink(point.join("tasks/a/latest"))),
            ("link", rustix::fs::link(&file, &new)),
            ("chmod", rustix::fs::chmod(&file, Mode::RWXU)),
            ("chown", rustix::fs::chown(&file, Some(rustix::process::getuid()), None)),
            ("utimens", rustix::fs::utimensat(CWD, &file, &times, AtFlags::empty())),
            ("setxattr", rustix::fs::setxattr(&file, "user.x", b"x", XattrFlags::empty())),
            ("access", rustix::fs::access(&file, rustix::fs::Access::WRITE_OK)),
        ];
        for (what, result) in refused {
            assert_eq!(result, Err(Errno::ROFS), "{what}");
        }
        assert_eq!(rustix::fs::access(&file, rustix::fs::Access::READ_OK), Ok(()));
        assert_eq!(inventory(&out), inventory(&made));
    });
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).expect("of the system")
}

#[test]
fn a_new_success_is_seen_as_soon_as_it_is_told() {
    bounded("a_new_success_is_seen_as_soon_as_it_is_told", |scratch| {
        let point = scratch.join("point");
        let source = Arc::new(MemorySource::new());
        let mount = mount(&source, &point).expect("mounted");
        let changes = mount.changes();
        assert!(!point.join("tasks/a/latest").exists());
        let mut waited = Duration::ZERO;
        for round in 0..20 {
            let made = scratch.join(round.to_string());
            fs::create_dir(&made).expect("made");
            fs::write(made.join("round"), round.to_string()).expect("written");
            let folder = commit(&source, "a", &made);
            let latest = point.join("tasks/a/latest");
            changes.tell(Change::Name(Branch::Tasks, name("a")));
            let told = std::time::Instant::now();
            while fs::read_link(&latest).expect("a link") != Path::new(&folder) {
                assert!(told.elapsed() < GRACE, "the kernel was not told");
                std::thread::yield_now();
            }
            waited += told.elapsed();
            assert_eq!(fs::symlink_metadata(&latest).expect("there").len(), folder.len() as u64);
            assert_eq!(fs::read(latest.join("out/round")).expect("readable"), round.to_string().as_bytes());
        }
        // Were it not told, it would ask again after half a second, each time.
        assert!(waited < Duration::from_secs(5), "{waited:?} for 20");
        assert_eq!(fs::read_dir(point.join("tasks/a")).expect("readable").count(), 21);
    });
}

#[test]
fn a_lost_file_is_an_error_and_not_a_short_one() {
    bounded("a_lost_file_is_an_error_and_not_a_short_one", |scratch| {
        let (made, point) = (scratch.join("made"), scratch.join("point"));
        fs::create_dir(&made).expect("made");
        fs::write(made.join("file"), "there").expect("written");
        let source = Arc::new(MemorySource::new());
        commit(&source, "a", &made);
        source.lose(&Digest::of(b"there"));
        let _mount = mount(&source, &point).expect("mounted");
        let lost = fs::read(point.join("tasks/a/latest/out/file")).expect_err("lost");
        assert_eq!(errno(lost), Errno::IO);
    });
}

#[test]
fn unmounts_although_a_file_is_open() {
    bounded("unmounts_although_a_file_is_open", |scratch| {
        let (made, point) = (scratch.join("made"), scratch.join("point"));
        fs::create_dir(&made).expect("made");
        make(&made);
        let source = Arc::new(MemorySource::new());
        commit(&source, "a", &made);

        let file = |point: &Path| File::open(point.join("tasks/a/latest/out/large 0")).expect("opened");
        let mounted = mount(&source, &point).expect("mounted");
        assert_eq!(tables_at(&point), 1);
        let mut open = file(&point);
        drop(mounted);
        assert_eq!(tables_at(&point), 0);
        // Detached: the path is free for the next, and who was there stays served.
        let second = mount(&source, &point).expect("mounted again");
        let mut bytes = Vec::new();
        open.read_to_end(&mut bytes).expect("still served");
        assert_eq!(bytes, fs::read(made.join("large 0")).expect("readable"));
        // The last of the first mount goes; the second is not touched.
        drop(open);
        assert_eq!(fs::read(point.join("tasks/a/latest/stdout")).expect("readable"), b"said\n");
        assert_eq!(tables_at(&point), 1);

        let open = file(&point);
        assert!(!second.unmount(Duration::from_millis(10)).expect("unmounted"), "somebody still has a file open");
        drop(open);
        let third = mount(&source, &point).expect("mounted again");
        assert!(third.unmount(GRACE).expect("unmounted"), "nobody has a file open");
        assert_eq!(tables_at(&point), 0);
    });
}

#[test]
fn lets_go_of_the_source_when_all_is_over() {
    bounded("lets_go_of_the_source_when_all_is_over", |scratch| {
        let source = Arc::new(MemorySource::new());
        let mounted = mount(&source, &scratch.join("point")).expect("mounted");
        assert!(Arc::strong_count(&source) > 1);
        assert!(mounted.unmount(GRACE).expect("unmounted"));
        assert_eq!(Arc::strong_count(&source), 1);
        // Unmounted by somebody else: what is there then is not ours to unmount.
        let mounted = mount(&source, &scratch.join("point")).expect("mounted");
        provender_fuse::unmount(mounted.point()).expect("unmounted");
        let other = mount(&source, &scratch.join("point")).expect("mounted");
        drop(mounted);
        assert_eq!(tables_at(other.point()), 1);
        assert!(fs::metadata(other.point().join("tasks")).is_ok());
    });
}

#[test]
fn refuses_what_it_would_hide() {
    bounded("refuses_what_it_would_hide", |scratch| {
        let source = Arc::new(MemorySource::new());
        let refused = |point: &Path| mount(&source, point).expect_err("refused");
        let (file, full) = (scratch.join("file"), scratch.join("full"));
        fs::write(&file, "x").expect("written");
        fs::create_dir(&full).expect("made");
        fs::write(full.join("x"), "x").expect("written");
        assert!(matches!(refused(&file), MountError::NotDirectory { .. }));
        assert!(matches!(refused(&full), MountError::NotEmpty { .. }));
        assert!(matches!(refused(&file.join("x")), MountError::Point { .. }));
        assert!(matches!(provender_fuse::unmount(&full), Err(MountError::NotOurs { .. })));
        assert!(matches!(refused(Path::new("/proc")), MountError::Occupied { .. }));

        let point = scratch.join("new/and deep");
        let mounted = mount(&source, &point).expect("made and mounted");
        let error = refused(&point).to_string();
        assert!(error.contains("mounted there already"), "{error}");
        assert_eq!(mounted.point(), point.canonicalize().expect("there"));
        assert_eq!(tables_at(&point), 1);
    });
}

#[test]
fn takes_the_place_of_one_that_has_died() {
    const VICTIM: &str = "PROVENDER_TEST_VICTIM";
    let this = "takes_the_place_of_one_that_has_died";
    if let Some(point) = std::env::var_os(VICTIM) {
        let source = Arc::new(MemorySource::new());
        let _mount = mount(&source, Path::new(&point)).expect("mounted");
        println!("victim is mounted");
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    bounded(this, move |scratch| {
        let (made, point) = (scratch.join("made"), scratch.join("a point"));
        fs::create_dir(&made).expect("made");
        make(&made);
        let mut victim = Command::new(std::env::current_exe().expect("known"))
            .args(["--exact", this, "--nocapture"])
            .env(VICTIM, &point)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("started");
        let mut said = std::io::BufReader::new(victim.stdout.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("victim is mounted") {
            line.clear();
            let count = std::io::BufRead::read_line(&mut said, &mut line).expect("readable");
            assert!(count > 0, "the victim did not mount");
        }
        fs::metadata(point.join("tasks")).expect("the victim serves");
        let open = File::open(&point).expect("opened");
        victim.kill().expect("killed");
        victim.wait().expect("dead");
        assert_eq!(errno(fs::read_dir(&point).map(|_| ()).expect_err("dead")), Errno::NOTCONN);
        assert_eq!(tables_at(&point), 1);

        let source: Arc<dyn Source> = {
            let source = MemorySource::new();
            commit(&source, "a", &made);
            Arc::new(source)
        };
        let mounted = Mount::new(source, &point, &Options::default()).expect("mounted over the dead one");
        assert_eq!(tables_at(&point), 1);
        assert_eq!(inventory(&point.join("tasks/a/latest/out")), inventory(&made));
        drop((open, mounted));
        assert_eq!(tables_at(&point), 0);
    });
}
