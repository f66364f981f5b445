//! The operations between the matmuls: f32, on all threads of the calling pool, each row by itself.
//!
//! A row's result depends on nothing but the row (and, in attention, on the keys it sees), and every sum has a fixed
//! order, so a conversation gets the same bits in any company. Loops over lanes are written so that they compile to
//! vector instructions under [`pulp`]'s run-time choice of the processor's instruction set.

mod activation;
mod attention;
mod math;
mod norm;
mod pool;
mod rope;

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Device, Storage, Tensor};
use pulp::{Simd, WithSimd};

pub(crate) use self::activation::gated;
pub(crate) use self::attention::{Attention, attention};
pub(crate) use self::norm::{Norm, add, add_and_norm, rms_norm};
pub(crate) use self::pool::KvPool;
pub(crate) use self::rope::{RopeTable, inverse_frequencies};
use crate::error::{Error, Result};

/// The numbers of a contiguous f32 tensor on the CPU, which hold its read lock (`G`) as long as they are used.
pub(crate) struct Values<G> {
    storage: G,
    range: Range<usize>,
}

/// # Errors
/// If the tensor is not contiguous, not f32, or not on the CPU.
pub(crate) fn values(tensor: &Tensor) -> Result<Values<impl Deref<Target = Storage>>> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) => Ok(Values { storage, range: start..end }),
        _ => Err(Error::Compute(candle_core::Error::Msg("expected a contiguous f32 tensor on the CPU".into()))),
    }
}

impl<G: Deref<Target = Storage>> Deref for Values<G> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => &[],
        }
    }
}

/// A matrix made of computed rows.
fn matrix(values: Vec<f32>, columns: usize) -> Result<Tensor> {
    let rows = values.len() / columns.max(1);
    Ok(Tensor::from_vec(values, (rows, columns), &Device::Cpu)?)
}

/// Runs a loop with the vector instructions of this processor. What the loop calls must be `#[inline(always)]`, and so
/// must `work` itself, or it is compiled for the oldest processor.
fn vectorised(work: impl FnMut()) {
    struct Work<F>(F);
    impl<F: FnMut()> WithSimd for Work<F> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(mut self, _: S) {
            // as FnMut: a closure that is called as FnOnce is wrapped in a function of its own, which is not inlined
            (self.0)();
        }
    }
    pulp::Arch::new().dispatch(Work(work));
}

/// Rows that one task takes at a time, so that tasks are neither tiny nor few.
fn task_rows(columns: usize) -> usize {
    const TASK_VALUES: usize = 1 << 14;
    (TASK_VALUES / columns.max(1)).max(1)
}

/// The number of f32 lanes of this processor's vectors, as this crate and the matmul use them. The bits of a score may
/// differ between processors that differ in it.
pub(crate) fn lanes() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;

        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    pulp::Arch::new().dispatch(Lanes)
}

#[cfg(test)]
mod tests;
