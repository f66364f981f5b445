//! The layers that all models share, each holding one rank's share of its weights.
//!
//! Tensor parallelism as in Megatron-LM (Shoeybi et al. 2019): queries, keys, values, gate and up are split by output,
//! so a rank owns whole heads; the output and down projections are split by input, and their partial results are summed
//! over the ranks. Embedding, norms and the residual stream are the same on every rank.

mod attention;
mod embedding;
mod head;
mod linear;
mod loader;
mod mlp;

pub(crate) use self::attention::{AttentionLayer, QueryKeyNorms};
pub(crate) use self::embedding::Embedding;
pub(crate) use self::head::Head;
pub(crate) use self::linear::Linear;
pub(crate) use self::loader::Loader;
pub(crate) use self::mlp::Mlp;
use crate::error::Result;
use crate::ops::{KvPool, RopeTable};
use crate::plan::{Rows, Run};
use candle_core::Tensor;

/// What all layers of a step share.
pub(crate) struct Step<'a> {
    pub(crate) rope: RopeTable,
    /// Keys and values of the layer that is being computed.
    pub(crate) pool: KvPool,
    /// For each segment, where the keys of a path that ends in it are.
    pub(crate) runs: &'a [Vec<Run>],
}

/// A transformer block, in the two halves that a step needs: first every token's keys and values, then, for whichever
/// rows are wanted, all the rest.
pub(crate) trait Layer: Send + Sync {
    /// Writes the keys and values of a block of rows, `h` [rows, hidden], to the step's pool.
    fn keys_values(&self, h: &Tensor, rows: &Rows, step: &Step<'_>) -> Result<()>;

    /// The residual stream `h` [rows, hidden] of a block after this layer.
    fn forward(&self, h: &Tensor, rows: &Rows, step: &Step<'_>) -> Result<Tensor>;
}
