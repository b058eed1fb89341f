//! One task of a file: asked for, waited for, or run.
//!
//! Invariant: whoever waits for another's run holds no slot, so that two runs of one file share its work.

use std::sync::Arc;

use provender_core::execution::Outcome;
use provender_core::{ExecutionId, Spec};
use tokio::sync::OwnedSemaphorePermit;

use super::engine::Engine;
use super::report::{Done, Ended, Event};
use super::scratch::{Scratch, Taken};
use crate::client::{Begin, Begun};
use crate::run::{self, Attempt, RunError, Site, enter, give_up, random};

/// The end of a task, and what provender failed at, if it did.
pub(super) type End = (Done, Option<String>);

impl Engine<'_> {
    /// Brings all tasks of one hash to an end: the first, then the others by what it came to.
    pub(super) async fn node(&self, tasks: &[usize], mut spec: Spec, slot: OwnedSemaphorePermit) -> Vec<End> {
        let first = tasks[0];
        let mut ends = vec![match self.perform(first, &spec, slot).await {
            Ok(end) => end,
            Err(RunError::Interrupted { signal }) => {
                self.end(first, Done::without(Ended::Skipped, format!("interrupted by signal {signal}")))
            }
            Err(error) => self.failed(first, error),
        }];
        for &task in &tasks[1..] {
            spec.name = self.file.tasks[task].name.clone();
            let done = ends[0].0.clone();
            let end = match done.is_success() {
                false => self.end(task, done),
                true => match self.told(task, &spec).await {
                    Ok(Some(done)) => (done, None),
                    Ok(None) => self.end(task, Done::without(Ended::Failed, "its success was taken away at once")),
                    Err(error) => self.failed(task, error),
                },
            };
            ends.push(end);
        }
        ends
    }

    /// Runs a task, unless it is done or somebody else is at it.
    async fn perform(&self, task: usize, spec: &Spec, slot: OwnedSemaphorePermit) -> Result<End, RunError> {
        let (joined, events, mut slot) = (self.stop.join(), self.run_events(task), Some(slot));
        let site = Site { client: self.client, control: &joined, events: &events };
        let id = ExecutionId(random());
        let first = but_waiting(&events);
        let mut begun = enter(Site { events: &first, ..site }, self.begin(task, spec, id, false)).await?.0;
        if let Begun::Busy(_) = begun {
            slot = None;
            begun = enter(site, self.begin(task, spec, id, true)).await?.0;
        }
        let ttl = match begun {
            Begun::Hit(execution) => return Ok(self.end(task, Done::of(Ended::Hit, execution))),
            Begun::Failed(execution) | Begun::Busy(execution) => {
                let mut done = Done::of(Ended::Failed, execution);
                done.reason = Some(format!("run by another: {}", done.reason.unwrap_or_default()));
                return Ok(self.end(task, done));
            }
            Begun::Lease(ttl) | Begun::Check(ttl, _) => ttl,
        };
        let this = &self.file.tasks[task];
        let content = |label| spec.inputs.get(label).and_then(|input| input.content.clone());
        let taken = this.dependencies.iter().map(|dependency| Taken {
            label: dependency.label.clone(),
            key: dependency.key.clone(),
            content: content(&dependency.label),
        });
        let work = Scratch {
            command: this.command.clone(),
            inputs: taken.collect(),
            source: self.source.clone(),
            cache: self.cache.clone(),
            slots: self.slots.clone(),
            slot,
            folder: None,
        };
        (self.events)(Event::Started(this));
        let unrecorded = |reason: String| Done { execution: Some(id), ..Done::without(Ended::Failed, reason) };
        let (done, error) = match Attempt::new(site, id, ttl).carry_out(work).await {
            Ok(run::Ended::Ran(execution)) => (Done::of(Ended::Ran, execution), None),
            Ok(run::Ended::Hit(execution)) => (Done::of(Ended::Hit, execution), None),
            Ok(run::Ended::Checked(checked)) => (Done::of(Ended::Ran, checked.execution), None),
            Ok(run::Ended::Failed { execution, .. } | run::Ended::OtherFailed(execution)) => {
                (Done::of(Ended::Failed, execution), None)
            }
            Ok(run::Ended::Unrecorded { exit, error }) => {
                (unrecorded(format!("the command {exit}, but that could not be recorded: {error}")), Some(error))
            }
            // With a lease it has begun, so this is its end, and recorded as far as the store can be reached.
            Err(error) => (unrecorded(error.to_string()), Some(error)),
        };
        Ok((self.end(task, done).0, error.and_then(|error| fault(&error))))
    }

    /// Tells the store that a name's task is done, if it still says so.
    pub(super) async fn told(&self, task: usize, spec: &Spec) -> Result<Option<Done>, RunError> {
        let (joined, events, id) = (self.stop.join(), but_waiting(&self.run_events(task)), ExecutionId(random()));
        let site = Site { client: self.client, control: &joined, events: &events };
        match enter(site, self.begin(task, spec, id, false)).await?.0 {
            Begun::Hit(execution) => Ok(Some(self.end(task, Done::of(Ended::Hit, execution)).0)),
            Begun::Lease(_) | Begun::Check(..) => {
                give_up(site, id, "nothing was run yet: what it depends on comes first", &Outcome::default()).await;
                Ok(None)
            }
            Begun::Busy(_) | Begun::Failed(_) => Ok(None),
        }
    }

    /// The end of a task at which provender failed.
    pub(super) fn failed(&self, task: usize, error: RunError) -> End {
        let fault = fault(&error);
        (self.end(task, Done::without(Ended::Failed, error.to_string())).0, fault)
    }

    fn end(&self, task: usize, done: Done) -> End {
        (self.events)(Event::Ended(&self.file.tasks[task], &done));
        (done, None)
    }

    fn begin<'b>(&'b self, task: usize, spec: &'b Spec, execution: ExecutionId, wait: bool) -> Begin<'b> {
        let (key, executor) = (&self.file.tasks[task].key, &self.options.executor);
        Begin {
            key,
            spec,
            execution,
            executor,
            ttl: self.options.ttl,
            wait,
            check: false,
            remarks: self.options.remarks.clone(),
        }
    }

    /// Passes on what is told of one task.
    fn run_events(&self, task: usize) -> run::Events {
        let (file, events) = (self.file.clone(), self.events.clone());
        Arc::new(move |event| events(Event::Run(&file.tasks[task], event)))
    }
}

/// All but that somebody is waited for: who only asks does not wait.
fn but_waiting(events: &run::Events) -> run::Events {
    let events = events.clone();
    Arc::new(move |event| match event {
        run::Event::Waiting(_) => {}
        event => events(event),
    })
}

/// Whether the store is to blame, so that nothing else could run either.
fn fault(error: &RunError) -> Option<String> {
    let is_fault = matches!(error, RunError::Client(_)) && error.is_ours() || matches!(error, RunError::Internal(_));
    is_fault.then(|| error.to_string())
}
