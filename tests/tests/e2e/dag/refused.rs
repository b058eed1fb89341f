//! Bad files: a clear error, exit code 1, and nothing run.

use super::file::{Dag, dict, text};
use super::{COUNTED, Tasks};

#[test]
fn nothing_runs_of_a_bad_file() {
    let tasks = Tasks::new();
    let good = Dag::default().task("good", &format!("{COUNTED} echo a >output/a"), &[]);
    let whole = good.bytes();
    let of_tasks = |tasks: Vec<u8>| [b"d5:tasks".to_vec(), tasks, b"e".to_vec()].concat();
    let (a, b) = ("a".repeat(64), "b".repeat(64));
    let declared =
        |output: &str, needs: &str| dict([("inputs", dict([("it", text(needs))])), ("output", text(output))]);
    let bare = |name: &str| of_tasks(dict([(name, dict([("inputs", dict([])), ("output", text(&a))]))]));
    let at = whole.windows(4).position(|bytes| bytes == b"echo").unwrap();
    let mut changed = whole.clone();
    changed[at] = b'E';
    let needing = |label: &str| {
        let up = Dag::default().task(label, "true", &[]).task("t", COUNTED, &[label]);
        up.without(label).bytes()
    };
    for (bytes, words) in [
        (Vec::new(), &["no à la mode file", "byte 0"][..]),
        (whole[..whole.len() - 1].to_vec(), &["ends here, in the middle"]),
        (whole[..whole.len() / 2].to_vec(), &["byte "]),
        ([whole.clone(), b"\n".to_vec()].concat(), &["something follows"]),
        (vec![b'l'; 10_000], &["byte 64", "nested deeper than 64"]),
        (b"d5:tasks99999999999:xe".to_vec(), &["byte 8", "a text of 99999999999 bytes"]),
        (b"d5:tasks18446744073709551617:xe".to_vec(), &["byte 8"]),
        (b"d1:ai1e1:ai1ee".to_vec(), &["byte 7", "not sorted and unique"]),
        (b"d5:tasksde1:ai1ee".to_vec(), &["byte 10", "not sorted and unique"]),
        (b"d4:metai9223372036854775808e5:tasksdee".to_vec(), &["byte 7", "beyond 64 bits"]),
        (b"d4:metai007e5:tasksdee".to_vec(), &["byte 7", "leading zero"]),
        (b"i1e".to_vec(), &["no dictionary"]),
        (changed, &["task \"good\"", "`output` is", "changed after it was written"]),
        (of_tasks(dict([("a", declared(&a, &a))])), &["circle: a -> a"]),
        (of_tasks(dict([("a", declared(&a, &b)), ("b", declared(&b, &a))])), &["circle: a -> b -> a"]),
        (bare(".."), &["task \"..\"", "cannot be recorded"]),
        (bare("a//b"), &["task \"a//b\"", "empty part"]),
        (bare("\u{1b}[2J"), &["control character"]),
        (needing("a/b"), &["task \"t\": `inputs.a/b`", "cannot be a folder"]),
        (needing(".."), &["`inputs...`", "cannot be a folder"]),
        (needing("gone"), &["task \"t\"", "`inputs.gone`", "UNKNOWN"]),
        (good.clone().spec("z", &[("image", "x")], &["good"]).bytes(), &["task \"z\"", "`command` is missing"]),
    ] {
        tasks.world.write("src/file.dag", &bytes);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let ran = tasks.world.cli(&["dag", "run", "src/file.dag"]);
        assert_eq!((ran.status.code(), ran.out().as_str()), (Some(1), ""), "{shown}: {}", ran.err());
        ran.says(&["src/file.dag"]).says(words);
    }
    assert_eq!((tasks.count(), tasks.world.cli(&["ls"]).ok().out().as_str()), (0, ""));
    tasks.nothing_left();
    assert_eq!(tasks.world.cli(&["dag", "run", "src"]).code(1).out(), "");
    // The prefix is what makes this one a name that is none.
    tasks.world.write("src/file.dag", &whole);
    tasks.world.cli(&["dag", "run", "src/file.dag", "--prefix", "/"]).code(1).says(&["task \"good\"", "--prefix"]);
}
