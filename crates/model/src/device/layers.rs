//! What a model is made of on a device: matrices and vectors in its memory.

use super::{Address, Matrix};
use crate::blueprint::LayerNorms;

/// One transformer block of any architecture: what it lacks is [`Address::NONE`].
pub(crate) struct DeviceLayer {
    /// Queries, keys and values side by side: one matmul.
    pub(crate) queries_keys_values: Matrix,
    pub(crate) queries: Heads,
    pub(crate) keys: Heads,
    /// f32, added by attention.
    pub(crate) value_bias: Address,
    pub(crate) output: Matrix,
    /// Gate and up side by side.
    pub(crate) gate_up: Matrix,
    pub(crate) down: Matrix,
    /// Factors, f32.
    pub(crate) norms: LayerNorms<Address>,
    /// Keys that a query sees, itself included; 0 for all.
    pub(crate) window: usize,
}

/// What becomes of queries or keys before attention; f32.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) count: usize,
    pub(crate) bias: Address,
    /// Factors of each head's norm.
    pub(crate) norm: Address,
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
