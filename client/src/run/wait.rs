//! Waiting: for the daemon's word, for other runs that make the same paths, and never against a signal.

use std::time::{Duration, Instant};

use provender_core::execution::Outcome;

use super::attempt::{Site, give_up};
use super::{Event, Events, RunError, Task, blocking};
use crate::client::{Begin, Begun, Client};
use crate::files::{Claimed, Claims, HELD_VARIABLE};
use crate::process::Control;

/// How long a daemon that has gone is waited for, from when it was last heard of.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it, or another's claim, is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// Does `work` unless a signal comes beyond the first `seen` ones.
pub(crate) async fn unless_interrupted<T>(
    control: &Control,
    seen: usize,
    work: impl Future<Output = Result<T, RunError>>,
) -> Result<T, RunError> {
    tokio::select! {
        biased;
        signal = control.signalled(seen) => Err(RunError::Interrupted { signal }),
        done = work => done,
    }
}

/// Asks for a hit or a lease as [`begin`] does, unless a signal comes first.
pub(crate) async fn enter(site: Site<'_>, request: Begin<'_>) -> Result<(Begun, bool), RunError> {
    let id = request.execution;
    let begun = unless_interrupted(site.control, 0, begin(site.client, request, site.events)).await;
    if let Err(RunError::Interrupted { .. }) = &begun {
        // It may have been given the lease at this very moment.
        give_up(site, id, "interrupted before the command was started", &Outcome::default()).await;
    }
    begun
}

/// Asks for a hit or a lease until there is an answer; also, whether somebody else was waited for. A daemon that is started
/// again meanwhile is asked again, for the same execution.
async fn begin(client: &Client, request: Begin<'_>, events: &Events) -> Result<(Begun, bool), RunError> {
    let (mut waited_for, mut gone) = (None, None::<Instant>);
    loop {
        let mut heard = false;
        let begun = client.begin(request.clone(), |holder| {
            heard = true;
            if waited_for.replace(holder.id) != Some(holder.id) {
                events(Event::Waiting(holder));
            }
        });
        match begun.await {
            Err(error) if error.is_passing() => {
                if heard {
                    gone = None;
                }
                match gone {
                    Some(since) if since.elapsed() > PATIENCE => return Err(error.into()),
                    Some(_) => {}
                    None => {
                        events(Event::NoDaemon(&error));
                        gone = Some(Instant::now());
                    }
                }
                tokio::time::sleep(AGAIN).await;
            }
            begun => return Ok((begun?, waited_for.is_some())),
        }
    }
}

/// Waits until no other run makes any of the outputs; none where no locks can be had.
pub(super) async fn claim(task: &Task, control: &Control, events: &Events) -> Result<Option<Claimed>, RunError> {
    let Some(folder) = task.locks.clone().filter(|_| !task.outputs.is_empty()) else { return Ok(None) };
    let held = std::env::var(HELD_VARIABLE).unwrap_or_default();
    let (cwd, outputs) = (task.cwd.clone(), task.outputs.clone());
    let unlocked = |error: std::io::Error| {
        tracing::warn!("other runs that make the same outputs are not waited for: no locks can be had: {error}");
        Ok(None)
    };
    let claims = match blocking(move || Claims::new(&folder, &cwd, &outputs, &held)).await? {
        Ok(claims) => claims,
        Err(error) => return unlocked(error),
    };
    let mut told = false;
    loop {
        match claims.take() {
            Ok(Ok(claimed)) => return Ok(Some(claimed)),
            Ok(Err(path)) if !told => {
                events(Event::Claimed(path));
                told = true;
            }
            Ok(Err(_)) => {}
            Err(error) => return unlocked(error),
        }
        let pause = async {
            tokio::time::sleep(AGAIN).await;
            Ok(())
        };
        unless_interrupted(control, 0, pause).await?;
    }
}
