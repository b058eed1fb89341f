//! `provender run --check`: what is not the same each time shows, and a build is never changed by it.

use provender_tests::child::{eventually, string};
use serde_json::json;

use crate::world::World;

#[test]
fn what_differs_is_told_path_by_path_and_the_record_stays() {
    let world = World::new();
    let script = "n=$(($(cat n 2>/dev/null || echo 0) + 1)); echo $n >n; mkdir -p out/d; echo same >out/same; printf 'abc%sxyz' $n >out/d/changed; \
        head -c 200000 /dev/zero >out/big; echo $n >>out/big; echo $n >out/only$n; test $n -lt 4 || exit 3";
    let args = ["--name", "n", "--key", "t:n", "--out", "out"];
    let first = world.run(&args, script).ok().record();
    let record = string(&first["execution"]);
    let check = [&args[..], &["--check"]].concat();
    let checked = world.run(&check, script).code(1);
    let said = checked.record();
    assert_eq!(
        (string(&said["result"]), string(&said["record"]), string(&said["diverges_from"])),
        ("diverged".into(), record.clone(), record.clone())
    );
    let told: Vec<_> = said["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| json!([one["path"], one["change"], one["old"]["size"], one["new"]["size"], one["first_difference"]]))
        .collect();
    assert_eq!(
        told,
        [
            json!(["out/big", "changed", 200_002, 200_002, 200_000]),
            json!(["out/d/changed", "changed", 7, 7, 3]),
            json!(["out/only1", "removed", 2, null, null]),
            json!(["out/only2", "added", null, 2, null]),
        ]
    );
    // What stands there is what the record holds, and that stays the answer.
    assert_eq!(
        (world.read("out/d/changed"), world.read("out/only1"), world.path("out/only2").exists()),
        ("abc1xyz".into(), "1\n".into(), false)
    );
    assert_eq!(string(&world.run(&args, script).ok().record()["execution"]), record);
    assert_eq!((world.read("n"), world.verdict("t:n")), ("2\n".into(), "SUCCEEDED".into()));
    assert_eq!(world.cli(&["cat", "n", "out/d/changed"]).ok().out(), "abc1xyz");
    let other = string(&said["execution"]);
    assert_eq!(world.cli(&["cat", &format!("exec:{other}"), "out/d/changed"]).ok().out(), "abc2xyz");
    let status = world.cli(&["--json", "status", &format!("exec:{other}")]).ok().lines();
    assert_eq!(
        (string(&status[0]["diverges_from"]), string(&status[0]["execution"])),
        (record.clone(), record.clone())
    );
    assert!(
        world.cli(&["show", &format!("exec:{other}")]).ok().out().contains(&format!("diverges   from exec:{record}"))
    );
    assert!(world.cli(&["history", "n"]).ok().out().contains(&format!("diverges from exec:{record}")));
    // In words; also when nothing stands there.
    std::fs::remove_dir_all(world.path("out")).unwrap();
    let words: Vec<_> = ["run"].iter().chain(&check).chain(&["--", "sh", "-c", script]).copied().collect();
    world.cli(&words).code(1).says(&[
        "diverged n",
        "changed out/d/changed  7 B -> 7 B, first at byte 3",
        "added out/only3  2 B",
    ]);
    assert_eq!(world.read("out/d/changed"), "abc1xyz");
    // A check that fails is recorded as such, and has the command's own exit code.
    let failed = world.run(&check, script).code(3);
    assert_eq!(
        (failed.result(), world.verdict("t:n"), world.read("out/d/changed")),
        ("failed".into(), "SUCCEEDED".into(), "abc1xyz".into())
    );
    assert_eq!(world.cli(&["--json", "history", "n", "--failed"]).ok().lines().len(), 1);
    assert_eq!(world.cli(&["--json", "history", "n"]).ok().lines().len(), 4);
}

#[test]
fn the_same_again_confirms_and_without_a_record_it_is_a_run() {
    let world = World::new();
    let (args, script) = (["--name", "n", "--out", "out", "--check"], "echo x >>count; echo same >out");
    assert_eq!(world.run(&args, script).ok().result(), "ran");
    let again = world.run(&args, script).ok();
    assert_eq!(
        (again.result(), again.record()["differences"].clone(), world.count("count")),
        ("same".into(), json!([]), 2)
    );
    assert_eq!(world.run(&args[..4], script).ok().result(), "hit");
}

#[test]
fn a_nondeterministic_command_diverges() {
    let world = World::new();
    let (args, script) = (["--name", "n", "--out", "out"], "date +%s%N >out; od -An -N16 -tx1 /dev/urandom >>out");
    world.run(&args, script).ok();
    let before = world.read("out");
    let words: Vec<_> = ["run"].iter().chain(&args).chain(&["--check", "--", "sh", "-c", script]).copied().collect();
    world.cli(&words).code(1).says(&["diverged n", "changed out", "first at byte"]);
    assert_eq!(world.read("out"), before);
}

#[test]
fn while_it_is_checked_others_hit_at_once_and_another_check_waits() {
    let world = World::new();
    let args = ["--name", "n", "--out", "out"];
    let script = "echo x >>count; test ! -e hold || { echo >checking; while test -e hold; do sleep 0.05; done; }; echo made >out";
    world.run(&args, script).ok();
    world.write("hold", "");
    let check = [&args[..], &["--check"]].concat();
    let first = world.start(&check, script);
    eventually("it is checked", || world.path("checking").exists());
    let other = world.root().join("other");
    std::fs::create_dir(&other).unwrap();
    let elsewhere = world.provender.at(&other);
    assert_eq!(crate::world::start(&elsewhere, &args, script).wait().ok().result(), "hit");
    assert_eq!(world.cli(&["status", "n"]).ok().out().split(' ').next(), Some("SUCCEEDED"));
    let second = crate::world::start(&elsewhere, &check, script);
    eventually("it waits", || second.stderr().contains("waiting for"));
    std::fs::remove_file(world.path("hold")).unwrap();
    assert_eq!((first.wait().ok().result(), second.wait().ok().result()), ("same".into(), "same".into()));
    assert_eq!((world.count("count"), std::fs::read_to_string(other.join("count")).unwrap()), (2, "x\n".into()));
}
