use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

use provender_core::tree::Tree;

use super::*;
use crate::files::hash::{LARGE, NoDigest};
use crate::files::identity::Identity;

fn off() -> HashCache {
    HashCache::disabled()
}

fn root(path: &Path) -> Node {
    signature(path, Purpose::Output, &off()).unwrap()
}

fn age(path: &Path) {
    // Only ctime counts once mtime is old, and nobody can set that: so wait it out.
    let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2_100));
}

#[test]
fn what_makes_a_difference_and_what_does_not() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let make = |name: &str| {
        fs::create_dir_all(at(name).join("empty")).unwrap();
        fs::write(at(name).join("file"), "1").unwrap();
        symlink("nowhere", at(name).join("link")).unwrap();
        root(&at(name))
    };
    let first = make("first");
    assert_eq!(make("second"), first);
    fs::set_permissions(at("second/file"), Permissions::from_mode(0o600)).unwrap();
    fs::write(at("second/file"), "1").unwrap();
    assert_eq!(root(&at("second")), first, "times and other modes don't count");
    let mut seen = vec![first];
    let mut differs = |change: &dyn Fn()| {
        change();
        let now = root(&at("second"));
        assert!(!seen.contains(&now));
        seen.push(now);
    };
    differs(&|| fs::set_permissions(at("second/file"), Permissions::from_mode(0o700)).unwrap());
    differs(&|| fs::write(at("second/file"), "2").unwrap());
    differs(&|| fs::remove_dir(at("second/empty")).unwrap());
    differs(&|| fs::rename(at("second/file"), at("second/file2")).unwrap());
    differs(&|| {
        fs::remove_file(at("second/link")).unwrap();
        symlink("elsewhere", at("second/link")).unwrap();
    });
}

#[test]
fn each_distinct_thing_is_listed_once_and_can_be_read_again() {
    let home = tempfile::tempdir().unwrap();
    for folder in ["a", "b"] {
        fs::create_dir(home.path().join(folder)).unwrap();
        for index in 0..100 {
            fs::write(home.path().join(folder).join(format!("{index}")), format!("{}", index % 50)).unwrap();
        }
    }
    let captured = capture(home.path(), Purpose::Output, &off()).unwrap();
    assert_eq!(captured.counts, Counts { files: 200, directories: 3, symlinks: 0, bytes: 4 * (10 + 2 * 40) });
    assert_eq!((captured.files.len(), captured.trees.len()), (50, 2));
    assert_eq!(
        captured.trees.last().map(|(digest, _)| *digest),
        captured.root.digest(),
        "what is referred to comes first"
    );
    for file in &captured.files {
        let mut bytes = Vec::new();
        open_captured(file).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(Digest::of(&bytes), file.digest);
    }
    fs::write(captured.files[0].path(), "longer than before").unwrap();
    open_captured(&captured.files[0]).unwrap_err();
    fs::remove_file(captured.files[1].path()).unwrap();
    symlink("/etc/passwd", captured.files[1].path()).unwrap();
    open_captured(&captured.files[1]).unwrap_err();
}

#[test]
fn special_files_are_refused_without_being_opened() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let fifo = home.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RWXU).unwrap();
    for (path, kind) in [(&*socket, "socket"), (&fifo, "FIFO"), (Path::new("/dev/null"), "device")] {
        let error = capture(path, Purpose::Input, &off()).unwrap_err();
        assert!(error.to_string().contains(kind) && error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    assert!(matches!(capture(home.path(), Purpose::Input, &off()), Err(CaptureError::Kind { .. })));
    let folder = beneath::open_folder(home.path()).unwrap();
    assert!(matches!(hash::hash(&folder, b"fifo", &off()), Err(NoDigest::NotRegular)), "swapped in after the look");
    assert!(hash::hash(&folder, b"..", &off()).is_err());
}

#[test]
fn a_symlink_is_followed_only_as_the_input_itself() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    fs::write(at("file"), "1").unwrap();
    symlink("file", at("link")).unwrap();
    let node = |purpose| signature(&at("link"), purpose, &off()).unwrap();
    assert_eq!(node(Purpose::Output), Node::Symlink { target: Bytes::from_static(b"file") });
    assert_eq!(node(Purpose::Input), root(&at("file")));
    fs::create_dir(at("folder")).unwrap();
    symlink("../file", at("folder/link")).unwrap();
    let before = signature(&at("folder"), Purpose::Input, &off()).unwrap();
    fs::write(at("file"), "2").unwrap();
    assert_eq!(signature(&at("folder"), Purpose::Input, &off()).unwrap(), before);
}

