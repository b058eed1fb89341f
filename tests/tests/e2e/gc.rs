//! `provender gc` and pins: what the rules do not keep goes and nothing else, and runs again when it is asked for.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use provender_proto::v1;
use provender_proto::v1::admin_client::AdminClient;
use provender_proto::v1::pinned::What;
use provender_tests::child::{Ran, eventually, string};
use serde_json::{Value, json};
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::world::{World, key};

/// One of each name stays; nothing goes by itself.
const CONFIG: &str =
    "[gc]\nprotect_seconds = 1\nevery_seconds = 0\n[[gc.keep]]\nlatest = 1\nfailed_within_seconds = 0\n";

/// A little longer than what was used is protected, from the second on in which that is written down.
fn outlive_protection() {
    sleep(Duration::from_millis(2_400));
}

/// Makes a version of `name`: its key, and its output's file in the blob folder is one of 100,000 bytes and `version`.
fn make(world: &World, name: &str, version: usize) -> Ran {
    let input = format!("in{version}");
    world.write(&input, version.to_string());
    let script = format!("echo x >>count; head -c {} /dev/zero | tr '\\0' '{version}' >out", 100_000 + version);
    world.run(&["--name", name, "--in", &input, "--out", "out"], &script).ok()
}

/// All that stands in a folder and below.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = dir.read_dir().unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The versions whose outputs are in the blob folder.
fn stored(world: &World) -> Vec<u64> {
    let files = files(&world.data().join("blobs/objects"));
    let mut sizes: Vec<_> = files.iter().map(|file| file.metadata().unwrap().len() - 100_000).collect();
    sizes.sort();
    sizes
}

/// What goes, in the order that it is told, and the sums.
fn gc(world: &World, args: &[&str]) -> (Vec<Value>, Value) {
    let mut lines = world.cli(&[&["--json", "gc"][..], args].concat()).ok().lines();
    let summary = lines.pop().unwrap()["summary"].clone();
    assert_eq!(summary["executions"], json!(lines.len()));
    (lines, summary)
}

fn keys(lines: &[Value]) -> Vec<String> {
    let mut keys: Vec<_> = lines.iter().map(|line| string(&line["key"])).collect();
    keys.sort();
    keys
}

fn sorted(mut keys: Vec<String>) -> Vec<String> {
    keys.sort();
    keys
}

#[test]
fn a_gc_takes_exactly_what_its_dry_run_said_and_what_went_runs_again() {
    let world = World::with(CONFIG, &[]);
    let made: Vec<_> = (1..4).map(|version| key(&make(&world, "n", version))).collect();
    let old = sorted(made[..2].to_vec());
    // What was used a moment ago stays.
    assert_eq!(keys(&gc(&world, &[]).0), Vec::<String>::new());
    outlive_protection();
    let (planned, sums) = gc(&world, &["--dry-run"]);
    assert_eq!((keys(&planned), string(&planned[0]["rule"])), (old.clone(), "latest".into()));
    assert_eq!((&sums["records"], &sums["blobs"]), (&json!(2), &json!(0)));
    assert!(planned.iter().all(|line| line["dry_run"] == true && line["record"] == true), "{planned:?}");
    // A dry run takes nothing.
    assert_eq!(made.iter().map(|key| world.verdict(key)).collect::<Vec<_>>(), ["SUCCEEDED"; 3]);
    assert_eq!(stored(&world), [1, 2, 3]);
    // That was a use.
    outlive_protection();
    let text = world.cli(&["gc", "--dry-run", "--list", "1"]).ok().out();
    assert!(text.starts_with("latest ") && text.contains("2 executions would go, of these 2 records"), "{text}");
    assert_eq!(text.lines().count(), 3, "{text}");

    let (gone, did) = gc(&world, &[]);
    assert_eq!((keys(&gone), &did["frees"], &did["spared"]), (old.clone(), &sums["frees"], &json!(0)));
    assert!(did["frees"].as_u64().unwrap() > 200_000, "{did}");
    for key in &old {
        let status = world.cli(&["--json", "status", key]).code(1).lines();
        assert_eq!((string(&status[0]["verdict"]), string(&status[0]["rule"])), ("EVICTED".into(), "latest".into()));
        let (why, at) = (world.cli(&["why", key]).ok().out(), string(&status[0]["at"]));
        assert!(why.contains("rule: latest") && why.contains(&at) && why.contains("newer successes of n"), "{why}");
        world.cli(&["get", key, "there"]).code(1);
    }
    // What stays is whole.
    assert_eq!(world.verdict(&made[2]), "SUCCEEDED");
    world.cli(&["get", "n", "there"]).ok();
    assert_eq!(world.read("there/out"), "3".repeat(100_003));
    assert_eq!(world.cli(&["--json", "history", "n"]).ok().lines().len(), 1);
    // Bytes go as well, and only theirs.
    outlive_protection();
    eventually("the bytes of what went are removed", || {
        gc(&world, &[]);
        stored(&world) == [3]
    });
    // What is left to be done is nothing.
    let (gone, did) = gc(&world, &[]);
    let none = json!(0);
    assert_eq!((gone.len(), &did["frees"], &did["blobs"], &did["bytes"]), (0, &none, &none, &none), "{did}");
    assert_eq!(world.cli(&["--json", "verify", "--deep"]).ok().json()["lost"], none);
    // It runs again, once.
    let again = make(&world, "n", 1);
    assert_eq!((again.result(), key(&again), world.count("count")), ("ran".into(), made[0].clone(), 4));
    assert_eq!((make(&world, "n", 1).result(), world.verdict(&made[0])), ("hit".into(), "SUCCEEDED".into()));
    assert_eq!(world.read("out"), "1".repeat(100_001));
}

