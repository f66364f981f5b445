//! cuBLASLt, found while the program runs under the name of its version, for the matmuls of this crate: rows times the
//! transpose of weights, both without gaps, sums in f32.

use std::ffi::{c_int, c_void};
use std::ptr::{from_ref, null_mut};
use std::sync::OnceLock;

use super::super::Address;
use crate::compute::Dtype;
use crate::error::{Error, Result};

/// A development package may have another version under the name without a number.
const NAMES: [&str; 1] = ["libcublasLt.so.13"];
/// What these declarations are from. cublasLtGetVersion says 130100 for 13.1.0.
const MAJOR: usize = 13;
/// Suggestions that are asked for at a time.
const SUGGESTIONS: usize = 16;
/// What NVIDIA advises for Hopper: cuBLAS, cublasSetWorkspace.
pub(super) const WORKSPACE: usize = 32 << 20;
/// What every matrix begins at: weights may begin at any row, whose bytes are a multiple of this.
const ALIGNMENT: u32 = 16;

// cublas_api.h, library_types.h, cublasLt.h
const SUCCESS: c_int = 0;
const TRANSPOSED: i32 = 1;
const COMPUTE_32F: c_int = 68;
const R_32F: c_int = 0;
const R_16F: c_int = 2;
const R_16BF: c_int = 14;
const DESC_TRANSA: c_int = 3;
const PREF_MAX_WORKSPACE_BYTES: c_int = 1;
const PREF_REDUCTION_SCHEME_MASK: c_int = 3;
/// Those of A, B, C and D follow each other.
const PREF_MIN_ALIGNMENT_BYTES: [c_int; 4] = [5, 6, 7, 8];

type Handle = *mut c_void;

collective::functions! {
    /// The functions of cuBLASLt that are used: cublasLt.h of CUDA 13 declares them like this.
    struct Library {
        get_version: b"cublasLtGetVersion\0" () -> usize;
        create: b"cublasLtCreate\0" (*mut Handle) -> c_int;
        destroy: b"cublasLtDestroy\0" (Handle) -> c_int;
        desc_create: b"cublasLtMatmulDescCreate\0" (*mut Handle, c_int, c_int) -> c_int;
        desc_set: b"cublasLtMatmulDescSetAttribute\0" (Handle, c_int, *const c_void, usize) -> c_int;
        desc_destroy: b"cublasLtMatmulDescDestroy\0" (Handle) -> c_int;
        layout_create: b"cublasLtMatrixLayoutCreate\0" (*mut Handle, c_int, u64, u64, i64) -> c_int;
        layout_destroy: b"cublasLtMatrixLayoutDestroy\0" (Handle) -> c_int;
        preference_create: b"cublasLtMatmulPreferenceCreate\0" (*mut Handle) -> c_int;
        preference_set: b"cublasLtMatmulPreferenceSetAttribute\0" (Handle, c_int, *const c_void, usize) -> c_int;
        preference_destroy: b"cublasLtMatmulPreferenceDestroy\0" (Handle) -> c_int;
        heuristic: b"cublasLtMatmulAlgoGetHeuristic\0"
            (Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int, *mut Suggestion, *mut c_int) -> c_int;
        attribute: b"cublasLtMatmulAlgoConfigGetAttribute\0"
            (*const Algorithm, c_int, *mut c_void, usize, *mut usize) -> c_int;
        matmul: b"cublasLtMatmul\0"
            (Handle, Handle, *const c_void, *const c_void, Handle, *const c_void, Handle, *const c_void, *const c_void,
             Handle, *mut c_void, Handle, *const Algorithm, *mut c_void, usize, *mut c_void) -> c_int;
    }
}

/// How one multiplication is done: cublasLtMatmulAlgo_t, whose contents are the library's.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Algorithm([u64; 8]);

/// An algorithm that the library suggests, with what it says of it: cublasLtMatmulHeuristicResult_t.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Suggestion {
    pub(super) algorithm: Algorithm,
    /// Bytes of workspace that it needs.
    pub(super) workspace: usize,
    state: c_int,
    /// How often it fills the GPU.
    pub(super) waves: f32,
    reserved: [c_int; 4],
}

/// What an algorithm says of itself: a number of cublasLtMatmulAlgoConfigAttributes_t, and the bytes of the answer.
pub(super) type Attribute = (c_int, usize);

const SPLIT_K: Attribute = (2, 4);
const REDUCTION_SCHEME: Attribute = (3, 4);

/// The library, with a handle on the GPU that was current when it was made.
pub(super) struct CublasLt {
    library: &'static Library,
    handle: Handle,
}

