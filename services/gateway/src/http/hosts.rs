//! By which names browsers may ask. A page from elsewhere whose name is made to point at this machine (DNS rebinding) is
//! held off by nothing but the name that its requests then carry.

use std::net::IpAddr;
use std::sync::Arc;

use service::axum::Json;
use service::axum::extract::{Request, State};
use service::axum::http::StatusCode;
use service::axum::middleware::Next;
use service::axum::response::{IntoResponse as _, Response};
use service::http::host;
use service::net::is_loopback;

/// The names that a gateway answers to, besides addresses and `localhost`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hosts {
    /// Whatever it is called.
    Any,
    /// These.
    Only(Vec<String>),
}

// === impl Hosts ===

impl Hosts {
    /// The names of the settings. Without any: whatever it is called, or none where only this machine reaches it.
    pub(crate) fn new(names: &[String], listens: &str) -> Self {
        match names {
            [] if !is_loopback(listens) => Self::Any,
            names => Self::Only(names.to_vec()),
        }
    }

    fn know(&self, host: &str) -> bool {
        let Self::Only(names) = self else { return true };
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        let is_here = name == "localhost" || name.ends_with(".localhost");
        is_address || is_here || names.iter().any(|known| known.eq_ignore_ascii_case(&name))
    }
}

/// Turns away what carries another name; every browser gives one.
pub(super) async fn check(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    match host(request.uri(), request.headers()) {
        Some(host) if !hosts.know(&host) => {
            let error = format!("{host:?} is no name of this gateway: add it to `hosts` in its settings");
            (StatusCode::MISDIRECTED_REQUEST, Json(serde_json::json!({ "error": error }))).into_response()
        }
        _ => next.run(request).await,
    }
}

#[cfg(test)]
mod tests;
