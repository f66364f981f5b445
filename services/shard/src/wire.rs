//! The inner protocol to the types of this crate and back. What comes in is checked here.

use std::sync::Arc;
use std::time::Duration;

use model::{PackedBatch, PartialLogit, Segment};
use proto::shard::v1 as wire;
use wire::attach_response::Message as ToGateway;
use wire::join_response::Message as ToWorker;

use crate::leader::{Answers, Partials, Piece, Rejection, Tag, Work};
use crate::plan::Stamp;

/// The versions of the inner protocol that this build speaks.
pub(crate) const PROTOCOL: wire::ProtocolRange = wire::ProtocolRange { lowest: 1, highest: 1 };

/// The highest version that both sides speak.
pub(crate) fn common_version(ours: wire::ProtocolRange, theirs: Option<wire::ProtocolRange>) -> Result<u32, String> {
    let theirs = theirs.unwrap_or_default();
    let version = ours.highest.min(theirs.highest);
    if version >= ours.lowest.max(theirs.lowest).max(1) {
        return Ok(version);
    }
    let range = |range: wire::ProtocolRange| format!("{} to {}", range.lowest, range.highest);
    Err(format!("no common version of the inner protocol: {} here, {} there", range(ours), range(theirs)))
}

// === stamps ===

impl From<Stamp> for wire::Stamp {
    fn from(Stamp { generation, epoch, step }: Stamp) -> Self {
        Self { generation, epoch, step }
    }
}

fn stamp(stamp: Option<wire::Stamp>) -> Result<Stamp, String> {
    let wire::Stamp { generation, epoch, step } = stamp.ok_or("a message without a stamp")?;
    Ok(Stamp { generation, epoch, step })
}

// === between gateways and leaders ===

/// A piece that arrived at `now`. It takes as many credits as its gateway debits itself.
pub(crate) fn piece(piece: wire::Piece, now: Duration) -> Piece {
    let tails: usize = piece.tails.iter().map(|tail| tail.ids.len()).sum();
    Piece {
        tokens: (piece.prefix.len() + tails) as u64,
        tag: Tag { piece: piece.piece, attempt: piece.attempt },
        prefix: piece.prefix,
        tails: piece.tails.into_iter().map(|tail| (tail.conversation, tail.ids)).collect(),
        deadline: Some(now.saturating_add(Duration::from_micros(piece.timeout_micros))),
        urgent: piece.urgent,
        trace: (!piece.traceparent.is_empty()).then(|| piece.traceparent.into()),
    }
}

pub(crate) fn tag(withdrawal: wire::Withdrawal) -> Tag {
    Tag { piece: withdrawal.piece, attempt: withdrawal.attempt }
}

pub(crate) fn results(answers: &Answers) -> wire::AttachResponse {
    let rank_step = |(rank, stamp): (usize, &Stamp)| wire::RankStep { rank: rank as u32, stamp: Some((*stamp).into()) };
    let computed = answers.computed.iter().map(|computed| wire::Computed {
        piece: computed.tag.piece,
        attempt: computed.tag.attempt,
        conversation: computed.conversation,
        tokens: computed.tokens as u32,
        logits: computed.partials.iter().map(|partial| partial.logit).collect(),
        checksums: computed.partials.iter().map(|partial| partial.checksum).collect(),
    });
    to_gateway(ToGateway::Results(wire::Results {
        ranks: answers.ranks.iter().enumerate().map(rank_step).collect(),
        computed: computed.collect(),
        micros: answers.took.as_micros() as u64,
    }))
}

pub(crate) fn rejections(rejections: Vec<Rejection>) -> wire::AttachResponse {
    let rejections = rejections.into_iter().map(|Rejection { tag, conversation, problem }| wire::Rejection {
        piece: tag.piece,
        attempt: tag.attempt,
        conversation,
        problem: problem.unwrap_or_default(),
    });
    to_gateway(ToGateway::Rejections(wire::Rejections { rejections: rejections.collect() }))
}

pub(crate) fn to_gateway(message: ToGateway) -> wire::AttachResponse {
    wire::AttachResponse { message: Some(message) }
}

