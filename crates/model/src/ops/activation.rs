//! activation(gate) x up, in one pass over the result of the fused gate-and-up matmul.

use candle_core::Tensor;
use rayon::prelude::*;

use super::math::sigmoid;
use super::{matrix, task_rows, values, vectorised};
use crate::blueprint::Activation;
use crate::error::Result;

/// From `[rows, gate | up]` to `[rows, activation(gate) x up]`, half as wide.
///
/// # Errors
/// If the tensor is not a matrix of an even number of columns.
pub(crate) fn gated(gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
    let (rows, columns) = gate_up.dims2()?;
    let width = columns / 2;
    let input = values(gate_up)?;
    let mut output = vec![0.0; rows * width];
    let task = task_rows(columns);
    output.par_chunks_mut(task * width).zip(input.par_chunks(task * columns)).for_each(|(output, input)| {
        vectorised(
            #[inline(always)]
            || {
                for (output, input) in output.chunks_exact_mut(width).zip(input.chunks_exact(columns)) {
                    let (gate, up) = input.split_at(width);
                    match activation {
                        Activation::GeluTanh => apply(output, gate, up, gelu_tanh),
                        Activation::Silu => apply(output, gate, up, silu),
                    }
                }
            },
        );
    });
    matrix(output, width)
}

#[inline(always)]
fn apply(output: &mut [f32], gate: &[f32], up: &[f32], activation: impl Fn(f32) -> f32) {
    for ((output, &gate), &up) in output.iter_mut().zip(gate).zip(up) {
        *output = activation(gate) * up;
    }
}

/// 0.5 x (1 + tanh(u)) is x sigmoid(2u), which loses nothing where tanh is near -1.
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let u = SQRT_2_OVER_PI * (0.044_715 * x * x).mul_add(x, x);
    x * sigmoid(2.0 * u)
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}
