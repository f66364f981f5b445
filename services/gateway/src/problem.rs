//! What is wrong, as a value: a code to branch on, the place, and a sentence for people. It is made where something goes
//! wrong, and becomes gRPC or HTTP at the edge; what a code means there is in one table, [`Problem::meaning`].
//!
//! | a call that | has the code | come back? |
//! |---|---|---|
//! | has no items, bad options, metadata or ids that are open twice | INVALID_ARGUMENT | no |
//! | names a model that is not served | NOT_FOUND | no |
//! | finds the queue full | RESOURCE_EXHAUSTED | after `RetryInfo.retry_delay` |
//! | is larger than the queue, or than what is tokenized at a time | RESOURCE_EXHAUSTED, no RetryInfo | in smaller parts |
//! | cannot be done by its deadline | DEADLINE_EXCEEDED | after `RetryInfo.retry_delay`, if there is one |
//! | comes when the gateway ends | UNAVAILABLE | at once, elsewhere |
//! | meets a fault of the gateway | INTERNAL | - |
//!
//! Over HTTP these are 400, 404, 429 (with `Retry-After`), 413, 504, 503 and 500.
//!
//! tonic itself refuses messages beyond the limit with OUT_OF_RANGE, and bytes that are no message with INTERNAL.
//! In a stream, what is wrong with one item becomes the status of its conversations, and the stream goes on.
//!
//! | a conversation that | has the status |
//! |---|---|
//! | cannot be read, or whose item's options cannot | INVALID |
//! | belongs to an item of a stream that is larger than the queue | INVALID |
//! | has more tokens than the limit | TOO_LONG |
//! | was not computed by the deadline, while some replica was ready | DEADLINE_EXCEEDED |
//! | was not computed, as no replica was ready or each went away | UNAVAILABLE |
//! | found the queue full, in a stream, until its deadline | DEADLINE_EXCEEDED |
//! | was computed to no finite number that all ranks agree on | INTERNAL |

use std::time::Duration;

use prompt::{Fault, ItemError};
use proto::v1::{self, ProblemCode as Code};
use service::axum::http::StatusCode;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

use crate::core::{Failure, Refusal};
use crate::runner::Unanswered;
use crate::tokenizers::{ROOM, Undone};

/// Why a call, an item or a conversation has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", if path.is_empty() { String::new() } else { format!("{path}: ") })]
pub(crate) struct Problem {
    pub(crate) code: Code,
    /// Where, as in `messages[2].role`; empty if it is all of it.
    pub(crate) path: String,
    pub(crate) message: String,
    /// When it is worth to come back.
    pub(crate) retry_after: Option<Duration>,
}

// === impl Problem ===

