//! The engine of `provender dag run`: what runs when.
//!
//! Owns the order of things for a whole file: ask the store about all tasks at once, tell it again of those that are done (which
//! moves their names' `latest`), run the others as soon as what they need is there, so many at once. Invariants: nothing runs
//! before all that can be checked is; a failure stops what depends on it and nothing else; tasks of one hash run once. One
//! task's attempt is `run`'s; what has succeeded is the store's to say.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, FuturesUnordered, StreamExt};
use provender_core::execution::Executor;
use provender_core::key::TaskKey;
use provender_core::remarks::Remarks;
use provender_core::{Answer, Spec, Verdict};
use provender_proto::MAX_KEYS;
use tokio::sync::Semaphore;

use super::file::{File, FileError, Task};
use super::import::import;
use super::plan::Node;
use super::report::{Done, Ended, Event, Events, Summary};
use super::scratch::{Source, SourceError};
use super::spec::{Made, spec};
use super::stop::Stop;
use super::task::End;
use crate::client::Client;
use crate::files::HashCache;
use crate::process::Signals;
use crate::run::{RunError, blocking, start, unless_interrupted};

/// How many names of what has succeeded are told of at once.
const HITS_AT_ONCE: usize = 32;

/// How many tasks are explained at once, and held as specs.
const EXPLAINED: usize = 1_000;

/// The longest command, in bytes: Linux passes no longer argument on, its end included.
const MAX_COMMAND: usize = (128 << 10) - 1;

/// How a file is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder whose entries each command finds beside it.
    pub source: PathBuf,
    /// How many commands run at once, 1 to [`super::MAX_JOBS`].
    pub jobs: usize,
    /// How long each lease lasts from each beat; zero for the daemon's default.
    pub ttl: Duration,
    /// Who runs it.
    pub executor: Executor,
    /// Whether to say first why each task has to run. What the tasks are is registered then.
    pub why: bool,
    /// What is said of each execution from the first.
    pub remarks: Remarks,
}

/// Why nothing was run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DagError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The source folder.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A task that has not succeeded cannot be run.
    #[error("task {task:?}: `command` is missing, or no text, and the task has not succeeded: it is {verdict}")]
    NoCommand {
        /// Its name.
        task: String,
        /// What the store says of it.
        verdict: Verdict,
    },
    /// A task's command is none that a system takes.
    #[error("task {task:?}: `command` {why}")]
    Command {
        /// Its name.
        task: String,
        /// What is wrong.
        why: String,
    },
    /// A task needs what is not to be had.
    #[error(
        "task {task:?}: `inputs.{}` is {key}, which no task of the file has, and which has not succeeded: it is {verdict}",
        label.escape_debug()
    )]
    Dependency {
        /// Its name.
        task: String,
        /// What it calls the dependency.
        label: String,
        /// The dependency.
        key: TaskKey,
        /// What the store says of that.
        verdict: Verdict,
    },
    /// The daemon, or a signal.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Runs what of a file has not succeeded. Must be called on a multi-threaded runtime.
pub async fn run(
    client: &Client,
    file: Arc<File>,
    options: Options,
    cache: Arc<HashCache>,
    events: Events,
) -> Result<Summary, DagError> {
    file.tasks.iter().try_for_each(Task::check_labels)?;
    let folder = options.source.clone();
    let source = Arc::new(blocking(move || Source::list(&folder)).await??);
    // A signal must not kill us before leases are given back.
    let stop = Stop::default();
    let told = stop.clone();
    let caught = Signals::catch(move |received| told.signal(received));
    let _signals = caught.map_err(start("catch signals")).map_err(RunError::from)?;
    let found = unless_interrupted(stop.all(), 0, look_up(client, &file)).await?;
    check(&file, &found)?;
    let hits = file.tasks.iter().filter(|task| succeeded(&found, &task.key)).count();
    events(Event::Found { tasks: file.tasks.len(), hits });
    if options.why {
        match unless_interrupted(stop.all(), 0, explain(client, &file, &found, &events)).await {
            // Whatever cannot be told, the tasks run.
            Err(RunError::Client(error)) => events(Event::NoWhy(&error)),
            explained => explained?,
        }
    }
    let slots = Arc::new(Semaphore::new(options.jobs.clamp(1, super::MAX_JOBS)));
    let engine = Engine { client, file: &file, options, cache, events, source, stop, slots };
    Ok(engine.all(&found).await)
}

