//! `POST /api/score`: one prompt with its responses becomes a call of the public protocol, and the answer JSON.

use std::sync::Arc;

use proto::v1;
use proto::v1::group::Prompt as Given;
use serde::{Deserialize, Serialize};
use service::axum::Json;
use service::axum::extract::State;
use service::axum::extract::rejection::JsonRejection;
use service::axum::http::header::RETRY_AFTER;
use service::axum::http::{HeaderMap, HeaderName, StatusCode};
use service::axum::response::{IntoResponse, Response};
use service::trace::TRACEPARENT;
use tonic::metadata::MetadataMap;

use super::Page;
use crate::TENANT_KEY;
use crate::frontend::Rewards;
use crate::problem::Problem;

/// What to score.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// May be left out where one is served.
    #[serde(default)]
    model: String,
    prompt: Prompt,
    responses: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "the prompt is a string, or a list of messages with a role and a content each")]
enum Prompt {
    Text(String),
    Messages(Vec<Turn>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Turn {
    role: String,
    content: String,
}

#[derive(Debug, Serialize)]
struct Answer {
    /// One for each response, in order.
    results: Vec<Scored>,
}

#[derive(Debug, Serialize)]
pub(super) struct Scored {
    status: String,
    /// With all its digits, and not one more.
    score: Option<f32>,
    tokens: u32,
    error: Option<String>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    error: String,
    retry_after: Option<u64>,
}

/// What the call is counted as.
const RPC: &str = "api/score";
/// What a call may say beside its body: who it is charged to, and which trace it belongs to.
const METADATA: [&str; 2] = [TENANT_KEY, TRACEPARENT];

/// Answers a call.
pub(super) async fn score(
    State(page): State<Arc<Page>>,
    headers: HeaderMap,
    body: Result<Json<Asked>, JsonRejection>,
) -> Result<Response, Refused> {
    let Json(asked) = body?;
    if asked.responses.is_empty() {
        return Err(Problem::bad_request("responses", "there are none").into());
    }
    let _call = page.calls.token();
    let frontend = page.frontend.upgrade().ok_or(Problem::ending())?;
    let rewards = Rewards { frontend, ending: page.ending.clone(), ended: page.ended.clone() };
    let request = tonic::Request::from_parts(metadata(&headers), tonic::Extensions::new(), asked.into());
    let answer = rewards.answer(RPC, request).await?;
    let results = answer.items.into_iter().flat_map(|item| item.results).map(Scored::from).collect();
    Ok(Json(Answer { results }).into_response())
}

fn metadata(headers: &HeaderMap) -> MetadataMap {
    let said = METADATA.iter().filter_map(|name| Some((HeaderName::from_static(name), headers.get(*name)?.clone())));
    MetadataMap::from_headers(said.collect())
}

// === impl Asked ===

impl From<Asked> for v1::ScoreRequest {
    fn from(asked: Asked) -> Self {
        let Asked { model, prompt, responses } = asked;
        let message = |turn: Turn| v1::Message { role: turn.role, content: turn.content };
        let prompt = match prompt {
            Prompt::Text(text) => Given::Text(text),
            Prompt::Messages(turns) => {
                Given::Messages(v1::Messages { messages: turns.into_iter().map(message).collect() })
            }
        };
        let group = v1::Group { prompt: Some(prompt), responses };
        let item = v1::Item { input: Some(v1::item::Input::Group(group)) };
        Self { items: vec![item], options: Some(v1::Options { model, ..v1::Options::default() }) }
    }
}

// === impl Scored ===

impl From<v1::Result> for Scored {
    fn from(result: v1::Result) -> Self {
        let status = result.status().word();
        let error = result
            .problem
            .map(|it| if it.path.is_empty() { it.message } else { format!("{}: {}", it.path, it.message) });
        Self { status, score: result.score, tokens: result.tokens, error }
    }
}

// === impl Refused ===

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        let retry_after = problem.retry_after.map(|delay| delay.as_secs_f64().ceil() as u64);
        Self { status: problem.http(), error: problem.to_string(), retry_after }
    }
}

impl From<JsonRejection> for Refused {
    fn from(rejection: JsonRejection) -> Self {
        Self { status: rejection.status(), error: rejection.body_text(), retry_after: None }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let retry_after = self.retry_after.map(|seconds| [(RETRY_AFTER, seconds.to_string())]);
        (self.status, retry_after, Json(serde_json::json!({ "error": self.error }))).into_response()
    }
}
