//! `provender run`: a command once for its inputs, whoever asks first.
//!
//! Owns the order of things: look at the inputs, ask, and then either restore what was made before or run the command under a lease,
//! look at the inputs again, upload, commit. Invariants: what stood at an output before is never taken for an output; a
//! success is claimed only after the command's own success, with unchanged inputs; whatever happens to provender, the lease ends.
//! Rules are `core`'s and the daemon's; this says only what happened.

mod inputs;
mod lease;
mod logs;
mod record;

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use provender_core::execution::{Executor, Exit, State};
use provender_core::key::{KeyError, TaskKey};
use provender_core::name::Name;
use provender_core::spec::Variable;
use provender_core::tree::Node;
use provender_core::{Digest, Execution, ExecutionId, Ref, Spec};
use tokio::runtime::Handle;

use crate::client::{Begin, Begun, Client};
use crate::error::ClientError;
use crate::files::{
    self, Aside, CaptureError, HashCache, Outputs, RestoreError, RestoreOptions, move_aside, restore_set,
};
use crate::process::{self, Command, Control, ProcessError, Signals};
use crate::transfer::ClientFetch;

pub use inputs::InputsError;

/// What to run, and what it reads and makes.
#[derive(Debug, Clone)]
pub struct Task {
    /// What it is called.
    pub name: Name,
    /// The key, if it is not to be derived.
    pub key: Option<TaskKey>,
    /// The command and its arguments.
    pub argv: Vec<OsString>,
    /// Where it runs, and what paths are relative to.
    pub cwd: PathBuf,
    /// What it reads.
    pub inputs: Vec<Input>,
    /// What it makes.
    pub outputs: Outputs,
    /// Variables that count.
    pub env: Vec<OsString>,
    /// Variables that count, and whose values are not to be kept.
    pub secret_env: Vec<OsString>,
    /// Whether the command's output is kept only, and not shown.
    pub quiet: bool,
    /// How long the lease lasts from each beat; zero for the daemon's default.
    pub ttl: Duration,
    /// Who runs it.
    pub executor: Executor,
}

/// Something that the command reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A file or folder, relative to the working folder.
    Path(PathBuf),
    /// Something of the store, checked out at `$PROVENDER_IN_<label>`.
    Reference {
        /// `[A-Za-z_][A-Za-z0-9_]*`.
        label: String,
        /// What.
        reference: Ref,
    },
}

