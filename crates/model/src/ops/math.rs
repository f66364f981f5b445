//! Exponential and hyperbolic tangent of an f32, without branches, so that loops over them become vector instructions.
//!
//! Range reduction and polynomials are those of the Cephes library (expf.c, tanhf.c); both are within 2 units in the
//! last place.

/// 1.5 x 2^23: adding it rounds to an integer, which then stands in the low bits.
const ROUND: f32 = 12_582_912.0;
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// e to a smaller power is not a normal number, and counts as 0.
const LOWEST: f32 = -87.3;
/// e to a larger power is not finite; results are held at e^88.3.
const HIGHEST: f32 = 88.3;

/// e^x; 0 below e^-87.3, at most e^88.3, NaN for NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let held = x.clamp(LOWEST, HIGHEST);
    let rounded = held.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, held));
    let p = 1.987_569_1e-4_f32
        .mul_add(r, 1.398_199_9e-3)
        .mul_add(r, 8.333_452e-3)
        .mul_add(r, 4.166_579_6e-2)
        .mul_add(r, 1.666_666_5e-1)
        .mul_add(r, 0.5);
    let e_r = p.mul_add(r * r, r) + 1.0;
    // the integer that `rounded` holds in its low bits becomes an exponent
    let power = f32::from_bits(rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    if x < LOWEST { 0.0 } else { e_r * power }
}

/// Hyperbolic tangent.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let z = x * x;
    let small = (-5.704_988_7e-3_f32)
        .mul_add(z, 2.063_909e-2)
        .mul_add(z, -5.373_971_5e-2)
        .mul_add(z, 1.333_144_2e-1)
        .mul_add(z, -3.333_328e-1)
        .mul_add(z * x, x);
    let size = x.abs();
    let large = 1.0 - 2.0 / (exp(2.0 * size) + 1.0);
    if size < 0.625 { small } else { large.copysign(x) }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The sum of some lanes, in pairs.
#[inline(always)]
pub(super) fn sum(lanes: [f32; 16]) -> f32 {
    let mut lanes = lanes;
    let mut half = lanes.len() / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}
