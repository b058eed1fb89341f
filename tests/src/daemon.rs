//! A real `provenderd` on a data folder of the test's own.
//!
//! Invariant: it has no more than what the test gives it (flags, a configuration), logs JSON to a file beside its data folder, and
//! ends with the value or with the thread that started it.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::child::{self, Ran, Running, eventually, sane};
use crate::syscalls::{self, Judge, Trial};

/// A daemon, running or stopped.
pub struct Daemon {
    process: Child,
    trial: Option<Trial>,
    data: PathBuf,
    flags: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    judge: Option<Judge>,
}

impl Daemon {
    /// Starts one and waits until it serves. The folder that the data folder is in must be there.
    pub fn start(data: &Path, flags: &[&str]) -> Daemon {
        Daemon::start_with(data, flags, &[])
    }

    /// The same with this in its environment.
    pub fn start_with(data: &Path, flags: &[&str], env: &[(&str, &str)]) -> Daemon {
        let env: Vec<_> = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let mut daemon = Daemon::spawned(data, flags, env, None);
        daemon.served();
        daemon
    }

    /// Starts one whose file system calls pass a judge. It may die of it before it serves: then `Err` has its log.
    pub fn start_judged(data: &Path, flags: &[&str], judge: Judge) -> Result<Daemon, String> {
        let mut daemon = Daemon::spawned(data, flags, Vec::new(), Some(judge));
        match daemon.serves() {
            true => Ok(daemon),
            false => Err(log_text(data)),
        }
    }

    fn spawned(data: &Path, flags: &[&str], env: Vec<(OsString, OsString)>, judge: Option<Judge>) -> Daemon {
        let flags: Vec<OsString> = flags.iter().map(OsString::from).collect();
        let (process, trial) = spawn(data, &flags, &env, judge.as_ref());
        Daemon { process, trial, data: data.into(), flags, env, judge }
    }

    /// Runs one that is expected to refuse its start.
    pub fn refused(data: &Path, flags: &[&str]) -> Ran {
        Daemon::once(data, flags)
    }

    /// Runs one that does something else than serving.
    pub fn once(data: &Path, flags: &[&str]) -> Ran {
        Daemon::begin(data, flags).wait()
    }

    /// The same, under way.
    pub fn begin(data: &Path, flags: &[&str]) -> Running {
        let flags: Vec<OsString> = flags.iter().map(OsString::from).collect();
        Running::start(command(data, &flags))
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.data.join("provender.sock")
    }

    /// Its address, as the command line takes it.
    pub fn remote(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    /// The largest resident size that it ever had, in bytes.
    pub fn peak(&self) -> u64 {
        child::peak(self.pid())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        child::send(self.pid(), signal);
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("provenderd ends", || self.process.try_wait().expect("it is our child").is_some());
        self.process.wait().expect("it is our child")
    }

    /// Stops it as a service manager would; it must end in peace.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}: {}", log_text(&self.data));
    }

    /// Starts it again, on the same data with the same flags, after it has ended.
    pub fn restart(&mut self) {
        self.spawn_again();
        self.served();
    }

    /// The same, of one that may refuse: then `Err` has its log.
    pub fn try_restart(&mut self) -> Result<(), String> {
        self.spawn_again();
        match self.serves() {
            true => Ok(()),
            false => Err(log_text(&self.data)),
        }
    }

    /// From its next start on its calls go through unjudged.
    pub fn acquit(&mut self) {
        self.judge = None;
    }

    fn spawn_again(&mut self) {
        (self.process, self.trial) = spawn(&self.data, &self.flags, &self.env, self.judge.as_ref());
    }

    /// What it has logged since its last start, a JSON object a line.
    pub fn logs(&self) -> Vec<Value> {
        // The last line may be half written.
        log_text(&self.data).split_inclusive('\n').filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The first line that it logged with this message; waits for it.
    pub fn logged(&self, message: &str) -> Value {
        let find = || self.logs().into_iter().find(|line| line["fields"]["message"] == message);
        eventually(message, || find().is_some());
        find().expect("it was there")
    }

    fn served(&mut self) {
        let serves = self.serves();
        assert!(serves, "provenderd ended: {}", log_text(&self.data));
        UnixStream::connect(self.socket()).expect("it serves");
    }

    /// Waits until it serves, or has ended.
    fn serves(&mut self) -> bool {
        let mut serves = false;
        eventually("provenderd serves", || {
            serves = self.logs().iter().any(|line| line["fields"]["message"] == "serving");
            serves || self.process.try_wait().expect("it is our child").is_some()
        });
        serves
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let log = log_text(&self.data);
        match std::thread::panicking() {
            true => eprintln!("provenderd said: {log}"),
            false => sane(&log),
        }
    }
}

fn command(data: &Path, flags: &[OsString]) -> Command {
    let mut command = child::command(child::program("provenderd"));
    command.arg("--data").arg(data).args(["--log-format", "json"]).args(flags);
    command
}

fn spawn(
    data: &Path,
    flags: &[OsString],
    env: &[(OsString, OsString)],
    judge: Option<&Judge>,
) -> (Child, Option<Trial>) {
    let log = File::create(log_path(data)).expect("a log file beside the data folder");
    let log_too = log.try_clone().expect("a descriptor");
    let env = env.iter().map(|(name, value)| (name, value));
    let mut command = command(data, flags);
    command.envs(env).stdout(log).stderr(log_too);
    match judge {
        None => (command.spawn().expect("setpriv is there"), None),
        Some(judge) => {
            let (process, trial) = syscalls::spawn(command, judge.clone()).expect("setpriv is there");
            (process, Some(trial))
        }
    }
}

fn log_path(data: &Path) -> PathBuf {
    data.with_extension("log")
}

fn log_text(data: &Path) -> String {
    std::fs::read_to_string(log_path(data)).unwrap_or_default()
}