// SAFETY: cuBLASLt's handles may be used from any thread.
unsafe impl Send for CublasLt {}
// SAFETY: as above, and from several at once.
unsafe impl Sync for CublasLt {}

/// What is multiplied: [rows, input] by the transpose of [output, input].
#[derive(Debug, Clone, Copy)]
pub(super) struct Problem {
    pub(super) dtype: Dtype,
    pub(super) output: usize,
    pub(super) input: usize,
    pub(super) rows: usize,
}

/// Where the matrices of a [`Problem`] lie, and the workspace of `WORKSPACE` bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) weight: Address,
    pub(super) x: Address,
    pub(super) out: Address,
    pub(super) workspace: Address,
}

/// Checks that the library is there, in the version that is known here.
pub(super) fn check() -> Result<()> {
    library().map(drop)
}

fn library() -> Result<&'static Library> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| {
        let library = Library::load(&NAMES).map_err(|problem| {
            format!(
                "libcublasLt.so.13 is not found: install CUDA 13's cuBLAS, or the PyPI package nvidia-cublas and add \
                 its lib folder to LD_LIBRARY_PATH ({problem})"
            )
        })?;
        // SAFETY: takes nothing.
        let version = unsafe { (library.get_version)() };
        match version / 10_000 == MAJOR {
            true => Ok(library),
            false => {
                Err(format!("libcublasLt.so.13 says that it is version {version}, not {MAJOR}: its file is wrong"))
            }
        }
    });
    library.as_ref().map_err(|problem| Error::Device(problem.clone()))
}

fn done(what: &str, status: c_int) -> Result<()> {
    match status {
        SUCCESS => Ok(()),
        _ => Err(Error::Device(format!("{what}: cuBLASLt's status {status} (cublasStatus_t)"))),
    }
}

// === impl CublasLt ===

impl CublasLt {
    /// The library on this thread's GPU.
    pub(super) fn new() -> Result<Self> {
        let library = library()?;
        let mut handle = null_mut();
        // SAFETY: the handle goes to where the pointer points.
        done("cuBLASLt does not start", unsafe { (library.create)(&raw mut handle) })?;
        Ok(Self { library, handle })
    }

    /// The library's version, as one number.
    pub(super) fn version(&self) -> usize {
        // SAFETY: takes nothing.
        unsafe { (self.library.get_version)() }
    }

    /// The algorithms that the library suggests for a problem, the fastest first, without those that add a row's
    /// products in several pieces.
    ///
    /// # Errors
    /// If it has none, or does not know such problems.
    pub(super) fn suggestions(&self, problem: &Problem) -> Result<Vec<Suggestion>> {
        let call = Call::new(self.library, problem)?;
        let preference = Preference::new(self.library)?;
        let empty =
            Suggestion { algorithm: Algorithm([0; 8]), workspace: 0, state: SUCCESS, waves: 0.0, reserved: [0; 4] };
        let (mut results, mut count) = ([empty; SUGGESTIONS], 0);
        // SAFETY: all descriptors live until the call returns; the array holds as many results as are asked for.
        let status = unsafe {
            (self.library.heuristic)(
                self.handle,
                call.operation,
                call.weight,
                call.x,
                call.out,
                call.out,
                preference.handle,
                SUGGESTIONS as c_int,
                results.as_mut_ptr(),
                &raw mut count,
            )
        };
        done("no suggestions", status)?;
        let found = results.iter().take(usize::try_from(count).unwrap_or(0));
        let usable = found.filter(|found| found.state == SUCCESS && found.workspace <= WORKSPACE);
        Ok(usable.filter(|found| self.adds_in_one_piece(&found.algorithm)).copied().collect())
    }

    /// Neither split along the depth, nor reduced from parts afterwards. What an algorithm does not say is for a trial to
    /// find out.
    fn adds_in_one_piece(&self, algorithm: &Algorithm) -> bool {
        let at_most = |attribute, most| self.attribute(algorithm, attribute).is_none_or(|value| value <= most);
        at_most(SPLIT_K, 1) && at_most(REDUCTION_SCHEME, 0)
    }

    /// What an algorithm is made of, if it says so; numbers of the library's own enumerations.
    pub(super) fn attribute(&self, algorithm: &Algorithm, (attribute, bytes): Attribute) -> Option<u32> {
        let (mut value, mut written) = (0u32, 0);
        let bytes = bytes.min(size_of_val(&value));
        // SAFETY: the value has room for so many bytes; its lower bytes come first on these machines.
        let status = unsafe {
            (self.library.attribute)(from_ref(algorithm), attribute, (&raw mut value).cast(), bytes, &raw mut written)
        };
        (status == SUCCESS).then_some(value)
    }

