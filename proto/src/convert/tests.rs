use prost::Message;
use provender_core::Answer;
use provender_core::provenance::{Branch, Origin, Place};

use super::*;

fn digest(n: u8) -> Digest {
    Digest { hash: [n; 32], size: u64::from(n) }
}

fn remarks() -> Remarks {
    let labels = [("team".to_owned(), "a b".to_owned())].into();
    let remark = Remark { labels, remove: vec![], note: Some("two\nlines".into()) };
    Remarks::default().with(&remark).unwrap()
}

#[test]
fn a_full_spec_round_trips() {
    let mut spec = Spec::new(Name::new("a/b").expect("valid"));
    spec.command = vec!["cc".into(), Bytes::from_static(b"\xff"), "".into()];
    spec.image = Some("".into());
    spec.params.insert("lr".into(), serde_json::json!({ "x": [0.5, null, "y"] }));
    spec.env.insert("A".into(), Variable::Unset);
    spec.env.insert("B".into(), Variable::Plain("".into()));
    spec.env.insert("C".into(), Variable::secret(b"C", b"x"));
    let contents = [
        Some(Node::File { digest: digest(1), executable: true }),
        Some(Node::Symlink { target: "x".into() }),
        Some(Node::Directory { digest: digest(2) }),
        None,
    ];
    for (n, content) in contents.into_iter().enumerate() {
        let key = (n == 0).then(|| "run:x".parse().expect("valid"));
        let execution = (n == 1).then_some(ExecutionId([3; 16]));
        let mount = if n == 2 { Mount::CheckedOut } else { Mount::InPlace };
        spec.inputs.insert(vec![b'i', n as u8].into(), Input { mount, content, key, execution });
    }
    spec.outputs = vec!["o".into()];
    spec.policy = Policy { exit_codes: vec![0, -1], required: [("o".into(), 3)].into(), refuse_empty: true };
    spec.raw = Some("".into());
    assert_eq!(spec_from(&spec_to(&spec)), Ok(spec));
}

#[test]
fn a_full_execution_and_record_round_trip() {
    let execution = Execution {
        id: ExecutionId([1; 16]),
        key: "run:x".parse().expect("valid"),
        name: Name::new("n").expect("valid"),
        spec: digest(1),
        executor: Executor { program: "p".into(), user: "u".into(), host: "h".into(), pid: 7 },
        began: Timestamp::from_millis(5),
        ended: Some(Timestamp::from_millis(6)),
        state: State::Failed,
        reason: Some("why".into()),
        rule: Some("outputs".into()),
        outcome: Outcome {
            exit: Some(Exit::Signal(9)),
            usage: Usage { wall_ms: 1, user_ms: 2, system_ms: 3, peak_rss: 4 },
            stdout: Some(Log { digest: digest(2), cut: 1 }),
            stderr: None,
            outputs: Some(digest(3)),
            metrics: [("accuracy".into(), serde_json::json!({ "top": [0.5, 1] }))].into(),
        },
        folder: Some("f".into()),
        attested: true,
        diverges_from: Some(ExecutionId([2; 16])),
        closure: Some(digest(4)),
        remarks: remarks(),
    };
    assert_eq!(execution_from(&execution_to(&execution)), Ok(execution));
    let record = Record {
        execution: ExecutionId([1; 16]),
        outputs: digest(1),
        closure: digest(2),
        committed: Timestamp::from_millis(3),
        stamp: 4,
        void: Some(Void {
            verdict: Verdict::Evicted,
            reason: "r".into(),
            at: Timestamp::from_millis(5),
            blob: None,
            rule: Some("x".into()),
        }),
    };
    assert_eq!(record_from(&record_to(&record)), Ok(record));
}

#[test]
fn each_verdict_round_trips_and_unknown_ones_are_refused() {
    for number in 1..=8 {
        let verdict = verdict_from(number).expect("known");
        assert_eq!(i32::from(verdict_to(verdict)), number);
    }
    for number in [0, 9, -1] {
        assert!(verdict_from(number).is_err());
        assert!(state_from(number).is_err());
    }
}