/// What is told while it goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// The key is known.
    Key(&'a TaskKey),
    /// Somebody else is at it, and is waited for.
    Waiting(&'a Execution),
    /// The command is about to start, as this execution.
    Starting(ExecutionId),
    /// Bytes of outputs have been stored.
    Stored(u64),
    /// The daemon could not be reached for a heartbeat; the command goes on.
    NoHeartbeat(&'a ClientError),
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

/// Why nothing was run, or nothing recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The inputs cannot be taken.
    #[error(transparent)]
    Inputs(#[from] InputsError),
    /// The daemon.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Files in the way of outputs, or outputs that cannot be put in place.
    #[error("the outputs cannot be put in place: {0}")]
    Restore(#[from] RestoreError),
    /// The command cannot be supervised.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The lease was lost while the command ran, so it was stopped.
    #[error("the command was stopped, since its lease was lost: {0}")]
    Superseded(String),
    /// The outputs cannot be read.
    #[error("an output cannot be stored: {0}")]
    Capture(CaptureError),
    /// A file of the log cannot be read back.
    #[error("the command's output cannot be read back: {0}")]
    Log(std::io::Error),
    /// The key is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A thread of ours died.
    #[error("an internal task was ended: {0}")]
    Internal(String),
}

/// Runs a task through `client`. Must be called on a multi-threaded runtime.
pub async fn run(client: &Client, task: &Task, cache: Arc<HashCache>, events: &Events) -> Result<Ended, RunError> {
    let inputs = inputs::look(client, task, &cache).await?;
    let spec = spec(task, inputs.spec());
    let key = task.key.clone().unwrap_or_else(|| spec.run_key());
    events(Event::Key(&key));

    // From here on a signal must not kill us before the lease is given back. Until the command runs it means: stop.
    let control = Arc::new(Control::new());
    let signals = {
        let control = control.clone();
        Signals::catch(move |received| control.signal(received)).map_err(start("catch signals"))?
    };
    let id = ExecutionId(random());
    let begin = Begin { key: &key, spec: &spec, execution: id, executor: &task.executor, ttl: task.ttl, wait: true };
    let asked = client.begin(begin, |holder| events(Event::Waiting(holder)));
    let begun = tokio::select! {
        begun = asked => begun?,
        () = interrupted(&control) => return Err(ProcessError::Cancelled.into()),
    };
    match begun {
        Begun::Hit(execution) => {
            put_in_place(client, task, &execution, &cache).await?;
            logs::replay(client, &execution.outcome, task.quiet).await?;
            Ok(Ended::Hit(execution))
        }
        Begun::Failed(execution) | Begun::Busy(execution) => {
            logs::replay(client, &execution.outcome, task.quiet).await?;
            Ok(Ended::OtherFailed(execution))
        }
        Begun::Lease(ttl) => {
            events(Event::Starting(id));
            let lease = lease::Held::new(client.clone(), id, ttl, control.clone(), events.clone());
            let attempt = Attempt { client, task, cache, events, id, control, lease };
            let ended = attempt.carry_out(inputs).await;
            drop(signals);
            ended
        }
    }
}

/// One attempt under a lease.
struct Attempt<'a> {
    client: &'a Client,
    task: &'a Task,
    cache: Arc<HashCache>,
    events: &'a Events,
    id: ExecutionId,
    control: Arc<Control>,
    lease: lease::Held,
}

impl Attempt<'_> {
    async fn carry_out(self, inputs: inputs::Looked) -> Result<Ended, RunError> {
        match self.command(&inputs).await {
            Ok((aside, finished)) => self.record(inputs, aside, finished).await,
            Err(error) => {
                // Nothing ran: say so, instead of letting the lease run out.
                let outcome = Default::default();
                _ = self.client.fail(self.id, &format!("the command never ran: {error}"), &outcome).await;
                Err(error)
            }
        }
    }

    /// Runs the command, with its inputs checked out and its outputs moved aside.
    async fn command(&self, inputs: &inputs::Looked) -> Result<(Aside, process::Finished), RunError> {
        inputs.check_out(self.client).await?;
        let mut command = Command::new(self.task.argv.clone(), self.task.cwd.clone());
        command.env = inputs.env();
        command.quiet = self.task.quiet;
        let (cwd, outputs) = (self.task.cwd.clone(), self.task.outputs.clone());
        let aside = blocking(move || move_aside(&cwd, &outputs)).await??;
        let control = self.control.clone();
        let finished = blocking(move || process::run(&command, &control)).await??;
        Ok((aside, finished))
    }
}

/// Restores what a hit made, unless it stands there already.
async fn put_in_place(
    client: &Client,
    task: &Task,
    execution: &Execution,
    cache: &Arc<HashCache>,
) -> Result<(), RunError> {
    let Some(root) = execution.outcome.outputs.filter(|_| !task.outputs.is_empty()) else { return Ok(()) };
    let fetch = ClientFetch::new(client.clone(), Handle::current());
    let (cwd, outputs, cache) = (task.cwd.clone(), task.outputs.clone(), cache.clone());
    blocking(move || {
        let stands = files::capture_set(&cwd, &outputs, &cache).ok().map(|captured| captured.root);
        if stands == Some(Node::Directory { digest: root }) {
            return Ok(());
        }
        restore_set(&fetch, &root, &cwd, &outputs, RestoreOptions::default()).map(drop)
    })
    .await??;
    Ok(())
}

fn spec(task: &Task, inputs: std::collections::BTreeMap<Bytes, provender_core::spec::Input>) -> Spec {
    let mut spec = Spec::new(task.name.clone());
    let bytes = |text: &OsString| Bytes::from(text.clone().into_vec());
    spec.command = task.argv.iter().map(bytes).collect();
    for name in &task.env {
        let value = std::env::var_os(name).map_or(Variable::Unset, |value| Variable::Plain(value.into_vec().into()));
        spec.env.insert(bytes(name), value);
    }
    for name in &task.secret_env {
        let secret = |value: OsString| Variable::secret(name.as_bytes(), value.as_bytes());
        spec.env.insert(bytes(name), std::env::var_os(name).map_or(Variable::Unset, secret));
    }
    spec.inputs = inputs;
    spec.outputs = task.outputs.iter().map(|path| path.to_bytes()).collect();
    spec
}

/// Whether an execution that a lookup gave counts as a success.
fn succeeded(execution: &Execution) -> Option<Digest> {
    execution.outcome.outputs.filter(|_| execution.state == State::Succeeded)
}

async fn interrupted(control: &Control) {
    while control.interrupted().is_none() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RunError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| RunError::Internal(error.to_string()))
}

fn start(doing: &'static str) -> impl Fn(std::io::Error) -> ProcessError {
    move |source| ProcessError::Start { doing, source }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has randomness once it has booted");
    bytes
}
