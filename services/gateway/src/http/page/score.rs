//! `POST /api/score`: one prompt with its responses.

use std::sync::Arc;

use prompt::{Input, Message, Role};
use serde::{Deserialize, Serialize};
use service::axum::Json;
use service::axum::extract::State;
use service::axum::extract::rejection::JsonRejection;
use service::axum::http::HeaderMap;
use service::axum::response::{IntoResponse, Response};
use service::net::causes;
use service::server;

use super::super::{Door, in_seconds};
use crate::entrance::{Answer, Entrance, Given};
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
pub(super) struct Scores {
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
pub(super) enum Refused {
    Problem(Problem),
    Body(JsonRejection),
}

/// What the call is counted as.
const CALL: &str = "api/score";

/// Answers a call.
pub(super) async fn score(
    State(door): State<Arc<Door>>,
    headers: HeaderMap,
    body: Result<Json<Asked>, JsonRejection>,
) -> Result<Json<Scores>, Refused> {
    let Json(asked) = body.map_err(Refused::Body)?;
    let entrance = &door.entrance;
    let answers = entrance.call(CALL, asked.answers(entrance, &headers)).await.map_err(Refused::Problem)?;
    Ok(Json(Scores { results: answers.into_iter().map(Scored::from).collect() }))
}

// === impl Asked ===

impl Asked {
    async fn answers(self, entrance: &Entrance, headers: &HeaderMap) -> Result<Vec<Answer>, Problem> {
        if self.responses.is_empty() {
            return Err(Problem::bad_request("responses", "there are none"));
        }
        let caller = entrance.caller(headers, None)?;
        let reading = entrance.reading(&self.model, prompt::Options::default())?;
        let conversations = self.responses.len();
        Given::check_room(conversations)?;
        let given = Given::new(
            conversations,
            self.prompt.turns().map(|prompt| Input::Group { prompt, responses: self.responses }),
        );
        let scored = entrance.score(&caller, &reading, vec![given], entrance.turn(false)).await?;
        Ok(scored.answers.into_iter().flatten().collect())
    }
}

// === impl Prompt ===

impl Prompt {
    fn turns(self) -> Result<Vec<Message>, prompt::ItemError> {
        let turn = |(number, Turn { role, content }): (usize, Turn)| {
            let role = Role::named(&role).map_err(|unknown| unknown.at(format!("prompt[{number}].role")))?;
            Ok(Message::new(role, content))
        };
        match self {
            Self::Text(text) => Ok(vec![Message::new(Role::User, text)]),
            Self::Messages(turns) => turns.into_iter().enumerate().map(turn).collect(),
        }
    }
}

// === impl Scored ===

impl From<Answer> for Scored {
    fn from(answer: Answer) -> Self {
        let status = answer.status().word();
        let (score, error) = match answer.result {
            Ok(score) => (Some(score.outputs.score), None),
            Err(problem) => (None, Some(problem.to_string())),
        };
        Self { status, score, tokens: answer.tokens, error }
    }
}

/// Why a body was not let in, if it was not.
fn unread(rejection: &JsonRejection) -> Option<&server::Refused> {
    causes(rejection).find_map(|cause| cause.downcast_ref())
}

// === impl Refused ===

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, retry_after, error) = match self {
            Self::Problem(problem) => (problem.http(), in_seconds(problem.retry_after), problem.to_string()),
            Self::Body(rejection) => match unread(&rejection) {
                Some(refused) => (refused.http(), in_seconds(refused.retry_after()), refused.to_string()),
                None => (rejection.status(), None, rejection.body_text()),
            },
        };
        (status, retry_after, Json(serde_json::json!({ "error": error }))).into_response()
    }
}
