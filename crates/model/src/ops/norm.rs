//! RMSNorm, alone and fused with the residual add before or after it.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{matrix, task_rows, values, vectorised};
use crate::error::{Error, Result};

/// The weight of an RMSNorm. Gemma-2 multiplies with 1 + w: its ones are added when the weight is loaded, as Hugging
/// Face adds them in f32 at each call, so that there is one kind of norm from here on.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    /// One factor for each column.
    pub(crate) weight: Vec<f32>,
    /// Added to the mean square.
    pub(crate) eps: f32,
}

/// Sums are kept in this many parts, whatever the processor.
const LANES: usize = 16;

/// Each run of as many numbers as the weight has (a row, or a head of a row) divided by its root mean square, times the
/// weight.
///
/// # Errors
/// If `x` is not contiguous, or does not divide into such runs.
pub(crate) fn rms_norm(x: &Tensor, norm: &Norm) -> Result<Tensor> {
    let hidden = norm.weight.len();
    let input = values(x)?;
    if !input.len().is_multiple_of(hidden) {
        return Err(unfit(format!("a norm over {hidden} numbers cannot be applied to {:?}", x.dims())));
    }
    let mut output = vec![0.0; input.len()];
    let task = task_rows(hidden) * hidden;
    output.par_chunks_mut(task).zip(input.par_chunks(task)).for_each(|(output, input)| {
        vectorised(
            #[inline(always)]
            || {
                for (output, input) in output.chunks_exact_mut(hidden).zip(input.chunks_exact(hidden)) {
                    norm_row(output, input, norm);
                }
            },
        );
    });
    Ok(matrix(output, hidden)?.reshape(x.shape())?)
}

/// The end of a branch: `h + branch`, or `h + after(branch)` where the branch has a norm of its own (Gemma-2).
///
/// # Errors
/// If the shapes differ.
pub(crate) fn add(h: &Tensor, branch: &Tensor, after: Option<&Norm>) -> Result<Tensor> {
    let (rows, hidden) = same_shape(h, branch)?;
    let (h, branch) = (values(h)?, values(branch)?);
    let mut sums = vec![0.0; rows * hidden];
    let task = task_rows(hidden) * hidden;
    sums.par_chunks_mut(task).zip(h.par_chunks(task).zip(branch.par_chunks(task))).for_each(|(sums, (h, branch))| {
        vectorised(
            #[inline(always)]
            || {
                let rows = h.chunks_exact(hidden).zip(branch.chunks_exact(hidden));
                for (sum, (h, branch)) in sums.chunks_exact_mut(hidden).zip(rows) {
                    add_row(sum, h, branch, after);
                }
            },
        );
    });
    matrix(sums, hidden)
}

/// The end of one branch and the beginning of the next: [`add`]'s sum, and `before(sum)`.
///
/// # Errors
/// If the shapes differ.
pub(crate) fn add_and_norm(
    h: &Tensor,
    branch: &Tensor,
    after: Option<&Norm>,
    before: &Norm,
) -> Result<(Tensor, Tensor)> {
    let (rows, hidden) = same_shape(h, branch)?;
    let (h, branch) = (values(h)?, values(branch)?);
    let (mut sums, mut normed) = (vec![0.0; rows * hidden], vec![0.0; rows * hidden]);
    let task = task_rows(hidden) * hidden;
    let outputs = sums.par_chunks_mut(task).zip(normed.par_chunks_mut(task));
    outputs.zip(h.par_chunks(task).zip(branch.par_chunks(task))).for_each(|((sums, normed), (h, branch))| {
        vectorised(
            #[inline(always)]
            || {
                let outputs = sums.chunks_exact_mut(hidden).zip(normed.chunks_exact_mut(hidden));
                let inputs = h.chunks_exact(hidden).zip(branch.chunks_exact(hidden));
                for ((sum, normed), (h, branch)) in outputs.zip(inputs) {
                    add_row(sum, h, branch, after);
                    norm_row(normed, sum, before);
                }
            },
        );
    });
    Ok((matrix(sums, hidden)?, matrix(normed, hidden)?))
}

fn same_shape(h: &Tensor, branch: &Tensor) -> Result<(usize, usize)> {
    let shape = h.dims2()?;
    if branch.dims2()? == shape {
        return Ok(shape);
    }
    Err(unfit(format!("the residual stream is {:?}, its branch {:?}", h.dims(), branch.dims())))
}

fn unfit(problem: String) -> Error {
    Error::Compute(candle_core::Error::Msg(problem))
}

#[inline(always)]
fn add_row(sum: &mut [f32], h: &[f32], branch: &[f32], after: Option<&Norm>) {
    match after {
        None => {
            for ((sum, h), branch) in sum.iter_mut().zip(h).zip(branch) {
                *sum = h + branch;
            }
        }
        Some(norm) => {
            norm_row(sum, branch, norm);
            for (sum, h) in sum.iter_mut().zip(h) {
                *sum += h;
            }
        }
    }
}

#[inline(always)]
fn norm_row(output: &mut [f32], input: &[f32], norm: &Norm) {
    let scale = 1.0 / (sum_of_squares(input) / input.len() as f32 + norm.eps).sqrt();
    for ((output, &x), &w) in output.iter_mut().zip(input).zip(&norm.weight) {
        *output = x * scale * w;
    }
}

#[inline(always)]
fn sum_of_squares(row: &[f32]) -> f32 {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum = x.mul_add(*x, *sum);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum = x.mul_add(*x, *sum);
    }
    super::math::sum(sums)
}
