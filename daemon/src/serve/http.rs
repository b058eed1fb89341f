//! Metrics and health over HTTP, on an address of their own.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Serves `/metrics`, `/healthz` (the process lives) and `/readyz` (it takes calls) until it stops.
pub async fn serve_http(
    listener: tokio::net::TcpListener,
    metrics: Arc<Metrics>,
    draining: CancellationToken,
    stopped: CancellationToken,
) -> std::io::Result<()> {
    let ready = move || async move {
        match draining.is_cancelled() {
            false => (StatusCode::OK, "ready\n"),
            true => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        }
    };
    let text = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    let router = Router::new()
        .route("/metrics", get(move || async move { (text, metrics.render()) }))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready));
    let address: Option<SocketAddr> = listener.local_addr().ok();
    tracing::info!(?address, "metrics and health over HTTP");
    axum::serve(listener, router).with_graceful_shutdown(stopped.cancelled_owned()).await
}
