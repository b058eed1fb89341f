//! The guards: what this binary does when it is started again to look after a command.
//!
//! Invariant: as long as one of the two guards lives, the end of the other, of us, or of the command ends all that the
//! command has started. Each is a subreaper, so that no descendant, of whatever session, can slip from under it; the
//! command itself dies even with both, by its parent-death signal. They must stay single-threaded and small.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getppid, kill_process, wait};
use serde::{Deserialize, Serialize};

use super::{Exit, link, signals, system};

/// The first argument by which a binary knows that it is to call [`guard_main`] and do nothing else.
pub const GUARD_ARG: &str = "__guard";

/// How long the killed may take to vanish, if the kernel holds them, before they are reported as left behind.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the inner guard says in the end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// `ended` is the command's exit code, or the signal that ended it.
    Ended {
        ended: Result<i32, i32>,
        wall: Duration,
        user: Duration,
        system: Duration,
        peak_rss: u64,
        left_behind: Vec<u32>,
    },
    NotStarted {
        why: String,
    },
}

/// The whole program of a process whose first argument is [`GUARD_ARG`]; `args` are those behind it.
///
/// To be called before any thread is started, and before anything else is made of the arguments.
pub fn guard_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let role = args.next().unwrap_or_default();
    let parent = args.next().and_then(|pid| Pid::from_raw(pid.to_str()?.parse().ok()?));
    let argv: Vec<_> = args.collect();
    match (role.to_str(), parent) {
        (Some("outer"), Some(_)) => or_report(outer(&argv)),
        (Some("inner"), Some(parent)) => or_report(inner(parent, &argv)),
        (Some("launch"), Some(parent)) => return launch(parent, &argv),
        _ => {
            let _ = writeln!(io::stderr(), "provender: this way of starting it is its own affair");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// This binary again, in another role.
pub(super) fn stage(binary: &std::path::Path, role: &str, argv: &[OsString]) -> Command {
    let mut command = Command::new(binary);
    command.arg(GUARD_ARG).arg(role).arg(std::process::id().to_string()).args(argv);
    command
}

fn or_report(result: io::Result<()>) {
    if let Err(error) = result {
        report(&Report::NotStarted { why: error.to_string() });
    }
}

/// If it cannot be written, nobody is left to read it.
fn report(report: &Report) {
    let bytes = serde_json::to_vec(report).unwrap_or_default();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        match rustix::io::write(io::stdin(), rest) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Outlives the inner guard, then kills what that one did not.
fn outer(argv: &[OsString]) -> io::Result<()> {
    let _flags = survive_signals()?;
    system::become_reaper()?;
    let inner = Pid::from_child(&stage(&system::own_binary(), "inner", argv).spawn()?);
    let ended = |waited| matches!(waited, Ok(Some((pid, _))) if pid == inner) || matches!(waited, Err(Errno::CHILD));
    while !ended(wait(WaitOptions::empty())) {}
    kill_all(inner);
    Ok(())
}

/// Starts the command and stays until nothing of it is left.
fn inner(outer: Pid, argv: &[OsString]) -> io::Result<()> {
    let group = survive_signals()?;
    system::become_reaper()?;
    // One bell for all that can happen to our children and our parent; which it was is looked at.
    let (bell, ringer) = UnixStream::pair()?;
    bell.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGCHLD, ringer)?;
    system::on_parent_death(Signal::CHILD)?;

    let Some(stdin) = link::receive_descriptor(io::stdin())? else { return Ok(()) };
    let start = Instant::now();
    let command = stage(&system::own_binary(), "launch", argv).stdin(Stdio::from(stdin)).spawn()?;
    let command = Pid::from_child(&command);
    let mut exit = None;
    while exit.is_none() && getppid() == Some(outer) {
        let link = io::stdin();
        let mut fds = [PollFd::new(&bell, PollFlags::IN), PollFd::new(&link, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        let asked = !fds[1].revents().is_empty();
        while matches!((&bell).read(&mut [0; 64]), Ok(1..)) {}
        if asked && !forward(command, &group) {
            break;
        }
        exit = reap(command).0;
    }
    let wall = start.elapsed();
    if exit.is_none() {
        let _ = kill_process(command, Signal::KILL);
    }
    let (late, left_behind) = kill_all(command);
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    report(&Report::Ended {
        ended: match exit.or(late) {
            Some(Exit::Code(code)) => Ok(code),
            Some(Exit::Signal(signal)) => Err(signal),
            None => Err(Signal::KILL.as_raw()),
        },
        wall,
        user: duration(usage.user_time()),
        system: duration(usage.system_time()),
        // In KiB on Linux, in bytes on macOS.
        peak_rss: usage.max_rss().unsigned_abs() * if cfg!(target_os = "macos") { 1 } else { 1024 },
        left_behind,
    });
    Ok(())
}

/// Becomes the command, bound to live no longer than the inner guard.
fn launch(guard: Pid, argv: &[OsString]) -> ExitCode {
    let bound = system::on_parent_death(Signal::KILL);
    let Some((program, args)) = argv.split_first() else { return ExitCode::from(125) };
    if bound.is_err() || getppid() != Some(guard) {
        return ExitCode::from(125);
    }
    let error = Command::new(program).args(args).exec();
    let _ = writeln!(io::stderr(), "provender: {}: {error}", program.display());
    let not_found = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::NAMETOOLONG];
    let is_not_found = error.raw_os_error().is_some_and(|code| not_found.contains(&Errno::from_raw_os_error(code)));
    ExitCode::from(if is_not_found { 127 } else { 126 })
}

/// A guard lives on when its process group is asked to stop. The flags tell which signals it got itself: the command,
/// of the same group, has had those too.
fn survive_signals() -> io::Result<Vec<(i32, Arc<AtomicBool>)>> {
    let flags: Vec<_> = signals::caught().into_iter().map(|signal| (signal, Arc::default())).collect();
    for (signal, flag) in &flags {
        signal_hook::flag::register(*signal, Arc::clone(flag))?;
    }
    Ok(flags)
}

/// Passes on the signals that wait in the link; `false` at its end.
fn forward(command: Pid, group: &[(i32, Arc<AtomicBool>)]) -> bool {
    let mut bytes = [0; 64];
    let count = match rustix::io::read(io::stdin(), &mut bytes[..]) {
        Ok(0) => return false,
        Ok(count) => count,
        Err(Errno::INTR | Errno::AGAIN) => 0,
        Err(_) => return false,
    };
    for byte in &bytes[..count] {
        let number = i32::from(byte & !link::FROM_TERMINAL);
        let flag = group.iter().find(|(signal, _)| *signal == number);
        let had_it = flag.is_some_and(|(_, flag)| flag.swap(false, Ordering::SeqCst));
        if !had_it
            && byte & link::FROM_TERMINAL == 0
            && let Some(signal) = Signal::from_named_raw(number)
        {
            // Not reaped yet, so the pid is still its own.
            let _ = kill_process(command, signal);
        }
    }
    true
}

/// Reaps whatever has ended; says how the command did, if it has, and whether no child is left.
fn reap(command: Pid) -> (Option<Exit>, bool) {
    let mut exit = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == command => exit = exit_of(status),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return (exit, false),
            Err(_) => return (exit, true),
        }
    }
}

/// Kills and reaps our children until there are none: theirs become ours as they die. Returns how the command ended, if
/// that was seen only now, and who could not be killed.
fn kill_all(command: Pid) -> (Option<Exit>, Vec<u32>) {
    let start = Instant::now();
    let mut exit = None;
    loop {
        let (seen, none_left) = reap(command);
        exit = seen.or(exit);
        if none_left {
            return (exit, Vec::new());
        }
        let children = system::children();
        let killed = children.iter().filter(|child| kill_process(**child, Signal::KILL).is_ok()).count();
        // Another user's we may not kill; all others the kernel lets go of sooner or later.
        if (killed == 0 && !children.is_empty()) || start.elapsed() > PATIENCE {
            return (exit, children.into_iter().map(|child| child.as_raw_nonzero().get().unsigned_abs()).collect());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn exit_of(status: WaitStatus) -> Option<Exit> {
    let code = status.exit_status().map(Exit::Code);
    code.or_else(|| status.terminating_signal().map(Exit::Signal))
}

fn duration(time: TimeVal) -> Duration {
    Duration::new(time.tv_sec().unsigned_abs(), time.tv_usec() as u32 * 1000)
}
