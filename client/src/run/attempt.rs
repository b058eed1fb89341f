//! One attempt under a lease: how it is carried out, whatever is attempted.
//!
//! Owns the order: put inputs in place, run the command, look at the inputs again, store, commit. What is put where, what runs and
//! what it made is a [`Work`]'s. Invariant: whatever happens, the lease ends, and a success is claimed only after the command's own
//! success with unchanged inputs.

use std::time::Duration;

use provender_core::ExecutionId;
use provender_core::execution::Outcome;

use super::wait::unless_interrupted;
use super::{Ended, Events, RunError, blocking, lease, metrics, start};
use crate::client::Client;
use crate::files::Captured;
use crate::process::{self, Command, Control};

/// How long giving a lease back may take.
const GIVE_UP: Duration = Duration::from_secs(5);

/// What is attempted. Dropped before [`Work::settle`], it leaves things as if the command had failed.
pub(crate) trait Work {
    /// Puts the inputs in place, and makes room for the outputs; what is to be run then.
    async fn prepare(&mut self, site: Site<'_>) -> Result<Command, RunError>;
    /// Whether all inputs are as they were before the command ran; if not, which is not.
    async fn look_again(&self) -> Result<(), String>;
    /// What the command made, or why that is nothing that can be stored.
    async fn capture(&self) -> Result<Captured, String>;
    /// Clears up; `stands` says whether what the command made is to stay where it is.
    async fn settle(self, stands: bool);
}

/// What an attempt lends its work.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    /// The store.
    pub(crate) client: &'a Client,
    /// Tells of signals.
    pub(crate) control: &'a Control,
    /// Hears of what goes on.
    pub(crate) events: &'a Events,
}

/// One attempt under a lease.
pub(crate) struct Attempt<'a> {
    pub(super) site: Site<'a>,
    pub(super) id: ExecutionId,
    pub(super) lease: lease::Held,
    pub(super) metrics: Option<metrics::Place>,
}

impl<'a> Attempt<'a> {
    /// An attempt under the lease of `id`, which lasts `ttl` from now and is kept from now on.
    pub(crate) fn new(site: Site<'a>, id: ExecutionId, ttl: Duration) -> Attempt<'a> {
        let lease = lease::Held::new(site.client.clone(), id, ttl, site.control.clone(), site.events.clone());
        Attempt { site, id, lease, metrics: None }
    }

    /// Carries it out to its recorded end.
    pub(crate) async fn carry_out(mut self, mut work: impl Work) -> Result<Ended, RunError> {
        match self.command(&mut work).await {
            Ok(finished) => self.record(work, finished).await,
            // Say so, instead of letting the lease run out.
            Err(error) => {
                work.settle(false).await;
                let started = matches!(&error, RunError::Process(error) if error.started());
                let error = match (self.lease.lost(), self.site.control.interrupted()) {
                    (Some(why), _) => RunError::Late(why),
                    (None, Some(signal)) if !started => RunError::Interrupted { signal },
                    _ => error,
                };
                let reason = if started { error.to_string() } else { format!("the command never ran: {error}") };
                self.give_up(&reason, &Outcome::default()).await;
                Err(error)
            }
        }
    }

    async fn command(&mut self, work: &mut impl Work) -> Result<process::Finished, RunError> {
        let mut command = work.prepare(self.site).await?;
        let metrics = metrics::Place::new().map_err(start("make a folder for metrics"))?;
        command.env.push(metrics.env());
        self.metrics = Some(metrics);
        let control = self.site.control.clone();
        Ok(blocking(move || process::run(&command, &control)).await??)
    }

    pub(super) async fn give_up(&self, reason: &str, outcome: &Outcome) {
        give_up(self.site, self.id, reason, outcome).await;
    }
}

/// Gives a lease back as far as that can be done at once: a daemon that is away, or another signal, ends it.
pub(crate) async fn give_up(site: Site<'_>, id: ExecutionId, reason: &str, outcome: &Outcome) {
    let fail = async { Ok(site.client.fail(id, reason, outcome).await?) };
    let fail = unless_interrupted(site.control, site.control.signals(), fail);
    _ = tokio::time::timeout(GIVE_UP, fail).await;
}
