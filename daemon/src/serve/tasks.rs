//! `provender.v1.Tasks` over the store.

use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use prost::Message;
use provender_core::key::TaskKey;
use provender_core::name::Space;
use provender_core::remarks::Remark;
use provender_core::transition::Request as Asked;
use provender_core::{ExecutionId, Spec};
use provender_proto::convert::{self, Invalid};
use provender_proto::v1::begin_reply::{Lease, Reply};
use provender_proto::v1::tasks_server::Tasks;
use provender_proto::{MAX_KEYS, MAX_REGISTERED, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Front;
use super::status::{counted, invalid, status};
use crate::store::{Begin, Store, StoreError};

/// How long a waiter trusts that it would have been woken.
const RECHECK: Duration = Duration::from_secs(10);
/// The largest spec, in bytes: an answer holds it beside other things.
const MAX_SPEC: usize = 2 << 20;

#[tonic::async_trait]
impl Tasks for Front {
    async fn lookup(&self, request: Request<v1::LookupRequest>) -> Result<Response<v1::LookupReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Lookup", async {
            if request.keys.len() > MAX_KEYS {
                let why = format!("{} are more than {MAX_KEYS} in one call", request.keys.len());
                return Err(Invalid::new("keys", why).into());
            }
            let keys = request.keys.into_iter().map(convert::key).collect::<Result<Vec<_>, _>>()?;
            let answers = self.store.lookup(&convert::space(&request.space)?, &keys).await?;
            Ok(v1::LookupReply { answers: convert::answers_to(answers) })
        })
        .await
    }

    type BeginStream = Pin<Box<dyn Stream<Item = Result<v1::BeginReply, Status>> + Send>>;

    async fn begin(&self, request: Request<v1::BeginRequest>) -> Result<Response<Self::BeginStream>, Status> {
        let request = request.into_inner();
        let space = convert::space(&request.space).map_err(invalid)?;
        let asked = asked(&request).map_err(invalid)?;
        let (replies, stream) = mpsc::channel(4);
        let front = self.clone();
        tokio::spawn(async move {
            let answered = front.answer(&space, &asked, request.wait, &replies);
            tokio::select! {
                // Who asked has gone.
                () = replies.closed() => {}
                result = answered => if let Err(error) = result {
                    _ = replies.send(Err(status(&error))).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn heartbeat(&self, request: Request<v1::HeartbeatRequest>) -> Result<Response<v1::HeartbeatReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Heartbeat", async {
            let id = convert::execution_id("execution", &request.execution)?;
            let ttl = self.store.heartbeat(&convert::space(&request.space)?, id).await?;
            Ok(v1::HeartbeatReply { ttl_ms: millis(ttl) })
        })
        .await
    }

    async fn commit(&self, request: Request<v1::CommitRequest>) -> Result<Response<v1::CommitReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Commit", async {
            let id = convert::execution_id("execution", &request.execution)?;
            let outcome = convert::outcome_from(request.outcome.as_ref())?;
            let (execution, recorded) = self.store.commit(&convert::space(&request.space)?, id, &outcome).await?;
            let (state, reason) = (execution.state.verdict(), execution.reason.as_deref());
            tracing::info!(key = %execution.key, execution = %id, name = %execution.name, %state, recorded, reason, "ended");
            let execution = Some(convert::execution_to(&execution));
            Ok(v1::CommitReply { execution, recorded, durable_in: self.store.tier().into() })
        })
        .await
    }

    async fn fail(&self, request: Request<v1::FailRequest>) -> Result<Response<v1::FailReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Fail", async {
            let id = convert::execution_id("execution", &request.execution)?;
            let outcome = convert::outcome_from(request.outcome.as_ref())?;
            let space = convert::space(&request.space)?;
            let execution = self.store.fail(&space, id, &request.reason, &outcome).await?;
            tracing::info!(key = %execution.key, execution = %id, name = %execution.name, reason = request.reason, "failed");
            Ok(v1::FailReply { execution: Some(convert::execution_to(&execution)) })
        })
        .await
    }

    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Register", async {
            if request.entries.len() > MAX_REGISTERED {
                let why = format!("{} are more than {MAX_REGISTERED} in one call", request.entries.len());
                return Err(Invalid::new("entries", why).into());
            }
            let entries = request.entries.iter();
            let tasks = entries.map(|entry| Ok((convert::key(&entry.key)?, spec(entry.spec.as_ref())?)));
            let tasks = tasks.collect::<Result<Vec<_>, Invalid>>()?;
            let fresh = self.store.register(&convert::space(&request.space)?, &tasks).await?;
            Ok(v1::RegisterReply { fresh })
        })
        .await
    }

    async fn annotate(&self, request: Request<v1::AnnotateRequest>) -> Result<Response<v1::AnnotateReply>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Annotate", async {
            let id = convert::execution_id("execution", &request.execution)?;
            let v1::AnnotateRequest { labels, remove, note, .. } = request;
            let remark = Remark { labels: labels.into_iter().collect(), remove, note };
            let execution = self.store.annotate(&convert::space(&request.space)?, id, &remark).await?;
            Ok(v1::AnnotateReply { execution: Some(convert::execution_to(&execution)) })
        })
        .await
    }

    type InvalidateStream = super::pieces::Pieces<v1::InvalidateReply>;

    async fn invalidate(
        &self,
        request: Request<v1::InvalidateRequest>,
    ) -> Result<Response<Self::InvalidateStream>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Invalidate", async { self.begin_invalidation(request) }).await
    }

    type WatchStream = super::watch::Replies;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        counted(self.store.metrics(), "Watch", self.begin_watch(request)).await
    }
}

