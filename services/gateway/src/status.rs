//! The one table of what a client is told: why a call or a conversation has no answer, as a code to branch on.
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

use prompt::ItemError;
use proto::v1;
use service::axum::http::StatusCode;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::core::{Failure, Refusal};
use crate::runner::Unanswered;
use crate::tokenizers::{self, Undone};

/// Why a call, or an item of a stream, is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    #[error("{0}")]
    Invalid(String),
    #[error("the model {name:?} is not served, but: {served}")]
    UnknownModel { name: String, served: String },
    #[error("{}", refused(.0))]
    Refused(Refusal),
    #[error("the deadline has passed")]
    Deadline,
    #[error(
        "{bytes} bytes of conversations at once are more than the {} that are tokenized at a time",
        tokenizers::ROOM
    )]
    TooLarge { bytes: usize },
    #[error("the gateway is about to end")]
    Ending,
    #[error("the gateway failed")]
    Internal,
}

// === impl CallError ===

impl CallError {
    /// The code of a call that fails with this.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Invalid(_) | Self::Refused(Refusal::Empty { .. } | Refusal::TooLong { .. }) => Code::InvalidArgument,
            Self::UnknownModel { .. } => Code::NotFound,
            Self::TooLarge { .. } | Self::Refused(Refusal::TooLarge { .. } | Refusal::Full { .. }) => {
                Code::ResourceExhausted
            }
            Self::Deadline | Self::Refused(Refusal::Deadline { .. }) => Code::DeadlineExceeded,
            Self::Ending => Code::Unavailable,
            Self::Internal | Self::Refused(Refusal::Duplicate) => Code::Internal,
        }
    }

    /// The status of an item's conversations, in a stream that goes on.
    pub(crate) fn of_conversations(&self) -> v1::Status {
        match self.code() {
            Code::DeadlineExceeded => v1::Status::DeadlineExceeded,
            Code::Unavailable => v1::Status::Unavailable,
            Code::Internal => v1::Status::Internal,
            _ => v1::Status::Invalid,
        }
    }

    /// The same over HTTP.
    pub(crate) fn http_status(&self) -> StatusCode {
        match self.code() {
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::ResourceExhausted if self.retry_after().is_none() => StatusCode::PAYLOAD_TOO_LARGE,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// When it is worth to come back.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(Refusal::Full { retry_after, .. }) => Some(*retry_after),
            Self::Refused(Refusal::Deadline { retry_after, .. }) => *retry_after,
            _ => None,
        }
    }
}

fn refused(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Full { retry_after, .. } | Refusal::Deadline { retry_after: Some(retry_after), .. } => {
            format!("{refusal}, come back in {:.1} s", retry_after.as_secs_f64())
        }
        _ => refusal.to_string(),
    }
}

impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        match error.retry_after() {
            None => Self::new(error.code(), error.to_string()),
            delay => {
                let details = ErrorDetails::with_retry_info(delay);
                Self::with_error_details(error.code(), error.to_string(), details)
            }
        }
    }
}

impl From<Unanswered> for CallError {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Refused(refusal) => Self::Refused(refusal),
            Unanswered::Ended => Self::Ending,
        }
    }
}

/// Why texts of so many bytes were not tokenized.
pub(crate) fn untokenized(undone: Undone, bytes: usize) -> CallError {
    match undone {
        Undone::TooLarge => CallError::TooLarge { bytes },
        Undone::TooLate => CallError::Deadline,
        Undone::Failed => CallError::Internal,
    }
}

/// The status of a conversation that came in and has no score; `why_none` says why no replica is ready, if none is.
pub(crate) fn of_failure(failure: &Failure, why_none: Option<&str>) -> (v1::Status, String) {
    let status = match failure {
        Failure::DeadlineExceeded if why_none.is_none() => v1::Status::DeadlineExceeded,
        Failure::DeadlineExceeded | Failure::Unavailable => v1::Status::Unavailable,
        Failure::Disagreement(_) | Failure::Replica(_) => v1::Status::Internal,
    };
    match why_none {
        Some(why) if status == v1::Status::Unavailable => (status, format!("{failure}: {why}")),
        _ => (status, failure.to_string()),
    }
}

/// The status of a conversation that cannot be encoded.
pub(crate) fn of_item_error(error: &ItemError) -> v1::Status {
    match error {
        ItemError::TooLong { .. } => v1::Status::TooLong,
        _ => v1::Status::Invalid,
    }
}

#[cfg(test)]
mod tests;
