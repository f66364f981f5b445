//! The inner protocol to the types of this crate and back. What comes in is checked here.

use std::sync::Arc;
use std::time::Duration;

use collective::Ticket;
use model::{PackedBatch, Segment};
use proto::shard::v1 as wire;
use score::Stamp;
use wire::attach_response::Message as ToGateway;
use wire::join_response::Message as ToWorker;

use crate::leader::{Answers, Computed, Rejection, Report, Submission, Work};

fn stamp(stamp: Option<wire::Stamp>) -> Result<Stamp, String> {
    Ok(stamp.ok_or("a message without a stamp")?.into())
}

// === between gateways and leaders ===

/// A piece that arrived at `now`. It takes as many credits as its gateway debits itself.
pub(crate) fn submission(mut piece: wire::Piece, now: Duration) -> Submission {
    let deadline = Some(now.saturating_add(Duration::from_micros(piece.timeout_micros)));
    let trace = std::mem::take(&mut piece.traceparent);
    let piece = score::Piece::from(piece);
    Submission { tokens: piece.tokens(), piece, deadline, trace: (!trace.is_empty()).then(|| trace.into()) }
}

pub(crate) fn results(answers: &Answers) -> wire::AttachResponse {
    let of_sequence = |computed: &Computed| wire::Computed {
        piece: computed.tag.piece.0,
        attempt: computed.tag.attempt,
        conversation: computed.conversation,
        tokens: computed.tokens as u32,
        logits: answers.contributions(computed).flat_map(|(_, partial)| partial.values).copied().collect(),
        checksums: answers.contributions(computed).map(|(_, partial)| partial.checksum).collect(),
    };
    to_gateway(ToGateway::Results(wire::Results {
        ranks: answers.ranks.iter().map(|(step, _)| (*step).into()).collect(),
        computed: answers.computed.iter().map(of_sequence).collect(),
        micros: answers.took.as_micros() as u64,
    }))
}

pub(crate) fn rejections(rejections: Vec<Rejection>) -> wire::AttachResponse {
    let rejections = rejections.into_iter().map(|Rejection { tag, conversation, problem }| wire::Rejection {
        piece: tag.piece.0,
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

pub(crate) fn ticket(nccl: wire::Nccl) -> Ticket {
    Ticket { version: nccl.version, id: nccl.id }
}

pub(crate) fn nccl(ticket: &Ticket) -> wire::Nccl {
    wire::Nccl { version: ticket.version, id: ticket.id.clone() }
}

pub(crate) fn to_worker(message: ToWorker) -> wire::JoinResponse {
    wire::JoinResponse { message: Some(message) }
}

pub(crate) fn partials(report: Report) -> wire::Partials {
    let ranks = (report.first_rank as u32..).zip(report.ranks);
    wire::Partials {
        stamp: Some(report.stamp.into()),
        ranks: ranks.map(|(rank, partials)| wire::RankPartials::new(rank, partials)).collect(),
    }
}

/// What came from the worker that owns these ranks, of a head with so many outputs.
///
/// # Errors
/// If it is of other ranks, or not as many logits as outputs for each checksum.
pub(crate) fn report(
    partials: wire::Partials,
    owned: &std::ops::Range<usize>,
    outputs: usize,
) -> Result<Report, String> {
    let stamp = stamp(partials.stamp)?;
    let first_rank = partials.ranks.first().map_or(owned.start, |first| first.rank as usize);
    let mut ranks = Vec::with_capacity(partials.ranks.len());
    for (rank, of_rank) in (first_rank..).zip(partials.ranks) {
        if of_rank.rank as usize != rank || !owned.contains(&rank) {
            return Err(format!("partial logits of rank {}, which the worker does not own", of_rank.rank));
        }
        ranks.push(of_rank.into_partials(outputs).map_err(|error| format!("rank {rank} sent {error}"))?);
    }
    Ok(Report { first_rank, stamp, ranks })
}

#[cfg(test)]
mod tests;
