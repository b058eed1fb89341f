//! Wire <-> core, both ways. Functions, since both sides are foreign to this crate.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use provender_core::execution::{Executor, Exit, Log, MAX_METRICS, Metrics, Outcome, State, Usage};
use provender_core::key::TaskKey;
use provender_core::lease::Lease;
use provender_core::name::{Name, Space};
use provender_core::policy::Policy;
use provender_core::remarks::{Remark, Remarks};
use provender_core::spec::{Input, Mount, Spec, Variable};
use provender_core::transition::{Record, Void};
use provender_core::tree::Node;
use provender_core::{Digest, Execution, ExecutionId, Timestamp, Verdict};

use crate::v1;

mod answer;
mod compare;
mod event;
mod explain;
mod invalidate;
mod pins;
mod provenance;

pub use answer::{answer_from, answers_to};
pub use compare::{cause_from, cause_to, change_from, change_to, output_from, output_to, side_from, side_to};
pub use event::{event_from, event_to};
pub use explain::{explanation_from, explanation_to};
pub use invalidate::{voided_from, voided_to};
pub use pins::{pin_from, pin_to, pinned_from, pinned_to, whole_parts};
pub use provenance::{
    branch_from, branch_to, lineage_edge_from, lineage_edge_to, lineage_node_from, lineage_node_to, origin_from,
    origin_to, place_from, place_to,
};

/// Why a message is refused: the field, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Invalid {
    /// The field, as in the `.proto`.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl Invalid {
    /// A refusal of `field`.
    pub fn new(field: &'static str, why: impl ToString) -> Invalid {
        Invalid { field, why: why.to_string() }
    }
}

fn needed<T>(field: &'static str, value: Option<T>) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::new(field, "is missing"))
}

/// Digest to wire.
pub fn digest_to(digest: &Digest) -> v1::Digest {
    v1::Digest { hash: Bytes::copy_from_slice(&digest.hash), size: digest.size }
}

/// Digest from wire.
pub fn digest_from(field: &'static str, digest: &v1::Digest) -> Result<Digest, Invalid> {
    let hash = digest.hash[..].try_into().map_err(|_| Invalid::new(field, "a hash has 32 bytes"))?;
    Ok(Digest { hash, size: digest.size })
}

/// A digest that must be there, from wire.
pub fn needed_digest(field: &'static str, digest: Option<&v1::Digest>) -> Result<Digest, Invalid> {
    digest_from(field, needed(field, digest)?)
}

/// A digest that may be missing, from wire.
pub fn optional_digest(field: &'static str, digest: Option<&v1::Digest>) -> Result<Option<Digest>, Invalid> {
    digest.map(|digest| digest_from(field, digest)).transpose()
}

/// Many digests from wire, at most `most`.
pub fn digests_from(field: &'static str, digests: &[v1::Digest], most: usize) -> Result<Vec<Digest>, Invalid> {
    if digests.len() > most {
        return Err(Invalid::new(field, format!("{} are more than {most} in one call", digests.len())));
    }
    digests.iter().map(|digest| digest_from(field, digest)).collect()
}

/// Execution id from wire.
pub fn execution_id(field: &'static str, id: &[u8]) -> Result<ExecutionId, Invalid> {
    id.try_into().map(ExecutionId).map_err(|_| Invalid::new(field, "an execution id has 16 bytes"))
}

/// An execution id that may be absent, from wire: empty bytes.
pub fn optional_id(field: &'static str, id: &[u8]) -> Result<Option<ExecutionId>, Invalid> {
    if id.is_empty() { Ok(None) } else { execution_id(field, id).map(Some) }
}

/// Execution id to wire.
pub fn id_to(id: ExecutionId) -> Bytes {
    Bytes::copy_from_slice(&id.0)
}

/// Space from wire.
pub fn space(text: &str) -> Result<Space, Invalid> {
    Space::new(text).map_err(|error| Invalid::new("space", error))
}

/// A text for people, cut to `most` bytes.
pub fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
    }
    text
}

/// Task key from wire.
pub fn key(text: impl Into<String>) -> Result<TaskKey, Invalid> {
    TaskKey::try_from(text.into()).map_err(|error| Invalid::new("key", error))
}

