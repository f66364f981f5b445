//! Why nothing more is scored. What is wrong with one conversation is its own [`Failure`](crate::Failure).

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Why no more answers come.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is nobody to ask.
    #[error("no gateway is named")]
    NoEndpoint,
    /// The gateway does not serve the model, or serves several and none was named.
    #[error("{endpoint}: {}", no_model(.wanted, .served))]
    Model {
        /// Who said so.
        endpoint: String,
        /// The model that was asked for; empty for none.
        wanted: String,
        /// Those that are served.
        served: Vec<String>,
    },
    /// A longer conversation was asked for than the model takes.
    #[error("{endpoint}: {wanted} tokens of a conversation are more than the model's limit of {limit} tokens")]
    Length {
        /// Who said so.
        endpoint: String,
        /// What was asked for.
        wanted: u32,
        /// What the model takes.
        limit: u32,
    },
    /// The gateway refuses, and asking again is of no use, there or elsewhere.
    #[error("{endpoint}: {}", in_words(.status))]
    Refused {
        /// The endpoint of the gateway that refuses.
        endpoint: String,
        /// What it says.
        status: Box<Status>,
    },
    /// No gateway has answered for too long.
    #[error("{endpoint}: {}; no gateway has answered for {} s", in_words(.status), patience.as_secs_f64())]
    Unreachable {
        /// Who was asked last.
        endpoint: String,
        /// What came of it.
        status: Box<Status>,
        /// For how long it was tried.
        patience: Duration,
    },
    /// There is a gateway, and it has had no replica for too long.
    #[error("no replica of the model was ready for {} s{}", patience.as_secs_f64(), in_brackets(.reason))]
    NoReplica {
        /// All that could be asked.
        endpoints: Vec<String>,
        /// Why, as far as the gateway says.
        reason: String,
        /// For how long it was tried.
        patience: Duration,
    },
}

fn no_model(wanted: &str, served: &[String]) -> String {
    let names = served.join(", ");
    match (wanted, served) {
        (_, []) => "no model is served".to_owned(),
        ("", _) => format!("several models are served: name one of {names}"),
        _ => format!("the model {wanted} is not served: name one of {names}"),
    }
}

fn in_brackets(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

/// A status in few words.
pub fn in_words(status: &Status) -> String {
    match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    }
}

/// When a gateway wants to be asked again.
pub fn retry_after(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

/// Whether asking again is of no use, there or elsewhere.
pub(crate) fn is_final(code: Code) -> bool {
    use Code::{FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unauthenticated, Unimplemented};
    matches!(code, FailedPrecondition | InvalidArgument | NotFound | PermissionDenied | Unauthenticated | Unimplemented)
}
