use super::text::{Layout, around, lines};
use super::*;
use crate::spec::{Input, Mount, Spec, Variable};
use proptest::prelude::*;
use serde_json::json;

use crate::time::Timestamp;

fn key(text: &str) -> TaskKey {
    text.parse().expect("valid")
}

fn spec(name: &str) -> Spec {
    let mut spec = Spec::new(Name::new(name).expect("valid"));
    spec.command = vec!["train".into()];
    spec
}

fn changed(scheme: &str, old: &Spec, new: &Spec) -> Vec<String> {
    let (one, two) = (key(&format!("{scheme}:1")), key(&format!("{scheme}:2")));
    changes((&one, old), (&two, new)).into_iter().map(|change| told(&change)).collect()
}

fn told(change: &Change) -> String {
    text::cause(&cause(Difference::Field(change.clone())), |bytes| format!("{bytes} B"))
}

fn cause(is: Difference) -> Cause {
    Cause { name: Name::new("n").expect("valid"), key: key("t:1"), old: None, new: None, distance: 0, is }
}

fn execution(name: &str, n: u8) -> Execution {
    let (id, digest) = (ExecutionId([n; 16]), Digest::of(b"spec"));
    Execution::begin(id, key("t:1"), Name::new(name).expect("valid"), digest, Default::default(), Timestamp::default())
}

fn file(bytes: &[u8], executable: bool) -> Node {
    Node::File { digest: Digest::of(bytes), executable }
}

#[test]
fn fields_are_told_in_the_words_of_their_tool() {
    let (mut old, mut new) = (spec("one"), spec("two"));
    assert_eq!(changed("alamode", &old, &new), [""; 0], "a name is no cause");
    old.code_version = Some("6f09d".into());
    new.code_version = Some("qwetr3".into());
    old.params.insert("model".into(), json!({ "opt": { "lr": 0.1 }, "layers": [1, 2] }));
    new.params.insert("model".into(), json!({ "opt": { "lr": 0.2 }, "layers": [1, 2] }));
    assert_eq!(changed("alamode", &old, &new), ["n.model.opt.lr: 0.1 -> 0.2", "n.sha: 6f09d -> qwetr3"]);
    assert_eq!(changed("run", &old, &new), ["n.code_version: 6f09d -> qwetr3", "n.params.model.opt.lr: 0.1 -> 0.2"]);
    let across = changes((&key("alamode:1"), &old), (&key("run:1"), &old));
    assert_eq!(across, [], "the same in the words of two tools");
}

#[test]
fn what_has_no_text_of_its_own_is_told_all_the_same() {
    let (mut old, mut new) = (spec("n"), spec("n"));
    (old.command, new.command) = (vec!["sh".into(), "-c".into(), "make it".into()], vec!["make".into(), "it".into()]);
    assert_eq!(changed("run", &old, &new), ["n.command: [\"sh\",\"-c\",\"make it\"] -> [\"make\",\"it\"]"]);
    let (mut old, mut new) = (spec("n"), spec("n"));
    (old.policy.refuse_empty, old.policy.exit_codes, new.policy.exit_codes) = (true, vec![0, 3], vec![3, 0]);
    assert_eq!(changed("run", &old, &new), ["n.policy.refuse_empty: true -> false"]);
    let input = |mount| Input { mount, content: None, key: None, execution: None };
    old.inputs.insert("D".into(), input(Mount::InPlace));
    new.inputs.insert("D".into(), input(Mount::CheckedOut));
    new.policy.refuse_empty = true;
    assert_eq!(changed("run", &old, &new), ["n.inputs.D.checked_out: false -> true"]);
    // More fields than are told of one by one.
    let (mut old, mut new) = (spec("n"), spec("n"));
    for (spec, last) in [(&mut old, 1), (&mut new, 2)] {
        spec.params.extend((0..fields::MAX_FIELDS).map(|n| (format!("a{n}"), json!(n))));
        spec.params.insert("z".into(), json!(last));
        spec.env.insert("S".into(), Variable::Secret([last; 32]));
    }
    assert_eq!(changed("run", &old, &new), ["n.env.S: (secret) changed", "n.params.z: 1 -> 2"]);
    assert_eq!(wording(&old, &new), None);
    new.raw = Some("x".into());
    assert_eq!(told(&wording(&old, &new).expect("another")), "n.raw: differs");
}

