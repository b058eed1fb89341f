use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;
use provender_core::tree::check_name;

use super::*;
use crate::files::{
    BATCH_BYTES, BATCH_COUNT, Captured, HashCache, Purpose, SMALL_BLOB, capture, capture_set, open_captured, signature,
};

/// A store in memory that holds the rules of [`Fetch`] against its caller.
#[derive(Default)]
struct Store {
    blobs: HashMap<Digest, Vec<u8>>,
    /// Blobs that it gives with other contents.
    lies: HashSet<Digest>,
    calls: Cell<usize>,
}

impl Store {
    fn add(&mut self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.blobs.insert(digest, bytes.to_vec());
        digest
    }

    fn add_tree(&mut self, entries: &[(&str, Node)]) -> Digest {
        let mut tree = Tree::new();
        for (name, node) in entries {
            tree.insert(name.to_string(), node.clone()).unwrap();
        }
        self.add(&tree.encode().unwrap())
    }

    fn upload(&mut self, captured: &Captured) {
        for (digest, bytes) in &captured.trees {
            assert_eq!(self.add(bytes), *digest);
        }
        for file in &captured.files {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut open_captured(file).unwrap(), &mut bytes).unwrap();
            assert_eq!(self.add(&bytes), file.digest);
        }
    }

    fn blob(&self, digest: &Digest) -> Result<Vec<u8>, FetchError> {
        let mut bytes = self.blobs.get(digest).ok_or("no such blob")?.clone();
        if self.lies.contains(digest) {
            bytes[0] ^= 1;
        }
        Ok(bytes)
    }
}

