//! Matmuls with weights, by cuBLASLt: one algorithm for each shape of weights, so that a row of the result has the same
//! bits whatever the number of rows.
//!
//! The algorithm is the first of cuBLASLt's suggestions for a full step that does not split the depth and that, tried
//! on random numbers, computes rows alike in steps of many sizes. What is not documented is thereby tested, on the GPU
//! and with the library that will compute.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;

use super::super::kernels::{Fill, Kernels};
use super::super::{Address, Device, Matrix, Memory};
use super::{CudaDevice, Gpu};
use crate::compute::Dtype;
use crate::error::{Error, Result};

/// cuBLASLt on one GPU.
pub(super) struct Matmuls {
    handle: Handle,
    workspace: Memory,
    dtype: Dtype,
    algorithms: Mutex<HashMap<(usize, usize), Algorithm>>,
}

struct Handle(sys::cublasLtHandle_t);

// SAFETY: cuBLASLt's handles may be used from any thread.
unsafe impl Send for Handle {}
// SAFETY: as above, and from several at once.
unsafe impl Sync for Handle {}

/// How one shape of weights is multiplied.
#[derive(Clone, Copy)]
struct Algorithm(sys::cublasLtMatmulAlgo_t);

/// What NVIDIA advises for Hopper: cuBLAS, cublasSetWorkspace.
const WORKSPACE: usize = 32 << 20;
/// CUBLAS_OP_T of cublas_api.h's cublasOperation_t.
const TRANSPOSE: u32 = 1;
/// Suggestions to choose from.
const SUGGESTIONS: usize = 16;
/// The steps that algorithms are suggested for: a full one, and others in case none of its passes. Not the budget: that
/// may change, and the bits must not.
const CHOICE_ROWS: [usize; 3] = [8192, 1024, 128];
/// The step that other numbers of rows are compared with.
const TRIAL_ROWS: usize = 4096;
/// Numbers of rows that must agree with a full step, besides one less than all.
const TRIED_ROWS: [usize; 9] = [1, 2, 3, 16, 17, 100, 128, 129, 256];

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: created once, and nobody has it any more.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

fn failed(what: &str) -> impl Fn(CublasError) -> Error + '_ {
    move |error| Error::Device(format!("{what}: {error}"))
}

// === impl Matmuls ===

impl Matmuls {
    pub(super) fn new(gpu: &Gpu, dtype: Dtype) -> Result<Self> {
        gpu.bind()?;
        let handle = Handle(result::create_handle().map_err(failed("cuBLASLt does not start"))?);
        let workspace = gpu.allocate(WORKSPACE)?;
        Ok(Self { handle, workspace, dtype, algorithms: Mutex::default() })
    }

    /// The library's version, as one number.
    pub(super) fn version(&self) -> usize {
        // SAFETY: takes nothing.
        unsafe { sys::cublasLtGetVersion() }
    }

    /// `out` [rows, output] = `x` [rows, input] times the weights [output, input], transposed.
    pub(super) fn multiply(
        &self,
        device: &CudaDevice,
        matrix: &Matrix,
        (x, rows): (Address, usize),
        out: Address,
    ) -> Result<()> {
        if rows == 0 {
            return Ok(());
        }
        let algorithm = self.algorithm(device, (matrix.output, matrix.input))?;
        self.run(device, matrix, (x, rows), (out, algorithm))
    }

    /// A hash of the algorithms for these shapes of weights.
    pub(super) fn fingerprint(&self, device: &CudaDevice, shapes: &[(usize, usize)]) -> Result<u32> {
        let mut hash = 0x811c_9dc5u32;
        for &shape in shapes {
            for word in self.algorithm(device, shape)?.0.data {
                for byte in word.to_le_bytes() {
                    hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
                }
            }
        }
        Ok(hash)
    }

    fn algorithm(&self, device: &CudaDevice, shape: (usize, usize)) -> Result<Algorithm> {
        let known = |this: &Self| {
            let algorithms = this.algorithms.lock().unwrap_or_else(PoisonError::into_inner);
            algorithms.get(&shape).copied()
        };
        if let Some(algorithm) = known(self) {
            return Ok(algorithm);
        }
        let algorithm = self.choose(device, shape)?;
        self.algorithms.lock().unwrap_or_else(PoisonError::into_inner).insert(shape, algorithm);
        Ok(algorithm)
    }

