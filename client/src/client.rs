//! The daemon's API over `core` types.
//!
//! Owns [`Client`]: one method a call, with the wire's types converted and statuses turned into [`ClientError`]. The connection
//! is made again by itself when it breaks. It must not know rules or files.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use hyper_util::rt::TokioIo;
use prost::Message;
use provender_core::execution::{Executor, Outcome};
use provender_core::key::TaskKey;
use provender_core::name::Space;
use provender_core::{Digest, Execution, ExecutionId, Spec, Timestamp, Verdict};
use provender_proto::convert::{self, Invalid};
use provender_proto::v1::begin_reply::Reply;
use provender_proto::v1::blobs_client::BlobsClient;
use provender_proto::v1::catalog_client::CatalogClient;
use provender_proto::v1::tasks_client::TasksClient;
use provender_proto::{MAX_BATCH_BYTES, MAX_REGISTERED, v1};
use tokio::net::UnixStream;
use tonic::codegen::InterceptedService;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Request, Status, Streaming};

use crate::error::{ClientError, causes};
use crate::remote::{Address, Remote};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection to a daemon, cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    address: Arc<str>,
    space: Space,
    tasks: TasksClient<Authorized>,
    blobs: BlobsClient<Authorized>,
    catalog: CatalogClient<Authorized>,
}

type Authorized = InterceptedService<Channel, Token>;

/// Shows the token, if there is one.
#[derive(Debug, Clone)]
struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// What a lookup says of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The verdict.
    pub verdict: Verdict,
    /// The execution that it rests on.
    pub execution: Option<ExecutionId>,
    /// The outputs of a success.
    pub outputs: Option<Digest>,
    /// Why it is not SUCCEEDED, for people.
    pub reason: String,
}

/// What `begin` says; `Busy` may come first, the others are the last word.
#[derive(Debug, Clone, PartialEq)]
pub enum Begun {
    /// It is done.
    Hit(Box<Execution>),
    /// Do it, and beat within this time.
    Lease(Duration),
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
}

/// A name and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: String,
    /// Its newest success.
    pub latest: Option<Execution>,
    /// Its newest attempt.
    pub last: Option<Execution>,
}

/// What a reference points at.
#[derive(Debug, Clone, PartialEq)]
pub enum Described {
    /// An execution.
    Task(Box<Task>),
    /// Bytes.
    Blob(Digest),
    /// A directory.
    Tree(Digest),
    /// A key that was registered and never attempted.
    Registered(Box<Registered>),
}

/// A key that was registered, what it stands for, and what a lookup says.
#[derive(Debug, Clone, PartialEq)]
pub struct Registered {
    /// The key.
    pub key: TaskKey,
    /// What it stands for.
    pub spec: Spec,
    /// Its verdict.
    pub verdict: Verdict,
    /// Why that is not SUCCEEDED.
    pub reason: String,
}

/// An execution, what it was to do, and what a lookup of its key says.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// The execution.
    pub execution: Execution,
    /// Its spec.
    pub spec: Spec,
    /// The verdict of its key.
    pub verdict: Verdict,
    /// Why that is not SUCCEEDED.
    pub reason: String,
}

impl Client {
    /// Connects, and fails if nobody answers.
    pub async fn connect(remote: &Remote, space: Space) -> Result<Client, ClientError> {
        let address: Arc<str> = remote.address.to_string().into();
        let unreachable = |error: &dyn std::error::Error| ClientError::Unreachable {
            address: address.to_string(),
            why: causes(error),
        };
        let channel = match &remote.address {
            Address::Unix(path) => {
                let path = path.clone();
                let connector = tower::service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                let endpoint = tuned(Endpoint::from_static("http://localhost"));
                endpoint.connect_with_connector(connector).await.map_err(|error| unreachable(&error))?
            }
            Address::Http(url) => {
                let mut endpoint = Endpoint::from_shared(url.clone()).map_err(|error| unreachable(&error))?;
                if url.starts_with("https:") {
                    let mut tls = ClientTlsConfig::new().with_enabled_roots();
                    if let Some(ca) = &remote.ca {
                        tls = tls.ca_certificate(Certificate::from_pem(ca));
                    }
                    if let Some((cert, key)) = &remote.identity {
                        tls = tls.identity(Identity::from_pem(cert, key));
                    }
                    endpoint = endpoint.tls_config(tls).map_err(|error| unreachable(&error))?;
                }
                tuned(endpoint).connect().await.map_err(|error| unreachable(&error))?
            }
        };
        let token = remote.token.as_ref().map(|token| format!("Bearer {token}").parse());
        let token = Token(token.transpose().map_err(|_| ClientError::Denied("the token is not plain text".into()))?);
        let max = provender_proto::MAX_MESSAGE;
        Ok(Client {
            address: address.clone(),
            space,
            tasks: TasksClient::with_interceptor(channel.clone(), token.clone()).max_decoding_message_size(max),
            blobs: BlobsClient::with_interceptor(channel.clone(), token.clone()).max_decoding_message_size(max),
            catalog: CatalogClient::with_interceptor(channel, token).max_decoding_message_size(max),
        })
    }

