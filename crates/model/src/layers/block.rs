//! A transformer block of any architecture: h + attention(norm(h)), then h + down(activation(gate x) * up x) of norm(h).

use candle_core::Tensor;

use super::{Linear, Loader};
use crate::blueprint::{Activation, LayerNorms, RopePairs};
use crate::error::Result;
use crate::ops::{self, Attention, KvPool, Norm, RopeTable};
use crate::plan::{Rows, Run};

/// What all layers of a step share.
pub(crate) struct Step {
    pub(crate) rope: RopeTable,
    /// Keys and values of the layer that is being computed.
    pub(crate) pool: KvPool,
    /// For each segment, where the keys of a path that ends in it are.
    pub(crate) runs: Vec<Vec<Run>>,
}

/// One rank's share of a transformer block.
pub(crate) struct Block {
    norms: LayerNorms<Norm>,
    queries: Linear,
    keys: Linear,
    values: Linear,
    attention: Attention,
    output: Linear,
    /// Gate and up side by side: one matmul.
    gate_up: Linear,
    activation: Activation,
    down: Linear,
}

// === impl Block ===

impl Block {
    /// Loads layer `number`.
    ///
    /// # Errors
    /// If a tensor is missing or unfit.
    pub(crate) fn load(loader: &Loader<'_>, number: usize) -> Result<Self> {
        let (share, config) = (&loader.share, &loader.share.config);
        // what `RopeTable::rotate` does
        let RopePairs::Halves = share.blueprint().rope;
        let tensors = share.layer(number);
        let [query_bias, key_bias, value_bias] = tensors.biases.map_or([None, None, None], |biases| biases.map(Some));
        Ok(Self {
            norms: tensors.norms.try_map(|part| loader.norm(part))?,
            queries: loader.own(&[tensors.queries], query_bias)?,
            keys: loader.own(&[tensors.keys], key_bias)?,
            values: loader.own(&[tensors.values], value_bias)?,
            attention: Attention {
                heads: share.heads,
                kv_heads: share.kv_heads,
                head_dim: config.head_dim,
                scale: config.attention_scale as f32,
                soft_cap: config.soft_cap.map(|cap| cap as f32),
                window: config.windows[number],
            },
            output: loader.summed(tensors.output)?,
            gate_up: loader.own(&[tensors.gate, tensors.up], None)?,
            activation: share.blueprint().activation,
            down: loader.summed(tensors.down)?,
        })
    }

    /// Writes the keys and values of a block of rows, `h` [rows, hidden], to the step's pool.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub(crate) fn keys_values(&self, h: &Tensor, rows: &Rows, step: &Step) -> Result<()> {
        let x = ops::rms_norm(h, &self.norms.before_attention)?;
        let keys = turned(self.keys.forward(&x)?, self.norms.keys.as_ref(), rows, step)?; // (rows, kv_heads x head_dim)
        step.pool.write(rows.first(), &keys, &self.values.forward(&x)?)
    }

    /// The residual stream `h` [rows, hidden] of a block of rows after this layer, whose keys and values must be in the
    /// pool.
    ///
    /// # Errors
    /// If the shapes do not fit, or another rank has left.
    pub(crate) fn forward(&self, h: &Tensor, rows: &Rows, step: &Step) -> Result<Tensor> {
        let norms = &self.norms;
        let x = ops::rms_norm(h, &norms.before_attention)?; // (rows, hidden), as all that are called x
        let queries = turned(self.queries.forward(&x)?, norms.queries.as_ref(), rows, step)?; // (rows, heads x head_dim)
        let context = ops::attention(&self.attention, &queries, &step.pool, rows, &step.runs)?; // (rows, heads x head_dim)
        let x = self.output.forward(&context)?;
        let (h, x) = ops::add_and_norm(h, &x, norms.after_attention.as_ref(), &norms.before_mlp)?;
        let gate_up = self.gate_up.forward(&x)?; // (rows, 2 x intermediate)
        let x = self.down.forward(&ops::gated(&gate_up, self.activation)?)?;
        ops::add(&h, &x, norms.after_mlp.as_ref())
    }
}

/// Queries or keys, each head normed if it is to be, and turned to its row's position.
fn turned(x: Tensor, norm: Option<&Norm>, rows: &Rows, step: &Step) -> Result<Tensor> {
    let x = norm.map_or(Ok(x.clone()), |norm| ops::rms_norm(&x, norm))?;
    step.rope.rotate(&x, &rows.positions)
}
