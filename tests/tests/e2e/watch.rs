//! Watching: what the command prints, and that nothing is left out whatever is killed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use provender_client::{Begin, Begun, Client, ClientError, Heard, Invalidate, Remote, Watch};
use provender_core::event::Event;
use provender_core::execution::{Executor, Exit, Outcome, State};
use provender_core::key::TaskKey;
use provender_core::name::{Name, Space};
use provender_core::{ExecutionId, Spec, Verdict};
use provender_proto::v1;
use provender_proto::v1::tasks_client::TasksClient;
use provender_tests::child::{Running, eventually, processes, soak, string};
use provender_tests::daemon::Daemon;
use provender_tests::postgres;
use provender_tests::provender::Provender;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Code;
use tonic_types::StatusExt;

use crate::world::{World, folder, start};

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

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

fn key(text: &str) -> TaskKey {
    text.parse().unwrap()
}

fn outcome(code: i32) -> Outcome {
    Outcome { exit: Some(Exit::Code(code)), ..Outcome::default() }
}

/// One who asks whichever daemon is there.
struct Asker {
    remotes: Vec<String>,
    at: usize,
    client: Client,
}

impl Asker {
    async fn new(remotes: Vec<String>, at: usize) -> Asker {
        Asker { client: connect(&remotes[at % remotes.len()]).await, remotes, at }
    }

    /// Asks until there is an answer.
    async fn ask<T>(&mut self, call: impl AsyncFn(&Client) -> Result<T, ClientError>) -> Result<T, ClientError> {
        loop {
            match call(&self.client).await {
                Err(error) if error.is_passing() => {
                    self.at += 1;
                    let remote = &self.remotes[self.at % self.remotes.len()];
                    if let Ok(client) = tokio::time::timeout(Duration::from_millis(200), connect(remote)).await {
                        self.client = client;
                    }
                }
                answer => return answer,
            }
        }
    }

    /// Attempts a key, however that ends; none if somebody else is at it, or it is done.
    async fn attempt(&mut self, key: &TaskKey, name: &str, how: u8) -> bool {
        let (spec, executor) = (Spec::new(Name::new(name).unwrap()), Executor::default());
        let execution = ExecutionId(random());
        let request = Begin {
            key,
            spec: &spec,
            execution,
            executor: &executor,
            ttl: Duration::from_secs(1),
            wait: false,
            check: false,
        };
        let begun = self.ask(async |client| client.begin(request.clone(), |_| ()).await).await;
        if !matches!(begun, Ok(Begun::Lease(_))) {
            return false;
        }
        // A refusal means that the lease ran out while the daemon was away.
        match how % 4 {
            0 => _ = self.ask(async |client| client.commit(execution, &outcome(0)).await).await,
            1 => _ = self.ask(async |client| client.commit(execution, &outcome(1)).await).await,
            2 => _ = self.ask(async |client| client.fail(execution, "why", &outcome(1)).await).await,
            // It dies.
            _ => {}
        }
        true
    }

    async fn invalidate(&mut self, key: &TaskKey) {
        let what = Invalidate { keys: vec![key.clone()], ..Invalidate::default() };
        let done = self.ask(async |client| client.invalidate(what.clone(), |_| Ok::<_, ClientError>(())).await).await;
        assert!(!done.unwrap());
    }

    /// What happened to a key, by its history: each attempt, how it ended, and that a success was made void before the next one.
    async fn happened(&mut self, key: &TaskKey) -> Vec<(Verdict, ExecutionId)> {
        let (mut executions, more) =
            self.ask(async |client| client.history(Err(key), false, Default::default(), 1_000).await).await.unwrap();
        assert_eq!(more, None);
        executions.reverse();
        let mut happened = Vec::new();
        for (n, execution) in executions.iter().enumerate() {
            happened.push((Verdict::Running, execution.id));
            assert_ne!(execution.state, State::Running, "all have ended");
            happened.push((execution.state.verdict(), execution.id));
            if execution.state == State::Succeeded && n + 1 < executions.len() {
                happened.push((Verdict::Invalidated, execution.id));
            }
        }
        happened
    }
}

const LAST: &str = "test:last";

/// Watches until the last thing happens; goes to the next daemon when one is away, if there are several.
async fn watch_all(remotes: Vec<String>) -> (Vec<Event>, u32) {
    let watch = |cursor| Watch { prefixes: vec!["w/".into()], cursor, ..Watch::default() };
    let (mut at, mut seen, mut cursor, mut breaks) = (0, Vec::new(), None, 0);
    let mut watching = connect(&remotes[0]).await.watch(watch(None));
    loop {
        match watching.next().await.unwrap() {
            Heard::Event(event, _) if event.key == key(LAST) => return (seen, breaks),
            Heard::Event(event, next) => {
                seen.push(event);
                cursor = next.or(cursor);
            }
            Heard::Reached(next) => cursor = Some(next),
            Heard::Away(_) => {
                breaks += 1;
                if remotes.len() > 1 {
                    at += 1;
                    watching = connect(&remotes[at % remotes.len()]).await.watch(watch(cursor.clone()));
                }
            }
        }
    }
}

