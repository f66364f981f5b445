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

/// Rows of a matrix go to these rows (or, transposed, columns) of the pool.
struct WriteRows {
    first: usize,
}

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
        self.values.inplace_op2(values, &WriteRows { first })?;
        Ok(())
    }
}

impl InplaceOp2 for WriteRows {
    fn name(&self) -> &'static str {
        "write-rows"
    }

    fn cpu_fwd(
        &self,
        to: &mut CpuStorage,
        to_layout: &Layout,
        from: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<()> {
        let (_, width) = to_layout.shape().dims2()?;
        let (_, from_width) = layout.shape().dims2()?;
        let (to, from) = contiguous(to, from, layout)?;
        let start = self.first * width;
        match to.get_mut(start..start + from.len()) {
            Some(rows) if from_width == width => rows.copy_from_slice(from),
            _ => return Err(outside("rows")),
        }
        Ok(())
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
        let (to, from) = contiguous(to, from, layout)?;
        if from_width != width || self.first + rows > tokens {
            return Err(outside("columns"));
        }
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

fn contiguous<'a>(
    to: &'a mut CpuStorage,
    from: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<(&'a mut [f32], &'a [f32])> {
    match (to, from, layout.contiguous_offsets()) {
        (CpuStorage::F32(to), CpuStorage::F32(from), Some((start, end))) => Ok((to, &from[start..end])),
        _ => Err(candle_core::Error::Msg("keys and values are contiguous f32 matrices".into())),
    }
}

fn outside(what: &str) -> candle_core::Error {
    candle_core::Error::Msg(format!("{what} outside the key/value pool"))
}
