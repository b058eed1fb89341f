//! After the command: what came of it, told to the daemon.

use std::sync::Arc;
use std::time::{Duration, Instant};

use provender_core::execution::{Exit, Outcome, State, Usage};
use provender_core::tree::Node;

use super::attempt::{Attempt, Work};
use super::wait::unless_interrupted;
use super::{Ended, Event, RunError, logs, metrics};
use crate::error::ClientError;
use crate::files::Captured;
use crate::process::Finished;

/// How long a daemon that has just gone is waited for, so that its restart does not lose a run.
const PATIENCE: Duration = Duration::from_secs(5);

impl Attempt<'_> {
    /// Records a command that has ended, whatever it came to.
    pub(super) async fn record(mut self, work: impl Work, finished: Finished) -> Result<Ended, RunError> {
        let (exit, control) = (finished.exit, self.site.control);
        if let Some(why) = self.lease.lost().filter(|_| finished.killed) {
            work.settle(false).await;
            return Err(RunError::Superseded(why));
        }
        // Those that the command had as well have done their part.
        let seen = finished.interrupted.map_or(0, |_| control.signals());
        let mut outcome = outcome(&finished);
        match self.metrics.take().map(metrics::Place::take) {
            Some(Ok(metrics)) => outcome.metrics = metrics,
            Some(Err(why)) => (self.site.events)(Event::NoMetrics(&why)),
            None => {}
        }
        let stored = self.store(&work, finished, &mut outcome);
        let ended = match unless_interrupted(control, seen, stored).await {
            Ok(reason) => {
                let ended = unless_interrupted(control, seen, self.end(reason, &outcome)).await;
                // If the daemon has said no, it still waits for an end; else it may have recorded this one.
                if let Err(RunError::Client(ClientError::Missing(why) | ClientError::Refused(why))) = &ended {
                    let outcome = Outcome { outputs: None, ..outcome.clone() };
                    self.give_up(&format!("the command {exit}, but that was not recorded: {why}"), &outcome).await;
                }
                if let Err(error @ RunError::Interrupted { .. }) = &ended {
                    self.give_up(&format!("the command {exit}, then provender was {error}"), &outcome).await;
                }
                ended
            }
            Err(error) => {
                let outcome = Outcome { outputs: None, ..outcome };
                self.give_up(&format!("the command {exit}, but what it made was not stored: {error}"), &outcome).await;
                Err(error)
            }
        };
        let stands = match &ended {
            Err(RunError::Interrupted { .. }) => false,
            // What the command made stands; it is as good as the command says.
            Ok(Ended::Ran(_)) | Err(_) => exit == Exit::Code(0),
            _ => false,
        };
        work.settle(stands).await;
        match ended {
            Err(error @ RunError::Interrupted { .. }) => Err(error),
            Err(RunError::Client(ClientError::Fenced(why))) => {
                Ok(Ended::Unrecorded { exit, error: RunError::Late(why) })
            }
            Err(error) => Ok(Ended::Unrecorded { exit, error }),
            ended => ended,
        }
    }

    /// Stores all there is to store; why it is no success, if that can be told here.
    async fn store(
        &self,
        work: &impl Work,
        finished: Finished,
        outcome: &mut Outcome,
    ) -> Result<Option<String>, RunError> {
        let client = self.site.client;
        let (mut reason, captured) = judge(work, &finished).await;
        let (stdout, stderr) = (Arc::new(finished.stdout), Arc::new(finished.stderr));
        outcome.stdout = Some(passing(async || logs::store(client, &stdout).await).await?);
        outcome.stderr = Some(passing(async || logs::store(client, &stderr).await).await?);
        if let Some(captured) = captured {
            let stored = |bytes| (self.site.events)(Event::Stored(bytes));
            let uploaded = passing(async || Ok(client.upload_captured(&captured, &stored).await?)).await;
            match (uploaded, captured.root) {
                (Ok(_), Node::Directory { digest }) => outcome.outputs = Some(digest),
                (Ok(_), _) => {}
                // That is the command's doing, or its friends'.
                (Err(RunError::Client(error @ (ClientError::Changed { .. } | ClientError::Read { .. }))), _) => {
                    reason = Some(format!("an output cannot be stored: {error}"));
                }
                (Err(error), _) => return Err(error),
            }
        }
        Ok(reason)
    }

    /// Ends the execution.
    async fn end(&self, reason: Option<String>, outcome: &Outcome) -> Result<Ended, RunError> {
        let execution = match reason {
            Some(reason) => passing(async || Ok(self.site.client.fail(self.id, &reason, outcome).await?)).await?,
            None => passing(async || Ok(self.site.client.commit(self.id, outcome).await?)).await?.0,
        };
        let execution = Box::new(execution);
        Ok(match execution.state {
            State::Succeeded => Ended::Ran(execution),
            _ => Ended::Failed { execution, exit: outcome.exit.unwrap_or(Exit::Code(0)) },
        })
    }
}

/// Why it is no success, if that can be told here; else what it made.
async fn judge(work: &impl Work, finished: &Finished) -> (Option<String>, Option<Captured>) {
    let (exit, failed) = (finished.exit, |reason: String| (Some(reason), None));
    if let Some(signal) = finished.interrupted {
        return failed(format!("interrupted by signal {signal}; the command {exit}"));
    }
    if exit != Exit::Code(0) {
        return failed(format!("the command {exit}"));
    }
    if !finished.left_behind.is_empty() {
        return failed(format!("processes that it left behind could not be killed: {:?}", finished.left_behind));
    }
    if let Err(changed) = work.look_again().await {
        return failed(changed);
    }
    match work.capture().await {
        Ok(captured) => (None, Some(captured)),
        Err(reason) => failed(reason),
    }
}

/// What can be told of a command before anything of it is stored.
fn outcome(finished: &Finished) -> Outcome {
    let usage = Usage {
        wall_ms: millis(finished.wall),
        user_ms: millis(finished.user),
        system_ms: millis(finished.system),
        peak_rss: finished.peak_rss,
    };
    Outcome { exit: Some(finished.exit), usage, ..Outcome::default() }
}

/// Asks again for a while, as long as the daemon may be back soon.
async fn passing<T>(ask: impl AsyncFn() -> Result<T, RunError>) -> Result<T, RunError> {
    let began = Instant::now();
    loop {
        match ask().await {
            Err(RunError::Client(error)) if error.is_passing() && began.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            answer => return answer,
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
