//! `diff`: what two things differ in, followed up to where that began; as text and as JSON.

use provender_core::Digest;
use provender_tests::child::{Ran, string};
use serde_json::{Value, json};

use crate::dag::file::{Dag, dict, text};
use crate::world::World;

/// The causes of a difference, as lines.
#[track_caller]
fn causes(world: &World, old: &str, new: &str) -> Vec<String> {
    world.cli(&["diff", "--causes", old, new]).ok().out().lines().map(str::to_owned).collect()
}

#[track_caller]
fn run(world: &World, dag: &Dag) -> Ran {
    world.write("file.dag", dag.bytes());
    world.cli(&["dag", "run", "file.dag"]).ok()
}

/// What changes from run to run is replaced, wherever it stands.
fn fixed(text: &str, runs: &[(&str, &str)]) -> String {
    runs.iter().fold(text.to_owned(), |text, (id, name)| text.replace(id, name))
}

/// The collage of the demo, with programs of a shell.
fn collage(sha: &str, params: u32) -> Dag {
    let task =
        |command: &str, sha: &str| vec![("command", text(command)), ("image", text("python")), ("sha", text(sha))];
    let deep = dict([("model", dict([("opt", dict([("lr", format!("i{params}e").into_bytes())]))]))]);
    let mut download = task("echo photo >output/photo", "aa");
    download.push(("config", deep));
    let blur = format!("sed s/photo/blurred-{sha}/ inputs/download_images/photo >output/photo");
    Dag::default()
        .encoded("download_images", &download, &[])
        .encoded(
            "blur",
            &task("tr a-z A-Z <inputs/download_images/photo >output/photo; echo $SHA >>output/photo", sha),
            &["download_images"],
        )
        .encoded("edge_enhance", &task(&blur.replace(sha, "edge"), "cc"), &["download_images"])
        .encoded("collage", &task("cat inputs/*/photo >output/collage.png", "dd"), &["blur", "edge_enhance"])
}

#[test]
fn the_collages_of_the_demo_part_in_one_line() {
    let world = World::new();
    for sha in ["6f09d", "qwetr3"] {
        run(&world, &collage(sha, 1));
    }
    let all = world.cli(&["diff", "collage@2", "collage@1"]).ok();
    assert_eq!(all.out(), "blur.sha: 6f09d -> qwetr3\n\noutputs are the same\n");
    assert_eq!(causes(&world, "collage@2", "collage@1"), ["blur.sha: 6f09d -> qwetr3"]);
    assert_eq!(causes(&world, "blur@1", "blur@2"), ["blur.sha: qwetr3 -> 6f09d"], "the other way round");
    // Keys, whose tasks were never run: as they are registered.
    world.write("file.dag", collage("zz", 1).bytes());
    world.cli(&["dag", "import", "file.dag"]).ok();
    let key = collage("zz", 1).key("collage");
    assert_eq!(causes(&world, "collage", &key), ["blur.sha: qwetr3 -> zz"]);
    let registered = world.cli(&["diff", "collage", &key]).ok().out();
    assert!(
        registered.contains(&format!("outputs cannot be compared: {key} (never attempted) has none")),
        "{registered}"
    );
    // A parameter, nested three deep, two steps up, of what all others come from.
    run(&world, &collage("qwetr3", 2));
    assert_eq!(causes(&world, "collage@2", "collage"), ["download_images.config.model.opt.lr: 1 -> 2"]);
    // Two roots at once, nearest first.
    assert_eq!(
        causes(&world, "collage@3", "collage"),
        ["blur.sha: 6f09d -> qwetr3", "download_images.config.model.opt.lr: 1 -> 2"]
    );
    let json = world.cli(&["--json", "diff", "collage@3", "collage"]).ok().json();
    let distances: Vec<_> = json["causes"].as_array().unwrap().iter().map(|cause| cause["distance"].clone()).collect();
    assert_eq!(distances, [1, 2]);
    let one = world.cli(&["diff", "collage@3", "collage", "--limit", "1"]).ok().says(&["--limit shows more"]).out();
    assert!(one.starts_with("blur.sha: 6f09d -> qwetr3\nand more: these are the nearest 1\n"), "{one}");
}

