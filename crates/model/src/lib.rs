//! Computes the partial logits of a packed batch on one rank of a reward model: Gemma-2, Llama-3 or Qwen3 with a
//! classification head of one output, on the CPU in f32.
//!
//! [`Model::load`] reads a rank's share of a checkpoint; [`Packer`] merges token sequences into the prefix tree of a
//! [`PackedBatch`]; [`Model::forward`] computes each of its tokens once. For one numerics id a sequence's partial logits
//! are the same bits in every batch.

mod architectures;
mod batch;
mod config;
mod error;
mod layers;
mod numerics;
mod ops;
mod plan;
#[cfg(test)]
#[path = "../build/ptxas/mod.rs"]
mod ptxas;
mod weights;

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use collective::Collective;

use self::architectures::{gemma2, llama, qwen3};
pub use self::batch::{PackedBatch, Packer, SHORTEST_SHARE, Segment};
pub use self::config::{Activation, Architecture, Config, Llama3Scaling, Rope};
pub use self::error::{Error, Result};
pub use self::layers::PartialLogit;
use self::layers::{Embedding, Head, Layer, Loader, Step};
pub use self::numerics::numerics;
use self::ops::{KvPool, Norm, RopeTable};
use self::plan::{Rows, StepPlan};
use self::weights::Weights;

/// One rank of a reward model.
pub struct Model {
    config: Config,
    embedding: Embedding,
    layers: Vec<Box<dyn Layer>>,
    final_norm: Norm,
    head: Head,
    inverse_frequencies: Vec<f32>,
    /// Width of this rank's keys: kv_heads x head_dim / world size.
    key_width: usize,
    block_rows: usize,
}

impl Model {
    /// Loads the share of `collective`'s rank from a checkpoint's safetensors files.
    ///
    /// Tensors are read and converted on the threads of the calling rayon pool. Also returns warnings: the names of
    /// tensors that were not used.
    ///
    /// # Errors
    /// If the model cannot be split over this many ranks, or a tensor is missing or unfit.
    pub fn load(config: &Config, files: &[PathBuf], collective: Arc<dyn Collective>) -> Result<(Self, Vec<String>)> {
        let world_size = collective.world_size();
        config.check_world_size(world_size)?;
        let weights = Weights::open(files)?;
        let loader = Loader { config, weights: &weights, collective };
        let (embedding, final_norm, layer): (_, _, LoadLayer) = match config.architecture {
            Architecture::Gemma2 => (gemma2::embedding(&loader)?, gemma2::final_norm(&loader)?, gemma2::layer),
            Architecture::Llama => (llama::embedding(&loader)?, llama::final_norm(&loader)?, llama::layer),
            Architecture::Qwen3 => (qwen3::embedding(&loader)?, qwen3::final_norm(&loader)?, qwen3::layer),
        };
        let model = Self {
            embedding,
            final_norm,
            layers: (0..config.layers()).map(|number| layer(&loader, number)).collect::<Result<_>>()?,
            head: loader.head()?,
            inverse_frequencies: ops::inverse_frequencies(&config.rope, config.head_dim),
            key_width: config.kv_heads / world_size * config.head_dim,
            block_rows: block_rows(config, world_size),
            config: config.clone(),
        };
        let unused = weights.unused().into_iter().map(|name| format!("tensor {name} is not used by this model"));
        Ok((model, unused.collect()))
    }

    /// What the model is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// This rank's partial logit of each sequence of the batch, in the order in which they were pushed.
    ///
    /// All ranks of the replica must be given the same batches in the same order.
    ///
    /// # Errors
    /// If a token is outside the vocabulary, or another rank has left.
    pub fn forward(&self, batch: &PackedBatch) -> Result<Vec<PartialLogit>> {
        self.check(batch)?;
        let plan = StepPlan::new(batch, self.block_rows);
        let step = Step {
            rope: RopeTable::new(&self.inverse_frequencies, plan.positions),
            pool: KvPool::new(batch.tokens.len(), self.key_width, &Device::Cpu)?,
            runs: &plan.runs,
        };
        let mut blocks = self.embed(batch, &plan.blocks)?; // (rows, hidden) each
        let Some((last, inner)) = self.layers.split_last() else { return Ok(Vec::new()) };
        for layer in inner {
            self.keys_values(layer.as_ref(), &blocks, &plan.blocks, &step)?;
            for (h, rows) in blocks.iter_mut().zip(&plan.blocks) {
                *h = layer.forward(h, rows, &step)?;
            }
        }
        self.keys_values(last.as_ref(), &blocks, &plan.blocks, &step)?;
        let mut partial_logits = Vec::new();
        for rows in &plan.pooled {
            let h = last.forward(&gather(&blocks, &plan.blocks, rows)?, rows, &step)?; // (pooled rows, hidden)
            partial_logits.extend(self.head.forward(&ops::rms_norm(&h, &self.final_norm)?)?);
        }
        Ok(plan.pooled_row.iter().map(|&row| partial_logits[row]).collect())
    }

    fn check(&self, batch: &PackedBatch) -> Result<()> {
        if let Some(token) = batch.tokens.iter().find(|&&token| token as usize >= self.config.vocab) {
            let vocab = self.config.vocab;
            return Err(Error::Sequence(format!("token id {token} is outside the vocabulary of {vocab}")));
        }
        Ok(())
    }

    fn embed(&self, batch: &PackedBatch, blocks: &[Rows]) -> Result<Vec<Tensor>> {
        let tokens = |rows: &Rows| &batch.tokens[rows.first()..rows.first() + rows.positions.len()];
        blocks.iter().map(|rows| self.embedding.forward(tokens(rows))).collect()
    }

    fn keys_values(&self, layer: &dyn Layer, blocks: &[Tensor], plans: &[Rows], step: &Step<'_>) -> Result<()> {
        blocks.iter().zip(plans).try_for_each(|(h, rows)| layer.keys_values(h, rows, step))
    }
}

type LoadLayer = fn(&Loader<'_>, usize) -> Result<Box<dyn Layer>>;

/// Rows that go through a layer together: few enough that the MLP's intermediates stay in the cache, many enough that
/// the matmul runs at full speed.
fn block_rows(config: &Config, world_size: usize) -> usize {
    const INTERMEDIATE_VALUES: usize = 4 << 20;
    (INTERMEDIATE_VALUES / (2 * config.intermediate / world_size)).clamp(64, 512)
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
