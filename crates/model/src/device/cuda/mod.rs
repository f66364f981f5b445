//! A device that is an NVIDIA GPU: one stream for the rank, kernels from the fat binary that the build made, matmuls of
//! cuBLASLt, and NCCL between ranks. Nothing of CUDA is linked: the libraries are loaded when a GPU is asked for.
#![allow(unsafe_code, reason = "the interfaces of CUDA are C functions over raw addresses")]

mod cublaslt;
#[cfg(feature = "trial")]
pub(crate) mod marks;
mod matmul;
#[cfg(feature = "trial")]
pub(crate) mod one_rank;
mod slot;
mod staging;

use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use collective::{Collective, Nccl, Row, RowSplit};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, result, sys};
use cudarc::nvrtc::Ptx;

use self::matmul::{Choices, Matmuls};
use self::slot::CudaSlot;
use self::staging::Staging;
use super::{Address, Device, Launch, Matrix, Memory, Read, Slot, SlotSizes, kernels, version};
use crate::compute::{Compute, Dtype};
use crate::error::{Error, Result};
#[cfg(feature = "trial")]
use crate::trial::AlgorithmTrial;

/// The kernels: machine code for sm_80 and sm_90, PTX for newer GPUs.
static KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));
/// bf16 on the tensor cores, cp.async: Ampere.
const OLDEST: (i32, i32) = (8, 0);
/// What a kernel may use of shared memory without being asked for more.
const PLAIN_SHARED: usize = 48 << 10;

/// Errors of the driver after which a GPU computes nothing more in this process, whatever is asked of it: cuda.h,
/// CUresult. A kernel that failed takes the context along, hardware that failed needs whoever looks after it.
const LOST: [u32; 15] = [46, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 999];

/// One rank's GPU.
pub(crate) struct CudaDevice {
    dtype: Dtype,
    collective: Arc<dyn Collective>,
    joined: Joined,
    matmuls: Matmuls,
    staging: Mutex<Option<Staging>>,
    module: Module,
    gpu: Gpu,
}

/// The communicator that the last operation between ranks went over.
type Joined = Arc<Mutex<Option<Arc<Nccl>>>>;

/// A GPU that has been opened, with the stream of one rank.
#[derive(Clone)]
pub(crate) struct Gpu {
    pub(crate) context: Arc<CudaContext>,
    pub(crate) stream: Arc<CudaStream>,
    choices: Arc<Choices>,
}

/// What a process keeps of a GPU that it has opened once: to open a context takes half a second, and libraries hold
/// things in it. It is given back when the process ends.
#[derive(Clone)]
struct Opened {
    context: Arc<CudaContext>,
    choices: Arc<Choices>,
}

static OPENED: Mutex<BTreeMap<usize, Opened>> = Mutex::new(BTreeMap::new());

/// The loaded kernels.
struct Module {
    module: Arc<CudaModule>,
    functions: Mutex<HashMap<String, CudaFunction>>,
}

/// Device memory that is given back when dropped.
struct Allocation {
    address: sys::CUdeviceptr,
    context: Arc<CudaContext>,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // nothing can be done about a driver that does not take its memory back
        let _ = self.context.bind_to_thread();
        // SAFETY: allocated by `allocate`, once; freeing waits until the GPU has used it.
        let _ = unsafe { result::free_sync(self.address) };
    }
}

/// What a function of the driver says, with what was tried.
pub(super) fn failed(what: &str) -> impl Fn(DriverError) -> Error + '_ {
    move |error| match LOST.contains(&(error.0 as u32)) {
        true => Error::DeviceLost(format!("{what}: {error}")),
        false => Error::Device(format!("{what}: {error}")),
    }
}

// === impl Gpu ===

