//! Conversations for trials: token ids of a hash, so that whoever knows the seeds has the same.

use std::sync::Arc;

use model::{PackedBatch, Packer};

/// A run of tokens: its seed and its length. Conversations that begin with the same piece share a prefix.
pub(crate) type Piece = (u64, usize);

/// Ids below this are special to some tokenizer; 0 is padding.
const FIRST_TOKEN: u64 = 3;

pub(crate) fn sequence(pieces: &[Piece], vocab: usize) -> Arc<[u32]> {
    let ids = vocab as u64 - FIRST_TOKEN;
    let token = |seed, i| (FIRST_TOKEN + model::trial::mixed(seed, i) % ids) as u32;
    pieces.iter().flat_map(|&(seed, len)| (0..len as u64).map(move |i| token(seed, i))).collect()
}

/// Steps of at most `budget` tokens, filled in order.
pub(crate) fn steps(sequences: &[Arc<[u32]>], budget: usize) -> Vec<PackedBatch> {
    let (mut steps, mut packer) = (Vec::new(), Packer::default());
    for sequence in sequences {
        if !packer.fits(sequence, budget) {
            steps.push(std::mem::take(&mut packer).pack());
        }
        packer.push(Arc::clone(sequence));
    }
    if !packer.is_empty() {
        steps.push(packer.pack());
    }
    steps
}
