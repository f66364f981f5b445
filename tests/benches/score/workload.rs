//! The token sequences that are scored: random ids, for what a token says does not change what it costs.

use std::sync::Arc;

use crate::random::Random;

/// A token sequence.
pub(crate) type Sequence = Arc<[u32]>;

/// Some work, and what is promised for it.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) sequences: Vec<Sequence>,
    /// The least share of the bare matmul rate.
    pub(crate) least_share: f64,
}

/// Ids from here on are ordinary tokens.
const FIRST: usize = 300;

/// The three workloads.
pub(crate) fn all() -> Vec<Workload> {
    let mut rng = Random::new(1);
    let independent = (0..64).map(|_| sequence(&mut rng, &[], 100..400)).collect();
    let groups = (0..8).flat_map(|_| group(&mut rng)).collect();
    let long = vec![sequence(&mut rng, &[], 4000..4001)];
    vec![
        Workload { name: "independent, 100 to 400 tokens", sequences: independent, least_share: 0.85 },
        Workload { name: "groups of 8, prompt as long as response", sequences: groups, least_share: 0.85 },
        Workload { name: "one conversation of 4,000 tokens", sequences: long, least_share: 0.65 },
    ]
}

/// A prompt of 64 to 192 tokens with 8 responses of about its length.
fn group(rng: &mut Random) -> Vec<Sequence> {
    let len = rng.range(64..192);
    let prompt = sequence(rng, &[], len..len + 1);
    (0..8).map(|_| sequence(rng, &prompt, len * 3 / 4..len * 5 / 4)).collect()
}

fn sequence(rng: &mut Random, prefix: &[u32], len: std::ops::Range<usize>) -> Sequence {
    let len = rng.range(len);
    let ids = (0..len).map(|_| rng.range(FIRST..crate::checkpoint::VOCAB) as u32);
    prefix.iter().copied().chain(ids).collect()
}
