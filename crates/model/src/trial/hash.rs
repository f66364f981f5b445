//! Random numbers that need no state: a hash of a seed and a counter, the same here, in kernels/rows.h, and wherever
//! else somebody makes the same weights.

/// A number in 0 .. 1 of 24 random bits: SplitMix64 (Steele, Lea, Flood 2014), its output function on a counter.
pub(crate) fn uniform(seed: u64, counter: u64) -> f32 {
    (mixed(seed, counter) >> 40) as f32 / 16_777_216.0
}

/// 64 random bits.
pub fn mixed(seed: u64, counter: u64) -> u64 {
    let mut x = seed.wrapping_add((counter + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The seed of a tensor: FNV-1a of its name, in 64 bits.
pub(crate) fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
