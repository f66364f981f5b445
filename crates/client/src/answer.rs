//! What goes in and what comes out: work with a token of the caller's, and what became of it.

use proto::v1;
use proto::v1::ProblemCode;

/// An item, and what it is to its caller.
#[derive(Debug, Clone, PartialEq)]
pub struct Work<T> {
    /// Comes back with the answer.
    pub token: T,
    /// What to score; None is answered in its turn, with no results.
    pub item: Option<v1::Item>,
}

/// What became of an item.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer<T> {
    /// As it was given.
    pub token: T,
    /// One for each conversation of the item, in order.
    pub results: Vec<Result<Score, Failure>>,
}

/// The score of one conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The raw logit; finite.
    pub score: f32,
    /// The tokens that it is for.
    pub tokens: u32,
    /// Of these, tokens that were computed for this conversation alone.
    pub computed_tokens: u32,
    /// The tokens before truncation, if some were given up.
    pub truncated_from: Option<u32>,
    /// The generation of the weights.
    pub generation: u64,
    /// What the bits of the score depend on.
    pub fingerprint: String,
}

/// Why a conversation has no score.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", lead(path))]
pub struct Failure {
    /// What kind of failure it is; never OK or TRUNCATED.
    pub status: v1::Status,
    /// What is wrong, to branch on; unspecified where a gateway does not say, or nobody here knows the code.
    pub code: ProblemCode,
    /// Where in the item, as in `messages[2].role`, `responses[1]` or `token_ids[7]`; empty if it is all of it.
    pub path: String,
    /// What is wrong, for people, without the place.
    pub message: String,
    /// The tokens of a conversation that is too long; 0 elsewhere.
    pub tokens: u32,
}

// === impl Work ===

impl<T> Work<T> {
    /// An item to be scored.
    pub fn new(token: T, item: v1::Item) -> Self {
        Self { token, item: Some(item) }
    }

    /// Something that has nothing to be scored, and keeps its place among what has.
    pub fn none(token: T) -> Self {
        Self { token, item: None }
    }
}

// === impl Failure ===

impl Failure {
    pub(crate) fn new(status: v1::Status, message: impl Into<String>) -> Self {
        Self { status, code: ProblemCode::Unspecified, path: String::new(), message: message.into(), tokens: 0 }
    }
}

fn lead(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}

/// What the results say, one for each of so many conversations.
pub(crate) fn results(given: Vec<v1::Result>, conversations: usize) -> Vec<Result<Score, Failure>> {
    let missing = || Err(Failure::new(v1::Status::Internal, "the gateway has no result for it"));
    given.into_iter().map(result).chain(std::iter::repeat_with(missing)).take(conversations).collect()
}

fn result(given: v1::Result) -> Result<Score, Failure> {
    use v1::Status::{Internal, Ok as Scored, Truncated, Unspecified};
    let v1::Result { score, tokens, computed_tokens, truncated_from, generation, fingerprint, .. } = given;
    // an older gateway has a sentence and no value
    let value = || v1::Problem { message: given.error, ..v1::Problem::default() };
    match v1::Status::try_from(given.status) {
        Ok(status @ (Scored | Truncated)) => match score.filter(|score| score.is_finite()) {
            Some(score) => {
                let truncated_from = (status == Truncated).then_some(truncated_from);
                Ok(Score { score, tokens, computed_tokens, truncated_from, generation, fingerprint })
            }
            None => Err(Failure::new(Internal, "the gateway has no finite score for it")),
        },
        Ok(Unspecified) | Err(_) => {
            let status = given.status;
            Err(Failure::new(Internal, format!("the gateway gives it the status {status}, which is not known")))
        }
        Ok(status) => {
            let problem = given.problem.unwrap_or_else(value);
            let code = problem.code();
            Err(Failure { status, code, path: problem.path, message: problem.message, tokens })
        }
    }
}

#[cfg(test)]
mod tests;
