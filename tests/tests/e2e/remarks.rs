//! What people say of executions, and what commands measure.

use provender_tests::child::string;
use serde_json::{Value, json};

use crate::world::World;

/// What `show` says of an execution: its labels and note, which may change, stand beside the record that the mounted view has as well.
fn shown(world: &World, reference: &str) -> Value {
    let mut document: Value = serde_json::from_str(&world.cli(&["--json", "show", reference]).ok().out()).unwrap();
    let mut record = document["record"].take();
    for name in ["labels", "note"] {
        assert!(record.get(name).is_none());
        record[name] = document[name].take();
    }
    record
}

#[test]
fn labels_and_notes_are_kept_and_changed_later() {
    let world = World::new();
    let said = ["--label", "team=vision", "--label", "stage=try", "--note", "first"];
    world.run(&[&["--name", "train"][..], &said].concat(), "true").ok();
    let record = shown(&world, "train");
    assert_eq!((&record["labels"], &record["note"]), (&json!({ "team": "vision", "stage": "try" }), &json!("first")));
    let text = world.cli(&["show", "train"]).ok().out();
    assert!(text.contains("label      stage=try\n") && text.contains("note       first\n"), "{text}");
    // A hit is the same execution, and keeps what is said of it.
    world.run(&["--name", "train", "--label", "team=other"], "true").ok();
    assert_eq!(shown(&world, "train")["labels"]["team"], "vision");

    let changed =
        world.cli(&["annotate", "train", "--label", "stage=best", "--remove", "team", "--note", ""]).ok().out();
    assert!(changed.trim_end().ends_with("  stage=best"), "{changed}");
    let record = shown(&world, "train");
    assert_eq!((&record["labels"], &record["note"]), (&json!({ "stage": "best" }), &Value::Null));
    assert_eq!(world.verdict("train"), "SUCCEEDED");
    world.run(&["--name", "broken"], "exit 1").code(1);
    world.cli(&["annotate", "broken", "--label", "known=yes"]).ok().says(&["newest attempt"]);
    let broken = shown(&world, "broken");
    assert_eq!((&broken["labels"], &broken["verdict"]), (&json!({ "known": "yes" }), &json!("FAILED")));

    world.cli(&["annotate", "train"]).code(2).says(&["--label"]);
    world.cli(&["annotate", "none", "--note", "x"]).code(1).says(&["none"]);
    world.cli(&["annotate", "train", "--label", "a b=1"]).code(2).says(&["cannot be the name of a label"]);
    world.run(&["--name", "train", "--note", &"x".repeat(5_000)], "true").code(2);
}

#[test]
fn what_a_command_measures_is_kept_with_its_record() {
    let world = World::new();
    let measure = r#"printf '{"loss": 0.25, "by": {"epoch": [1, 2]}}' >"$PROVENDER_METRICS""#;
    world.run(&["--name", "train", "--out", "model"], &format!("echo m >model; {measure}")).ok();
    let metrics = json!({ "loss": 0.25, "by": { "epoch": [1, 2] } });
    assert_eq!(shown(&world, "train")["metrics"], metrics);
    assert!(world.cli(&["show", "train"]).ok().out().contains("metric     loss 0.25\n"));
    // Those of a failure too; and what cannot be kept fails nothing.
    let failed = world.run(&["--name", "bad"], &format!("{measure}; exit 4")).code(4).record();
    let failed = format!("exec:{}", string(&failed["execution"]));
    assert_eq!(shown(&world, &failed)["metrics"], metrics);
    let odd = world.run(&["--name", "odd"], r#"echo '[1' >"$PROVENDER_METRICS""#).ok();
    odd.says(&["$PROVENDER_METRICS is not kept: it is no JSON object"]);
    assert_eq!(shown(&world, "odd")["metrics"], json!({}));
    world.run(&["--name", "none"], "true").ok();
    assert_eq!(shown(&world, "none")["metrics"], json!({}));
}