/// What the store says of all keys of a file, its dependencies beyond it included.
async fn look_up(client: &Client, file: &File) -> Result<HashMap<TaskKey, Answer>, RunError> {
    let dependencies = file.tasks.iter().flat_map(|task| &task.dependencies).map(|dependency| &dependency.key);
    let keys: BTreeSet<_> = file.tasks.iter().map(|task| &task.key).chain(dependencies).collect();
    let keys: Vec<_> = keys.into_iter().cloned().collect();
    let mut found = HashMap::with_capacity(keys.len());
    for keys in keys.chunks(MAX_KEYS) {
        let answers = client.lookup(keys).await?;
        found.extend(keys.iter().cloned().zip(answers));
    }
    Ok(found)
}

/// Says why each task that has not succeeded has to run.
async fn explain(
    client: &Client,
    file: &File,
    found: &HashMap<TaskKey, Answer>,
    events: &Events,
) -> Result<(), RunError> {
    // What the others are made from is found by their keys, however many there are.
    import(client, file).await?;
    let order = file.plan.order.iter().flat_map(|node| &file.plan.nodes[*node].tasks);
    let open: Vec<_> = order.map(|task| &file.tasks[*task]).filter(|task| !succeeded(found, &task.key)).collect();
    for tasks in open.chunks(EXPLAINED) {
        let asked: Vec<_> = tasks.iter().map(|task| (task.key.clone(), Some(spec(task, |_| None)))).collect();
        for (task, of) in tasks.iter().zip(client.explain(&asked).await?) {
            events(Event::Why(task, &of));
        }
    }
    Ok(())
}

fn succeeded(found: &HashMap<TaskKey, Answer>, key: &TaskKey) -> bool {
    verdict(found, key) == Verdict::Succeeded
}

fn verdict(found: &HashMap<TaskKey, Answer>, key: &TaskKey) -> Verdict {
    found.get(key).map_or(Verdict::Unknown, |answer| answer.verdict)
}

/// Whether all that has not succeeded could run.
fn check(file: &File, found: &HashMap<TaskKey, Answer>) -> Result<(), DagError> {
    let own: BTreeSet<_> = file.tasks.iter().map(|task| &task.key).collect();
    for task in file.tasks.iter().filter(|task| !succeeded(found, &task.key)) {
        let title = || task.title.clone();
        let wrong = match &task.command {
            None => return Err(DagError::NoCommand { task: title(), verdict: verdict(found, &task.key) }),
            Some(command) if command.contains('\0') => Some("has a zero byte, which no command can".to_owned()),
            Some(command) if command.len() > MAX_COMMAND => {
                Some(format!("has {} bytes, and a system takes at most {MAX_COMMAND}", command.len()))
            }
            Some(_) => None,
        };
        if let Some(why) = wrong {
            return Err(DagError::Command { task: title(), why });
        }
        for needed in &task.dependencies {
            if !own.contains(&needed.key) && !succeeded(found, &needed.key) {
                return Err(DagError::Dependency {
                    task: task.title.clone(),
                    label: needed.shown(),
                    key: needed.key.clone(),
                    verdict: verdict(found, &needed.key),
                });
            }
        }
    }
    Ok(())
}

/// What one run of a file has.
pub(super) struct Engine<'a> {
    pub(super) client: &'a Client,
    pub(super) file: &'a Arc<File>,
    pub(super) options: Options,
    pub(super) cache: Arc<HashCache>,
    pub(super) events: Events,
    pub(super) source: Arc<Source>,
    pub(super) stop: Stop,
    pub(super) slots: Arc<Semaphore>,
}

/// What is known of a file's tasks by now.
struct Known {
    made: HashMap<TaskKey, Made>,
    /// By task.
    done: Vec<Option<Done>>,
    /// By node: how many of its needs are not made yet.
    waits: Vec<usize>,
    ready: BTreeSet<usize>,
    /// What provender failed at: no more is started.
    fault: Option<String>,
}