/// Name from wire.
pub fn name(text: &str) -> Result<Name, Invalid> {
    Name::new(text).map_err(|error| Invalid::new("name", error))
}

/// Verdict to wire.
pub fn verdict_to(verdict: Verdict) -> v1::Verdict {
    match verdict {
        Verdict::Succeeded => v1::Verdict::Succeeded,
        Verdict::Running => v1::Verdict::Running,
        Verdict::Failed => v1::Verdict::Failed,
        Verdict::Abandoned => v1::Verdict::Abandoned,
        Verdict::Lost => v1::Verdict::Lost,
        Verdict::Evicted => v1::Verdict::Evicted,
        Verdict::Invalidated => v1::Verdict::Invalidated,
        Verdict::Unknown => v1::Verdict::Unknown,
    }
}

/// Verdict from wire; one that this version does not know is refused rather than taken for another.
pub fn verdict_from(verdict: i32) -> Result<Verdict, Invalid> {
    Ok(match v1::Verdict::try_from(verdict) {
        Ok(v1::Verdict::Succeeded) => Verdict::Succeeded,
        Ok(v1::Verdict::Running) => Verdict::Running,
        Ok(v1::Verdict::Failed) => Verdict::Failed,
        Ok(v1::Verdict::Abandoned) => Verdict::Abandoned,
        Ok(v1::Verdict::Lost) => Verdict::Lost,
        Ok(v1::Verdict::Evicted) => Verdict::Evicted,
        Ok(v1::Verdict::Invalidated) => Verdict::Invalidated,
        Ok(v1::Verdict::Unknown) => Verdict::Unknown,
        _ => return Err(Invalid::new("verdict", format!("{verdict} is no verdict that this version knows"))),
    })
}

/// State to wire.
pub fn state_to(state: State) -> v1::State {
    match state {
        State::Running => v1::State::Running,
        State::Succeeded => v1::State::Succeeded,
        State::Failed => v1::State::Failed,
        State::Abandoned => v1::State::Abandoned,
    }
}

/// State from wire.
pub fn state_from(state: i32) -> Result<State, Invalid> {
    Ok(match v1::State::try_from(state) {
        Ok(v1::State::Running) => State::Running,
        Ok(v1::State::Succeeded) => State::Succeeded,
        Ok(v1::State::Failed) => State::Failed,
        Ok(v1::State::Abandoned) => State::Abandoned,
        _ => return Err(Invalid::new("state", format!("{state} is no state that this version knows"))),
    })
}

fn node_to(node: &Node) -> v1::Node {
    use v1::node::Node as Wire;
    let node = match node {
        Node::File { digest, executable } => {
            Wire::File(v1::node::File { digest: Some(digest_to(digest)), executable: *executable })
        }
        Node::Symlink { target } => Wire::Symlink(target.clone()),
        Node::Directory { digest } => Wire::Directory(digest_to(digest)),
    };
    v1::Node { node: Some(node) }
}

fn node_from(node: &v1::Node) -> Result<Node, Invalid> {
    use v1::node::Node as Wire;
    Ok(match needed("node", node.node.as_ref())? {
        Wire::File(file) => {
            Node::File { digest: needed_digest("file.digest", file.digest.as_ref())?, executable: file.executable }
        }
        Wire::Symlink(target) => Node::Symlink { target: target.clone() },
        Wire::Directory(digest) => Node::Directory { digest: digest_from("directory", digest)? },
    })
}

fn input_to(name: &Bytes, input: &Input) -> v1::Input {
    v1::Input {
        name: name.clone(),
        checked_out: input.mount == Mount::CheckedOut,
        content: input.content.as_ref().map(node_to),
        key: input.key.as_ref().map(TaskKey::to_string).unwrap_or_default(),
        execution: input.execution.map(id_to).unwrap_or_default(),
    }
}

fn input_from(input: &v1::Input) -> Result<(Bytes, Input), Invalid> {
    let into = Input {
        mount: if input.checked_out { Mount::CheckedOut } else { Mount::InPlace },
        content: input.content.as_ref().map(node_from).transpose()?,
        key: if input.key.is_empty() { None } else { Some(key(&input.key)?) },
        execution: optional_id("inputs.execution", &input.execution)?,
    };
    Ok((input.name.clone(), into))
}

