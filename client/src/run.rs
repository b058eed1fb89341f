//! `provender run`: a command once for its inputs, whoever asks first.
//!
//! Owns the order of things: look at the inputs, ask, and then either restore what was made before or run the command under a
//! lease ([`attempt`], shared with `provender dag run`). Invariants: what stood at an output before is never taken for an output; a
//! success is claimed only after the command's own success, with unchanged inputs; whatever happens to provender, the lease ends.
//! Rules are `core`'s and the daemon's; this says only what happened.

mod attempt;
mod check;
mod checkout;
mod declared;
mod error;
mod inputs;
mod lease;
mod logs;
mod metrics;
mod record;
mod task;
mod wait;

use std::path::Path;
use std::sync::Arc;

use provender_core::execution::{Exit, State};
use provender_core::explain::Explanation;
use provender_core::tree::Node;
use provender_core::{Digest, Execution, ExecutionId, Verdict};
use tokio::runtime::Handle;

use crate::client::{Begin, Begun, Client};
use crate::error::ClientError;
use crate::files::{self, HashCache, RestoreOptions, restore_set};
use crate::process::{Control, ProcessError, Signals};
use crate::transfer::ClientFetch;

pub use check::{Checked, Differs};
pub use error::RunError;
pub use inputs::InputsError;
pub use task::{Input, Task};

pub(crate) use attempt::{Attempt, Site, Work, give_up};
pub(crate) use checkout::{check_out, same, set_writable};
pub(crate) use wait::{enter, unless_interrupted};

use declared::Declared;
use wait::claim;

/// How often a run is started over when its inputs change while it waits for another.
const STARTS: usize = 8;

