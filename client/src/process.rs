//! Processes: one supervised command, as `provender run` needs it.
//!
//! Invariants: when [`run`] returns, or this process ends in whatever way, nothing that the command started runs on, other
//! sessions included; what the command's exit says is passed on unchanged. What is still running when the command itself
//! has ended is killed: it could write to outputs that were already hashed.
//!
//! Between us and the command stand two guards, this same binary started again ([`guard_main`]). The inner one starts the
//! command and kills all of it when we are gone; the outer one does the same should the inner one be killed. It must not
//! know tasks, stores or leases.

mod control;
mod guard;
mod link;
mod log;
mod signals;
mod system;
mod tee;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

pub use control::Control;
pub use guard::{GUARD_ARG, guard_main};
pub use log::{Log, MAX_LOG};
pub use provender_core::execution::Exit;
pub use signals::{Received, Signals};

use guard::Report;
use log::Spool;

/// What to run, and how.
#[derive(Debug, Clone)]
pub struct Command {
    /// The program, looked up in the command's `PATH` if it has no slash, and its arguments; at least the program.
    pub argv: Vec<OsString>,
    /// The working folder.
    pub cwd: PathBuf,
    /// What differs from our own environment: a value to set, or `None` to remove.
    pub env: Vec<(OsString, Option<OsString>)>,
    /// Keep the output, but don't show it.
    pub quiet: bool,
    /// Whether the command may read our terminal, where standard input is one.
    pub terminal: bool,
    /// A binary whose `main` hands over to [`guard_main`] when its first argument is [`GUARD_ARG`].
    pub guard: PathBuf,
}

impl Command {
    /// A command with our environment and terminal, its output shown, guarded by this same binary.
    pub fn new(argv: Vec<OsString>, cwd: PathBuf) -> Command {
        Command { argv, cwd, env: Vec::new(), quiet: false, terminal: true, guard: system::own_binary() }
    }
}

/// A command that was run.
#[derive(Debug)]
pub struct Finished {
    /// How the command itself ended. Code 127 also stands for "not found" and 126 for "cannot be executed", with a line on
    /// its standard error.
    pub exit: Exit,
    /// The last signal that asked us to stop meanwhile.
    pub interrupted: Option<i32>,
    /// Whether [`Control::kill`] ended it.
    pub killed: bool,
    /// From start to end.
    pub wall: Duration,
    /// Processor time in user mode of all that it started.
    pub user: Duration,
    /// Processor time in the kernel of all that it started.
    pub system: Duration,
    /// The largest resident size of any one of its processes, in bytes.
    pub peak_rss: u64,
    /// Processes that could not be killed, as root's cannot: they may still be writing.
    pub left_behind: Vec<u32>,
    /// What it wrote to standard output.
    pub stdout: Log,
    /// What it wrote to standard error.
    pub stderr: Log,
}

