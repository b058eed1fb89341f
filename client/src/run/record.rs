//! After the command: what came of it, told to the daemon.

use std::sync::Arc;
use std::time::{Duration, Instant};

use provender_core::execution::{Exit, Outcome, State, Usage};
use provender_core::tree::Node;

use super::{Attempt, Ended, Event, RunError, blocking, inputs, logs};
use crate::error::ClientError;
use crate::files::{self, Aside, CaptureError, Captured};
use crate::process::{self, Finished};

/// How long a daemon that has just gone is waited for, so that its restart does not lose a run.
const PATIENCE: Duration = Duration::from_secs(5);

impl Attempt<'_> {
    /// Records a command that has ended, whatever it came to.
    pub(super) async fn record(
        self,
        inputs: inputs::Looked,
        aside: Aside,
        finished: Finished,
    ) -> Result<Ended, RunError> {
        let exit = exit(&finished);
        if let Some(why) = self.lease.lost() {
            return Err(RunError::Superseded(why));
        }
        let (reason, captured) = self.judge(&inputs, &finished, exit).await;
        let ended = self.tell(finished, exit, reason, captured).await;
        match &ended {
            // What the command made stands; it is as good as the command says.
            Ok(Ended::Ran(_)) | Err(_) if exit == Exit::Code(0) => aside.discard(),
            _ => aside.put_back(),
        }
        match ended {
            Err(RunError::Client(ClientError::Fenced(why))) => Err(RunError::Superseded(why)),
            Err(error) => Ok(Ended::Unrecorded { exit, error }),
            ended => ended,
        }
    }

    /// Why it is no success, if that can be told here; else what it made.
    async fn judge(
        &self,
        inputs: &inputs::Looked,
        finished: &Finished,
        exit: Exit,
    ) -> (Option<String>, Result<Option<Captured>, CaptureError>) {
        let failed = |reason: String| (Some(reason), Ok(None));
        if let Some(signal) = finished.interrupted {
            return failed(format!("interrupted by signal {signal}; the command {exit}"));
        }
        if exit != Exit::Code(0) {
            return failed(format!("the command {exit}"));
        }
        if !finished.left_behind.is_empty() {
            return failed(format!("processes that it left behind could not be killed: {:?}", finished.left_behind));
        }
        let looked = inputs.look_again(self.task, &self.cache).await;
        if let Err(changed) = looked {
            return failed(changed);
        }
        let (cwd, outputs, cache) = (self.task.cwd.clone(), self.task.outputs.clone(), self.cache.clone());
        match blocking(move || files::capture_set(&cwd, &outputs, &cache)).await {
            Ok(Ok(captured)) => (None, Ok(Some(captured))),
            Ok(Err(CaptureError::Missing { paths })) => {
                let paths: Vec<_> = paths.iter().map(|path| format!("{:?}", path.to_string())).collect();
                failed(format!("the declared output {} is not there", paths.join(", ")))
            }
            Ok(Err(error)) => (Some(format!("an output cannot be stored: {error}")), Err(error)),
            Err(error) => failed(error.to_string()),
        }
    }

    /// Stores what there is to store, then commits or fails.
    async fn tell(
        &self,
        finished: Finished,
        exit: Exit,
        reason: Option<String>,
        captured: Result<Option<Captured>, CaptureError>,
    ) -> Result<Ended, RunError> {
        let mut outcome = Outcome {
            exit: Some(exit),
            usage: Usage {
                wall_ms: millis(finished.wall),
                user_ms: millis(finished.user),
                system_ms: millis(finished.system),
                peak_rss: finished.peak_rss,
            },
            ..Outcome::default()
        };
        let (stdout, stderr) = (Arc::new(finished.stdout), Arc::new(finished.stderr));
        outcome.stdout = Some(passing(async || logs::store(self.client, &stdout).await).await?);
        outcome.stderr = Some(passing(async || logs::store(self.client, &stderr).await).await?);
        if let (None, Ok(Some(captured))) = (&reason, captured) {
            let stored = |bytes| (self.events)(Event::Stored(bytes));
            passing(async || Ok(self.client.upload_captured(&captured, &stored).await?)).await?;
            if let Node::Directory { digest } = captured.root {
                outcome.outputs = Some(digest);
            }
        }
        let execution = match reason {
            Some(reason) => passing(async || Ok(self.client.fail(self.id, &reason, &outcome).await?)).await?,
            None => passing(async || Ok(self.client.commit(self.id, &outcome).await?)).await?.0,
        };
        let execution = Box::new(execution);
        Ok(match execution.state {
            State::Succeeded => Ended::Ran(execution),
            _ => Ended::Failed { execution, exit },
        })
    }
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

fn exit(finished: &Finished) -> Exit {
    match finished.exit {
        process::Exit::Code(code) => Exit::Code(code),
        process::Exit::Signal(signal) => Exit::Signal(signal),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
