//! Weights on their way from files to a GPU: read into pinned memory in parallel, copied from there while the next
//! stretch is read.

use cudarc::driver::{CudaEvent, PinnedHostSlice, result};

use super::super::{Address, Read};
use super::slot::pinned;
use super::{Gpu, failed};
use crate::error::{Error, Result};
use crate::weights::PANEL_BYTES;

/// Stretches that are read or copied at the same time.
const STRETCHES: usize = 3;
/// A stretch may be longer than a panel: a panel of f16 becomes f32, and a row is never cut.
const STRETCH_BYTES: usize = 4 * PANEL_BYTES;

pub(super) struct Staging {
    gpu: Gpu,
    stretches: Vec<(PinnedHostSlice<u8>, CudaEvent)>,
    next: usize,
}

// === impl Staging ===

impl Staging {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        let stretch = || {
            let event = gpu.context.new_event(None).map_err(failed("an event"))?;
            Ok((pinned(gpu, STRETCH_BYTES)?, event))
        };
        let stretches = (0..STRETCHES).map(|_| stretch()).collect::<Result<_>>()?;
        Ok(Self { gpu: gpu.clone(), stretches, next: 0 })
    }

    /// Has `len` bytes read, and copied to the GPU after this has returned.
    pub(super) fn upload(&mut self, to: Address, len: usize, read: Read<'_>) -> Result<()> {
        self.gpu.bind()?;
        let (pinned, copied) = &mut self.stretches[self.next];
        self.next = (self.next + 1) % STRETCHES;
        copied.synchronize().map_err(failed("a copy to the GPU"))?;
        let bytes = pinned.as_mut_slice().map_err(failed("pinned memory"))?;
        let too_long = || Error::Device(format!("a row of weights of {len} bytes is longer than was made room for"));
        let bytes = bytes.get_mut(..len).ok_or_else(too_long)?;
        read(bytes)?;
        // SAFETY: `to` is memory of this device; the stretch is written again only after `copied`.
        let started = unsafe { result::memcpy_htod_async(to.0, bytes, self.gpu.stream.cu_stream()) };
        started.map_err(failed("a copy to the GPU"))?;
        copied.record(&self.gpu.stream).map_err(failed("an event"))
    }
}
