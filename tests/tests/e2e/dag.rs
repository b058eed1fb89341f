//! `dag`: task files of à la mode, run and imported.

#[path = "dag/file.rs"]
pub(crate) mod file;
#[path = "dag/refused.rs"]
mod refused;
#[path = "dag/stopped.rs"]
mod stopped;

use std::collections::BTreeMap;

use provender_tests::child::{Ran, Running, string};
use serde_json::Value;

use self::file::Dag;
use crate::world::World;

/// A world whose commands can say that they ran: each adds its line to `$COUNT`, in the working folder but outside of scratch folders.
struct Tasks {
    world: World,
}

impl Tasks {
    fn new() -> Tasks {
        let mut world = World::new();
        world.provender = world.provender.env("COUNT", world.path("count"));
        std::fs::create_dir(world.path("src")).unwrap();
        Tasks { world }
    }

    fn start(&self, dag: &Dag, more: &[&str]) -> Running {
        // By rename: another run may be reading it.
        self.world.write("new", dag.bytes());
        std::fs::rename(self.world.path("new"), self.world.path("src/file.dag")).unwrap();
        self.world.provender.start(["--json", "dag", "run", "src/file.dag"].iter().chain(more))
    }

    #[track_caller]
    fn run(&self, dag: &Dag, more: &[&str]) -> Ran {
        self.start(dag, more).wait()
    }

    /// How often commands ran.
    fn count(&self) -> usize {
        self.world.count("count")
    }

