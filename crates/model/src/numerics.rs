//! What else than the checkpoint the bits of a score depend on.

use std::sync::OnceLock;

use candle_core::Tensor;

use crate::compute::{Compute, Device};
use crate::config::Config;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
use crate::device;
#[cfg(not(feature = "cuda"))]
use crate::error::Error;
use crate::error::Result;
use crate::ops;
#[cfg(feature = "cuda")]
use crate::share::Share;

/// Grows whenever a change of the code may change the bits of a score on the CPU.
const KERNELS: u32 = 1;

/// Device kind, dtype, vector width, the way the matmul adds, number of ranks and version of the kernels, as one line.
///
/// It is asked before a model is loaded; the device may be opened for it.
///
/// # Errors
/// If the device is not there, or the tensor library refuses a small matmul.
pub fn numerics(config: &Config, compute: &Compute, world_size: usize) -> Result<String> {
    compute.check(config)?;
    compute.check_here()?;
    match compute.device {
        Device::Cpu => {
            let (dtype, lanes, matmul) = (compute.dtype, ops::lanes(), matmul_probe()?);
            Ok(format!("cpu {dtype} lanes={lanes} matmul={matmul:08x} tp={world_size} kernels={KERNELS}"))
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(ordinal) => {
            let device = device::cuda::CudaDevice::open(ordinal, compute, std::sync::Arc::new(collective::Solo))?;
            device.numerics(&Share::new(config, 0, world_size).matrix_shapes(), world_size)
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => Err(Error::without_cuda()),
        #[cfg(feature = "host-kernels")]
        Device::HostKernels => {
            let (dtype, probe, version) = (compute.dtype, device::host::probe(), device::version(world_size));
            Ok(format!("host-kernels {dtype} libm={probe:08x} tp={world_size} kernels={version}"))
        }
    }
}

/// A hash of a fixed product that is deep enough to be computed in several blocks along the depth.
///
/// The matmul chooses these blocks by the processor's caches, and rounds accordingly: two machines with vectors of the
/// same width may differ in it.
fn matmul_probe() -> Result<u32> {
    static PROBE: OnceLock<u32> = OnceLock::new();
    if let Some(&probe) = PROBE.get() {
        return Ok(probe);
    }
    const ROWS: usize = 8;
    const DEPTH: usize = 5000;
    const COLUMNS: usize = 96;
    // fractions that a sum of thousands cannot hold exactly
    let numbers = |count: usize| (0..count).map(|i| ((i * 7919 % 10007) as f32 / 10007.0) - 0.5).collect::<Vec<f32>>();
    let left = Tensor::from_vec(numbers(ROWS * DEPTH), (ROWS, DEPTH), &candle_core::Device::Cpu)?;
    let right = Tensor::from_vec(numbers(DEPTH * COLUMNS), (DEPTH, COLUMNS), &candle_core::Device::Cpu)?;
    let product: Vec<f32> = left.matmul(&right)?.flatten_all()?.to_vec1()?;
    let fold = |hash: u32, x: &f32| (hash ^ x.to_bits()).wrapping_mul(0x0100_0193);
    Ok(*PROBE.get_or_init(|| product.iter().fold(0x811c_9dc5, fold)))
}
