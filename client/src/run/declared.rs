//! What `provender run` attempts: a command in the user's own folder, with declared inputs and outputs.

use std::sync::Arc;

use super::attempt::{Site, Work};
use super::wait::claim;
use super::{RunError, Task, blocking, inputs};
use crate::files::{self, Aside, CaptureError, Captured, Claimed, HELD_VARIABLE, HashCache, move_aside};
use crate::process::Command;

/// A task with its inputs looked at; while the command runs, its outputs are claimed and what stood there is aside.
pub(super) struct Declared<'a> {
    task: &'a Task,
    cache: Arc<HashCache>,
    inputs: inputs::Looked,
    // Put back before the claim ends.
    aside: Option<Aside>,
    claimed: Option<Claimed>,
}

impl<'a> Declared<'a> {
    pub(super) fn new(task: &'a Task, cache: Arc<HashCache>, inputs: inputs::Looked) -> Declared<'a> {
        Declared { task, cache, inputs, aside: None, claimed: None }
    }
}

impl Work for Declared<'_> {
    async fn prepare(&mut self, site: Site<'_>) -> Result<Command, RunError> {
        self.inputs.check_out(site.client, site.control).await?;
        self.claimed = claim(self.task, site.control, site.events).await?;
        let mut command = Command::new(self.task.argv.clone(), self.task.cwd.clone());
        command.env = self.inputs.env();
        command.env.extend(self.claimed.as_ref().map(|held| (HELD_VARIABLE.into(), Some(held.variable().into()))));
        command.quiet = self.task.quiet;
        let (cwd, outputs) = (self.task.cwd.clone(), self.task.outputs.clone());
        self.aside = Some(blocking(move || move_aside(&cwd, &outputs)).await??);
        Ok(command)
    }

    async fn look_again(&self) -> Result<(), String> {
        self.inputs.look_again(self.task, &self.cache).await
    }

    async fn capture(&self) -> Result<Captured, String> {
        let (cwd, outputs, cache) = (self.task.cwd.clone(), self.task.outputs.clone(), self.cache.clone());
        match blocking(move || files::capture_set(&cwd, &outputs, &cache)).await {
            Ok(Ok(captured)) => Ok(captured),
            Ok(Err(CaptureError::Missing { paths })) => {
                let paths: Vec<_> = paths.iter().map(|path| format!("{:?}", path.to_string())).collect();
                Err(format!("the declared output {} is not there", paths.join(", ")))
            }
            Ok(Err(error)) => Err(format!("an output cannot be stored: {error}")),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn settle(mut self, stands: bool) {
        match self.aside.take() {
            Some(aside) if stands => aside.discard(),
            Some(aside) => aside.put_back(),
            None => {}
        }
    }
}
