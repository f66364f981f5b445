//! Computes the partial logits of a packed batch on one rank of a reward model: Gemma-2, Llama-3, Mistral, Qwen2 or
//! Qwen3 with a classification head of one output, where a [`Compute`] says.
//!
//! [`Model::load`] reads a rank's share of a checkpoint; [`Packer`] merges token sequences into the prefix tree of a
//! [`PackedBatch`]; [`Model::forward`] computes each of its tokens once, [`Model::submit`] lets the caller prepare the
//! next batch meanwhile. For one numerics id a sequence's partial logits are the same bits in every batch.

mod architectures;
mod batch;
mod blueprint;
mod compute;
mod config;
mod cpu;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
mod device;
mod error;
mod forward;
mod layers;
mod numerics;
mod ops;
mod plan;
#[cfg(test)]
#[path = "../build/ptxas/mod.rs"]
mod ptxas;
mod share;
#[cfg(feature = "trial")]
pub mod trial;
mod weights;

use std::path::PathBuf;
use std::sync::Arc;

use collective::Collective;
use score::{Checksum, Partials};

pub use self::batch::{PackedBatch, Packer, Segment};
pub use self::blueprint::Blueprint;
pub use self::compute::{Compute, Device, Dtype};
pub use self::config::{Config, Llama3Scaling, Rope};
use self::cpu::CpuModel;
pub use self::error::{Error, Result};
use self::forward::Forward;
pub use self::forward::Pending;
use self::layers::Loader;
pub use self::numerics::numerics;
use self::share::Share;
use self::weights::Weights;

/// One rank of a reward model.
pub struct Model {
    config: Config,
    /// The most tokens of a step.
    step_tokens: usize,
    forward: Box<dyn Forward>,
}

impl Model {
    /// Loads the share of `collective`'s rank from a checkpoint's safetensors files.
    ///
    /// Tensors are read and converted on the threads of the calling rayon pool. Also returns warnings: the names of
    /// tensors that were not used.
    ///
    /// # Errors
    /// If the model cannot be split over this many ranks or computed like this, or a tensor is missing or unfit.
    pub fn load(
        config: &Config,
        files: &[PathBuf],
        collective: Arc<dyn Collective>,
        compute: &Compute,
    ) -> Result<(Self, Vec<String>)> {
        config.check_world_size(collective.world_size())?;
        compute.check(config)?;
        compute.check_here()?;
        let weights = Weights::open(files)?;
        let share = Share::new(config, collective.rank(), collective.world_size());
        let loader = Loader { share, weights: &weights, collective };
        let forward: Box<dyn Forward> = match compute.device {
            Device::Cpu => Box::new(CpuModel::load(&loader)?),
            #[cfg(any(feature = "cuda", feature = "host-kernels"))]
            _ => device::load(&loader, compute)?,
            #[cfg(not(any(feature = "cuda", feature = "host-kernels")))]
            Device::Cuda(_) => return Err(Error::without_cuda()),
        };
        let unused = weights.unused().into_iter().map(|name| format!("tensor {name} is not used by this model"));
        let model = Self { config: config.clone(), step_tokens: compute.step_tokens, forward };
        Ok((model, unused.collect()))
    }

    /// What the model is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Has this rank compute a step, behind those that it has, with checksums that cover what is said. At most two are in
    /// flight, this blocks beyond.
    ///
    /// All ranks of the replica must be given the same batches in the same order. What is submitted need not be waited
    /// for, but the model must outlive the waiting.
    ///
    /// # Errors
    /// If the batch is larger than a step, a token is outside the vocabulary, or another rank has left.
    pub fn submit(&self, batch: &PackedBatch, checksum: Checksum) -> Result<Pending> {
        self.check(batch)?;
        self.forward.submit(batch, checksum)
    }

    /// What this rank contributes to each sequence of the batch, in the order in which they were pushed.
    ///
    /// # Errors
    /// Those of [`submit`](Self::submit) and [`Pending::wait`].
    pub fn forward(&self, batch: &PackedBatch) -> Result<Partials> {
        self.submit(batch, Checksum::Path)?.wait()
    }

    fn check(&self, batch: &PackedBatch) -> Result<()> {
        let (tokens, most) = (batch.tokens.len(), self.step_tokens);
        if tokens > most {
            return Err(Error::Sequence(format!("a step of {tokens} tokens is more than the {most} planned for")));
        }
        if let Some(token) = batch.tokens.iter().find(|&&token| token as usize >= self.config.vocab) {
            let vocab = self.config.vocab;
            return Err(Error::Sequence(format!("token id {token} is outside the vocabulary of {vocab}")));
        }
        Ok(())
    }
}
