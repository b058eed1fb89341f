//! `provender dag run` and `provender dag import`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use indicatif::ProgressBar;
use provender_client::Client;
use provender_client::dag::{self, DagError, Done, Ended, Event, Events, File, FileError, Options};
use provender_client::run::{self, RunError};
use provender_core::execution::Log;
use provender_core::explain::{self, Explanation};
use provender_core::json::V;
use provender_core::key::TaskKey;
use provender_core::{Execution, json};
use serde_json::json;
use tokio::sync::mpsc;

use super::{Session, executor, hash_cache};
use crate::args::{Dag, DagImport, DagRun};
use crate::fault::{Fault, NO};
use crate::print;

/// How much of a failed command's output is shown, and at most how many bytes of it are looked at.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: u64 = 16 << 10;

pub(crate) async fn dag(session: &Session, args: Dag) -> Result<ExitCode, Fault> {
    match args {
        Dag::Run(args) => run(session, args).await,
        Dag::Import(args) => import(session, args).await,
    }
}

async fn run(session: &Session, args: DagRun) -> Result<ExitCode, Fault> {
    let file = Arc::new(read(&args.file, &args.prefix).await?);
    let jobs = args.jobs.map(usize::from).or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    let options = Options {
        source: args.source.unwrap_or_else(|| folder_of(&args.file)),
        jobs: jobs.unwrap_or(1),
        ttl: args.ttl,
        why: args.why,
        executor: executor("provender dag run"),
        remarks: super::annotate::first(args.remarks)?,
    };
    let client = session.client().await?;
    let (tell, told) = mpsc::unbounded_channel();
    // What is said of one task stands on lines of its own, so it is said by one.
    let events: Events = Arc::new(move |event| _ = note(event).map(|note| tell.send(note)));
    let mut teller =
        Teller { session, client: &client, bar: print::tasks_bar(session.quiet), running: BTreeSet::new() };
    let (ended, said) = tokio::join!(dag::run(&client, file, options, hash_cache(), events), teller.tell(told));
    teller.bar.finish_and_clear();
    let summary = ended.map_err(|error| fault(&args.file, error))?;
    said?;
    let count = |ended| summary.count(ended);
    let [ran, hits, failed, skipped] = [Ended::Ran, Ended::Hit, Ended::Failed, Ended::Skipped].map(count);
    if session.json {
        let tasks = summary.done.len();
        print::item(
            &json!({ "v": V, "tasks": tasks, "ran": ran, "hits": hits, "failed": failed, "skipped": skipped }),
        )?;
    } else {
        print::line(format!("{ran} ran, {hits} hits, {failed} failed, {skipped} skipped"))?;
    }
    match (summary.interrupted, summary.fault) {
        (Some(signal), _) => Err(Fault::interrupted(signal)),
        (None, Some(fault)) => Err(Fault::ours(fault)),
        (None, None) if failed + skipped > 0 => Ok(NO.into()),
        (None, None) => Ok(ExitCode::SUCCESS),
    }
}

async fn import(session: &Session, args: DagImport) -> Result<ExitCode, Fault> {
    let file = read(&args.file, &args.prefix).await?;
    let client = session.client().await?;
    let fresh = dag::import(&client, &file).await?;
    let new = fresh.iter().filter(|fresh| **fresh).count();
    if session.json {
        print::document(&json!({ "v": V, "tasks": fresh.len(), "new": new }))?;
    } else {
        print::line(format!("{} registered, {new} of them new", print::count(fresh.len() as u64, "task")))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn read(path: &Path, prefix: &str) -> Result<File, Fault> {
    let (whole, prefix) = (path.to_owned(), prefix.to_owned());
    let read = tokio::task::spawn_blocking(move || File::read(&whole, &prefix)).await.map_err(Fault::ours)?;
    read.map_err(|error| bad_file(path, error))
}

fn bad_file(path: &Path, error: FileError) -> Fault {
    match error {
        FileError::Read { .. } => Fault::no(error),
        error => Fault::no(format!("{}: {error}", path.display())),
    }
}

fn fault(path: &Path, error: DagError) -> Fault {
    match error {
        DagError::File(error) => bad_file(path, error),
        DagError::Run(RunError::Interrupted { signal }) => Fault::interrupted(signal),
        DagError::Run(RunError::Client(error)) => Fault::from(error).of_run(),
        DagError::Run(error) => Fault::ours(error),
        error => Fault::no(format!("{}: {error}", path.display())),
    }
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => ".".into(),
    }
}

/// What is to be said of an event.
enum Note {
    Found { tasks: usize, hits: usize },
    Why(String, Box<Explanation>),
    Started(String),
    Ended { title: String, name: String, key: TaskKey, done: Done },
    Passing(String),
}

fn note(event: Event<'_>) -> Option<Note> {
    Some(match event {
        Event::Found { tasks, hits } => Note::Found { tasks, hits },
        Event::Why(task, of) => Note::Why(task.title.clone(), Box::new(of.clone())),
        Event::NoWhy(error) => Note::Passing(format!("why tasks have to run cannot be told: {error}")),
        Event::Started(task) => Note::Started(task.title.clone()),
        Event::Ended(task, done) => {
            let (title, name, key) = (task.title.clone(), task.name.to_string(), task.key.clone());
            Note::Ended { title, name, key, done: done.clone() }
        }
        Event::Run(task, run::Event::Waiting(Execution { id, executor, .. })) => Note::Passing(format!(
            "{}: waiting for exec:{id} of {} on {}, who runs this now",
            task.title, executor.user, executor.host
        )),
        Event::Run(task, run::Event::NoDaemon(error)) => {
            Note::Passing(format!("{}: {error}; it is asked again for a while", task.title))
        }
        Event::Run(task, run::Event::NoHeartbeat(error)) => {
            Note::Passing(format!("{}: {error}; the command goes on", task.title))
        }
        Event::Run(task, run::Event::NoMetrics(why)) => {
            Note::Passing(format!("{}: $PROVENDER_METRICS is not kept: {why}", task.title))
        }
        _ => return None,
    })
}

/// Says what goes on: results on standard output, the rest on standard error, around a bar if there is one.
struct Teller<'a> {
    session: &'a Session,
    client: &'a Client,
    bar: ProgressBar,
    running: BTreeSet<String>,
}

