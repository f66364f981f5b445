//! A communicator of one rank: all of NCCL that a replica needs, on one GPU.

use std::sync::Arc;

use collective::{Nccl, Row, RowSplit, Solo};

use super::super::{Address, Device, Memory};
use super::CudaDevice;
use crate::compute::{Compute, Device as Place, Dtype};
use crate::error::{Error, Result};

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
const ROWS: usize = 37;
const WIDTH: usize = 24;

/// Does every operation, and returns their names.
///
/// # Errors
/// If one has another result than its input, or none.
pub(crate) fn try_all(ordinal: usize) -> Result<Vec<&'static str>> {
    let compute = Compute { device: Place::Cuda(ordinal), dtype: Dtype::F32, step_tokens: 0 };
    let device = CudaDevice::open(ordinal, &compute, Arc::new(Solo))?;
    let nccl = Nccl::form(&Solo, &device.gpu().stream, PATIENCE)?;
    let given: Vec<u8> = (0..ROWS * WIDTH).flat_map(|i| (i as f32).to_ne_bytes()).collect();
    let (split, row) = (RowSplit::new(ROWS, 1), Row { width: WIDTH, dtype: collective::Dtype::F32 });
    let room = || -> Result<(Memory, Memory)> {
        let (from, to) = (device.allocate(given.len())?, device.allocate(given.len())?);
        device.upload(from.address(), &given)?;
        Ok((from, to))
    };
    let same = |operation: &'static str, at: Address| -> Result<&'static str> {
        let mut found = vec![0; given.len()];
        device.download(at, &mut found)?;
        nccl.check()?;
        let wrong = || Error::Device(format!("one rank's {operation} changed its numbers"));
        (found == given).then_some(operation).ok_or_else(wrong)
    };
    let (from, to) = room()?;
    // SAFETY: memory of this device with as many numbers, used by this stream only; here and below.
    unsafe { nccl.exchange(from.address().0, to.address().0, split, row) }?;
    let exchanged = same("exchange", to.address())?;
    let (from, to) = room()?;
    // SAFETY: as above.
    unsafe { nccl.all_gather(from.address().0, to.address().0, split, row) }?;
    Ok(vec![exchanged, same("all-gather", to.address())?])
}