impl Gpu {
    /// Opens the GPU with this ordinal.
    ///
    /// # Errors
    /// If a library, the driver or the GPU is missing, or the GPU is too old; says which.
    pub(crate) fn open(ordinal: usize) -> Result<Self> {
        libraries()?;
        result::init().map_err(failed("the NVIDIA driver does not start"))?;
        let count = CudaContext::device_count().map_err(failed("GPUs cannot be counted"))?;
        if ordinal >= usize::try_from(count).unwrap_or(0) {
            return Err(Error::Device(format!("there is no GPU {ordinal}: this machine has {count}")));
        }
        let Opened { context, choices } = Opened::get(ordinal)?;
        let capability = context.compute_capability().map_err(failed("the GPU's capability"))?;
        if capability < OLDEST {
            let ((major, minor), (oldest, _)) = (capability, OLDEST);
            return Err(Error::Device(format!(
                "GPU {ordinal} has compute capability {major}.{minor}: {oldest}.0 (Ampere) or newer is needed"
            )));
        }
        let stream = context.new_stream().map_err(failed("a stream"))?;
        Ok(Self { context, stream, choices })
    }

    fn choices(&self) -> Arc<Choices> {
        Arc::clone(&self.choices)
    }

    /// Whether the GPU still computes.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if it does not, whatever is asked of it.
    fn alive(&self) -> Result<()> {
        self.bind()?;
        self.stream.synchronize().map_err(failed("waiting for the GPU"))
    }

    /// The time that the stream takes for what `work` puts into it.
    fn milliseconds(&self, work: impl FnOnce() -> Result<()>) -> Result<f32> {
        let timing = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let [from, to] = [self.context.new_event(timing), self.context.new_event(timing)];
        let (from, to) = (from.map_err(failed("an event"))?, to.map_err(failed("an event"))?);
        from.record(&self.stream).map_err(failed("an event"))?;
        work()?;
        to.record(&self.stream).map_err(failed("an event"))?;
        self.alive()?;
        from.elapsed_ms(&to).map_err(failed("the time between events"))
    }

    /// Such as "NVIDIA H200, sm_90".
    pub(crate) fn name(&self) -> Result<String> {
        let name = self.context.name().map_err(failed("the GPU's name"))?;
        let (major, minor) = self.context.compute_capability().map_err(failed("the GPU's capability"))?;
        Ok(format!("{name}, sm_{major}{minor}"))
    }

    pub(crate) fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(failed("the GPU cannot be used on this thread"))
    }

    pub(crate) fn allocate(&self, bytes: usize) -> Result<Memory> {
        self.bind()?;
        // SAFETY: what is read of it has been written before: that is what the kernels' order sees to.
        let address = unsafe { result::malloc_sync(bytes.max(1)) }.map_err(|error| self.no_memory(bytes, error))?;
        let owner = Allocation { address, context: Arc::clone(&self.context) };
        Ok(Memory::new(Address(address), bytes, Box::new(owner)))
    }

    fn no_memory(&self, bytes: usize, error: DriverError) -> Error {
        let ordinal = self.context.ordinal();
        let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
        match self.context.mem_get_info() {
            Ok((free, total)) => Error::Device(format!(
                "GPU {ordinal} has {:.2} of {:.2} GiB free, {:.2} GiB more are needed ({error})",
                gib(free),
                gib(total),
                gib(bytes)
            )),
            Err(_) => Error::Device(format!("{:.2} GiB cannot be had on GPU {ordinal}: {error}", gib(bytes))),
        }
    }
}

/// Checks that the libraries are there: cudarc panics where they are not.
fn libraries() -> Result<()> {
    // SAFETY: loads a library and closes it again.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Device(
            "no NVIDIA driver: libcuda.so.1 is not found (is this a machine with a GPU, or a container without it?)"
                .into(),
        ));
    }
    cublaslt::check()
}

// === impl Opened ===

impl Opened {
    fn get(ordinal: usize) -> Result<Self> {
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = opened.get(&ordinal) {
            return Ok(opened.clone());
        }
        let context = CudaContext::new(ordinal).map_err(failed(&format!("GPU {ordinal} cannot be opened")))?;
        let new = Self { context, choices: Arc::default() };
        opened.insert(ordinal, new.clone());
        Ok(new)
    }
}

