//! `provender.v1.Tasks`: what executors ask.

use std::time::Duration;

use prost::Message;
use provender_core::execution::{Executor, Outcome};
use provender_core::key::TaskKey;
use provender_core::remarks::{Remark, Remarks};
use provender_core::{Answer, Execution, ExecutionId, Spec};
use provender_proto::convert::{self, Invalid};
use provender_proto::v1::begin_reply::Reply;
use provender_proto::{MAX_BATCH_BYTES, MAX_KEYS, MAX_REGISTERED, v1};

use super::Client;
use crate::error::ClientError;

/// How long the end of a stream is waited for after its last word.
const REST: Duration = Duration::from_secs(1);

/// What `begin` says; `Busy` may come first, the others are the last word.
#[derive(Debug, Clone, PartialEq)]
pub enum Begun {
    /// It is done.
    Hit(Box<Execution>),
    /// Do it, and beat within this time.
    Lease(Duration),
    /// Do it again, as was asked for, and beat within this time; the record, which this execution made, stays the answer.
    Check(Duration, ExecutionId),
    /// This one is at it.
    Busy(Box<Execution>),
    /// This one, which was waited for, failed.
    Failed(Box<Execution>),
}

/// What an executor asks with.
#[derive(Debug, Clone, PartialEq)]
pub struct Begin<'a> {
    /// The key.
    pub key: &'a TaskKey,
    /// What it stands for.
    pub spec: &'a Spec,
    /// The id of the attempt.
    pub execution: ExecutionId,
    /// Who asks.
    pub executor: &'a Executor,
    /// How long the lease shall last; zero for the daemon's default.
    pub ttl: Duration,
    /// Whether to wait while somebody else is at it.
    pub wait: bool,
    /// Whether to do it although there is a record.
    pub check: bool,
    /// What is said of the attempt from the first.
    pub remarks: Remarks,
}

impl Client {
    /// The verdicts of keys, in their order; 10,000 of them in a call.
    pub async fn lookup(&self, keys: &[TaskKey]) -> Result<Vec<Answer>, ClientError> {
        let mut answers = Vec::with_capacity(keys.len());
        for keys in keys.chunks(MAX_KEYS) {
            let asked = keys.len();
            let keys = keys.iter().map(TaskKey::to_string).collect();
            let request = v1::LookupRequest { space: self.space(), keys };
            let found = self.tasks.clone().lookup(request).await.map_err(self.failed())?.into_inner().answers;
            if found.len() != asked {
                return Err(Invalid::new("answers", format!("are {} to {asked} keys", found.len())).into());
            }
            for answer in found {
                answers.push(convert::answer_from(answer)?);
            }
        }
        Ok(answers)
    }

    /// Asks for a hit or a lease. `busy` hears who is waited for; the return is the last word, `Busy` only without `wait`.
    pub async fn begin(&self, request: Begin<'_>, mut busy: impl FnMut(&Execution)) -> Result<Begun, ClientError> {
        let request = v1::BeginRequest {
            space: self.space(),
            key: request.key.to_string(),
            spec: Some(convert::spec_to(request.spec)),
            execution: convert::id_to(request.execution),
            executor: Some(convert::executor_to(request.executor)),
            ttl_ms: u64::try_from(request.ttl.as_millis()).unwrap_or(u64::MAX),
            wait: request.wait,
            check: request.check,
            remarks: convert::remarks_to(&request.remarks),
        };
        let mut replies = self.tasks.clone().begin(request).await.map_err(self.failed())?.into_inner();
        let mut last = None;
        while let Some(reply) = replies.message().await.map_err(self.failed())? {
            let begun = begun(reply)?;
            match &begun {
                Begun::Busy(holder) => busy(holder),
                _ => {
                    // To its end: a stream that is dropped before is reset, and many resets look like an attack. What was said stands.
                    let rest = async { while let Ok(Some(_)) = replies.message().await {} };
                    _ = tokio::time::timeout(REST, rest).await;
                    return Ok(begun);
                }
            }
            last = Some(begun);
        }
        last.ok_or_else(|| Invalid::new("reply", "is missing").into())
    }

