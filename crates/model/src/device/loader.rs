//! Brings a rank's share of a checkpoint into a device's memory.

#[cfg(feature = "trial")]
use super::kernels::{Fill, Kernels};
use super::layers::{DeviceLayer, DeviceWeights, Heads};
use super::{Address, Device, Matrix, Memory};
use crate::blueprint::RopePairs;
#[cfg(feature = "trial")]
use crate::error::Error;
use crate::error::Result;
use crate::ops;
use crate::share::Share;
#[cfg(feature = "trial")]
use crate::trial::hash;
use crate::weights::{Slice, VectorSlice, Weights};

/// Where weights come from.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// A checkpoint.
    Files(&'a Weights),
    /// For trials of speed: random matrices, made on the device; norms whose factors are one.
    #[cfg(feature = "trial")]
    Hash,
}

/// The width of the random matrices' numbers: a standard deviation of 0.02, what such models begin with.
#[cfg(feature = "trial")]
pub(crate) const HASH_WIDTH: f64 = 0.069_282_032_302_755_1;

impl<'a> From<&'a Weights> for Source<'a> {
    fn from(weights: &'a Weights) -> Self {
        Self::Files(weights)
    }
}

/// Reads weights to a device and keeps what they lie in.
pub(crate) struct DeviceLoader<'a> {
    share: &'a Share,
    source: Source<'a>,
    device: &'a dyn Device,
    memories: Vec<Memory>,
}

// === impl DeviceLoader ===

impl<'a> DeviceLoader<'a> {
    pub(crate) fn new(share: &'a Share, source: Source<'a>, device: &'a dyn Device) -> Self {
        Self { share, source, device, memories: Vec::new() }
    }

    /// The weights, and the memory that they lie in.
    ///
    /// # Errors
    /// If a tensor is missing or unfit, or the memory does not suffice.
    pub(crate) fn load(mut self) -> Result<(DeviceWeights, Vec<Memory>)> {
        let (share, config) = (self.share, &self.share.config);
        let weights = DeviceWeights {
            embedding: self.matrix(&[share.embedding()])?.weight,
            layers: (0..config.layers()).map(|number| self.layer(number)).collect::<Result<_>>()?,
            final_norm: self.norm(&share.final_norm())?,
            head: self.head()?,
            inverse_frequencies: self.floats(&ops::inverse_frequencies(&config.rope, config.head_dim))?,
        };
        Ok((weights, self.memories))
    }

    fn layer(&mut self, number: usize) -> Result<DeviceLayer> {
        let tensors = self.share.layer(number);
        // what the kernel `rope` does
        let RopePairs::Halves = self.share.blueprint().rope;
        let [query_bias, key_bias, value_bias] = match &tensors.biases {
            None => [Address::NONE; 3],
            Some([q, k, v]) => [self.vector(q, 0.0, 0.0)?, self.vector(k, 0.0, 0.0)?, self.vector(v, 0.0, 0.0)?],
        };
        let norms = tensors.norms.try_map(|part| self.norm(part))?;
        Ok(DeviceLayer {
            queries_keys_values: self.matrix(&[tensors.queries, tensors.keys, tensors.values])?,
            queries: Heads { count: self.share.heads, bias: query_bias, norm: norms.queries.unwrap_or(Address::NONE) },
            keys: Heads { count: self.share.kv_heads, bias: key_bias, norm: norms.keys.unwrap_or(Address::NONE) },
            value_bias,
            output: self.matrix(&[tensors.output])?,
            gate_up: self.matrix(&[tensors.gate, tensors.up])?,
            down: self.matrix(&[tensors.down])?,
            norms,
            window: self.share.config.windows[number].unwrap_or(0),
        })
    }

    /// Slices of stored matrices, one below another.
    fn matrix(&mut self, slices: &[Slice]) -> Result<Matrix> {
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
    fn stored(&self, slice: &Slice, to: Address) -> Result<()> {
        let device = self.device;
        match self.source {
            Source::Files(weights) => weights
                .stored(slice, device.dtype(), &mut |offset, len, read| device.upload_read(to + offset, len, read)),
            #[cfg(feature = "trial")]
            Source::Hash if device.place().1 > 1 => {
                Err(Error::Device("random weights are for one rank: a slice would need the whole's numbers".into()))
            }
            #[cfg(feature = "trial")]
            Source::Hash => {
                let count = slice.len();
                let seed = hash::seed(&slice.name) as usize;
                Kernels { device }.fill(&Fill { out: to, count, seed, scale: HASH_WIDTH, offset: 0.0 })
            }
        }
    }

    /// The rank's columns of the head, [outputs, columns], in the numbers that a checkpoint would hold.
    fn head(&mut self) -> Result<Address> {
        let (Slice { name, shape, columns, .. }, dtype) = (self.share.head(), self.device.dtype());
        let number = |i| dtype.round((hash::uniform(hash::seed(&name), i) - 0.5) * HASH_WIDTH as f32);
        let weight = match self.source {
            Source::Files(weights) => weights.matrix(&name, shape)?,
            #[cfg(feature = "trial")]
            Source::Hash => (0..(shape[0] * shape[1]) as u64).map(number).collect(),
        };
        let own: Vec<f32> = weight.chunks_exact(shape[1]).flat_map(|row| &row[columns.clone()]).copied().collect();
        self.floats(&own)
    }

    fn norm(&mut self, part: &VectorSlice) -> Result<Address> {
        self.vector(part, self.share.blueprint().norm_weight.offset(), 1.0)
    }

    /// The stored numbers plus `offset`; for trials, `made` each.
    fn vector(&mut self, part: &VectorSlice, offset: f32, made: f32) -> Result<Address> {
        let numbers = match self.source {
            Source::Files(weights) => weights.vector(part)?.into_iter().map(|w| w + offset).collect(),
            #[cfg(feature = "trial")]
            Source::Hash => vec![made; part.own.len()],
        };
        self.floats(&numbers)
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