/// Executors and kills, and one watcher who has to hear of everything, in order.
fn nothing_is_left_out(mut cluster: Cluster) {
    let (kills, keys) = if soak() { (60, 6) } else { (8, 4) };
    let remotes = cluster.remotes();
    let watcher = cluster.runtime.spawn(watch_all(remotes.clone()));
    // It counts from when it has begun.
    std::thread::sleep(Duration::from_millis(500));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut executors = Vec::new();
    for n in 0..keys * 2 {
        let (stop, remotes) = (stop.clone(), remotes.clone());
        let work = async move || {
            let mut executor = Asker::new(remotes, n).await;
            let key = key(&format!("test:{}", n / 2));
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let how = random()[0];
                if !executor.attempt(&key, &format!("w/{}", n / 2), how).await {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                if how > 127 {
                    executor.invalidate(&key).await;
                }
            }
        };
        let runtime = cluster.runtime.handle().clone();
        executors.push(std::thread::spawn(move || runtime.block_on(work())));
    }
    for _ in 0..kills {
        std::thread::sleep(Duration::from_millis(200 + u64::from(random()[0]) * 2));
        let victim = usize::from(random()[0]) % cluster.daemons.len();
        cluster.daemons[victim].kill();
        std::thread::sleep(Duration::from_millis(u64::from(random()[0])));
        cluster.daemons[victim].restart();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    executors.into_iter().for_each(|executor| executor.join().unwrap());
    cluster.runtime.block_on(async {
        let mut last = Asker::new(remotes, 0).await;
        let keys: Vec<_> = (0..keys).map(|n| key(&format!("test:{n}"))).collect();
        // Whoever died is found out.
        while last.client.lookup(&keys).await.unwrap().iter().any(|answer| answer.verdict == Verdict::Running) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(last.attempt(&key(LAST), "w/last", 2).await);
        let told = tokio::time::timeout(Duration::from_secs(60), watcher).await.expect("it hears the last").unwrap();
        let (mut by_key, count) = (BTreeMap::<_, Vec<_>>::new(), told.0.len());
        for event in told.0 {
            by_key.entry(event.key).or_default().push((event.verdict, event.execution.unwrap()));
        }
        let mut repeated = 0;
        for key in keys {
            let mut happened = last.happened(&key).await;
            let answer = last.client.lookup(std::slice::from_ref(&key)).await.unwrap().remove(0);
            let now = (answer.verdict, answer.execution.unwrap());
            if happened.last() != Some(&now) {
                assert_eq!(now.0, Verdict::Invalidated);
                happened.push(now);
            }
            repeated += in_order(&by_key[&key], &happened);
        }
        let breaks = told.1;
        println!("{count} events, {breaks} breaks, {kills} kills, {repeated} told again");
        assert!(breaks > 0 && count > 50);
    });
}

/// What was told is what happened, in order, but that after a break some of it comes again; how much that is.
fn in_order(told: &[(Verdict, ExecutionId)], happened: &[(Verdict, ExecutionId)]) -> usize {
    let mut reached = 0;
    for (n, one) in told.iter().enumerate() {
        let place = happened.iter().position(|other| other == one);
        let place = place.unwrap_or_else(|| panic!("{one:?} never happened: {happened:?}"));
        assert!(place <= reached, "before {one:?} something was left out, after {:?} of {happened:?}", &told[..n]);
        reached = reached.max(place + 1);
    }
    assert_eq!(reached, happened.len(), "the rest was left out: {:?}", &happened[reached..]);
    told.len() - happened.len()
}

#[test]
fn nothing_is_left_out_whatever_is_killed() {
    nothing_is_left_out(Cluster::one());
}

#[test]
fn postgres_nothing_is_left_out_whatever_is_killed() {
    nothing_is_left_out(Cluster::two_on_postgres());
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
        let mut watching = watcher.watch(Watch { keys: vec![key("test:held")], ..Watch::default() });
        let first = cluster.runtime.block_on(watching.next()).unwrap();
        assert!(matches!(first, Heard::Event(event, _) if event.verdict == Verdict::Running));
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
                    if let Heard::Event(event, _) = watching.next().await.unwrap() {
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