#[test]
fn own_leftovers_are_no_input_but_are_outputs() {
    let home = tempfile::tempdir().unwrap();
    let look = |purpose| signature(home.path(), purpose, &off()).unwrap();
    let before = (look(Purpose::Input), look(Purpose::Output));
    fs::create_dir(home.path().join(format!("{}1-2", super::super::ASIDE_PREFIX))).unwrap();
    assert_eq!(look(Purpose::Input), before.0);
    assert_ne!(look(Purpose::Output), before.1);
}

#[test]
fn any_name_and_the_deepest_folder_but_one_deeper() {
    let home = tempfile::tempdir().unwrap();
    let names: [&[u8]; 5] = [b"a b", "\u{fc}\u{1f980}".as_bytes(), b"\xff\xfe", b"\n", &[b'x'; 255]];
    for name in names {
        fs::write(home.path().join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    let captured = capture(home.path(), Purpose::Output, &off()).unwrap();
    let tree = Tree::decode(&captured.trees[0].1).unwrap();
    for name in names {
        assert_eq!(tree.get(name).unwrap().digest(), Some(Digest::of(name)));
    }
    // Far beyond the longest path that one call takes.
    let mut at = beneath::open_folder(home.path()).unwrap();
    for _ in 0..MAX_DEPTH {
        rustix::fs::mkdirat(&at, &[b'x'; 254][..], Mode::RWXU).unwrap();
        at = beneath::open_child(&at, &[b'x'; 254]).unwrap();
    }
    let file = rustix::fs::openat(&at, "deep", rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY, Mode::RWXU);
    File::from(file.unwrap()).write_all_at(b"deep", 0).unwrap();
    let captured = capture(home.path(), Purpose::Output, &off()).unwrap();
    assert_eq!(captured.counts.directories, MAX_DEPTH as u64 + 1);
    let deep = captured.files.iter().find(|file| file.digest == Digest::of(b"deep")).unwrap();
    open_captured(deep).unwrap();
    rustix::fs::mkdirat(&at, "deeper", Mode::RWXU).unwrap();
    assert!(matches!(capture(home.path(), Purpose::Output, &off()), Err(CaptureError::TooDeep { .. })));
}

#[test]
fn large_sparse_and_empty_files_hash_as_their_bytes() {
    let home = tempfile::tempdir().unwrap();
    let sparse = File::create(home.path().join("sparse")).unwrap();
    sparse.set_len(2 * LARGE + 3).unwrap();
    sparse.write_all_at(b"mark", LARGE + 1).unwrap();
    fs::write(home.path().join("empty"), "").unwrap();
    let mut bytes = vec![0; 2 * LARGE as usize + 3];
    bytes[LARGE as usize + 1..][..4].copy_from_slice(b"mark");
    let captured = capture(home.path(), Purpose::Output, &off()).unwrap();
    let mut digests: Vec<_> = captured.files.iter().map(|file| file.digest).collect();
    digests.sort_by_key(|digest| digest.size);
    assert_eq!(digests, [Digest::of(b""), Digest::of(&bytes)]);
}

#[test]
fn the_cache_answers_for_settled_files_and_never_for_changed_ones() {
    let home = tempfile::tempdir().unwrap();
    let cache = HashCache::open(&home.path().join("cache"));
    let path = home.path().join("file");
    fs::write(&path, "old").unwrap();
    let identity = || Identity::of(&rustix::fs::stat(&path).unwrap());
    let look = || signature(&path, Purpose::Input, &cache).unwrap().digest().unwrap();
    assert_eq!(look(), Digest::of(b"old"));
    assert_eq!(cache.get(&identity()), None, "just written");
    age(&path);
    assert_eq!(look(), Digest::of(b"old"));
    assert_eq!(cache.get(&identity()), Some(Digest::of(b"old")));
    // The same size and modification time: the change time gives it away.
    let modified = path.metadata().unwrap().modified().unwrap();
    fs::write(&path, "new").unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert_eq!(look(), Digest::of(b"new"));
    // It is really asked: what it says is believed.
    cache.put(&identity(), &Digest::of(b"lie"), std::time::UNIX_EPOCH);
    assert_eq!(look(), Digest::of(b"lie"));
}

#[test]
fn a_file_that_never_stands_still_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("file");
    File::create(&path).unwrap().set_len(128 << 20).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let (begin, begun) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let begin = begin;
            let file = File::options().write(true).open(&path).unwrap();
            for round in 0u64.. {
                if done.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                file.write_all_at(&round.to_le_bytes(), 0).unwrap();
                let _ = begin.send(());
            }
        });
        begun.recv().unwrap();
        let captured = capture(&path, Purpose::Input, &off());
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(matches!(captured, Err(CaptureError::Changes { .. })), "{captured:?}");
    });
    // A file of the kernel's making, whose size is not that of its bytes.
    let status = capture(Path::new("/proc/self/status"), Purpose::Input, &off());
    assert!(matches!(status, Err(CaptureError::Changes { .. })), "{status:?}");
}