#[test]
fn a_gc_spares_what_is_pinned_until_it_is_unpinned() {
    let world = World::with(CONFIG, &[]);
    let made: Vec<_> = (1..4).map(|version| key(&make(&world, "n", version))).collect();
    let (pinned, other) = (made[0].as_str(), made[1].as_str());
    let wide = key(&make(&world, "keep/this", 4));
    make(&world, "keep/this", 5);
    let id = string(&world.cli(&["--json", "history", pinned]).ok().lines()[0]["execution"]);
    world.cli(&["pin", &format!("exec:{id}")]).code(1).says(&["one execution", pinned, "tree:"]);
    world.cli(&["pin", pinned, "--reason", "first", "--for", "7d"]).ok().says(&["pinned", "until"]);
    world.cli(&["pin", pinned, "--reason", "paper\nfigure"]).ok().says(&["for good"]);
    world.cli(&["pin", "--prefix", "keep/"]).ok();
    // One whose time is over keeps nothing.
    world.cli(&["pin", other, "--for", "1s"]).ok();
    outlive_protection();
    let (gone, sums) = gc(&world, &["--dry-run"]);
    assert_eq!(keys(&gone), [other]);
    let (gone, _) = gc(&world, &[]);
    assert_eq!((keys(&gone), sums["records"].clone()), (vec![other.to_owned()], json!(1)));

    let pins = world.cli(&["--json", "pins"]).ok().lines();
    assert_eq!(pins.len(), 2, "{pins:?}");
    let of = |kind: &str| pins.iter().find(|pin| pin["what"]["kind"] == kind).unwrap();
    assert_eq!((&of("key")["what"]["value"], &of("key")["reason"]), (&json!(pinned), &json!("paper\nfigure")));
    assert_eq!((&of("key")["expires"], &of("prefix")["what"]["value"]), (&Value::Null, &json!("keep")));
    let text = world.cli(&["pins"]).ok().out();
    assert!(text.lines().count() == 2 && text.contains("for good  paper\\nfigure"), "{text}");

    let stranger = world.provender.env("USER", "somebody-else");
    stranger.run(["unpin", pinned]).code(1).says(&["somebody-else@", "--any-owner"]);
    assert_eq!(keys(&gc(&world, &["--dry-run"]).0), Vec::<String>::new());
    world.cli(&["unpin", pinned]).ok().says(&["unpinned"]);
    world.cli(&["unpin", pinned]).code(1).says(&["not pinned"]);
    stranger.run(["unpin", "--prefix", "keep", "--any-owner"]).ok();
    assert!(world.cli(&["pins"]).ok().out().is_empty());
    let left = sorted(vec![pinned.to_owned(), wide]);
    // Their names are looked at again once something is made under them.
    make(&world, "n", 6);
    make(&world, "keep/this", 7);
    outlive_protection();
    let (gone, _) = gc(&world, &[]);
    assert!(left.iter().all(|key| keys(&gone).contains(key)), "{gone:?}");
    assert!(left.iter().all(|key| world.verdict(key) == "EVICTED"));
}