impl Fetch for Store {
    fn small(&self, wants: &[Digest], sink: &mut dyn FnMut(usize, &[u8]) -> ControlFlow<()>) -> Result<(), FetchError> {
        self.calls.set(self.calls.get() + 1);
        assert!(wants.len() <= BATCH_COUNT && wants.iter().all(|want| want.size <= SMALL_BLOB));
        assert!(wants.iter().map(|want| want.size).sum::<u64>() <= BATCH_BYTES);
        assert_eq!(wants.iter().collect::<HashSet<_>>().len(), wants.len());
        for (index, want) in wants.iter().enumerate().rev() {
            if sink(index, &self.blob(want)?).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn large(&self, want: &Digest, out: &mut dyn Write) -> Result<(), FetchError> {
        for piece in self.blob(want)?.chunks(100_000) {
            out.write_all(piece)?;
        }
        Ok(())
    }
}

fn file(digest: Digest) -> Node {
    Node::File { digest, executable: false }
}

fn as_stored(path: &Path) -> Captured {
    capture(path, Purpose::Output, &HashCache::disabled()).unwrap()
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// What may stand in a folder: a file, a symlink or a folder, of any name.
#[derive(Debug, Clone)]
enum Thing {
    File(Vec<u8>, bool),
    Link(Vec<u8>),
    Folder(Vec<(Vec<u8>, Thing)>),
}

impl Thing {
    fn make(&self, path: &Path) {
        match self {
            Thing::File(bytes, executable) => {
                fs::write(path, bytes).unwrap();
                fs::set_permissions(path, Permissions::from_mode(if *executable { 0o755 } else { 0o644 })).unwrap();
            }
            Thing::Link(target) => symlink(OsStr::from_bytes(target), path).unwrap(),
            Thing::Folder(things) => {
                fs::create_dir(path).unwrap();
                for (name, thing) in things {
                    let path = path.join(OsStr::from_bytes(name));
                    if path.symlink_metadata().is_err() {
                        thing.make(&path);
                    }
                }
            }
        }
    }
}

fn things() -> impl Strategy<Value = Thing> {
    let name = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..20),
        prop::collection::vec(any::<u8>(), 255),
        "[ a-z\u{fc}\u{1f980}]{1,10}".prop_map(String::into_bytes),
    ];
    let name = name.prop_filter("no name", |name| check_name(name).is_ok());
    let sized = prop_oneof![10 => 0..2000usize, 1 => (SMALL_BLOB as usize - 1)..(SMALL_BLOB as usize + 3)];
    let file = (any::<u8>(), sized, any::<bool>()).prop_map(|(byte, len, run)| Thing::File(vec![byte; len], run));
    let target = prop::collection::vec(1..=255u8, 1..40);
    let leaf = prop_oneof![3 => file, 1 => target.prop_map(Thing::Link)];
    leaf.prop_recursive(4, 60, 8, move |inner| {
        prop::collection::vec((name.clone(), inner), 0..8).prop_map(Thing::Folder)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_was_captured_comes_back(thing in things()) {
        let home = tempfile::tempdir().unwrap();
        thing.make(&home.path().join("made"));
        let captured = as_stored(&home.path().join("made"));
        let mut store = Store::default();
        store.upload(&captured);
        let dest = home.path().join("restored");
        let counts = restore(&store, &captured.root, &dest, RestoreOptions::default()).unwrap();
        prop_assert_eq!(counts, captured.counts);
        prop_assert_eq!(as_stored(&dest).root, captured.root);
        prop_assert_eq!(entries(home.path()), ["made", "restored"]);
    }
}

#[test]
fn many_small_files_take_few_exchanges() {
    let home = tempfile::tempdir().unwrap();
    let mut store = Store::default();
    let (mut names, mut root) = (Vec::new(), Tree::new());
    for folder in 0..100 {
        let mut tree = Tree::new();
        for index in 0..50 {
            let name = format!("{folder}-{index}");
            tree.insert(name.clone(), file(store.add(name.as_bytes()))).unwrap();
            names.push((format!("{folder}/{name}"), name));
        }
        let digest = store.add(&tree.encode().unwrap());
        root.insert(format!("{folder}"), Node::Directory { digest }).unwrap();
    }
    let digest = store.add(&root.encode().unwrap());
    let dest = home.path().join("dest");
    restore(&store, &Node::Directory { digest }, &dest, RestoreOptions::default()).unwrap();
    for (path, contents) in names {
        assert_eq!(fs::read_to_string(dest.join(path)).unwrap(), contents);
    }
    assert!(store.calls.get() <= 2 + 5_000 / BATCH_COUNT + 1, "{}", store.calls.get());
}

#[test]
fn what_stands_there_is_kept_without_force_and_replaced_with_it() {
    let home = tempfile::tempdir().unwrap();
    let dest = home.path().join("dest");
    let mut store = Store::default();
    let node = Node::Directory { digest: store.add_tree(&[("new", file(Digest::of(b"new")))]) };
    fs::create_dir(&dest).unwrap();
    let go = |store: &Store, force| restore(store, &node, &dest, RestoreOptions { force, ..Default::default() });
    assert!(matches!(go(&store, false), Err(RestoreError::Exists { .. })), "even an empty folder");
    fs::write(dest.join("old"), "old").unwrap();
    assert!(matches!(go(&store, true), Err(RestoreError::Fetch { .. })));
    assert_eq!(entries(&dest), ["old"], "a failure leaves the old one");
    store.add(b"new");
    go(&store, true).unwrap();
    assert_eq!(entries(&dest), ["new"]);
    fs::remove_dir_all(&dest).unwrap();
    symlink("elsewhere", &dest).unwrap();
    assert!(matches!(go(&store, false), Err(RestoreError::Exists { .. })), "a dangling symlink stands there too");
    go(&store, true).unwrap();
    assert_eq!(entries(home.path()), ["dest"]);
    for dest in [".", "..", "/"] {
        let error = restore(&store, &node, Path::new(dest), RestoreOptions::default()).unwrap_err();
        assert!(matches!(error, RestoreError::NoName { .. }), "{error}");
    }
}

#[test]
fn a_lying_store_is_found_out() {
    let home = tempfile::tempdir().unwrap();
    let mut store = Store::default();
    let (small, large) = (store.add(b"small"), store.add(&vec![7; SMALL_BLOB as usize + 1]));
    let inner = store.add_tree(&[("small", file(small))]);
    let root = store.add_tree(&[("large", file(large)), ("inner", Node::Directory { digest: inner })]);
    for lie in [small, large, inner, root] {
        store.lies = [lie].into();
        let error = restore(&store, &Node::Directory { digest: root }, &home.path().join("x"), Default::default());
        assert!(matches!(error, Err(RestoreError::Corrupt { digest }) if digest == lie), "{error:?}");
    }
    store.lies.clear();
    // A digest whose size is another than that of the bytes with its hash.
    for (real, size) in [(small, 4), (small, 6), (large, large.size - 1), (large, large.size + 1)] {
        let wrong = Digest { size, ..real };
        store.blobs.insert(wrong, store.blobs[&real].clone());
        let error = restore(&store, &file(wrong), &home.path().join("x"), Default::default());
        assert!(matches!(error, Err(RestoreError::Corrupt { .. })), "{error:?}");
    }
    assert_eq!(entries(home.path()), [""; 0]);
}

#[test]
fn hostile_trees_are_refused_before_anything_is_written() {
    let home = tempfile::tempdir().unwrap();
    let mut store = Store::default();
    let go = |store: &Store, digest, max_entries| {
        let options = RestoreOptions { max_entries, ..Default::default() };
        let result = restore(store, &Node::Directory { digest }, &home.path().join("x"), options);
        assert_eq!(entries(home.path()), [""; 0]);
        result.unwrap_err()
    };
    let mut shared = store.add_tree(&[("leaf", file(Digest::of(b"")))]);
    for _ in 0..200 {
        let node = Node::Directory { digest: shared };
        shared = store.add_tree(&[("a", node.clone()), ("b", node)]);
    }
    assert!(matches!(go(&store, shared, 10_000_000), RestoreError::TooMany { .. }));

    let mut deep = store.add_tree(&[]);
    for _ in 0..MAX_DEPTH + 1 {
        deep = store.add_tree(&[("a", Node::Directory { digest: deep })]);
    }
    assert!(matches!(go(&store, deep, 10_000_000), RestoreError::TooDeep));
    // Every folder is near the root, but the longest way is long.
    let (mut all, mut deep) = (Vec::new(), store.add_tree(&[]));
    for index in 0..MAX_DEPTH + 1 {
        all.push((format!("{index}"), Node::Directory { digest: deep }));
        deep = store.add_tree(&[("a", Node::Directory { digest: deep })]);
    }
    let all: Vec<_> = all.iter().map(|(name, node)| (name.as_str(), node.clone())).collect();
    let wide = store.add_tree(&all);
    assert!(matches!(go(&store, wide, 10_000_000), RestoreError::TooDeep));

    let huge = Digest { size: 1 << 60, ..Digest::of(b"x") };
    let tree = store.add_tree(&[("a", file(huge)), ("b", file(huge))]);
    assert!(matches!(go(&store, tree, 10), RestoreError::NoSpace { .. }));
    assert!(matches!(go(&store, tree, 2), RestoreError::TooMany { .. }));
    let no_tree = store.add(b"not a tree");
    assert!(matches!(go(&store, no_tree, 10), RestoreError::Tree { .. }));
    assert!(
        matches!(go(&store, huge, 10), RestoreError::Corrupt { .. }),
        "a folder of that size is not even asked for"
    );
}

#[test]
fn the_deepest_tree_that_can_be_captured_can_be_restored() {
    let home = tempfile::tempdir().unwrap();
    let mut store = Store::default();
    let leaf = store.add(b"leaf");
    let mut deep = store.add_tree(&[("leaf", file(leaf))]);
    let name = "x".repeat(250);
    for _ in 0..MAX_DEPTH {
        deep = store.add_tree(&[(&name, Node::Directory { digest: deep })]);
    }
    let (node, dest) = (Node::Directory { digest: deep }, home.path().join("dest"));
    restore(&store, &node, &dest, Default::default()).unwrap();
    assert_eq!(signature(&dest, Purpose::Output, &HashCache::disabled()).unwrap(), node);
    restore(&store, &node, &dest, RestoreOptions { force: true, ..Default::default() }).unwrap();
    assert_eq!(entries(home.path()), ["dest"]);
}

fn declared(paths: &[&str]) -> Outputs {
    Outputs::parse(paths).unwrap()
}

#[test]
fn a_set_replaces_the_declared_paths_and_nothing_else() {
    let made = tempfile::tempdir().unwrap();
    fs::create_dir_all(made.path().join("a/b")).unwrap();
    fs::write(made.path().join("a/b/new"), "new").unwrap();
    fs::write(made.path().join("a/c"), "new").unwrap();
    fs::write(made.path().join("d"), "new").unwrap();
    let outputs = declared(&["a/b", "a/c", "d"]);
    let captured = capture_set(made.path(), &outputs, &HashCache::disabled()).unwrap();
    let mut store = Store::default();
    store.upload(&captured);
    let root = captured.root.digest().unwrap();

    let base = tempfile::tempdir().unwrap();
    fs::create_dir_all(base.path().join("a/b/c")).unwrap();
    fs::write(base.path().join("a/b/old"), "old").unwrap();
    fs::write(base.path().join("a/kept"), "kept").unwrap();
    symlink("/etc/passwd", base.path().join("d")).unwrap();
    let go = |outputs: &Outputs| restore_set(&store, &root, base.path(), outputs, Default::default());
    for other in [declared(&["a/b", "a/c"]), declared(&["a", "d", "e"]), declared(&["a/b/new", "a/c/x", "d"])] {
        assert!(matches!(go(&other), Err(RestoreError::OtherOutputs { .. })));
    }
    assert_eq!(entries(&base.path().join("a/b")), ["c", "old"]);
    assert_eq!(go(&outputs).unwrap(), captured.counts);
    assert_eq!(entries(&base.path().join("a")), ["b", "c", "kept"]);
    assert_eq!(entries(base.path()), ["a", "d"]);
    assert_eq!(capture_set(base.path(), &outputs, &HashCache::disabled()).unwrap().root, captured.root);
    // From nothing, folders on the way included.
    fs::remove_dir_all(base.path().join("a")).unwrap();
    go(&outputs).unwrap();
    assert_eq!(entries(&base.path().join("a")), ["b", "c"]);
}

#[test]
fn a_set_never_leaves_the_working_folder_and_is_all_or_nothing() {
    let mut store = Store::default();
    let new = file(store.add(b"new"));
    let inner = store.add_tree(&[("x", new.clone())]);
    let root = store.add_tree(&[("a", new), ("z", Node::Directory { digest: inner })]);
    let (base, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("x"), "precious").unwrap();
    fs::write(base.path().join("a"), "old").unwrap();
    symlink(outside.path(), base.path().join("z")).unwrap();
    let go = || restore_set(&store, &root, base.path(), &declared(&["a", "z/x"]), Default::default());
    assert!(matches!(go(), Err(RestoreError::InTheWay { .. })));
    fs::remove_file(base.path().join("z")).unwrap();
    fs::write(base.path().join("z"), "a file").unwrap();
    assert!(matches!(go(), Err(RestoreError::InTheWay { .. })));
    assert_eq!(fs::read(outside.path().join("x")).unwrap(), b"precious");
    assert_eq!(fs::read(base.path().join("a")).unwrap(), b"old");
    assert_eq!(entries(base.path()), ["a", "z"]);
}
