//! A process beside the one that serves a mount, which ends the connection when that one stops answering.
//!
//! A request that is not answered keeps who made it asleep where no signal reaches it. The server's own threads cannot help if the
//! process is stopped, starved or stuck; so this same program, started again ([`watchdog_main`]), listens to its pulse over a pipe. If there
//! is none for [`PATIENCE`] while requests wait, it aborts the connection: all who wait get an error, and the server mounts anew once
//! it is back. See the kernel's Documentation/filesystems/fuse/fuse.rst, "The FUSE control file system".
//!
//! Invariants: nothing is aborted while nobody waits; it holds no descriptor of the connection, which it would keep alive beyond the
//! server; it ends with the server.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use crate::mount::table;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, Signal};

/// The first argument of a watchdog, by which `main` knows that it is one.
pub const WATCHDOG_ARG: &str = "__mount-watchdog";
/// How often the server's pulse beats.
pub(crate) const PULSE: Duration = Duration::from_millis(500);
/// How many beats may be missing while requests wait.
const MISSING: u32 = 30;
/// For how long they may.
pub const PATIENCE: Duration = PULSE.saturating_mul(MISSING);
/// Where the kernel shows FUSE connections.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// The server's end.
#[derive(Debug)]
pub(crate) struct Watchdog {
    pulse: Option<ChildStdin>,
    process: Option<Child>,
}

impl Watchdog {
    /// Starts `program`, whose `main` hands over to [`watchdog_main`], for the connection with this number, which is mounted at `point`.
    pub(crate) fn start(program: &Path, connection: u32, point: &Path) -> io::Result<Watchdog> {
        show_connections();
        let server = std::process::id().to_string();
        let mut process = Command::new(program)
            .args([
                OsStr::new(WATCHDOG_ARG),
                OsStr::new(&connection.to_string()),
                OsStr::new(&server),
                point.as_os_str(),
            ])
            .current_dir("/")
            .stdin(Stdio::piped())
            // What it does the server tells, once it is back; whoever started that one shall not wait for us.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Signals to the server's terminal are not meant for it.
            .process_group(0)
            .spawn()?;
        let pulse = process.stdin.take();
        if let Some(pulse) = &pulse {
            rustix::io::ioctl_fionbio(pulse, true)?;
        }
        Ok(Watchdog { pulse, process: Some(process) })
    }

    /// Beats once, without waiting for a watchdog that does not listen. An error: it is gone.
    pub(crate) fn beat(&mut self) -> io::Result<()> {
        match &mut self.pulse {
            Some(pulse) => match pulse.write_all(b".") {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                written => written,
            },
            None => Ok(()),
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // It hears of this, and ends.
        drop(self.pulse.take());
        if let Some(mut process) = self.process.take() {
            _ = std::thread::Builder::new().name("fuse-watchdog".into()).spawn(move || process.wait());
        }
    }
}

/// Mounts the control file system where distributions do, if it is not there and we may.
fn show_connections() {
    if !has_connections() && rustix::process::geteuid().is_root() {
        _ = rustix::mount::mount("fusectl", CONNECTIONS, "fusectl", MountFlags::empty(), None::<&std::ffi::CStr>);
    }
}

fn has_connections() -> bool {
    // FUSE_CTL_SUPER_MAGIC
    rustix::fs::statfs(CONNECTIONS).is_ok_and(|stat| stat.f_type == 0x6573_5543)
}

fn control(connection: u32, file: &str) -> PathBuf {
    Path::new(CONNECTIONS).join(connection.to_string()).join(file)
}

/// Ends the connection with this number, by its control file: whoever waits for an answer gets an error.
pub(crate) fn abort(connection: u32) -> io::Result<()> {
    fs::write(control(connection, "abort"), "1")
}

/// What a watchdog does, from the arguments after [`WATCHDOG_ARG`] on; called by `main`.
pub fn watchdog_main(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    let mut number = || words.next()?.to_str()?.parse::<i32>().ok();
    let (Some(connection), Some(server)) = (number(), number()) else { return ExitCode::FAILURE };
    let Some(point) = words.next().map(PathBuf::from) else { return ExitCode::FAILURE };
    let watched = Watched { connection: connection.cast_unsigned(), server, point };
    match watched.watch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            _ = writeln!(io::stderr(), "provender: the mount's watchdog fails: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is watched.
#[derive(Debug)]
struct Watched {
    connection: u32,
    server: i32,
    point: PathBuf,
}

impl Watched {
    /// Listens until the server is gone, or its connection aborted.
    fn watch(&self) -> io::Result<()> {
        let mut pulse = io::stdin();
        // Beats that are missing, and looks in a row at which somebody waited: no clock, so that a sleep of the whole machine counts once.
        let (mut missing, mut waited) = (0, 0);
        let mut probe = None;
        loop {
            if self.hears(&mut pulse)? {
                let mut beats = [0; 64];
                match pulse.read(&mut beats) {
                    Ok(0) => return Ok(()),
                    Ok(_) => (missing, probe) = (0, None),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
                std::thread::sleep(PULSE / 2);
            } else {
                missing += 1;
            }
            if missing == 0 {
                waited = 0;
                continue;
            }
            waited = if self.somebody_waits(&mut probe) { waited + 1 } else { 0 };
            if missing >= MISSING && waited >= MISSING - 1 {
                return self.abort();
            }
        }
    }

    fn hears(&self, pulse: &mut io::Stdin) -> io::Result<bool> {
        let patience = Timespec { tv_sec: 0, tv_nsec: PULSE.as_nanos() as i64 };
        let mut heard = [PollFd::from_borrowed_fd(pulse.as_fd(), PollFlags::IN)];
        match poll(&mut heard, Some(&patience)) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether requests wait. Where the kernel does not show it, we make one ourselves, once the server has been silent for a while.
    fn somebody_waits(&self, probe: &mut Option<Receiver<()>>) -> bool {
        let waiting = fs::read_to_string(control(self.connection, "waiting")).ok();
        if let Some(waiting) = waiting.and_then(|text| text.trim().parse::<u64>().ok()) {
            return waiting > 0;
        }
        let asked = probe.get_or_insert_with(|| {
            let (answer, answered) = channel();
            let point = self.point.clone();
            std::thread::spawn(move || {
                _ = rustix::fs::statfs(&point);
                _ = answer.send(());
            });
            answered
        });
        let waits = asked.try_recv() == Err(TryRecvError::Empty);
        if !waits {
            // It is asked again.
            *probe = None;
        }
        waits
    }

    /// Ends the connection: by the control file, else as an unmount by force does, else with the server itself.
    fn abort(&self) -> io::Result<()> {
        // Unmounted meanwhile, its number may be another's.
        if !table::stands(&self.point, self.connection) {
            return Ok(());
        }
        if abort(self.connection).is_ok() {
            return Ok(());
        }
        // It says "busy" after it has aborted.
        match rustix::mount::unmount(&self.point, UnmountFlags::FORCE) {
            Ok(()) | Err(rustix::io::Errno::BUSY) => return Ok(()),
            Err(_) => {}
        }
        // Not if it was succeeded by another with its number: we would have heard of its end.
        let server = Pid::from_raw(self.server).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(rustix::process::kill_process(server, Signal::KILL)?)
    }
}