#[test]
fn a_gc_spares_pinned_bytes_of_what_went() {
    let world = World::with(CONFIG, &[]);
    let old = key(&make(&world, "n", 1));
    let tree = string(&world.cli(&["--json", "status", &old]).ok().lines()[0]["outputs"]["hash"]);
    let tree = format!("tree:{tree}");
    make(&world, "n", 2);
    world.cli(&["pin", &tree]).ok();
    world.cli(&["pin", &format!("tree:{}", "0".repeat(64))]).code(1).says(&["not in the store"]);
    outlive_protection();
    assert_eq!(keys(&gc(&world, &[]).0), [old]);
    for _ in 0..2 {
        outlive_protection();
        gc(&world, &[]);
    }
    assert_eq!(stored(&world), [1, 2]);
    world.cli(&["get", &tree, "there"]).ok();
    assert_eq!(world.read("there/out"), "1".repeat(100_001));
    world.cli(&["unpin", &tree]).ok();
    eventually("its bytes are removed", || {
        gc(&world, &[]);
        stored(&world) == [2]
    });
}

#[test]
fn du_says_what_each_part_has_and_what_it_alone_has() {
    let world = World::with(CONFIG, &[]);
    make(&world, "a/x", 1);
    make(&world, "a/y", 2);
    // The same bytes as the first one's, and nothing else.
    let script = "head -c 100001 /dev/zero | tr '\\0' 1 >out";
    world.run(&["--name", "b", "--key", "t:b", "--out", "out"], script).ok();
    gc(&world, &[]);
    let du = |args: &[&str]| {
        let mut lines = world.cli(&[&["--json", "du"][..], args].concat()).ok().lines();
        let sums = lines.pop().unwrap();
        (lines, sums)
    };
    let labels = |lines: &[Value]| sorted(lines.iter().map(|line| string(&line["label"])).collect());
    let (lines, sums) = du(&[]);
    assert_eq!(labels(&lines), ["a", "b"]);
    let number = |value: &Value| value.as_u64().unwrap();
    let of = |label: &str| lines.iter().find(|line| line["label"] == label).unwrap();
    let (a, b) = (of("a"), of("b"));
    assert_eq!((number(&a["executions"]), number(&a["records"]), number(&b["records"])), (2, 2, 1));
    assert!(number(&a["bytes"]) > 200_003 && (100_002..200_000).contains(&number(&a["own"])), "{a}");
    assert!(number(&b["bytes"]) > 100_001 && number(&b["own"]) < 10_000, "{b}");
    assert_eq!((number(&sums["all"]["executions"]), &sums["all"]["bytes"]), (3, &sums["stored"]));
    assert!(number(&sums["all"]["own"]) >= number(&a["own"]) + 100_001, "{sums}");

    let (lines, sums) = du(&["a/"]);
    assert_eq!((labels(&lines), number(&sums["all"]["records"])), (vec!["a/x".into(), "a/y".into()], 2));
    assert_eq!(du(&["--by", "executor"]).0.len(), 1);
    assert_eq!(labels(&du(&["--by", "age"]).0), ["less than 1 days"]);
    assert_eq!(du(&["nobody"]).0.len(), 0);
    world.cli(&["du", "a//b"]).code(1).says(&["prefix"]);
    let text = world.cli(&["du"]).ok().out();
    assert!(text.lines().count() == 5 && text.contains("in all") && text.contains("stored"), "{text}");
}

