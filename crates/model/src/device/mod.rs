//! The forward pass for devices with a memory of their own: buffers that are planned at load, kernels that are launched
//! one after another on one queue, and no wait within a step.
//!
//! [`Device`] is what a device can do; a GPU implements it with CUDA, and the CPU plays it for tests. [`DeviceModel`] is
//! the model on it, [`kernels`] the launches, and [`plan`] a step as the kernels read it.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod flight;
#[cfg(feature = "host-kernels")]
pub(crate) mod host;
pub(crate) mod kernels;
pub(crate) mod layers;
pub(crate) mod loader;
mod memory;
mod model;
pub(crate) mod numbers;
pub(crate) mod plan;
mod reduce;
mod room;

use std::sync::Arc;

use collective::RowSplit;

#[cfg(feature = "trial")]
pub(crate) use self::loader::Source;
pub(crate) use self::memory::{Address, Memory};
pub(crate) use self::model::DeviceModel;
use crate::compute::{Compute, Device as Place, Dtype};
use crate::error::{Error, Result};
use crate::forward::Forward;
use crate::layers::Loader;

/// Grows whenever a change of the code may change the bits of a score on a device, for a replica of so many ranks.
pub(crate) fn version(world_size: usize) -> u32 {
    // the sums of two ranks were rounded otherwise once (docs/adr/0007)
    if world_size == 2 { 2 } else { 1 }
}

/// Loads a rank's share of a checkpoint to the device that `compute` names.
///
/// # Errors
/// If the device is not there, does not fit the model, or has not the memory; or a tensor is missing or unfit.
pub(crate) fn load(loader: &Loader<'_>, compute: &Compute) -> Result<Box<dyn Forward>> {
    let collective = Arc::clone(&loader.collective);
    let device: Box<dyn Device> = match compute.device {
        #[cfg(feature = "cuda")]
        Place::Cuda(ordinal) => Box::new(cuda::CudaDevice::open(ordinal, compute, collective)?),
        #[cfg(feature = "host-kernels")]
        Place::HostKernels => Box::new(host::HostDevice::new(compute.dtype, collective)),
        _ => return Err(Error::without_cuda()),
    };
    let model = DeviceModel::load(&loader.share.config, loader.weights, device, compute.step_tokens)?;
    Ok(Box::new(Arc::new(model)))
}

/// A matrix of weights, [out, in], in the device's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Matrix {
    pub(crate) weight: Address,
    pub(crate) output: usize,
    pub(crate) input: usize,
}

/// Rows that are multiplied at a time: a matmul takes whole tiles, so `x` and `out` have room for as many.
pub(crate) const MATMUL_ROWS: usize = 64;

/// Writes bytes to where it is told.
pub(crate) type Read<'a> = &'a mut dyn FnMut(&mut [u8]) -> Result<()>;

/// One launch of a kernel.
pub(crate) struct Launch<'a> {
    pub(crate) kernel: &'a str,
    pub(crate) grid: [usize; 2],
    pub(crate) threads: usize,
    /// Bytes of shared memory.
    pub(crate) shared: usize,
    /// The fields of the kernel's arguments, in order.
    pub(crate) arguments: &'a [u64],
}

/// A device with a memory and a queue. All but `download` and `Slot::wait` only enqueue; the queue keeps the order.
pub(crate) trait Device: Send + Sync {
    /// The numbers it computes with.
    fn dtype(&self) -> Dtype;

    fn allocate(&self, bytes: usize) -> Result<Memory>;

    /// Copies to the device; `bytes` may be reused at once.
    fn upload(&self, to: Address, bytes: &[u8]) -> Result<()>;

    /// Copies `len` bytes to the device that `read` writes where it is told: weights on their way from a file.
    fn upload_read(&self, to: Address, len: usize, read: Read<'_>) -> Result<()>;

    /// Waits for everything, then copies from the device.
    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()>;

    /// Copies within the device.
    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()>;

    fn launch(&self, launch: &Launch<'_>) -> Result<()>;

    /// `out` [rows, matrix.output] = `x` [rows, matrix.input] times the matrix transposed. A row of the result has the
    /// same bits whatever the number of rows. Both have room for a multiple of [`MATMUL_ROWS`]: what is behind the last
    /// row of `x` may be anything, and becomes anything behind the last of `out`.
    fn matmul(&self, matrix: &Matrix, x: Address, rows: usize, out: Address) -> Result<()>;

    /// Finds out how matrices of these shapes, [output, input], are multiplied: before memory is short.
    fn prepare(&self, shapes: &[(usize, usize)]) -> Result<()>;

    /// Bytes that may be allocated, if that is known.
    fn free_memory(&self) -> Result<Option<usize>>;

    /// A place for what goes to the device and comes back in one step.
    fn slot(&self, sizes: SlotSizes) -> Result<Box<dyn Slot>>;

    /// This rank, and how many there are.
    fn place(&self) -> (usize, usize);

    /// Each rank sends the others their rows of its `partial` [split.rows(), width], and receives all partial rows of its
    /// own, [world size][own rows, width], in rank order.
    fn exchange(&self, partial: Address, received: Address, split: RowSplit, width: usize) -> Result<()>;

    /// Each rank's own rows of `whole` [split.rows(), width] go to all.
    fn all_gather(&self, whole: Address, split: RowSplit, width: usize) -> Result<()>;
}

/// Bytes of a slot, in each direction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SlotSizes {
    pub(crate) upload: usize,
    pub(crate) download: usize,
}

/// Memory on both sides for one step's plan and its results.
pub(crate) trait Slot: Send {
    /// Where the plan lies on the device.
    fn plan(&self) -> Address;

    /// Where the results go on the device.
    fn results(&self) -> Address;

    /// Enqueues the copy of a plan to the device.
    fn send(&mut self, plan: &[u8]) -> Result<()>;

    /// Enqueues the copy of the first `bytes` of the results from the device.
    fn receive(&mut self, bytes: usize) -> Result<()>;

    /// Waits for the results.
    fn wait(&mut self) -> Result<&[u8]>;
}

#[cfg(test)]
#[cfg(feature = "host-kernels")]
mod tests;
