//! `kill -9` of daemons and executors at random moments, over and over: what was acknowledged is there with its very bytes, nothing
//! is SUCCEEDED that has not succeeded, and every key can be made.
//!
//! A failed round says how to have it again: `PROVENDER_SEED=N PROVENDER_ROUNDS=1`. The plan is the same then, the moment almost.

#[path = "killing/attempt.rs"]
mod attempt;
#[path = "killing/plan.rs"]
mod plan;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use provender_tests::child::{Running, eventually, processes, soak, string};
use provender_tests::provender::Provender;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cluster::Cluster;
use attempt::{Said, Task};
use plan::{Plan, Random, Victim, When};

/// What all rounds came to. Any commit lost, false SUCCEEDED or stuck key ends the test at once, so none of them is counted.
#[derive(Debug, Default)]
struct Tally {
    rounds: usize,
    killed_daemons: usize,
    killed_executors: usize,
    killed_guards: usize,
    killed_commands: usize,
    executors: usize,
    acknowledged: usize,
    committed_unheard: usize,
    failed: usize,
    left_running_or_abandoned: usize,
    made_afterwards: usize,
    slowest_afterwards: Duration,
}

/// What a key's record was at the end of its round, and stays.
type Records = BTreeMap<String, (Value, Value)>;

/// Says how to have the same again, should a round fail.
struct Again(u64);

impl Drop for Again {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("killing: that was PROVENDER_SEED={} PROVENDER_ROUNDS=1", self.0);
        }
    }
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn rounds(mut cluster: Cluster) {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).unwrap();
    let seed = from_env("PROVENDER_SEED").unwrap_or_else(|| u32::from_ne_bytes(bytes).into());
    let rounds = from_env("PROVENDER_ROUNDS").unwrap_or(if soak() { 500 } else { 15 });
    eprintln!("killing: PROVENDER_SEED={seed}, {rounds} rounds with {} daemon(s)", cluster.daemons.len());
    let (mut tally, mut records) = (Tally::default(), Records::new());
    for n in 0..rounds {
        let _again = Again(seed + n);
        Round::new(&mut cluster, seed + n, n as usize).play(&mut tally, &mut records);
    }
    // Whatever was killed later on: what was recorded is still the answer.
    let keys: Vec<_> = records.keys().map(String::as_str).collect();
    for some in keys.chunks(1_000) {
        for (daemon, _) in cluster.daemons.iter().enumerate() {
            assert_eq!(status(&cluster.user_at(&cluster.shared("end"), daemon), some), pick(&records, some));
        }
    }
    eprintln!("killing: 0 acknowledged commits lost, 0 false SUCCEEDED, 0 stuck keys; {tally:#?}");
}

fn pick(records: &Records, keys: &[&str]) -> Vec<(String, Value, Value)> {
    keys.iter().map(|key| ("SUCCEEDED".into(), records[*key].0.clone(), records[*key].1.clone())).collect()
}

/// Verdict, execution and outputs of keys.
fn status(provender: &Provender, keys: &[&str]) -> Vec<(String, Value, Value)> {
    let ran = provender.run(["--json", "status"].iter().chain(keys));
    let lines = ran.lines();
    assert_eq!(lines.len(), keys.len(), "{}", ran.err());
    lines.iter().map(|line| (string(&line["verdict"]), line["execution"].clone(), line["outputs"].clone())).collect()
}

struct Round<'a> {
    cluster: &'a mut Cluster,
    n: usize,
    plan: Plan,
    tasks: Vec<Task>,
    folder: PathBuf,
}

