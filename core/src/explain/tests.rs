use super::*;
use crate::compare::{Change, Difference, Told};
use crate::execution::{ExecutionId, Executor};
use crate::time::Timestamp;

fn name() -> Name {
    Name::new("train").expect("valid")
}

fn key() -> TaskKey {
    "t:x".parse().expect("valid")
}

fn cause(old: u64, new: u64) -> Cause {
    let told = |value: u64| Some(Told::Value(value.into()));
    let change = Change { field: "params.lr".into(), old: told(old), new: told(new) };
    Cause { name: name(), key: key(), old: None, new: None, distance: 0, is: Difference::Field(change) }
}

fn size(bytes: u64) -> String {
    format!("{bytes} B")
}

fn text_of(of: &Explanation) -> Vec<String> {
    lines(of, size)
}

fn briefly(of: &Explanation) -> String {
    brief(of, size)
}

fn of(verdict: Verdict) -> Explanation {
    let mut answer = Answer::unknown("why so");
    (answer.verdict, answer.at) = (verdict, Some(Timestamp::from_millis(3)));
    Explanation { name: Some(name()), ..Explanation::of(key(), answer) }
}

fn execution() -> Execution {
    let at = Timestamp::from_millis(1);
    Execution::begin(ExecutionId([7; 16]), key(), name(), Digest::of(b""), Executor::default(), at)
}

#[test]
fn each_verdict_has_its_clause() {
    let at = "at 1970-01-01T00:00:00.003Z";
    for (verdict, attempts, said) in [
        (Verdict::Succeeded, 0, format!("train succeeded {at}")),
        (Verdict::Running, 0, "train is running: why so".into()),
        (Verdict::Failed, 1, format!("train failed {at}: why so")),
        (Verdict::Failed, 3, format!("train failed (the last of 3 attempts without a success) {at}: why so")),
        (
            Verdict::Abandoned,
            100,
            format!("train was abandoned (the last of 100 or more attempts without a success) {at}: why so"),
        ),
        (Verdict::Invalidated, 0, format!("train was invalidated {at}: why so")),
        (Verdict::Evicted, 0, format!("train was collected {at}: why so")),
        (Verdict::Lost, 0, "train is lost: why so".into()),
        (Verdict::Unknown, 0, "train never ran, and nothing else has succeeded under its name".into()),
    ] {
        assert_eq!(text_of(&Explanation { attempts, ..of(verdict) }), [said]);
    }
    let mut evicted = of(Verdict::Evicted);
    evicted.answer.rule = Some("keep 3".into());
    assert_eq!(text_of(&evicted), ["train was collected at 1970-01-01T00:00:00.003Z: why so (rule: keep 3)"]);
    (evicted.answer.rule, evicted.answer.reason) = (None, "evicted by me at noon".into());
    assert_eq!(text_of(&evicted), ["train was evicted by me at noon"]);
    let nameless = Explanation { name: None, ..of(Verdict::Unknown) };
    assert_eq!(text_of(&nameless), ["t:x never ran, and what it stands for is not known"]);
    let mut held = of(Verdict::Running);
    held.answer.execution = Some(ExecutionId([1; 16]));
    assert_eq!(text_of(&held), ["train is running: why so (exec:01010101010101010101010101010101)"]);
    let mut odd = of(Verdict::Failed);
    odd.answer.reason = "two\nlines\u{1b}".into();
    assert!(text_of(&odd).iter().all(|line| !line.contains(char::is_control)));
}

#[test]
fn the_nearest_success_is_told_with_what_differs() {
    let mut told =
        Explanation { nearest: Some(execution()), causes: vec![cause(1, 2), cause(3, 4)], ..of(Verdict::Unknown) };
    let said = text_of(&told);
    assert_eq!(said[0], "train never ran like this");
    assert!(said[1].starts_with("  nearest success: exec:07070707070707070707070707070707 of 1970-"), "{}", said[1]);
    assert!(said[1].ends_with(", from which this differs in"), "{}", said[1]);
    assert_eq!(said[2..], ["    train.params.lr: 1 -> 2", "    train.params.lr: 3 -> 4"]);
    assert_eq!(briefly(&told), "train.params.lr: 1 -> 2 (and 1 more)");
    told.truncated = true;
    assert_eq!(text_of(&told).last().map(String::as_str), Some("    and more"));
    assert_eq!(briefly(&told), "train.params.lr: 1 -> 2 (and 1+ more)");
    told.answer.verdict = Verdict::Failed;
    assert!(briefly(&told).starts_with("failed at 1970-") && briefly(&told).contains("; train.params.lr: 1 -> 2"));
    let same = Explanation { nearest: Some(execution()), ..of(Verdict::Unknown) };
    assert!(text_of(&same)[1].ends_with(": nothing that is recorded differs"));
    assert_eq!(briefly(&of(Verdict::Unknown)), "never ran");
    assert_eq!(briefly(&of(Verdict::Invalidated)), "was invalidated at 1970-01-01T00:00:00.003Z: why so");
}

#[test]
fn the_document_is_as_written() {
    let mut told = Explanation {
        attempts: 3,
        nearest: Some(execution()),
        causes: vec![cause(1, 2)],
        lost: vec![Digest::of(b"x")],
        truncated: true,
        ..of(Verdict::Failed)
    };
    told.answer.rule = Some("exit_codes".into());
    let expected = serde_json::json!({
        "v": 1,
        "key": "t:x",
        "name": "train",
        "verdict": "FAILED",
        "reason": "why so",
        "at": "1970-01-01T00:00:00.003Z",
        "rule": "exit_codes",
        "attempts": 3,
        "last": null,
        "lost": [{ "hash": Digest::of(b"x").hex(), "size": 1 }],
        "nearest": crate::json::execution(&execution()),
        "causes": [{
            "task": "train", "key": "t:x", "old_execution": null, "new_execution": null, "distance": 0,
            "kind": "field", "field": "params.lr", "old": 1, "new": 2, "secret": false,
        }],
        "truncated": true,
    });
    assert_eq!(document::explanation(&told), expected);
    let unknown = document::explanation(&Explanation::of(key(), Answer::unknown("")));
    assert_eq!((&unknown["name"], &unknown["reason"], &unknown["at"]), (&().into(), &().into(), &().into()));
}
