//! What the ranks compute here: a pure function of a sequence's tokens, so that whatever is mixed up is noticed.

use std::sync::Arc;

use model::PackedBatch;

use super::world::Random;

/// A conversation with this token has no finite score.
pub(super) const POISON: u32 = 666;
pub(super) const VOCAB: u32 = 50_000;

/// What a rank computes of a sequence: its logit, and a checksum.
pub(super) fn partial(tokens: &[u32], generation: u64, rank: usize) -> (f32, u64) {
    let mix = |hash: u64, token: &u32| (hash ^ u64::from(*token)).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    let checksum = Random(tokens.iter().fold(generation, mix)).next();
    let logit = ((checksum >> (16 * rank)) & 0xffff) as f32 / 777.0 - 40.0;
    (if tokens.contains(&POISON) { f32::NAN } else { logit }, checksum)
}

/// The score of a sequence.
pub(super) fn score(tokens: &[u32], generation: u64, ranks: usize) -> f32 {
    (0..ranks).fold(0.0, |sum, rank| sum + partial(tokens, generation, rank).0)
}

/// What the bits of the scores depend on.
pub(super) fn fingerprint(generation: u64) -> Arc<str> {
    format!("fingerprint-{generation}").into()
}

/// The sequences of a batch, put together from its segments.
pub(super) fn sequences(batch: &PackedBatch) -> Vec<Vec<u32>> {
    let sequence = |&end: &usize| {
        let path = std::iter::successors(Some(end), |segment| batch.segments[*segment].parent);
        let mut path: Vec<usize> = path.collect();
        path.reverse();
        let mut tokens = Vec::new();
        for segment in path.into_iter().map(|number| &batch.segments[number]) {
            assert_eq!(segment.position, tokens.len());
            tokens.extend_from_slice(&batch.tokens[segment.rows.clone()]);
        }
        tokens
    };
    batch.ends.iter().map(sequence).collect()
}
