//! Where the ranks of a process compute, and in which numbers, as a user says it.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use model::{Compute, Device, Dtype};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where ranks compute: `cpu`, `cuda`, `cuda:N` or `cuda:N,M,...`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Devices {
    /// On the cores of this machine.
    #[default]
    Cpu,
    /// One rank after the other on the GPUs from this one on.
    CudaFrom(usize),
    /// Each rank on a GPU that is named.
    Cuda(Vec<usize>),
}

/// [`Dtype`], as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DtypeName {
    F32,
    Bf16,
    F16,
}

// === impl Devices ===

impl Devices {
    /// The devices of so many ranks.
    fn of_ranks(&self, ranks: usize) -> Result<Vec<Device>> {
        ensure!(
            ranks <= MOST_RANKS,
            "{ranks} ranks are more than any model can be split over, expected at most {MOST_RANKS}"
        );
        Ok(match self {
            Self::Cpu => vec![Device::Cpu; ranks],
            Self::CudaFrom(first) => (*first..first.saturating_add(ranks)).map(Device::Cuda).collect(),
            Self::Cuda(ordinals) => {
                let named = ordinals.len();
                ensure!(
                    named == ranks,
                    "device {self} names {named} GPUs, and this process has {ranks} ranks: name one for each, or the \
                     first alone"
                );
                ordinals.iter().copied().map(Device::Cuda).collect()
            }
        })
    }

    /// The devices of replicas of so many ranks in one process: each takes those after the one before.
    pub(crate) fn of_replicas(&self, replicas: usize, ranks: usize) -> Result<Vec<Self>> {
        self.of_ranks(replicas.saturating_mul(ranks))?;
        let of_replica = |number: usize| match self {
            Self::Cpu => Self::Cpu,
            Self::CudaFrom(first) => Self::CudaFrom(first + number * ranks),
            Self::Cuda(ordinals) => Self::Cuda(ordinals[number * ranks..(number + 1) * ranks].to_vec()),
        };
        Ok((0..replicas).map(of_replica).collect())
    }

    /// Where so many ranks compute, and in which numbers.
    pub(crate) fn computes(&self, dtype: Option<DtypeName>, ranks: usize, step_tokens: usize) -> Result<Vec<Compute>> {
        let compute = |device| Ok(Compute::new(device, dtype.map(Dtype::from), step_tokens)?);
        self.of_ranks(ranks)?.into_iter().map(compute).collect()
    }
}

/// Numbers beyond these are slips of the hand.
const MOST_GPUS: usize = 1024;
const MOST_RANKS: usize = 65_536;

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ordinal = |text: &str| text.parse().ok().filter(|ordinal| *ordinal < MOST_GPUS);
        let devices = match (text, text.strip_prefix("cuda:")) {
            ("cpu", _) => Some(Self::Cpu),
            ("cuda", _) => Some(Self::CudaFrom(0)),
            (_, Some(list)) if list.contains(',') => {
                list.split(',').map(ordinal).collect::<Option<_>>().map(Self::Cuda)
            }
            (_, Some(first)) => ordinal(first).map(Self::CudaFrom),
            _ => None,
        };
        devices.ok_or_else(|| format!("{text:?} is no device, expected cpu, cuda, cuda:N or cuda:N,M,..."))
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::CudaFrom(0) => f.write_str("cuda"),
            Self::CudaFrom(first) => write!(f, "cuda:{first}"),
            Self::Cuda(ordinals) => {
                let ordinals: Vec<_> = ordinals.iter().map(ToString::to_string).collect();
                write!(f, "cuda:{}", ordinals.join(","))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Devices {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        String::deserialize(source)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Devices {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

// === impl DtypeName ===

impl From<DtypeName> for Dtype {
    fn from(name: DtypeName) -> Self {
        match name {
            DtypeName::F32 => Self::F32,
            DtypeName::Bf16 => Self::Bf16,
            DtypeName::F16 => Self::F16,
        }
    }
}

#[cfg(test)]
mod tests;