#[test]
fn a_set_holds_exactly_the_declared_paths() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    fs::create_dir_all(at("a/b/full")).unwrap();
    fs::write(at("a/b/full/file"), "1").unwrap();
    fs::write(at("a/other"), "2").unwrap();
    fs::write(at("top"), "3").unwrap();
    let outputs = Outputs::parse(["top", "a/b/full"]).unwrap();
    let captured = capture_set(home.path(), &outputs, &off()).unwrap();
    let tree = |digest| {
        let (_, bytes) = captured.trees.iter().find(|(tree, _)| Some(*tree) == digest).unwrap();
        Tree::decode(bytes).unwrap()
    };
    let top = tree(captured.root.digest());
    assert_eq!(top.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>(), [&b"a"[..], b"top"]);
    let a = tree(top.get(b"a").unwrap().digest());
    assert_eq!(a.len(), 1, "not what lies beside a declared path");
    let b = tree(a.get(b"b").unwrap().digest());
    assert_eq!(b.get(b"full"), Some(&root(&at("a/b/full"))));
    assert_eq!(captured.counts.files, 2);
    for file in &captured.files {
        open_captured(file).unwrap();
    }
    let none = capture_set(home.path(), &Outputs::default(), &off()).unwrap();
    assert_eq!(none.root.digest(), Some(Digest::of(&Tree::new().encode().unwrap())));
}

#[test]
fn all_missing_outputs_are_named_and_no_symlink_leads_to_one() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("real")).unwrap();
    fs::write(home.path().join("real/file"), "1").unwrap();
    symlink("real", home.path().join("link")).unwrap();
    let set = |paths: &[&str]| capture_set(home.path(), &Outputs::parse(paths).unwrap(), &off());
    let error = set(&["real/file", "real/file2", "gone/x", "real/file3/x"]).unwrap_err();
    let CaptureError::Missing { paths } = &error else { panic!("{error}") };
    assert_eq!(paths.len(), 3, "{error}");
    assert!(error.to_string().contains("real/file2"), "{error}");
    assert!(matches!(set(&["link/file"]), Err(CaptureError::ThroughLink { .. })));
    assert!(matches!(set(&["link"]).unwrap().counts, Counts { symlinks: 1, .. }), "the link itself may be an output");
}
