//! What is told of a run: while it goes on, of each task's end, and in sum.

use std::sync::Arc;

use provender_core::explain::Explanation;
use provender_core::{Execution, ExecutionId};

use super::file::Task;
use crate::error::ClientError;
use crate::run;

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its command ran, and its success is recorded.
    Ran,
    /// It had succeeded before, or another run made it meanwhile.
    Hit,
    /// It ran, here or elsewhere, and is no success; or provender could not run or record it.
    Failed,
    /// It was not run, since a dependency failed or all was stopped.
    Skipped,
}

impl Ended {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Ended::Ran => "ran",
            Ended::Hit => "hit",
            Ended::Failed => "failed",
            Ended::Skipped => "skipped",
        }
    }
}

/// The end of one task.
#[derive(Debug, Clone)]
pub struct Done {
    /// How.
    pub ended: Ended,
    /// The execution, where there was one.
    pub execution: Option<ExecutionId>,
    /// The same as it is recorded, where it is.
    pub record: Option<Box<Execution>>,
    /// Why it neither ran nor was a hit.
    pub reason: Option<String>,
}

impl Done {
    /// Whether its outputs are in the store.
    pub fn is_success(&self) -> bool {
        matches!(self.ended, Ended::Ran | Ended::Hit)
    }

    pub(super) fn of(ended: Ended, record: Box<Execution>) -> Done {
        let reason = record.reason.clone().filter(|_| ended == Ended::Failed);
        Done { ended, execution: Some(record.id), record: Some(record), reason }
    }

    pub(super) fn without(ended: Ended, reason: impl Into<String>) -> Done {
        Done { ended, execution: None, record: None, reason: Some(reason.into()) }
    }
}

/// What is told while it goes on.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The store was asked: so many tasks, and so many of them have succeeded.
    Found {
        /// Tasks of the file.
        tasks: usize,
        /// Those that are done.
        hits: usize,
    },
    /// Why a task has to run.
    Why(&'a Task, &'a Explanation),
    /// Why the others have to run cannot be told.
    NoWhy(&'a ClientError),
    /// A task's command is about to run.
    Started(&'a Task),
    /// A task has ended.
    Ended(&'a Task, &'a Done),
    /// What a run tells of one task.
    Run(&'a Task, run::Event<'a>),
}

/// Who hears of events, from any thread.
pub type Events = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// How a run of a file ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Summary {
    /// The end of each task, in the order of [`super::File::tasks`].
    pub done: Vec<Done>,
    /// The signal that stopped it.
    pub interrupted: Option<i32>,
    /// What provender failed at, if that stopped it.
    pub fault: Option<String>,
}

impl Summary {
    /// How many tasks ended so.
    pub fn count(&self, ended: Ended) -> usize {
        self.done.iter().filter(|done| done.ended == ended).count()
    }
}