/// Three tasks in a row, over a folder of sources: `prep`, `train`, `eval`.
fn chain(world: &World, mode: Option<&str>, token: Option<&str>) -> Vec<String> {
    let with = |provender: &provender_tests::provender::Provender, name, value: Option<&str>| match value {
        Some(value) => provender.env(name, value),
        None => provender.without(name),
    };
    let provender = with(&with(&world.provender, "MODE", mode), "TOKEN", token);
    let task = |args: &[&str], script: &str| {
        let args: Vec<_> = ["--json", "run"].iter().chain(args).copied().chain(["--", "sh", "-c", script]).collect();
        string(&provender.run(args).ok().record()["execution"])
    };
    vec![
        task(&["--name", "prep", "--in", "data", "--out", "clean"], "mkdir clean; cat data/*/* >clean/all"),
        task(
            &["--name", "train", "--in", "D=prep", "--env", "MODE", "--secret-env", "TOKEN", "--out", "model"],
            "{ cat $PROVENDER_IN_D/clean/all; echo $MODE; echo $TOKEN | wc -c; } >model; echo \"{\\\"acc\\\": 0.9$(wc -c <model), \\\"loss\\\": {\\\"val\\\": 2}}\" >$PROVENDER_METRICS",
        ),
        task(
            &["--name", "eval", "--in", "model", "--out", "report"],
            "mkdir report; cp model report/; wc -c <model >report/n",
        ),
    ]
}

#[test]
fn a_changed_file_or_variable_is_named_however_far_up() {
    let world = World::new();
    world.write("data/x/a.csv", "1,2,3\n");
    world.write("data/x/b.csv", "4,5,6\n");
    chain(&world, Some("fast"), Some("hunter2"));
    let causes = || causes(&world, "eval@2", "eval@1");
    // A file three tasks upstream, by its path; one that is new, one that is gone.
    world.write("data/x/b.csv", "4,5,66\n");
    chain(&world, Some("fast"), Some("hunter2"));
    assert_eq!(causes(), ["prep/inputs/data/x/b.csv: 6 B -> 7 B"]);
    world.write("data/y/c.csv", "7\n");
    std::fs::remove_file(world.path("data/x/a.csv")).unwrap();
    chain(&world, Some("fast"), Some("hunter2"));
    assert_eq!(causes(), ["prep/inputs/data/x/a.csv: removed, 6 B", "prep/inputs/data/y/c.csv: added, 2 B",]);
    // Variables: of a secret it is said that it changed, and nothing of what it is.
    chain(&world, Some("slow one"), Some("hunter2"));
    assert_eq!(causes(), ["train.env.MODE: fast -> \"slow one\""]);
    chain(&world, None, Some("hunter2"));
    assert_eq!(causes(), ["train.env.MODE: \"slow one\" -> (unset)"]);
    chain(&world, None, Some("correct horse"));
    assert_eq!(causes(), ["train.env.TOKEN: (secret) changed"]);
    let json = world.cli(&["--json", "diff", "eval@2", "eval"]).ok();
    assert!(!json.out().contains("hunter2") && !json.out().contains("horse"));
    let secret = json!({ "secret": true });
    let cause = &json.json()["causes"][0];
    assert_eq!((&cause["old"], &cause["new"], &cause["secret"]), (&secret, &secret, &true.into()));
    chain(&world, None, None);
    assert_eq!(causes(), ["train.env.TOKEN: (secret) -> (unset)"]);
    // Two at once, at two places.
    world.write("data/y/c.csv", "8\n");
    chain(&world, Some("x"), None);
    assert_eq!(causes(), ["train.env.MODE: (unset) -> x", "prep/inputs/data/y/c.csv: 2 B, other bytes"]);
}