/// Why nothing can be said of a command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// There is no program in `argv`.
    #[error("there is no command to run")]
    Empty,
    /// The working folder cannot be entered.
    #[error("cannot run in {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system refused what comes before the start.
    #[error("cannot {doing}: {source}")]
    Start {
        /// What was tried.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The guard could not start the command.
    #[error("the guard process cannot start the command: {why}")]
    Guard {
        /// What it said.
        why: String,
    },
    /// The guard was killed, and the command with it.
    #[error("the process that guards the command was killed, and the command with it")]
    GuardLost,
    /// The command was started, but what came of it cannot be told.
    #[error("cannot {doing}: {source}")]
    Watch {
        /// What was tried.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A signal or [`Control::kill`] came before the start.
    #[error("stopped before the command was started")]
    Cancelled,
}

impl ProcessError {
    /// Whether the command had been started, so that it may have done something.
    pub fn started(&self) -> bool {
        matches!(self, ProcessError::GuardLost | ProcessError::Watch { .. })
    }
}

/// Runs a command to its end, blocking. `control` may be used meanwhile from other threads, for this one run.
pub fn run(command: &Command, control: &Control) -> Result<Finished, ProcessError> {
    if command.argv.is_empty() {
        return Err(ProcessError::Empty);
    }
    // Looked at first: the guard's own start would not tell a missing folder from a missing guard.
    let is_folder = std::fs::metadata(&command.cwd).and_then(|folder| match folder.is_dir() {
        true => Ok(()),
        false => Err(io::ErrorKind::NotADirectory.into()),
    });
    is_folder.map_err(|source| ProcessError::Folder { path: command.cwd.clone(), source })?;

    let start = |doing| move |source| ProcessError::Start { doing, source };
    let (link, theirs) = UnixStream::pair().map_err(start("make a socket"))?;
    let (spool_out, spool_err) =
        Spool::new().and_then(|out| Ok((out, Spool::new()?))).map_err(start("make a log file"))?;
    // Its end tells the tees that no guard is left.
    let (stop, stopping) = io::pipe().map_err(start("make a pipe"))?;
    let stdin = stdin(command.terminal).map_err(start("open standard input"))?;
    let mut guard = spawn(command, theirs).map_err(start("start the guard process"))?;
    let (Some(out), Some(err)) = (guard.stdout.take(), guard.stderr.take()) else {
        return Err(ProcessError::GuardLost);
    };
    let (out, err) = (OwnedFd::from(out), OwnedFd::from(err));
    let wanted = control.attach(&link).map_err(start("watch the command"))?;
    if !wanted {
        // The guards end with the link, before they have started anything.
        drop(link);
        let _ = guard.wait();
        return Err(ProcessError::Cancelled);
    }
    // The command starts only now, so a kill cannot come too early to be heard. If this fails the guard is gone.
    let _ = link::send_descriptor(&link, stdin.as_fd());
    let (our_out, our_err) = (io::stdout(), io::stderr());
    let (report, logs) = std::thread::scope(|scope| {
        let stop = stop.as_fd();
        let tee = |from, to, spool| {
            let to = if command.quiet { None } else { Some(to) };
            scope.spawn(move || tee::Tee { from, to, spool, stop, control }.run())
        };
        let tees = [tee(out, our_out.as_fd(), spool_out), tee(err, our_err.as_fd(), spool_err)];
        let mut report = Vec::new();
        let read = (&link).read_to_end(&mut report).and_then(|_| guard.wait());
        drop(stopping);
        (read.map(|_| report), tees.map(|tee| tee.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))))
    });
    control.detach();
    let watch = |doing| move |source| ProcessError::Watch { doing, source };
    let report = report.map_err(watch("hear from the guard process"))?;
    let [stdout, stderr] = logs;
    let (stdout, stderr) = (stdout.map_err(watch("read the output"))?, stderr.map_err(watch("read the output"))?);
    match serde_json::from_slice(&report) {
        Ok(Report::Ended { ended, wall, user, system, peak_rss, left_behind }) => {
            let exit = match ended {
                Ok(code) => Exit::Code(code),
                Err(signal) => Exit::Signal(signal),
            };
            let (interrupted, killed) = (control.interrupted(), control.killed());
            Ok(Finished { exit, interrupted, killed, wall, user, system, peak_rss, left_behind, stdout, stderr })
        }
        Ok(Report::NotStarted { why }) => Err(ProcessError::Guard { why }),
        Err(_) => Err(ProcessError::GuardLost),
    }
}

/// What the command reads: our own terminal. Anything else is in no key, so the command does not get to see it.
fn stdin(terminal: bool) -> io::Result<OwnedFd> {
    let ours = io::stdin();
    if terminal && ours.is_terminal() { ours.as_fd().try_clone_to_owned() } else { Ok(File::open("/dev/null")?.into()) }
}

/// Starts the outer guard with `link` as its standard input.
fn spawn(command: &Command, link: UnixStream) -> io::Result<Child> {
    // Its end of the link must not outlive this in our hands, so it goes with the builder.
    let mut guard = guard::stage(&command.guard, "outer", &command.argv);
    guard.current_dir(&command.cwd).stdin(OwnedFd::from(link)).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, value) in &command.env {
        match value {
            Some(value) => guard.env(name, value),
            None => guard.env_remove(name),
        };
    }
    guard.spawn()
}
