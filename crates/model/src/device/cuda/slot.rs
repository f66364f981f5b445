//! One step's plan and results: pinned memory on the host's side, so that copies do not wait for each other.

use std::sync::{Arc, PoisonError};

use collective::Nccl;
use cudarc::driver::{CudaEvent, PinnedHostSlice, result, sys};

use super::super::{Address, Memory, Slot, SlotSizes};
use super::{Gpu, Joined, failed};
use crate::error::{Error, Result};

pub(super) struct CudaSlot {
    gpu: Gpu,
    plan: Memory,
    results: Memory,
    sent: PinnedHostSlice<u8>,
    received: PinnedHostSlice<u8>,
    bytes: usize,
    done: CudaEvent,
    /// How the ranks are joined now, and how they were for this step.
    joined: Joined,
    nccl: Option<Arc<Nccl>>,
}

// === impl CudaSlot ===

impl CudaSlot {
    pub(super) fn new(gpu: &Gpu, sizes: SlotSizes, joined: Joined) -> Result<Self> {
        // a thread that waits leaves its core to others
        let done = gpu.context.new_event(Some(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC));
        Ok(Self {
            plan: gpu.allocate(sizes.upload)?,
            results: gpu.allocate(sizes.download)?,
            sent: pinned(gpu, sizes.upload)?,
            received: pinned(gpu, sizes.download)?,
            bytes: 0,
            done: done.map_err(failed("an event"))?,
            gpu: gpu.clone(),
            joined,
            nccl: None,
        })
    }
}

/// Memory of the host that the GPU copies from and to by itself.
pub(super) fn pinned(gpu: &Gpu, bytes: usize) -> Result<PinnedHostSlice<u8>> {
    // SAFETY: bytes are written before they are read.
    let slice = unsafe { gpu.context.alloc_pinned_with_flags(bytes.max(1), 0) };
    slice.map_err(failed(&format!("{bytes} bytes of pinned memory")))
}

impl Slot for CudaSlot {
    fn plan(&self) -> Address {
        self.plan.address()
    }

    fn results(&self) -> Address {
        self.results.address()
    }

    fn send(&mut self, plan: &[u8]) -> Result<()> {
        self.gpu.bind()?;
        let too_long = || Error::Device("a step's plan is longer than was made room for".into());
        let sent = self.sent.as_mut_slice().map_err(failed("a plan's memory"))?;
        let sent = sent.get_mut(..plan.len()).ok_or_else(too_long)?;
        sent.copy_from_slice(plan);
        // SAFETY: the slot's own memory on both sides, written again only after the step has ended.
        let copied = unsafe { result::memcpy_htod_async(self.plan.address().0, sent, self.gpu.stream.cu_stream()) };
        copied.map_err(failed("a plan's copy to the GPU"))
    }

    fn receive(&mut self, bytes: usize) -> Result<()> {
        self.gpu.bind()?;
        let too_long = || Error::Device("a step's results are longer than was made room for".into());
        let received = self.received.as_mut_slice().map_err(failed("the results' memory"))?;
        let received = received.get_mut(..bytes).ok_or_else(too_long)?;
        self.bytes = bytes;
        self.nccl = self.joined.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // SAFETY: the slot's own memory on both sides, read only after `done`.
        let copied =
            unsafe { result::memcpy_dtoh_async(received, self.results.address().0, self.gpu.stream.cu_stream()) };
        copied.map_err(failed("the results' copy from the GPU"))?;
        self.done.record(&self.gpu.stream).map_err(failed("an event"))
    }

    fn wait(&mut self) -> Result<&[u8]> {
        self.gpu.bind()?;
        self.done.synchronize().map_err(failed("the GPU could not compute a step"))?;
        if let Some(nccl) = self.nccl.take() {
            // kernels of a communicator that was aborted end early and leave anything behind
            nccl.check()?;
        }
        let received = self.received.as_slice().map_err(failed("the results' memory"))?;
        Ok(received.get(..self.bytes).unwrap_or_default())
    }
}
