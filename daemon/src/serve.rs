//! The fronts: gRPC on a unix socket and TCP, metrics and health over HTTP.
//!
//! Owns listening, who may connect, and draining. Fronts translate and hold no rules: [`status`] is the one place for error -> gRPC
//! status. It must not know metadata engines or blob backends.

mod admin;
mod auth;
mod blobs;
mod catalog;
mod diff;
mod explain;
mod handover;
mod http;
mod invalidate;
mod listen;
mod pieces;
mod status;
mod tasks;
mod view;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use provender_proto::v1::admin_server::AdminServer;
use provender_proto::v1::blobs_server::BlobsServer;
use provender_proto::v1::catalog_server::CatalogServer;
use provender_proto::v1::tasks_server::TasksServer;
use provender_proto::v1::view_server::ViewServer;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::store::Store;

pub use auth::Tokens;
pub use handover::Handover;
pub use http::serve_http;
pub use listen::{ListenError, Tcp, Unix};

/// What all connections share.
#[derive(Debug, Clone)]
pub struct Front {
    store: Store,
    /// Cancelled when the daemon stops: who waits is told so.
    draining: CancellationToken,
}

/// The services of one server, and what tells its health. `own` is where the store itself is; `admin` says whether upkeep is among them.
pub async fn routes(store: &Store, own: &[PathBuf], draining: &CancellationToken, admin: bool) -> Routes {
    let front = || Front { store: store.clone(), draining: draining.clone() };
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<TasksServer<Front>>().await;
    health.set_serving::<BlobsServer<Front>>().await;
    health.set_serving::<CatalogServer<Front>>().await;
    health.set_serving::<ViewServer<Front>>().await;
    if admin {
        health.set_serving::<AdminServer<admin::Upkeep>>().await;
    }
    let stopping = draining.clone();
    tokio::spawn(async move {
        stopping.cancelled().await;
        health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        health.set_not_serving::<TasksServer<Front>>().await;
        health.set_not_serving::<BlobsServer<Front>>().await;
        health.set_not_serving::<CatalogServer<Front>>().await;
        health.set_not_serving::<ViewServer<Front>>().await;
        if admin {
            health.set_not_serving::<AdminServer<admin::Upkeep>>().await;
        }
    });
    let max = provender_proto::MAX_MESSAGE;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(provender_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let valid = "the committed descriptors are valid: a test reads them";
    let routes = Routes::new(TasksServer::new(front()).max_decoding_message_size(max))
        .add_service(BlobsServer::new(front()).max_decoding_message_size(max))
        .add_service(CatalogServer::new(front()).max_decoding_message_size(max))
        .add_service(ViewServer::new(front()).max_decoding_message_size(max))
        .add_service(health_service)
        .add_service(reflection().build_v1().expect(valid))
        // What older tools ask for.
        .add_service(reflection().build_v1alpha().expect(valid));
    match admin {
        true => routes.add_service(AdminServer::new(admin::Upkeep { front: front(), own: own.into() })),
        false => routes,
    }
}

/// A server with the settings that all listeners share.
fn server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .max_concurrent_streams(1024)
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
}
