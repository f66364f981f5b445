//! Numbers in the dtypes of devices, as bytes.

use half::{bf16, f16};

use crate::compute::Dtype;

/// Numbers, rounded, as the device holds them.
pub(crate) fn to_bytes(dtype: Dtype, values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    let values = values.into_iter();
    match dtype {
        Dtype::F32 => values.flat_map(f32::to_ne_bytes).collect(),
        Dtype::F16 => values.flat_map(|x| f16::from_f32(x).to_ne_bytes()).collect(),
        Dtype::Bf16 => values.flat_map(|x| bf16::from_f32(x).to_ne_bytes()).collect(),
    }
}

/// What the device holds, as f32.
pub(crate) fn from_bytes(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_ne_bytes(b)).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_ne_bytes(b).to_f32()).collect(),
        Dtype::Bf16 => bytes.as_chunks().0.iter().map(|&b| bf16::from_ne_bytes(b).to_f32()).collect(),
    }
}
