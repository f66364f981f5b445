//! The promise: contributions of ranks are a score if all ranks are there, all speak of one step of the epoch and the
//! generation that was asked, all have computed the same thing, and the sum, in rank order, is finite. Else there is
//! none, and the reason is a [`Disagreement`].
//!
//! A head need not be linear. A linear one is split: each rank contributes its columns of the pooled row times its part
//! of the head. Any other is computed whole by rank 0, which contributes the outputs; the other ranks contribute zeros,
//! so that the sum is exact. All ranks send the checksum of the pooled row all the same.
//!
//! A checksum that differs is about the conversations that have it: what is wrong with a token or its embedded row on one
//! rank fails those that saw it (see [`Checksum::Path`](crate::Checksum::Path)), and not the step.

use crate::{Partial, Stamp};

/// The step that a rank says it computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankStep {
    /// The rank.
    pub rank: usize,
    /// The step.
    pub stamp: Stamp,
}

/// What the contributions to a conversation must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// The ranks of the replica.
    pub ranks: usize,
    /// The outputs of the head.
    pub outputs: usize,
    /// The generation that the replica has announced.
    pub generation: u64,
    /// The epoch in which the conversation was sent.
    pub epoch: u64,
}

/// What a head computes of a conversation; all finite.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outputs {
    /// The first output: the raw scalar logit.
    pub score: f32,
    /// The outputs behind it; nothing is allocated for none.
    pub others: Box<[f32]>,
}

/// Why contributions do not make a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    /// A rank did not answer, or not in its place.
    #[error("rank {rank} left out the conversation")]
    Missing {
        /// The rank.
        rank: usize,
    },
    /// There are more contributions than ranks.
    #[error("{found} partial logits of {ranks} ranks")]
    TooMany {
        /// How many there are.
        found: usize,
        /// How many there should be.
        ranks: usize,
    },
    /// A rank contributes to another number of outputs than the head has.
    #[error("rank {rank} computed {found} outputs of {outputs}")]
    Outputs {
        /// The rank.
        rank: usize,
        /// How many values it sent.
        found: usize,
        /// How many outputs there are.
        outputs: usize,
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
        /// The rank.
        rank: usize,
    },
    /// A rank computed other rows than rank 0.
    #[error("ranks 0 and {rank} computed different rows")]
    Checksum {
        /// The rank.
        rank: usize,
    },
    /// The model computed infinity or NaN, and all ranks agree on it.
    #[error("the score is not a finite number")]
    NotFinite,
}

/// The outputs, each the sum in f32, in rank order, from 0.0; and the step that all of it comes from.
///
/// # Errors
/// Unless `ranks` has each rank once, in order, all for one step of the expected epoch and generation, with the same
/// checksum, and every sum is finite. It is not if any value is not.
pub fn add_up<'a>(
    expected: Expected,
    ranks: impl IntoIterator<Item = (RankStep, Partial<'a>)>,
) -> Result<(Outputs, Stamp), Disagreement> {
    let mut ranks = ranks.into_iter().fuse();
    let mut outputs = Outputs { score: 0.0, others: vec![0.0; expected.outputs.saturating_sub(1)].into() };
    let mut first = None;
    for rank in 0..expected.ranks {
        let (RankStep { stamp, .. }, Partial { values, checksum }) =
            ranks.next().filter(|(of, _)| of.rank == rank).ok_or(Disagreement::Missing { rank })?;
        let (first_stamp, first_checksum) = *first.get_or_insert((stamp, checksum));
        if (first_stamp.epoch, first_stamp.generation) != (expected.epoch, expected.generation) {
            return Err(Disagreement::Stale { found: first_stamp, expected });
        }
        if stamp != first_stamp {
            return Err(Disagreement::Stamp { rank });
        }
        if checksum != first_checksum {
            return Err(Disagreement::Checksum { rank });
        }
        if !outputs.add(values) {
            return Err(Disagreement::Outputs { rank, found: values.len(), outputs: expected.outputs });
        }
    }
    let (stamp, _) = first.ok_or(Disagreement::Missing { rank: 0 })?;
    match ranks.count() {
        0 if outputs.iter().all(f32::is_finite) => Ok((outputs, stamp)),
        0 => Err(Disagreement::NotFinite),
        more => Err(Disagreement::TooMany { found: expected.ranks + more, ranks: expected.ranks }),
    }
}

// === impl Outputs ===

impl Outputs {
    /// All of them, the score first.
    pub fn iter(&self) -> impl Iterator<Item = f32> {
        std::iter::once(self.score).chain(self.others.iter().copied())
    }

    /// Adds a contribution, unless it is to another number of outputs.
    fn add(&mut self, values: &[f32]) -> bool {
        let Some((first, others)) = values.split_first().filter(|(_, others)| others.len() == self.others.len()) else {
            return false;
        };
        self.score += first;
        self.others.iter_mut().zip(others).for_each(|(sum, value)| *sum += value);
        true
    }
}

#[cfg(test)]
mod tests;
