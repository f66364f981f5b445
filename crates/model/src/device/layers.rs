//! What a model is made of on a device: matrices and vectors in its memory.

use super::{Address, Matrix};

/// One transformer block of any of the architectures: what one of them lacks is [`Address::NONE`].
pub(crate) struct DeviceLayer {
    /// Queries, keys and values side by side: one matmul.
    pub(crate) queries_keys_values: Matrix,
    pub(crate) output: Matrix,
    /// Gate and up side by side.
    pub(crate) gate_up: Matrix,
    pub(crate) down: Matrix,
    pub(crate) norms: Norms,
    /// Keys that a query sees, itself included; 0 for all.
    pub(crate) window: usize,
}

/// Factors of a layer's norms, f32.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norms {
    pub(crate) before_attention: Address,
    /// Gemma-2.
    pub(crate) after_attention: Address,
    pub(crate) before_mlp: Address,
    /// Gemma-2.
    pub(crate) after_mlp: Address,
    /// Qwen3, over head_dim, as the next.
    pub(crate) query: Address,
    pub(crate) key: Address,
}

/// All weights of one rank.
pub(crate) struct DeviceWeights {
    /// `[vocab, hidden]`, whole on every rank.
    pub(crate) embedding: Address,
    pub(crate) layers: Vec<DeviceLayer>,
    pub(crate) final_norm: Address,
    /// The rank's columns, f32.
    pub(crate) head: Address,
    /// `[head_dim / 2]`, f32.
    pub(crate) inverse_frequencies: Address,
}

impl DeviceLayer {
    /// The rows of the fused matrix that make the queries, `query_width` of them, and those for keys and values.
    pub(crate) fn split_queries(&self, query_width: usize, number_bytes: usize) -> (Matrix, Matrix) {
        let whole = self.queries_keys_values;
        let queries = Matrix { output: query_width, ..whole };
        let weight = whole.weight + query_width * whole.input * number_bytes;
        (queries, Matrix { weight, output: whole.output - query_width, input: whole.input })
    }
}
