//! Brings a rank's share of a checkpoint into a device's memory.

use std::ops::Range;

use super::kernels::{Fill, Kernels};
use super::layers::{DeviceLayer, DeviceWeights, Norms};
use super::numbers::round;
use super::{Address, Device, Matrix, Memory, hash};
use crate::config::{Architecture, Config};
use crate::error::{Error, Result};
use crate::ops;
use crate::weights::{Slice, Weights, share};

/// Where weights come from.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// A checkpoint.
    Files(&'a Weights),
    /// For trials of speed: random matrices, made on the device; norms whose factors are one.
    Hash,
}

/// The width of the random matrices' numbers: a standard deviation of 0.02, what such models begin with.
pub(crate) const HASH_WIDTH: f64 = 0.069_282_032_302_755_1;

impl<'a> From<&'a Weights> for Source<'a> {
    fn from(weights: &'a Weights) -> Self {
        Self::Files(weights)
    }
}

/// Reads weights to a device and keeps what they lie in.
pub(crate) struct DeviceLoader<'a> {
    config: &'a Config,
    source: Source<'a>,
    device: &'a dyn Device,
    memories: Vec<Memory>,
}

// === impl DeviceLoader ===

impl<'a> DeviceLoader<'a> {
    pub(crate) fn new(config: &'a Config, source: Source<'a>, device: &'a dyn Device) -> Self {
        Self { config, source, device, memories: Vec::new() }
    }

    /// The weights, and the memory that they lie in.
    ///
    /// # Errors
    /// If a tensor is missing or unfit, or the memory does not suffice.
    pub(crate) fn load(mut self) -> Result<(DeviceWeights, Vec<Memory>)> {
        let config = self.config;
        let shape = [config.vocab, config.hidden];
        let name = "model.embed_tokens.weight";
        let embedding = self.matrix(&[Slice { name, shape, rows: 0..config.vocab, columns: 0..config.hidden }])?.weight;
        let layers = (0..config.layers()).map(|layer| self.layer(layer)).collect::<Result<_>>()?;
        let own = self.own(config.hidden);
        let head: Vec<f32> =
            self.head()?.chunks_exact(config.hidden).flat_map(|row| &row[own.clone()]).copied().collect();
        let weights = DeviceWeights {
            embedding,
            layers,
            final_norm: self.norm("model.norm", config.hidden)?,
            head: self.floats(&head)?,
            inverse_frequencies: self.floats(&ops::inverse_frequencies(&config.rope, config.head_dim))?,
        };
        Ok((weights, self.memories))
    }

    fn layer(&mut self, layer: usize) -> Result<DeviceLayer> {
        let config = self.config;
        let (hidden, inner) = (config.hidden, config.intermediate);
        let (query_width, key_width) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let name = |part: &str| format!("model.layers.{layer}.{part}_proj.weight");
        let [q, k, v, o] = ["q", "k", "v", "o"].map(|part| name(&format!("self_attn.{part}")));
        let [gate, up, down] = ["gate", "up", "down"].map(|part| name(&format!("mlp.{part}")));
        let by_output =
            |this: &Self, name, rows| Slice { name, shape: [rows, hidden], rows: this.own(rows), columns: 0..hidden };
        let by_input = |this: &Self, name, columns| Slice {
            name,
            shape: [hidden, columns],
            rows: 0..hidden,
            columns: this.own(columns),
        };
        let projections = [(&q, query_width), (&k, key_width), (&v, key_width)];
        let projections = projections.map(|(name, rows)| by_output(self, name.as_str(), rows));
        let gates = [by_output(self, &gate, inner), by_output(self, &up, inner)];
        Ok(DeviceLayer {
            queries_keys_values: self.matrix(&projections)?,
            output: self.matrix(&[by_input(self, &o, query_width)])?,
            gate_up: self.matrix(&gates)?,
            down: self.matrix(&[by_input(self, &down, inner)])?,
            norms: self.norms(layer)?,
            window: config.windows[layer].unwrap_or(0),
        })
    }

