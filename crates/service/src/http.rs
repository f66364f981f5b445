//! What an orchestrator and Prometheus ask over HTTP, on the admin port.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Redirect};
use axum::routing::get;

use crate::{Health, Metrics};

/// Prometheus's text format.
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `/`, where the status page was before it moved to the public port: a redirect to that. `address` is where that port is,
/// once it is open; `secure` if it speaks TLS.
pub fn moved(secure: bool, address: Arc<OnceLock<String>>) -> Router {
    let scheme = if secure { "https" } else { "http" };
    let redirect = move |uri: Uri, headers: HeaderMap| async move {
        let Some((listens, port)) = address.get().and_then(|address| address.rsplit_once(':')) else {
            return (StatusCode::SERVICE_UNAVAILABLE, "the public port is not open yet\n").into_response();
        };
        let host = host(&uri, &headers);
        Redirect::temporary(&format!("{scheme}://{}:{port}/", host.as_deref().unwrap_or(listens))).into_response()
    };
    Router::new().route("/", get(redirect))
}

/// The host that a request is for, as it says: HTTP/2 has it in the address, HTTP/1.1 in a header.
pub fn host(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let header = || Some(headers.get(HOST)?.to_str().ok()?.parse::<Authority>().ok()?.host().to_owned());
    uri.host().map(str::to_owned).or_else(header)
}

/// `/metrics` for Prometheus, `/livez` that is always well, and `/readyz` that says why the process is not ready.
pub fn admin(metrics: Metrics, health: Health) -> Router {
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