#[test]
fn all_of_it_is_told_as_text_and_as_json() {
    let world = World::new();
    world.write("data/x/a.csv", "1,2,3\n");
    let first = chain(&world, Some("a"), None);
    world.cli(&["annotate", "train", "--label", "who=ann", "--label", "stage=test"]).ok();
    let second = chain(&world, Some("bcd"), None);
    world.cli(&["annotate", "train", "--label", "who=bob", "--label", "stage=test"]).ok();
    let said = world.cli(&["diff", &format!("exec:{}", first[1]), "train"]).ok();
    assert_eq!(
        said.out(),
        "train.env.MODE: a -> bcd\n\n\
         metrics\n  acc       0.91  0.912  +0.002\n  loss.val  2     2      same\n\n\
         labels\n  who  ann  bob\n\n\
         outputs\n  changed  model  10 B -> 12 B\n"
    );
    assert_eq!(said.err(), "");
    assert_eq!(
        world.cli(&["diff", "eval@2", "eval", "--outputs"]).ok().out(),
        "outputs\n  changed  report/model  10 B -> 12 B\n  changed  report/n  3 B, other bytes\n"
    );
    let out = world.cli(&["--json", "diff", "eval@2", "eval@1"]).ok().out();
    let out =
        fixed(&out, &[(&first[1], "TRAIN1"), (&second[1], "TRAIN2"), (&first[2], "EVAL1"), (&second[2], "EVAL2")]);
    let mut json: Value = serde_json::from_str(&out).unwrap();
    let key = json["causes"][0]["key"].take();
    assert!(key.as_str().unwrap().starts_with("run:"));
    assert_eq!(
        (string(&json["old"]["execution"]), string(&json["new"]["execution"])),
        ("EVAL1".into(), "EVAL2".into())
    );
    let file = |text: &str| json!({ "type": "file", "hash": Digest::of(text.as_bytes()).hex(), "size": text.len(), "executable": false });
    for side in ["old", "new"] {
        json[side] = json[side]["name"].take();
    }
    let expected = json!({
        "v": 1,
        "old": "eval",
        "new": "eval",
        "unrelated": false,
        "causes": [{
            "task": "train", "key": null, "old_execution": "TRAIN1", "new_execution": "TRAIN2", "distance": 1,
            "kind": "field", "field": "env.MODE", "old": "a", "new": "bcd", "secret": false,
        }],
        "truncated_causes": false,
        "metrics": [],
        "labels": [],
        "outputs": [
            { "path": "report/model", "change": "changed", "old": file("1,2,3\na\n1\n"), "new": file("1,2,3\nbcd\n1\n") },
            { "path": "report/n", "change": "changed", "old": file("10\n"), "new": file("12\n") },
        ],
        "truncated_outputs": false,
        "unread": null,
    });
    assert_eq!(json, expected, "{json:#}");
    let json = world.cli(&["--json", "diff", "train@2", "train"]).ok().json();
    assert_eq!(json["metrics"][0], json!({ "field": "acc", "old": 0.91, "new": 0.912, "secret": false }));
    assert_eq!(json["labels"][0], json!({ "field": "stage", "old": "test", "new": "test", "secret": false }));
    let cause = world.cli(&["--json", "diff", "prep", "eval"]).ok().json();
    assert_eq!(cause["unrelated"], true, "{cause:#}");
}

#[test]
fn what_does_not_differ_is_said_and_on_what_basis() {
    let world = World::new();
    let make = ["--name", "n", "--key", "t:n", "--out", "out"];
    let record = string(&world.run(&make, "date +%N >out").ok().record()["execution"]);
    let same = world.cli(&["diff", "n", "t:n"]).ok().out();
    assert_eq!(same, format!("no difference: both are exec:{record}\n"));
    // The same again, with the same outputs and with others.
    let check = [&make[..], &["--check"]].concat();
    let other = string(&world.run(&check, "date +%N >out").code(1).record()["execution"]);
    let said = world.cli(&["diff", &format!("exec:{record}"), &format!("exec:{other}")]).ok().out();
    let unstable = format!(
        "n: did the same with the same, and made something else (exec:{record}, exec:{other})\n\noutputs\n  changed  out  "
    );
    assert!(said.starts_with(&unstable), "{said}");
    let make = ["--name", "same", "--key", "t:same", "--out", "out"];
    let first = string(&world.run(&make, "echo 1 >out").ok().record()["execution"]);
    let second = string(&world.run(&[&make[..], &["--check"]].concat(), "echo 1 >out").ok().record()["execution"]);
    let said = world.cli(&["diff", &format!("exec:{first}"), &format!("exec:{second}")]).ok().out();
    assert_eq!(
        said,
        format!("no difference: the same was done with the same, and made the same (exec:{first}, exec:{second})\n")
    );
    // What failed is compared in what it was to do.
    world.run(&["--name", "fails", "--env", "A"], "exit 1").code(1);
    let set = world.provender.env("A", "1");
    set.run(["run", "--name", "fails2", "--env", "A", "--", "sh", "-c", "exit 1"]).code(1);
    let said = world.cli(&["diff", "fails", "fails2"]).ok().out();
    assert!(said.starts_with("these are two tasks, fails and fails2:\nfails2.env.A: (unset) -> 1\n\noutputs cannot be compared: neither exec:"), "{said}");
    world.cli(&["diff", "n", "none"]).code(1).says(&["none"]);
    world.cli(&["diff", "n"]).code(2);
    world.cli(&["diff", "n", "n", "--causes", "--outputs"]).code(2);
}

