//! For trials on a GPU (tests/gpu): the kernels against float64, a model with random weights, where the time of a step
//! goes, the bare speed of the matmuls, and whether their rows have the same bits in every company.
//!
//! This is the one way from outside to what computes on devices; a server uses [`Model`](crate::Model).

pub(crate) mod checks;
pub(crate) mod hash;
mod matmuls;
pub(crate) mod timed;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use collective::{Collective, Solo};
use score::{Checksum, Partials};

pub use self::checks::Check;
pub use self::hash::mixed;
pub use self::matmuls::{AlgorithmTrial, MatmulRate, RowTrial, algorithms, products, rows};
use self::timed::{HostMarks, Kind, Span, Timed};
use crate::batch::PackedBatch;
use crate::compute::{Compute, Device, Dtype};
use crate::config::Config;
#[cfg(feature = "cuda")]
use crate::device::cuda::{CudaDevice, Gpu, marks::CudaMarks, one_rank};
use crate::device::host::HostDevice;
use crate::device::kernels::{Fill, Kernels};
use crate::device::loader::HASH_WIDTH;
use crate::device::numbers::from_bytes;
use crate::device::{Device as _, DeviceModel, Source};
use crate::error::{Error, Result};
use crate::forward::{Forward, Pending};
use crate::share::Share;
use crate::weights::Weights;

/// One rank of a model on a device, with what a server does not need of it.
pub struct Trial {
    model: Arc<DeviceModel>,
    device: Arc<Timed>,
    config: Config,
    step_tokens: usize,
}

/// A device that knows how it will multiply, and has no weights yet.
pub struct Prepared {
    device: Arc<Timed>,
    config: Config,
    step_tokens: usize,
}

/// Where the time of one step goes.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Profile {
    /// From the first operation's beginning to the last one's end, in seconds.
    pub seconds: f64,
    /// Nothing runs: the time between operations.
    pub idle: f64,
    /// What each kind of operation takes: matmul, attention, pointwise, copy, collective.
    pub kinds: Vec<Spent>,
    /// What each kernel takes, and the matmuls of each shape of weights.
    pub kernels: Vec<Spent>,
}

/// The part of some operations in a step.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Spent {
    /// Of the kind, or of the kernel.
    pub name: String,
    /// Operations.
    pub count: usize,
    /// What they take together, in seconds.
    pub seconds: f64,
}

/// What a device is.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Description {
    /// Such as "NVIDIA H200, sm_90".
    pub name: String,
    /// Free memory, in bytes.
    pub free: usize,
    /// All memory, in bytes.
    pub total: usize,
    /// The version of NCCL, or why there is none.
    pub nccl: String,
    /// The files of NVIDIA's libraries that have been loaded.
    pub libraries: Vec<String>,
}

// === opening a device ===

fn open(compute: &Compute, collective: Arc<dyn Collective>) -> Result<Timed> {
    match compute.device {
        Device::HostKernels => {
            let device = Box::new(HostDevice::new(compute.dtype, collective));
            Ok(Timed::new(device, Box::new(HostMarks::default())))
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(ordinal) => {
            let device = CudaDevice::open(ordinal, compute, collective)?;
            let marks = CudaMarks::new(device.gpu());
            Ok(Timed::new(Box::new(device), Box::new(marks)))
        }
        device => Err(not_built(device)),
    }
}

/// A device for work without steps.
fn open_alone(device: Device, dtype: Dtype) -> Result<Arc<Timed>> {
    Ok(Arc::new(open(&Compute { device, dtype, step_tokens: 0 }, Arc::new(Solo))?))
}

fn not_built(device: Device) -> Error {
    match device {
        Device::Cuda(_) => Error::without_cuda(),
        _ => Error::Device(format!("{device} is no device for trials: host-kernels, or cuda:N")),
    }
}

/// What there is at this place.
///
/// # Errors
/// If it cannot be used.
pub fn describe(device: Device) -> Result<Description> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(ordinal) => {
            let gpu = Gpu::open(ordinal)?;
            let memory = gpu.context.mem_get_info();
            let (free, total) = memory.map_err(|error| Error::Device(format!("the GPU's memory: {error}")))?;
            let nccl = collective::Nccl::available().unwrap_or_else(|error| error.to_string());
            Ok(Description { name: gpu.name()?, free, total, nccl, libraries: loaded() })
        }
        Device::HostKernels => {
            let (name, nccl) = ("the CPU as a device".to_owned(), "the CPU has none".to_owned());
            Ok(Description { name, free: 0, total: 0, nccl, libraries: Vec::new() })
        }
        _ => Err(not_built(device)),
    }
}