    /// The first suggestion that computes a row alike in every company.
    fn choose(&self, device: &CudaDevice, (output, input): (usize, usize)) -> Result<Algorithm> {
        device.gpu().bind()?;
        let trial = Trial::new(self, device, (output, input))?;
        let mut tried = 0;
        for rows in CHOICE_ROWS {
            for algorithm in self.suggestions((output, input), rows)? {
                tried += 1;
                if trial.agrees(algorithm)? {
                    return Ok(algorithm);
                }
            }
        }
        Err(Error::Device(format!(
            "none of cuBLASLt's {tried} algorithms for weights [{output}, {input}] in {} gives a row the same bits \
             whatever the number of rows",
            self.dtype
        )))
    }

    /// Suggestions for so many rows that add along the depth in one piece, the fastest first.
    fn suggestions(&self, (output, input): (usize, usize), rows: usize) -> Result<Vec<Algorithm>> {
        let call = Call::new(self.dtype, (output, input), rows)?;
        let preference = Preference::new()?;
        // SAFETY: plain C structs for which zeros are valid.
        let mut results: [sys::cublasLtMatmulHeuristicResult_t; SUGGESTIONS] = unsafe { std::mem::zeroed() };
        let mut count = 0;
        // SAFETY: all descriptors live until the call returns; the array holds as many results as are asked for.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle.0,
                call.operation,
                call.weight,
                call.x,
                call.out,
                call.out,
                preference.0,
                SUGGESTIONS as i32,
                results.as_mut_ptr(),
                &raw mut count,
            )
        };
        status.result().map_err(failed(&format!("cuBLASLt has no matmul for weights [{output}, {input}]")))?;
        let found = results.iter().take(usize::try_from(count).unwrap_or(0));
        let usable = found.filter(|result| result.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
        let algorithms = usable.map(|result| Algorithm(result.algo));
        Ok(algorithms.filter(Algorithm::adds_in_one_piece).collect())
    }

    fn run(
        &self,
        device: &CudaDevice,
        matrix: &Matrix,
        (x, rows): (Address, usize),
        (out, algorithm): (Address, Algorithm),
    ) -> Result<()> {
        device.gpu().bind()?;
        let call = Call::new(self.dtype, (matrix.output, matrix.input), rows)?;
        let (one, zero) = (1.0f32, 0.0f32);
        let address = |address: Address| address.0 as *const c_void;
        // SAFETY: the three matrices lie in memory of this device, in these shapes; the workspace is this stream's own.
        let done = unsafe {
            result::matmul(
                self.handle.0,
                call.operation,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                address(matrix.weight),
                call.weight,
                address(x),
                call.x,
                address(out),
                call.out,
                address(out).cast_mut(),
                call.out,
                &raw const algorithm.0,
                address(self.workspace.address()).cast_mut(),
                self.workspace.bytes(),
                device.stream().cast(),
            )
        };
        let (output, input) = (matrix.output, matrix.input);
        done.map_err(failed(&format!("the matmul of {rows} rows with weights [{output}, {input}]")))
    }
}

// === impl Algorithm ===