impl Engine<'_> {
    /// Brings all tasks to an end.
    async fn all(&self, found: &HashMap<TaskKey, Answer>) -> Summary {
        let succeeded = found.iter().filter(|(_, answer)| answer.verdict == Verdict::Succeeded);
        let made = |answer: &Answer| Made { outputs: answer.outputs, execution: answer.execution };
        let mut known = Known {
            made: succeeded.map(|(key, answer)| (key.clone(), made(answer))).collect(),
            done: vec![None; self.file.tasks.len()],
            waits: Vec::new(),
            ready: BTreeSet::new(),
            fault: None,
        };
        self.hits(&mut known).await;
        self.others(&mut known).await;
        let interrupted = self.stop.interrupted();
        let why = match (&known.fault, interrupted) {
            (_, Some(signal)) => format!("interrupted by signal {signal}"),
            (Some(fault), None) => format!("provender stopped: {fault}"),
            (None, None) => "what it depends on has not succeeded".into(),
        };
        for task in 0..known.done.len() {
            self.skip(&mut known, task, &why);
        }
        Summary { done: known.done.into_iter().flatten().collect(), interrupted, fault: known.fault }
    }

    /// Tells the store of each name whose task has succeeded; what has not after all is left for later.
    async fn hits(&self, known: &mut Known) {
        let is_hit = |task: &usize| known.made.contains_key(&self.file.tasks[*task].key);
        let hits: Vec<_> = (0..self.file.tasks.len()).filter(is_hit).collect();
        let made = known.made.clone();
        let hits = stream::iter(hits).map(|task| {
            let spec = self.spec(task, &made);
            async move { (task, self.told(task, &spec).await) }
        });
        let mut hits = std::pin::pin!(hits.buffer_unordered(HITS_AT_ONCE));
        while let Some((task, told)) = hits.next().await {
            match told {
                Ok(Some(done)) => known.done[task] = Some(done),
                Ok(None) => _ = known.made.remove(&self.file.tasks[task].key),
                Err(RunError::Interrupted { .. }) => return,
                Err(error) => {
                    let (done, fault) = self.failed(task, error);
                    known.done[task] = Some(done);
                    known.fault = known.fault.take().or(fault);
                    if known.fault.is_some() {
                        return;
                    }
                }
            }
        }
    }

    /// Runs what is not done, each as soon as what it needs is.
    async fn others(&self, known: &mut Known) {
        let nodes = &self.file.plan.nodes;
        let is_done: Vec<_> = nodes.iter().map(|node| known.done[node.tasks[0]].is_some()).collect();
        let is_made: Vec<_> =
            nodes.iter().map(|node| known.made.contains_key(&self.file.tasks[node.tasks[0]].key)).collect();
        known.waits = nodes.iter().map(|node| node.needs.iter().filter(|needed| !is_made[**needed]).count()).collect();
        known.ready = (0..nodes.len()).filter(|node| known.waits[*node] == 0 && !is_done[*node]).collect();
        let mut running = FuturesUnordered::new();
        loop {
            let goes_on = known.fault.is_none() && self.stop.interrupted().is_none() && !known.ready.is_empty();
            tokio::select! {
                biased;
                Some((node, ends)) = running.next(), if !running.is_empty() => self.ended(known, node, ends),
                Ok(slot) = self.slots.clone().acquire_owned(), if goes_on => {
                    let Some(node) = known.ready.pop_first() else { continue };
                    let spec = self.spec(nodes[node].tasks[0], &known.made);
                    running.push(async move { (node, self.node(&nodes[node].tasks, spec, slot).await) });
                }
                else => return,
            }
        }
    }

    /// Takes note of what came of a node, and what can run now.
    fn ended(&self, known: &mut Known, node: usize, ends: Vec<End>) {
        let Node { tasks, needed_by, .. } = &self.file.plan.nodes[node];
        let key = &self.file.tasks[tasks[0]].key;
        if let Some(record) = ends[0].0.record.as_ref().filter(|_| ends[0].0.is_success()) {
            known.made.insert(key.clone(), Made { outputs: record.outcome.outputs, execution: Some(record.id) });
            for waiting in needed_by {
                known.waits[*waiting] -= 1;
                if known.waits[*waiting] == 0 && known.done[self.file.plan.nodes[*waiting].tasks[0]].is_none() {
                    known.ready.insert(*waiting);
                }
            }
        } else if ends[0].0.ended == Ended::Failed {
            self.skip_dependents(known, node);
        }
        for (task, (done, fault)) in tasks.iter().zip(ends) {
            known.done[*task] = Some(done);
            known.fault = known.fault.take().or(fault);
        }
    }

    /// After a failure: nothing that depends on it can run.
    fn skip_dependents(&self, known: &mut Known, failed: usize) {
        let nodes = &self.file.plan.nodes;
        let why = format!("its dependency {} failed", self.file.tasks[nodes[failed].tasks[0]].title);
        let mut next = nodes[failed].needed_by.clone();
        while let Some(node) = next.pop() {
            if known.done[nodes[node].tasks[0]].is_none() {
                nodes[node].tasks.iter().for_each(|task| self.skip(known, *task, &why));
                next.extend(&nodes[node].needed_by);
            }
        }
    }

    /// A task that has not ended yet is not run.
    fn skip(&self, known: &mut Known, task: usize, why: &str) {
        if known.done[task].is_none() {
            let done = Done::without(Ended::Skipped, why);
            (self.events)(Event::Ended(&self.file.tasks[task], &done));
            known.done[task] = Some(done);
        }
    }

    fn spec(&self, task: usize, made: &HashMap<TaskKey, Made>) -> Spec {
        spec(&self.file.tasks[task], |key| made.get(key).copied())
    }
}