/// Where NVIDIA's libraries were found, as the system tells of this process; nothing where it does not.
#[cfg(feature = "cuda")]
fn loaded() -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let files = maps.lines().filter_map(|line| line.find('/').map(|start| &line[start..]));
    let libraries = ["libcuda.so", "libcublasLt.so", "libnccl.so"];
    let ours = files.filter(|file| libraries.iter().any(|library| file.contains(library)));
    ours.map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Every kernel against float64, on random numbers, in f32, bf16 and f16; or only those whose names begin like one of
/// `only`.
///
/// # Errors
/// If the device refuses.
pub fn kernels(device: Device, only: &[&str]) -> Result<Vec<Check>> {
    let mut found = Vec::new();
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        found.extend(checks::run(&open_alone(device, dtype)?, only)?);
    }
    Ok(found)
}

/// The first numbers of the random weights of this name, as the device makes them.
///
/// # Errors
/// If the device refuses.
pub fn hashed(device: Device, dtype: Dtype, name: &str, count: usize) -> Result<Vec<f32>> {
    let device = open_alone(device, dtype)?;
    let memory = device.allocate(count * dtype.size())?;
    let seed = hash::seed(name) as usize;
    Kernels { device: &device }.fill(&Fill { out: memory.address(), count, seed, scale: HASH_WIDTH, offset: 0.0 })?;
    let mut bytes = vec![0; count * dtype.size()];
    device.download(memory.address(), &mut bytes)?;
    Ok(from_bytes(dtype, &bytes))
}

/// Forms a communicator of one rank on a GPU, and holds what its operations leave against what they were given.
///
/// # Errors
/// If there is no NCCL or no GPU, or an operation has another result.
pub fn communicator(device: Device) -> Result<Vec<&'static str>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(ordinal) => one_rank::try_all(ordinal),
        _ => Err(not_built(device)),
    }
}

// === impl Trial ===

impl Trial {
    /// Opens a rank's device and finds out how the model's matrices are multiplied there.
    ///
    /// # Errors
    /// If the model cannot be split over this many ranks, or the device refuses.
    pub fn prepare(compute: Compute, config: &Config, collective: Arc<dyn Collective>) -> Result<Prepared> {
        let world_size = collective.world_size();
        config.check_world_size(world_size)?;
        compute.check(config)?;
        let device = Arc::new(open(&compute, collective)?);
        device.prepare(&Share::new(config, 0, world_size).matrix_shapes())?;
        Ok(Prepared { device, config: config.clone(), step_tokens: compute.step_tokens })
    }

    /// A model whose weights are a hash of their names and places: nothing is read.
    ///
    /// A matrix's number i is `(uniform(fnv1a(name), i) - 1/2) * 0.02 * sqrt(12)` in the dtype; norms multiply by one.
    ///
    /// # Errors
    /// Those of [`Prepared::load`].
    pub fn random(compute: Compute, config: &Config) -> Result<Self> {
        Self::prepare(compute, config, Arc::new(Solo))?.with(Source::Hash)
    }

