//! What can happen to a view, with names that are likely to meet a rule.

use std::collections::BTreeMap;

use super::model::{End, Made, Read};
use super::*;

/// One step. Indices are taken modulo how much there is.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Commit(End),
    Fail(End),
    Hit(Name, TaskKey),
    Invalidate(TaskKey),
    Collect(usize),
    /// Looks a path up that is there.
    Find(usize),
    /// Looks up what stands beside one, or seems to.
    Miss(usize, Vec<u8>),
    List {
        path: usize,
        room: usize,
    },
    Read {
        path: usize,
        offset: u64,
        from_end: bool,
        len: usize,
    },
    Follow(usize),
    Xattrs(usize),
    /// Gives lookups back.
    Forget {
        which: usize,
        all: bool,
    },
    /// Opens a directory, and keeps it open.
    Open(usize),
    /// Reads on in one that is open.
    More {
        which: usize,
        room: usize,
    },
    /// Reads one that is open again, from an earlier place.
    Again {
        which: usize,
        from: usize,
    },
    /// Opens a file, and keeps it open.
    Hold(usize),
    /// Reads one that is open.
    Held {
        which: usize,
        offset: u64,
        len: usize,
    },
    Remount,
}

fn names() -> impl Strategy<Value = Name> {
    let texts = vec![
        "a".to_owned(),
        "a/b".into(),
        "a/b/c d".into(),
        "ab".into(),
        "latest".into(),
        "a/latest/out".into(),
        "used-by/inputs".into(),
        "record.json".into(),
        "100%/%6Fut/%".into(),
        "2026-11-21T18-02-11Z-566a13d4".into(),
        "a/2026-11-21T18-02-11Z-566a13d4.2".into(),
        "Gru\u{308}ße/Grüße 😀\u{202e}".into(),
        "-rf/*/~/$HOME/\"'\\".into(),
        "pkg:target@2".into(),
        ".../a".into(),
        "x".repeat(255),
        format!("{}/a", "x".repeat(256)),
        format!("{}y", "x".repeat(256)),
        "é".repeat(512),
        "%".repeat(1024),
        "n/".repeat(60) + "n",
    ];
    prop_oneof![3 => prop::sample::select(texts[..3].to_vec()), 2 => prop::sample::select(texts)]
        .prop_map(|text| name(&text))
}

fn keys() -> impl Strategy<Value = TaskKey> {
    let keys = [
        ("run", "566a13d4c0ffee".to_owned()),
        ("run", "566a13d4c0ffee2".into()),
        ("run", "latest".into()),
        ("alamode", "zstd/huf.o @ é".into()),
        ("latest", "..".into()),
        ("put", "%".repeat(256)),
        ("put", "%".repeat(255) + "a"),
    ];
    let keys = keys.map(|(scheme, id)| TaskKey::new(scheme, &id).expect("valid"));
    prop::sample::select(keys.to_vec())
}

fn files() -> impl Strategy<Value = BTreeMap<Vec<u8>, Made>> {
    let name = || {
        let valid = |name: &Vec<u8>| tree::check_name(name).is_ok();
        let any = prop::collection::vec(any::<u8>(), 1..4).prop_filter("valid", valid);
        prop_oneof!["[ab]|latest|out|inputs|%2E|n{255}".prop_map(String::into_bytes), any]
    };
    prop::collection::btree_map(name(), file(name), 0..3)
}

fn file<Names: Strategy<Value = Vec<u8>> + 'static>(name: impl Fn() -> Names + 'static) -> impl Strategy<Value = Made> {
    let bytes = prop_oneof![Just(0), 1usize..9000].prop_map(|len| (0..len).map(|at| at as u8).collect::<Vec<u8>>());
    let leaf = prop_oneof![
        (bytes, any::<bool>()).prop_map(|(bytes, executable)| Made::File(bytes, executable)),
        prop_oneof![Just(b"..".to_vec()), prop::collection::vec(1u8..=255, 1..30)].prop_map(Made::Link),
    ];
    let directory = move |inner| prop::collection::btree_map(name(), inner, 0..3).prop_map(Made::Directory);
    leaf.prop_recursive(2, 6, 3, directory)
}

fn inputs() -> impl Strategy<Value = BTreeMap<Vec<u8>, Read>> {
    let names = [
        b"a".to_vec(),
        b"a.json".to_vec(),
        b"a.json.json".to_vec(),
        b"a%2Ejson".to_vec(),
        b"".to_vec(),
        b".json".to_vec(),
        b".".to_vec(),
        b"..".to_vec(),
        b"out".to_vec(),
        b"dir/f\xff\n".to_vec(),
        vec![b'x'; 250],
        vec![b'x'; 251],
        [&[b'x'; 251][..], b".json"].concat(),
        vec![b'/'; 4000],
    ];
    let leaf = || "[ab]".prop_map(String::into_bytes);
    let read = (prop::option::of(keys()), prop::option::of(file(leaf)), any::<bool>());
    let read = read.prop_map(|(key, content, held)| Read { key, content, held });
    prop::collection::btree_map(prop::sample::select(names.to_vec()), read, 0..5)
}

fn end() -> impl Strategy<Value = End> {
    let at = (0u64..4).prop_map(|half| Timestamp::from_millis(1_795_284_131_042 + 500 * half));
    let said = prop::option::of(Just("said\n".to_owned()));
    (names(), keys(), at, prop::option::weighted(0.9, files()), said, inputs())
        .prop_map(|(name, key, at, files, stdout, inputs)| End { name, key, at, files, stdout, inputs })
}

/// Any step.
pub(super) fn op() -> impl Strategy<Value = Op> {
    let (index, room) = (|| 0usize..10_000, || 1usize..7);
    let offset = || prop_oneof![0u64..9000, Just(0), Just(u64::MAX)];
    let len = || prop_oneof![Just(0), 0usize..5000, Just(usize::MAX)];
    let miss = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..4),
        prop::sample::select(vec![
            "x",
            "%",
            ".",
            "..",
            "latest",
            "out",
            ".json",
            "/out/x",
            "/latest",
            ".2",
            "%~0123456789abcdef"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    prop_oneof![
        6 => end().prop_map(Op::Commit),
        2 => end().prop_map(Op::Fail),
        2 => (names(), keys()).prop_map(|(name, key)| Op::Hit(name, key)),
        1 => keys().prop_map(Op::Invalidate),
        1 => index().prop_map(Op::Collect),
        4 => index().prop_map(Op::Find),
        3 => (index(), miss).prop_map(|(path, miss)| Op::Miss(path, miss)),
        4 => (index(), room()).prop_map(|(path, room)| Op::List { path, room }),
        4 => (index(), offset(), any::<bool>(), len())
            .prop_map(|(path, offset, from_end, len)| Op::Read { path, offset, from_end, len }),
        3 => index().prop_map(Op::Follow),
        2 => index().prop_map(Op::Xattrs),
        2 => (index(), any::<bool>()).prop_map(|(which, all)| Op::Forget { which, all }),
        2 => index().prop_map(Op::Open),
        2 => (index(), room()).prop_map(|(which, room)| Op::More { which, room }),
        2 => (index(), index()).prop_map(|(which, from)| Op::Again { which, from }),
        1 => index().prop_map(Op::Hold),
        2 => (index(), offset(), len()).prop_map(|(which, offset, len)| Op::Held { which, offset, len }),
        1 => Just(Op::Remount),
    ]
}