impl<'a> Round<'a> {
    fn new(cluster: &'a mut Cluster, seed: u64, n: usize) -> Round<'a> {
        let plan = Plan::draw(&mut Random::new(seed), cluster.daemons.len());
        let folder = cluster.shared(&format!("round{n}"));
        let task = |(at, key): (usize, &plan::Key)| {
            Task::new(*key, format!("test:{n}-{at}"), &folder.join(format!("key{at}")))
        };
        let tasks = plan.keys.iter().enumerate().map(task).collect();
        Round { cluster, n, plan, tasks, folder }
    }

    /// A word that only this executor's processes have among their arguments.
    fn word(&self, executor: usize) -> String {
        format!("executor-{}-{executor}-of-{}.", self.n, std::process::id())
    }

    fn user(&self, name: &str, n: usize) -> Provender {
        self.cluster.user_at(&self.folder.join(name), n % self.cluster.daemons.len())
    }

    fn play(mut self, tally: &mut Tally, records: &mut Records) {
        let ask =
            |(n, task): (usize, &usize)| self.tasks[*task].ask(&self.user(&format!("e{n}"), n), &self.word(n), false);
        let mut executors: Vec<_> = self.plan.executors.iter().enumerate().map(ask).collect();
        for (when, victim) in std::mem::take(&mut self.plan.kills) {
            self.wait(when, &mut executors);
            self.kill(victim, &mut executors, tally);
        }
        self.tasks.iter().for_each(Task::let_go);
        let said: Vec<_> = executors.into_iter().map(|executor| Said::of(&executor.wait())).collect();
        let held = self.judge(&said, tally);
        self.make_all(&held, tally, records);
        tally.rounds += 1;
        std::fs::remove_dir_all(&self.folder).unwrap();
    }

    fn wait(&self, when: When, executors: &mut [Running]) {
        let pause = match when {
            When::After(pause) => pause,
            When::AtWork(key, pause) => {
                let mut over = || self.all_over(key, executors);
                eventually("the command begins", || self.tasks[key].has_begun() || over());
                pause
            }
            When::AtEnd(key, pause) => {
                self.tasks[key].let_go();
                let mut over = || self.all_over(key, executors);
                eventually("the command ends", || !self.tasks[key].nonces().is_empty() || over());
                pause
            }
        };
        std::thread::sleep(Duration::from_millis(pause as u64));
    }

    /// Whether nobody is at a key any more.
    fn all_over(&self, key: usize, executors: &mut [Running]) -> bool {
        let mut all = executors.iter_mut().zip(&self.plan.executors).filter(|(_, asks)| **asks == key);
        all.all(|(executor, _)| executor.ended().is_some())
    }

    fn kill(&mut self, victim: Victim, executors: &mut [Running], tally: &mut Tally) {
        // Who has ended meanwhile cannot be killed any more.
        let kill = |pid: Option<&Pid>| usize::from(pid.is_some_and(|pid| kill_process(*pid, Signal::KILL).is_ok()));
        match victim {
            Victim::Daemon { daemon, away } => self.kill_daemons(daemon..daemon + 1, away, tally),
            Victim::Daemons { away } => self.kill_daemons(0..self.cluster.daemons.len(), away, tally),
            Victim::Executor(executor) if executors[executor].ended().is_none() => {
                executors[executor].signal(Signal::KILL);
                tally.killed_executors += 1;
            }
            Victim::Executor(_) => {}
            Victim::Guard(executor) => {
                tally.killed_guards += kill(processes("/proc/self/exe", &self.word(executor)).get(self.n % 2));
            }
            Victim::Command(executor) => tally.killed_commands += kill(processes("sh", &self.word(executor)).first()),
        }
    }

    fn kill_daemons(&mut self, which: std::ops::Range<usize>, away: usize, tally: &mut Tally) {
        tally.killed_daemons += which.len();
        which.clone().for_each(|daemon| self.cluster.daemons[daemon].kill());
        std::thread::sleep(Duration::from_millis(away as u64));
        which.for_each(|daemon| self.cluster.daemons[daemon].restart());
    }

    /// Holds what the store says against what executors said and commands did. The nonce of each key that is SUCCEEDED.
    fn judge(&self, said: &[Said], tally: &mut Tally) -> Vec<Option<String>> {
        tally.executors += said.len();
        let names: Vec<_> = self.tasks.iter().map(|task| task.name.as_str()).collect();
        let verdicts = status(&self.user("judge", self.n), &names);
        let succeeded = verdicts.iter().map(|(verdict, ..)| verdict == "SUCCEEDED");
        let get = |(at, succeeded): (usize, bool)| {
            succeeded.then(|| self.user("judge", self.n + at).start(["get", names[at], &format!("got{at}")]))
        };
        let gets: Vec<_> = succeeded.enumerate().map(get).collect();
        let judged = gets.into_iter().enumerate().map(|(at, get)| {
            let (task, verdict) = (&self.tasks[at], verdicts[at].0.as_str());
            let asked: Vec<_> = said.iter().zip(&self.plan.executors).filter(|(_, key)| **key == at).collect();
            let heard: Vec<_> = asked.iter().filter(|(said, _)| said.acknowledged()).map(|(said, _)| *said).collect();
            tally.acknowledged += heard.len();
            tally.failed += usize::from(verdict == "FAILED");
            tally.left_running_or_abandoned += usize::from(["RUNNING", "ABANDONED"].contains(&verdict));
            let say = || asked.iter().map(|(said, _)| said.text.as_str()).collect::<String>();
            if asked.iter().all(|(said, _)| said.failed()) {
                assert_eq!(verdict, "FAILED", "{}: everybody was told that it failed: {}", task.name, say());
            }
            let Some(get) = get else {
                assert!(heard.is_empty(), "acknowledged and lost: {} is {verdict}: {}", task.name, say());
                return None;
            };
            get.wait().ok();
            let nonce = task.outputs(&self.folder.join(format!("judge/got{at}")));
            assert!(task.key.kind.can_succeed(), "false SUCCEEDED: {} cannot succeed: {}", task.name, say());
            let whole = task.key.sizes.iter().any(|size| *size >= 100);
            assert!(!whole || task.nonces().contains(&nonce), "false SUCCEEDED: {} never came to its end", task.name);
            for said in &heard {
                assert!(["hit", "ran"].contains(&said.result.as_deref().unwrap_or_default()), "{}", said.text);
                assert!(said.nonce.starts_with(&nonce), "{}: another's bytes: {}", task.name, said.text);
            }
            tally.committed_unheard += usize::from(heard.is_empty());
            Some(nonce)
        });
        judged.collect()
    }

    /// A plain run of each key makes it, or finds what was there.
    fn make_all(&self, held: &[Option<String>], tally: &mut Tally, records: &mut Records) {
        let began = Instant::now();
        let ask = |at: usize| self.tasks[at].ask(&self.user(&format!("plain{at}"), self.n + at + 1), "plain", true);
        let runs: Vec<_> = (0..self.tasks.len()).map(ask).collect();
        for (at, run) in runs.into_iter().enumerate() {
            let mut said = Said::of(&run.wait());
            if said.failed() {
                // The last word of one who was killed arrived after all.
                said = Said::of(&ask(at).wait());
            }
            let task = &self.tasks[at];
            assert_eq!(said.code, Some(0), "stuck: {} cannot be made: {}", task.name, said.text);
            tally.slowest_afterwards = tally.slowest_afterwards.max(began.elapsed());
            let nonce = task.outputs(&self.folder.join(format!("plain{at}")));
            assert!(said.nonce.starts_with(&nonce), "{}: outputs and logs of two attempts", task.name);
            match &held[at] {
                Some(held) => assert_eq!((said.result.as_deref(), &nonce), (Some("hit"), held), "{}", task.name),
                None => tally.made_afterwards += 1,
            }
        }
        let names: Vec<_> = self.tasks.iter().map(|task| task.name.as_str()).collect();
        for (name, (verdict, execution, outputs)) in names.iter().zip(status(&self.user("judge", self.n), &names)) {
            assert_eq!(verdict, "SUCCEEDED", "{name}");
            records.insert((*name).to_owned(), (execution, outputs));
        }
    }
}

#[test]
fn kill_9_at_any_moment_loses_nothing_and_fakes_nothing() {
    rounds(Cluster::one(0));
}

#[test]
fn postgres_kill_9_at_any_moment_loses_nothing_and_fakes_nothing() {
    rounds(Cluster::two_on_postgres(0));
}
