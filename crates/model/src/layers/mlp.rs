//! The feed-forward branch: down(activation(gate x) * up x).

use candle_core::Tensor;

use super::{Linear, Loader};
use crate::config::Activation;
use crate::error::Result;
use crate::ops;

/// One rank's columns of a gated MLP.
pub(crate) struct Mlp {
    /// Gate and up side by side: one matmul.
    gate_up: Linear,
    down: Linear,
    activation: Activation,
}

// === impl Mlp ===

impl Mlp {
    /// Loads the MLP of layer `layer`.
    ///
    /// # Errors
    /// If a tensor is missing or unfit.
    pub(crate) fn load(loader: &Loader<'_>, layer: usize) -> Result<Self> {
        let name = |projection: &str| format!("model.layers.{layer}.mlp.{projection}_proj.weight");
        let (hidden, intermediate) = (loader.config.hidden, loader.config.intermediate);
        Ok(Self {
            gate_up: loader.split_by_output(&[&name("gate"), &name("up")], [intermediate, hidden])?,
            down: loader.split_by_input(&name("down"), [hidden, intermediate])?,
            activation: loader.config.activation,
        })
    }

    /// `x` [rows, hidden] to [rows, hidden].
    ///
    /// # Errors
    /// If the shapes do not fit, or another rank has left.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gate_up = self.gate_up.forward(x)?; // (rows, 2 x intermediate)
        self.down.forward(&ops::gated(&gate_up, self.activation)?)
    }
}
