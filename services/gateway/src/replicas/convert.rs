//! The inner protocol as the core's values, in both directions.

use std::sync::Arc;

use proto::shard::v1 as wire;
use proto::shard::v1::attach_request::Message as Request;
use score::{Partials, RankStep};
use tokio::time::Instant;

use crate::core::{Answer, Reply};
use crate::runner::Outgoing;

/// What a replica is told, as a message.
pub(super) fn request(outgoing: Outgoing) -> wire::AttachRequest {
    let message = match outgoing {
        Outgoing::Piece(dispatch, until, traceparent) => {
            let left = until.saturating_duration_since(Instant::now());
            Request::Piece(wire::Piece::new(&dispatch.piece, left, &traceparent))
        }
        Outgoing::Withdraw(tag) => Request::Withdrawal(tag.into()),
    };
    wire::AttachRequest { message: Some(message) }
}

/// What a step computed, of a head with so many outputs. What is not complete is a failure, and never a score.
pub(super) fn results(results: wire::Results, outputs: usize) -> Vec<Answer> {
    let wire::Results { ranks, computed, .. } = results;
    let ranks: Result<Arc<[RankStep]>, String> = ranks.into_iter().map(RankStep::try_from).collect();
    let answer = |computed: wire::Computed| {
        let (tag, conversation, tokens) = (computed.tag(), computed.conversation as usize, computed.tokens);
        let partials = ranks.clone().and_then(|ranks| Ok((partials(&ranks, computed, outputs)?, ranks)));
        let reply = match partials {
            Ok((partials, ranks)) => Reply::Computed { ranks, partials, tokens },
            Err(problem) => Reply::Failed(problem),
        };
        Answer { tag, conversation, reply }
    };
    computed.into_iter().map(answer).collect()
}

fn partials(ranks: &[RankStep], computed: wire::Computed, outputs: usize) -> Result<Partials, String> {
    let partials = Partials::new(outputs, computed.logits, computed.checksums).map_err(|error| error.to_string())?;
    match partials.len() == ranks.len() {
        true => Ok(partials),
        false => Err(format!("partial logits of {} ranks, and {} ranks", partials.len(), ranks.len())),
    }
}

/// What will not be computed.
pub(super) fn rejections(rejections: wire::Rejections) -> Vec<Answer> {
    let answer = |rejection: wire::Rejection| Answer {
        tag: rejection.tag(),
        conversation: rejection.conversation as usize,
        reply: if rejection.problem.is_empty() { Reply::Declined } else { Reply::Failed(rejection.problem) },
    };
    rejections.rejections.into_iter().map(answer).collect()
}

#[cfg(test)]
mod tests;
