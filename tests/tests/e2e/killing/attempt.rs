//! The command of a key, and what of it can be found afterwards.
//!
//! Each attempt draws a nonce, prints it and fills both its outputs with it, so that no two attempts can be taken for one; and says
//! in a file of the test's, as its last act, that it came to its end.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use provender_tests::child::{Ran, Running};
use provender_tests::provender::Provender;
use serde_json::Value;

use super::plan::{Key, Kind};

/// A key of a round, and the place where its commands leave word.
pub(super) struct Task {
    pub(super) key: Key,
    /// The key itself.
    pub(super) name: String,
    folder: PathBuf,
}

impl Task {
    pub(super) fn new(key: Key, name: String, folder: &Path) -> Task {
        std::fs::create_dir_all(folder).unwrap();
        Task { key, name, folder: folder.into() }
    }

    /// Asks for it. Done `plainly` its command succeeds, whatever kind it is of.
    pub(super) fn ask(&self, provender: &Provender, word: &str, plainly: bool) -> Running {
        let [began, ended, go] = ["began", "ended", "go"].map(|file| self.folder.join(file).display().to_string());
        let ([one, two], pause) = (self.key.sizes, self.key.pause);
        let (hold, end) = match self.key.kind {
            _ if plainly => (String::new(), ""),
            Kind::Works => (String::new(), ""),
            Kind::HeldUp => (format!("until test -e {go}; do sleep 0.02; done"), ""),
            Kind::Fails => (String::new(), "exit 1"),
            Kind::Forgets => (String::new(), "rm two"),
        };
        let script = format!(
            ": {word}\nn=$(cat /proc/sys/kernel/random/uuid)\necho $n\necho $n >>{began}\nyes $n | head -c {one} >one\nsleep 0.{pause:03}\n{hold}\n\
             yes $n | head -c {two} >two\n{end}\necho $n >>{ended}"
        );
        let ttl = self.key.ttl.to_string();
        let args = ["--name", "killing", "--key", &self.name, "--ttl", &ttl, "--out", "one", "--out", "two"];
        crate::world::start(provender, &args, &script)
    }

    /// Lets those go on that are held up.
    pub(super) fn let_go(&self) {
        std::fs::write(self.folder.join("go"), "").unwrap();
    }

    /// Whether a command of it has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.folder.join("began").exists()
    }

    /// The nonces of the commands that came to their end.
    pub(super) fn nonces(&self) -> BTreeSet<String> {
        let text = std::fs::read_to_string(self.folder.join("ended")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The nonce that both outputs in a folder are made of, to their last byte.
    #[track_caller]
    pub(super) fn outputs(&self, folder: &Path) -> String {
        let read =
            |name: &str| std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let outputs = [read("one"), read("two")];
        // A small one has only a part of it.
        let longest = outputs.iter().max_by_key(|bytes| bytes.len()).unwrap();
        let line = longest.split(|byte| *byte == b'\n').next().unwrap();
        let endless = || line.iter().chain(b"\n").copied().cycle();
        for (bytes, size) in outputs.iter().zip(self.key.sizes) {
            assert_eq!(bytes.len(), size, "{}", self.name);
            assert!(bytes.iter().copied().eq(endless().take(size)), "{}: a mix of attempts", self.name);
        }
        String::from_utf8(line.to_vec()).unwrap()
    }
}

/// What an executor said in the end.
pub(super) struct Said {
    pub(super) code: Option<i32>,
    /// `hit`, `ran`, `failed` or `unrecorded`; nothing if it was killed before.
    pub(super) result: Option<String>,
    /// What the command printed, or what was replayed.
    pub(super) nonce: String,
    /// All of it.
    pub(super) text: String,
}

impl Said {
    pub(super) fn of(ran: &Ran) -> Said {
        let last: Option<Value> = ran.err().lines().last().and_then(|line| serde_json::from_str(line).ok());
        let result = last.and_then(|record| Some(record["result"].as_str()?.to_owned()));
        Said { code: ran.status.code(), result, nonce: ran.out().trim_end().to_owned(), text: ran.err() }
    }

    /// Whether it said that the key has succeeded.
    pub(super) fn acknowledged(&self) -> bool {
        self.code == Some(0)
    }

    pub(super) fn failed(&self) -> bool {
        self.result.as_deref() == Some("failed")
    }
}