    /// Puts the multiplication into a stream of the GPU.
    ///
    /// # Safety
    /// The matrices lie at their places in memory of the GPU, which only the stream uses until it has done the work.
    pub(super) unsafe fn multiply(
        &self,
        problem: &Problem,
        places: &Places,
        algorithm: &Algorithm,
        stream: *mut c_void,
    ) -> Result<()> {
        let call = Call::new(self.library, problem)?;
        let (one, zero) = (1.0f32, 0.0f32);
        let at = |address: Address| address.0 as *mut c_void;
        // SAFETY: the caller's promise; the descriptors live until the call returns.
        let status = unsafe {
            (self.library.matmul)(
                self.handle,
                call.operation,
                from_ref(&one).cast(),
                at(places.weight),
                call.weight,
                at(places.x),
                call.x,
                from_ref(&zero).cast(),
                at(places.out),
                call.out,
                at(places.out),
                call.out,
                from_ref(algorithm),
                at(places.workspace),
                WORKSPACE,
                stream,
            )
        };
        let Problem { rows, output, input, .. } = problem;
        done(&format!("the matmul of {rows} rows with weights [{output}, {input}]"), status)
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        // SAFETY: created once, and nobody has it any more.
        let _ = unsafe { (self.library.destroy)(self.handle) };
    }
}

/// The descriptors of one multiplication. cuBLAS counts columns first: its A is the weights, transposed, its B the rows.
struct Call {
    library: &'static Library,
    operation: Handle,
    weight: Handle,
    x: Handle,
    out: Handle,
}

impl Call {
    fn new(library: &'static Library, problem: &Problem) -> Result<Self> {
        let Problem { dtype, output, input, rows } = *problem;
        let kind = match dtype {
            Dtype::F32 => R_32F,
            Dtype::F16 => R_16F,
            Dtype::Bf16 => R_16BF,
        };
        let mut call = Self { library, operation: null_mut(), weight: null_mut(), x: null_mut(), out: null_mut() };
        // SAFETY: the handle goes to where the pointer points, here and below.
        done("a matmul", unsafe { (library.desc_create)(&raw mut call.operation, COMPUTE_32F, R_32F) })?;
        let (transposed, bytes) = (from_ref(&TRANSPOSED).cast(), size_of_val(&TRANSPOSED));
        // SAFETY: the attribute is a cublasOperation_t, 32 bits wide.
        done("a matmul", unsafe { (library.desc_set)(call.operation, DESC_TRANSA, transposed, bytes) })?;
        let layouts = [(&mut call.weight, input, output), (&mut call.x, input, rows), (&mut call.out, output, rows)];
        for (layout, rows, columns) in layouts {
            let (to, gapless) = (&raw mut *layout, rows as i64);
            // SAFETY: as above.
            done("a layout", unsafe { (library.layout_create)(to, kind, rows as u64, columns as u64, gapless) })?;
        }
        Ok(call)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        for layout in [self.weight, self.x, self.out] {
            if !layout.is_null() {
                // SAFETY: created once by `new`; cuBLASLt has read it when its call returned.
                let _ = unsafe { (self.library.layout_destroy)(layout) };
            }
        }
        if !self.operation.is_null() {
            // SAFETY: as above.
            let _ = unsafe { (self.library.desc_destroy)(self.operation) };
        }
    }
}

/// What algorithms are asked for.
struct Preference {
    library: &'static Library,
    handle: Handle,
}

impl Preference {
    fn new(library: &'static Library) -> Result<Self> {
        let mut handle = null_mut();
        // SAFETY: the handle goes to where the pointer points.
        done("a preference", unsafe { (library.preference_create)(&raw mut handle) })?;
        let preference = Self { library, handle };
        preference.set(PREF_MAX_WORKSPACE_BYTES, &(WORKSPACE as u64))?;
        preference.set(PREF_REDUCTION_SCHEME_MASK, &0u32)?;
        PREF_MIN_ALIGNMENT_BYTES.iter().try_for_each(|&matrix| preference.set(matrix, &ALIGNMENT))?;
        Ok(preference)
    }

    fn set<T>(&self, attribute: c_int, value: &T) -> Result<()> {
        // SAFETY: the value has the attribute's type (cublasLt.h).
        let set =
            unsafe { (self.library.preference_set)(self.handle, attribute, from_ref(value).cast(), size_of::<T>()) };
        done("a preference", set)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created once by `new`.
        let _ = unsafe { (self.library.preference_destroy)(self.handle) };
    }
}