/// Spec to wire.
pub fn spec_to(spec: &Spec) -> v1::Spec {
    let variable = |variable: &Variable| {
        use v1::variable::Value;
        let value = match variable {
            Variable::Unset => None,
            Variable::Plain(value) => Some(Value::Plain(value.clone())),
            Variable::Secret(hash) => Some(Value::Secret(Bytes::copy_from_slice(hash))),
        };
        Some(v1::Variable { value })
    };
    let env = spec.env.iter().map(|(name, value)| v1::EnvEntry { name: name.clone(), value: variable(value) });
    let inputs = spec.inputs.iter().map(|(name, input)| input_to(name, input));
    let required = spec.policy.required.iter();
    v1::Spec {
        name: spec.name.to_string(),
        command: spec.command.clone(),
        image: spec.image.clone(),
        code_version: spec.code_version.clone(),
        params: json_to(&spec.params),
        env: env.collect(),
        inputs: inputs.collect(),
        outputs: spec.outputs.clone(),
        policy: Some(v1::Policy {
            exit_codes: spec.policy.exit_codes.clone(),
            required: required
                .map(|(path, least)| v1::policy::Required { path: path.clone(), least_size: *least })
                .collect(),
            refuse_empty: spec.policy.refuse_empty,
        }),
        raw: spec.raw.clone(),
    }
}

/// Spec from wire.
pub fn spec_from(spec: &v1::Spec) -> Result<Spec, Invalid> {
    let mut into = Spec::new(name(&spec.name)?);
    into.command = spec.command.clone();
    into.image = spec.image.clone();
    into.code_version = spec.code_version.clone();
    into.params = json_from("params", &spec.params)?;
    for entry in &spec.env {
        use v1::variable::Value;
        let value = match entry.value.as_ref().and_then(|variable| variable.value.as_ref()) {
            None => Variable::Unset,
            Some(Value::Plain(value)) => Variable::Plain(value.clone()),
            Some(Value::Secret(hash)) => {
                Variable::Secret(hash[..].try_into().map_err(|_| Invalid::new("env.secret", "a hash has 32 bytes"))?)
            }
        };
        if into.env.insert(entry.name.clone(), value).is_some() {
            return Err(Invalid::new("env", format!("{:?} is there twice", String::from_utf8_lossy(&entry.name))));
        }
    }
    for input in &spec.inputs {
        let (name, value) = input_from(input)?;
        if into.inputs.insert(name, value).is_some() {
            return Err(Invalid::new("inputs", format!("{:?} is there twice", String::from_utf8_lossy(&input.name))));
        }
    }
    into.outputs = spec.outputs.clone();
    if let Some(policy) = &spec.policy {
        let required: BTreeMap<_, _> =
            policy.required.iter().map(|need| (need.path.clone(), need.least_size)).collect();
        let exit_codes = match &policy.exit_codes[..] {
            [] => Policy::default().exit_codes,
            codes => codes.to_vec(),
        };
        into.policy = Policy { exit_codes, required, refuse_empty: policy.refuse_empty };
    }
    check_paths(&into)?;
    into.raw = spec.raw.clone();
    Ok(into)
}

/// The most output paths that a spec may declare or require.
const MAX_PATHS: usize = 10_000;
/// The longest of them, in bytes: what Linux takes as a path.
const MAX_PATH: usize = 4_095;

fn check_paths(spec: &Spec) -> Result<(), Invalid> {
    if spec.outputs.len() + spec.policy.required.len() > MAX_PATHS {
        return Err(Invalid::new("outputs", format!("a spec declares at most {MAX_PATHS} paths")));
    }
    let inside = |path: &&Bytes| {
        let mut parts = path.split(|byte| *byte == b'/');
        path.len() <= MAX_PATH && parts.all(|part| !matches!(part, b"" | b"." | b".."))
    };
    match spec.outputs.iter().chain(spec.policy.required.keys()).find(|path| !inside(path)) {
        None => Ok(()),
        Some(path) => {
            let shown = cut(String::from_utf8_lossy(path).into_owned(), 256);
            let why = format!("{shown:?} is no path inside the outputs, such as a/b, of at most {MAX_PATH} bytes");
            Err(Invalid::new("outputs", why))
        }
    }
}

/// Executor to wire.
pub fn executor_to(executor: &Executor) -> v1::Executor {
    let Executor { program, user, host, pid } = executor.clone();
    v1::Executor { program, user, host, pid }
}

