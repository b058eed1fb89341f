//! An executor that is nothing but its gRPC calls, so that a test decides what it sends and when.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use provender_core::Digest;
use provender_core::tree::{Node, Tree};
use provender_proto::convert::digest_to;
use provender_proto::v1::begin_reply::Reply;
use provender_proto::v1::blobs_client::BlobsClient;
use provender_proto::v1::catalog_client::CatalogClient;
use provender_proto::v1::tasks_client::TasksClient;
use provender_proto::v1::upload_request::{Begin, Request as Part};
use provender_proto::v1::{self, Verdict};
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// One connection of its own.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    tasks: TasksClient<Channel>,
    blobs: BlobsClient<Channel>,
    catalog: CatalogClient<Channel>,
}

/// The answers to a begin.
pub(crate) struct Asked {
    /// The id that it asked with.
    pub(crate) id: Bytes,
    replies: Streaming<v1::BeginReply>,
}

impl Asked {
    /// The next answer.
    pub(crate) async fn next(&mut self) -> Result<Reply, Status> {
        let reply = self.replies.message().await?.expect("an answer comes before the end");
        Ok(reply.reply.expect("an answer says something"))
    }

    /// The last answer: what comes after it was told, as often as there is need, who is in the way.
    pub(crate) async fn last(&mut self) -> Result<Reply, Status> {
        loop {
            match self.next().await? {
                Reply::Busy(_) => {}
                reply => return Ok(reply),
            }
        }
    }
}

impl Raw {
    /// Connects.
    pub(crate) async fn to(remote: &str) -> Raw {
        Raw::reach(remote).await.unwrap()
    }

    /// Connects, if somebody is there.
    pub(crate) async fn reach(remote: &str) -> Result<Raw, tonic::transport::Error> {
        let channel = Endpoint::from_shared(remote.to_owned()).unwrap().connect().await?;
        let (tasks, blobs) = (TasksClient::new(channel.clone()), BlobsClient::new(channel.clone()));
        Ok(Raw { tasks, blobs, catalog: CatalogClient::new(channel) })
    }

