//! Watching: what the command prints, and that nothing is left out whatever is killed.

use std::time::{Duration, Instant};

use futures::StreamExt;
use provender_client::{Begin, Begun, Client, Heard, Remote, Watch};
use provender_core::execution::Executor;
use provender_core::key::TaskKey;
use provender_core::name::{Name, Space};
use provender_core::{ExecutionId, Spec, Verdict};
use provender_proto::v1;
use provender_proto::v1::tasks_client::TasksClient;
use provender_tests::child::{Running, eventually, processes, string};
use provender_tests::daemon::Daemon;
use provender_tests::postgres;
use provender_tests::provender::Provender;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Code;
use tonic_types::StatusExt;

use crate::world::{World, folder, start};

#[path = "watch/kills.rs"]
mod kills;

/// Until a watch has printed so many lines.
fn printed(watch: &Running, lines: usize) {
    eventually("the watch prints", || watch.stdout().lines().count() >= lines);
}

#[test]
fn a_watch_prints_a_line_for_each_verdict() {
    let world = World::new();
    let args = ["watch", "test:a", "dir/"];
    let json = world.provender.start([&["--json"], &args[..]].concat());
    let text = world.provender.start(args);
    [&json, &text].iter().for_each(|watch| printed(watch, 1));
    let run = |name: &str, key: &str, script: &str| world.run(&["--name", name, "--key", key], script);
    run("dir/x", "test:a", "exit 3").code(3);
    run("other", "test:b", "true").ok();
    run("dir/x", "test:a", "true").ok();
    run("dir/x", "test:a", "true").ok();
    world.cli(&["invalidate", "test:a", "--reason", "bad"]).ok();
    run("dir/y", "test:c", "true").ok();
    [&json, &text].iter().for_each(|watch| printed(watch, 8));
    json.signal(Signal::INT);
    text.signal(Signal::TERM);
    let (lines, text) = (json.wait().ok().lines(), text.wait().ok().out());
    let field = |name: &str| lines.iter().map(|line| line[name].clone()).collect::<Vec<_>>();
    let verdicts = ["UNKNOWN", "RUNNING", "FAILED", "RUNNING", "SUCCEEDED", "INVALIDATED", "RUNNING", "SUCCEEDED"];
    assert_eq!(field("verdict"), verdicts);
    assert_eq!(field("key")[5..], ["test:a", "test:c", "test:c"]);
    assert_eq!(field("name")[..2], [Value::Null, "dir/x".into()]);
    let members: Vec<_> = lines[2].as_object().unwrap().keys().cloned().collect();
    assert_eq!(members, ["at", "cursor", "execution", "key", "name", "reason", "v", "verdict"]);
    let mut first = lines[0].clone();
    assert!(string(&first["at"]).ends_with('Z'));
    first["at"] = Value::Null;
    assert_eq!(
        first,
        json!({
            "v": 1, "key": "test:a", "name": null, "verdict": "UNKNOWN", "execution": null, "at": null,
            "reason": "it was never attempted", "cursor": null,
        })
    );
    let history = world.cli(&["--json", "history", "dir/x"]).ok().lines();
    assert_eq!((&lines[2]["execution"], &lines[2]["reason"]), (&history[1]["execution"], &history[1]["reason"]));
    assert_eq!((&lines[2]["at"], &lines[3]["at"]), (&history[1]["ended"], &history[0]["began"]));
    assert!(string(&lines[5]["reason"]).ends_with(": bad"));
    let same: Vec<_> = text.lines().map(|line| line.split_whitespace().nth(1).unwrap_or_default()).collect();
    assert_eq!(same, verdicts);
    let made = text.lines().nth(4).unwrap();
    assert_eq!(made, format!("{} SUCCEEDED   test:a  dir/x", string(&lines[4]["at"])));

    // From any line that has a cursor, the rest.
    let from = string(&lines[3]["cursor"]);
    let later = world.provender.start([&["--json"], &args[..], &["--from", &from]].concat());
    printed(&later, 4);
    later.signal(Signal::INT);
    assert_eq!(later.wait().ok().lines(), lines[4..]);
    world.cli(&["watch", "--from", "nonsense"]).code(1).says(&["cursor", "nonsense"]);
    world.cli(&["watch", "--from", "1-99999999"]).code(1).says(&["restored", "look the keys up"]);
}

#[tokio::test]
async fn what_cannot_be_watched_is_refused() {
    let world = World::new();
    let channel = tonic::transport::Endpoint::from_shared(world.daemon.remote()).unwrap().connect().await.unwrap();
    let mut tasks = TasksClient::new(channel);
    let all = || v1::WatchRequest { prefixes: vec![String::new()], ..Default::default() };
    for (request, field) in [
        (v1::WatchRequest::default(), "keys"),
        (v1::WatchRequest { keys: vec!["t:x".into(); 10_001], ..all() }, "keys"),
        (v1::WatchRequest { keys: vec!["x".into()], ..all() }, "key"),
        (v1::WatchRequest { prefixes: vec!["x".into(); 101], ..all() }, "prefixes"),
        (v1::WatchRequest { prefixes: vec!["x".repeat(1_025)], ..all() }, "prefixes"),
        (v1::WatchRequest { cursor: "1-x".into(), ..all() }, "cursor"),
        (v1::WatchRequest { cursor: "x".repeat(100_000), ..all() }, "cursor"),
        (v1::WatchRequest { space: "\n".into(), ..all() }, "space"),
    ] {
        let refused = tasks.watch(request).await.unwrap_err();
        let violations = refused.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
        assert_eq!((refused.code(), &*violations[0].field), (Code::InvalidArgument, field), "{refused:?}");
    }
    for cursor in ["2-0", "1-99999999", "1-18446744073709551615-lost"] {
        let refused = tasks.watch(v1::WatchRequest { cursor: cursor.into(), ..all() }).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    }
    tasks.watch(all()).await.unwrap().into_inner().message().await.unwrap().unwrap();
}