    /// Nothing is left of scratch folders.
    fn nothing_left(&self) {
        let left: Vec<_> = std::fs::read_dir(self.world.provender.temporary()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// How each task ended, by name.
#[track_caller]
fn ends(ran: &Ran) -> BTreeMap<String, String> {
    let lines = ran.lines();
    let tasks = lines.iter().filter(|line| line["task"].is_string());
    tasks.map(|line| (string(&line["task"]), string(&line["ended"]))).collect()
}

/// `[ran, hits, failed, skipped]`.
#[track_caller]
fn sums(ran: &Ran) -> [u64; 4] {
    let last = ran.lines().pop().expect("a summary");
    ["ran", "hits", "failed", "skipped"].map(|field| last[field].as_u64().unwrap())
}

#[track_caller]
fn reason(ran: &Ran, task: &str) -> String {
    string(&ran.lines().iter().find(|line| line["task"] == task).expect("it is told of")["reason"])
}

const COUNTED: &str = "echo x >>$COUNT; ";

/// Four tasks in the shape of a diamond; `mark` is part of the second one.
fn diamond(mark: &str) -> Dag {
    let read = "cat inputs/*/* >output/text; ";
    Dag::default()
        .task("load", &format!("{COUNTED} cp words output/text; echo loaded"), &[])
        .task("upper", &format!("{COUNTED} {read} echo {mark} >>output/text"), &["load"])
        .task("lower", &format!("{COUNTED} {read} mkdir output/deep; ln -s ../text output/deep/link"), &["load"])
        .task(
            "join",
            &format!("{COUNTED} cat inputs/upper/text inputs/lower/deep/link >output/all"),
            &["upper", "lower"],
        )
}

#[test]
fn a_file_runs_once_and_a_change_runs_what_depends_on_it() {
    let tasks = Tasks::new();
    tasks.world.write("src/words", "words\n");
    let first = tasks.run(&diamond("A"), &["-j", "2"]).ok();
    assert_eq!((sums(&first), tasks.count()), ([4, 0, 0, 0], 4));
    for (n, more) in [&[][..], &["--keep-going"], &["--prefix", "again/"]].iter().enumerate() {
        let again = tasks.run(&diamond("A"), more).ok();
        assert_eq!((sums(&again), tasks.count()), ([0, 4, 0, 0], 4), "{n}");
    }
    let changed = tasks.run(&diamond("B"), &[]).ok();
    assert_eq!((sums(&changed), tasks.count()), ([2, 2, 0, 0], 6));
    assert_eq!(ends(&changed)["join"], "ran");

    // What a task made is what stood in its output/.
    tasks.world.cli(&["get", "join", "got"]).ok();
    assert_eq!(tasks.world.read("got/all"), "words\nB\nwords\n");
    assert_eq!(std::fs::read_dir(tasks.world.path("got")).unwrap().count(), 1);
    tasks.world.cli(&["get", "again/join", "old"]).ok();
    assert_eq!(tasks.world.read("old/all"), "words\nA\nwords\n", "a hit has moved that name's latest");
    assert_eq!(tasks.world.cli(&["logs", "load"]).ok().out(), "loaded\n");

    let shown = tasks.world.cli(&["--json", "show", "upper"]).ok().json();
    let load = tasks.world.cli(&["--json", "show", "load"]).ok().json();
    let (spec, input) = (&shown["spec"], &shown["spec"]["inputs"]["load"]);
    assert_eq!((&spec["image"], &spec["code_version"]), (&"demo".into(), &"1".into()));
    assert_eq!(spec["command"].as_array().unwrap()[..2], [Value::from("sh"), "-c".into()]);
    assert_eq!((&input["key"], &input["execution"]), (&load["record"]["key"], &load["record"]["execution"]));
    assert_eq!(shown["record"]["key"], diamond("B").key("upper"));
    assert_eq!(shown["record"]["executor"]["program"], "provender dag run");
    tasks.nothing_left();
}

#[test]
fn a_failure_stops_what_depends_on_it_and_nothing_else() {
    let tasks = Tasks::new();
    let ok = format!("{COUNTED} echo >output/made");
    let dag = Dag::default()
        .task("a", "echo half >output/made; seq 30 >&2; exit 3", &[])
        .task("a2", &ok, &["a"])
        .task("a3", &ok, &["a2"])
        .task("b", &ok, &[])
        .task("b2", &ok, &["b"])
        .task("both", &ok, &["a", "b"]);
    for more in [&["-j", "1"][..], &["-j", "8"], &["-j", "2", "--keep-going"]] {
        let ran = tasks.run(&dag, more).code(1);
        let expected = [("a", "failed"), ("a2", "skipped"), ("a3", "skipped"), ("both", "skipped")];
        let ends = ends(&ran);
        assert!(expected.iter().all(|(name, end)| ends[*name] == *end), "{ends:?}");
        assert!(reason(&ran, "a").contains("exited 3"), "{}", reason(&ran, "a"));
        assert_eq!(reason(&ran, "a3"), "its dependency a failed");
        ran.says(&["the last of a's standard error", "provender logs exec:", "\n    30"]);
        assert_eq!((tasks.count(), tasks.world.verdict(&dag.key("a"))), (2, "FAILED".into()));
        assert_eq!(tasks.world.verdict(&dag.key("b2")), "SUCCEEDED");
    }
    assert_eq!(tasks.world.cli(&["--json", "history", "a", "--failed"]).ok().lines().len(), 3);
    tasks.world.cli(&["get", "a"]).code(1);
    tasks.nothing_left();
}

#[test]
fn nothing_but_a_genuine_success_is_one() {
    let tasks = Tasks::new();
    tasks.world.write("src/words", "words\n");
    for (name, command, why) in [
        ("exit", "echo a >output/a; exit 1", "exited 1"),
        ("signal", "echo a >output/a; kill -9 $$", "died of signal 9"),
        ("empty", "true", "empty"),
        ("no-folder", "rm -r output; echo a >output", "no folder"),
        ("removed", "rm -r output", "cannot be stored"),
        ("fifo", "mkfifo output/fifo", "FIFO"),
        ("not-found", "no-such-program", "exited 127"),
        ("changes", "chmod -R u+w inputs; echo b >inputs/up/a; echo a >output/a", "\"up\" changed"),
        ("adds", "chmod -R u+w inputs; echo b >inputs/up/b; echo a >output/a", "\"up\" changed"),
    ] {
        let dag = Dag::default().task("up", "echo a >output/a", &[]).task(name, command, &["up"]);
        for _ in 0..2 {
            let ran = tasks.run(&dag, &[]).code(1);
            assert!(reason(&ran, name).contains(why), "{name}: {}", reason(&ran, name));
        }
        assert_eq!(tasks.world.verdict(&dag.key(name)), "FAILED", "{name}");
        tasks.world.cli(&["logs", name]).ok();
    }
    tasks.nothing_left();
}

#[test]
fn a_command_finds_its_inputs_its_sources_and_its_environment() {
    let mut tasks = Tasks::new();
    tasks.world.provender = tasks.world.provender.env("WORD", "a word");
    for (path, content) in [("src/words", "words\n"), ("src/.hidden", "hidden\n"), ("other/more", "more\n")] {
        tasks.world.write(path, content);
    }
    let up = "mkdir output/d; echo x >output/d/tool; chmod +x output/d/tool";
    let look = "stat -c '%a %n' inputs inputs/up inputs/up/d/tool; ls -A; readlink words; cat .hidden; ls output; echo $WORD; \
                read line && echo read; echo >output/x";
    let dag = Dag::default().task("up", up, &[]).task("look", look, &["up"]);
    tasks.run(&dag, &[]).ok();
    let words = tasks.world.path("src/words").canonicalize().unwrap();
    let expected = format!(
        "555 inputs\n555 inputs/up\n555 inputs/up/d/tool\n.hidden\nfile.dag\ninputs\noutput\nwords\n{}\nhidden\na word\n",
        words.display()
    );
    assert_eq!(tasks.world.cli(&["logs", "look"]).ok().out(), expected);

    let other = Dag::default().task("other", "cat more >output/x", &[]);
    tasks.run(&other, &[]).code(1);
    tasks.run(&other, &["--source", "other"]).ok();
    for taken in ["inputs", "output"] {
        tasks.world.write(&format!("{taken}-there/{taken}"), "");
        let dag = Dag::default().task(taken, COUNTED, &[]);
        tasks
            .run(&dag, &["--source", &format!("{taken}-there")])
            .code(1)
            .says(&[taken, "rename it, or choose another --source"]);
    }
    tasks.run(&Dag::default().task("x", COUNTED, &[]), &["--source", "nowhere"]).code(1).says(&["nowhere"]);
    assert_eq!(tasks.count(), 0);
}

#[test]
fn names_of_one_hash_run_once_and_share_the_result() {
    let tasks = Tasks::new();
    let command = format!("{COUNTED} echo a >output/a");
    let dag = Dag::default().task("one", &command, &[]).task("two", &command, &[]).task("on", &command, &["two"]);
    let ran = tasks.run(&dag, &["-j", "4"]).ok();
    assert_eq!((sums(&ran), tasks.count()), ([2, 1, 0, 0], 2));
    for name in ["one", "two"] {
        tasks.world.cli(&["get", name]).ok();
        assert_eq!(tasks.world.read(&format!("{name}/a")), "a\n");
    }
    let failing =
        Dag::default().task("one", "echo x >>$COUNT; exit 1", &[]).task("two", "echo x >>$COUNT; exit 1", &[]);
    let ran = tasks.run(&failing, &[]).code(1);
    assert_eq!((sums(&ran), tasks.count()), ([0, 0, 2, 0], 3));
}

#[test]
fn two_runs_of_one_file_share_its_work() {
    let tasks = Tasks::new();
    let dag = (0..6).fold(Dag::default(), |dag, n| {
        dag.task(&format!("t{n}"), &format!("{COUNTED} sleep 0.2; echo {n} >output/n"), &[])
    });
    let dag = dag.task("last", &format!("{COUNTED} cat inputs/*/n >output/all"), &["t0", "t1", "t2", "t3", "t4", "t5"]);
    let runs: Vec<_> = (0..3).map(|_| tasks.start(&dag, &["-j", "1"])).collect();
    let sums: Vec<_> = runs.into_iter().map(|run| sums(&run.wait().ok())).collect();
    assert_eq!((sums.iter().map(|sum| sum[0]).sum::<u64>(), tasks.count()), (7, 7), "{sums:?}");
    assert!(sums.iter().all(|sum| sum[0] + sum[1] == 7), "{sums:?}");
}

#[test]
fn a_dependency_may_be_the_stores() {
    let tasks = Tasks::new();
    let up = Dag::default().task("up", "echo a >output/a", &[]);
    let both = up.clone().task("down", "cp inputs/up/a output/b", &["up"]);
    let down = both.clone().without("up");
    let refused =
        tasks.run(&down, &[]).code(1).says(&["task \"down\"", "inputs.up", "has not succeeded: it is UNKNOWN"]);
    assert_eq!(refused.out(), "");
    tasks.run(&up, &[]).ok();
    assert_eq!(sums(&tasks.run(&down, &[]).ok()), [1, 0, 0, 0]);
    tasks.world.cli(&["get", "down"]).ok();
    assert_eq!(tasks.world.read("down/b"), "a\n");
}

#[test]
fn what_has_succeeded_is_a_hit_before_its_dependencies() {
    let tasks = Tasks::new();
    let dag = Dag::default().task("up", &format!("{COUNTED} echo a >output/a"), &[]);
    let dag = dag.task("down", &format!("{COUNTED} echo b >output/b"), &["up"]);
    // By another way: the same key, with the dependency never run.
    tasks.world.write("b", "b\n");
    tasks.world.run(&["--name", "down", "--key", &dag.key("down"), "--out", "b"], "echo b >b").ok();
    let ran = tasks.run(&dag, &[]).ok();
    assert_eq!((sums(&ran), tasks.count()), ([1, 1, 0, 0], 1));
}

#[test]
fn an_import_registers_without_success() {
    let tasks = Tasks::new();
    let dag = Dag::default().task("up", "echo a >output/a", &[]).spec("data", &[("url", "x"), ("n", "y")], &["up"]);
    tasks.world.write("src/file.dag", dag.bytes());
    let import = |more: &[&str]| tasks.world.provender.run(["dag", "import", "src/file.dag"].iter().chain(more));
    assert_eq!(import(&["--json"]).ok().json(), serde_json::json!({ "v": 1, "tasks": 2, "new": 2 }));
    assert_eq!(import(&[]).ok().out(), "2 tasks registered, 0 of them new\n");
    assert_eq!(tasks.world.verdict(&dag.key("up")), "UNKNOWN");
    tasks.run(&dag, &[]).code(1).says(&["task \"data\"", "`command` is missing"]);
    let only_up = dag.without("data");
    assert_eq!(sums(&tasks.run(&only_up, &[]).ok()), [1, 0, 0, 0]);
    tasks.world.write("src/file.dag", "d5:tasksi1ee");
    import(&[]).code(1).says(&["src/file.dag", "`tasks` is an integer"]);
}

#[test]
fn it_says_what_it_did_for_people() {
    let tasks = Tasks::new();
    let dag = Dag::default().task("good", "echo a >output/a", &[]).task("bad", "echo why; exit 9", &[]);
    tasks.world.write("src/file.dag", dag.bytes());
    let ran = tasks.world.cli(&["dag", "run", "src/file.dag", "-j", "1"]).code(1);
    let lines: Vec<_> = ran.out().lines().map(str::to_owned).collect();
    assert!(lines[0].starts_with("failed bad exec:") && lines[0].ends_with("(the command exited 9)"), "{lines:?}");
    assert!(lines[1].starts_with("ran good exec:"), "{lines:?}");
    assert_eq!(lines[2], "1 ran, 0 hits, 1 failed, 0 skipped");
    ran.says(&[
        "provender: running good",
        "2 tasks in the file, 0 done before",
        "the last of bad's standard output",
        "    why",
    ]);
    let quiet = tasks.world.cli(&["--quiet", "dag", "run", "src/file.dag"]).code(1);
    assert_eq!((quiet.out().lines().count(), quiet.err().as_str()), (2, ""));
    tasks.world.cli(&["dag", "run", "no-such-file"]).code(1).says(&["cannot read no-such-file"]);
    tasks.world.cli(&["dag", "run", "src/file.dag", "-j", "0"]).code(2);
}