/// Executor from wire.
pub fn executor_from(executor: Option<&v1::Executor>) -> Executor {
    let v1::Executor { program, user, host, pid } = executor.cloned().unwrap_or_default();
    let brief = |text| cut(text, 256);
    Executor { program: brief(program), user: brief(user), host: brief(host), pid }
}

fn log_to(log: &Log) -> v1::Log {
    v1::Log { digest: Some(digest_to(&log.digest)), cut: log.cut }
}

fn log_from(log: &v1::Log) -> Result<Log, Invalid> {
    Ok(Log { digest: needed_digest("log.digest", log.digest.as_ref())?, cut: log.cut })
}

/// Outcome to wire.
pub fn outcome_to(outcome: &Outcome) -> v1::Outcome {
    let exit = outcome.exit.map(|exit| match exit {
        Exit::Code(code) => v1::exit::Exit::Code(code),
        Exit::Signal(signal) => v1::exit::Exit::Signal(signal),
    });
    let Usage { wall_ms, user_ms, system_ms, peak_rss } = outcome.usage;
    v1::Outcome {
        exit: exit.map(|exit| v1::Exit { exit: Some(exit) }),
        usage: Some(v1::Usage { wall_ms, user_ms, system_ms, peak_rss }),
        stdout: outcome.stdout.as_ref().map(log_to),
        stderr: outcome.stderr.as_ref().map(log_to),
        outputs: outcome.outputs.as_ref().map(digest_to),
        metrics: json_to(&outcome.metrics),
    }
}

/// Outcome from wire; an absent one is that of a command that never ran.
pub fn outcome_from(outcome: Option<&v1::Outcome>) -> Result<Outcome, Invalid> {
    let Some(outcome) = outcome else { return Ok(Outcome::default()) };
    let exit = outcome.exit.as_ref().and_then(|exit| exit.exit.as_ref()).map(|exit| match exit {
        v1::exit::Exit::Code(code) => Exit::Code(*code),
        v1::exit::Exit::Signal(signal) => Exit::Signal(*signal),
    });
    let v1::Usage { wall_ms, user_ms, system_ms, peak_rss } = outcome.usage.unwrap_or_default();
    Ok(Outcome {
        exit,
        usage: Usage { wall_ms, user_ms, system_ms, peak_rss },
        stdout: outcome.stdout.as_ref().map(log_from).transpose()?,
        stderr: outcome.stderr.as_ref().map(log_from).transpose()?,
        outputs: outcome.outputs.as_ref().map(|digest| digest_from("outputs", digest)).transpose()?,
        metrics: metrics_from(&outcome.metrics)?,
    })
}

fn metrics_from(metrics: &HashMap<String, String>) -> Result<Metrics, Invalid> {
    let size: usize = metrics.iter().map(|(name, value)| name.len() + value.len()).sum();
    match size {
        0..=MAX_METRICS => json_from("metrics", metrics),
        _ => Err(Invalid::new("metrics", format!("{size} bytes are more than {MAX_METRICS}"))),
    }
}

/// Named JSON values to wire.
fn json_to(values: &BTreeMap<String, serde_json::Value>) -> HashMap<String, String> {
    values.iter().map(|(name, value)| (name.clone(), value.to_string())).collect()
}

/// Named JSON values from wire.
fn json_from(
    field: &'static str,
    values: &HashMap<String, String>,
) -> Result<BTreeMap<String, serde_json::Value>, Invalid> {
    let value = |(name, value): (&String, &String)| match serde_json::from_str(value) {
        Ok(value) => Ok((name.clone(), value)),
        Err(error) => Err(Invalid::new(field, format!("{name}: {error}"))),
    };
    values.iter().map(value).collect()
}

/// Remarks to wire; none is absent.
pub fn remarks_to(remarks: &Remarks) -> Option<v1::Remarks> {
    let labels = remarks.labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let wire = || v1::Remarks { labels: labels.collect(), note: remarks.note.clone() };
    (*remarks != Remarks::default()).then(wire)
}

