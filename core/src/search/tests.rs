use proptest::prelude::*;
use serde_json::{Value, json};

use super::term::Number;
use super::*;
use crate::execution::{ExecutionId, Executor, Exit, State};
use crate::key::TaskKey;
use crate::name::Name;
use crate::spec::{Input, Mount, Variable};
use crate::{Digest, Timestamp};

fn condition(text: &str) -> Condition {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn example() -> (Execution, Spec) {
    let mut spec = Spec::new(Name::new("team/train").expect("valid"));
    spec.command = vec!["sh".into(), "-c".into(), "train --fast x".into()];
    (spec.image, spec.code_version) = (Some("img:1..2*".into()), Some("7890123".into()));
    spec.params.insert("lr".into(), json!(0.01));
    spec.params.insert(
        "model".into(),
        json!({ "depth": "12", "sizes": [1, "two"], "big": 9_007_199_254_740_993u64, "on": true }),
    );
    spec.env.insert("MODE".into(), Variable::Plain("a\0b".into()));
    spec.env.insert("GONE".into(), Variable::Unset);
    spec.env.insert("TOKEN".into(), Variable::Secret([7; 32]));
    spec.outputs = vec!["out/a".into(), "out/b".into()];
    let key = TaskKey::new("run", "x").expect("valid");
    let input =
        Input { mount: Mount::InPlace, content: None, key: Some(key.clone()), execution: Some(ExecutionId([9; 16])) };
    spec.inputs.insert("data".into(), input);
    let began = Timestamp::from_millis(1_763_748_131_042);
    let executor = Executor { program: "provender run".into(), user: "eve".into(), host: "h1".into(), pid: 1 };
    let mut execution = Execution::begin(ExecutionId([1; 16]), key, spec.name.clone(), spec.digest(), executor, began);
    execution.remarks.labels.set("team", "vision").expect("valid");
    (execution.state, execution.ended) = (State::Failed, Some(began));
    (execution.outcome.exit, execution.rule) = (Some(Exit::Code(3)), Some("exit-code".into()));
    execution.outcome.outputs = Some(Digest::of(b"x"));
    execution.outcome.usage.wall_ms = 1_500;
    execution.outcome.metrics.insert("eval".into(), json!({ "accuracy": 0.93, "runs": [{ "loss": -2 }] }));
    (execution, spec)
}

/// Whether one of the index's rows of it is within reach.
fn reached(condition: &Condition, execution: &Execution, spec: &Spec) -> bool {
    let terms = [
        facts::begin_terms(execution, spec),
        facts::result_terms(execution),
        facts::label_terms(execution),
        facts::metric_terms(&execution.outcome.metrics),
    ];
    let place = Place::new(execution.began, execution.id);
    let of_field = |(field, _): &&facts::Term| *field == condition.field;
    terms.iter().flatten().filter(of_field).any(|(_, term)| within(&condition.reach(), term, place))
        || matches!(condition.reach(), Reach::Time(Some(window))
            if !window.is_past(&place) && window.after().is_none_or(|after| place > after))
}

fn within(reach: &Reach, term: &[u8], place: Place) -> bool {
    let row = [term, &place.0].concat();
    match reach {
        Reach::List(list) => list == term,
        Reach::Span(above, below) => row > *above && row < *below,
        Reach::Time(_) => false,
    }
}

#[test]
fn conditions_say_what_they_mean() {
    let (execution, spec) = example();
    let hash = Digest::of(b"x").hex();
    let exactly = format!("outputs.hash={hash}");
    for (text, expected) in [
        ("lr=0.01", true),
        ("params.lr=1e-2", true),
        ("lr=0.011", false),
        ("lr==0.01", true),
        ("lr==1e-2", false),
        ("params.model.depth=12", true),
        ("model.depth=12.0", true),
        ("model.depth==12.0", false),
        ("model.depth=1*", true),
        ("lr=0.0*", false),
        ("lr=*", true),
        ("momentum=*", false),
        ("lr=0.001..0.1", true),
        ("lr=..0.01", true),
        ("lr=0.02..", false),
        ("lr>0.01", false),
        ("lr>=0.01", true),
        ("lr<0.02", true),
        ("lr>a", false),
        ("model.depth>9", true),
        ("model.depth<9", false),
        ("model.depth>a", false),
        ("model.depth<a", true),
        ("model.sizes=1", true),
        ("model.sizes=two", true),
        ("model.sizes=three", false),
        ("model.on=true", true),
        ("model.big=9007199254740993", true),
        ("model.big=9007199254740992", false),
        ("model.big>9007199254740992", true),
        ("model.big<9007199254740993", false),
        ("sha=7890123", true),
        ("sha=789*", true),
        ("code_version=78901230e-1", true),
        ("sha=789", false),
        ("image==img:1..2*", true),
        ("image=img*", true),
        ("image=img:1..2*", false),
        ("image=im", false),
        ("image>=img", true),
        ("image>img", false),
        ("image<=img", true),
        ("image<img", false),
        ("image=a..img", true),
        ("image=", false),
        ("name=team/*", true),
        ("name=train", false),
        ("program=train", true),
        ("command=train --f*", true),
        ("command=sh*", false),
        ("env.MODE=a\0b", true),
        ("env.MODE=a*", true),
        ("env.GONE=null", true),
        ("env.TOKEN=*", false),
        ("outputs=out/b", true),
        ("inputs.data=run:x", true),
        ("inputs.data=exec:09*", true),
        ("inputs.other=*", false),
        (&exactly, true),
        ("labels.team=vision", true),
        ("labels.team=v*", true),
        ("metrics.eval.accuracy>=0.9", true),
        ("metrics.eval.runs[0].loss<0", true),
        ("verdict=FAILED", true),
        ("verdict=SUCCEEDED", false),
        ("rule=exit-code", true),
        ("exit.code=3", true),
        ("exit.code>3", false),
        ("exit.signal=*", false),
        ("usage.wall_ms>1000", true),
        ("usage.peak_rss=0", true),
        ("executor.user=eve", true),
        ("executor.host=..h1", true),
        ("began=2025*", true),
        ("began=2025-11-21", true),
        ("began>=2025", true),
        ("began<2025-12", true),
        ("began<=2025-11-21", true),
        ("began>2025-11-21", false),
        ("began=2025-11-01..2025-11-20", false),
        ("began=..2025-11-21", true),
        ("began=2025-11-21T18:02:11.042Z", true),
        ("began=x", false),
        ("began=*", true),
        ("began<0", false),
        ("began>9", false),
    ] {
        let asked = Query::parse(&[text]).expect("valid");
        assert_eq!(asked.matches(&execution, &spec), expected, "{text}");
        assert!(!expected || reached(&condition(text), &execution, &spec), "{text} is not in reach");
    }
    let both = |a, b| Query::parse(&[a, b]).expect("valid").matches(&execution, &spec);
    assert!(
        both("lr=0.01", "verdict=FAILED") && !both("lr=0.02", "verdict=FAILED") && !both("lr=0.01", "verdict=RUNNING")
    );
    let all = Query::parse(&["lr=*"]).expect("valid");
    assert!(all.clone().failed().matches(&execution, &spec) && all.clone().named("team/t").matches(&execution, &spec));
    assert!(!all.clone().named("train").matches(&execution, &spec));
    let succeeded = Execution { state: State::Succeeded, ..execution };
    assert!(!all.failed().matches(&succeeded, &spec));
}

#[test]
fn what_is_no_condition_is_said() {
    for (text, why) in [
        ("lr", "it takes FIELD=VALUE"),
        ("", "it takes FIELD=VALUE"),
        ("=1", "no field before its ="),
        (">=1", "no field before its >="),
        ("lr!=1", "there is no !="),
        ("lr>", "no value after its >"),
        ("lr=..", "range without ends"),
        (&format!("a={}", "x".repeat(1_023)), "at most 1024"),
    ] {
        let error = text.parse::<Condition>().expect_err(text).to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
    assert_eq!(Query::parse(&[""; 0]), Err(ConditionError::Count(0)));
    assert_eq!(Query::parse(&["a=1"; 33]), Err(ConditionError::Count(33)));
    assert!(Query::parse(&["a=1"; 32]).is_ok());
}

#[test]
fn a_window_is_cut_by_each_condition() {
    let window = |conditions: &[&str]| Query::parse(conditions).expect("valid").window();
    assert_eq!(window(&["a=1"]), Some(Window::ALL));
    let day = window(&["began>=2026-11-22", "began<=2026-11-22", "a=1"]).expect("a day");
    assert_eq!(
        (day.first.to_string(), day.last.to_string()),
        ("2026-11-22T00:00:00.000Z".into(), "2026-11-22T23:59:59.999Z".into())
    );
    assert_eq!(window(&["began=2026-11-22*"]), Some(day));
    assert_eq!(window(&["began=2026-11-22", "a=1"]), Some(day));
    assert_eq!(window(&["began>2027", "began<2026"]), None);
    assert_eq!(day.after(), Some(Place::new(Timestamp::from_millis(day.last.millis() + 1), ExecutionId([0xff; 16]))));
}

#[test]
fn an_end_is_a_constant_number_of_terms_and_others_are_capped() {
    let (mut execution, mut spec) = example();
    assert_eq!(facts::result_terms(&execution).len(), 8);
    (0..2_000).for_each(|n| _ = execution.outcome.metrics.insert(format!("m{n}"), n.into()));
    spec.params.insert("many".into(), (0..2_000).collect());
    assert_eq!(facts::result_terms(&execution).len(), 8);
    assert_eq!(facts::metric_terms(&execution.outcome.metrics).len(), MAX_TERMS);
    assert_eq!(facts::begin_terms(&execution, &spec).len(), MAX_TERMS);
    assert!(
        Query::parse(&["many=1999"]).expect("valid").matches(&execution, &spec),
        "beyond what is found, it is still true"
    );
}

/// Values that are near to each other, and to where terms change their form.
fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "[ab\0\u{1}\u{ff}]{0,4}",
        "-?[0-9]{1,3}(\\.[0-9]{1,2})?(e-?[0-9])?",
        ("[ab]{0,2}", 196..204usize).prop_map(|(end, len)| format!("{}{end}", "x".repeat(len))),
    ];
    let number = prop_oneof![
        (-20..20i64).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (u64::MAX - 3..=u64::MAX).prop_map(Value::from),
        (9_007_199_254_740_990..9_007_199_254_740_997i64).prop_map(Value::from),
        any::<f64>().prop_filter("finite", |real| real.is_finite()).prop_map(Value::from),
        (-4..4i8).prop_map(|n| Value::from(f64::from(n) / 2.0)),
    ];
    prop_oneof![3 => text.prop_map(Value::from), 3 => number, 1 => any::<bool>().prop_map(Value::from), 1 => Just(Value::Null)]
}

