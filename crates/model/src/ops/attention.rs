//! Attention of query rows to the keys of their conversation, wherever in the pool these lie.
//!
//! Keys are walked in blocks that begin at absolute multiples of [`BLOCK`] positions, with a running maximum and sum
//! for each query (the online softmax of FlashAttention, Dao et al. 2022), so a query's result depends on its own keys
//! only: neither on which rows share its tile nor on where segments begin. A row takes part in exactly the blocks that
//! hold a key it sees; within a block it meets the same instructions whatever its neighbours are.

use std::ops::Range;

use candle_core::Tensor;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::math::{exp, sum, tanh};
use super::{KvPool, matrix, values};
use crate::error::Result;
use crate::plan::{Rows, Run, Tile};

/// Keys that are taken at a time, beginning at multiples of this.
const BLOCK: usize = 64;
/// Query rows of the innermost loop: with two vectors of keys each they fill the registers of AVX2 and of AVX-512.
const ROWS: usize = 6;
/// Vectors of keys (or of value columns) of the innermost loop.
const VECTORS: usize = 2;
/// Value rows are padded to a multiple of this many columns: two of the longest vectors.
const PADDING: usize = 32;

/// What the heads of one rank compute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Attention {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Factor of a query-key product.
    pub(crate) scale: f32,
    /// Scores become cap x tanh(score / cap).
    pub(crate) soft_cap: Option<f32>,
    /// A query sees this many keys, its own position included.
    pub(crate) window: Option<usize>,
}

/// Attention of the queries `[rows, heads x head_dim]` of a block; `runs` tells for each segment where its keys are.
///
/// # Errors
/// If a tensor is not a contiguous f32 matrix.
pub(crate) fn attention(
    spec: &Attention,
    queries: &Tensor,
    pool: &KvPool,
    rows: &Rows,
    runs: &[Vec<Run>],
) -> Result<Tensor> {
    let (keys, values, queries) = (values(&pool.keys)?, values(&pool.values)?, values(queries)?);
    let width = spec.heads * spec.head_dim;
    let tokens = pool.values.dims2()?.0;
    let mut output = vec![0.0; rows.positions.len() * width];
    let mut tasks = Vec::with_capacity(rows.tiles.len());
    let mut rest = output.as_mut_slice();
    for tile in &rows.tiles {
        let (own, after) = rest.split_at_mut(tile.rows.len() * width);
        tasks.push((tile, own));
        rest = after;
    }
    let arch = pulp::Arch::new();
    tasks.into_par_iter().with_max_len(1).for_each_init(
        || Scratch::new(spec),
        |scratch, (tile, output)| {
            let queries = &queries[tile.rows.start * width..tile.rows.end * width];
            let keys = Keys { keys: &keys, values: &values, tokens, runs: &runs[tile.segment] };
            arch.dispatch(TileTask { spec, tile, queries, keys, output, scratch });
        },
    );
    matrix(output, width)
}

/// The keys and values a tile may look at.
#[derive(Clone, Copy)]
struct Keys<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    tokens: usize,
    runs: &'a [Run],
}

/// One tile of queries, all heads.
struct TileTask<'a> {
    spec: &'a Attention,
    tile: &'a Tile,
    /// `[rows, heads x head_dim]`.
    queries: &'a [f32],
    keys: Keys<'a>,
    output: &'a mut [f32],
    scratch: &'a mut Scratch,
}

/// What a thread needs for one tile and one key/value head; a query vector is a (row, head of the group) pair.
struct Scratch {
    /// `[query vectors, head_dim]`.
    queries: Vec<f32>,
    /// `[head_dim, BLOCK]`.
    keys: Vec<f32>,
    /// `[BLOCK, padded head_dim]`.
    values: Vec<f32>,
    /// `[query vectors, BLOCK]`: scores, then their exponentials.
    scores: Vec<f32>,
    /// `[query vectors, padded head_dim]`.
    sums: Vec<f32>,
    softmax: Vec<Softmax>,
}

/// The running state of one query's softmax.
#[derive(Clone, Copy)]
struct Softmax {
    largest: f32,
    total: f32,
}

// === impl Scratch ===

impl Scratch {
    fn new(spec: &Attention) -> Self {
        let padded = spec.head_dim.next_multiple_of(PADDING);
        Self {
            queries: Vec::new(),
            keys: vec![0.0; spec.head_dim * BLOCK],
            values: vec![0.0; BLOCK * padded],
            scores: Vec::new(),
            sums: Vec::new(),
            softmax: Vec::new(),
        }
    }

    fn begin(&mut self, vectors: usize, head_dim: usize) {
        let padded = head_dim.next_multiple_of(PADDING);
        self.queries.resize(vectors * head_dim, 0.0);
        self.scores.resize(vectors * BLOCK, 0.0);
        self.sums.clear();
        self.sums.resize(vectors * padded, 0.0);
        self.softmax.clear();
        self.softmax.resize(vectors, Softmax { largest: f32::NEG_INFINITY, total: 0.0 });
    }
}

