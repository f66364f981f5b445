//! The score head: what a pooled row is worth, in parts that the ranks compute from their columns.

use std::ops::Range;

use candle_core::Tensor;
use score::{Partial, Partials};

use crate::error::Result;
use crate::ops;

/// One rank's part of a linear head without a bias.
pub(crate) struct Head {
    /// The weights of the rank's columns, [outputs, columns].
    weight: Vec<f32>,
    outputs: usize,
    columns: Range<usize>,
}

// === impl Head ===

impl Head {
    /// A rank's columns of a `weight` [outputs, hidden].
    pub(crate) fn new(weight: &[f32], outputs: usize, columns: Range<usize>) -> Self {
        let hidden = weight.len() / outputs.max(1);
        let own = weight.chunks_exact(hidden).flat_map(|row| &row[columns.clone()]);
        Self { weight: own.copied().collect(), outputs, columns }
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Adds what this rank contributes to each of `rows` [rows, hidden], which are after the final norm.
    ///
    /// # Errors
    /// If `rows` is not a matrix on the CPU.
    pub(crate) fn forward(&self, rows: &Tensor, partials: &mut Partials) -> Result<()> {
        let (_, hidden) = rows.dims2()?;
        let mut values = vec![0.0; self.outputs];
        for row in ops::values(rows)?.chunks_exact(hidden) {
            let weights = self.weight.chunks_exact(self.columns.len());
            values.iter_mut().zip(weights).for_each(|(value, weight)| *value = self.part(row, weight));
            partials.push(Partial { values: &values, checksum: checksum(row) });
        }
        Ok(())
    }

    /// Adds in f64 and in order: there are few rows, and no rounding is lost to the order.
    fn part(&self, row: &[f32], weight: &[f32]) -> f32 {
        let products = row[self.columns.clone()].iter().zip(weight).map(|(&x, &w)| f64::from(x) * f64::from(w));
        products.sum::<f64>() as f32
    }
}

/// FNV-1a over the bits of the numbers, a number at a time.
fn checksum(row: &[f32]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    row.iter().fold(OFFSET, |hash, x| (hash ^ u64::from(x.to_bits())).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests;