impl Teller<'_> {
    async fn tell(&mut self, mut told: mpsc::UnboundedReceiver<Note>) -> Result<(), Fault> {
        // Whatever cannot be printed, the tasks go on.
        let mut said = Ok(());
        while let Some(note) = told.recv().await {
            said = said.and(self.say(note).await);
        }
        said
    }

    async fn say(&mut self, note: Note) -> Result<(), Fault> {
        match note {
            Note::Found { tasks, hits } => {
                self.bar.set_length(tasks as u64);
                self.passing(format!("{} in the file, {hits} done before", print::count(tasks as u64, "task")));
            }
            Note::Why(title, of) => {
                let line = match self.session.json {
                    true => json!({ "v": V, "task": title, "why": explain::document::explanation(&of) }).to_string(),
                    false => format!("why {title}: {}", explain::brief(&of, print::size)),
                };
                self.bar.suspend(|| print::line(line))?;
            }
            Note::Passing(text) => self.passing(text),
            Note::Started(title) => {
                if self.bar.is_hidden() {
                    self.passing(format!("running {title}"));
                }
                self.running.insert(title);
                self.show_running();
            }
            Note::Ended { title, name, key, done } => {
                self.running.remove(&title);
                self.bar.inc(1);
                self.show_running();
                let line = match self.session.json {
                    true => Some(document(&title, &name, &key, &done)),
                    false => line(&title, &done),
                };
                if let Some(line) = line {
                    self.bar.suspend(|| print::line(line))?;
                }
                if let (Ended::Failed, Some(record)) = (done.ended, &done.record) {
                    self.show_end(&title, record).await;
                }
            }
        }
        Ok(())
    }

    fn passing(&self, text: String) {
        self.bar.suspend(|| self.session.say(text));
    }

    fn show_running(&self) {
        self.bar.set_message(self.running.iter().map(String::as_str).collect::<Vec<_>>().join(", "));
    }

    /// The last of what a failed command printed.
    async fn show_end(&self, title: &str, record: &Execution) {
        if self.session.quiet {
            return;
        }
        let streams = [(record.outcome.stderr, "standard error"), (record.outcome.stdout, "standard output")];
        let printed = |(log, stream): &(Option<Log>, &'static str)| {
            log.filter(|log| log.digest.size > 0).map(|log| (log, *stream))
        };
        let Some((log, stream)) = streams.iter().find_map(printed) else { return };
        // Without it the failure is told all the same.
        let Ok(tail) = tail(self.client, &log).await else { return };
        let tail: String = tail.iter().map(|line| format!("    {line}\n")).collect();
        let id = record.id;
        self.bar.suspend(|| {
            print::note(format_args!(
                "provender: the last of {title}'s {stream} (all: provender logs exec:{id}):\n{}",
                tail.trim_end_matches('\n')
            ));
        });
    }
}

/// The last lines of a stored log.
async fn tail(client: &Client, log: &Log) -> Result<Vec<String>, Fault> {
    let from = log.digest.size.saturating_sub(TAIL_BYTES);
    let mut pieces = client.download(&log.digest, from, 0).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await? {
        bytes.extend_from_slice(&piece);
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| (*line).to_owned()).collect())
}

/// What people read of a task that was no hit.
fn line(title: &str, done: &Done) -> Option<String> {
    let took = done.record.as_ref().map(|record| print::time(record.outcome.usage.wall_ms)).unwrap_or_default();
    let execution = done.execution.map(|id| format!(" exec:{id}")).unwrap_or_default();
    let reason = done.reason.as_deref().unwrap_or_default();
    match done.ended {
        Ended::Ran => Some(format!("ran {title}{execution} ({took})")),
        Ended::Failed => Some(format!("failed {title}{execution} ({reason})")),
        Ended::Skipped => Some(format!("skipped {title} ({reason})")),
        Ended::Hit => None,
    }
}

fn document(title: &str, name: &str, key: &TaskKey, done: &Done) -> String {
    json!({
        "v": json::V,
        "task": title,
        "name": name,
        "key": key.as_str(),
        "execution": done.execution.map(|id| id.to_string()),
        "ended": done.ended.as_str(),
        "reason": done.reason,
    })
    .to_string()
}
