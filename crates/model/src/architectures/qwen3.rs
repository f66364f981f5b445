//! Qwen3 (transformers, models/qwen3/modeling_qwen3.py): Llama with a norm on each head of queries and keys, before
//! they are rotated.

use crate::error::Result;
use crate::layers::{Layer, Loader, QueryKeyNorms};

pub(crate) use super::llama::{embedding, final_norm};

/// Loads layer `layer`.
pub(crate) fn layer(loader: &Loader<'_>, layer: usize) -> Result<Box<dyn Layer>> {
    let norm = |name: &str| {
        let name = format!("model.layers.{layer}.self_attn.{name}_norm.weight");
        loader.norm(&name, loader.config.head_dim, 0.0)
    };
    super::llama::layer_with(loader, layer, Some(QueryKeyNorms { query: norm("q")?, key: norm("k")? }))
}
