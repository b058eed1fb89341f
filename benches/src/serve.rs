//! Servers in processes of their own: the daemon, and one that does nothing.
//!
//! Both are this program run once more, so that they are compiled alike; they end when their standard input does. The one that
//! does nothing speaks the same protocol through the daemon's own listener, so it has the same transport.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use provender_client::Client;
use provender_core::Digest;
use provender_core::name::Space;
use provender_daemon::config::{Config, Flags};
use provender_daemon::serve::Unix;
use provender_proto::v1::blobs_server::{Blobs, BlobsServer};
use provender_proto::v1::tasks_server::{Tasks, TasksServer};
use provender_proto::{MAX_MESSAGE, convert, v1};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use crate::Result;

/// The argument that makes this program a server.
pub const COMMAND: &str = "serve";
const DAEMON: &str = "daemon";
const NOTHING: &str = "nothing";
const READY: &str = "ready";

/// A server and a connection to it.
pub struct Server {
    child: Child,
    /// The connection.
    pub client: Client,
}

impl Server {
    /// A daemon over the data in `dir`.
    pub async fn daemon(dir: &str) -> Result<Server> {
        Server::configured(dir, "").await
    }

    /// The same with a configuration of its own, in TOML.
    pub async fn configured(dir: &str, config: &str) -> Result<Server> {
        std::fs::write(config_of(dir), config)?;
        Server::spawn(DAEMON, dir, &format!("{dir}/provender.sock")).await
    }

    /// A server that answers `Upload` and `Lookup` without doing anything.
    pub async fn nothing() -> Result<Server> {
        Server::spawn(NOTHING, ".", "nothing.sock").await
    }

    async fn spawn(kind: &str, dir: &str, socket: &str) -> Result<Server> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([COMMAND, kind, dir]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if line.trim() != READY {
            return Err(format!("the {kind} server did not start").into());
        }
        let remote = provender_client::Remote::find(Some(&format!("unix:{socket}")))?;
        Ok(Server { client: Client::connect(&remote, Space::default()).await?, child })
    }

    /// The most memory that it ever had, in bytes.
    pub fn peak(&self) -> u64 {
        provender_tests::child::peak(rustix::process::Pid::from_child(&self.child))
    }

    /// The memory that it has now, in bytes, from which its peak counts from now on.
    pub fn settled(&self) -> Result<u64> {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?;
        Ok(self.peak())
    }

    /// The processor time that it has taken, to 10 ms: Linux counts it for others in hundredths of a second.
    pub fn processor(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // Behind the name, which may hold anything: the 12th and 13th are its own and the kernel's for it.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
        let ticks = fields.skip(11).take(2).map(str::parse::<u64>).sum::<std::result::Result<u64, _>>()?;
        Ok(Duration::from_millis(10 * ticks))
    }

    /// Ends it without letting it end anything.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        _ = self.child.wait();
    }
}

fn config_of(dir: &str) -> String {
    format!("{dir}.toml")
}

/// What the child does.
pub async fn serve(kind: &str, dir: &Path) -> Result<()> {
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    std::thread::spawn(move || {
        _ = std::io::stdin().read_to_end(&mut Vec::new());
        stopping.cancel();
    });
    let ready = || {
        println!("{READY}");
        _ = std::io::stdout().flush();
    };
    if kind == DAEMON {
        let flags = Flags {
            config: Some(config_of(&dir.display().to_string()).into()),
            data: Some(dir.into()),
            ..Flags::default()
        };
        return Ok(provender_daemon::run::run(Config::load(flags)?, stop, ready).await?);
    }
    let routes = Routes::new(TasksServer::new(Nothing).max_decoding_message_size(MAX_MESSAGE))
        .add_service(BlobsServer::new(Nothing).max_decoding_message_size(MAX_MESSAGE));
    let listener = Unix::bind(&dir.join("nothing.sock"), None)?;
    ready();
    Ok(listener.serve(routes, stop).await?)
}

/// Answers as if it had done what was asked.
struct Nothing;

type Empty<T> = futures::stream::Empty<std::result::Result<T, Status>>;