    fn space(&self) -> String {
        self.space.as_str().to_owned()
    }

    fn failed(&self) -> impl Fn(Status) -> ClientError + Send + Sync + 'static {
        let address = self.address.clone();
        move |status| ClientError::of(&address, status)
    }

    /// The verdicts of keys, in their order.
    pub async fn lookup(&self, keys: &[TaskKey]) -> Result<Vec<Answer>, ClientError> {
        let keys = keys.iter().map(TaskKey::to_string).collect();
        let request = v1::LookupRequest { space: self.space(), keys };
        let reply = self.tasks.clone().lookup(request).await.map_err(self.failed())?.into_inner();
        let answer = |answer: v1::lookup_reply::Answer| {
            let id = Some(&answer.execution).filter(|id| !id.is_empty());
            Ok(Answer {
                verdict: convert::verdict_from(answer.verdict)?,
                execution: id.map(|id| convert::execution_id("execution", id)).transpose()?,
                outputs: answer.outputs.as_ref().map(|digest| convert::digest_from("outputs", digest)).transpose()?,
                reason: answer.reason,
            })
        };
        reply.answers.into_iter().map(answer).collect()
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
        };
        let mut replies = self.tasks.clone().begin(request).await.map_err(self.failed())?.into_inner();
        let mut last = None;
        while let Some(reply) = replies.message().await.map_err(self.failed())? {
            let execution = |execution: &v1::Execution| convert::execution_from(execution).map(Box::new);
            last = Some(match reply.reply.as_ref() {
                Some(Reply::Hit(hit)) => return Ok(Begun::Hit(execution(hit)?)),
                Some(Reply::Lease(lease)) => return Ok(Begun::Lease(Duration::from_millis(lease.ttl_ms))),
                Some(Reply::Failed(failed)) => return Ok(Begun::Failed(execution(failed)?)),
                Some(Reply::Busy(holder)) => {
                    let holder = execution(holder)?;
                    busy(&holder);
                    Begun::Busy(holder)
                }
                None => return Err(Invalid::new("reply", "is of a kind that this version does not know").into()),
            });
        }
        last.ok_or_else(|| Invalid::new("reply", "is missing").into())
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

    /// Which of the digests (at most 50,000) the daemon does not hold.
    pub async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, ClientError> {
        let digests = digests.iter().map(convert::digest_to).collect();
        let request = v1::FindMissingRequest { space: self.space(), digests };
        let reply = self.blobs.clone().find_missing(request).await.map_err(self.failed())?.into_inner();
        Ok(convert::digests_from("missing", &reply.missing, usize::MAX)?)
    }

    /// Sends one blob in pieces of at most 1 MiB; what its bytes came to.
    pub async fn upload(
        &self,
        digest: Option<&Digest>,
        pieces: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Digest, ClientError> {
        use futures::StreamExt;
        use v1::upload_request::{Begin, Request as Part};
        let digest = digest.map(convert::digest_to);
        let begin = Part::Begin(Begin { space: self.space(), digest });
        let parts = futures::stream::iter([begin]).chain(pieces.map(Part::Data));
        let parts = parts.map(|part| v1::UploadRequest { request: Some(part) });
        let reply = self.blobs.clone().upload(parts).await.map_err(self.failed())?.into_inner();
        Ok(convert::needed_digest("digest", reply.digest.as_ref())?)
    }

    /// Sends many small blobs (at most 10,000 and 3 MiB together); their digests in order.
    pub async fn batch_put(&self, blobs: Vec<Bytes>) -> Result<Vec<Digest>, ClientError> {
        let request = v1::BatchPutRequest { space: self.space(), blobs };
        let reply = self.blobs.clone().batch_put(request).await.map_err(self.failed())?.into_inner();
        Ok(convert::digests_from("digests", &reply.digests, usize::MAX)?)
    }

    /// Many small blobs (at most 10,000 and 3 MiB together), in order; `None` where the daemon holds none.
    pub async fn batch_get(&self, digests: &[Digest]) -> Result<Vec<Option<Bytes>>, ClientError> {
        let digests = digests.iter().map(convert::digest_to).collect();
        let request = v1::BatchGetRequest { space: self.space(), digests };
        let reply = self.blobs.clone().batch_get(request).await.map_err(self.failed())?.into_inner();
        Ok(reply.items.into_iter().map(|item| item.data).collect())
    }

    /// A blob from `offset` on, `length` bytes of it (0: to its end), in pieces.
    pub async fn download(&self, digest: &Digest, offset: u64, length: u64) -> Result<Download, ClientError> {
        let digest = Some(convert::digest_to(digest));
        let request = v1::DownloadRequest { space: self.space(), digest, offset, length };
        let replies = self.blobs.clone().download(request).await.map_err(self.failed())?.into_inner();
        Ok(Download { address: self.address.clone(), replies })
    }

    /// Keeps a blob or tree for a while; until when.
    pub async fn keep(&self, digest: &Digest, tree: bool, owner: &str, reason: &str) -> Result<Timestamp, ClientError> {
        let request = v1::KeepRequest {
            space: self.space(),
            digest: Some(convert::digest_to(digest)),
            tree,
            owner: owner.into(),
            reason: reason.into(),
            for_ms: u64::MAX,
        };
        let reply = self.blobs.clone().keep(request).await.map_err(self.failed())?.into_inner();
        Ok(Timestamp::from_millis(reply.until_ms))
    }

    /// One page of the names that begin with a text, after another one; whether there are more.
    pub async fn names(&self, prefix: &str, after: &str) -> Result<(Vec<Named>, bool), ClientError> {
        let request =
            v1::ListNamesRequest { space: self.space(), prefix: prefix.into(), after: after.into(), limit: 0 };
        let reply = self.catalog.clone().list_names(request).await.map_err(self.failed())?.into_inner();
        let execution = |execution: Option<v1::Execution>| execution.as_ref().map(convert::execution_from).transpose();
        let named = |entry: v1::list_names_reply::Entry| {
            Ok(Named { name: entry.name, latest: execution(entry.latest)?, last: execution(entry.last)? })
        };
        let names = reply.names.into_iter().map(named).collect::<Result<_, ClientError>>()?;
        Ok((names, reply.more))
    }

    /// One page of a name's executions (or of a key's), newest first, and the cursor of the next one.
    pub async fn history(
        &self,
        of: Result<&str, &TaskKey>,
        failed_only: bool,
        cursor: Bytes,
        limit: u32,
    ) -> Result<(Vec<Execution>, Option<Bytes>), ClientError> {
        use v1::history_request::Of;
        let of = match of {
            Ok(name) => Of::Name(name.to_owned()),
            Err(key) => Of::Key(key.to_string()),
        };
        let request = v1::HistoryRequest { space: self.space(), of: Some(of), failed_only, cursor, limit };
        let reply = self.catalog.clone().history(request).await.map_err(self.failed())?.into_inner();
        let executions = reply.executions.iter().map(convert::execution_from).collect::<Result<_, _>>()?;
        Ok((executions, Some(reply.cursor).filter(|cursor| !cursor.is_empty())))
    }

    /// What a reference points at.
    pub async fn describe(&self, reference: &provender_core::Ref) -> Result<Described, ClientError> {
        use v1::describe_reply::Is;
        let request = v1::DescribeRequest { space: self.space(), r#ref: reference.to_string() };
        let reply = self.catalog.clone().describe(request).await.map_err(self.failed())?.into_inner();
        let missing = |field| Invalid::new(field, "is missing");
        Ok(match reply.is.ok_or_else(|| missing("is"))? {
            Is::Blob(digest) => Described::Blob(convert::digest_from("blob", &digest)?),
            Is::Tree(digest) => Described::Tree(convert::digest_from("tree", &digest)?),
            Is::Registered(registered) => Described::Registered(Box::new(Registered {
                key: convert::key(&registered.key)?,
                spec: convert::spec_from(registered.spec.as_ref().ok_or_else(|| missing("spec"))?)?,
                verdict: convert::verdict_from(registered.verdict)?,
                reason: registered.reason,
            })),
            Is::Task(task) => Described::Task(Box::new(Task {
                execution: convert::execution_from(task.execution.as_ref().ok_or_else(|| missing("execution"))?)?,
                spec: convert::spec_from(task.spec.as_ref().ok_or_else(|| missing("spec"))?)?,
                verdict: convert::verdict_from(task.verdict)?,
                reason: task.reason,
            })),
        })
    }
}

/// The pieces of a blob, as they come.
#[derive(Debug)]
pub struct Download {
    address: Arc<str>,
    replies: Streaming<v1::DownloadReply>,
}

impl Download {
    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        let reply = self.replies.message().await.map_err(|status| ClientError::of(&self.address, status))?;
        Ok(reply.map(|reply| reply.data))
    }
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
}
