//! What token sequences have in common at their start.

/// Sequences with a shorter common start are not merged: one more segment would cost more than these tokens.
pub const SHORTEST_SHARE: usize = 16;

/// How many tokens two sequences have in common at their start.
pub fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// How many tokens of two sequences are computed once: what they have in common, or nothing if that is too short.
pub fn shared_prefix(a: &[u32], b: &[u32]) -> usize {
    Some(common_prefix(a, b)).filter(|&common| common >= SHORTEST_SHARE).unwrap_or_default()
}
