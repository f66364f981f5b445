//! The HTTP port: what an orchestrator and Prometheus ask, beside the routes of the service itself.

use std::io;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::{Health, Metrics, Shutdown};

/// Prometheus's text format.
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers until the shutdown begins, and then what has been asked by then.
///
/// # Errors
/// If the listener breaks.
pub async fn serve(listener: TcpListener, router: Router, shutdown: Shutdown) -> io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(shutdown.begun()).await
}

/// `/metrics` for Prometheus, `/livez` that is always well, and `/readyz` that says why the process is not ready.
pub fn base_router(metrics: Metrics, health: Health) -> Router {
    let scrape = move || async move { ([(CONTENT_TYPE, METRICS_TEXT)], metrics.render()) };
    let readiness = move || async move {
        match health.unready().await {
            None => (StatusCode::OK, "ready\n".to_owned()),
            Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        }
    };
    Router::new()
        .route("/metrics", get(scrape))
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readiness))
}

#[cfg(test)]
mod tests;
