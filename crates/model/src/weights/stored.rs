//! Slices of tensors as they are stored, [out, in], in the numbers of a device: what a GPU's matmul wants.

use rayon::prelude::*;
use safetensors::Dtype as Stored;

use super::{PANEL_BYTES, READ_BYTES, Slice, Weights, convert, not_finite, read_panel};
use crate::compute::Dtype;
use crate::device::Read;
use crate::device::numbers::to_bytes;
use crate::error::Result;

/// Takes a stretch of a slice: its offset in bytes, its length, and what reads it.
pub(crate) type Put<'a> = &'a mut dyn FnMut(usize, usize, Read<'_>) -> Result<()>;

impl Weights {
    /// Reads a slice in order, as numbers of `dtype`, stretch by stretch, straight to where `put` has it written.
    ///
    /// # Errors
    /// If the tensor is missing, misshapen or cut off, or holds a number that is not finite; those of `put`.
    pub(crate) fn stored(&self, slice: &Slice, dtype: Dtype, put: Put<'_>) -> Result<()> {
        let (file, stored) = self.find(&slice.name, &slice.shape)?;
        let size = stored.dtype.bitsize() / 8;
        let depth = slice.columns.len();
        let panel_rows = (PANEL_BYTES / (depth * size).max(1)).max(1);
        let mut panel = Vec::new();
        for start in slice.rows.clone().step_by(panel_rows) {
            let rows = panel_rows.min(slice.rows.end - start);
            let offset = (start - slice.rows.start) * depth * dtype.size();
            let mut read = |to: &mut [u8]| {
                if is_stored_as(stored.dtype, dtype) {
                    read_panel(file, stored, slice, start, to)?;
                    return all_finite(stored.dtype, to).then_some(()).ok_or_else(|| not_finite(file, &slice.name));
                }
                panel.resize(rows * depth * size, 0);
                read_panel(file, stored, slice, start, &mut panel)?;
                let converted = convert_to(dtype, stored.dtype, &panel, to);
                converted.then_some(()).ok_or_else(|| not_finite(file, &slice.name))
            };
            put(offset, rows * depth * dtype.size(), &mut read)?;
        }
        Ok(())
    }
}

/// Whether no number has an exponent of all ones.
fn all_finite(stored: Stored, bytes: &[u8]) -> bool {
    bytes.par_chunks(READ_BYTES).all(|part| match stored {
        Stored::BF16 => part.as_chunks().0.iter().all(|&b| u16::from_le_bytes(b) & 0x7f80 != 0x7f80),
        Stored::F16 => part.as_chunks().0.iter().all(|&b| u16::from_le_bytes(b) & 0x7c00 != 0x7c00),
        _ => part.as_chunks().0.iter().all(|&b| u32::from_le_bytes(b) & 0x7f80_0000 != 0x7f80_0000),
    })
}

/// Converts stored numbers to a device's; false if one of them is not finite, before or after.
fn convert_to(dtype: Dtype, stored: Stored, from: &[u8], to: &mut [u8]) -> bool {
    let (size, numbers) = (stored.bitsize() / 8, READ_BYTES / 4);
    let parts = from.par_chunks(numbers * size).zip(to.par_chunks_mut(numbers * dtype.size()));
    let finite = parts.map(|(from, to)| {
        let mut values = vec![0.0; from.len() / size];
        let finite = convert(stored, from, &mut values);
        to.copy_from_slice(&to_bytes(dtype, values.iter().copied()));
        finite && (dtype != Dtype::F16 || values.iter().all(|x| x.abs() < F16_END))
    });
    finite.reduce(|| true, |a, b| a && b)
}

/// Larger numbers round to infinity in f16.
const F16_END: f32 = 65520.0;

fn is_stored_as(stored: Stored, dtype: Dtype) -> bool {
    matches!((stored, dtype), (Stored::F32, Dtype::F32) | (Stored::F16, Dtype::F16) | (Stored::BF16, Dtype::Bf16))
}
