//! What a communicator stands on: NCCL and a stream, or, in tests, something that runs without a GPU.

use std::ffi::c_void;
use std::ptr::NonNull;

use super::transfers::{Copy, Transfer};
use super::{Dtype, Row};
use crate::Error;

/// Bytes of a unique id.
pub(super) const ID: usize = 128;

/// What rank 0 makes up, and all ranks of one communicator must know.
pub(super) type Id = [u8; ID];

/// A communicator as NCCL knows it. Whoever destroys or aborts it gives it away, so nobody can do that twice.
#[derive(Debug)]
pub(super) struct Comm(pub(super) NonNull<c_void>);

// SAFETY: NCCL takes calls for a communicator from any thread, one at a time; there is no way to copy a `Comm`, and
// calls need a reference to it, which `Nccl` gives out under a lock
unsafe impl Send for Comm {}

/// How far a call has come that does not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// Done; for an operation this means that it is in the stream.
    Done,
    /// NCCL is still at it, and must not be given anything else.
    InProgress,
}

/// NCCL's functions for one rank, with the rank's stream. None of them waits for other ranks.
pub(super) trait Backend: Send + Sync {
    /// The version of NCCL.
    fn version(&self) -> Result<u32, Error>;

    /// Makes up an id.
    fn unique_id(&self) -> Result<Id, Error>;

    /// Begins to form a communicator; [`Self::state`] says when it is formed.
    fn init(&self, id: &Id, rank: usize, world_size: usize) -> Result<Comm, Error>;

    /// How far the last call has come, and whether the communicator still works.
    fn state(&self, comm: &Comm) -> Result<Status, Error>;

    /// Begins to end a communicator in peace.
    fn finalize(&self, comm: &Comm) -> Result<Status, Error>;

    /// Frees a communicator that is finalized.
    fn destroy(&self, comm: Comm);

    /// Frees a communicator in any state; its kernels end.
    fn abort(&self, comm: Comm);

    /// Puts all ranks' slices of `count` numbers behind each other, in rank order.
    ///
    /// # Safety
    /// The buffers are the stream's until it has done the work, and the whole has room for all slices.
    unsafe fn all_gather(&self, comm: &Comm, buffers: (u64, u64), count: usize, dtype: Dtype) -> Result<Status, Error>;

    /// Copies this rank's own part, and sends to and receives from other ranks, all at once.
    ///
    /// # Safety
    /// What is read and written is the stream's until it has done the work.
    unsafe fn transfer(&self, comm: &Comm, own: Copy, peers: &[Transfer], row: Row) -> Result<Status, Error>;
}
