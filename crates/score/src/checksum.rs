//! What the ranks of a replica must have in common, as a number: what is wrong on one rank shows in it.

/// What a checksum covers. All ranks of an epoch send the same kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// The pooled row: of all that came before, what is the same on all ranks once they have summed it.
    Row,
    /// The conversation's token ids and embedded rows, from its first token to its last, and then the pooled row.
    Path,
}

/// Numbers of a row that are folded side by side: a fold waits for the one before it.
const LANES: usize = 4;

// === impl Checksum ===

impl Checksum {
    /// What is covered in epochs of this version of the inner protocol.
    pub const fn of_version(version: u32) -> Self {
        if version < 2 { Self::Row } else { Self::Path }
    }
}

/// Folds a word into a checksum (FxHash of Firefox and rustc, in 64 bits).
///
/// Whatever one of the two is, this is a bijection of the other: runs of words that differ in one word differ in the end.
pub const fn fold(checksum: u64, word: u64) -> u64 {
    (checksum.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95)
}

/// A checksum of a token's id and the bits of its embedded row.
pub fn of_embedded(token: u32, row: &[f32]) -> u64 {
    let mut lanes: [u64; LANES] = [1, 2, 3, 4];
    let (pairs, rest) = row.as_chunks::<{ 2 * LANES }>();
    for numbers in pairs {
        for (lane, pair) in lanes.iter_mut().zip(numbers.as_chunks::<2>().0) {
            *lane = fold(*lane, u64::from(pair[0].to_bits()) << 32 | u64::from(pair[1].to_bits()));
        }
    }
    for (place, number) in rest.iter().enumerate() {
        lanes[place % LANES] = fold(lanes[place % LANES], u64::from(number.to_bits()));
    }
    lanes.into_iter().fold(u64::from(token), fold)
}

#[cfg(test)]
mod tests;