#[test]
fn secrets_unset_and_absent_are_told_apart() {
    let variables = [
        None,
        Some(Variable::Unset),
        Some(Variable::Plain("".into())),
        Some(Variable::Plain("5".into())),
        Some(Variable::Secret([1; 32])),
        Some(Variable::Secret([2; 32])),
    ];
    let says = ["(none)", "(unset)", "\"\"", "5", "(secret)", "(secret)"];
    for (old, was) in variables.iter().zip(says) {
        for (new, is) in variables.iter().zip(says) {
            let with = |variable: &Option<Variable>| Spec {
                env: variable.iter().map(|variable| (Bytes::from("A"), variable.clone())).collect(),
                ..spec("n")
            };
            let found = changed("run", &with(old), &with(new));
            match (old == new, was == is) {
                (true, _) => assert_eq!(found, [""; 0]),
                (false, true) => assert_eq!(found, ["n.env.A: (secret) changed"]),
                (false, false) => assert_eq!(found, [format!("n.env.A: {was} -> {is}")]),
            }
        }
    }
}

#[test]
fn an_input_of_run_is_its_content_and_others_are_their_keys() {
    let input = |key: Option<&str>, content: Option<&[u8]>| Input {
        mount: Mount::InPlace,
        content: content.map(|bytes| file(bytes, false)),
        key: key.map(|key| key.parse().expect("valid")),
        execution: None,
    };
    let (a, b, c) = (Some(&b"a"[..]), Some(&b"b"[..]), Some("t:1"));
    for (old, new, run, other) in [
        (input(c, a), input(c, a), false, false),
        (input(c, a), input(Some("t:2"), a), false, true),
        (input(c, a), input(c, b), true, true),
        (input(None, a), input(None, b), true, true),
        (input(c, None), input(Some("t:2"), None), true, true),
        (input(c, None), input(c, a), false, false),
    ] {
        assert_eq!((input_differs("run", &old, &new), input_differs("t", &old, &new)), (run, other), "{old:?} {new:?}");
    }
}

#[test]
fn tasks_are_told_apart_by_name_and_command() {
    let with = |name: &str, command: &str| Spec { command: vec![command.to_owned().into()], ..spec(name) };
    for (old, new, same) in [
        (with("a/train", "x"), with("b/train", "y"), true),
        (with("train", "x"), with("other", "x"), true),
        (with("train", "x"), with("other", "y"), false),
        (with("train", "x"), Spec { command: vec![], ..spec("other") }, false),
    ] {
        assert_eq!(is_same_task((&key("t:1"), &old), (&key("t:2"), &new)), same, "{old:?}");
        assert!(is_same_task((&key("t:1"), &old), (&key("t:1"), &new)), "one key is one task");
    }
    let (old, new) = (with("train", "x"), with("other", "y"));
    assert!(!is_related((&key("t:1"), &old), (&key("t:2"), &new)));
    let image = |spec: &Spec| Spec { image: Some("i".into()), ..spec.clone() };
    assert!(is_related((&key("t:1"), &image(&old)), (&key("t:2"), &image(&new))));
}

