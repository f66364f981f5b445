//! Lets the ranks of one replica sum and share tensors.
//!
//! Tensor parallelism needs two operations: an all-reduce after each row-parallel matmul, and a broadcast of what only
//! rank 0 knows. [`Collective`] is those two; [`Solo`] is a world of one rank, [`threads`] joins ranks that are threads
//! of one process, [`Tcp`] those that are processes, and a [`Seat`] is a place in a collective that is formed anew.
//! Sums are taken in rank order, so a score does not depend on which rank was quick, nor on how the ranks are joined.
//!
//! With the feature `cuda`, any of them can form an `Nccl`: operations on the memory of GPUs, queued in a stream. Ranks
//! [`OnGpus`] share nothing else: a [`Ticket`] is what they meet by.

#[cfg(feature = "cuda")]
pub mod library;
#[cfg(feature = "cuda")]
mod nccl;
mod rows;
mod seat;
mod tcp;
mod threads;
mod ticket;

#[cfg(feature = "cuda")]
use std::sync::Arc;
#[cfg(feature = "cuda")]
use std::time::Duration;

use candle_core::Tensor;
#[cfg(feature = "cuda")]
use cudarc::driver::CudaStream;

#[cfg(feature = "cuda")]
pub use nccl::{Dtype, Nccl, Row};
pub use rows::RowSplit;
pub use seat::Seat;
pub use tcp::{Session, Tcp};
pub use threads::{Threads, threads};
pub use ticket::{OnGpus, Ticket};

/// Why a collective operation did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another rank has left (it failed, or was stopped), so the ranks can never meet again.
    #[error("rank {rank} has left the collective")]
    RankLeft {
        /// The rank that left first.
        rank: usize,
    },
    /// A rank was asked to broadcast without a tensor, or named a root outside the world.
    #[error("rank {root} has nothing to broadcast to a world of {world_size}")]
    NothingToBroadcast {
        /// The rank that should have sent.
        root: usize,
        /// The number of ranks.
        world_size: usize,
    },
    /// The ranks could not be connected, or a peer sent what no rank sends.
    #[error("the connection between the ranks: {0}")]
    Connection(std::io::Error),
    /// The tensors of the ranks do not fit together.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A library that GPUs need cannot be loaded.
    #[cfg(feature = "cuda")]
    #[error("{library} is not there: {problem}")]
    Library {
        /// The name of its file.
        library: &'static str,
        /// What the system says.
        problem: String,
    },
    /// NCCL, or the CUDA driver under it, refused or failed.
    #[cfg(feature = "cuda")]
    #[error("nccl: {operation}: {problem}")]
    Nccl {
        /// What was to be done.
        operation: &'static str,
        /// What it says.
        problem: String,
    },
    /// The other ranks have not done their part in time.
    #[cfg(feature = "cuda")]
    #[error("nccl: {operation}: the other ranks have not come in {patience:?}")]
    Overdue {
        /// What was to be done.
        operation: &'static str,
        /// How long this rank has waited.
        patience: Duration,
    },
}

/// What the ranks of one replica do together. Every rank calls the same operations in the same order.
pub trait Collective: Send + Sync {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn world_size(&self) -> usize;

    /// The sum of `tensor` over all ranks, added in rank order; the same bits on every rank.
    ///
    /// # Errors
    /// [`Error::RankLeft`] if a rank will never come, [`Error::Tensor`] if the shapes differ.
    fn all_reduce(&self, tensor: Tensor) -> Result<Tensor, Error>;

    /// The tensor that rank `root` gave; what other ranks give is ignored.
    ///
    /// # Errors
    /// [`Error::RankLeft`] if a rank will never come, [`Error::NothingToBroadcast`] if `root` gave none.
    fn broadcast(&self, tensor: Option<Tensor>, root: usize) -> Result<Tensor, Error>;

    /// Ends the collective, from any thread: ranks that wait in it return with an error.
    fn abort(&self);

    /// What the ranks meet by on their GPUs, if they share nothing else.
    fn ticket(&self) -> Option<&Ticket> {
        None
    }

    /// A rank that is known to have left. This waits for nobody, so a rank may have left all the same.
    #[cfg(feature = "cuda")]
    fn left(&self) -> Option<usize> {
        None
    }

    /// Joins the same ranks on their GPUs: a new communicator for each call, which all ranks make; on a [`Seat`], the one
    /// communicator of the collective that it is taken in, on the stream of the first call.
    ///
    /// # Errors
    /// Those of [`Nccl::form`]; the collective has ended then.
    #[cfg(feature = "cuda")]
    fn nccl(&self, stream: &Arc<CudaStream>) -> Result<Arc<Nccl>, Error> {
        Nccl::form(self, stream, nccl::PATIENCE).map(Arc::new)
    }
}

/// A world of one rank: nothing to add, nobody to tell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Solo;

impl Collective for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn all_reduce(&self, tensor: Tensor) -> Result<Tensor, Error> {
        Ok(tensor)
    }

    fn broadcast(&self, tensor: Option<Tensor>, root: usize) -> Result<Tensor, Error> {
        tensor.filter(|_| root == 0).ok_or(Error::NothingToBroadcast { root, world_size: 1 })
    }

    fn abort(&self) {}
}

#[cfg(test)]
mod tests;