    /// What the model is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// As [`Model::submit`](crate::Model::submit).
    ///
    /// # Errors
    /// Those of [`Model::submit`](crate::Model::submit).
    pub fn submit(&self, batch: &PackedBatch) -> Result<Pending> {
        let (tokens, most) = (batch.tokens.len(), self.step_tokens);
        if tokens > most {
            return Err(Error::Sequence(format!("a step of {tokens} tokens is more than the {most} planned for")));
        }
        self.model.submit(batch, Checksum::Path)
    }

    /// As [`Model::forward`](crate::Model::forward).
    ///
    /// # Errors
    /// Those of [`Model::forward`](crate::Model::forward).
    pub fn forward(&self, batch: &PackedBatch) -> Result<Partials> {
        self.submit(batch)?.wait()
    }

    /// Computes a step with a mark around every operation.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn profile(&self, batch: &PackedBatch) -> Result<Profile> {
        let spans = self.device.spans(|| self.forward(batch).map(drop))?;
        Ok(Profile::new(&spans))
    }

    /// The floating-point operations of a step's matmuls, as they are computed: nothing is counted that a shared prefix
    /// or a row without a score saves.
    pub fn matmul_operations(&self, batch: &PackedBatch) -> f64 {
        let mut ends = batch.ends.clone();
        ends.sort_unstable();
        ends.dedup();
        let [projected, queries, keys, output, gate_up, down] =
            self.model.share().matrix_shapes().map(|(output, input)| 2.0 * output as f64 * input as f64);
        let (rows, pooled) = (batch.tokens.len() as f64, ends.len() as f64);
        let inner = self.config.layers().saturating_sub(1) as f64 * (projected + output + gate_up + down);
        rows * (inner + keys) + pooled * (queries + output + gate_up + down)
    }
}

// === impl Prepared ===

impl Prepared {
    /// Loads the rank's share of a checkpoint's safetensors files; returns when it is on the device.
    ///
    /// # Errors
    /// Those of [`Model::load`](crate::Model::load).
    pub fn load(self, files: &[PathBuf]) -> Result<Trial> {
        let weights = Weights::open(files)?;
        self.with(Source::Files(&weights))
    }

    fn with(self, source: Source<'_>) -> Result<Trial> {
        let Self { device, config, step_tokens } = self;
        let model = DeviceModel::load(&config, source, Box::new(Arc::clone(&device)), step_tokens)?;
        device.settle()?;
        Ok(Trial { model: Arc::new(model), device, config, step_tokens })
    }
}

// === impl Profile ===

const KINDS: [(Kind, &str); 5] = [
    (Kind::Matmul, "matmul"),
    (Kind::Attention, "attention"),
    (Kind::Pointwise, "pointwise"),
    (Kind::Copy, "copy"),
    (Kind::Collective, "collective"),
];

impl Profile {
    fn new(spans: &[Span]) -> Self {
        let first = spans.first().map_or(0.0, |span| span.from);
        let last = spans.last().map_or(0.0, |span| span.to);
        let kinds = KINDS.map(|(kind, name)| Spent::of(name, spans.iter().filter(|span| span.kind == kind)));
        let names: BTreeSet<&str> = spans.iter().map(|span| span.name.as_str()).collect();
        let kernels = names.into_iter().map(|name| Spent::of(name, spans.iter().filter(|span| span.name == name)));
        let busy: f64 = kinds.iter().map(|share| share.seconds).sum();
        let (seconds, idle) = (last - first, last - first - busy);
        Self { seconds, idle, kinds: kinds.into(), kernels: kernels.collect() }
    }
}

impl Spent {
    fn of<'a>(name: &str, spans: impl Iterator<Item = &'a Span>) -> Self {
        let add = |(count, seconds), span: &Span| (count + 1, seconds + span.to - span.from);
        let (count, seconds) = spans.fold((0, 0.0), add);
        Self { name: name.to_owned(), count, seconds }
    }
}

#[cfg(test)]
mod tests;
