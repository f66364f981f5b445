//! Rotary position encoding: the two halves of each head turned by angles that grow with the position.
//!
//! Half-split as in transformers' `rotate_half`; angles are products of f32 numbers, as transformers makes them.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{matrix, task_rows, values, vectorised};
use crate::config::Rope;
use crate::error::Result;

/// Cosines and sines for the positions of a step.
pub(crate) struct RopeTable {
    /// For each position: head_dim / 2 cosines, then as many sines.
    values: Vec<f32>,
    half: usize,
}

/// The angle by which each pair of a head turns from one position to the next, `[head_dim / 2]`.
pub(crate) fn inverse_frequencies(rope: &Rope, head_dim: usize) -> Vec<f32> {
    let frequency = |pair: usize| {
        let power = rope.theta.powf((2 * pair) as f64 / head_dim as f64) as f32;
        let plain = 1.0 / power;
        let Some(scaling) = &rope.llama3 else { return plain };
        let wavelength = 2.0 * std::f64::consts::PI / f64::from(plain);
        let context = scaling.original_max_position_embeddings;
        let scaled = f64::from(plain) / scaling.factor;
        if wavelength > context / scaling.low_freq_factor {
            scaled as f32
        } else if wavelength < context / scaling.high_freq_factor {
            plain
        } else {
            let span = scaling.high_freq_factor - scaling.low_freq_factor;
            let smooth = (context / wavelength - scaling.low_freq_factor) / span;
            ((1.0 - smooth) * scaled + smooth * f64::from(plain)) as f32
        }
    };
    (0..head_dim / 2).map(frequency).collect()
}

// === impl RopeTable ===

impl RopeTable {
    /// The table for positions `0 .. positions`.
    pub(crate) fn new(inverse_frequencies: &[f32], positions: usize) -> Self {
        let half = inverse_frequencies.len();
        let mut values = vec![0.0; positions * 2 * half];
        values.par_chunks_exact_mut(2 * half).enumerate().for_each(|(position, row)| {
            let (cosines, sines) = row.split_at_mut(half);
            for ((cosine, sine), frequency) in cosines.iter_mut().zip(sines).zip(inverse_frequencies) {
                let angle = f64::from(position as f32 * frequency);
                (*cosine, *sine) = (angle.cos() as f32, angle.sin() as f32);
            }
        });
        Self { values, half }
    }

    /// Turns each head of each row of `x` [rows, heads x head_dim] according to the row's position.
    ///
    /// # Errors
    /// If `x` is not a matrix on the CPU.
    pub(crate) fn rotate(&self, x: &Tensor, positions: &[u32]) -> Result<Tensor> {
        let (_, columns) = x.dims2()?;
        let input = values(x)?;
        let mut output = vec![0.0; input.len()];
        let rows = task_rows(columns);
        let tasks = output.par_chunks_mut(rows * columns).zip(input.par_chunks(rows * columns));
        tasks.zip(positions.par_chunks(rows)).for_each(|((output, input), positions)| {
            vectorised(
                #[inline(always)]
                || {
                    let rows = output.chunks_exact_mut(columns).zip(input.chunks_exact(columns));
                    for ((output, input), &position) in rows.zip(positions) {
                        self.rotate_row(output, input, position as usize);
                    }
                },
            );
        });
        matrix(output, columns)
    }

    #[inline(always)]
    fn rotate_row(&self, output: &mut [f32], input: &[f32], position: usize) {
        let half = self.half;
        let (cosines, sines) = self.values[position * 2 * half..(position + 1) * 2 * half].split_at(half);
        for (output, input) in output.chunks_exact_mut(2 * half).zip(input.chunks_exact(2 * half)) {
            let (first, second) = input.split_at(half);
            let (to_first, to_second) = output.split_at_mut(half);
            for i in 0..half {
                to_first[i] = first[i] * cosines[i] - second[i] * sines[i];
                to_second[i] = second[i] * cosines[i] + first[i] * sines[i];
            }
        }
    }
}