#[test]
fn what_is_missing_or_of_the_wrong_length_is_named() {
    let refused = |spec: v1::Spec| spec_from(&spec).expect_err("refused").field;
    let named = || v1::Spec { name: "n".into(), ..v1::Spec::default() };
    assert_eq!(refused(v1::Spec::default()), "name");
    let twice = vec![v1::EnvEntry::default(), v1::EnvEntry::default()];
    assert_eq!(refused(v1::Spec { env: twice, ..named() }), "env");
    let node = v1::Input { content: Some(v1::Node::default()), ..v1::Input::default() };
    assert_eq!(refused(v1::Spec { inputs: vec![node], ..named() }), "node");
    let params = [("a".to_owned(), "{".to_owned())].into();
    assert_eq!(refused(v1::Spec { params, ..named() }), "params");
    let short = v1::Digest { hash: Bytes::from_static(b"x"), size: 1 };
    assert_eq!(needed_digest("d", Some(&short)), Err(Invalid::new("d", "a hash has 32 bytes")));
    assert_eq!(needed_digest("d", None), Err(Invalid::new("d", "is missing")));
}

#[test]
fn places_and_origins_round_trip() {
    let place = Place { name: Name::new("a/b").expect("valid"), folder: "f".into(), at: Timestamp::from_millis(7) };
    assert_eq!(place_from(&place_to(&place)), Ok(place.clone()));
    for branch in [Branch::Tasks, Branch::Failed] {
        assert_eq!(branch_from(branch_to(branch).into()), Ok(branch));
    }
    assert!(branch_from(0).is_err());
    let held = Node::File { digest: digest(1), executable: true };
    let name = Bytes::from_static(b"\xff");
    for origin in [Origin::Made(place), Origin::Held(held), Origin::Unheld] {
        let input = Input { mount: Mount::CheckedOut, content: None, key: "t:1".parse().ok(), execution: None };
        assert_eq!(origin_from(&origin_to(&name, &input, &origin)), Ok((name.clone(), origin, input)));
    }
}

#[test]
fn nodes_and_edges_of_a_walk_round_trip() {
    use provender_core::lineage::{Edge, Kind, Node};
    let full = Node {
        name: Name::new("n").ok(),
        key: "t:1".parse().ok(),
        verdict: Some(Verdict::Evicted),
        state: Some(State::Failed),
        at: Some(Timestamp::from_millis(0)),
        diverges_from: Some(ExecutionId([1; 16])),
        folder: Some("f".into()),
        execution: Some(ExecutionId([2; 16])),
        size: Some(0),
        earlier: true,
        ..Node::new("exec:x", Kind::Execution)
    };
    // What follows from the rest is not kept.
    let execution = full.clone().with_id(&format!("exec:{}", "02".repeat(16)));
    assert_eq!((execution.own_id.as_deref(), full.own_id.as_deref()), (None, Some("exec:x")));
    let bare = [Kind::Key, Kind::Blob, Kind::Tree, Kind::Unheld].map(|kind| Node::new("x", kind));
    for node in bare.into_iter().chain([full, execution]) {
        assert_eq!(lineage_node_from(&lineage_node_to(&node)), Ok(node));
    }
    let edge = Edge { consumer: 1, producer: 0, input: Bytes::from_static(b"\xff"), closes: false };
    assert_eq!(lineage_edge_from(&lineage_edge_to(&edge), 2), Ok(edge.clone()));
    assert!(lineage_edge_from(&lineage_edge_to(&edge), 1).is_err());
}

#[test]
fn what_became_of_a_key_round_trips() {
    use provender_core::transition::invalidate::Voided;
    let full = Voided {
        key: "t:1".parse().ok(),
        name: Name::new("n").ok(),
        record: Some(ExecutionId([1; 16])),
        withdrawn: Some(ExecutionId([2; 16])),
        verdict: Verdict::Invalidated,
        reason: "r".into(),
        downstream: true,
    };
    let bare = Voided { key: None, name: None, record: None, withdrawn: None, downstream: false, ..full.clone() };
    for voided in [full, bare] {
        assert_eq!(voided_from(&voided_to(&voided)), Ok(voided));
    }
}

