//! Each operation against a plain f64 one, and the same bits for a row in any company, block size and number of threads.

use std::sync::Arc;

use candle_core::DType;
use proptest::prelude::*;

use super::math::{exp, sigmoid, tanh};
use super::*;
use crate::batch::{PackedBatch, Packer};
use crate::blueprint::Activation;
use crate::config::{Llama3Scaling, Rope};
use crate::plan::{Rows, Run, StepPlan, runs};

/// Mixes a number into another (SplitMix64).
fn mix(state: u64, number: u64) -> u64 {
    let mut z = state.wrapping_mul(31).wrapping_add(number).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number in [-1, 1) that is made from a hash.
fn unit(hash: u64) -> f32 {
    (hash >> 40) as f32 / (1 << 23) as f32 - 1.0
}

fn noise(seed: u64, rows: usize, columns: usize) -> Tensor {
    matrix((0..rows * columns).map(|i| unit(mix(seed, i as u64))).collect(), columns).unwrap()
}

fn rows_of(x: &Tensor) -> Vec<Vec<f32>> {
    x.to_vec2().unwrap()
}

fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter().map(|row| row.iter().map(|value| value.to_bits()).collect()).collect()
}

fn on_threads<T: Send>(count: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(work)
}

/// Each of `rows` rows has the same bits alone (`work` gets a range of rows), and on 1, 2 and 3 threads.
fn check_rows(what: &str, rows: usize, work: impl Fn(Range<usize>) -> Vec<Tensor> + Sync) {
    let compute = |range: Range<usize>| -> Vec<_> { work(range).iter().map(|x| bits(&rows_of(x))).collect() };
    let all = on_threads(1, || compute(0..rows));
    for threads in [2, 3] {
        assert!(on_threads(threads, || compute(0..rows)) == all, "{what}: {threads} threads differ from one");
    }
    for row in 0..rows {
        let alone: Vec<_> = all.iter().map(|output| vec![output[row].clone()]).collect();
        assert!(compute(row..row + 1) == alone, "{what}: row {row} alone differs from the same row of {rows}");
    }
    let part: Vec<_> = all.iter().map(|output| output[3..rows - 2].to_vec()).collect();
    assert!(compute(3..rows - 2) == part, "{what}: some rows differ from the same rows among others");
}

const WIDTHS: [usize; 8] = [1, 5, 16, 33, 64, 100, 1000, 4608];

// exponentials

/// How far a result is from the true one, in units in the last place of the true one.
fn ulps(got: f32, want: f64) -> f64 {
    let unit = (want.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor() - 23.0).exp2();
    (f64::from(got) - want).abs() / unit
}

/// The largest error over a grid and over numbers of every size within the range.
fn worst(range: Range<f32>, got: impl Fn(f32) -> f32, want: impl Fn(f64) -> f64) -> f64 {
    let steps = 300_000;
    let grid = (0..=steps).map(|i| range.start + (range.end - range.start) * (i as f32 / steps as f32));
    let sizes = (-149..7).flat_map(|power| (0..64).map(move |i| 2f64.powi(power) * (1.0 + f64::from(i) / 64.0)));
    let sizes = sizes.flat_map(|size| [size as f32, -size as f32]).filter(|x| range.contains(x));
    grid.chain(sizes).map(|x| ulps(got(x), want(f64::from(x)))).fold(0.0, f64::max)
}

#[test]
fn exp_is_within_two_units_in_the_last_place() {
    let error = worst(-87.3..88.3, exp, f64::exp);
    assert!(error <= 2.0, "{error} ulp");
    for (x, want) in [(0.0, 1.0), (-0.0, 1.0), (1e-45, 1.0), (-1e-45, 1.0)] {
        assert_eq!(exp(x), want, "{x}");
    }
    for x in [-87.4, -100.0, -1e30, f32::MIN, f32::NEG_INFINITY] {
        assert_eq!(exp(x).to_bits(), 0, "{x}");
    }
    for x in [88.4, 89.0, 1e30, f32::MAX, f32::INFINITY] {
        assert_eq!(exp(x), exp(88.3), "{x}");
    }
    assert!(exp(f32::NAN).is_nan() && exp(-f32::NAN).is_nan());
}

