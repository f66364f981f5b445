//! The keys and values of a step's tokens: written once for each layer, read by every query that sees them.
//!
//! Keys are kept transposed, so that attention can take a block of consecutive keys for one dimension as one vector.

use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor};
use rayon::prelude::*;

use crate::error::Result;

/// Room for the keys and values of one layer.
pub(crate) struct KvPool {
    /// `[kv_heads x head_dim, tokens]`.
    pub(crate) keys: Tensor,
    /// `[tokens, kv_heads x head_dim]`.
    pub(crate) values: Tensor,
}

/// The rows of a matrix become these columns.
struct WriteColumns {
    first: usize,
}

// === impl KvPool ===

impl KvPool {
    /// A pool for `tokens` rows of `width` = kv_heads x head_dim columns.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub(crate) fn new(tokens: usize, width: usize, device: &candle_core::Device) -> Result<Self> {
        let zeros = |shape: (usize, usize)| Tensor::zeros(shape, candle_core::DType::F32, device);
        Ok(Self { keys: zeros((width, tokens))?, values: zeros((tokens, width))? })
    }

    /// Writes the keys and values, `[rows, width]` each, of the tokens from row `first` on.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub(crate) fn write(&self, first: usize, keys: &Tensor, values: &Tensor) -> Result<()> {
        self.keys.inplace_op2(keys, &WriteColumns { first })?;
        Ok(self.values.slice_set(values, 0, first)?)
    }
}

impl InplaceOp2 for WriteColumns {
    fn name(&self) -> &'static str {
        "write-columns"
    }

    fn cpu_fwd(
        &self,
        to: &mut CpuStorage,
        to_layout: &Layout,
        from: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<()> {
        /// Columns of `from` that are read together: a cache line.
        const STRIP: usize = 16;
        let (width, tokens) = to_layout.shape().dims2()?;
        let (rows, from_width) = layout.shape().dims2()?;
        let (CpuStorage::F32(to), CpuStorage::F32(from), Some((start, end))) = (to, from, layout.contiguous_offsets())
        else {
            return Err(candle_core::Error::Msg("keys are contiguous f32 matrices".into()));
        };
        if from_width != width || self.first + rows > tokens {
            return Err(candle_core::Error::Msg("columns outside the key/value pool".into()));
        }
        let from = &from[start..end];
        to.par_chunks_mut(tokens * STRIP).enumerate().for_each(|(strip, to)| {
            for block in (0..rows).step_by(STRIP) {
                let block = block..rows.min(block + STRIP);
                for (column, to) in to.chunks_exact_mut(tokens).enumerate() {
                    let column = strip * STRIP + column;
                    let to = &mut to[self.first + block.start..self.first + block.end];
                    for (to, row) in to.iter_mut().zip(block.clone()) {
                        *to = from[row * width + column];
                    }
                }
            }
        });
        Ok(())
    }
}