// === impl CudaDevice ===

impl CudaDevice {
    /// A rank's device: opens the GPU and loads the kernels.
    ///
    /// # Errors
    /// Those of [`Gpu::open`], or if the kernels do not run there, or there is no NCCL to join ranks with.
    pub(crate) fn open(ordinal: usize, compute: &Compute, collective: Arc<dyn Collective>) -> Result<Self> {
        let (gpu, dtype) = (Gpu::open(ordinal)?, compute.dtype);
        if collective.world_size() > 1 {
            // now, and not at the first step, when all weights have been read
            Nccl::available()?;
        }
        let module = Module::load(&gpu, dtype)?;
        let matmuls = Matmuls::new(&gpu, dtype, compute.step_tokens)?;
        Ok(Self { dtype, collective, joined: Joined::default(), matmuls, staging: Mutex::new(None), module, gpu })
    }

    /// Device kind, dtype and the ways in which its matmuls add, for the matrices that each of so many ranks of a model
    /// has.
    ///
    /// # Errors
    /// If a matmul of such a matrix cannot be computed.
    pub(crate) fn numerics(&self, shapes: &[(usize, usize)], world_size: usize) -> Result<String> {
        let (version, algorithms) = (version(world_size), self.matmuls.fingerprint(self, shapes)?);
        let (name, dtype, lt) = (self.gpu.name()?, self.dtype, self.matmuls.version());
        Ok(format!("cuda {name} {dtype} cublaslt={lt} matmul={algorithms:08x} kernels={version} tp={world_size}"))
    }

    /// As [`Matmuls::trials`].
    #[cfg(feature = "trial")]
    pub(crate) fn algorithms(
        &self,
        shape: (usize, usize),
        rows: &[usize],
        tell: &mut dyn FnMut(AlgorithmTrial) -> Result<()>,
    ) -> Result<()> {
        self.matmuls.trials(self, shape, rows, tell)
    }

    pub(crate) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    fn nccl(&self) -> Result<Arc<Nccl>> {
        let nccl = self.collective.nccl(&self.gpu.stream)?;
        *self.joined.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&nccl));
        Ok(nccl)
    }

    fn row(&self, width: usize) -> Row {
        Row { width, dtype: nccl_dtype(self.dtype) }
    }

    fn stream(&self) -> sys::CUstream {
        self.gpu.stream.cu_stream()
    }
}

fn nccl_dtype(dtype: Dtype) -> collective::Dtype {
    match dtype {
        Dtype::F32 => collective::Dtype::F32,
        Dtype::F16 => collective::Dtype::F16,
        Dtype::Bf16 => collective::Dtype::Bf16,
    }
}

impl Device for CudaDevice {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn allocate(&self, bytes: usize) -> Result<Memory> {
        self.gpu.allocate(bytes)
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<()> {
        self.gpu.bind()?;
        // SAFETY: `to` is memory of this device; `bytes` is not reused before the stream is waited for.
        unsafe { result::memcpy_htod_async(to.0, bytes, self.stream()) }.map_err(failed("a copy to the GPU"))?;
        // nothing is promised of memory that is not pinned: the driver may read it until the copy is done
        self.gpu.alive()
    }