impl Problem {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, path: String::new(), message: message.into(), retry_after: None }
    }

    /// What a caller gives is not what it can be; `path` names it.
    pub(crate) fn bad_request(path: &str, message: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, message).within(path)
    }

    /// More bytes of conversations than are tokenized at a time.
    pub(crate) fn too_large(bytes: usize) -> Self {
        let message =
            format!("{bytes} bytes of conversations at once are more than the {ROOM} that are tokenized at a time");
        Self::new(Code::TooLarge, message)
    }

    pub(crate) fn deadline() -> Self {
        Self::new(Code::DeadlineExceeded, "the deadline has passed")
    }

    pub(crate) fn ending() -> Self {
        Self::new(Code::Ending, "the gateway is about to end")
    }

    pub(crate) fn internal() -> Self {
        Self::new(Code::Internal, "the gateway failed")
    }

    /// Why texts of so many bytes were not tokenized.
    pub(crate) fn untokenized(undone: Undone, bytes: usize) -> Self {
        match undone {
            Undone::TooLarge => Self::too_large(bytes),
            Undone::TooLate => Self::deadline(),
            Undone::Failed => Self::internal(),
        }
    }

    /// Why a conversation that came in has no score; `why_none` says why no replica is ready, if none is.
    pub(crate) fn of_failure(failure: &Failure, why_none: Option<&str>) -> Self {
        let code = match failure {
            Failure::DeadlineExceeded if why_none.is_none() => Code::DeadlineExceeded,
            Failure::DeadlineExceeded | Failure::Unavailable => Code::Unavailable,
            Failure::Disagreement(_) => Code::Disagreement,
            Failure::Replica(_) => Code::Replica,
        };
        let why = why_none.filter(|_| code == Code::Unavailable).map(|why| format!(": {why}"));
        Self::new(code, format!("{failure}{}", why.unwrap_or_default()))
    }

    /// The same, seen from what holds `at`.
    #[must_use]
    pub(crate) fn within(mut self, at: &str) -> Self {
        let between = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{at}{between}{}", self.path);
        self
    }

    /// What a code is as the code of a call, as the status of a conversation, and over HTTP.
    fn meaning(&self) -> (tonic::Code, v1::Status, StatusCode) {
        use tonic::Code as Rpc;
        let invalid = (Rpc::InvalidArgument, v1::Status::Invalid, StatusCode::BAD_REQUEST);
        match self.code {
            Code::Empty | Code::WrongType | Code::UnknownRole | Code::NotText | Code::Unsupported => invalid,
            Code::LastTurn | Code::NoTemplate | Code::Template | Code::Tokenizer | Code::TokenId => invalid,
            Code::SpecialToken | Code::BadRequest => invalid,
            Code::TooLong => (Rpc::InvalidArgument, v1::Status::TooLong, StatusCode::BAD_REQUEST),
            Code::UnknownModel => (Rpc::NotFound, v1::Status::Invalid, StatusCode::NOT_FOUND),
            Code::TooLarge => (Rpc::ResourceExhausted, v1::Status::Invalid, StatusCode::PAYLOAD_TOO_LARGE),
            Code::QueueFull => (Rpc::ResourceExhausted, v1::Status::Invalid, StatusCode::TOO_MANY_REQUESTS),
            Code::DeadlineExceeded => {
                (Rpc::DeadlineExceeded, v1::Status::DeadlineExceeded, StatusCode::GATEWAY_TIMEOUT)
            }
            Code::Unavailable | Code::Ending => {
                (Rpc::Unavailable, v1::Status::Unavailable, StatusCode::SERVICE_UNAVAILABLE)
            }
            Code::Unspecified | Code::Disagreement | Code::Replica | Code::Internal => {
                (Rpc::Internal, v1::Status::Internal, StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }

    /// The code of a call that fails with this.
    pub(crate) fn call(&self) -> tonic::Code {
        self.meaning().0
    }

    /// The status of a conversation that has no score for this.
    pub(crate) fn conversation(&self) -> v1::Status {
        self.meaning().1
    }

    /// The status of an answer over HTTP.
    pub(crate) fn http(&self) -> StatusCode {
        self.meaning().2
    }
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        match problem.retry_after {
            None => Self::new(problem.call(), problem.to_string()),
            delay => {
                let details = ErrorDetails::with_retry_info(delay);
                Self::with_error_details(problem.call(), problem.to_string(), details)
            }
        }
    }
}

impl From<Problem> for v1::Problem {
    fn from(problem: Problem) -> Self {
        Self { code: problem.code.into(), path: problem.path, message: problem.message }
    }
}

impl From<&ItemError> for Problem {
    fn from(error: &ItemError) -> Self {
        let code = match error.fault {
            Fault::EmptyConversation | Fault::Empty(_) | Fault::NoTokenIds | Fault::NoResponses => Code::Empty,
            Fault::Shape { .. } => Code::WrongType,
            Fault::Unsupported(_) => Code::Unsupported,
            Fault::UnknownRole(_) => Code::UnknownRole,
            Fault::NotText(_) => Code::NotText,
            Fault::LastTurn(_) => Code::LastTurn,
            Fault::NoTemplate => Code::NoTemplate,
            Fault::Refused(_) | Fault::TemplateFailed(_) => Code::Template,
            Fault::Tokenizer(_) => Code::Tokenizer,
            Fault::TooLong { .. } => Code::TooLong,
            Fault::Unwanted => Code::DeadlineExceeded,
            Fault::TokenId { .. } => Code::TokenId,
            Fault::Strict(_) => Code::SpecialToken,
        };
        Self { path: error.path.clone(), ..Self::new(code, error.fault.to_string()) }
    }
}

impl From<Unanswered> for Problem {
    fn from(unanswered: Unanswered) -> Self {
        let refusal = match unanswered {
            Unanswered::Refused(refusal) => refusal,
            Unanswered::Ended => return Self::ending(),
        };
        let (code, retry_after) = match refusal {
            Refusal::Empty { .. } => (Code::Empty, None),
            Refusal::TooLong { .. } => (Code::TooLong, None),
            Refusal::TooLarge { .. } => (Code::TooLarge, None),
            Refusal::Full { retry_after, .. } => (Code::QueueFull, Some(retry_after)),
            Refusal::Deadline { retry_after, .. } => (Code::DeadlineExceeded, retry_after),
            Refusal::Duplicate => (Code::Internal, None),
        };
        let back = retry_after.map(|delay| format!(", come back in {:.1} s", delay.as_secs_f64()));
        Self { retry_after, ..Self::new(code, format!("{refusal}{}", back.unwrap_or_default())) }
    }
}

#[cfg(test)]
mod tests;
