//! The daemon's API over `core` types.
//!
//! Owns [`Client`]: one method a call, with the wire's types converted and statuses turned into [`ClientError`]; each room has those
//! of one service. The connection is made again by itself when it breaks. It must not know rules or files.

mod admin;
mod blobs;
mod catalog;
mod collect;
mod diff;
mod explain;
mod handover;
mod invalidate;
mod tasks;
mod usage;
mod view;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use provender_core::name::Space;
use provender_proto::v1::admin_client::AdminClient;
use provender_proto::v1::blobs_client::BlobsClient;
use provender_proto::v1::catalog_client::CatalogClient;
use provender_proto::v1::tasks_client::TasksClient;
use provender_proto::v1::view_client::ViewClient;
use tokio::net::UnixStream;
use tonic::codegen::InterceptedService;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Request, Status};

use crate::error::{ClientError, causes};
use crate::remote::{Address, Remote};

pub use admin::{BackupPhase, BackupProgress, BackupSummary, Verified};
pub use blobs::Download;
pub use catalog::{Described, Lineage, Named, Registered, Task};
pub use collect::{GcSummary, Going, PinId};
pub use invalidate::Invalidate;
pub use tasks::{Begin, Begun};
pub use usage::{Usage, UsageBy, UsageGroup};
pub use watch::{Heard, Watch, Watching};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection to a daemon, cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    address: Arc<str>,
    space: Space,
    /// The side socket of a daemon on this machine.
    #[cfg(target_os = "linux")]
    handover: Option<Arc<std::path::Path>>,
    tasks: TasksClient<Authorized>,
    blobs: BlobsClient<Authorized>,
    catalog: CatalogClient<Authorized>,
    view: ViewClient<Authorized>,
    admin: AdminClient<Authorized>,
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
        #[cfg(target_os = "linux")]
        let handover = match &remote.address {
            Address::Unix(path) => Some(provender_proto::handover::beside(path).into()),
            Address::Http(_) => None,
        };
        Ok(Client {
            address: address.clone(),
            space,
            #[cfg(target_os = "linux")]
            handover,
            tasks: TasksClient::with_interceptor(channel.clone(), token.clone()).max_decoding_message_size(max),
            blobs: BlobsClient::with_interceptor(channel.clone(), token.clone()).max_decoding_message_size(max),
            catalog: CatalogClient::with_interceptor(channel.clone(), token.clone()).max_decoding_message_size(max),
            view: ViewClient::with_interceptor(channel.clone(), token.clone()).max_decoding_message_size(max),
            admin: AdminClient::with_interceptor(channel, token).max_decoding_message_size(max),
        })
    }

    fn space(&self) -> String {
        self.space.as_str().to_owned()
    }

    fn failed(&self) -> impl Fn(Status) -> ClientError + Send + Sync + 'static {
        let address = self.address.clone();
        move |status| ClientError::of(&address, status)
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
