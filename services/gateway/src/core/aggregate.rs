//! Partial logits of all ranks become a score, or the reason why they do not.

/// What a result belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The generation of the weights.
    pub generation: u64,
    /// The life of the replica.
    pub epoch: u64,
    /// The step within it.
    pub step: u64,
}

/// What one rank contributes to a score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Partial {
    /// Who computed it.
    pub rank: usize,
    /// When.
    pub stamp: Stamp,
    /// Its share of the sum.
    pub logit: f32,
    /// A checksum of the whole pooled row, the same on all ranks.
    pub checksum: u64,
}

/// What the partial logits of a conversation must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// The ranks of the replica.
    pub ranks: usize,
    /// The generation that the replica has announced.
    pub generation: u64,
    /// The epoch in which the conversation was sent.
    pub epoch: u64,
}

/// Why partial logits do not make a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    /// A rank did not answer.
    #[error("rank {rank} left out the conversation")]
    Missing {
        /// Which.
        rank: usize,
    },
    /// There are more partial logits than ranks.
    #[error("{found} partial logits of {ranks} ranks")]
    TooMany {
        /// How many there are.
        found: usize,
        /// How many there should be.
        ranks: usize,
    },
    /// The result is not of the life or the weights that it was asked of.
    #[error(
        "computed in epoch {} with generation {}, asked of epoch {} with generation {}",
        found.epoch, found.generation, expected.epoch, expected.generation
    )]
    Stale {
        /// What rank 0 says.
        found: Stamp,
        /// What was asked for.
        expected: Expected,
    },
    /// A rank computed another step than rank 0.
    #[error("ranks 0 and {rank} computed different steps")]
    Stamp {
        /// Which.
        rank: usize,
    },
    /// A rank computed another row than rank 0.
    #[error("ranks 0 and {rank} computed different rows")]
    Checksum {
        /// Which.
        rank: usize,
    },
    /// The model computed infinity or NaN, and all ranks agree on it.
    #[error("the score is not a finite number")]
    NotFinite,
}

/// The score, which is the sum in f32, in rank order, from 0.0; and the step that all of it comes from.
///
/// # Errors
/// Unless each rank answered once, all for one step of the expected epoch and generation and with the same row, and the
/// sum is finite. It is not if any partial logit is not.
pub fn add_up(expected: Expected, partials: &[Partial]) -> Result<(f32, Stamp), Disagreement> {
    let mut score = 0.0;
    let mut first: Option<&Partial> = None;
    for rank in 0..expected.ranks {
        let found = partials.iter().find(|partial| partial.rank == rank);
        let partial = found.ok_or(Disagreement::Missing { rank })?;
        let first = *first.get_or_insert(partial);
        if (first.stamp.epoch, first.stamp.generation) != (expected.epoch, expected.generation) {
            return Err(Disagreement::Stale { found: first.stamp, expected });
        }
        if partial.stamp != first.stamp {
            return Err(Disagreement::Stamp { rank });
        }
        if partial.checksum != first.checksum {
            return Err(Disagreement::Checksum { rank });
        }
        score += partial.logit;
    }
    let stamp = first.ok_or(Disagreement::Missing { rank: 0 })?.stamp;
    if partials.len() > expected.ranks {
        return Err(Disagreement::TooMany { found: partials.len(), ranks: expected.ranks });
    }
    if score.is_finite() { Ok((score, stamp)) } else { Err(Disagreement::NotFinite) }
}

#[cfg(test)]
mod tests;