// === between leaders and workers ===

pub(crate) fn step(work: &Work) -> wire::Step {
    let segment = |segment: &Segment| wire::Segment {
        length: segment.rows.len() as u32,
        position: segment.position as u32,
        parent: segment.parent.map_or(0, |parent| parent as u32 + 1),
    };
    wire::Step {
        stamp: Some(work.stamp.into()),
        tokens: work.batch.tokens.clone(),
        segments: work.batch.segments.iter().map(segment).collect(),
        ends: work.batch.ends.iter().map(|&end| end as u32).collect(),
        traceparent: work.trace.as_deref().unwrap_or_default().to_owned(),
    }
}

/// A step that came from the leader.
///
/// # Errors
/// If it is not a prefix tree over its tokens.
pub(crate) fn work(step: wire::Step) -> Result<Work, String> {
    let stamp = stamp(step.stamp)?;
    let mut segments: Vec<Segment> = Vec::with_capacity(step.segments.len());
    let mut row = 0usize;
    for (number, segment) in step.segments.iter().enumerate() {
        let rows = row..row + segment.length as usize;
        row = rows.end;
        let parent = (segment.parent as usize).checked_sub(1);
        let position = match parent.map(|parent| segments.get(parent)) {
            None => 0,
            Some(Some(parent)) => parent.position + parent.rows.len(),
            Some(None) => return Err(format!("segment {number} comes before its parent")),
        };
        if rows.is_empty() || position != segment.position as usize {
            return Err(format!("segment {number} does not continue its parent"));
        }
        segments.push(Segment { rows, position, parent });
    }
    if row != step.tokens.len() {
        return Err(format!("{row} tokens in segments, {} in all", step.tokens.len()));
    }
    let ends: Vec<usize> = step.ends.iter().map(|&end| end as usize).collect();
    if ends.is_empty() || ends.iter().any(|&end| end >= segments.len()) {
        return Err("a sequence ends in no segment".to_owned());
    }
    let batch = Arc::new(PackedBatch { tokens: step.tokens, segments, ends });
    Ok(Work { stamp, batch, trace: (!step.traceparent.is_empty()).then(|| step.traceparent.into()) })
}

pub(crate) fn to_worker(message: ToWorker) -> wire::JoinResponse {
    wire::JoinResponse { message: Some(message) }
}

pub(crate) fn partials_of(partials: &Partials) -> wire::Partials {
    let of_rank = |(rank, partials): (usize, &Vec<PartialLogit>)| wire::RankPartials {
        rank: rank as u32,
        logits: partials.iter().map(|partial| partial.logit).collect(),
        checksums: partials.iter().map(|partial| partial.checksum).collect(),
    };
    wire::Partials {
        stamp: Some(partials.stamp.into()),
        ranks: (partials.first_rank..).zip(&partials.ranks).map(of_rank).collect(),
    }
}

/// Partial logits that came from the worker that owns these ranks.
///
/// # Errors
/// If they are of other ranks, or not as many checksums as logits.
pub(crate) fn partials(partials: wire::Partials, owned: &std::ops::Range<usize>) -> Result<Partials, String> {
    let stamp = stamp(partials.stamp)?;
    let first_rank = partials.ranks.first().map_or(owned.start, |first| first.rank as usize);
    let mut ranks = Vec::with_capacity(partials.ranks.len());
    for (rank, of_rank) in (first_rank..).zip(partials.ranks) {
        if of_rank.rank as usize != rank || !owned.contains(&rank) {
            return Err(format!("partial logits of rank {}, which the worker does not own", of_rank.rank));
        }
        if of_rank.logits.len() != of_rank.checksums.len() {
            return Err(format!(
                "rank {rank} sent {} logits and {} checksums",
                of_rank.logits.len(),
                of_rank.checksums.len()
            ));
        }
        let pairs = of_rank.logits.into_iter().zip(of_rank.checksums);
        ranks.push(pairs.map(|(logit, checksum)| PartialLogit { logit, checksum }).collect());
    }
    Ok(Partials { first_rank, stamp, ranks })
}

#[cfg(test)]
mod tests;
