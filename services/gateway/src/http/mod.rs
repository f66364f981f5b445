//! HTTP: dialects over the [`Entrance`], a file each. A dialect is its routes: it reads a body as what is given, asks the
//! entrance, and writes answers or a [`Problem`](crate::problem::Problem) as its clients know them; it knows no other dialect and no core.

mod hosts;
mod page;

use std::sync::Arc;
use std::time::Duration;

use service::axum::extract::Request;
use service::axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use service::axum::http::{HeaderName, StatusCode};
use service::axum::middleware::from_fn_with_state;
use service::axum::response::{IntoResponse, Response};
use service::axum::{Json, Router};
use tonic::Status;

pub(crate) use self::hosts::Hosts;
use crate::entrance::Entrance;
use crate::observer::Observer;

/// What dialects stand on.
pub(crate) struct Door {
    pub(crate) entrance: Arc<Entrance>,
    pub(crate) observer: Observer,
    /// The largest body, if a dialect has no lower limit of its own.
    pub(crate) largest: usize,
}

/// A dialect: its routes.
type Dialect = fn(&Door) -> Router<Arc<Door>>;

/// All dialects.
const DIALECTS: [Dialect; 1] = [page::routes];

/// The routes of all dialects, for requests that carry a name of the gateway.
pub(crate) fn routes(door: Door, hosts: Hosts) -> Router {
    let routes = DIALECTS.iter().fold(Router::new(), |routes, dialect| routes.merge(dialect(&door)));
    routes.route_layer(from_fn_with_state(Arc::new(hosts), hosts::check)).with_state(Arc::new(door))
}

/// The answer where nothing is served, in the words of whoever asks.
pub(crate) async fn nothing(request: Request) -> Response {
    let kind = request.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes());
    if kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        return Status::unimplemented("").into_http();
    }
    let error = format!("nothing is served at {}", request.uri().path());
    (StatusCode::NOT_FOUND, Json(serde_json::json!({ "error": error }))).into_response()
}

/// When it is worth to come back, as a header.
fn in_seconds(delay: Option<Duration>) -> Option<[(HeaderName, String); 1]> {
    Some([(RETRY_AFTER, delay?.as_secs_f64().ceil().to_string())])
}
