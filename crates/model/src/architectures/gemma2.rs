//! Gemma-2 (transformers, models/gemma2/modeling_gemma2.py): four norms a layer, weights as 1 + w, soft-capped
//! attention scores scaled by query_pre_attn_scalar, a sliding window on even layers, a scaled embedding.

use candle_core::Tensor;

use crate::error::Result;
use crate::layers::{AttentionLayer, Embedding, Layer, Loader, Mlp, Step};
use crate::ops::{self, Norm};
use crate::plan::Rows;

/// One transformer block.
struct Gemma2Layer {
    before_attention: Norm,
    attention: AttentionLayer,
    after_attention: Norm,
    before_mlp: Norm,
    mlp: Mlp,
    after_mlp: Norm,
}

/// The offset of every norm's weight.
const ONE: f32 = 1.0;

/// Loads layer `layer`.
pub(crate) fn layer(loader: &Loader<'_>, layer: usize) -> Result<Box<dyn Layer>> {
    let norm = |name: &str| loader.norm(&format!("model.layers.{layer}.{name}.weight"), loader.config.hidden, ONE);
    Ok(Box::new(Gemma2Layer {
        before_attention: norm("input_layernorm")?,
        attention: AttentionLayer::load(loader, layer, None)?,
        after_attention: norm("post_attention_layernorm")?,
        before_mlp: norm("pre_feedforward_layernorm")?,
        mlp: Mlp::load(loader, layer)?,
        after_mlp: norm("post_feedforward_layernorm")?,
    }))
}

/// The embedding, which is scaled by the square root of the hidden size, a number of the model's dtype.
pub(crate) fn embedding(loader: &Loader<'_>) -> Result<Embedding> {
    let normaliser = (loader.config.hidden as f32).sqrt();
    loader.embedding(Some(f64::from(normaliser)))
}

/// The norm before the score head.
pub(crate) fn final_norm(loader: &Loader<'_>) -> Result<Norm> {
    loader.norm("model.norm.weight", loader.config.hidden, ONE)
}

impl Layer for Gemma2Layer {
    fn keys_values(&self, h: &Tensor, rows: &Rows, step: &Step<'_>) -> Result<()> {
        let x = ops::rms_norm(h, &self.before_attention)?;
        self.attention.keys_values(&x, rows, step)
    }

    fn forward(&self, h: &Tensor, rows: &Rows, step: &Step<'_>) -> Result<Tensor> {
        let x = ops::rms_norm(h, &self.before_attention)?; // (rows, hidden), as all of these
        let x = self.attention.forward(&x, rows, step)?;
        let (h, x) = ops::add_and_norm(h, &x, Some(&self.after_attention), &self.before_mlp)?;
        let x = self.mlp.forward(&x)?;
        ops::add(&h, &x, Some(&self.after_mlp))
    }
}