    /// Asks for a hit or a lease of a key, under the name that it has without its scheme, and waits for others.
    pub(crate) async fn begin(&self, key: &str, ttl_ms: u64, outputs: &[&str]) -> Result<Asked, Status> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).unwrap();
        let id = Bytes::copy_from_slice(&id);
        let name = key.split_once(':').map_or(key, |(_, name)| name).into();
        let outputs = outputs.iter().map(|path| Bytes::copy_from_slice(path.as_bytes())).collect();
        let spec = Some(v1::Spec { name, outputs, ..Default::default() });
        let (key, execution) = (key.into(), id.clone());
        let request = v1::BeginRequest { key, spec, execution, ttl_ms, wait: true, ..Default::default() };
        let replies = self.tasks.clone().begin(request).await?.into_inner();
        Ok(Asked { id, replies })
    }

    /// The same: the lease that it gets, or none if the key has succeeded.
    pub(crate) async fn lease_or_hit(&self, key: &str, ttl_ms: u64, outputs: &[&str]) -> Result<Option<Bytes>, Status> {
        let mut asked = self.begin(key, ttl_ms, outputs).await?;
        match asked.last().await? {
            Reply::Lease(_) => Ok(Some(asked.id)),
            Reply::Hit(_) => Ok(None),
            other => Err(Status::failed_precondition(format!("no lease of {key} but {other:?}"))),
        }
    }

    /// The same, which must be given a lease.
    pub(crate) async fn lease(&self, key: &str, ttl_ms: u64, outputs: &[&str]) -> Bytes {
        let mut asked = self.begin(key, ttl_ms, outputs).await.unwrap();
        match asked.last().await.unwrap() {
            Reply::Lease(_) => asked.id,
            other => panic!("no lease of {key} but {other:?}"),
        }
    }

    pub(crate) async fn heartbeat(&self, execution: &Bytes) -> Result<(), Status> {
        let request = v1::HeartbeatRequest { execution: execution.clone(), ..Default::default() };
        self.tasks.clone().heartbeat(request).await.map(drop)
    }

    /// Commits, as what was exited from with 0.
    pub(crate) async fn commit(&self, execution: &Bytes, outputs: Option<Digest>) -> Result<v1::Execution, Status> {
        let exit = Some(v1::Exit { exit: Some(v1::exit::Exit::Code(0)) });
        let outcome = v1::Outcome { exit, outputs: outputs.as_ref().map(digest_to), ..Default::default() };
        let request = v1::CommitRequest { execution: execution.clone(), outcome: Some(outcome), ..Default::default() };
        Ok(self.tasks.clone().commit(request).await?.into_inner().execution.unwrap())
    }

    pub(crate) async fn fail(&self, execution: &Bytes, reason: &str) -> Result<v1::Execution, Status> {
        let (execution, reason) = (execution.clone(), reason.into());
        let request = v1::FailRequest { execution, reason, ..Default::default() };
        Ok(self.tasks.clone().fail(request).await?.into_inner().execution.unwrap())
    }

    /// Sends bytes once: of a whole blob, or of one whose digest is told from an offset on. The tier in which they are durable.
    pub(crate) async fn send(&self, bytes: &Bytes, of: Option<(Digest, u64)>) -> Result<String, Status> {
        let sent = self.blobs.clone().upload(stream::iter(parts(bytes, of))).await;
        sent.map(|reply| reply.into_inner().durable_in)
    }

    /// The same from the beginning, but does not end: whoever drops it breaks it off.
    pub(crate) async fn send_and_stay(&self, bytes: &Bytes, digest: Digest) -> Result<(), Status> {
        let parts = stream::iter(parts(bytes, Some((digest, 0))));
        self.blobs.clone().upload(parts.chain(stream::pending())).await.map(drop)
    }

    /// Uploads a tree of one file, `out`; its digest.
    pub(crate) async fn upload(&self, content: Vec<u8>) -> Digest {
        let mut tree = Tree::new();
        let node = Node::File { digest: Digest::of(&content), executable: false };
        tree.insert("out", node).unwrap();
        let tree = tree.encode().unwrap();
        let root = Digest::of(&tree);
        for bytes in [content.into(), tree] {
            self.send(&bytes, None).await.unwrap();
        }
        root
    }

    /// The verdicts of keys, at most 10,000.
    pub(crate) async fn lookup(&self, keys: Vec<String>) -> Vec<v1::lookup_reply::Answer> {
        let request = v1::LookupRequest { keys, ..Default::default() };
        self.tasks.clone().lookup(request).await.unwrap().into_inner().answers
    }

    /// The verdict of one key.
    pub(crate) async fn verdict(&self, key: &str) -> Verdict {
        self.lookup(vec![key.into()]).await[0].verdict()
    }

    /// The executions of a key, newest first, at most 1,000.
    pub(crate) async fn history(&self, key: &str) -> Vec<v1::Execution> {
        let of = Some(v1::history_request::Of::Key(key.into()));
        let request = v1::HistoryRequest { of, limit: 1_000, ..Default::default() };
        self.catalog.clone().history(request).await.unwrap().into_inner().executions
    }
}

/// The messages of an upload.
fn parts(bytes: &Bytes, of: Option<(Digest, u64)>) -> Vec<v1::UploadRequest> {
    let (digest, offset) = of.map_or((None, 0), |(digest, offset)| (Some(digest_to(&digest)), offset));
    let begin = Part::Begin(Begin { digest, offset, ..Begin::default() });
    let data = bytes.chunks(1 << 20).map(|piece| Part::Data(bytes.slice_ref(piece)));
    let parts = std::iter::once(begin).chain(data);
    parts.map(|part| v1::UploadRequest { request: Some(part) }).collect()
}

/// Waits until a key's verdict is as it should be.
pub(crate) async fn until(raw: &Raw, key: &str, holds: impl Fn(Verdict) -> bool) {
    for _ in 0..3_000 {
        if holds(raw.verdict(key).await) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain: {key} is {:?}", raw.verdict(key).await);
}

/// Beats, as soon and as often as there is need, until it is told no.
pub(crate) fn keep(raw: &Raw, execution: &Bytes) -> tokio::task::JoinHandle<Status> {
    let (raw, execution) = (raw.clone(), execution.clone());
    tokio::spawn(async move {
        loop {
            if let Err(status) = raw.heartbeat(&execution).await {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    })
}
