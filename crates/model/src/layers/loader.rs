//! Makes layers out of a checkpoint's tensors: which part of which tensor a rank takes.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use collective::Collective;

use super::{Embedding, Head, Linear};
use crate::config::Config;
use crate::error::Result;
use crate::ops::Norm;
use crate::weights::{Slice, Weights, share};

/// A checkpoint, as one rank sees it.
pub(crate) struct Loader<'a> {
    pub(crate) config: &'a Config,
    pub(crate) weights: &'a Weights,
    pub(crate) collective: Arc<dyn Collective>,
}

// === impl Loader ===

impl Loader<'_> {
    pub(crate) fn world_size(&self) -> usize {
        self.collective.world_size()
    }

    /// This rank's part of `size` things that are split evenly.
    fn own(&self, size: usize) -> Range<usize> {
        share(size, self.collective.rank(), self.world_size())
    }

    /// Projections of the same stored shape [out, in], side by side, of which each rank computes some output columns.
    pub(crate) fn split_by_output(&self, names: &[&str], shape: [usize; 2]) -> Result<Linear> {
        let [rows, columns] = shape;
        let slices: Vec<_> =
            names.iter().map(|name| Slice { name, shape, rows: self.own(rows), columns: 0..columns }).collect();
        Ok(Linear::own(self.transposed(&slices)?))
    }

    /// A projection of stored shape [out, in] of which each rank takes some input columns.
    pub(crate) fn split_by_input(&self, name: &str, shape: [usize; 2]) -> Result<Linear> {
        let [rows, columns] = shape;
        let weight = self.transposed(&[Slice { name, shape, rows: 0..rows, columns: self.own(columns) }])?;
        Ok(match self.world_size() {
            1 => Linear::own(weight),
            _ => Linear::summed(weight, Arc::clone(&self.collective)),
        })
    }

    /// A norm whose factors are the stored numbers plus `offset`.
    pub(crate) fn norm(&self, name: &str, len: usize, offset: f32) -> Result<Norm> {
        let stored = self.weights.vector(name, len)?;
        Ok(Norm { weight: stored.into_iter().map(|w| w + offset).collect(), eps: self.config.norm_eps })
    }

    pub(crate) fn embedding(&self, scale: Option<f64>) -> Result<Embedding> {
        let shape = [self.config.vocab, self.config.hidden];
        let weight = self.weights.matrix("model.embed_tokens.weight", shape)?;
        Ok(Embedding::new(Tensor::from_vec(weight, (shape[0], shape[1]), &Device::Cpu)?, scale))
    }

    pub(crate) fn head(&self) -> Result<Head> {
        let (outputs, hidden) = (self.config.outputs(), self.config.hidden);
        let weight = self.weights.matrix("score.weight", [outputs, hidden])?;
        Ok(Head::new(&weight, outputs, self.own(hidden)))
    }

    fn transposed(&self, slices: &[Slice<'_>]) -> Result<Tensor> {
        let values = self.weights.transposed(slices)?;
        let depth = slices.first().map_or(0, |slice| slice.columns.len());
        let width: usize = slices.iter().map(|slice| slice.rows.len()).sum();
        Ok(Tensor::from_vec(values, (depth, width), &Device::Cpu)?)
    }
}