impl Algorithm {
    /// Neither split along the depth, nor reduced from parts afterwards; what does not say is left to the trial.
    fn adds_in_one_piece(&self) -> bool {
        use sys::cublasLtMatmulAlgoConfigAttributes_t as Attribute;
        let split = self.attribute(Attribute::CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
        let reduction = self.attribute(Attribute::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
        split.is_none_or(|parts| parts <= 1) && reduction.is_none_or(|scheme| scheme == 0)
    }

    fn attribute(&self, attribute: sys::cublasLtMatmulAlgoConfigAttributes_t) -> Option<u32> {
        let (mut value, mut written) = (0u32, 0);
        // SAFETY: both attributes are 32 bits wide (cublasLt.h).
        let status = unsafe {
            sys::cublasLtMatmulAlgoConfigGetAttribute(
                &raw const self.0,
                attribute,
                (&raw mut value).cast(),
                size_of::<u32>(),
                &raw mut written,
            )
        };
        (status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS).then_some(value)
    }
}

/// The descriptors of one multiplication. cuBLAS counts columns first: its A is the weights, transposed, its B the rows.
struct Call {
    operation: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
}

impl Call {
    fn new(dtype: Dtype, (output, input): (usize, usize), rows: usize) -> Result<Self> {
        let kind = match dtype {
            Dtype::F32 => sys::cudaDataType::CUDA_R_32F,
            Dtype::F16 => sys::cudaDataType::CUDA_R_16F,
            Dtype::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        };
        let layout = |rows: usize, columns: usize| {
            result::create_matrix_layout(kind, rows as u64, columns as u64, rows as i64).map_err(failed("a layout"))
        };
        let sums = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let operation = result::create_matmul_desc(sums, sys::cudaDataType::CUDA_R_32F).map_err(failed("a matmul"))?;
        let none = std::ptr::null_mut();
        let mut call = Self { operation, weight: none, x: none, out: none };
        let transposed = TRANSPOSE;
        let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        // SAFETY: the attribute is a cublasOperation_t, 32 bits wide.
        let set = unsafe {
            result::set_matmul_desc_attribute(operation, attribute, (&raw const transposed).cast(), size_of::<u32>())
        };
        set.map_err(failed("a matmul"))?;
        call.weight = layout(input, output)?;
        call.x = layout(input, rows)?;
        call.out = layout(output, rows)?;
        Ok(call)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        for layout in [self.weight, self.x, self.out] {
            if !layout.is_null() {
                // SAFETY: created once by `new`; cuBLASLt has read it when its call returned.
                let _ = unsafe { result::destroy_matrix_layout(layout) };
            }
        }
        // SAFETY: as above.
        let _ = unsafe { result::destroy_matmul_desc(self.operation) };
    }
}

/// What algorithms are asked for.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new() -> Result<Self> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let preference = Self(result::create_matmul_pref().map_err(failed("a preference"))?);
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(WORKSPACE as u64))?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &0u32)?;
        // weights may begin at any row: 16 bytes is what all have
        for side in [
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(side, &16u32)?;
        }
        Ok(preference)
    }

    fn set<T>(&self, attribute: sys::cublasLtMatmulPreferenceAttributes_t, value: &T) -> Result<()> {
        // SAFETY: the value has the attribute's type (cublasLt.h).
        let set = unsafe {
            result::set_matmul_pref_attribute(self.0, attribute, std::ptr::from_ref(value).cast(), size_of::<T>())
        };
        set.map_err(failed("a preference"))
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created once by `new`.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// Random numbers to try algorithms on.
struct Trial<'a> {
    matmuls: &'a Matmuls,
    device: &'a CudaDevice,
    matrix: Matrix,
    weight: Memory,
    x: Memory,
    whole: Memory,
    part: Memory,
}

impl<'a> Trial<'a> {
    fn new(matmuls: &'a Matmuls, device: &'a CudaDevice, (output, input): (usize, usize)) -> Result<Self> {
        let (size, rows) = (matmuls.dtype.size(), TRIAL_ROWS);
        let random = |seed: usize, count: usize| -> Result<Memory> {
            let memory = device.allocate(count * size)?;
            let fill = Fill { out: memory.address(), count, seed, scale: 1.0, offset: 0.0 };
            Kernels { device }.fill(&fill)?;
            Ok(memory)
        };
        let (weight, x) = (random(1, output * input)?, random(2, rows * input)?);
        let room = || device.allocate(rows * output * size);
        let matrix = Matrix { weight: weight.address(), output, input };
        Ok(Self { matmuls, device, matrix, weight, x, whole: room()?, part: room()? })
    }

    /// Whether rows are computed alike in steps of many sizes.
    fn agrees(&self, algorithm: Algorithm) -> Result<bool> {
        debug_assert_eq!(self.weight.address(), self.matrix.weight, "the trial's own weights");
        let all = TRIAL_ROWS;
        if self.run(algorithm, (0, all), &self.whole).is_err() {
            return Ok(false);
        }
        let last = all - 1;
        let tries = TRIED_ROWS.iter().map(|&rows| (0, rows)).chain([(0, last), (last / 2, 5), (last, 1)]);
        for (first, rows) in tries.filter(|(first, rows)| *rows > 0 && first + rows <= all) {
            if self.run(algorithm, (first, rows), &self.part).is_err() {
                return Ok(false);
            }
            // of many rows the last few are compared
            let compared = rows.min(TRIED_ROWS[TRIED_ROWS.len() - 1]);
            let skipped = rows - compared;
            if self.read(&self.whole, first + skipped, compared)? != self.read(&self.part, skipped, compared)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn run(&self, algorithm: Algorithm, (first, rows): (usize, usize), to: &Memory) -> Result<()> {
        let x = self.x.address() + first * self.matrix.input * self.matmuls.dtype.size();
        self.matmuls.run(self.device, &self.matrix, (x, rows), (to.address(), algorithm))
    }

    fn read(&self, memory: &Memory, first: usize, rows: usize) -> Result<Vec<u8>> {
        let row = self.matrix.output * self.matmuls.dtype.size();
        let mut bytes = vec![0; rows * row];
        self.device.download(memory.address() + first * row, &mut bytes)?;
        Ok(bytes)
    }
}