fn asked() -> impl Strategy<Value = String> {
    let end = || value().prop_map(|value| facts::word(&value).into_owned());
    (end(), end(), 0..9u8).prop_map(|(a, b, form)| match form {
        0 => format!("f={a}"),
        1 => format!("f=={a}"),
        2 => format!("f={}*", a.chars().take(3).collect::<String>()),
        3 => format!("f={a}.."),
        4 => format!("f={a}..{b}"),
        5 => format!("f>{a}"),
        6 => format!("f>={a}"),
        7 => format!("f<{a}"),
        _ => format!("f<={a}"),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Terms are ordered like numbers among numbers, and like texts among texts, as far as these are not cut.
    #[test]
    fn terms_sort_as_values_do(a in value(), b in value()) {
        if let (Some(x), Some(y)) = (Number::of_value(&a), Number::of_value(&b)) {
            let terms = x.term().cmp(&y.term());
            prop_assert!(terms == x.partial_cmp(&y).expect("finite") || terms.is_eq() && !x.is_exact(), "{a} {b}");
        }
        let (x, y) = (facts::word(&a), facts::word(&b));
        let cut = |text: &str| text.as_bytes()[..text.len().min(term::CUT)].to_vec();
        prop_assert_eq!(term::of_text(&x).cmp(&term::of_text(&y)), cut(&x).cmp(&cut(&y)));
        let (x, y) = (term::of_text(&x), term::of_text(&y));
        prop_assert!(x == y || !x.starts_with(&y));
    }

    /// What a condition holds of is always within its reach, whatever stands behind the term.
    #[test]
    fn the_index_misses_nothing(text in asked(), value in value(), place in any::<[u8; 24]>()) {
        if let Ok(condition) = text.parse::<Condition>() && condition.holds(&value) {
            let reach = condition.reach();
            prop_assert!(term::of(&value).iter().any(|term| within(&reach, term, Place(place))), "{text} {value}");
        }
    }

    /// And a range of whole numbers or short texts reaches nothing else, so that what is read follows what is found.
    #[test]
    fn a_range_reads_no_more_than_it_holds_of(a in -9..9i32, b in -9..9i32, n in -9..9i32, place in any::<[u8; 24]>(), t in "[abc]{0,3}", u in "[abc]{1,2}") {
        for text in [format!("f={a}..{b}"), format!("f>{a}"), format!("f<{a}"), format!("f>={a}"), format!("f>{u}"), format!("f<{u}"), format!("f<={u}"), format!("f={u}*")] {
            let condition: Condition = text.parse().expect("valid");
            for value in [Value::from(n), Value::from(&*t)] {
                let reached = term::of(&value).iter().any(|term| within(&condition.reach(), term, Place(place)));
                prop_assert_eq!(reached, condition.holds(&value), "{} {}", text, value);
            }
        }
    }

    #[test]
    fn a_window_is_what_its_texts_say(text in "(20[0-9]{2}|1970|[0-9])(-[01][0-9]?)?(-[0-3][0-9]?)?", operator in "=|>|>=|<|<=", star in any::<bool>(), ms in 0..4_102_444_800_000u64) {
        let star = if star && operator == "=" { "*" } else { "" };
        let query = Query::parse(&[format!("began{operator}{text}{star}")]).expect("valid");
        let at = Timestamp::from_millis(ms);
        let within = query.window().is_some_and(|window| window.first <= at && at <= window.last);
        prop_assert_eq!(within, query.conditions()[0].holds(&at.to_string().into()));
    }

    #[test]
    fn no_text_panics(text in ".{0,40}") {
        if let Ok(condition) = text.parse::<Condition>() {
            condition.reach();
            condition.holds(&Value::Null);
        }
    }
}

#[test]
fn what_people_mean_is_found() {
    let (execution, spec) = example();
    let holds = |text: &str| Query::parse(&[text]).expect("a condition").matches(&execution, &spec);
    let day = &execution.began.to_string()[..10];
    for text in [
        format!("began={day}"),
        format!("began={}", &day[..4]),
        "verdict=failed".into(),
        "image =img:1..2*".replace(" =", "=="),
    ] {
        assert!(holds(&text), "{text}");
    }
    assert!(!holds("began=2001") && !holds("verdict=succeeded"));
    assert_eq!("a=>5".parse::<Condition>(), Err(ConditionError::Turned("a=>5".into())));
    assert!("a==>5".parse::<Condition>().is_ok());
    let odd = Condition::is("params.a=b", "x");
    let mut other = spec.clone();
    other.params.insert("a=b".into(), json!("x"));
    assert!(
        !Query::of(vec![odd.clone()]).matches(&execution, &spec) && Query::of(vec![odd]).matches(&execution, &other)
    );
}