#[test]
fn tanh_is_within_two_units_in_the_last_place() {
    let error = worst(-1.0..1.0, tanh, f64::tanh).max(worst(-100.0..100.0, tanh, f64::tanh));
    assert!(error <= 2.0, "{error} ulp");
    for (x, want) in [(0.0, 0.0), (1e-45, 1e-45), (1e-30, 1e-30), (20.0, 1.0), (1e30, 1.0), (f32::INFINITY, 1.0)] {
        assert_eq!(tanh(x), want, "{x}");
        assert_eq!(tanh(-x), -want, "-{x}");
    }
    assert!(tanh(f32::NAN).is_nan());
}

#[test]
fn sigmoid_is_within_four_units_in_the_last_place() {
    let error = worst(-87.0..100.0, sigmoid, |x| 1.0 / (1.0 + (-x).exp()));
    assert!(error <= 4.0, "{error} ulp");
    assert_eq!((sigmoid(0.0), sigmoid(1e30), sigmoid(f32::INFINITY)), (0.5, 1.0, 1.0));
    for x in [-100.0, -1e30, f32::NEG_INFINITY] {
        assert!((0.0..1e-38).contains(&sigmoid(x)), "{x}");
    }
    assert!(sigmoid(f32::NAN).is_nan());
}

// activations

fn activated(gate: &[f32], up: &[f32], activation: Activation) -> Vec<f32> {
    let row = [gate, up].concat();
    let columns = row.len();
    rows_of(&gated(&matrix(row, columns).unwrap(), activation).unwrap()).remove(0)
}

#[test]
fn activations_are_what_they_are_called() {
    let gate: Vec<f32> = (-60_000..=60_000).map(|i| i as f32 / 4000.0).collect();
    let ones = vec![1.0; gate.len()];
    let gelu = activated(&gate, &ones, Activation::GeluTanh);
    let silu = activated(&gate, &ones, Activation::Silu);
    for ((&x, gelu), silu) in gate.iter().zip(gelu).zip(silu) {
        let wide = f64::from(x);
        let u = (2.0 / std::f64::consts::PI).sqrt() * (wide + 0.044715 * wide.powi(3));
        let textbook = 0.5 * wide * (1.0 + u.tanh());
        assert!(
            (f64::from(gelu) - textbook).abs() <= 4e-7 * wide.abs().max(1e-3),
            "gelu({x}) = {gelu}, not {textbook}"
        );
        // relative to results near 0, too: an error of the argument grows with its size
        let precise = wide / (1.0 + (-2.0 * u).exp());
        if u > -40.0 {
            assert!(ulps(gelu, precise) <= 6.0 + 8.0 * u.abs(), "gelu({x}) = {gelu}, not {precise}");
        }
        let precise = wide / (1.0 + (-wide).exp());
        assert!(ulps(silu, precise) <= 5.0, "silu({x}) = {silu}, not {precise}");
    }
}

#[test]
fn activations_multiply_and_let_nan_through() {
    for activation in [Activation::GeluTanh, Activation::Silu] {
        let gate: Vec<f32> = (0..77).map(|i| 3.0 * unit(mix(1, i))).collect();
        let up: Vec<f32> = (0..77).map(|i| unit(mix(2, i))).collect();
        let plain = activated(&gate, &[1.0; 77], activation);
        let products: Vec<f32> = plain.iter().zip(&up).map(|(a, b)| a * b).collect();
        assert_eq!(activated(&gate, &up, activation), products);
        let special = |gate, up| activated(&[gate], &[up], activation)[0];
        assert!(special(f32::NAN, 1.0).is_nan() && special(1.0, f32::NAN).is_nan());
        assert_eq!(special(f32::INFINITY, 1.0), f32::INFINITY);
        assert_eq!(special(1.0, f32::NEG_INFINITY), f32::NEG_INFINITY);
        assert_eq!((special(0.0, 5.0), special(1e-45, 1.0) >= 0.0), (0.0, true));
        assert_eq!((special(100.0, 1.0), special(1e30, 1.0)), (100.0, 1e30));
        for x in [-100.0, -1e10, -1e25] {
            assert!((-1e-12..=0.0).contains(&special(x, 1.0)), "{x}");
        }
    }
}