// === impl TileTask ===

impl WithSimd for TileTask<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for kv_head in 0..self.spec.kv_heads {
            self.begin(kv_head);
            let last = self.tile.position + self.tile.rows.len() - 1;
            for block in self.lowest_key(self.tile.position) / BLOCK..=last / BLOCK {
                self.take_block(simd, kv_head, block * BLOCK);
            }
            self.finish(kv_head);
        }
    }
}

impl TileTask<'_> {
    /// Query heads that share a key/value head.
    fn group(&self) -> usize {
        self.spec.heads / self.spec.kv_heads
    }

    /// The first key that the query at `position` sees.
    fn lowest_key(&self, position: usize) -> usize {
        self.spec.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Copies the queries of a key/value head's group together.
    #[inline(always)]
    fn begin(&mut self, kv_head: usize) {
        let Attention { heads, head_dim, .. } = *self.spec;
        let group = self.group();
        self.scratch.begin(self.tile.rows.len() * group, head_dim);
        let start = kv_head * group * head_dim;
        let rows = self.queries.chunks_exact(heads * head_dim);
        for (to, row) in self.scratch.queries.chunks_exact_mut(group * head_dim).zip(rows) {
            to.copy_from_slice(&row[start..start + group * head_dim]);
        }
    }

    /// Adds what the queries see of the keys `start .. start + BLOCK` to their sums.
    #[inline(always)]
    fn take_block<S: Simd>(&mut self, simd: S, kv_head: usize, start: usize) {
        let Attention { head_dim, window, .. } = *self.spec;
        let padded = head_dim.next_multiple_of(PADDING);
        let first = self.tile.position;
        let end = (start + BLOCK).min(first + self.tile.rows.len());
        self.gather(kv_head, start..end);
        // rows that see a key of this block: not before its start, and not so late that the window has passed its end
        let rows_end = window.map_or(usize::MAX, |window| (start + BLOCK - 1 + window).saturating_sub(first));
        let rows = start.saturating_sub(first)..rows_end.min(self.tile.rows.len());
        let group = self.group();
        let vectors = rows.start * group..rows.end * group;
        let scratch = &mut *self.scratch;
        Product {
            a: &scratch.queries[vectors.start * head_dim..vectors.end * head_dim],
            a_width: head_dim,
            depth: head_dim,
            b: &scratch.keys,
            b_width: BLOCK,
        }
        .set(simd, &mut scratch.scores[vectors.start * BLOCK..vectors.end * BLOCK]);
        for vector in vectors.clone() {
            let position = first + vector / group;
            let lowest = window.map_or(0, |window| (position + 1).saturating_sub(window));
            let visible = lowest.saturating_sub(start)..(position + 1 - start).min(BLOCK);
            let scores = &mut scratch.scores[vector * BLOCK..(vector + 1) * BLOCK];
            let sums = &mut scratch.sums[vector * padded..(vector + 1) * padded];
            scratch.softmax[vector].take(self.spec, scores, visible, sums);
        }
        Product {
            a: &scratch.scores[vectors.start * BLOCK..vectors.end * BLOCK],
            a_width: BLOCK,
            depth: end - start,
            b: &scratch.values,
            b_width: padded,
        }
        .add(simd, &mut scratch.sums[vectors.start * padded..vectors.end * padded]);
    }

    /// Copies the keys and values of some positions out of the pool, from the segments they lie in.
    #[inline(always)]
    fn gather(&mut self, kv_head: usize, positions: Range<usize>) {
        let Attention { head_dim, kv_heads, .. } = *self.spec;
        let padded = head_dim.next_multiple_of(PADDING);
        let Keys { keys, values, tokens, runs } = self.keys;
        let first = runs.partition_point(|run| run.position + run.len <= positions.start);
        for run in &runs[first..] {
            let own = run.position.max(positions.start)..(run.position + run.len).min(positions.end);
            if own.is_empty() {
                break;
            }
            let row = run.row + own.start - run.position;
            let column = own.start - positions.start;
            let channels = kv_head * head_dim..(kv_head + 1) * head_dim;
            for (to, channel) in self.scratch.keys.chunks_exact_mut(BLOCK).zip(channels.clone()) {
                let from = &keys[channel * tokens + row..channel * tokens + row + own.len()];
                to[column..column + own.len()].copy_from_slice(from);
            }
            let to = self.scratch.values[column * padded..].chunks_exact_mut(padded);
            for (to, row) in to.zip(row..row + own.len()) {
                let from = row * kv_heads * head_dim;
                to[..head_dim].copy_from_slice(&values[from + channels.start..from + channels.end]);
            }
        }
    }

    /// Divides the sums by the totals and puts each head where it belongs in the output row.
    #[inline(always)]
    fn finish(&mut self, kv_head: usize) {
        let Attention { heads, head_dim, .. } = *self.spec;
        let padded = head_dim.next_multiple_of(PADDING);
        let group = self.group();
        let start = kv_head * group * head_dim;
        let vectors = self.scratch.sums.chunks_exact(padded).zip(&self.scratch.softmax);
        for (vector, (sums, softmax)) in vectors.enumerate() {
            let to = (vector / group) * heads * head_dim + start + (vector % group) * head_dim;
            for (output, sum) in self.output[to..to + head_dim].iter_mut().zip(sums) {
                *output = sum / softmax.total;
            }
        }
    }
}

