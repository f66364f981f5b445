//! The score head: one number for a pooled row, in parts that the ranks compute from their columns.

use std::ops::Range;

use candle_core::Tensor;

use crate::error::Result;
use crate::ops;

/// One rank's part of a linear head with one output and no bias.
pub(crate) struct Head {
    /// The weights of the rank's columns.
    weight: Vec<f32>,
    columns: Range<usize>,
}

/// What one rank contributes to the score of one conversation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PartialLogit {
    /// The rank's columns of the pooled row times its part of the head. The score is the sum over the ranks.
    pub logit: f32,
    /// A checksum of the bits of the whole pooled row, which every rank holds: ranks that differ in it have not
    /// computed the same thing.
    pub checksum: u64,
}

// === impl Head ===

impl Head {
    pub(crate) fn new(weight: &[f32], columns: Range<usize>) -> Self {
        Self { weight: weight[columns.clone()].to_vec(), columns }
    }

    /// `rows` [rows, hidden], after the final norm, to a partial logit each.
    ///
    /// # Errors
    /// If `rows` is not a matrix on the CPU.
    pub(crate) fn forward(&self, rows: &Tensor) -> Result<Vec<PartialLogit>> {
        let (_, hidden) = rows.dims2()?;
        let values = ops::values(rows)?;
        Ok(values.chunks_exact(hidden).map(|row| self.score(row)).collect())
    }

    /// Adds in f64 and in order: there are few rows, and no rounding is lost to the order.
    fn score(&self, row: &[f32]) -> PartialLogit {
        let products = row[self.columns.clone()].iter().zip(&self.weight).map(|(&x, &w)| f64::from(x) * f64::from(w));
        PartialLogit { logit: products.sum::<f64>() as f32, checksum: checksum(row) }
    }
}

/// FNV-1a over the bits of the numbers, a number at a time.
fn checksum(row: &[f32]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    row.iter().fold(OFFSET, |hash, x| (hash ^ u64::from(x.to_bits())).wrapping_mul(PRIME))
}
