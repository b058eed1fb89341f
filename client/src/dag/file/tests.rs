use proptest::prelude::*;

use super::*;
use crate::dag::testing::{dict, file, hash, integer, of_tasks, text, with};

fn spec<'a>(command: &'a str, sha: &'a str) -> Value<'a> {
    dict(&[(b"image", text("collage")), (b"command", text(command)), (b"sha", text(sha))])
}

/// The collage, with blur's `sha`: each task's name and hash as they were written.
fn collage(sha: &str) -> Vec<(String, String)> {
    let (download, edge) =
        (spec("python dl_images.py", "1qe34"), spec("python transform_images.py edge_enhance", "1qe34"));
    let (blur, join) = (spec("python transform_images.py blur", sha), spec("python collage.py", "1qe34"));
    let down = hash(&download, &[]);
    let from = [("download_images", &*down)];
    let (blurred, enhanced) = (hash(&blur, &from), hash(&edge, &from));
    let both = [("blur", &*blurred), ("edge_enhance", &*enhanced)];
    let bytes = file(&[
        ("collage", join, &both),
        ("download_images", download, &[]),
        ("edge_enhance", edge, &from),
        ("blur", blur, &from),
    ]);
    let parsed = File::parse(&bytes, "").unwrap();
    parsed.tasks().iter().map(|task| (task.title.clone(), task.key.id().to_owned())).collect()
}

#[test]
fn the_collage_has_the_hashes_that_a_la_mode_gives_it() {
    let expected = |blur: &str, collage: &str| {
        [
            ("blur", blur),
            ("collage", collage),
            ("download_images", "6075b3951568e2f31df204a59eb92bbb17d84e6b49f1275216bc0b6deb0e223d"),
            ("edge_enhance", "7a764d984ce66d23a69c87645b47fcf7be79711f40be95fb631308ee01ca2a04"),
        ]
        .map(|(name, hash)| (name.to_owned(), hash.to_owned()))
    };
    let (blur, join) = (
        "82695e5805a9cd091e42ae94469efe77a90907c96190c793cee3c7d58dc2bbe0",
        "566a13d45eeebdefc50de118f5031278b20171ce76deb51791a4f084668e6d16",
    );
    assert_eq!(collage("6f09d"), expected(blur, join));
    let (blur, join) = (
        "4df7200d1f836f7372ce01761c9cb9e0d2bc7d1abc7ee9c1abe8dc7df9a67e5e",
        "25adad1924719ff4d5d2c3f4839f0ff1b4e21537c3c358f7d10b5e5d7c9c6de5",
    );
    assert_eq!(collage("qwetr3"), expected(blur, join));
}

#[test]
fn neither_the_name_nor_meta_counts_and_names_may_share_a_hash() {
    let bytes = file(&[("a", spec("x", "1"), &[]), ("b/c", spec("x", "1"), &[])]);
    let parsed = File::parse(&bytes, "demo/").unwrap();
    let names: Vec<_> = parsed.tasks().iter().map(|task| (task.title.as_str(), task.name.as_str())).collect();
    assert_eq!(names, [("a", "demo/a"), ("b/c", "demo/b/c")]);
    assert_eq!(parsed.tasks()[0].key, parsed.tasks()[1].key);
    assert_eq!(parsed.tasks()[0].command.as_deref(), Some("x"));
}

