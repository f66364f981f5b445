//! Makes layers out of a rank's share of a checkpoint.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use collective::Collective;

use super::{Embedding, Head, Linear};
use crate::compute::Dtype;
use crate::error::Result;
use crate::ops::Norm;
use crate::share::Share;
use crate::weights::{Slice, VectorSlice, Weights};

/// A checkpoint, as one rank sees it.
pub(crate) struct Loader<'a> {
    pub(crate) share: Share,
    pub(crate) weights: &'a Weights,
    pub(crate) collective: Arc<dyn Collective>,
}

// === impl Loader ===

impl Loader<'_> {
    /// Projections side by side, of which the rank computes some output columns.
    pub(crate) fn own(&self, slices: &[Slice], bias: Option<VectorSlice>) -> Result<Linear> {
        let weight = self.transposed(slices)?;
        match bias {
            None => Ok(Linear::own(weight)),
            Some(part) => Ok(Linear::biased(weight, Tensor::new(self.weights.vector(&part)?, &Device::Cpu)?)),
        }
    }

    /// A projection of which the rank takes some input columns.
    pub(crate) fn summed(&self, slice: Slice) -> Result<Linear> {
        let weight = self.transposed(&[slice])?;
        Ok(match self.share.world_size {
            1 => Linear::own(weight),
            _ => Linear::summed(weight, Arc::clone(&self.collective)),
        })
    }

    pub(crate) fn norm(&self, part: &VectorSlice) -> Result<Norm> {
        let (stored, offset) = (self.weights.vector(part)?, self.share.blueprint().norm_weight.offset());
        Ok(Norm { weight: stored.into_iter().map(|w| w + offset).collect(), eps: self.share.config.norm_eps })
    }

    pub(crate) fn embedding(&self) -> Result<Embedding> {
        let Slice { name, shape, .. } = self.share.embedding();
        let weight = Tensor::from_vec(self.weights.matrix(&name, shape)?, (shape[0], shape[1]), &Device::Cpu)?;
        Ok(Embedding::new(weight, self.share.blueprint().embedding_scale.factor(shape[1], Dtype::F32)))
    }

    pub(crate) fn head(&self) -> Result<Head> {
        let Slice { name, shape, columns, .. } = self.share.head();
        Ok(Head::new(&self.weights.matrix(&name, shape)?, shape[0], columns))
    }

    fn transposed(&self, slices: &[Slice]) -> Result<Tensor> {
        let values = self.weights.transposed(slices)?;
        let depth = slices.first().map_or(0, |slice| slice.columns.len());
        let width: usize = slices.iter().map(|slice| slice.rows.len()).sum();
        Ok(Tensor::from_vec(values, (depth, width), &Device::Cpu)?)
    }
}