/// What is told while it goes on.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Somebody else is at it, and is waited for.
    Waiting(&'a Execution),
    /// Another run of this user makes this path now, and is waited for.
    Claimed(&'a Path),
    /// The daemon has gone; it is asked again for a while.
    NoDaemon(&'a ClientError),
    /// Bytes of outputs have been stored.
    Stored(u64),
    /// The daemon could not be reached for a heartbeat; the command goes on.
    NoHeartbeat(&'a ClientError),
    /// Why it is not done yet, or why that cannot be told.
    Why(Result<&'a Explanation, &'a ClientError>),
    /// What the command wrote to `$PROVENDER_METRICS` is not kept.
    NoMetrics(&'a str),
}

/// Who hears of events, from any thread.
pub type Events = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// How a run ended.
#[derive(Debug)]
pub enum Ended {
    /// It had been done before; the outputs are in place.
    Hit(Box<Execution>),
    /// The command ran, and its success is recorded.
    Ran(Box<Execution>),
    /// The command ran and is recorded as a failure; `exit` is how the command ended.
    Failed {
        /// As recorded.
        execution: Box<Execution>,
        /// The command's own end.
        exit: Exit,
    },
    /// The command ran on purpose; the record stays, and its outputs are in place.
    Checked(Checked),
    /// Somebody else ran it meanwhile, and it failed; it was not tried again.
    OtherFailed(Box<Execution>),
    /// The command ran, but provender could not record that.
    Unrecorded {
        /// The command's own end.
        exit: Exit,
        /// Why.
        error: RunError,
    },
}

/// Runs a task through `client`. Must be called on a multi-threaded runtime.
pub async fn run(client: &Client, task: &Task, cache: Arc<HashCache>, events: &Events) -> Result<Ended, RunError> {
    // A signal must not kill us before the lease is given back. Until the command runs it means: stop.
    let control = Control::new();
    let told = control.clone();
    let _signals = Signals::catch(move |received| told.signal(received)).map_err(start("catch signals"))?;
    for _ in 0..STARTS {
        if let Some(ended) = once(client, task, &cache, events, &control).await? {
            return Ok(ended);
        }
    }
    Err(InputsError::Moving.into())
}

/// `None` if the inputs changed while another was waited for, so that its word is not about them.
async fn once(
    client: &Client,
    task: &Task,
    cache: &Arc<HashCache>,
    events: &Events,
    control: &Control,
) -> Result<Option<Ended>, RunError> {
    let inputs = unless_interrupted(control, 0, inputs::look(client, task, cache)).await?;
    let spec = task.spec(inputs.spec());
    let key = task.key.clone().unwrap_or_else(|| spec.run_key());
    let id = ExecutionId(random());
    let (executor, ttl, check) = (&task.executor, task.ttl, task.check);
    let remarks = task.remarks.clone();
    let begin = Begin { key: &key, spec: &spec, execution: id, executor, ttl, wait: true, check, remarks };
    let site = Site { client, control, events };
    if task.why {
        let asked = [(key.clone(), Some(spec.clone()))];
        let explained = unless_interrupted(control, 0, async { Ok(client.explain(&asked).await) }).await?;
        match &explained {
            Ok(explained) => {
                let open = explained.iter().filter(|of| check || of.answer.verdict != Verdict::Succeeded);
                open.for_each(|of| events(Event::Why(Ok(of))));
            }
            Err(error) => events(Event::Why(Err(error))),
        }
    }
    let (begun, waited) = enter(site, begin).await?;
    if waited && !matches!(begun, Begun::Lease(_) | Begun::Check(..)) && inputs.unmoved(task, cache).await.is_err() {
        return Ok(None);
    }
    let ended = match begun {
        Begun::Hit(execution) => {
            let claimed = claim(task, control, events).await?;
            put_in_place(client, task, &execution, cache, control).await?;
            drop(claimed);
            unless_interrupted(control, 0, logs::replay(client, &execution.outcome, task.quiet)).await?;
            Ended::Hit(execution)
        }
        Begun::Failed(execution) | Begun::Busy(execution) => {
            unless_interrupted(control, 0, logs::replay(client, &execution.outcome, task.quiet)).await?;
            Ended::OtherFailed(execution)
        }
        Begun::Lease(ttl) => {
            let work = Declared::new(task, cache.clone(), inputs);
            Attempt::new(site, id, ttl).carry_out(work).await?
        }
        Begun::Check(ttl, record) => {
            let work = check::Unmoved(Declared::new(task, cache.clone(), inputs));
            match Attempt::new(site, id, ttl).carry_out(work).await? {
                Ended::Ran(execution) => checked(site, task, cache, record, execution).await?,
                ended => ended,
            }
        }
    };
    Ok(Some(ended))
}

/// Compares a check with the record, and leaves what the record holds at the outputs.
async fn checked(
    site: Site<'_>,
    task: &Task,
    cache: &Arc<HashCache>,
    record: ExecutionId,
    execution: Box<Execution>,
) -> Result<Ended, RunError> {
    let judged = async { Ok(check::judge(site.client, record, &execution).await?) };
    let judged = unless_interrupted(site.control, 0, judged).await?;
    let stays = judged.as_ref().map_or(&execution, |checked| &checked.record);
    let claimed = claim(task, site.control, site.events).await?;
    put_in_place(site.client, task, stays, cache, site.control).await?;
    drop(claimed);
    Ok(judged.map_or(Ended::Ran(execution), Ended::Checked))
}

/// Restores what a hit made, unless it stands there already.
async fn put_in_place(
    client: &Client,
    task: &Task,
    execution: &Execution,
    cache: &Arc<HashCache>,
    control: &Control,
) -> Result<(), RunError> {
    let Some(root) = execution.outcome.outputs.filter(|_| !task.outputs.is_empty()) else { return Ok(()) };
    let (cwd, outputs, cache) = (task.cwd.clone(), task.outputs.clone(), cache.clone());
    let stands = blocking(move || files::capture_set(&cwd, &outputs, &cache).ok().map(|captured| captured.root));
    if unless_interrupted(control, 0, stands).await? == Some(Node::Directory { digest: root }) {
        return Ok(());
    }
    let fetch = ClientFetch::new(client.clone(), Handle::current(), control.clone());
    let (cwd, outputs) = (task.cwd.clone(), task.outputs.clone());
    // A signal ends this from within, so that its temporary folders are removed.
    match blocking(move || restore_set(&fetch, &root, &cwd, &outputs, RestoreOptions::default())).await? {
        Ok(_) => Ok(()),
        Err(error) => Err(control.interrupted().map_or(error.into(), |signal| RunError::Interrupted { signal })),
    }
}

/// Whether an execution that a lookup gave counts as a success.
fn succeeded(execution: &Execution) -> Option<Digest> {
    execution.outcome.outputs.filter(|_| execution.state == State::Succeeded)
}

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RunError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| RunError::Internal(error.to_string()))
}

pub(crate) fn start(doing: &'static str) -> impl Fn(std::io::Error) -> ProcessError {
    move |source| ProcessError::Start { doing, source }
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has randomness once it has booted");
    bytes
}