#[test]
fn each_bad_file_is_refused_with_its_task_and_field() {
    let (good, a64, b64) = (spec("x", "1"), "a".repeat(64), "b".repeat(64));
    let whole = |inputs: Value<'static>| with(&dict(&[(b"inputs", inputs)]), "output", Value::Bytes(&[b'a'; 64]));
    let raw = |key: &'static str, task: Value<'_>| of_tasks(dict(&[(key.as_bytes(), task)]));
    let cycle =
        |of: &'static str| whole(dict(&[(b"x", Value::Bytes(if of == "a" { &[b'a'; 64] } else { &[b'b'; 64] }))]));
    let mut two = vec![];
    for (name, needs, output) in [("a", &b64, &a64), ("b", &a64, &b64)] {
        let inputs = dict(&[(b"it", text(needs))]);
        two.push((name.as_bytes(), dict(&[(b"inputs", inputs), (b"output", text(output))])));
    }
    let user_output = with(&with(&good, "inputs", dict(&[])), "output", text(&a64));
    for (bytes, words) in [
        (b"".to_vec(), &["no à la mode file", "byte 0"][..]),
        (b"4:spam".to_vec(), &["no dictionary"]),
        (b"de".to_vec(), &["no `tasks`"]),
        (b"d5:tasksi1ee".to_vec(), &["`tasks` is an integer"]),
        (raw("t", integer(1)), &["task \"t\"", "an integer"]),
        (raw("t", good.clone()), &["task \"t\"", "`output` is missing"]),
        (raw("t", with(&good, "output", integer(3))), &["`output` is an integer"]),
        (raw("t", with(&good, "output", text("ABC"))), &["`output` is \"ABC\""]),
        (raw("t", with(&good, "output", text(&a64))), &["`inputs` is missing"]),
        (raw("t", with(&with(&good, "inputs", text("")), "output", text(&a64))), &["`inputs` is a text"]),
        (raw("t", whole(dict(&[(b"up", text("x"))]))), &["`inputs.up` is \"x\""]),
        (raw("t", whole(dict(&[(b"up", dict(&[]))]))), &["`inputs.up` is a dictionary"]),
        (raw("t", user_output), &["task \"t\"", "changed after", "whose own spec has a key `output`"]),
        (raw("..", whole(dict(&[]))), &["task \"..\"", "cannot be recorded"]),
        (raw("", whole(dict(&[]))), &["task \"\"", "is empty"]),
        (raw("a\nb", whole(dict(&[]))), &["control character"]),
        (of_tasks(dict(&[(b"\xff", whole(dict(&[])))])), &["no UTF-8"]),
        (raw("a", cycle("a")), &["in a circle: a -> a"]),
        (of_tasks(dict(&two)), &["in a circle: a -> b -> a"]),
        (file(&[("big", spec(&"x".repeat(MAX_TASK), "1"), &[])]), &["task \"big\"", "at most 524288"]),
    ] {
        let error = File::parse(&bytes, "").unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "no {word:?} in {error:?}");
        }
    }
}

#[test]
fn labels_that_are_no_folder_are_told_before_a_run() {
    for (label, good) in
        [("a", true), ("...", true), ("..", false), (".", false), ("", false), ("a/b", false), ("a\0", false)]
    {
        let up = "a".repeat(64);
        let bytes = file(&[("t", spec("x", "1"), &[(label, &up)])]);
        let checked = File::parse(&bytes, "").unwrap().tasks()[0].check_labels();
        assert_eq!(checked.is_ok(), good, "{label:?}");
        assert!(checked.is_ok() || checked.unwrap_err().to_string().contains("task \"t\": `inputs."));
    }
}

#[test]
fn a_file_too_large_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large");
    std::fs::File::create(&path).unwrap().set_len(MAX_FILE + 1).unwrap();
    assert!(matches!(File::read(&path, ""), Err(FileError::TooLarge)));
    assert!(matches!(File::read(&folder.path().join("none"), ""), Err(FileError::Read { .. })));
    assert!(matches!(File::read(folder.path(), ""), Err(FileError::Read { .. })));
}

proptest! {
    #[test]
    fn a_changed_file_is_refused_or_says_the_same(at in any::<prop::sample::Index>(), byte: u8, cut: bool) {
        let down = hash(&spec("x", "1"), &[]);
        let mut bytes = file(&[("up", spec("x", "1"), &[]), ("down", spec("y", "2"), &[("up", &down)])]);
        let before = File::parse(&bytes, "").expect("it is good");
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(if cut { at } else { bytes.len() });
        if let Ok(after) = File::parse(&bytes, "") {
            // Names and what is beside the tasks are not hashed; everything else is.
            let keys = |file: &File| {
                let mut keys: Vec<_> = file.tasks().iter().map(|task| (task.key.clone(), task.raw.clone())).collect();
                keys.sort();
                keys
            };
            prop_assert_eq!(keys(&after), keys(&before));
        }
    }
}
