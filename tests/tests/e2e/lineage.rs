//! What was made from what, and what was only registered: over the wire, and as the command line tells it.

use bytes::Bytes;
use provender_client::{Client, Lineage, Remote};
use provender_core::name::{Name, Space};
use provender_core::provenance::{Branch, Origin, Place};
use provender_core::spec::{Input, Mount, Spec};
use provender_core::{Ref, TaskKey};
use provender_tests::child::string;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::world::{World, start};

async fn client(world: &World) -> Client {
    Client::connect(&Remote::find(Some(&world.daemon.remote())).unwrap(), Space::default()).await.unwrap()
}

/// `lib` is made from a source, and both `app` and `tool` from `lib`; `broken` fails.
fn world() -> World {
    let world = World::new();
    world.write("lib.c", "lib");
    world.run(&["--name", "lib", "--in", "lib.c", "--out", "lib.a"], "tr a-z A-Z <lib.c >lib.a").ok();
    world.run(&["--name", "app", "--in", "lib.a", "--out", "app.o"], "echo app >app.o").ok();
    world.run(&["--name", "tool", "--in", "L=lib", "--out", "tool.o"], "echo tool >tool.o").ok();
    world.run(&["--name", "broken", "--in", "L=lib"], "exit 1").code(1);
    world
}

#[test]
fn lineage_is_told_as_text_json_and_dot() {
    let world = world();
    let up = world.cli(&["lineage", "app"]).ok().out();
    let lines: Vec<_> = up.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("app  "), "{up}");
    assert!(lines[1].starts_with("└─ lib.a: lib  "), "{up}");
    assert_eq!(lines[2], "   └─ lib.c  3 B  (not in the store)");
    let down = world.cli(&["lineage", "lib", "--down"]).ok().out();
    assert!(
        down.contains("─ app (as lib.a)  ") && down.contains("─ tool (as L)  ") && !down.contains("broken"),
        "{down}"
    );
    assert_eq!(world.cli(&["lineage", "app", "--depth", "1"]).ok().out().lines().count(), 2);
    let broken = world.cli(&["lineage", "broken"]).ok().says(&["newest attempt"]).out();
    assert!(broken.starts_with("broken  FAILED  ") && broken.contains("─ L: lib  "), "{broken}");
    let json: Value = serde_json::from_str(&world.cli(&["--json", "lineage", "app"]).ok().out()).unwrap();
    assert_eq!((&json["v"], &json["truncated"], &json["cycle"]), (&1.into(), &false.into(), &false.into()));
    let kinds: Vec<_> = json["nodes"].as_array().unwrap().iter().map(|node| string(&node["kind"])).collect();
    assert_eq!(kinds, ["execution", "execution", "unheld"]);
    assert_eq!(json["edges"][0]["consumer"], json["nodes"][0]["id"]);
    assert_eq!(json["edges"][0]["producer"], json["nodes"][1]["id"]);
    let source = string(&json["nodes"][2]["id"]);
    assert!(world.cli(&["lineage", &source, "--down"]).ok().out().contains("─ lib (as lib.c)  "));
    let dot = world.cli(&["lineage", "app", "--dot"]).ok().out();
    assert!(
        dot.starts_with("digraph lineage {\n") && dot.ends_with("}\n") && dot.contains("[label=\"lib.a\"]"),
        "{dot}"
    );
    world.cli(&["lineage", "app", "--limit", "1"]).ok().says(&["this is not all", "--skip 1 ", "--limit"]);
    let rest = world.cli(&["lineage", "app", "--limit", "1", "--skip", "1"]).ok().says(&["--skip 2 "]).out();
    let lines: Vec<_> = rest.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].starts_with("app  ") && lines[0].ends_with("  (on an earlier page)"),
        "{rest}"
    );
    assert!(lines[1].starts_with("└─ lib.a: lib  "), "{rest}");
    world.cli(&["lineage", "app", "--skip", "9"]).ok().says(&["does not go as far"]);
    world.cli(&["lineage", "app", "--skip", "20000001"]).code(2);
    let pages = pages(&world, &["lineage", "app", "--limit", "1"]);
    assert_eq!(pages.len(), 3);
    for list in ["nodes", "edges"] {
        let joined: Vec<_> = pages.iter().flat_map(|page| page[list].as_array().unwrap().clone()).collect();
        assert_eq!(Value::Array(joined), json[list]);
    }
    assert_eq!(pages[1]["earlier"][0], json["nodes"][0]);
    world.cli(&["lineage", "none"]).code(1).says(&["none"]);
    world.cli(&["lineage", "app", "--dot", "--json"]).code(2);
}