#[test]
fn it_reads_as_it_should() {
    let (mut old, mut new) = (execution("n", 1), execution("n", 2));
    old.outcome.metrics = [("acc".into(), json!(0.91)), ("n".into(), json!(10)), ("gone".into(), json!("x"))].into();
    new.outcome.metrics = [("acc".into(), json!(0.93)), ("n".into(), json!(8)), ("loss".into(), json!([1, 2]))].into();
    old.remarks.labels.set("who", "ann").expect("valid");
    old.remarks.labels.set("same", "x").expect("valid");
    new.remarks.labels.set("same", "x").expect("valid");
    let (metrics, labels) = (metrics(Some(&old), Some(&new)), labels(Some(&old), Some(&new)));
    let mut all = Comparison::new(Side::Execution(Box::new(old)), Side::Execution(Box::new(new)));
    let output = |path: &'static str, old, new| diff::Difference { path: path.into(), old, new };
    let content =
        |path: &'static str, old, new| cause(Difference::Content { input: "data".into(), path: path.into(), old, new });
    let link = Node::Symlink { target: "a\nb".into() };
    all.causes = vec![
        cause(Difference::Input { input: "x".into(), old: Some("up".into()), new: None }),
        content("", Some(file(b"12", false)), Some(file(b"123", false))),
        content("a/b", Some(file(b"12", false)), Some(file(b"12", true))),
        content("c\u{1b}[2J", None, Some(link)),
        cause(Difference::Unknown { old: key("t:1"), new: key("t:2") }),
    ];
    (all.metrics, all.labels) = (metrics, labels);
    all.outputs = vec![output("a", None, Some(file(b"1", true))), output("b/c", Some(file(b"1", false)), None)];
    (all.truncated_causes, all.truncated_outputs, all.unread) = (true, true, Some("lost".into()));
    let layout = Layout { causes: true, outputs: true, size: |bytes| format!("{bytes} B") };
    let expected = "\
n/inputs/x: up -> (none)
n/inputs/data: 2 B -> 3 B
n/inputs/data/a/b: 2 B, now executable
n/inputs/data/c\\u{1b}[2J: added, a link to a\\nb
n: t:1 -> t:2 (nothing is known of what they differ in)
and more: these are the nearest 5

metrics
  acc   0.91    0.93    +0.02
  gone  x       (none)
  loss  (none)  [1,2]
  n     10      8       -2

labels
  who  ann  (none)

outputs
  added  a  1 B, executable
  removed  b/c  1 B
  and more: these are the first 2
  the rest cannot be compared: lost";
    assert_eq!(lines(&all, layout).join("\n"), expected);
    assert!(lines(&all, Layout { causes: false, ..layout })[0].starts_with("outputs"));
    assert!(!lines(&all, Layout { outputs: false, ..layout }).contains(&"metrics".to_owned()));
}

#[test]
fn long_values_show_where_they_part() {
    let change = |old: String, new: String| {
        told(&Change { field: "f".into(), old: Some(Told::Value(old.into())), new: Some(Told::Value(new.into())) })
    };
    let (before, after) = ("b".repeat(500), "a".repeat(500));
    let said = change(format!("{before}X{after}"), format!("{before}Y{after}"));
    assert!(said.chars().count() < 200 && said.contains("bbbXaaa") && said.contains("bbbYaaa"), "{said}");
    let said = change(before.clone(), format!("{before}more"));
    assert!(said.ends_with("bbbmore") && said.chars().count() < 200, "{said}");
    let said = change("x".repeat(500), "x".repeat(501));
    assert!(said.contains("(500 characters)\" -> ") && said.ends_with("(501 characters)\""), "{said}");
    // What goes over the wire has a bound, too, and still differs.
    let long =
        |end: &str| Spec { command: vec![[&b"x".repeat(1 << 20)[..], end.as_bytes()].concat().into()], ..spec("n") };
    let found = changes((&key("t:1"), &long("1")), (&key("t:2"), &long("2")));
    assert!(Difference::Field(found[0].clone()).weight() < 3 * MAX_VALUE && found[0].old != found[0].new);
}

#[test]
fn bytes_that_are_no_text_are_escaped_for_people() {
    let was = Spec {
        command: vec!["sh".into(), Bytes::from_static(b"\xff\n\"")],
        outputs: vec![Bytes::from_static(b"out\xfe"), "plain".into()],
        env: [("A".into(), Variable::Plain(Bytes::from_static(b"\x80")))].into(),
        ..spec("n")
    };
    let is = Spec {
        command: vec!["sh".into(), Bytes::from_static(b"\xfe\n\"")],
        outputs: vec!["plain".into()],
        env: [("A".into(), Variable::Plain("b\"\\x80\"".into()))].into(),
        ..spec("n")
    };
    let changes = changes((&key("t:1"), &was), (&key("t:2"), &is));
    let said: Vec<_> = changes.iter().map(told).collect();
    // A text that reads like it is quoted. A command that has one text either way is told word by word.
    let expected = [
        r#"n.command: ["sh",b"\xff\n\""] -> ["sh",b"\xfe\n\""]"#,
        r#"n.env.A: b"\x80" -> "b\"\\x80\"""#,
        r#"n.outputs: [b"out\xfe","plain"] -> ["plain"]"#,
    ];
    assert_eq!(said, expected);
    // Programs get them as they are; what only looks like it stays.
    let document = document::cause(&cause(Difference::Field(changes[1].clone())));
    assert_eq!(document["old"], json!({ "b64": "gA==" }));
    for value in [json!({ "b64": "QQ==" }), json!({ "b64": 1 }), json!({ "b64": "gA==", "c": 1 })] {
        let change =
            Change { field: "f".into(), old: Some(Told::Value(value.clone())), new: Some(Told::Value(1.into())) };
        assert!(told(&change).contains(&value.to_string()), "{value}");
    }
}

#[test]
fn long_lists_show_where_they_part() {
    let list = |at: usize| Value::from((0..100).map(|n| if n == at { 777 } else { n }).collect::<Vec<_>>());
    let change = Change { field: "l".into(), old: Some(Told::Value(list(30))), new: Some(Told::Value(list(60))) };
    let line = text::cause(&cause(Difference::Field(change)), |bytes| format!("{bytes} B"));
    let (old, new) = line.split_once(" -> ").expect("two sides");
    assert!(old.contains(",777,") && !new.contains("777") && line.len() < 250, "{line}");
}

#[test]
fn a_document_tells_unset_from_absent() {
    let document = |old, new| document::cause(&cause(Difference::Field(Change { field: "env.A".into(), old, new })));
    let unset = document(Some(Told::Value(Value::Null)), None);
    assert_eq!((unset.get("old"), unset.get("new")), (Some(&Value::Null), None));
    let secret = document(None, Some(Told::Secret));
    assert_eq!(
        (secret.get("old"), &secret["new"], &secret["secret"]),
        (None, &json!({ "secret": true }), &json!(true))
    );
    assert_eq!((&secret["task"], &secret["kind"], &secret["distance"]), (&json!("n"), &json!("field"), &json!(0)));
}

fn any_spec() -> impl Strategy<Value = Spec> {
    let variable = prop_oneof![
        Just(Variable::Unset),
        "[ab]{0,2}".prop_map(|text| Variable::Plain(text.into())),
        (0..2u8).prop_map(|n| Variable::Secret([n; 32])),
    ];
    let env = prop::collection::btree_map("[AB]".prop_map(Bytes::from), variable, 0..3);
    let value = prop_oneof![(0..2).prop_map(|n| json!(n)), (0..2).prop_map(|n| json!({ "x": { "y": n } }))];
    let params = prop::collection::btree_map("[pq]", value, 0..3);
    let rest = ("[ab]", prop::option::of("[12]"), prop::bool::ANY, prop::collection::vec(0..2i32, 1..3));
    (env, params, rest).prop_map(|(env, params, (command, code_version, refuse_empty, exit_codes))| {
        let mut spec = Spec { env, params, code_version, command: vec![command.into()], ..spec("n") };
        (spec.policy.refuse_empty, spec.policy.exit_codes) = (refuse_empty, exit_codes);
        spec
    })
}

proptest! {
    /// Something is told of two specs exactly if a key would be another, either way round, and no line has a control character.
    #[test]
    fn something_is_told_exactly_if_something_differs(old in any_spec(), new in any_spec()) {
        let (one, two) = (key("t:1"), key("t:2"));
        let (there, back) = (changes((&one, &old), (&two, &new)), changes((&two, &new), (&one, &old)));
        let codes = |spec: &Spec| spec.policy.exit_codes.iter().copied().collect::<BTreeSet<_>>();
        let alike = |spec: &Spec| Spec { policy: Default::default(), ..spec.clone() };
        let same = alike(&old) == alike(&new) && old.policy.refuse_empty == new.policy.refuse_empty && codes(&old) == codes(&new);
        prop_assert_eq!(there.is_empty(), same);
        let turned = |change: &Change| Change { field: change.field.clone(), old: change.new.clone(), new: change.old.clone() };
        prop_assert_eq!(back.iter().map(turned).collect::<Vec<_>>(), there);
    }

    /// Whatever is cut, two different texts stay different, short, and on one line.
    #[test]
    fn different_texts_stay_different(same in ".{0,200}", old in ".{0,200}", new in ".{0,200}", after in ".{0,200}") {
        let (old, new) = (format!("{same}{old}{after}"), format!("{same}{new}{after}"));
        let (was, is) = around(&old, &new, 80);
        prop_assert_eq!(was == is, old == new);
        prop_assert!(was.chars().count().max(is.chars().count()) <= 110);
        let value = |text: String| Some(Told::Value(text.into()));
        let said = told(&Change { field: "f".into(), old: value(old), new: value(new) });
        prop_assert!(!said.chars().any(char::is_control), "{}", said);
    }
}
