//! Processes that a test starts: the programs under test, and what they are judged by.
//!
//! Invariants: every child ends with the thread that started it, and none outlives its bound; none of ours ever shows a panic or a
//! stack trace, whatever is done to it.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Whether the sizes of the acceptance list are asked for, by `PROVENDER_SOAK`: they take minutes.
pub fn soak() -> bool {
    std::env::var_os("PROVENDER_SOAK").is_some_and(|value| !value.is_empty())
}

/// How long anything may take before the test calls it stuck. A net, not a budget.
fn bound() -> Duration {
    Duration::from_secs(if soak() { 1200 } else { 60 })
}

/// One of the workspace's programs, beside the test's own.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own path");
    let folder = own.ancestors().nth(2).expect("a test's program lies in target/PROFILE/deps");
    let path = folder.join(name);
    assert!(path.exists(), "{} is not built: run `cargo build --workspace --bins` first", path.display());
    path
}

/// A command in an empty environment that dies with the calling thread.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program).env_clear().stdin(Stdio::null());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// A child that is under way.
#[derive(Debug)]
pub struct Running {
    process: Child,
    stdout: File,
    stderr: File,
    peak: u64,
}

/// A child that has ended.
#[derive(Debug)]
pub struct Ran {
    /// How.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// The largest resident size that was seen of it, in bytes.
    pub peak: u64,
}

impl Running {
    /// Starts a command with its output captured.
    pub fn start(mut command: Command) -> Running {
        let file = || tempfile::tempfile().expect("a file for output");
        let (stdout, stderr) = (file(), file());
        command.stdout(again(&stdout)).stderr(again(&stderr));
        let process = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Running { process, stdout, stderr, peak: 0 }
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// What it wrote to standard output until now.
    pub fn stdout(&self) -> String {
        text(&contents(&self.stdout))
    }

    /// What it wrote to standard error until now.
    pub fn stderr(&self) -> String {
        text(&contents(&self.stderr))
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.peak = self.peak.max(peak(self.pid()));
        self.process.try_wait().expect("it is our child")
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Ran {
        let until = Instant::now() + bound();
        let status = loop {
            match self.ended() {
                Some(status) => break status,
                None if Instant::now() > until => panic!("stuck; so far it said: {}", self.stderr()),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let ran = Ran { status, stdout: contents(&self.stdout), stderr: contents(&self.stderr), peak: self.peak };
        sane(&text(&ran.stdout));
        sane(&text(&ran.stderr));
        ran
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Ran {
    /// It must have exited with this code.
    #[track_caller]
    pub fn code(self, code: i32) -> Ran {
        assert_eq!(self.status.code(), Some(code), "{:?}; it said: {}{}", self.status, self.out(), self.err());
        self
    }

    /// It must have been ended by this signal.
    #[track_caller]
    pub fn signalled(self, signal: Signal) -> Ran {
        assert_eq!(self.status.signal(), Some(signal.as_raw()), "{}", self.err());
        self
    }

    /// It must have exited with 0.
    #[track_caller]
    pub fn ok(self) -> Ran {
        self.code(0)
    }

    /// Its standard error must have all of these in it.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Ran {
        for word in words {
            assert!(self.err().contains(word), "no {word:?} in {:?}", self.err());
        }
        self
    }

    /// Standard output as text.
    pub fn out(&self) -> String {
        text(&self.stdout)
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        text(&self.stderr)
    }

    /// Standard output as one JSON document.
    #[track_caller]
    pub fn json(&self) -> Value {
        versioned(&self.out())
    }

    /// Standard output as lines of JSON.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        self.out().lines().map(versioned).collect()
    }

    /// The last line of standard error as JSON: what `run --json` says of its end.
    #[track_caller]
    pub fn record(&self) -> Value {
        versioned(self.err().lines().last().unwrap_or_default())
    }

    /// `hit`, `ran`, `failed` or `unrecorded`, as `run --json` says.
    #[track_caller]
    pub fn result(&self) -> String {
        string(&self.record()["result"])
    }

    /// The first word of standard output: what `put` prints.
    pub fn word(&self) -> String {
        self.out().split_whitespace().next().unwrap_or_default().to_owned()
    }
}

/// A JSON string's text.
#[track_caller]
pub fn string(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string")).to_owned()
}

/// Waits until something holds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + bound();
    while !holds() {
        assert!(Instant::now() < until, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a signal. One that stops a process has done so then: until the thread that takes the signal gets to run, the others go on.
pub(crate) fn send(pid: Pid, signal: Signal) {
    kill_process(pid, signal).expect("it has not been waited for");
    if signal == Signal::STOP {
        eventually("it stops", || is_stopped(pid).unwrap_or_default());
    }
}

/// Whether no thread of a process runs.
fn is_stopped(pid: Pid) -> std::io::Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()))? {
        let stat = std::fs::read_to_string(thread?.path().join("stat"))?;
        // The state stands behind the name, which may have brackets of its own.
        if !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The largest resident size of a living process so far, in bytes.
pub fn peak(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default();
    kib * 1024
}

/// The living processes of a program that have a word in their arguments.
pub fn processes(program: &str, word: &str) -> Vec<Pid> {
    let folders = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = folders.filter_map(|folder| Pid::from_raw(folder.file_name().to_str()?.parse().ok()?));
    let is_it = |pid: &Pid| {
        let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next() == Some(program.as_bytes()) && words.any(|found| text(found).contains(word))
    };
    pids.filter(is_it).collect()
}

/// The processes of a program that serve a mount at `point`, and not those that watch over it.
pub fn mounting(program: &str, point: &str) -> Vec<Pid> {
    let serves = |pid: &Pid| {
        let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"mount")
    };
    processes(program, point).into_iter().filter(serves).collect()
}

/// Nothing that a person reads has a stack trace in it.
#[track_caller]
pub fn sane(said: &str) {
    for word in ["panicked", "stack backtrace", "RUST_BACKTRACE"] {
        assert!(!said.contains(word), "{said}");
    }
}

#[track_caller]
fn versioned(said: &str) -> Value {
    let value: Value = serde_json::from_str(said).unwrap_or_else(|error| panic!("{error} in {said:?}"));
    assert_eq!(value["v"], 1, "{said}");
    value
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn again(file: &File) -> File {
    file.try_clone().expect("a descriptor")
}

/// What stands in a file that a child may be writing to, from its own offset.
fn contents(file: &File) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let size = file.metadata().expect("a file").len();
    let mut bytes = vec![0; usize::try_from(size).expect("it fits")];
    file.read_exact_at(&mut bytes, 0).expect("a file");
    bytes
}
