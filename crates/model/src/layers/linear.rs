//! The one matmul with weights: a rank's share of a projection.

use std::sync::Arc;

use candle_core::Tensor;
use collective::Collective;

use crate::error::Result;

/// A projection.
pub(crate) struct Linear {
    /// `[in, out]`: see `Weights::transposed` for why it is not `[out, in]`.
    weight: Tensor,
    then: Then,
}

/// What becomes of the product.
enum Then {
    Nothing,
    /// A bias, `[out]`, is added.
    Bias(Tensor),
    /// It is a partial result, of a projection that is split by input, and the ranks' are added up.
    Sum(Arc<dyn Collective>),
}

/// A narrower weight lets the matmul choose its blocking along the depth by the number of rows.
const NARROW: usize = 64;

// === impl Linear ===

impl Linear {
    /// A projection whose result is this rank's own: whole, or some of the output columns.
    pub(crate) fn own(weight: Tensor) -> Self {
        Self { weight, then: Then::Nothing }
    }

    /// A projection as [`own`](Self::own), with a bias `[out]`.
    pub(crate) fn biased(weight: Tensor, bias: Tensor) -> Self {
        Self { weight, then: Then::Bias(bias) }
    }

    /// A projection of some of the input columns, whose result is summed over the ranks.
    pub(crate) fn summed(weight: Tensor, collective: Arc<dyn Collective>) -> Self {
        Self { weight, then: Then::Sum(collective) }
    }

    /// `x` [rows, in] to [rows, out].
    ///
    /// A row of the result has the same bits whatever the number of rows. candle's matmul promises that for right sides
    /// laid out like ours, except for a single row and for few rows of a narrow weight, where it takes other paths: so
    /// those get company that is thrown away (a test sweeps the number of rows).
    ///
    /// # Errors
    /// If the shapes do not fit, or another rank has left.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, _) = x.dims2()?;
        let enough = if self.weight.dims2()?.1 <= NARROW { NARROW + 1 } else { 2 };
        let product = match rows < enough {
            true => x.pad_with_zeros(0, 0, enough - rows)?.matmul(&self.weight)?.narrow(0, 0, rows)?,
            false => x.matmul(&self.weight)?,
        };
        match &self.then {
            Then::Nothing => Ok(product),
            Then::Bias(bias) => Ok(product.broadcast_add(bias)?),
            Then::Sum(collective) => Ok(collective.all_reduce(product)?),
        }
    }
}

#[cfg(test)]
mod tests;
