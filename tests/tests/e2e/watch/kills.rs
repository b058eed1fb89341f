//! Executors that come, go and die, daemons that are killed, and one watcher who has to hear of all of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use provender_client::{Begin, Begun, Client, ClientError, Heard, Invalidate, Watch};
use provender_core::event::Event;
use provender_core::execution::{Executor, Exit, Outcome, State};
use provender_core::key::TaskKey;
use provender_core::name::Name;
use provender_core::{ExecutionId, Spec, Verdict};
use provender_tests::child::soak;

use super::{Cluster, connect, key};

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).unwrap();
    bytes
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
            remarks: Default::default(),
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

/// Watches until the last thing happens, and says when it has begun; goes to the next daemon when one is away, if there are several.
async fn watch_all(remotes: Vec<String>, begun: mpsc::Sender<()>) -> (Vec<Event>, u32) {
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
            Heard::Reached(next) => {
                cursor = Some(next);
                // Nobody listens any more from the second time on.
                _ = begun.send(());
            }
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
    let (begun, begins) = mpsc::channel();
    let watcher = cluster.runtime.spawn(watch_all(remotes.clone(), begun));
    begins.recv().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut executors = Vec::new();
    for n in 0..keys * 2 {
        let (stop, remotes) = (stop.clone(), remotes.clone());
        let work = async move || {
            let mut executor = Asker::new(remotes, n).await;
            let key = key(&format!("test:{}", n / 2));
            while !stop.load(Ordering::Relaxed) {
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
    stop.store(true, Ordering::Relaxed);
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
