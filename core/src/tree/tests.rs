use super::*;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

fn digest() -> impl Strategy<Value = Digest> {
    (any::<[u8; 32]>(), any::<u64>()).prop_map(|(hash, size)| Digest { hash, size })
}

fn node() -> impl Strategy<Value = Node> {
    prop_oneof![
        (digest(), any::<bool>()).prop_map(|(digest, executable)| Node::File { digest, executable }),
        vec(1u8..=255, 1..40).prop_map(|target| Node::Symlink { target: target.into() }),
        digest().prop_map(|digest| Node::Directory { digest }),
    ]
}

fn name() -> impl Strategy<Value = Bytes> {
    vec(1u8..=255, 1..20).prop_map(Bytes::from).prop_filter("valid", |name| check_name(name).is_ok())
}

fn tree() -> impl Strategy<Value = Tree> {
    btree_map(name(), node(), 0..12).prop_map(|entries| Tree { entries })
}

fn id(tree: &Tree) -> Digest {
    Digest::of(&tree.encode().expect("small"))
}

proptest! {
    #[test]
    fn round_trips(tree in tree()) {
        prop_assert_eq!(Tree::decode(&tree.encode().expect("small")), Ok(tree));
    }

    /// Only what `encode` writes decodes: whatever a changed byte turns the bytes into, its digest is its own.
    #[test]
    fn decoding_is_canonical(tree in tree(), at: prop::sample::Index, byte: u8) {
        let mut bytes = tree.encode().expect("small").to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let bytes = Bytes::from(bytes);
        if let Ok(read) = Tree::decode(&bytes) {
            prop_assert_eq!(read.encode().expect("small"), bytes);
        }
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let _ = Tree::decode(&[MAGIC, &bytes].concat().into());
        let _ = Tree::decode(&bytes.into());
    }

    #[test]
    fn a_cut_is_refused_or_shorter(tree in tree(), cut: prop::sample::Index) {
        let bytes = tree.encode().expect("small");
        let cut = cut.index(bytes.len());
        if let Ok(read) = Tree::decode(&bytes.slice(..cut)) {
            prop_assert!(read.len() < tree.len());
        }
    }

    /// Each thing that a directory says changes its identity.
    #[test]
    fn every_part_counts(tree in tree(), name in name(), node in node(), other in node()) {
        prop_assume!(tree.get(&name).is_none() && node != other);
        let with = |name: &Bytes, node: &Node| {
            let mut with = tree.clone();
            with.insert(name.clone(), node.clone()).expect("new");
            id(&with)
        };
        prop_assert_ne!(id(&tree), with(&name, &node));
        prop_assert_ne!(with(&name, &node), with(&name, &other));
    }
}

#[test]
fn exec_bit_symlink_and_empty_folder_differ() {
    let digest = Digest::of(b"x");
    let kinds = [
        Node::File { digest, executable: false },
        Node::File { digest, executable: true },
        Node::Directory { digest },
        Node::Symlink { target: "x".into() },
    ];
    let mut ids: Vec<_> = kinds
        .into_iter()
        .map(|node| {
            let mut tree = Tree::new();
            tree.insert("a", node).expect("valid");
            id(&tree)
        })
        .chain([id(&Tree::new())])
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5);
}

#[test]
fn hostile_names_are_refused() {
    let file = Node::File { digest: Digest::of(b""), executable: false };
    for name in ["", ".", "..", "a/b", "/", "a\0b", &"x".repeat(256)] {
        assert!(Tree::new().insert(name.to_owned(), file.clone()).is_err(), "{name:?}");
    }
    for target in ["", "a\0b", &"x".repeat(4096)] {
        let link = Node::Symlink { target: target.to_owned().into() };
        assert!(Tree::new().insert("link", link).is_err(), "{target:?}");
    }
    let mut tree = Tree::new();
    tree.insert("x".repeat(255), file).expect("255 bytes fit");
}
