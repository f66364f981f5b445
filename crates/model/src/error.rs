//! What can go wrong between a checkpoint's files and a partial logit.

use std::path::PathBuf;

/// A checkpoint that cannot be served, or a step that could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// config.json cannot be read, or describes a model that is not implemented here.
    #[error("{}: {problem}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// What is wrong, with the field's name.
        problem: String,
    },
    /// A safetensors file cannot be read, or is not a whole safetensors file.
    #[error("{}: {problem}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A tensor has the wrong shape or dtype, or holds numbers that are not finite.
    #[error("{}: tensor {tensor}: {problem}", file.display())]
    Tensor {
        /// The file that holds the tensor.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// A tensor that the model needs is in none of the files.
    #[error("tensor {tensor} is in none of the checkpoint's {files} safetensors file(s) ({first} ...){hint}")]
    MissingTensor {
        /// The tensor's name.
        tensor: String,
        /// The number of files that were searched.
        files: usize,
        /// The first of them.
        first: String,
        /// What to do, where other tensors say why it is missing.
        hint: &'static str,
    },
    /// The model cannot be split over this number of ranks.
    #[error("{what} {size} cannot be split over {world_size} ranks; world sizes that fit this model: {fitting}")]
    WorldSize {
        /// Which of the model's sizes does not fit.
        what: &'static str,
        /// That size.
        size: usize,
        /// The number of ranks asked for.
        world_size: usize,
        /// The numbers of ranks that would do, as text.
        fitting: String,
    },
    /// The model cannot be computed where or in which numbers it was asked for.
    #[error("{0}")]
    Device(String),
    /// The device has failed and computes nothing more in this process, which had better end.
    #[error("the device is lost: {0}")]
    DeviceLost(String),
    /// A token sequence that the model cannot take.
    #[error("{0}")]
    Sequence(String),
    /// The ranks could not meet.
    #[error(transparent)]
    Collective(#[from] collective::Error),
    /// The tensor library refused.
    #[error(transparent)]
    Compute(#[from] candle_core::Error),
}

impl Error {
    /// A GPU was asked of a build that knows none.
    pub(crate) fn without_cuda() -> Self {
        Self::Device("this assay was built without CUDA: build it with `make cuda`".to_owned())
    }
}

/// The result of what this crate does.
pub type Result<T, E = Error> = std::result::Result<T, E>;
