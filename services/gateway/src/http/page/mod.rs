//! The page for people, and what it is made of, for those who would rather have JSON.
//!
//! | route | answer |
//! |---|---|
//! | `GET /` | `page.html`: all of it, with nothing to build and nothing to fetch from elsewhere |
//! | `GET /api/status` | what `StatusService` says |
//! | `POST /api/score` | the scores of one prompt's responses |
//!
//! Enums are in lower case and without their prefix, as in what `assay score` writes.

mod score;

use std::sync::Arc;

use proto::v1;
use service::axum::extract::{DefaultBodyLimit, State};
use service::axum::http::HeaderValue;
use service::axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use service::axum::middleware::map_response;
use service::axum::response::{Html, Response};
use service::axum::routing::{get, post};
use service::axum::{Json, Router};

use super::Door;

const PAGE: &str = include_str!("page.html");
/// The largest body that is read; whoever has more to score speaks gRPC.
const LARGEST_BODY: usize = 4 << 20;
/// Of scripts, only the one in the page runs: this is its digest, and a test says what it should be.
const POLICY: &str = "default-src 'none'; script-src 'sha256-eLD0AZI0GNeX9en7U1pazuOC9bAgbS/5tfi0TMacgtQ='; \
    style-src 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";
/// What every answer says to a browser.
const HEADERS: [(HeaderName, &str); 4] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
];

/// The routes.
pub(super) fn routes(door: &Door) -> Router<Arc<Door>> {
    let largest = DefaultBodyLimit::max(door.largest.min(LARGEST_BODY));
    Router::new()
        .route("/", get(async || Html(PAGE)))
        .route("/api/status", get(status))
        .route("/api/score", post(score::score).layer(largest))
        .layer(map_response(with_headers))
}

async fn status(State(door): State<Arc<Door>>) -> Json<v1::GetStatusResponse> {
    Json(door.observer.status().await)
}

async fn with_headers(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests;