fn none<T>() -> std::result::Result<Response<T>, Status> {
    Err(Status::unimplemented("it does nothing"))
}

#[tonic::async_trait]
impl Tasks for Nothing {
    /// As many successes as keys, of the size that a daemon's answers have.
    async fn lookup(
        &self,
        request: Request<v1::LookupRequest>,
    ) -> std::result::Result<Response<v1::LookupReply>, Status> {
        let answer = v1::lookup_reply::Answer {
            verdict: v1::Verdict::Succeeded.into(),
            execution: vec![1; 16].into(),
            outputs: Some(convert::digest_to(&Digest { hash: [1; 32], size: 1 })),
            at_ms: 1_800_000_000_000,
            ..Default::default()
        };
        Ok(Response::new(v1::LookupReply { answers: vec![answer; request.get_ref().keys.len()] }))
    }

    type BeginStream = Empty<v1::BeginReply>;

    async fn begin(&self, _: Request<v1::BeginRequest>) -> std::result::Result<Response<Self::BeginStream>, Status> {
        none()
    }

    async fn heartbeat(
        &self,
        _: Request<v1::HeartbeatRequest>,
    ) -> std::result::Result<Response<v1::HeartbeatReply>, Status> {
        none()
    }

    async fn commit(&self, _: Request<v1::CommitRequest>) -> std::result::Result<Response<v1::CommitReply>, Status> {
        none()
    }

    async fn fail(&self, _: Request<v1::FailRequest>) -> std::result::Result<Response<v1::FailReply>, Status> {
        none()
    }

    async fn register(
        &self,
        _: Request<v1::RegisterRequest>,
    ) -> std::result::Result<Response<v1::RegisterReply>, Status> {
        none()
    }

    async fn annotate(
        &self,
        _: Request<v1::AnnotateRequest>,
    ) -> std::result::Result<Response<v1::AnnotateReply>, Status> {
        none()
    }

    type InvalidateStream = Empty<v1::InvalidateReply>;

    async fn invalidate(
        &self,
        _: Request<v1::InvalidateRequest>,
    ) -> std::result::Result<Response<Self::InvalidateStream>, Status> {
        none()
    }

    type WatchStream = Empty<v1::WatchReply>;

    async fn watch(&self, _: Request<v1::WatchRequest>) -> std::result::Result<Response<Self::WatchStream>, Status> {
        none()
    }
}

#[tonic::async_trait]
impl Blobs for Nothing {
    /// Takes everything, and says that it was nothing.
    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadRequest>>,
    ) -> std::result::Result<Response<v1::UploadReply>, Status> {
        let mut parts = request.into_inner();
        while parts.message().await?.is_some() {}
        Ok(Response::new(v1::UploadReply {
            digest: Some(convert::digest_to(&Digest::of(b""))),
            durable_in: String::new(),
        }))
    }

    async fn find_missing(
        &self,
        _: Request<v1::FindMissingRequest>,
    ) -> std::result::Result<Response<v1::FindMissingReply>, Status> {
        none()
    }

    async fn query_upload(
        &self,
        _: Request<v1::QueryUploadRequest>,
    ) -> std::result::Result<Response<v1::QueryUploadReply>, Status> {
        none()
    }

    type DownloadStream = Empty<v1::DownloadReply>;

    async fn download(
        &self,
        _: Request<v1::DownloadRequest>,
    ) -> std::result::Result<Response<Self::DownloadStream>, Status> {
        none()
    }

    async fn outboard(
        &self,
        _: Request<v1::OutboardRequest>,
    ) -> std::result::Result<Response<v1::OutboardReply>, Status> {
        none()
    }

    async fn batch_put(
        &self,
        _: Request<v1::BatchPutRequest>,
    ) -> std::result::Result<Response<v1::BatchPutReply>, Status> {
        none()
    }

    async fn batch_get(
        &self,
        _: Request<v1::BatchGetRequest>,
    ) -> std::result::Result<Response<v1::BatchGetReply>, Status> {
        none()
    }

    async fn keep(&self, _: Request<v1::KeepRequest>) -> std::result::Result<Response<v1::KeepReply>, Status> {
        none()
    }
}
