//! The attention branch: projections, position encoding, attention, output projection.

use candle_core::Tensor;

use super::{Linear, Loader, Step};
use crate::error::Result;
use crate::ops::{self, Attention, Norm};
use crate::plan::Rows;

/// One rank's heads of an attention branch.
pub(crate) struct AttentionLayer {
    queries: Linear,
    keys: Linear,
    values: Linear,
    output: Linear,
    /// Qwen3 normalises each head of queries and keys.
    norms: Option<QueryKeyNorms>,
    spec: Attention,
}

/// Norms over head_dim.
pub(crate) struct QueryKeyNorms {
    pub(crate) query: Norm,
    pub(crate) key: Norm,
}

// === impl AttentionLayer ===

impl AttentionLayer {
    /// Loads the projections of layer `layer`.
    ///
    /// # Errors
    /// If a tensor is missing or unfit.
    pub(crate) fn load(loader: &Loader<'_>, layer: usize, norms: Option<QueryKeyNorms>) -> Result<Self> {
        let name = |projection: &str| format!("model.layers.{layer}.self_attn.{projection}_proj.weight");
        let config = loader.config;
        let (hidden, head_dim) = (config.hidden, config.head_dim);
        let (query_width, key_width) = (config.heads * head_dim, config.kv_heads * head_dim);
        let world_size = loader.world_size();
        Ok(Self {
            queries: loader.split_by_output(&[&name("q")], [query_width, hidden])?,
            keys: loader.split_by_output(&[&name("k")], [key_width, hidden])?,
            values: loader.split_by_output(&[&name("v")], [key_width, hidden])?,
            output: loader.split_by_input(&name("o"), [hidden, query_width])?,
            norms,
            spec: Attention {
                heads: config.heads / world_size,
                kv_heads: config.kv_heads / world_size,
                head_dim,
                scale: config.attention_scale as f32,
                soft_cap: config.soft_cap.map(|cap| cap as f32),
                window: config.windows[layer],
            },
        })
    }

    /// Writes the keys and values of `x` [rows, hidden] to the pool.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub(crate) fn keys_values(&self, x: &Tensor, rows: &Rows, step: &Step<'_>) -> Result<()> {
        let keys = self.keys.forward(x)?; // (rows, kv_heads x head_dim)
        let keys = self.normalise(keys, |norms| &norms.key)?;
        let keys = step.rope.rotate(&keys, &rows.positions)?;
        step.pool.write(rows.first(), &keys, &self.values.forward(x)?)
    }

    /// The branch for `x` [rows, hidden]; the pool must hold the layer's keys and values.
    ///
    /// # Errors
    /// If the shapes do not fit, or another rank has left.
    pub(crate) fn forward(&self, x: &Tensor, rows: &Rows, step: &Step<'_>) -> Result<Tensor> {
        let queries = self.queries.forward(x)?; // (rows, heads x head_dim)
        let queries = self.normalise(queries, |norms| &norms.query)?;
        let queries = step.rope.rotate(&queries, &rows.positions)?;
        let context = ops::attention(&self.spec, &queries, &step.pool, rows, step.runs)?; // (rows, heads x head_dim)
        self.output.forward(&context) // (rows, hidden)
    }

    fn normalise(&self, x: Tensor, which: impl Fn(&QueryKeyNorms) -> &Norm) -> Result<Tensor> {
        let Some(norms) = &self.norms else { return Ok(x) };
        ops::rms_norm(&x, which(norms))
    }
}
