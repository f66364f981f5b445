//! A device that is played by the CPU: the GPU's kernels, compiled for the host (kernels/host.cpp). It is slow and
//! does what a GPU would do, so that the forward pass and the kernels can be tested anywhere.
#![allow(unsafe_code, reason = "addresses of a device are pointers here, as they are for the kernels on a GPU")]

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use candle_core::Tensor;
use collective::{Collective, RowSplit};

use super::numbers::{from_bytes, to_bytes};
use super::{Address, Device, Launch, Matrix, Memory, Read, Slot, SlotSizes};
use crate::compute::Dtype;
use crate::error::{Error, Result};

unsafe extern "C" {
    fn assay_host_launch(name: *const c_char, arguments: *const u64, shape: *const c_uint) -> c_int;
    fn assay_host_probe() -> u32;
    fn assay_host_matmul(dtype: c_int, weight: *const c_void, x: *const c_void, out: *mut c_void, shape: *const usize);
}

/// A hash of what this machine's mathematical library makes of some numbers.
pub(crate) fn probe() -> u32 {
    // SAFETY: takes nothing, and computes.
    unsafe { assay_host_probe() }
}

/// The CPU as a device; its ranks meet in any collective.
pub(crate) struct HostDevice {
    dtype: Dtype,
    collective: Arc<dyn Collective>,
}

struct HostSlot {
    plan: Memory,
    results: Memory,
    received: Vec<u8>,
}

// === impl HostDevice ===

impl HostDevice {
    pub(crate) fn new(dtype: Dtype, collective: Arc<dyn Collective>) -> Self {
        Self { dtype, collective }
    }

    fn tensor(&self, from: Address, count: usize) -> Result<Tensor> {
        Ok(Tensor::from_vec(
            from_bytes(self.dtype, bytes(from, count * self.dtype.size())),
            count,
            &candle_core::Device::Cpu,
        )?)
    }

    fn write(&self, to: Address, tensor: &Tensor) -> Result<()> {
        let values: Vec<f32> = tensor.to_vec1()?;
        bytes_mut(to, values.len() * self.dtype.size()).copy_from_slice(&to_bytes(self.dtype, values));
        Ok(())
    }
}

/// The bytes at an address.
fn bytes<'a>(from: Address, len: usize) -> &'a [u8] {
    // SAFETY: addresses come from `allocate` and what is asked for lies within one allocation; nothing else has a
    // reference to it while a function of this file runs.
    unsafe { std::slice::from_raw_parts(from.0 as *const u8, len) }
}

fn bytes_mut<'a>(to: Address, len: usize) -> &'a mut [u8] {
    // SAFETY: as `bytes`.
    unsafe { std::slice::from_raw_parts_mut(to.0 as *mut u8, len) }
}

impl Device for HostDevice {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn allocate(&self, bytes: usize) -> Result<Memory> {
        // what a kernel must not read is NaN: all bits are set
        let mut words = vec![u128::MAX; bytes.div_ceil(16).max(1)];
        let address = Address(words.as_mut_ptr() as u64);
        Ok(Memory::new(address, bytes, Box::new(words)))
    }

    fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        bytes_mut(to, from.len()).copy_from_slice(from);
        Ok(())
    }

    fn upload_read(&self, to: Address, len: usize, read: Read<'_>) -> Result<()> {
        read(bytes_mut(to, len))
    }

    fn download(&self, from: Address, to: &mut [u8]) -> Result<()> {
        to.copy_from_slice(bytes(from, to.len()));
        Ok(())
    }

    fn copy(&self, from: Address, to: Address, len: usize) -> Result<()> {
        bytes_mut(to, len).copy_from_slice(bytes(from, len));
        Ok(())
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let no_kernel =
            || Error::Device(format!("no kernel {} that takes {} words", launch.kernel, launch.arguments.len()));
        let name = CString::new(launch.kernel).map_err(|_| no_kernel())?;
        let [x, y] = launch.grid;
        let sizes = [x, y, launch.threads, launch.shared, launch.arguments.len()].map(|size| size as c_uint);
        // SAFETY: the arguments are those that the kernel of this name reads (kernels.rs), with addresses in memory
        // that is allocated.
        let status = unsafe { assay_host_launch(name.as_ptr(), launch.arguments.as_ptr(), sizes.as_ptr()) };
        if status == 0 { Ok(()) } else { Err(no_kernel()) }
    }

    fn matmul(&self, matrix: &Matrix, x: Address, rows: usize, out: Address) -> Result<()> {
        let dtype = match self.dtype {
            Dtype::F32 => 0,
            Dtype::Bf16 => 1,
            Dtype::F16 => 2,
        };
        let shape = [rows, matrix.output, matrix.input];
        // SAFETY: the three matrices lie in memory that is allocated, in these shapes.
        unsafe {
            assay_host_matmul(dtype, matrix.weight.0 as *const _, x.0 as *const _, out.0 as *mut _, shape.as_ptr());
        }
        Ok(())
    }

    fn prepare(&self, _shapes: &[(usize, usize)]) -> Result<()> {
        Ok(())
    }

    fn free_memory(&self) -> Result<Option<usize>> {
        Ok(None)
    }

    fn slot(&self, sizes: SlotSizes) -> Result<Box<dyn Slot>> {
        let (plan, results) = (self.allocate(sizes.upload)?, self.allocate(sizes.download)?);
        Ok(Box::new(HostSlot { plan, results, received: Vec::new() }))
    }

    fn place(&self) -> (usize, usize) {
        (self.collective.rank(), self.collective.world_size())
    }

    fn exchange(&self, partial: Address, received: Address, split: RowSplit, width: usize) -> Result<()> {
        let (rank, world_size) = self.place();
        let own = split.range(rank);
        for root in 0..world_size {
            let mine = self.tensor(partial, split.rows() * width)?;
            let whole = self.collective.broadcast((root == rank).then_some(mine), root)?;
            let part = whole.narrow(0, own.start * width, own.len() * width)?;
            self.write(received + root * own.len() * width * self.dtype.size(), &part)?;
        }
        Ok(())
    }

    fn all_gather(&self, whole: Address, split: RowSplit, width: usize) -> Result<()> {
        let (rank, world_size) = self.place();
        for root in 0..world_size {
            let of_root = split.range(root);
            if of_root.is_empty() {
                continue;
            }
            let at = whole + of_root.start * width * self.dtype.size();
            let mine = (root == rank).then(|| self.tensor(at, of_root.len() * width)).transpose()?;
            self.write(at, &self.collective.broadcast(mine, root)?)?;
        }
        Ok(())
    }
}

// === impl HostSlot ===

impl Slot for HostSlot {
    fn plan(&self) -> Address {
        self.plan.address()
    }

    fn results(&self) -> Address {
        self.results.address()
    }

    fn send(&mut self, plan: &[u8]) -> Result<()> {
        debug_assert!(plan.len() <= self.plan.bytes(), "a plan beyond its slot");
        bytes_mut(self.plan.address(), plan.len()).copy_from_slice(plan);
        Ok(())
    }

    fn receive(&mut self, len: usize) -> Result<()> {
        self.received = bytes(self.results.address(), len).to_vec();
        Ok(())
    }

    fn wait(&mut self) -> Result<&[u8]> {
        Ok(&self.received)
    }
}
