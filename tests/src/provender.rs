//! The command line as a person with a fresh home would run it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::child::{self, Ran, Running};

/// `provender`, with a home, a working folder and a daemon.
#[derive(Debug, Clone)]
pub struct Provender {
    home: PathBuf,
    cwd: PathBuf,
    env: Vec<(OsString, OsString)>,
    before: Vec<OsString>,
}

impl Provender {
    /// One that finds `remote` by `PROVENDER_REMOTE`, at home below `home` and working in `cwd`.
    pub fn new(home: &Path, cwd: &Path, remote: &str) -> Provender {
        std::fs::create_dir_all(home.join("tmp")).expect("a home");
        let env = vec![("PROVENDER_REMOTE".into(), remote.into())];
        Provender { home: home.into(), cwd: cwd.into(), env, before: Vec::new() }
    }

    /// The same in another folder, which is made.
    pub fn at(&self, cwd: &Path) -> Provender {
        std::fs::create_dir_all(cwd).expect("a folder");
        Provender { cwd: cwd.into(), ..self.clone() }
    }

    /// The same with a variable set.
    pub fn env(&self, name: &str, value: impl AsRef<OsStr>) -> Provender {
        let mut with = self.clone();
        with.env.retain(|(known, _)| known != name);
        with.env.push((name.into(), value.as_ref().into()));
        with
    }

    /// The same without a variable.
    pub fn without(&self, name: &str) -> Provender {
        let mut without = self.clone();
        without.env.retain(|(known, _)| known != name);
        without
    }

    /// The same behind another program, as `setpriv` with its arguments.
    pub fn behind(&self, words: &[&str]) -> Provender {
        Provender { before: words.iter().map(OsString::from).collect(), ..self.clone() }
    }

    /// Its folder for temporary files.
    pub fn temporary(&self) -> PathBuf {
        self.home.join("tmp")
    }

    /// Starts it.
    pub fn start<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Running {
        Running::start(self.command(args))
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.start(args).wait()
    }

    fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut words = self.before.clone();
        words.push(child::program("provender").into());
        let mut command = child::command(words.remove(0));
        command.args(words).args(args).current_dir(&self.cwd).env("HOME", &self.home).env("TMPDIR", self.temporary());
        for (name, folder) in [("XDG_CONFIG_HOME", "config"), ("XDG_DATA_HOME", "data"), ("XDG_CACHE_HOME", "cache")] {
            command.env(name, self.home.join(folder));
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}