/// Daemons with one store, and what runs against them.
struct Cluster {
    daemons: Vec<Daemon>,
    runtime: tokio::runtime::Runtime,
    folder: TempDir,
    _postgres: Option<postgres::Server>,
}

impl Cluster {
    fn new(names: &[&str], config: &str, folder: TempDir, postgres: Option<postgres::Server>) -> Cluster {
        let file = folder.path().join("provenderd.toml");
        std::fs::write(&file, config).unwrap();
        let start = |name: &&str| Daemon::start(&folder.path().join(name), &["--config", file.to_str().unwrap()]);
        let daemons = names.iter().map(start).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Cluster { daemons, runtime, folder, _postgres: postgres }
    }

    fn one() -> Cluster {
        Cluster::new(&["d"], "", folder(), None)
    }

    fn two_on_postgres() -> Cluster {
        let (folder, postgres) = (folder(), postgres::Server::start());
        let blobs = folder.path().join("blobs");
        let config = format!(
            "[meta]\nengine = \"postgres\"\nurl = \"{}\"\n[blobs]\nbackend = \"disk\"\ndir = \"{}\"\n",
            postgres.url(),
            blobs.display()
        );
        Cluster::new(&["d1", "d2"], &config, folder, Some(postgres))
    }

    fn remotes(&self) -> Vec<String> {
        self.daemons.iter().map(Daemon::remote).collect()
    }

    fn client(&self, daemon: usize) -> Client {
        self.runtime.block_on(connect(&self.daemons[daemon].remote()))
    }
}

/// A client of a daemon, as soon as that is there.
async fn connect(remote: &str) -> Client {
    let remote = Remote::find(Some(remote)).unwrap();
    loop {
        match Client::connect(&remote, Space::default()).await {
            Ok(client) => return client,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn key(text: &str) -> TaskKey {
    text.parse().unwrap()
}

/// Whoever waits or watches at another daemon than the holder's hears of its end, though nobody asks.
#[test]
fn postgres_a_dead_holder_is_heard_of_at_the_other_daemon() {
    for the_daemon_too in [false, true] {
        let mut cluster = Cluster::two_on_postgres();
        let sleep = format!("8642{}", std::process::id());
        let work = cluster.folder.path().join("w");
        std::fs::create_dir(&work).unwrap();
        let user = Provender::new(&cluster.folder.path().join("h"), &work, &cluster.daemons[0].remote());
        let holder = start(&user, &["--name", "held", "--key", "test:held", "--ttl", "2"], &format!("sleep {sleep}"));
        eventually("the command runs", || !processes("sleep", &sleep).is_empty());
        let (watcher, waiter) = (cluster.client(1), cluster.client(1));
        let watch = Watch { keys: vec![key("test:held")], ..Watch::default() };
        let mut watching = Box::pin(watcher.watch(watch).into_stream());
        let first = cluster.runtime.block_on(watching.next()).unwrap();
        assert!(matches!(first, Ok(Heard::Event(event, _)) if event.verdict == Verdict::Running));
        let (busy, waits) = std::sync::mpsc::channel();
        let waiting = cluster.runtime.spawn(async move {
            let (spec, executor) = (Spec::new(Name::new("held").unwrap()), Executor::default());
            let key = key("test:held");
            let request = Begin {
                key: &key,
                spec: &spec,
                execution: ExecutionId([7; 16]),
                executor: &executor,
                ttl: Duration::from_secs(60),
                wait: true,
                check: false,
                remarks: Default::default(),
            };
            let begun = waiter.begin(request, |holder| busy.send(holder.id).unwrap()).await;
            (begun, Instant::now())
        });
        let held = waits.recv().unwrap();
        holder.signal(Signal::KILL);
        if the_daemon_too {
            cluster.daemons[0].kill();
        }
        let killed = Instant::now();
        let (told, at) = cluster.runtime.block_on(async {
            let told = async {
                loop {
                    if let Heard::Event(event, _) = watching.next().await.unwrap().unwrap() {
                        return (event, Instant::now());
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(60), told).await.expect("it hears of it")
        });
        assert_eq!((told.verdict, told.execution), (Verdict::Abandoned, Some(held)));
        assert!(told.reason.contains("was not heard of for 2 s"), "{}", told.reason);
        let (begun, begun_at) = cluster.runtime.block_on(waiting).unwrap();
        assert!(matches!(begun, Ok(Begun::Lease(_))), "{begun:?}");
        let (told, begun) = (at - killed, begun_at - killed);
        println!("after the kill (TTL 2 s; the daemon too: {the_daemon_too}): told {told:?}, taken over {begun:?}");
        holder.wait().signalled(Signal::KILL);
    }
}
