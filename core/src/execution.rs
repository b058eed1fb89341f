//! Executions: attempts at a task, and the verdicts that lookups give.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, hex, unhex};
use crate::key::TaskKey;
use crate::name::Name;
use crate::remarks::Remarks;
use crate::time::Timestamp;

/// Names one attempt for ever: 16 random bytes, chosen by the executor so that asking twice is asking once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecutionId(pub [u8; 16]);

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exec:{self}")
    }
}

impl FromStr for ExecutionId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        unhex(text).map(ExecutionId).ok_or(())
    }
}

/// What a lookup says of a key. Only `Succeeded` means that the work can be skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// A genuine success is recorded, and its outputs can be served.
    Succeeded,
    /// Somebody holds the lease and is at it.
    Running,
    /// The last attempt failed.
    Failed,
    /// The last attempt's lease ran out.
    Abandoned,
    /// A success is recorded, but bytes of it are missing or corrupt.
    Lost,
    /// A success was recorded and has been collected.
    Evicted,
    /// A success was recorded and has been declared void.
    Invalidated,
    /// Nothing is known of the key.
    Unknown,
}

impl Verdict {
    /// The word, in capitals.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Succeeded => "SUCCEEDED",
            Verdict::Running => "RUNNING",
            Verdict::Failed => "FAILED",
            Verdict::Abandoned => "ABANDONED",
            Verdict::Lost => "LOST",
            Verdict::Evicted => "EVICTED",
            Verdict::Invalidated => "INVALIDATED",
            Verdict::Unknown => "UNKNOWN",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How far an execution has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// It holds, or held when last seen, its key's lease.
    Running,
    /// It committed.
    Succeeded,
    /// It failed, or what it committed did not pass.
    Failed,
    /// Its lease ran out or was taken over.
    Abandoned,
}

impl State {
    /// The verdict that this state gives by itself.
    pub fn verdict(self) -> Verdict {
        match self {
            State::Running => Verdict::Running,
            State::Succeeded => Verdict::Succeeded,
            State::Failed => Verdict::Failed,
            State::Abandoned => Verdict::Abandoned,
        }
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// The code that a shell would give: the code's low byte, or 128 + n for signal n.
    pub fn shell_code(self) -> u8 {
        let (Exit::Code(code) | Exit::Signal(code)) = self;
        let [low, ..] = code.to_le_bytes();
        match self {
            Exit::Code(_) => low,
            Exit::Signal(_) => low.wrapping_add(128),
        }
    }

    /// The same for what counts as a failure: never 0.
    pub fn failure_code(self) -> u8 {
        self.shell_code().max(1)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exited {code}"),
            Exit::Signal(signal) => write!(f, "died of signal {signal}"),
        }
    }
}

/// Who makes an attempt, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Executor {
    /// The program or service, for example `provender run`.
    pub program: String,
    /// The user it runs as.
    pub user: String,
    /// The host it runs on.
    pub host: String,
    /// Its process id there; 0 if it has none.
    pub pid: u32,
}

impl fmt::Display for Executor {
    /// A clause for people: who, where, with what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Executor { program, user, host, pid } = self;
        let word = |text: &str| if text.is_empty() { "?".to_owned() } else { text.to_owned() };
        write!(f, "{}@{} ({}", word(user), word(host), word(program))?;
        if *pid > 0 {
            write!(f, ", process {pid}")?;
        }
        write!(f, ")")
    }
}

/// What an attempt took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Wall time in milliseconds.
    pub wall_ms: u64,
    /// User CPU time in milliseconds, of the command and all its descendants.
    pub user_ms: u64,
    /// System CPU time in milliseconds, likewise.
    pub system_ms: u64,
    /// The largest resident set of any of its processes, in bytes.
    pub peak_rss: u64,
}

/// One kept stream of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The kept bytes.
    pub digest: Digest,
    /// How many bytes beyond them were cut off.
    pub cut: u64,
}

/// What an attempt reports of its end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// How the command ended; none if it never ran.
    pub exit: Option<Exit>,
    /// What it took.
    pub usage: Usage,
    /// Standard output.
    pub stdout: Option<Log>,
    /// Standard error.
    pub stderr: Option<Log>,
    /// The tree of what it made.
    pub outputs: Option<Digest>,
    /// What it measured, by name; values are JSON, at most [`MAX_METRICS`] bytes of it.
    pub metrics: Metrics,
}

/// What an attempt measured, for people to compare.
pub type Metrics = BTreeMap<String, serde_json::Value>;
/// The most bytes of metrics, names and values as JSON together.
pub const MAX_METRICS: usize = 64 << 10;

/// One attempt, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// Unique for ever.
    pub id: ExecutionId,
    /// What was attempted.
    pub key: TaskKey,
    /// Under which name.
    pub name: Name,
    /// The identity of the spec (see [`crate::spec::Spec::digest`]).
    pub spec: Digest,
    /// By whom.
    pub executor: Executor,
    /// When the lease was given, by the daemon's clock.
    pub began: Timestamp,
    /// When it ended, by the daemon's clock.
    pub ended: Option<Timestamp>,
    /// How far it has come.
    pub state: State,
    /// Why it is not a success, for people.
    pub reason: Option<String>,
    /// Of a failure: the rule of the success policy that was broken (see [`crate::policy::Violation::rule`]).
    pub rule: Option<String>,
    /// What it reported.
    pub outcome: Outcome,
    /// The folder that shows it in the mounted view, once it has ended in success or failure.
    pub folder: Option<String>,
    /// Whether it was committed by a front without leases, on the executor's word alone.
    pub attested: bool,
    /// The record that it differs from, if it succeeded with other outputs.
    pub diverges_from: Option<ExecutionId>,
    /// The blob that lists what it refers to, if a commit looked through that.
    pub closure: Option<Digest>,
    /// What people say of it; nothing rests on that.
    pub remarks: Remarks,
}

impl Execution {
    /// The attempt that a lease is given to.
    pub fn begin(
        id: ExecutionId,
        key: TaskKey,
        name: Name,
        spec: Digest,
        executor: Executor,
        now: Timestamp,
    ) -> Execution {
        Execution {
            id,
            key,
            name,
            spec,
            executor,
            began: now,
            ended: None,
            state: State::Running,
            reason: None,
            rule: None,
            outcome: Outcome::default(),
            folder: None,
            attested: false,
            diverges_from: None,
            closure: None,
            remarks: Remarks::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_never_0_and_no_code_is_too_large() {
        for (exit, code) in [
            (Exit::Code(0), 0),
            (Exit::Code(77), 77),
            (Exit::Code(256), 0),
            (Exit::Code(-1), 255),
            (Exit::Signal(15), 143),
            (Exit::Signal(i32::MAX), 127),
            (Exit::Signal(128), 0),
        ] {
            assert_eq!((exit.shell_code(), exit.failure_code()), (code, code.max(1)), "{exit:?}");
        }
    }
}
