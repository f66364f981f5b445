//! The wire's forms of what a score is made of, in both directions.

use std::time::Duration;

use score::{Checksum, Misshapen, Partials, Piece, PieceId, RankStep, Stamp, Tag, Tail, Versions};

use crate::shard::v1 as wire;

impl From<Stamp> for wire::Stamp {
    fn from(Stamp { generation, epoch, step }: Stamp) -> Self {
        Self { generation, epoch, step }
    }
}

impl From<wire::Stamp> for Stamp {
    fn from(wire::Stamp { generation, epoch, step }: wire::Stamp) -> Self {
        Self { generation, epoch, step }
    }
}

impl From<Versions> for wire::ProtocolRange {
    fn from(Versions { lowest, highest }: Versions) -> Self {
        Self { lowest, highest }
    }
}

impl From<wire::ProtocolRange> for Versions {
    fn from(wire::ProtocolRange { lowest, highest }: wire::ProtocolRange) -> Self {
        Self { lowest, highest }
    }
}

impl From<RankStep> for wire::RankStep {
    fn from(RankStep { rank, stamp }: RankStep) -> Self {
        Self { rank: rank as u32, stamp: Some(stamp.into()) }
    }
}

impl TryFrom<wire::RankStep> for RankStep {
    type Error = String;

    fn try_from(wire::RankStep { rank, stamp }: wire::RankStep) -> Result<Self, String> {
        let stamp = stamp.ok_or_else(|| format!("rank {rank} names no step"))?.into();
        Ok(Self { rank: rank as usize, stamp })
    }
}

impl From<Checksum> for wire::Checksum {
    fn from(checksum: Checksum) -> Self {
        match checksum {
            Checksum::Row => Self::Row,
            Checksum::Path => Self::Path,
        }
    }
}

impl wire::LeaderWelcome {
    /// What the checksums of the epoch cover; None for a kind that this build does not know.
    pub fn covers(&self) -> Option<Checksum> {
        match wire::Checksum::try_from(self.checksum).ok()? {
            wire::Checksum::Unspecified | wire::Checksum::Row => Some(Checksum::Row),
            wire::Checksum::Path => Some(Checksum::Path),
        }
    }
}

// === pieces ===

impl wire::Piece {
    /// A piece for whose answers somebody waits so long; `traceparent` is empty for no trace.
    pub fn new(piece: &Piece, timeout: Duration, traceparent: &str) -> Self {
        let tail = |Tail { conversation, ids }: &Tail| wire::Tail { conversation: *conversation, ids: ids.to_vec() };
        Self {
            piece: piece.tag.piece.0,
            attempt: piece.tag.attempt,
            prefix: piece.prefix.to_vec(),
            tails: piece.tails.iter().map(tail).collect(),
            timeout_micros: u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX),
            traceparent: traceparent.to_owned(),
            urgent: piece.urgent,
        }
    }
}

impl From<wire::Piece> for Piece {
    fn from(piece: wire::Piece) -> Self {
        let tail = |wire::Tail { conversation, ids }: wire::Tail| Tail { conversation, ids: ids.into() };
        Self {
            tag: tag(piece.piece, piece.attempt),
            prefix: piece.prefix.into(),
            tails: piece.tails.into_iter().map(tail).collect(),
            urgent: piece.urgent,
        }
    }
}

impl From<Tag> for wire::Withdrawal {
    fn from(Tag { piece: PieceId(piece), attempt }: Tag) -> Self {
        Self { piece, attempt }
    }
}

impl wire::Withdrawal {
    /// What is taken back.
    pub fn tag(&self) -> Tag {
        tag(self.piece, self.attempt)
    }
}

impl wire::Rejection {
    /// The piece that it is about.
    pub fn tag(&self) -> Tag {
        tag(self.piece, self.attempt)
    }
}

impl wire::Computed {
    /// The piece that it is about.
    pub fn tag(&self) -> Tag {
        tag(self.piece, self.attempt)
    }
}

fn tag(piece: u64, attempt: u32) -> Tag {
    Tag { piece: PieceId(piece), attempt }
}

// === partial logits ===

impl wire::RankPartials {
    /// What a rank contributes to each sequence of a step.
    pub fn new(rank: u32, partials: Partials) -> Self {
        let (logits, checksums) = partials.into_parts();
        Self { rank, logits, checksums }
    }

    /// What the rank contributes, of a head with so many outputs.
    ///
    /// # Errors
    /// If there are not as many logits as outputs for each checksum.
    pub fn into_partials(self, outputs: usize) -> Result<Partials, Misshapen> {
        Partials::new(outputs, self.logits, self.checksums)
    }
}