// norms and residuals

fn norm(seed: u64, width: usize, eps: f32) -> Norm {
    Norm { weight: (0..width).map(|i| 1.0 + unit(mix(seed, i as u64))).collect(), eps }
}

fn naive_norm(row: &[f64], norm: &Norm) -> Vec<f64> {
    let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
    let scale = 1.0 / (mean + f64::from(norm.eps)).sqrt();
    row.iter().zip(&norm.weight).map(|(x, &w)| x * scale * f64::from(w)).collect()
}

fn wide(row: &[f32]) -> Vec<f64> {
    row.iter().map(|&x| f64::from(x)).collect()
}

/// Within `tolerance` of the true value, relative where `size` is more than 1.
fn check_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (&got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(error <= tolerance * want.abs().max(1.0), "{what}, column {i}: {got} and not {want}");
    }
}

#[test]
fn norms_and_residuals_are_those_of_f64() {
    for width in WIDTHS {
        for (size, eps) in [(1.0, 1e-6), (1e-3, 1e-3), (3e4, 1e-5)] {
            let scaled = |seed| (noise(seed, 5, width) * size).unwrap();
            let (h, branch) = (scaled(1), scaled(2));
            let (before, after) = (norm(3, width, eps), norm(4, width, eps));
            let normed = rows_of(&rms_norm(&h, &before).unwrap());
            let summed = rows_of(&add(&h, &branch, None).unwrap());
            let summed_after = rows_of(&add(&h, &branch, Some(&after)).unwrap());
            for (row, (h, branch)) in rows_of(&h).iter().zip(&rows_of(&branch)).enumerate() {
                let what = format!("width {width}, size {size}, row {row}");
                check_close(&what, &normed[row], &naive_norm(&wide(h), &before), 1e-6);
                let exact: Vec<f32> = h.iter().zip(branch).map(|(h, branch)| h + branch).collect();
                assert_eq!(summed[row], exact, "{what}");
                let sums = wide(h).into_iter().zip(naive_norm(&wide(branch), &after));
                check_close(&what, &summed_after[row], &sums.map(|(h, x)| h + x).collect::<Vec<_>>(), 2e-6);
            }
            for after in [None, Some(&after)] {
                let (sum, normed) = add_and_norm(&h, &branch, after, &before).unwrap();
                let separate = add(&h, &branch, after).unwrap();
                assert_eq!(bits(&rows_of(&sum)), bits(&rows_of(&separate)), "width {width}");
                let separate = rms_norm(&separate, &before).unwrap();
                assert_eq!(bits(&rows_of(&normed)), bits(&rows_of(&separate)), "width {width}");
            }
        }
    }
}

