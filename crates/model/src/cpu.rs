//! The forward pass on the CPU, in f32: a step goes through the layers in blocks of rows, on the threads of the calling
//! rayon pool, and is computed when it is submitted.

use candle_core::{Device, Tensor};
use score::checksum::of_embedded;
use score::{Checksum, Partials};

use crate::batch::{PackedBatch, along_paths};
use crate::error::Result;
use crate::forward::{Forward, Pending};
use crate::layers::{Block, Embedding, Head, Loader, Step};
use crate::ops::{self, KvPool, Norm, RopeTable};
use crate::plan::{self, Rows, StepPlan};

/// One rank of a model.
pub(crate) struct CpuModel {
    embedding: Embedding,
    layers: Vec<Block>,
    final_norm: Norm,
    head: Head,
    inverse_frequencies: Vec<f32>,
    /// Width of this rank's keys.
    key_width: usize,
    block_rows: usize,
}

/// Query rows of a tile: enough to use a key block often, few enough to give every core some.
const TILE_ROWS: usize = 32;

// === impl CpuModel ===

impl CpuModel {
    /// Loads the share of the loader's rank.
    ///
    /// # Errors
    /// If a tensor is missing or unfit.
    pub(crate) fn load(loader: &Loader<'_>) -> Result<Self> {
        let (share, config) = (&loader.share, &loader.share.config);
        Ok(Self {
            embedding: loader.embedding()?,
            layers: (0..config.layers()).map(|number| Block::load(loader, number)).collect::<Result<_>>()?,
            final_norm: loader.norm(&share.final_norm())?,
            head: loader.head()?,
            inverse_frequencies: ops::inverse_frequencies(&config.rope, config.head_dim),
            key_width: share.key_width,
            block_rows: block_rows(share.intermediate),
        })
    }

    fn forward(&self, batch: &PackedBatch, checksum: Checksum) -> Result<Partials> {
        let plan = StepPlan::new(batch, self.block_rows, TILE_ROWS);
        let step = Step {
            rope: RopeTable::new(&self.inverse_frequencies, plan.positions),
            pool: KvPool::new(batch.tokens.len(), self.key_width, &Device::Cpu)?,
            runs: plan::runs(batch),
        };
        let mut blocks = self.embed(batch, &plan.blocks)?; // (rows, hidden) each
        let paths = match checksum {
            Checksum::Row => None,
            Checksum::Path => Some(along_paths(&batch.segments, &batch.ends, &embedded_checksums(batch, &blocks)?)),
        };
        let Some((last, inner)) = self.layers.split_last() else { return Ok(Partials::empty(self.head.outputs())) };
        for layer in inner {
            self.keys_values(layer, &blocks, &plan.blocks, &step)?;
            for (h, rows) in blocks.iter_mut().zip(&plan.blocks) {
                *h = layer.forward(h, rows, &step)?;
            }
        }
        self.keys_values(last, &blocks, &plan.blocks, &step)?;
        let mut partials = Partials::empty(self.head.outputs());
        for rows in &plan.pooled {
            let h = last.forward(&gather(&blocks, &plan.blocks, rows)?, rows, &step)?; // (pooled rows, hidden)
            self.head.forward(&ops::rms_norm(&h, &self.final_norm)?, &mut partials)?;
        }
        let partials = partials.select(&plan.pooled_row);
        Ok(match paths {
            Some(paths) => partials.along(&paths),
            None => partials,
        })
    }

    fn embed(&self, batch: &PackedBatch, blocks: &[Rows]) -> Result<Vec<Tensor>> {
        let tokens = |rows: &Rows| &batch.tokens[rows.first()..rows.first() + rows.positions.len()];
        blocks.iter().map(|rows| self.embedding.forward(tokens(rows))).collect()
    }

    fn keys_values(&self, block: &Block, blocks: &[Tensor], plans: &[Rows], step: &Step) -> Result<()> {
        blocks.iter().zip(plans).try_for_each(|(h, rows)| block.keys_values(h, rows, step))
    }
}

impl Forward for CpuModel {
    fn submit(&self, batch: &PackedBatch, checksum: Checksum) -> Result<Pending> {
        self.forward(batch, checksum).map(Pending::ready)
    }
}

/// The checksum of each token's id and embedded row.
fn embedded_checksums(batch: &PackedBatch, blocks: &[Tensor]) -> Result<Vec<u64>> {
    let (mut checksums, mut tokens) = (Vec::with_capacity(batch.tokens.len()), batch.tokens.iter());
    for block in blocks {
        let (values, (_, hidden)) = (ops::values(block)?, block.dims2()?);
        checksums.extend(values.chunks_exact(hidden).zip(&mut tokens).map(|(row, &token)| of_embedded(token, row)));
    }
    Ok(checksums)
}

/// Rows that go through a layer together: few enough that the MLP's intermediates stay in the cache, many enough that
/// the matmul runs at full speed.
fn block_rows(intermediate: usize) -> usize {
    const INTERMEDIATE_VALUES: usize = 4 << 20;
    (INTERMEDIATE_VALUES / (2 * intermediate)).clamp(64, 512)
}

/// The pooled rows of the residual stream, `[pooled rows, hidden]`.
fn gather(blocks: &[Tensor], plans: &[Rows], pooled: &Rows) -> Result<Tensor> {
    let row = |&source: &u32| {
        let source = source as usize;
        let block = plans.partition_point(|rows| rows.first() <= source) - 1;
        blocks[block].narrow(0, source - plans[block].first(), 1)
    };
    let rows: Vec<Tensor> = pooled.sources.iter().map(row).collect::<candle_core::Result<_>>()?;
    Ok(Tensor::cat(&rows, 0)?)
}
