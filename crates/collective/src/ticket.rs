//! How ranks of several processes meet on their GPUs by nothing but NCCL: whoever leads them has a ticket issued and gives
//! it to all, by the line that it has to their processes. No port of ours is opened for them.

use std::io;

use candle_core::Tensor;

use crate::{Collective, Error};

/// What ranks form an NCCL communicator by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The version of NCCL that all must have, as it writes it: 23203 is 2.32.3.
    pub version: u32,
    /// NCCL's unique id, 128 bytes.
    pub id: Vec<u8>,
}

/// A collective of ranks that share nothing outside of the memory of their GPUs.
pub struct OnGpus {
    rank: usize,
    world_size: usize,
    ticket: Ticket,
}

// === impl Ticket ===

impl Ticket {
    /// The version of the NCCL that is here.
    ///
    /// # Errors
    /// If there is none, or this build is without CUDA.
    pub fn version_here() -> Result<u32, Error> {
        #[cfg(feature = "cuda")]
        return crate::nccl::version();
        #[cfg(not(feature = "cuda"))]
        Err(without_cuda())
    }

    /// A ticket for one communicator. A thread of this process's NCCL waits for the ranks of each, for ever if they do not
    /// come: to be issued when all are there.
    ///
    /// # Errors
    /// Those of [`version_here`](Self::version_here), and what NCCL says.
    pub fn issue() -> Result<Self, Error> {
        #[cfg(feature = "cuda")]
        return crate::nccl::issue();
        #[cfg(not(feature = "cuda"))]
        Err(without_cuda())
    }
}

#[cfg(not(feature = "cuda"))]
fn without_cuda() -> Error {
    Error::Connection(io::Error::new(io::ErrorKind::Unsupported, "this build is without CUDA, and so without NCCL"))
}

// === impl OnGpus ===

impl OnGpus {
    /// The end of a rank, in a collective of this size.
    pub fn new(rank: usize, world_size: usize, ticket: Ticket) -> Self {
        Self { rank, world_size, ticket }
    }
}

impl Collective for OnGpus {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn all_reduce(&self, _tensor: Tensor) -> Result<Tensor, Error> {
        Err(only_on_gpus())
    }

    fn broadcast(&self, _tensor: Option<Tensor>, _root: usize) -> Result<Tensor, Error> {
        Err(only_on_gpus())
    }

    /// Who forms a communicator is told by its seat, and who has one by the communicator.
    fn abort(&self) {}

    fn ticket(&self) -> Option<&Ticket> {
        Some(&self.ticket)
    }
}

fn only_on_gpus() -> Error {
    Error::Connection(io::Error::new(
        io::ErrorKind::Unsupported,
        "ranks that meet by NCCL share nothing but what is on GPUs",
    ))
}
