//! `run`: what the key is made of, and inputs that must hold still.

use std::process::Command;

use provender_tests::child::string;

use crate::world::{World, key};

#[test]
fn an_input_that_changes_meanwhile_fails_the_run() {
    let world = World::new();
    world.write("in/file", "before");
    let run = |script: &str| world.run(&["--name", "moving", "--in", "in", "--out", "out"], script);
    for script in ["cp in/file out; echo more >>in/file", "cp in/file out; rm in/file", "echo >in/new; echo >out"] {
        let ran = run(script).code(1);
        assert!(ran.record()["reason"].as_str().unwrap().contains("\"in\" changed"), "{}", ran.err());
        assert_eq!(world.verdict(&key(&ran)), "FAILED");
        std::fs::remove_dir_all(world.path("in")).unwrap();
        world.write("in/file", "before");
    }
    // The same size, and the time set back: still seen.
    let ran = run("cp in/file out; touch -r in/file ref; printf BEFORE >in/file; touch -r ref in/file");
    assert_eq!(ran.code(1).result(), "failed");
}

#[test]
fn touching_is_no_change_and_a_header_reruns_what_declared_it() {
    let world = World::new();
    for (path, content) in [("a.c", "a"), ("b.c", "b"), ("a.h", "1"), ("b.h", "2"), ("both.h", "3")] {
        world.write(path, content);
    }
    let compile = |unit: &str| {
        let (source, header, object) = (format!("{unit}.c"), format!("{unit}.h"), format!("{unit}.o"));
        let args = ["--name", unit, "--in", &source, "--in", &header, "--in", "both.h", "--out", &object];
        let script = format!("cat {source} {header} both.h >{object}");
        world.run(&args, &script).ok().result()
    };
    let both = || (compile("a"), compile("b"));
    let expect = |a: &str, b: &str| assert_eq!(both(), (a.to_owned(), b.to_owned()));
    expect("ran", "ran");
    let touched = Command::new("touch").arg("-d2001-02-03").arg(world.path("a.h")).arg(world.path("both.h")).status();
    assert!(touched.unwrap().success());
    expect("hit", "hit");
    world.write("b.h", "4");
    expect("hit", "ran");
    assert_eq!(world.read("b.o"), "b43");
    world.write("both.h", "5");
    expect("ran", "ran");
    world.write("b.h", "2");
    world.write("both.h", "3");
    expect("hit", "hit");
    assert_eq!(world.read("b.o"), "b23", "what was made before comes back");
}

#[test]
fn declared_variables_count_and_others_do_not() {
    let world = World::new();
    let run = |provender: &provender_tests::provender::Provender| {
        let args =
            ["--json", "run", "--name", "env", "--env", "V", "--out", "out", "--", "sh", "-c", "echo ${V-unset} >out"];
        let ran = provender.run(args).ok();
        (ran.result(), world.read("out"))
    };
    let told = |result: &str, out: &str| (result.to_owned(), out.to_owned());
    let unset = &world.provender;
    assert_eq!(run(unset), told("ran", "unset\n"));
    assert_eq!(run(&unset.env("V", "")), told("ran", "\n"), "empty is not unset");
    assert_eq!(run(&unset.env("V", "a")), told("ran", "a\n"));
    assert_eq!(run(&unset.env("V", "b").env("OTHER", "1")), told("ran", "b\n"));
    assert_eq!(run(&unset.env("V", "b").env("OTHER", "2")), told("hit", "b\n"));
    assert_eq!(run(unset), told("hit", "unset\n"));
}