#[test]
fn postgres_lineage_diff_and_why_answer_alike_from_either_daemon() {
    let cluster = Cluster::two_on_postgres(2);
    let user = &cluster.users[0];
    let run = |rate: &str| {
        let user = user.env("RATE", rate);
        start(&user, &["--name", "clean", "--env", "RATE", "--out", "data"], "echo $RATE >data").wait().ok();
        start(&user, &["--name", "train", "--in", "D=clean", "--out", "model"], "cat $PROVENDER_IN_D/data >model")
            .wait()
            .ok();
    };
    run("1");
    run("22");
    user.run(["invalidate", "clean@2", "--reason", "bad"]).ok();
    let told: Vec<_> = cluster
        .users
        .iter()
        .map(|user| {
            let said = |args: &[&str]| user.run(args).ok().out();
            let up = said(&["lineage", "train"]);
            assert!(up.starts_with("train  ") && up.lines().nth(1).unwrap().starts_with("└─ D: clean  "), "{up}");
            let down = said(&["lineage", "clean", "--down", "--limit", "1", "--skip", "1"]);
            assert!(
                down.starts_with("clean  ") && down.lines().nth(1).unwrap().starts_with("└─ train (as D)  "),
                "{down}"
            );
            let differs = said(&["diff", "train@2", "train"]);
            assert!(
                differs.starts_with("clean.env.RATE: 1 -> 22\n") && differs.contains("changed  model"),
                "{differs}"
            );
            let why = said(&["why", "clean@2"]);
            assert!(why.starts_with("clean was invalidated by ") && why.contains(": bad "), "{why}");
            [up, down, differs, why]
        })
        .collect();
    assert_eq!(told[0], told[1]);
}

