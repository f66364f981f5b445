//! Llama-3 (transformers, models/llama/modeling_llama.py): a norm before each branch, nothing else.

use candle_core::Tensor;

use crate::error::Result;
use crate::layers::{AttentionLayer, Embedding, Layer, Loader, Mlp, QueryKeyNorms, Step};
use crate::ops::{self, Norm};
use crate::plan::Rows;

/// One transformer block.
struct LlamaLayer {
    before_attention: Norm,
    attention: AttentionLayer,
    before_mlp: Norm,
    mlp: Mlp,
}

/// Loads layer `layer`.
pub(crate) fn layer(loader: &Loader<'_>, layer: usize) -> Result<Box<dyn Layer>> {
    layer_with(loader, layer, None)
}

/// Loads layer `layer` of a model that may normalise queries and keys, and is Llama otherwise.
pub(super) fn layer_with(loader: &Loader<'_>, layer: usize, norms: Option<QueryKeyNorms>) -> Result<Box<dyn Layer>> {
    let norm = |name: &str| loader.norm(&format!("model.layers.{layer}.{name}.weight"), loader.config.hidden, 0.0);
    Ok(Box::new(LlamaLayer {
        before_attention: norm("input_layernorm")?,
        attention: AttentionLayer::load(loader, layer, norms)?,
        before_mlp: norm("post_attention_layernorm")?,
        mlp: Mlp::load(loader, layer)?,
    }))
}

/// The embedding, as it is stored.
pub(crate) fn embedding(loader: &Loader<'_>) -> Result<Embedding> {
    loader.embedding(None)
}

/// The norm before the score head.
pub(crate) fn final_norm(loader: &Loader<'_>) -> Result<Norm> {
    loader.norm("model.norm.weight", loader.config.hidden, 0.0)
}

impl Layer for LlamaLayer {
    fn keys_values(&self, h: &Tensor, rows: &Rows, step: &Step<'_>) -> Result<()> {
        let x = ops::rms_norm(h, &self.before_attention)?;
        self.attention.keys_values(&x, rows, step)
    }

    fn forward(&self, h: &Tensor, rows: &Rows, step: &Step<'_>) -> Result<Tensor> {
        let x = ops::rms_norm(h, &self.before_attention)?; // (rows, hidden), as all of these
        let x = self.attention.forward(&x, rows, step)?;
        let (h, x) = ops::add_and_norm(h, &x, None, &self.before_mlp)?;
        let x = self.mlp.forward(&x)?;
        ops::add(&h, &x, None)
    }
}