/// Remarks from wire.
pub fn remarks_from(remarks: Option<&v1::Remarks>) -> Result<Remarks, Invalid> {
    let Some(wire) = remarks else { return Ok(Remarks::default()) };
    let labels = wire.labels.clone().into_iter().collect();
    let remark = Remark { labels, remove: Vec::new(), note: Some(wire.note.clone()) };
    Remarks::default().with(&remark).map_err(|error| Invalid::new("remarks", error))
}

/// Execution to wire.
pub fn execution_to(execution: &Execution) -> v1::Execution {
    v1::Execution {
        id: id_to(execution.id),
        key: execution.key.to_string(),
        name: execution.name.to_string(),
        spec: Some(digest_to(&execution.spec)),
        executor: Some(executor_to(&execution.executor)),
        began_ms: execution.began.millis(),
        ended_ms: execution.ended.map(Timestamp::millis),
        state: state_to(execution.state).into(),
        reason: execution.reason.clone(),
        outcome: Some(outcome_to(&execution.outcome)),
        folder: execution.folder.clone(),
        attested: execution.attested,
        diverges_from: execution.diverges_from.map(id_to).unwrap_or_default(),
        rule: execution.rule.clone(),
        remarks: remarks_to(&execution.remarks),
        closure: execution.closure.as_ref().map(digest_to),
    }
}

/// Execution from wire.
pub fn execution_from(execution: &v1::Execution) -> Result<Execution, Invalid> {
    Ok(Execution {
        id: execution_id("execution.id", &execution.id)?,
        key: key(&execution.key)?,
        name: name(&execution.name)?,
        spec: needed_digest("execution.spec", execution.spec.as_ref())?,
        executor: executor_from(execution.executor.as_ref()),
        began: Timestamp::from_millis(execution.began_ms),
        ended: execution.ended_ms.map(Timestamp::from_millis),
        state: state_from(execution.state)?,
        reason: execution.reason.clone(),
        outcome: outcome_from(execution.outcome.as_ref())?,
        folder: execution.folder.clone(),
        attested: execution.attested,
        diverges_from: optional_id("execution.diverges_from", &execution.diverges_from)?,
        rule: execution.rule.clone(),
        remarks: remarks_from(execution.remarks.as_ref())?,
        closure: optional_digest("execution.closure", execution.closure.as_ref())?,
    })
}

/// Record to wire.
pub fn record_to(record: &Record) -> v1::Record {
    let void = record.void.as_ref();
    v1::Record {
        execution: id_to(record.execution),
        outputs: Some(digest_to(&record.outputs)),
        closure: Some(digest_to(&record.closure)),
        committed_ms: record.committed.millis(),
        stamp: record.stamp,
        void: void.map(|void| v1::Void {
            verdict: verdict_to(void.verdict).into(),
            reason: void.reason.clone(),
            at_ms: void.at.millis(),
            rule: void.rule.clone(),
        }),
    }
}

/// Record from wire.
pub fn record_from(record: &v1::Record) -> Result<Record, Invalid> {
    let void = record.void.as_ref().map(|void| {
        let at = Timestamp::from_millis(void.at_ms);
        let (reason, rule) = (void.reason.clone(), void.rule.clone());
        // A loss is found at each lookup and not stored.
        Ok(Void { verdict: verdict_from(void.verdict)?, reason, at, blob: None, rule })
    });
    Ok(Record {
        execution: execution_id("record.execution", &record.execution)?,
        outputs: needed_digest("record.outputs", record.outputs.as_ref())?,
        closure: needed_digest("record.closure", record.closure.as_ref())?,
        committed: Timestamp::from_millis(record.committed_ms),
        stamp: record.stamp,
        void: void.transpose()?,
    })
}

/// Lease to wire.
pub fn lease_to(lease: &Lease) -> v1::Lease {
    let ttl_ms = u64::try_from(lease.ttl.as_millis()).unwrap_or(u64::MAX);
    v1::Lease { execution: id_to(lease.execution), beat: lease.beat, ttl_ms, incarnation: lease.incarnation }
}

/// Lease from wire.
pub fn lease_from(lease: &v1::Lease) -> Result<Lease, Invalid> {
    let execution = execution_id("lease.execution", &lease.execution)?;
    let ttl = Duration::from_millis(lease.ttl_ms);
    Ok(Lease { execution, beat: lease.beat, ttl, incarnation: lease.incarnation })
}

#[cfg(test)]
mod tests;
