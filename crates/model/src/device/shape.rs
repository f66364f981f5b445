//! A rank's share of a model's sizes, and the matrices and bytes that follow from them.

use super::numbers::round;
use super::{Device, kernels};
use crate::config::{Architecture, Config};
use crate::error::Result;

/// This rank's share of the model's sizes.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) config: Config,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) query_width: usize,
    pub(super) key_width: usize,
    pub(super) intermediate: usize,
    /// Gemma-2 scales the embedding.
    pub(super) embedding_scale: f64,
    pub(super) rank: usize,
    pub(super) world_size: usize,
}

// === impl Shape ===

impl Shape {
    /// # Errors
    /// If the kernels are not made for these sizes.
    pub(super) fn new(config: &Config, device: &dyn Device) -> Result<Self> {
        let (rank, world_size) = device.place();
        let (heads, kv_heads) = (config.heads / world_size, config.kv_heads / world_size);
        let intermediate = config.intermediate / world_size;
        let widths = [("hidden_size", config.hidden), ("intermediate_size", intermediate)];
        kernels::check(config.hidden, config.head_dim, &widths)?;
        let scaled = config.architecture == Architecture::Gemma2;
        Ok(Self {
            heads,
            kv_heads,
            query_width: heads * config.head_dim,
            key_width: kv_heads * config.head_dim,
            intermediate,
            // a number of the model's dtype, as in transformers
            embedding_scale: if scaled { round(device.dtype(), (config.hidden as f32).sqrt()).into() } else { 1.0 },
            rank,
            world_size,
            config: config.clone(),
        })
    }
}

/// The shapes [output, input] of the matrices that steps multiply with, on each of `world_size` ranks.
pub(crate) fn matrix_shapes(config: &Config, world_size: usize) -> [(usize, usize); 6] {
    let (queries, keys) = (config.heads * config.head_dim / world_size, config.kv_heads * config.head_dim / world_size);
    let (hidden, intermediate) = (config.hidden, config.intermediate / world_size);
    [
        (queries + 2 * keys, hidden),
        (queries, hidden),
        (2 * keys, hidden),
        (hidden, queries),
        (2 * intermediate, hidden),
        (hidden, intermediate),
    ]
}
