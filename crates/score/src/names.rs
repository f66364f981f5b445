//! What results are about: steps, pieces, and the conversations in them.

use std::sync::Arc;

/// Names a step of a replica; whatever results from it carries this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The generation of the weights.
    pub generation: u64,
    /// The life of the replica.
    pub epoch: u64,
    /// The number of the step in it; each is greater than the one before.
    pub step: u64,
}

/// A piece; its number is the gateway's choice, and never used again there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceId(pub u64);

/// A piece on one of its ways to a replica: what an answer has to name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// The piece.
    pub piece: PieceId,
    /// How often it has been sent, this time included.
    pub attempt: u32,
}

/// Conversations of one prompt that travel together, at most a step's worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// What answers have to name.
    pub tag: Tag,
    /// The token ids that all its conversations begin with; may be empty.
    pub prefix: Arc<[u32]>,
    /// Its conversations.
    pub tails: Vec<Tail>,
    /// Whether it goes before what else waits from the same gateway.
    pub urgent: bool,
}

/// One conversation of a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// Its number in the item.
    pub conversation: u32,
    /// Its token ids behind the prefix.
    pub ids: Arc<[u32]>,
}

// === impl Piece ===

impl Piece {
    /// The credits that it takes: its prefix once, and each tail.
    pub fn tokens(&self) -> u64 {
        let tails: usize = self.tails.iter().map(|tail| tail.ids.len()).sum();
        (self.prefix.len() + tails) as u64
    }
}