    fn norms(&mut self, layer: usize) -> Result<Norms> {
        let hidden = self.config.hidden;
        let mut norm = |part: &str, len| self.norm(&format!("model.layers.{layer}.{part}"), len);
        let before_attention = norm("input_layernorm", hidden)?;
        let after_attention = norm("post_attention_layernorm", hidden)?;
        let mut norms = Norms {
            before_attention,
            after_attention: Address::NONE,
            before_mlp: after_attention,
            after_mlp: Address::NONE,
            query: Address::NONE,
            key: Address::NONE,
        };
        match self.config.architecture {
            Architecture::Gemma2 => {
                let mut norm = |part: &str| self.norm(&format!("model.layers.{layer}.{part}"), hidden);
                norms.after_attention = after_attention;
                norms.before_mlp = norm("pre_feedforward_layernorm")?;
                norms.after_mlp = norm("post_feedforward_layernorm")?;
            }
            Architecture::Llama => {}
            Architecture::Qwen3 => {
                let head_dim = self.config.head_dim;
                norms.query = self.norm(&format!("model.layers.{layer}.self_attn.q_norm"), head_dim)?;
                norms.key = self.norm(&format!("model.layers.{layer}.self_attn.k_norm"), head_dim)?;
            }
        }
        Ok(norms)
    }

    /// This rank's part of `size` things that are split evenly.
    fn own(&self, size: usize) -> Range<usize> {
        let (rank, world_size) = self.device.place();
        share(size, rank, world_size)
    }

    /// Slices of stored matrices, one below another.
    fn matrix(&mut self, slices: &[Slice<'_>]) -> Result<Matrix> {
        let input = slices.first().map_or(0, |slice| slice.columns.len());
        let output = slices.iter().map(|slice| slice.rows.len()).sum();
        let dtype = self.device.dtype();
        let memory = self.device.allocate(output * input * dtype.size())?;
        let mut to = memory.address();
        for slice in slices {
            self.stored(slice, to)?;
            to = to + slice.rows.len() * input * dtype.size();
        }
        let weight = memory.address();
        self.memories.push(memory);
        Ok(Matrix { weight, output, input })
    }

    /// Brings a slice to its place.
    fn stored(&self, slice: &Slice<'_>, to: Address) -> Result<()> {
        let device = self.device;
        match self.source {
            Source::Files(weights) => weights
                .stored(slice, device.dtype(), &mut |offset, len, read| device.upload_read(to + offset, len, read)),
            Source::Hash if device.place().1 > 1 => {
                Err(Error::Device("random weights are for one rank: a slice would need the whole's numbers".into()))
            }
            Source::Hash => {
                let count = slice.rows.len() * slice.columns.len();
                let seed = hash::seed(slice.name) as usize;
                Kernels { device }.fill(&Fill { out: to, count, seed, scale: HASH_WIDTH, offset: 0.0 })
            }
        }
    }

    /// The head's weights, [outputs, hidden], in the numbers that a checkpoint would hold.
    fn head(&self) -> Result<Vec<f32>> {
        let (name, dtype) = ("score.weight", self.device.dtype());
        let shape = [self.config.outputs(), self.config.hidden];
        let number = |i| round(dtype, (hash::uniform(hash::seed(name), i) - 0.5) * HASH_WIDTH as f32);
        match self.source {
            Source::Files(weights) => weights.matrix(name, shape),
            Source::Hash => Ok((0..(shape[0] * shape[1]) as u64).map(number).collect()),
        }
    }

    /// A norm's factors: Gemma-2 stores what is added to one.
    fn norm(&mut self, name: &str, len: usize) -> Result<Address> {
        let offset = if self.config.architecture == Architecture::Gemma2 { 1.0 } else { 0.0 };
        let factors = match self.source {
            Source::Files(weights) => {
                let stored = weights.vector(&format!("{name}.weight"), len)?;
                stored.into_iter().map(|w| w + offset).collect()
            }
            Source::Hash => vec![1.0; len],
        };
        self.floats(&factors)
    }

    fn floats(&mut self, values: &[f32]) -> Result<Address> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        let memory = self.device.allocate(bytes.len())?;
        self.device.upload(memory.address(), &bytes)?;
        let address = memory.address();
        self.memories.push(memory);
        Ok(address)
    }
}