#[test]
fn other_tasks_have_nothing_in_common() {
    let world = World::new();
    world.write("a", "a\n");
    world.run(&["--name", "one", "--in", "a", "--out", "o"], "cat a >o").ok();
    world.run(&["--name", "two", "--env", "B", "--out", "p"], "echo two >p").ok();
    let said = world.cli(&["diff", "one", "two"]).ok().out();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[0], "they have nothing in common: these are other tasks, with other inputs");
    assert_eq!(
        lines[1..5],
        [
            "two.command: \"cat a >o\" -> \"echo two >p\"",
            "two.env.B: (none) -> (unset)",
            "two.outputs: [\"o\"] -> [\"p\"]",
            &*format!("two/inputs/a: blob:{} -> (none)", Digest::of(b"a\n").hex())
        ]
    );
    assert_eq!(lines[5..], ["", "outputs", "  removed  o  2 B", "  added  p  4 B"]);
}

#[test]
fn trees_and_blobs_are_compared_path_by_path() {
    let world = World::new();
    let mut trees = Vec::new();
    for content in ["1", "22"] {
        world.write("d/deep/f", content);
        world.write("d/same", "same");
        world.cli(&["put", "d", "--name", "d"]).ok();
        trees.push(string(&world.cli(&["--json", "show", "d"]).ok().json()["record"]["outputs"]["hash"]));
    }
    let [old, new] = &trees[..] else { panic!("two") };
    let (old, new) = (format!("tree:{old}"), format!("tree:{new}"));
    let said = world.cli(&["diff", &old, &new]).ok().out();
    assert_eq!(said, "outputs\n  changed  deep/f  1 B -> 2 B\n");
    assert_eq!(world.cli(&["diff", &old, &old]).ok().out(), format!("no difference: both are {old}\n"));
    let blob = |text: &str| format!("blob:{}", Digest::of(text.as_bytes()).hex());
    assert_eq!(world.cli(&["diff", &blob("1"), &blob("22")]).ok().out(), "outputs\n  changed  1 B -> 2 B\n");
    world.cli(&["diff", &blob("1"), &old]).code(1).says(&["is a blob", "is a tree", "two executions are compared"]);
    world.cli(&["diff", "d", &old]).code(1).says(&["d is an execution"]);
    // Two that were stored, as what they were.
    let said = world.cli(&["diff", "d@2", "d"]).ok().out();
    assert_eq!(said, "d/inputs/put/deep/f: 1 B -> 2 B\n\noutputs\n  changed  deep/f  1 B -> 2 B\n");
    // That is also why those who used them differ.
    world.run(&["--name", "use", "--in", "D=d@2", "--out", "o"], "ls -R $PROVENDER_IN_D >o").ok();
    world.run(&["--name", "use", "--in", "D=d", "--out", "o"], "ls -R $PROVENDER_IN_D >o").ok();
    assert_eq!(causes(&world, "use@2", "use"), ["d/inputs/put/deep/f: 1 B -> 2 B"]);
}

#[test]
fn who_made_the_same_bytes_by_chance_is_no_cause() {
    let world = World::new();
    let run = |name: &str| {
        world.run(&["--name", name, "--in", "cfg", "--in", "data", "--out", "o"], "cat cfg data/* >o").ok();
    };
    world.write("cfg", "5");
    world.write("data/a", "a");
    world.write("data/b", "b");
    run("t");
    // Both the new file and the new folder have been made by others as well.
    world.run(&["--name", "other", "--out", "x"], "printf 66 >x").ok();
    world.write("cfg", "66");
    world.write("data/b", "bb");
    world.cli(&["put", "data", "--name", "ds"]).ok();
    run("t");
    let said = world.cli(&["diff", "t@2", "t", "--causes"]).ok().out();
    assert_eq!(said, "t/inputs/cfg: 1 B -> 2 B\nt/inputs/data/b: 1 B -> 2 B\n");
}