#[test]
fn a_norm_takes_zeros_lets_nan_through_and_may_be_narrower_than_a_row() {
    let plain = Norm { weight: vec![1.0; 20], eps: 1e-6 };
    let zeros = Tensor::zeros((2, 20), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(rows_of(&rms_norm(&zeros, &plain).unwrap()), vec![vec![0.0; 20]; 2]);
    let mut row = vec![1.0; 20];
    row[19] = f32::NAN;
    assert!(rows_of(&rms_norm(&matrix(row, 20).unwrap(), &plain).unwrap())[0].iter().all(|x| x.is_nan()));
    // heads of queries and keys, each normed by itself
    let (x, narrow) = (noise(1, 3, 20), norm(2, 4, 1e-6));
    let heads = rms_norm(&x.reshape((15, 4)).unwrap(), &narrow).unwrap().reshape((3, 20)).unwrap();
    assert_eq!(rows_of(&rms_norm(&x, &narrow).unwrap()), rows_of(&heads));
    assert!(rms_norm(&noise(1, 3, 10), &narrow).is_err());
    assert!(add(&noise(1, 3, 10), &noise(1, 3, 11), None).is_err());
    assert!(add_and_norm(&noise(1, 3, 10), &noise(1, 2, 10), None, &narrow).is_err());
}

#[test]
fn a_row_by_itself_has_the_same_bits() {
    const ROWS: usize = 41;
    for width in WIDTHS {
        let (h, branch) = (noise(1, ROWS, width), noise(2, ROWS, width));
        let (before, after) = (norm(3, width, 1e-6), norm(4, width, 1e-6));
        let part = |x: &Tensor, rows: &Range<usize>| x.narrow(0, rows.start, rows.len()).unwrap();
        let what = format!("width {width}");
        check_rows(&what, ROWS, |rows| vec![rms_norm(&part(&h, &rows), &before).unwrap()]);
        check_rows(&what, ROWS, |rows| vec![add(&part(&h, &rows), &part(&branch, &rows), Some(&after)).unwrap()]);
        check_rows(&what, ROWS, |rows| {
            let (h, branch) = (part(&h, &rows), part(&branch, &rows));
            let (sum, normed) = add_and_norm(&h, &branch, Some(&after), &before).unwrap();
            vec![sum, normed]
        });
        let gate_up = (noise(5, ROWS, 2 * width) * 4.0).unwrap();
        for activation in [Activation::GeluTanh, Activation::Silu] {
            check_rows(&what, ROWS, |rows| vec![gated(&part(&gate_up, &rows), activation).unwrap()]);
        }
    }
}

#[test]
fn only_contiguous_f32_on_the_cpu_is_taken() {
    let x = noise(1, 4, 6);
    assert!(values(&x.t().unwrap()).is_err() && values(&x.narrow(1, 0, 3).unwrap()).is_err());
    assert!(values(&x.to_dtype(DType::F64).unwrap()).is_err());
    let middle = values(&x.narrow(0, 1, 2).unwrap()).map(|values| values.to_vec()).unwrap();
    assert_eq!(middle, rows_of(&x)[1..3].concat());
    assert!(gated(&x.t().unwrap(), Activation::Silu).is_err());
}

// position encoding

fn llama3() -> Rope {
    let scaling = Llama3Scaling {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    Rope { theta: 5e5, llama3: Some(scaling) }
}

/// In f64, and with the three cases of the scaling as one blend.
fn naive_frequencies(rope: &Rope, head_dim: usize) -> Vec<f64> {
    let frequency = |pair: usize| {
        let plain = 1.0 / rope.theta.powf(2.0 * pair as f64 / head_dim as f64);
        let Some(scaling) = &rope.llama3 else { return plain };
        let turns = scaling.original_max_position_embeddings * plain / (2.0 * std::f64::consts::PI);
        let (low, high) = (scaling.low_freq_factor, scaling.high_freq_factor);
        let blend = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        plain * blend + plain / scaling.factor * (1.0 - blend)
    };
    (0..head_dim / 2).map(frequency).collect()
}

#[test]
fn frequencies_are_those_of_the_formula() {
    let other = Llama3Scaling {
        factor: 32.0,
        low_freq_factor: 2.0,
        high_freq_factor: 3.0,
        original_max_position_embeddings: 64.0,
    };
    for rope in [
        Rope { theta: 1e4, llama3: None },
        Rope { theta: 1e6, llama3: None },
        llama3(),
        Rope { theta: 1e4, llama3: Some(other) },
    ] {
        for head_dim in [2, 16, 64, 80, 128, 256] {
            let got = inverse_frequencies(&rope, head_dim);
            let want = naive_frequencies(&rope, head_dim);
            // the scaling starts from the rounded frequency, as transformers' does, and its blend magnifies the rounding
            let most = if rope.llama3.is_none() { 3.0 } else { 32.0 };
            assert_eq!(got.len(), want.len());
            for (pair, (&got, want)) in got.iter().zip(want).enumerate() {
                assert!(ulps(got, want) <= most, "{rope:?}, {head_dim}, pair {pair}: {got} and not {want}");
            }
        }
    }
}

#[test]
fn frequencies_are_those_of_transformers() {
    // `LlamaRotaryEmbedding(config).inv_freq` of transformers 5.23 with torch 2.15, for the configuration of
    // Llama-3.1-8B: pair and value. Up to pair 28 wavelengths are kept, from pair 35 on they are divided by 8.
    let transformers = [
        (0, 1.0),
        (1, 0.8146172165870667),
        (10, 0.12868738174438477),
        (20, 0.016560440883040428),
        (27, 0.003942275885492563),
        (28, 0.0032114461064338684),
        (29, 0.0021665706299245358),
        (30, 0.0013718936825171113),
        (31, 0.0008567514596506953),
        (32, 0.0005248460220173001),
        (33, 0.0003126936499029398),
        (34, 0.0001785077911335975),
        (35, 9.556212171446532e-05),
        (36, 7.784655463183299e-05),
        (50, 4.411534519022098e-06),
        (63, 3.068925877869333e-07),
    ];
    let frequencies = inverse_frequencies(&llama3(), 128);
    for (pair, want) in transformers {
        assert!(ulps(frequencies[pair], want) <= 2.0, "pair {pair}: {} and not {want}", frequencies[pair]);
    }
}

#[test]
fn rows_are_turned_by_their_positions() {
    let positions = [0u32, 1, 2, 3, 63, 64, 100, 1000, 4095, 8191, 7, 7];
    for (heads, head_dim) in [(1, 2), (3, 16), (2, 64), (5, 80), (2, 128)] {
        let frequencies = inverse_frequencies(&llama3(), head_dim);
        let table = RopeTable::new(&frequencies, 8192);
        let x = noise(1, positions.len(), heads * head_dim);
        let turned = rows_of(&table.rotate(&x, &positions).unwrap());
        for ((row, got), position) in rows_of(&x).iter().zip(&turned).zip(positions) {
            let want = naive_turn(row, head_dim, |pair| f64::from(position as f32 * frequencies[pair]));
            check_close(&format!("position {position}"), got, &want, 5e-7);
            if position <= 100 {
                // where the rounding of the angle to f32 does not matter yet
                let precise = naive_frequencies(&llama3(), head_dim);
                let want = naive_turn(row, head_dim, |pair| f64::from(position) * precise[pair]);
                check_close(&format!("position {position}"), got, &want, 3e-5);
            }
        }
        assert_eq!(bits(&turned[..1]), bits(&rows_of(&x)[..1]), "position 0 turns nothing");
        check_rows("rope", positions.len(), |rows| {
            vec![table.rotate(&x.narrow(0, rows.start, rows.len()).unwrap(), &positions[rows]).unwrap()]
        });
        // the table's length does not matter
        let shorter = RopeTable::new(&frequencies, 101);
        let (first, positions) = (x.narrow(0, 0, 7).unwrap(), &positions[..7]);
        assert_eq!(bits(&rows_of(&shorter.rotate(&first, positions).unwrap())), bits(&turned[..7]));
    }
}

/// `rotate_half` of transformers: the first half of a head turns with the second.
fn naive_turn(row: &[f32], head_dim: usize, angle: impl Fn(usize) -> f64) -> Vec<f64> {
    let half = head_dim / 2;
    let number = |i: usize| {
        let (head, k) = (i / head_dim * head_dim, i % head_dim);
        let (sine, cosine) = angle(k % half).sin_cos();
        match k < half {
            true => f64::from(row[head + k]) * cosine - f64::from(row[head + k + half]) * sine,
            false => f64::from(row[head + k]) * cosine + f64::from(row[head + k - half]) * sine,
        }
    };
    (0..row.len()).map(number).collect()
}

// the key/value pool

#[test]
fn the_pool_keeps_keys_transposed_and_values_as_they_are() {
    for (rows, width, first, tokens) in
        [(1, 1, 0, 1), (5, 3, 2, 9), (16, 16, 16, 40), (33, 50, 7, 40), (70, 130, 30, 100)]
    {
        let pool = KvPool::new(tokens, width, &Device::Cpu).unwrap();
        let (keys, values) = (noise(1, rows + 1, width), noise(2, rows + 1, width));
        let part = |x: &Tensor| x.narrow(0, 1, rows).unwrap();
        pool.write(first, &part(&keys), &part(&values)).unwrap();
        let padded = |x: &Tensor| part(x).pad_with_zeros(0, first, tokens - first - rows).unwrap();
        assert_eq!(rows_of(&pool.keys), rows_of(&padded(&keys).t().unwrap()), "{rows} rows of {width}");
        assert_eq!(rows_of(&pool.values), rows_of(&padded(&values)), "{rows} rows of {width}");
    }
}

#[test]
fn the_pool_refuses_what_does_not_fit() {
    let pool = KvPool::new(10, 6, &Device::Cpu).unwrap();
    let (fitting, wide, narrow) = (noise(1, 4, 6), noise(1, 4, 7), noise(1, 4, 3));
    assert!(pool.write(6, &fitting, &fitting).is_ok());
    assert!(pool.write(7, &fitting, &fitting).is_err());
    for other in [wide, narrow] {
        assert!(pool.write(0, &other, &fitting).is_err());
        assert!(pool.write(0, &fitting, &other).is_err());
    }
}

// attention

/// For each row of a batch, a hash of all tokens up to it: what its query, key and value are made from.
fn hashes(batch: &PackedBatch) -> Vec<u64> {
    let mut hashes: Vec<u64> = Vec::new();
    for segment in &batch.segments {
        let mut hash = segment.parent.map_or(0, |parent| hashes[batch.segments[parent].rows.end - 1]);
        for &token in &batch.tokens[segment.rows.clone()] {
            hash = mix(hash, u64::from(token));
            hashes.push(hash);
        }
    }
    hashes
}

/// A row of numbers in [-size, size) for a hash; `kind` tells queries, keys and values apart.
fn numbers(hash: u64, kind: u64, width: usize, size: f32) -> Vec<f32> {
    (0..width).map(|i| size * unit(mix(hash, kind << 32 | i as u64))).collect()
}

const QUERY: u64 = 1;
const KEY: u64 = 2;
const VALUE: u64 = 3;

fn matrix_of(hashes: &[u64], kind: u64, width: usize, size: f32) -> Tensor {
    matrix(hashes.iter().flat_map(|&hash| numbers(hash, kind, width, size)).collect(), width).unwrap()
}

/// What attention gives for every row of a batch, and for the pooled rows.
struct Attended {
    rows: Vec<Vec<f32>>,
    pooled: Vec<Vec<f32>>,
    plan: StepPlan,
    runs: Vec<Vec<Run>>,
}

/// Runs attention as the layers do: block by block, first all keys and values, then all queries.
fn attend(spec: &Attention, batch: &PackedBatch, block_rows: usize, size: f32) -> Attended {
    let (plan, runs) = (StepPlan::new(batch, block_rows, 32), runs(batch));
    let hashes = hashes(batch);
    let (width, key_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let pool = KvPool::new(batch.tokens.len(), key_width, &Device::Cpu).unwrap();
    let hashes_of = |rows: &Rows| rows.sources.iter().map(|&row| hashes[row as usize]).collect::<Vec<_>>();
    for rows in &plan.blocks {
        let own = hashes_of(rows);
        let (keys, values) = (matrix_of(&own, KEY, key_width, 1.0), matrix_of(&own, VALUE, key_width, 1.0));
        pool.write(rows.sources[0] as usize, &keys, &values).unwrap();
    }
    let block = |rows: &Rows| {
        let queries = matrix_of(&hashes_of(rows), QUERY, width, size);
        rows_of(&attention(spec, &queries, &pool, rows, &runs).unwrap())
    };
    let rows = plan.blocks.iter().flat_map(block).collect();
    let pooled = plan.pooled.iter().flat_map(block).collect();
    Attended { rows, pooled, plan, runs }
}

impl Attended {
    /// The rows of a sequence, by position.
    fn of(&self, end: usize) -> Vec<Vec<f32>> {
        self.runs[end].iter().flat_map(|run| self.rows[run.row..run.row + run.len].to_vec()).collect()
    }
}

/// The result for the query at `position` of a sequence, given the hashes of its tokens.
fn naive_attention(spec: &Attention, hashes: &[u64], position: usize, size: f32) -> Vec<f64> {
    let Attention { heads, kv_heads, head_dim, .. } = *spec;
    let first = spec.window.map_or(0, |window| (position + 1).saturating_sub(window));
    let of_key = |kind| {
        let row = move |&hash: &u64| wide(&numbers(hash, kind, kv_heads * head_dim, 1.0));
        hashes[first..=position].iter().map(row).collect::<Vec<_>>()
    };
    let (keys, values) = (of_key(KEY), of_key(VALUE));
    let queries = wide(&numbers(hashes[position], QUERY, heads * head_dim, size));
    let head = |head: usize| {
        let query = &queries[head * head_dim..][..head_dim];
        let own = head / (heads / kv_heads) * head_dim..(head / (heads / kv_heads) + 1) * head_dim;
        let score = |key: &Vec<f64>| {
            let product: f64 = query.iter().zip(&key[own.clone()]).map(|(q, k)| q * k).sum();
            let score = product * f64::from(spec.scale);
            spec.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
        };
        let scores: Vec<f64> = keys.iter().map(score).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let column = |k: usize| weights.iter().zip(&values).map(|(w, value)| w * value[k]).sum::<f64>() / total;
        own.map(column).collect::<Vec<_>>()
    };
    (0..heads).flat_map(head).collect()
}

fn pack(sequences: &[Arc<[u32]>]) -> PackedBatch {
    let mut packer = Packer::default();
    for sequence in sequences {
        packer.push(Arc::clone(sequence));
    }
    packer.pack()
}

/// Sequences that begin with one of three prompts, cut at any length, so that many share a prefix.
fn sequences() -> impl Strategy<Value = Vec<Arc<[u32]>>> {
    let sequence = (0u32..3, 0usize..170, prop::collection::vec(0u32..2, 1..50));
    let sequence = sequence.prop_map(|(prompt, len, response)| {
        (0..len as u32).map(|i| 10 + (prompt + i) % 7).chain(response).collect::<Arc<[u32]>>()
    });
    prop::collection::vec(sequence, 1..6)
}

fn specs() -> impl Strategy<Value = Attention> {
    let shape = (1usize..4, 1usize..4, prop::sample::select(vec![2, 16, 64, 80, 128]));
    let cap = prop::sample::select(vec![None, Some(50.0), Some(2.0)]);
    let window =
        prop::sample::select(vec![None, None, Some(1), Some(5), Some(24), Some(63), Some(64), Some(65), Some(130)]);
    (shape, cap, window).prop_map(|((kv_heads, group, head_dim), soft_cap, window)| Attention {
        heads: kv_heads * group,
        kv_heads,
        head_dim,
        scale: (head_dim as f32).powf(-0.5),
        soft_cap,
        window,
    })
}

/// Makes scores of a few units, so that the softmax is neither flat nor a choice.
const SIZE: f32 = 4.0;

/// Some rows of each sequence against f64.
fn check_attention(spec: &Attention, sequences: &[Arc<[u32]>], (block_rows, step): (usize, usize), tolerance: f64) {
    let batch = pack(sequences);
    let attended = attend(spec, &batch, block_rows, SIZE);
    let hashes = hashes(&batch);
    for &end in &batch.ends {
        let rows = attended.of(end);
        let own: Vec<u64> =
            attended.runs[end].iter().flat_map(|run| &hashes[run.row..run.row + run.len]).copied().collect();
        for position in (0..rows.len()).rev().step_by(step) {
            let want = naive_attention(spec, &own, position, SIZE);
            check_close(&format!("{spec:?}, position {position} of {}", rows.len()), &rows[position], &want, tolerance);
        }
    }
}

/// Every query of every sequence has the bits that it has when its sequence is alone.
fn check_company(spec: &Attention, sequences: &[Arc<[u32]>], block_rows: usize) {
    let batch = pack(sequences);
    let together = attend(spec, &batch, block_rows, SIZE);
    for (number, sequence) in sequences.iter().enumerate() {
        let alone = attend(spec, &pack(std::slice::from_ref(sequence)), 512, SIZE);
        let rows = together.of(batch.ends[number]);
        assert!(bits(&rows) == bits(&alone.rows), "{spec:?}: sequence {number} differs in blocks of {block_rows}");
        let pooled = &together.pooled[together.plan.pooled_row[number]];
        assert!(bits(&alone.pooled)[0] == bits(&alone.rows)[sequence.len() - 1], "{spec:?}: a pooled row differs");
        assert!(bits(std::slice::from_ref(pooled)) == bits(&alone.pooled), "{spec:?}: sequence {number}, pooled");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn attention_is_that_of_f64(spec in specs(), sequences in sequences(), block_rows in 1usize..120) {
        check_attention(&spec, &sequences, (block_rows, 11), 1e-5);
    }

    #[test]
    fn attention_has_the_same_bits_in_any_company(spec in specs(), sequences in sequences(), block_rows in 1usize..300) {
        check_company(&spec, &sequences, block_rows);
    }
}

const GEMMA: Attention =
    Attention { heads: 4, kv_heads: 2, head_dim: 128, scale: 1.0 / 12.0, soft_cap: Some(50.0), window: None };

#[test]
fn a_long_sequence_in_many_segments_is_one_sequence() {
    let whole: Arc<[u32]> = (0..1100).collect();
    // prefixes of the whole, so that segments end within blocks and at their borders
    let mut sequences: Vec<Arc<[u32]>> =
        [16, 63, 64, 65, 127, 128, 130, 500, 513, 1024].map(|len| whole[..len].into()).into();
    sequences.push(whole);
    for window in [None, Some(1), Some(64), Some(200), Some(1099), Some(5000)] {
        let spec = Attention { heads: 2, kv_heads: 1, head_dim: 64, scale: 0.125, window, ..GEMMA };
        check_company(&spec, &sequences, 200);
        check_attention(&spec, &sequences[10..], (512, 97), 1e-5);
    }
}

#[test]
fn a_window_sees_its_own_position_and_those_before() {
    let sequence: Arc<[u32]> = (0..150).collect();
    let batch = pack(&[sequence]);
    let spec = Attention { window: Some(1), ..GEMMA };
    let values = matrix_of(&hashes(&batch), VALUE, spec.kv_heads * spec.head_dim, 1.0);
    for (row, values) in attend(&spec, &batch, 64, SIZE).rows.iter().zip(rows_of(&values)) {
        // two query heads for each key head
        let (first, second) = values.split_at(128);
        assert_eq!(*row, [first, first, second, second].concat());
    }
    // a window as long as the sequence is none
    let all = attend(&GEMMA, &batch, 64, SIZE).rows;
    let long = Attention { window: Some(150), ..GEMMA };
    assert_eq!(bits(&attend(&long, &batch, 64, SIZE).rows), bits(&all));
    let shorter = attend(&Attention { window: Some(149), ..GEMMA }, &batch, 64, SIZE).rows;
    assert_eq!(bits(&shorter[..149]), bits(&all[..149]));
    assert_ne!(bits(&shorter[149..]), bits(&all[149..]));
}

#[test]
fn attention_takes_scores_that_are_far_apart() {
    let batch = pack(&[(0..200).collect()]);
    for soft_cap in [None, Some(50.0)] {
        let spec = Attention { soft_cap, scale: 1.0, ..GEMMA };
        for size in [30.0, 1e4, 1e10] {
            let rows = attend(&spec, &batch, 64, size).rows;
            assert!(rows.iter().flatten().all(|x| x.abs() <= 1.0 + 1e-5), "{size}: not a mean of values");
        }
        let rows = attend(&spec, &batch, 64, 30.0).rows;
        for position in [0, 63, 64, 150, 199] {
            check_close("far apart", &rows[position], &naive_attention(&spec, &hashes(&batch), position, 30.0), 1e-3);
        }
    }
}

#[test]
fn attention_has_the_same_bits_on_any_number_of_threads() {
    let prompt = 0..130u32;
    let sequences: Vec<Arc<[u32]>> = (0..5).map(|i| prompt.clone().chain([200 + i; 40]).collect()).collect();
    let batch = pack(&sequences);
    for window in [None, Some(70)] {
        let spec = Attention { window, ..GEMMA };
        let on = |threads| on_threads(threads, || bits(&attend(&spec, &batch, 100, SIZE).rows));
        let one = on(1);
        assert!(on(2) == one && on(3) == one);
    }
}

#[test]
fn vectors_divide_the_blocks_that_attention_takes() {
    assert!([1, 4, 8, 16].contains(&lanes()), "{}", lanes());
}
