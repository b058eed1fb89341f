//! A store that lies: what it says may be refused, and nothing else happens.

use bytes::Bytes;

use super::watched::Watched;
use super::*;
use crate::memory::Wanted;

fn refused<T: std::fmt::Debug>(answer: Result<T, ViewError>) {
    assert!(matches!(answer, Err(ViewError::Source(SourceError::Damaged { .. }))), "{answer:?}");
}

#[test]
fn no_folder_and_no_scheme_leads_out() {
    for twisted in ["../../../../etc", "..", ".", "", "a/b", "\0", "latest", "2026-11-21T18-02-11Z-566a13d4/../../.."] {
        let inner = Arc::new(MemorySource::new());
        let (at, key) = (at(0), |id: &str| TaskKey::new("run", id).expect("valid"));
        let made = inner.commit(Attempt::new(name("made"), key("1"), at));
        let wanted = Wanted { key: Some(made.key.clone()), content: None };
        let inputs = [(Bytes::from("in"), wanted)].into();
        let reads = inner.commit(Attempt { inputs, ..Attempt::new(name("reads"), key("2"), at) });
        let view = View::new(Arc::new(Watched { twisted: Some(twisted), ..Watched::new(inner) }), Settings::default());
        refused(find(&view, "tasks/made/latest"));
        refused(find(&view, &format!("tasks/reads/{}/inputs/in", reads.folder)));
        // Found by its right name, which is what the link is made of.
        let used_by = format!("tasks/made/{}/used-by", made.folder);
        let link = find(&view, &format!("{used_by}/reads@{}", reads.folder)).expect("there").number;
        assert_eq!(view.read_link(link).expect("a link"), format!("../../../reads/{}", reads.folder));
        let short = provender_core::view::consumer(&name(&"x".repeat(300)), &reads.folder);
        refused(find(&view, &format!("{used_by}/{short}")));
        assert!(matches!(find(&view, "keys/run"), Err(ViewError::NotFound)));
        let mut listed = vec![used_by, "tasks/made".into()];
        if twisted != "latest" {
            listed.push("keys".into());
        }
        for directory in listed {
            let number = find(&view, &directory).expect("there").number;
            let handle = view.open_directory(number).expect("not read yet");
            refused(view.list(handle, 0, |item, _| {
                assert!(matches!(&*item.name, b"." | b".." | b"latest"), "{item:?}");
                true
            }));
        }
    }
}

#[test]
fn pages_that_follow_themselves_end() {
    let inner = Arc::new(MemorySource::new());
    let made = inner.commit(Attempt::new(name("made"), TaskKey::new("run", "1").expect("valid"), at(0)));
    let view = View::new(Arc::new(Watched { twisted: Some("run"), ..Watched::new(inner) }), Settings::default());
    let used_by = find(&view, &format!("tasks/made/{}/used-by", made.folder)).expect("there").number;
    let handle = view.open_directory(used_by).expect("not read yet");
    refused(view.list(handle, 0, |_, _| true));
}

/// What no tree can say, a source cannot hand out either: `Tree` takes no such name, and reads none.
#[test]
fn no_tree_has_names_that_lead_out() {
    let source = Arc::new(MemorySource::new());
    for name_in_tree in [&b".."[..], b".", b"", b"/", b"a/b", b"a\0", b"/etc"] {
        let mut tree = Tree::new();
        let node = tree::Node::Symlink { target: "x".into() };
        assert!(tree.insert(name_in_tree.to_vec(), node).is_err());
        let mut bytes = b"provender tree 1\nl".to_vec();
        bytes.extend([name_in_tree.len() as u8]);
        bytes.extend(name_in_tree);
        bytes.extend([0, 1, b'x']);
        let outputs = source.put(bytes);
        let folder = commit(&source, &name("a"), "1", at(0), outputs, [None, None]).folder;
        let view = view(&source);
        let out = find(&view, &format!("tasks/a/{folder}/out")).expect("there").number;
        refused(view.lookup(out, name_in_tree));
        let handle = view.open_directory(out).expect("not read yet");
        refused(view.list(handle, 0, |item, _| {
            assert!(matches!(&*item.name, b"." | b".."), "{item:?}");
            true
        }));
    }
}

#[test]
fn a_link_that_cannot_be_followed_is_an_error() {
    let source = Arc::new(MemorySource::new());
    let key = |id: &str| TaskKey::new("run", id).expect("valid");
    let link = |target: Vec<u8>| {
        let content = Some(tree::Node::Symlink { target: target.into() });
        Wanted { key: None, content }
    };
    // Hundreds of levels up, then hundreds of escapes.
    let deep = name(&["a"; 500].join("/"));
    let escapes = name(&[&*"%".repeat(84); 12].join("/"));
    source.commit(Attempt::new(escapes, key("made"), at(0)));
    let inputs = [
        (Bytes::from("empty"), link(vec![])),
        (Bytes::from("nul"), link(b"a\0".to_vec())),
        (Bytes::from("long"), link(vec![b'a'; 4096])),
        (Bytes::from("fits"), link(vec![b'a'; 4095])),
        (Bytes::from("far"), Wanted { key: Some(key("made")), content: None }),
    ];
    let folder = source.commit(Attempt { inputs: inputs.into(), ..Attempt::new(deep.clone(), key("2"), at(0)) }).folder;
    let view = view(&source);
    let inputs = find(&view, &format!("tasks/{deep}/{folder}/inputs")).expect("there").number;
    refused(view.lookup(inputs, b"empty"));
    refused(view.lookup(inputs, b"nul"));
    for too_long in [&b"long"[..], b"far"] {
        assert!(matches!(view.lookup(inputs, too_long), Err(ViewError::LongTarget { .. })));
    }
    assert!(view.lookup(inputs, b"fits").is_ok());
}