// === impl Softmax ===

impl Softmax {
    /// Turns a block's products into exponentials, and scales what was summed before if a larger score has appeared.
    #[inline(always)]
    fn take(&mut self, spec: &Attention, scores: &mut [f32], visible: Range<usize>, sums: &mut [f32]) {
        let Some((scores, _)) = scores.split_first_chunk_mut::<BLOCK>() else { return };
        match spec.soft_cap {
            Some(cap) => {
                let scale = spec.scale / cap;
                for score in scores.iter_mut() {
                    *score = cap * tanh(*score * scale);
                }
            }
            None => {
                for score in scores.iter_mut() {
                    *score *= spec.scale;
                }
            }
        }
        scores[..visible.start].fill(f32::NEG_INFINITY);
        scores[visible.end..].fill(f32::NEG_INFINITY);
        let mut lanes = [f32::NEG_INFINITY; 16];
        for chunk in scores.as_chunks::<16>().0 {
            for (lane, &score) in lanes.iter_mut().zip(chunk) {
                *lane = if score > *lane { score } else { *lane };
            }
        }
        let largest = lanes.into_iter().fold(self.largest, f32::max);
        if largest > self.largest {
            let shrink = exp(self.largest - largest);
            self.total *= shrink;
            for sum in sums {
                *sum *= shrink;
            }
            self.largest = largest;
        }
        let mut totals = [0.0f32; 16];
        for chunk in scores.as_chunks_mut::<16>().0 {
            for (total, score) in totals.iter_mut().zip(chunk) {
                *score = exp(*score - largest);
                *total += *score;
            }
        }
        self.total += sum(totals);
    }
}

/// A product of small matrices: `a` [rows, depth] (its rows `a_width` apart) times `b` [depth, b_width].
///
/// Each number of the result is one chain of fused multiply-adds over the depth, in order, whatever the other rows are.
struct Product<'a> {
    a: &'a [f32],
    a_width: usize,
    depth: usize,
    b: &'a [f32],
    b_width: usize,
}

impl Product<'_> {
    /// `c` = the product.
    #[inline(always)]
    fn set<S: Simd>(&self, simd: S, c: &mut [f32]) {
        c.fill(0.0);
        self.add(simd, c);
    }

    /// `c` [rows, b_width] += the product.
    #[inline(always)]
    fn add<S: Simd>(&self, simd: S, c: &mut [f32]) {
        let blocks = c.chunks_mut(ROWS * self.b_width).zip(self.a.chunks(ROWS * self.a_width));
        for (c, a) in blocks {
            match c.len() / self.b_width {
                1 => self.add_rows::<S, 1>(simd, a, c),
                2 => self.add_rows::<S, 2>(simd, a, c),
                3 => self.add_rows::<S, 3>(simd, a, c),
                4 => self.add_rows::<S, 4>(simd, a, c),
                5 => self.add_rows::<S, 5>(simd, a, c),
                _ => self.add_rows::<S, ROWS>(simd, a, c),
            }
        }
    }

    #[inline(always)]
    fn add_rows<S: Simd, const N: usize>(&self, simd: S, a: &[f32], c: &mut [f32]) {
        let step = VECTORS * S::F32_LANES;
        let a: [&[f32]; N] = std::array::from_fn(|row| &a[row * self.a_width..row * self.a_width + self.depth]);
        for column in (0..self.b_width).step_by(step) {
            let mut sums = [[simd.splat_f32s(0.0); VECTORS]; N];
            for (row, sums) in sums.iter_mut().enumerate() {
                let c = S::as_simd_f32s(&c[row * self.b_width + column..][..step]).0;
                sums.copy_from_slice(&c[..VECTORS]);
            }
            for (k, b) in self.b.chunks_exact(self.b_width).take(self.depth).enumerate() {
                let b = S::as_simd_f32s(&b[column..column + step]).0;
                let (b0, b1) = (b[0], b[1]);
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = simd.splat_f32s(a[row][k]);
                    sums[0] = simd.mul_add_f32s(x, b0, sums[0]);
                    sums[1] = simd.mul_add_f32s(x, b1, sums[1]);
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                let c = S::as_mut_simd_f32s(&mut c[row * self.b_width + column..][..step]).0;
                c[..VECTORS].copy_from_slice(sums);
            }
        }
    }
}