    /// Changes what is said of an execution, and says what it is now.
    pub async fn annotate(&self, execution: ExecutionId, remark: &Remark) -> Result<Execution, ClientError> {
        let request = v1::AnnotateRequest {
            space: self.space(),
            execution: convert::id_to(execution),
            labels: remark.labels.clone().into_iter().collect(),
            remove: remark.remove.clone(),
            note: remark.note.clone(),
        };
        let reply = self.tasks.clone().annotate(request).await.map_err(self.failed())?.into_inner();
        let execution = reply.execution.ok_or_else(|| Invalid::new("execution", "is missing"))?;
        Ok(convert::execution_from(&execution)?)
    }

    /// Keeps a lease; says how long it lasts from now.
    pub async fn heartbeat(&self, execution: ExecutionId) -> Result<Duration, ClientError> {
        let request = v1::HeartbeatRequest { space: self.space(), execution: convert::id_to(execution) };
        let reply = self.tasks.clone().heartbeat(request).await.map_err(self.failed())?;
        Ok(Duration::from_millis(reply.into_inner().ttl_ms))
    }

    /// Ends an execution as a success, if the daemon agrees; how it ended, and whether it became the record.
    pub async fn commit(&self, execution: ExecutionId, outcome: &Outcome) -> Result<(Execution, bool), ClientError> {
        let outcome = Some(convert::outcome_to(outcome));
        let request = v1::CommitRequest { space: self.space(), execution: convert::id_to(execution), outcome };
        let reply = self.tasks.clone().commit(request).await.map_err(self.failed())?.into_inner();
        let ended = reply.execution.as_ref().ok_or_else(|| Invalid::new("execution", "is missing"))?;
        Ok((convert::execution_from(ended)?, reply.recorded))
    }

    /// Ends an execution as a failure.
    pub async fn fail(
        &self,
        execution: ExecutionId,
        reason: &str,
        outcome: &Outcome,
    ) -> Result<Execution, ClientError> {
        let outcome = Some(convert::outcome_to(outcome));
        let (execution, reason) = (convert::id_to(execution), reason.to_owned());
        let request = v1::FailRequest { space: self.space(), execution, reason, outcome };
        let reply = self.tasks.clone().fail(request).await.map_err(self.failed())?.into_inner();
        let ended = reply.execution.as_ref().ok_or_else(|| Invalid::new("execution", "is missing"))?;
        Ok(convert::execution_from(ended)?)
    }

    /// Makes known what keys stand for, without attempting them, in as many calls as it takes; whether the daemon knew nothing of
    /// each key, in their order. What was registered before an error stays so; asking again is harmless.
    pub async fn register(&self, tasks: &[(TaskKey, Spec)]) -> Result<Vec<bool>, ClientError> {
        let mut fresh = Vec::with_capacity(tasks.len());
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for (key, spec) in tasks {
            let entry = v1::register_request::Entry { key: key.to_string(), spec: Some(convert::spec_to(spec)) };
            let size = entry.encoded_len();
            if entries.len() == MAX_REGISTERED || (bytes + size > MAX_BATCH_BYTES && !entries.is_empty()) {
                fresh.extend(self.register_entries(std::mem::take(&mut entries)).await?);
                bytes = 0;
            }
            bytes += size;
            entries.push(entry);
        }
        if !entries.is_empty() {
            fresh.extend(self.register_entries(entries).await?);
        }
        Ok(fresh)
    }

    async fn register_entries(&self, entries: Vec<v1::register_request::Entry>) -> Result<Vec<bool>, ClientError> {
        let asked = entries.len();
        let request = v1::RegisterRequest { space: self.space(), entries };
        let fresh = self.tasks.clone().register(request).await.map_err(self.failed())?.into_inner().fresh;
        if fresh.len() != asked {
            return Err(Invalid::new("fresh", format!("answers {} of {asked}", fresh.len())).into());
        }
        Ok(fresh)
    }
}

fn begun(reply: v1::BeginReply) -> Result<Begun, Invalid> {
    let execution = |execution: &v1::Execution| convert::execution_from(execution).map(Box::new);
    Ok(match &reply.reply {
        Some(Reply::Hit(hit)) => Begun::Hit(execution(hit)?),
        Some(Reply::Lease(lease)) => {
            let ttl = Duration::from_millis(lease.ttl_ms);
            let checks = convert::optional_id("checks", &lease.checks)?;
            checks.map_or(Begun::Lease(ttl), |record| Begun::Check(ttl, record))
        }
        Some(Reply::Failed(failed)) => Begun::Failed(execution(failed)?),
        Some(Reply::Busy(holder)) => Begun::Busy(execution(holder)?),
        None => return Err(Invalid::new("reply", "is of a kind that this version does not know")),
    })
}
