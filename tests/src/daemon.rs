//! A real `provenderd` on a data folder of the test's own.
//!
//! Invariant: it has no more than what the test gives it (flags, a configuration), logs JSON to a file beside its data folder, and
//! ends with the value or with the thread that started it.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::child::{self, Ran, Running, eventually, sane};

/// A daemon, running or stopped.
#[derive(Debug)]
pub struct Daemon {
    process: Child,
    data: PathBuf,
    flags: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

impl Daemon {
    /// Starts one and waits until it serves. The folder that the data folder is in must be there.
    pub fn start(data: &Path, flags: &[&str]) -> Daemon {
        Daemon::start_with(data, flags, &[])
    }

    /// The same with this in its environment.
    pub fn start_with(data: &Path, flags: &[&str], env: &[(&str, &str)]) -> Daemon {
        let flags: Vec<OsString> = flags.iter().map(OsString::from).collect();
        let env: Vec<_> = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let mut daemon = Daemon { process: spawn(data, &flags, &env), data: data.into(), flags, env };
        daemon.served();
        daemon
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
        kill_process(self.pid(), signal).expect("it has not been waited for");
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
        self.process = spawn(&self.data, &self.flags, &self.env);
        self.served();
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
        let data = self.data.clone();
        eventually("provenderd serves", || {
            let ended = self.process.try_wait().expect("it is our child");
            assert!(ended.is_none(), "provenderd ended with {ended:?}: {}", log_text(&data));
            self.logs().iter().any(|line| line["fields"]["message"] == "serving")
        });
        UnixStream::connect(self.socket()).expect("it serves");
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

fn spawn(data: &Path, flags: &[OsString], env: &[(OsString, OsString)]) -> Child {
    let log = File::create(log_path(data)).expect("a log file beside the data folder");
    let log_too = log.try_clone().expect("a descriptor");
    let env = env.iter().map(|(name, value)| (name, value));
    command(data, flags).envs(env).stdout(log).stderr(log_too).spawn().expect("setpriv is there")
}

fn log_path(data: &Path) -> PathBuf {
    data.with_extension("log")
}

fn log_text(data: &Path) -> String {
    std::fs::read_to_string(log_path(data)).unwrap_or_default()
}
