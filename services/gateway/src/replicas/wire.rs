//! The inner protocol as the core's values, in both directions.

use tokio::time::Instant;

use proto::shard::v1 as wire;
use proto::shard::v1::attach_request::Message as Request;

use crate::core::{Answer, Dispatch, Partial, PieceId, Reply, Stamp, Tag};
use crate::runner::Outgoing;

/// What a replica is told, as a message.
pub(super) fn request(outgoing: Outgoing) -> wire::AttachRequest {
    let message = match outgoing {
        Outgoing::Piece(dispatch, until, traceparent) => Request::Piece(piece(dispatch, until, &traceparent)),
        Outgoing::Withdraw(tag) => Request::Withdrawal(wire::Withdrawal { piece: tag.piece.0, attempt: tag.attempt }),
    };
    wire::AttachRequest { message: Some(message) }
}

fn piece(dispatch: Dispatch, until: Instant, traceparent: &str) -> wire::Piece {
    let Dispatch { tag, prefix, conversations, urgent, .. } = dispatch;
    let left = until.saturating_duration_since(Instant::now());
    let tail = |(conversation, ids): (usize, std::sync::Arc<[u32]>)| wire::Tail {
        conversation: u32::try_from(conversation).unwrap_or(u32::MAX),
        ids: ids.to_vec(),
    };
    wire::Piece {
        piece: tag.piece.0,
        attempt: tag.attempt,
        prefix: prefix.to_vec(),
        tails: conversations.into_iter().map(tail).collect(),
        timeout_micros: u64::try_from(left.as_micros()).unwrap_or(u64::MAX),
        traceparent: traceparent.to_owned(),
        urgent,
    }
}

/// What a step computed. What is not complete is a failure, and never a score.
pub(super) fn results(results: wire::Results) -> Vec<Answer> {
    let wire::Results { ranks, computed, .. } = results;
    let answer = |computed: wire::Computed| {
        let tag = Tag { piece: PieceId(computed.piece), attempt: computed.attempt };
        let tokens = computed.tokens;
        let reply = match partials(&ranks, &computed) {
            Ok(partials) => Reply::Computed { partials, tokens },
            Err(problem) => Reply::Failed(problem),
        };
        Answer { tag, conversation: computed.conversation as usize, reply }
    };
    computed.into_iter().map(answer).collect()
}

fn partials(ranks: &[wire::RankStep], computed: &wire::Computed) -> Result<Vec<Partial>, String> {
    let (logits, checksums) = (&computed.logits, &computed.checksums);
    if logits.len() != ranks.len() || checksums.len() != ranks.len() {
        let (logits, checksums, ranks) = (logits.len(), checksums.len(), ranks.len());
        return Err(format!("{logits} partial logits and {checksums} checksums of {ranks} ranks"));
    }
    let partial = |((rank, &logit), &checksum): ((&wire::RankStep, &f32), &u64)| {
        let stamp = rank.stamp.as_ref().ok_or_else(|| format!("rank {} names no step", rank.rank))?;
        let stamp = Stamp { generation: stamp.generation, epoch: stamp.epoch, step: stamp.step };
        Ok(Partial { rank: rank.rank as usize, stamp, logit, checksum })
    };
    ranks.iter().zip(logits).zip(checksums).map(partial).collect()
}

/// What will not be computed.
pub(super) fn rejections(rejections: wire::Rejections) -> Vec<Answer> {
    let answer = |rejection: wire::Rejection| Answer {
        tag: Tag { piece: PieceId(rejection.piece), attempt: rejection.attempt },
        conversation: rejection.conversation as usize,
        reply: if rejection.problem.is_empty() { Reply::Declined } else { Reply::Failed(rejection.problem) },
    };
    rejections.rejections.into_iter().map(answer).collect()
}

#[cfg(test)]
mod tests;