/// The documents of a walk's pages, each asked for as the one before says.
fn pages(world: &World, args: &[&str]) -> Vec<Value> {
    let (mut pages, mut skip) = (Vec::<Value>::new(), 0);
    loop {
        let at = skip.to_string();
        let page = world.cli(&[&["--json"], args, &["--skip", &at]].concat()).ok().out();
        pages.push(serde_json::from_str(&page).unwrap());
        match pages.last().unwrap()["next"].as_u64() {
            Some(next) => {
                assert!(next > skip, "the page behind {skip} ends at {next}");
                skip = next;
            }
            None => return pages,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_registered_is_listed_and_shown_and_is_no_success() {
    let world = World::new();
    let client = client(&world).await;
    let key = |n: usize| format!("alamode:{n:064}").parse::<TaskKey>().unwrap();
    let task = |n: usize| {
        let from = Input { mount: Mount::CheckedOut, content: None, key: n.checked_sub(1).map(key), execution: None };
        let inputs = if n > 0 { [(Bytes::from_static(b"before"), from)].into() } else { Default::default() };
        let command = vec!["sh".into(), "-c".into(), vec![b'x'; 1_000].into()];
        (key(n), Spec { command, inputs, ..Spec::new(Name::new(format!("many/{n}")).unwrap()) })
    };
    // More than fit into one message, and than one call takes.
    let tasks: Vec<_> = (0..6_000).map(task).collect();
    assert_eq!(client.register(&tasks).await.unwrap(), vec![true; 6_000]);
    assert_eq!(client.register(&tasks[..10]).await.unwrap(), [false; 10]);
    assert_eq!(world.cli(&["ls", "many/"]).ok().out().lines().count(), 6_000);
    let last = key(5_999).to_string();
    for reference in [&*last, "many/5999"] {
        world.cli(&["status", reference]).code(1);
        let shown = world.cli(&["show", reference]).ok().out();
        for text in ["many/5999", "UNKNOWN", "registered, never attempted", "input      before"] {
            assert!(shown.contains(text), "{shown}");
        }
        for command in ["logs", "get", "cat"] {
            world.cli(&[command, reference]).code(1).says(&["was registered but never attempted"]);
        }
    }
    assert!(world.cli(&["status", &last]).code(1).out().contains("(registered, never attempted)"));
    let shown: Value = serde_json::from_str(&world.cli(&["--json", "show", &last]).ok().out()).unwrap();
    assert_eq!((&shown["record"], string(&shown["spec"]["name"])), (&Value::Null, "many/5999".to_owned()));
    let up = world.cli(&["lineage", &last]).ok().out();
    assert_eq!(up.lines().count(), 6_000);
    let paged = pages(&world, &["lineage", &last, "--limit", "2500"]);
    let count = |list: &str| paged.iter().map(|page| page[list].as_array().unwrap().len()).collect::<Vec<_>>();
    assert_eq!((count("nodes"), count("edges")), (vec![2_500, 2_500, 1_000], vec![2_499, 2_500, 1_000]));
    assert!(up.lines().nth(1).unwrap().starts_with("└─ before: many/5998  UNKNOWN  alamode:"), "{up:.200}");
    // Running one of them is what makes it a success.
    world.run(&["--name", "other", "--key", &key(0).to_string(), "--out", "out"], "echo x >out").ok();
    assert_eq!(world.verdict("many/0"), "SUCCEEDED");
    world.run(&["--name", "r", "--in", "R=many/1"], "true").code(125);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_view_can_be_asked_from_afar() {
    let world = world();
    let client = client(&world).await;
    let name = |text: &str| Name::new(text).unwrap();
    let (tasks, more) = client.children(Branch::Tasks, None, None, 10).await.unwrap();
    assert_eq!((tasks, more), (vec!["app".into(), "lib".into(), "tool".into()], false));
    assert_eq!(client.children(Branch::Tasks, None, Some("app"), 1).await.unwrap(), (vec!["lib".into()], true));
    assert_eq!(client.children(Branch::Failed, None, None, 10).await.unwrap().0, ["broken"]);
    let (lib, folder) = client.latest_folder(&name("lib")).await.unwrap().unwrap();
    assert_eq!(client.folders(Branch::Tasks, &name("lib"), None, 10).await.unwrap(), (vec![folder.clone()], false));
    assert_eq!(client.in_folder(Branch::Tasks, &name("lib"), &folder).await.unwrap().as_ref(), Some(&lib));
    assert_eq!(client.changed(Branch::Tasks, &name("lib")).await.unwrap(), lib.ended);
    assert!(client.changed(Branch::Failed, &name("lib")).await.unwrap().is_none());
    assert!(client.latest_folder(&name("broken")).await.unwrap().is_none());
    let (app, at) = client.latest_folder(&name("app")).await.unwrap().unwrap();
    let inputs = client.inputs(app.id).await.unwrap();
    assert_eq!((inputs.len(), &inputs[0].0[..]), (1, &b"lib.a"[..]));
    assert_eq!(inputs[0].1, Origin::Made(Place::of(&lib).unwrap()));
    let mut consumers = Vec::new();
    let mut cursor = None;
    loop {
        let (page, next) = client.consumers(lib.id, cursor, 1).await.unwrap();
        consumers.extend(page.into_iter().map(|place| place.name.to_string()));
        match next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    consumers.sort();
    assert_eq!(consumers, ["app", "tool"]);
    assert_eq!(client.is_consumer(lib.id, &name("app"), &at).await.unwrap(), Place::of(&app));
    assert!(client.is_consumer(app.id, &name("lib"), &folder).await.unwrap().is_none());
    assert_eq!(client.schemes().await.unwrap(), ["run"]);
    assert_eq!(client.keys("run", None, 10).await.unwrap().0.len(), 3);
    assert_eq!(client.record(&lib.key).await.unwrap(), Place::of(&lib));
    let graph = client.lineage(&Ref::Execution(app.id), Lineage::default()).await.unwrap();
    assert_eq!((graph.nodes.len(), graph.edges.len()), (3, 2));
}