    fn upload_read(&self, to: Address, len: usize, read: Read<'_>) -> Result<()> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let staging = match &mut *staging {
            Some(staging) => staging,
            none => none.insert(Staging::new(&self.gpu)?),
        };
        staging.upload(to, len, read)
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.gpu.bind()?;
        // SAFETY: `from` is memory of this device; `bytes` is not used before the stream is waited for.
        unsafe { result::memcpy_dtoh_async(bytes, from.0, self.stream()) }.map_err(failed("a copy from the GPU"))?;
        self.gpu.alive()
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()> {
        self.gpu.bind()?;
        // SAFETY: both are memory of this device.
        unsafe { result::memcpy_dtod_async(to.0, from.0, bytes, self.stream()) }.map_err(failed("a copy on the GPU"))
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        self.gpu.bind()?;
        let function = self.module.function(launch)?;
        let size = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
        let ([x, y], threads) = (launch.grid.map(size), size(launch.threads));
        let mut parameters = [launch.arguments.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the one parameter of each kernel is a struct whose fields are these words (kernels.rs); what it points
        // to is memory of this device.
        let launched = unsafe {
            let (grid, block) = ((x, y, 1), (threads, 1, 1));
            result::launch_kernel(
                function.cu_function(),
                grid,
                block,
                size(launch.shared),
                self.stream(),
                &mut parameters,
            )
        };
        launched.map_err(failed(launch.kernel))
    }

    fn matmul(&self, matrix: &Matrix, x: Address, rows: usize, out: Address) -> Result<()> {
        self.matmuls.multiply(self, matrix, (x, rows), out)
    }

    fn prepare(&self, shapes: &[(usize, usize)]) -> Result<()> {
        self.matmuls.fingerprint(self, shapes).map(drop)
    }

    fn free_memory(&self) -> Result<Option<usize>> {
        self.gpu.bind()?;
        let (free, _) = self.gpu.context.mem_get_info().map_err(failed("the GPU's memory"))?;
        Ok(Some(free))
    }

    fn slot(&self, sizes: SlotSizes) -> Result<Box<dyn Slot>> {
        Ok(Box::new(CudaSlot::new(&self.gpu, sizes, Arc::clone(&self.joined))?))
    }

    fn place(&self) -> (usize, usize) {
        (self.collective.rank(), self.collective.world_size())
    }

    fn exchange(&self, partial: Address, received: Address, split: RowSplit, width: usize) -> Result<()> {
        // SAFETY: memory of this device that does not overlap, used by this stream only; all ranks run the same step.
        Ok(unsafe { self.nccl()?.exchange(partial.0, received.0, split, self.row(width)) }?)
    }

    fn all_gather(&self, whole: Address, split: RowSplit, width: usize) -> Result<()> {
        let own = whole + split.range(self.place().0).start * width * self.dtype.size();
        // SAFETY: as `exchange`; the rank's own slice lies in its place.
        Ok(unsafe { self.nccl()?.all_gather(own.0, whole.0, split, self.row(width)) }?)
    }
}

// === impl Module ===

impl Module {
    /// Loads the kernels for these numbers: all now, for a kernel that is loaded later makes the GPU wait for all that
    /// runs, and that may be waiting for another rank.
    fn load(gpu: &Gpu, dtype: Dtype) -> Result<Self> {
        let module = gpu.context.load_module(Ptx::from_binary(KERNELS.to_vec()));
        let module = module.map_err(failed("the kernels do not load (is the driver 580 or newer?)"))?;
        let loaded = Self { module, functions: Mutex::default() };
        kernels::names(dtype).iter().try_for_each(|name| loaded.find(name).map(drop))?;
        Ok(loaded)
    }

    fn find(&self, kernel: &str) -> Result<CudaFunction> {
        self.module.load_function(kernel).map_err(failed(&format!("kernel {kernel} does not load")))
    }

    /// The kernel of a launch, found once, and allowed the shared memory that it asks for.
    fn function(&self, launch: &Launch<'_>) -> Result<CudaFunction> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(launch.kernel) {
            return Ok(function.clone());
        }
        let function = self.find(launch.kernel)?;
        if launch.shared > PLAIN_SHARED {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(launch.shared).unwrap_or(i32::MAX);
            let what = format!("{bytes} bytes of shared memory for {}", launch.kernel);
            function.set_attribute(attribute, bytes).map_err(failed(&what))?;
        }
        functions.insert(launch.kernel.to_owned(), function.clone());
        Ok(function)
    }
}