impl Front {
    /// Answers a begin: at once, or once the holder that is in the way has ended.
    async fn answer(&self, space: &Space, asked: &Asked, wait: bool, replies: &Replies) -> Result<(), StoreError> {
        let mut waited_for: Option<ExecutionId> = None;
        if self.ask(space, asked, replies, &mut waited_for).await? || !wait {
            return Ok(());
        }
        // Only who has to wait is noted down; then it is asked again, so that no change falls in between.
        let (_counted, waiter) = (Waiting::new(&self.store), self.store.key_changes(space, &asked.key));
        loop {
            let changed = waiter.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.ask(space, asked, replies, &mut waited_for).await? {
                return Ok(());
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(RECHECK) => {}
                () = self.draining.cancelled() => return Err(StoreError::Draining),
            }
        }
    }

    /// Asks once, and replies; whether that was the last word. A holder that is in the way is replied when it is a new one.
    async fn ask(
        &self,
        space: &Space,
        asked: &Asked,
        replies: &Replies,
        waited_for: &mut Option<ExecutionId>,
    ) -> Result<bool, StoreError> {
        // Whoever has gone shall not be given what others wait for.
        if replies.is_closed() {
            return Ok(true);
        }
        match self.store.begin(space, asked, *waited_for).await? {
            Begin::Hit(execution) => send(replies, Reply::Hit(convert::execution_to(&execution))).await,
            Begin::Failed(execution) => send(replies, Reply::Failed(convert::execution_to(&execution))).await,
            Begin::Lease(execution, ttl, checks) => {
                tracing::info!(key = %asked.key, execution = %execution.id, name = %execution.name, "began");
                let checks = checks.map(convert::id_to).unwrap_or_default();
                send(replies, Reply::Lease(Lease { ttl_ms: millis(ttl), checks })).await;
            }
            Begin::Busy(holder) => {
                if waited_for.replace(holder.id) != Some(holder.id) {
                    send(replies, Reply::Busy(convert::execution_to(&holder))).await;
                }
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Where the answers to one begin go.
type Replies = mpsc::Sender<Result<v1::BeginReply, Status>>;

/// Replies. An error means that who asked has gone, which ends this task elsewhere.
async fn send(replies: &Replies, reply: Reply) {
    _ = replies.send(Ok(v1::BeginReply { reply: Some(reply) })).await;
}

/// Counts somebody who waits, until dropped.
struct Waiting(prometheus::IntGauge);

impl Waiting {
    fn new(store: &Store) -> Waiting {
        let gauge = store.metrics().waiting.clone();
        gauge.inc();
        Waiting(gauge)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn spec(spec: Option<&v1::Spec>) -> Result<Spec, Invalid> {
    let spec = spec.ok_or_else(|| Invalid::new("spec", "is missing"))?;
    if spec.encoded_len() > MAX_SPEC {
        return Err(Invalid::new("spec", format!("it has {} bytes, more than {MAX_SPEC}", spec.encoded_len())));
    }
    convert::spec_from(spec)
}

fn asked(request: &v1::BeginRequest) -> Result<Asked, Invalid> {
    let key: TaskKey = convert::key(&request.key)?;
    Ok(Asked {
        id: convert::execution_id("execution", &request.execution)?,
        key,
        spec: spec(request.spec.as_ref())?,
        executor: convert::executor_from(request.executor.as_ref()),
        ttl: Duration::from_millis(request.ttl_ms),
        check: request.check,
        remarks: convert::remarks_from(request.remarks.as_ref())?,
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