#[test]
fn events_round_trip_and_are_of_bounded_size() {
    use provender_core::event::{Event, Noted};
    let full = Event {
        key: format!("t:{}", "k".repeat(256)).parse().expect("valid"),
        name: Name::new("n".repeat(1024)).ok(),
        verdict: Verdict::Invalidated,
        execution: Some(ExecutionId([1; 16])),
        reason: "r".into(),
        at: Timestamp::from_millis(7),
    };
    let bare = Event { name: None, execution: None, verdict: Verdict::Unknown, reason: String::new(), ..full.clone() };
    for event in [full.clone(), bare] {
        assert_eq!(event_from(&event_to(&event)), Ok(event.clone()));
        let noted = Noted { event, stamp: 3, lost: true, quiet: true };
        assert_eq!(crate::rows::event_from(crate::rows::event_to(&noted)), Ok(noted));
    }
    let long =
        Noted { event: Event { reason: "\u{fc}".repeat(10_000), ..full }, stamp: u64::MAX, lost: true, quiet: true };
    let row = crate::rows::event_to(&long);
    let space = Space::new("s".repeat(254)).expect("valid");
    let key = provender_core::rows::event(&space, u16::MAX, &row).key;
    assert!(key.len() < 4 << 10, "{}", key.len());
    let kept = crate::rows::event_from(row).expect("valid").event.reason;
    assert!(kept.starts_with("\u{fc}\u{fc}") && kept.ends_with('\u{2026}'));
}

#[test]
fn a_path_that_no_system_takes_is_refused_in_few_words() {
    let mut spec = Spec::new(Name::new("n").expect("valid"));
    spec.outputs = vec![vec![1; 1_900_000].into()];
    let refused = spec_from(&spec_to(&spec)).expect_err("too long").to_string();
    assert!(refused.len() < 3_000 && refused.contains("4095"), "{} bytes", refused.len());
}

#[test]
fn the_answers_to_one_call_fit_into_a_message() {
    let lost = |reason: usize| Answer {
        execution: Some(ExecutionId([1; 16])),
        at: Some(Timestamp::from_millis(1 << 41)),
        blob: Some(Digest { hash: [1; 32], size: u64::MAX }),
        rule: Some("by hand".into()),
        ..Answer::unknown("x".repeat(reason))
    };
    let answers = answers_to(vec![lost(8 << 10); crate::MAX_KEYS]);
    assert!(crate::v1::LookupReply { answers }.encoded_len() < crate::MAX_MESSAGE);
    let one = answers_to(vec![lost(8 << 10)]).remove(0);
    assert_eq!(answer_from(one), Ok(lost(8 << 10)), "one by itself is whole");
}

#[test]
fn comparisons_come_back_as_they_were() {
    use provender_core::compare::{Cause, Change, Difference, Side, Told};
    use serde_json::json;
    let told = [None, Some(Told::Value(json!(null))), Some(Told::Value(json!({ "a": [1, "x"] }))), Some(Told::Secret)];
    let mut kinds = vec![Difference::Unstable];
    for (old, new) in told.iter().zip(told.iter().rev()) {
        kinds.push(Difference::Field(Change { field: "a.b".into(), old: old.clone(), new: new.clone() }));
    }
    let node = Node::Symlink { target: "t".into() };
    kinds.push(Difference::Content { input: "i".into(), path: "p".into(), old: Some(node), new: None });
    kinds.push(Difference::Input { input: "i".into(), old: None, new: Some("up".into()) });
    kinds.push(Difference::Unknown { old: "t:1".parse().expect("valid"), new: "t:2".parse().expect("valid") });
    for (n, is) in kinds.into_iter().enumerate() {
        let id = |n: usize| u8::try_from(n).ok().filter(|n| n % 2 == 0).map(|n| ExecutionId([n; 16]));
        let name = Name::new("n").expect("valid");
        let cause = Cause { name, key: "t:2".parse().expect("valid"), old: id(n), new: id(n + 1), distance: 7, is };
        assert_eq!(cause_from(&cause_to(&cause)), Ok(cause));
    }
    let digest = Digest::of(b"x");
    let registered = Side::Registered("t:1".parse().expect("valid"), Name::new("n").expect("valid"));
    for side in [Side::Blob(digest), Side::Tree(digest), registered] {
        assert_eq!(side_from(&side_to(&side)), Ok(side));
    }
    assert!(cause_from(&crate::v1::Cause::default()).is_err() && side_from(&Default::default()).is_err());
}
