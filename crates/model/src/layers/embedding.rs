//! Token ids to the residual stream.

use candle_core::{Device, Tensor};

use crate::error::Result;

/// The embedding, whole on every rank.
pub(crate) struct Embedding {
    /// `[vocab, hidden]`.
    weight: Tensor,
    scale: f64,
}

// === impl Embedding ===

impl Embedding {
    pub(crate) fn new(weight: Tensor, scale: f64) -> Self {
        Self { weight, scale }
    }

    /// `[tokens]` to `[tokens, hidden]`.
    ///
    /// # Errors
    /// If a token is not below the size of the vocabulary.
    pub(crate) fn forward(&self, tokens: &[u32]) -> Result<Tensor> {
        let ids = Tensor::from_slice(tokens, tokens.len(), &Device::Cpu)?;
        let rows = self.weight.index_select(&ids, 0)?;
        match self.scale {
            1.0 => Ok(rows),
            scale => Ok((rows * scale)?),
        }
    }
}
