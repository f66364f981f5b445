//! By which names browsers may ask. A page from elsewhere whose name is made to point at this machine (DNS rebinding) is
//! held off by nothing but the name that its requests then carry.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use service::axum::Json;
use service::axum::extract::{Request, State};
use service::axum::http::header::HOST;
use service::axum::http::uri::Authority;
use service::axum::http::{HeaderMap, StatusCode, Uri};
use service::axum::middleware::Next;
use service::axum::response::{IntoResponse as _, Response};

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
        let here = listens.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback());
        match names {
            [] if !here => Self::Any,
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

/// Turns away what carries another name.
pub(super) async fn check(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    match host(request.uri(), request.headers()) {
        Some(host) if !hosts.know(&host) => {
            let error = format!("{host:?} is no name of this gateway: add it to `hosts` in its settings");
            (StatusCode::MISDIRECTED_REQUEST, Json(serde_json::json!({ "error": error }))).into_response()
        }
        _ => next.run(request).await,
    }
}

/// The name that a request carries: HTTP/2 has it in the address, HTTP/1.1 in a header. Every browser gives one.
fn host(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let header = || Some(headers.get(HOST)?.to_str().ok()?.parse::<Authority>().ok()?.host().to_owned());
    uri.host().map(str::to_owned).or_else(header)
}

#[cfg(test)]
mod tests;