#[test]
fn a_gc_and_its_pins_are_for_the_owner_and_what_makes_no_sense_is_refused() {
    let world = World::with(CONFIG, &["--listen", "127.0.0.1:0", "--insecure"]);
    let address = string(&world.daemon.logged("listening on TCP")["fields"]["address"]);
    let remote = format!("http://{address}");
    for args in [&["pin", "n"][..], &["unpin", "n"], &["pins"], &["gc"], &["gc", "--dry-run"], &["du"]] {
        let ran = world.cli(&[&["--remote", &remote][..], args].concat());
        assert!(!ran.status.success(), "{args:?}");
    }
    assert!(world.cli(&["pins"]).ok().out().is_empty());
    world.cli(&["pin"]).code(2);
    world.cli(&["pin", "n", "--prefix", "n"]).code(2);
    world.cli(&["pin", "n", "--for", "soon"]).code(2).says(&["12h"]);
    world.cli(&["pin", "--prefix", "/"]).code(1).says(&["prefix"]);
    world.cli(&["pin", "n", "--reason", &"x".repeat(4097)]).code(1).says(&["reason", "4096"]);
    world.provender.env("USER", "x".repeat(256)).run(["pin", "n"]).code(1).says(&["owner", "256"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gc_knows_pins_page_by_page_and_refuses_by_the_field() {
    let world = World::new();
    let mut admin = AdminClient::new(Endpoint::from_shared(world.daemon.remote()).unwrap().connect().await.unwrap());
    let of = |n: u32| v1::Pinned { what: Some(What::Key(format!("t:{n:03}"))) };
    let pin = |n: u32| {
        let (reason, owner) = ("x".repeat(4096), "y".repeat(256));
        v1::PinRequest { what: Some(of(n)), reason, owner, ..Default::default() }
    };
    for n in 0..350 {
        admin.pin(pin(n)).await.unwrap();
    }
    // A page is bounded by its bytes as well.
    let first = admin.list_pins(v1::ListPinsRequest::default()).await.unwrap().into_inner();
    assert!((200..350).contains(&first.pins.len()), "{}", first.pins.len());
    let mut keys: Vec<_> = first.pins.iter().map(|pin| pin.what.clone().unwrap()).collect();
    let mut cursor = first.cursor;
    while !cursor.is_empty() {
        let asked = v1::ListPinsRequest { cursor, limit: 20, ..Default::default() };
        let page = admin.list_pins(asked).await.unwrap().into_inner();
        assert!(page.pins.len() <= 20);
        keys.extend(page.pins.into_iter().map(|pin| pin.what.unwrap()));
        cursor = page.cursor;
    }
    let mut keys: Vec<_> = keys.into_iter().map(|what| format!("{:?}", what.what)).collect();
    keys.sort();
    assert_eq!(keys, (0..350).map(|n| format!("{:?}", of(n).what)).collect::<Vec<_>>());

    let refused = |field: &str, status: Status| {
        let violations = status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
        let fields: Vec<_> = violations.into_iter().map(|violation| violation.field).collect();
        assert_eq!((status.code(), fields), (Code::InvalidArgument, vec![field.to_owned()]), "{status:?}");
    };
    let list = v1::ListPinsRequest { limit: 10_001, ..Default::default() };
    refused("limit", admin.list_pins(list).await.unwrap_err());
    refused(
        "cursor",
        admin.list_pins(v1::ListPinsRequest { cursor: "x".into(), ..Default::default() }).await.unwrap_err(),
    );
    refused("reason", admin.pin(v1::PinRequest { reason: "x".repeat(4097), ..pin(0) }).await.unwrap_err());
    refused("owner", admin.pin(v1::PinRequest { owner: "y".repeat(257), ..pin(0) }).await.unwrap_err());
    refused("owner", admin.pin(v1::PinRequest { owner: String::new(), ..pin(0) }).await.unwrap_err());
    refused("what", admin.pin(v1::PinRequest { what: None, ..pin(0) }).await.unwrap_err());
    let prefix = v1::Pinned { what: Some(What::Prefix("x".repeat(1025))) };
    refused("prefix", admin.unpin(v1::UnpinRequest { what: Some(prefix), ..Default::default() }).await.unwrap_err());
    refused("by", admin.usage(v1::UsageRequest { by: 9, ..Default::default() }).await.unwrap_err());
    let never = v1::UnpinRequest { what: Some(of(999)), ..Default::default() };
    assert_eq!(admin.unpin(never).await.unwrap_err().code(), Code::NotFound);
}

#[test]
fn a_gc_goes_on_when_who_asked_for_it_hangs_up() {
    let world = World::with(CONFIG, &[]);
    let old = key(&make(&world, "n", 1));
    make(&world, "n", 2);
    outlive_protection();
    let asking = world.provender.start(["gc"]);
    // From here it waits a moment for answers that were given before.
    world.daemon.logged("collecting, as asked");
    drop(asking);
    // That is no use of it; a lookup would be.
    eventually("it is collected all the same", || world.cli(&["--json", "history", "n"]).ok().lines().len() == 1);
    assert_eq!(world.verdict(&old), "EVICTED");
}