#[test]
fn the_command_and_its_words_count_and_the_place_does_not() {
    let world = World::new();
    let run = |words: &[&str]| {
        let args = ["--json", "run", "--name", "argv", "--out", "out", "--"];
        world.provender.run(args.iter().chain(words)).ok().result()
    };
    assert_eq!(run(&["sh", "-c", "echo $0 $1 >out", "a b", "c"]), "ran");
    assert_eq!(run(&["sh", "-c", "echo $0 $1 >out", "a", "b c"]), "ran", "where a word ends counts");
    assert_eq!(run(&["sh", "-c", "echo $0 $1 >out", "a b", "c"]), "hit");
    let elsewhere = world.provender.at(&world.root().join("elsewhere"));
    let args = ["--json", "run", "--name", "other", "--out", "out", "--", "sh", "-c", "echo $0 $1 >out", "a b", "c"];
    assert_eq!(elsewhere.run(args).ok().result(), "hit");
    assert_eq!(std::fs::read_to_string(world.root().join("elsewhere/out")).unwrap(), "a b c\n");
}

#[test]
fn a_secret_counts_and_is_stored_nowhere() {
    let mut world = World::new();
    let (secret, plain) = ("s3cr3t-5b0d7c1e9a", "pl41n-5b0d7c1e9a");
    let run = |secret: &str| {
        let provender = world.provender.env("TOKEN", secret).env("PLAIN", plain);
        let args = ["--json", "run", "--name", "secret", "--secret-env", "TOKEN", "--env", "PLAIN", "--out", "out"];
        provender.run(args.iter().chain(&["--", "sh", "-c", "printf %s \"$TOKEN\" | wc -c >out"])).ok().result()
    };
    assert_eq!(run(secret), "ran");
    assert_eq!(run(secret), "hit");
    assert_eq!(world.read("out").trim(), secret.len().to_string());
    assert_eq!(run("s3cr3t-another"), "ran");
    let shown = world.cli(&["--json", "show", "secret"]).ok();
    assert!(shown.out().contains(plain) && !shown.out().contains("s3cr3t"), "{}", shown.out());
    assert!(!world.cli(&["show", "secret"]).ok().out().contains("s3cr3t"));
    world.daemon.stop();
    let holding = |word: &str| {
        let found = Command::new("grep").args(["-rlaF", word]).arg(world.root()).output().unwrap();
        String::from_utf8(found.stdout).unwrap()
    };
    assert_ne!(holding(plain), "", "a plain value is found, so the search works");
    assert_eq!(holding("s3cr3t"), "");
}

#[test]
fn a_reference_is_checked_out_read_only_and_recorded() {
    let world = World::new();
    world.run(&["--name", "lib", "--out", "a/lib"], "mkdir a; echo archive >a/lib").ok();
    let lib = world.cli(&["--json", "show", "lib"]).ok().json();
    let script = "cat $PROVENDER_IN_LIB/a/lib >program; stat -c %a $PROVENDER_IN_LIB $PROVENDER_IN_LIB/a/lib";
    let args = ["--name", "program", "--in", "LIB=lib", "--out", "program"];
    let linked = world.run(&args, script).ok();
    assert_eq!(linked.out(), "555\n444\n");
    assert_eq!(world.read("program"), "archive\n");
    let input = world.cli(&["--json", "show", "program"]).ok().json()["spec"]["inputs"]["LIB"].clone();
    assert_eq!((&input["key"], &input["execution"]), (&lib["record"]["key"], &lib["record"]["execution"]));
    assert_eq!(input["checked_out"], true);
    assert_eq!(world.run(&args, script).ok().result(), "hit");

    // The same content by another way is the same input; other content is not.
    let tree = format!("LIB=tree:{}", string(&lib["record"]["outputs"]["hash"]));
    let by_tree = ["--name", "program", "--in", &tree, "--out", "program"];
    assert_eq!(world.run(&by_tree, script).ok().result(), "hit");
    world.run(&["--name", "lib", "--out", "a/lib"], "mkdir -p a; echo newer >a/lib").ok();
    assert_eq!(world.run(&args, script).ok().result(), "ran");
    assert_eq!(world.read("program"), "newer\n");

    let bad = world
        .run(&["--name", "bad", "--in", "LIB=lib"], "chmod +w $PROVENDER_IN_LIB/a/lib; echo >$PROVENDER_IN_LIB/a/lib");
    assert!(bad.code(1).record()["reason"].as_str().unwrap().contains("LIB"));
    let left: Vec<_> = std::fs::read_dir(world.provender.temporary()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
