//! Where a rank computes, in which numbers, and what of that cannot be.

use std::fmt;

use half::{bf16, f16};

use crate::config::Config;
use crate::error::{Error, Result};

/// Where a rank computes, and in which numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compute {
    /// The device of the rank.
    pub device: Device,
    /// The numbers of weights and of what goes between the matmuls.
    pub dtype: Dtype,
    /// The most tokens of a step: memory is planned for it.
    pub step_tokens: usize,
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The cores of this machine.
    Cpu,
    /// The NVIDIA GPU with this ordinal.
    Cuda(usize),
    /// The GPU's forward pass played by the CPU, kernel for kernel: slow, for tests.
    #[cfg(feature = "host-kernels")]
    HostKernels,
}

/// A kind of floating-point numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits, the range ends at 65504.
    F16,
    /// 16 bits, the range of f32.
    Bf16,
}

// === impl Compute ===

impl Compute {
    /// A place to compute; without a dtype in f32 on a CPU, in bf16 on a GPU.
    ///
    /// # Errors
    /// [`Error::Device`] if the device knows no such numbers; it says what would do.
    pub fn new(device: Device, dtype: Option<Dtype>, step_tokens: usize) -> Result<Self> {
        let usual = match device {
            Device::Cpu => Dtype::F32,
            _ => Dtype::Bf16,
        };
        let compute = Self { device, dtype: dtype.unwrap_or(usual), step_tokens };
        compute.check_dtype()?;
        Ok(compute)
    }

    /// Refuses what the device or the model's range of numbers does not allow, on whichever machine.
    ///
    /// # Errors
    /// [`Error::Device`], which says what would do.
    pub fn check(&self, config: &Config) -> Result<()> {
        self.check_dtype()?;
        let refused = config.blueprint.refused;
        match refused.iter().find(|(dtype, _)| *dtype == self.dtype) {
            Some((_, why)) => {
                let fits = Dtype::ALL.iter().filter(|fit| refused.iter().all(|(dtype, _)| dtype != *fit));
                let fits: Vec<_> = fits.map(Dtype::to_string).collect();
                Err(Error::Device(format!("{why}: choose dtype {}", fits.join(" or "))))
            }
            None => Ok(()),
        }
    }

    /// Refuses what this build or this machine does not have.
    ///
    /// # Errors
    /// [`Error::Device`], which says how to get it.
    pub fn check_here(&self) -> Result<()> {
        match self.device {
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => Err(Error::without_cuda()),
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => crate::device::cuda::Gpu::open(ordinal).map(drop),
            _ => Ok(()),
        }
    }

    fn check_dtype(&self) -> Result<()> {
        match (self.device, self.dtype) {
            (Device::Cpu, Dtype::F16 | Dtype::Bf16) => Err(Error::Device(format!(
                "a CPU computes in f32 only, not in {}: choose dtype f32, or device cuda",
                self.dtype
            ))),
            _ => Ok(()),
        }
    }
}

impl Default for Compute {
    /// The CPU, with steps of any size.
    fn default() -> Self {
        Self { device: Device::Cpu, dtype: Dtype::F32, step_tokens: usize::MAX }
    }
}

// === impl Device ===

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            #[cfg(feature = "host-kernels")]
            Self::HostKernels => f.write_str("host-kernels"),
        }
    }
}

// === impl Dtype ===

impl Dtype {
    const ALL: [Self; 3] = [Self::Bf16, Self::F16, Self::F32];

    /// Bytes of a number.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The nearest number.
    pub(crate) fn round(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            Self::F16 => f16::from_f32(x).to_f32(),
            Self::Bf16 => bf16::from_f32(x).to_f32(),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

#[cfg(test)]
mod tests;
