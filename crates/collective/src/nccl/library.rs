//! libnccl.so.2, found while the program runs: the functions that are used.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use cudarc::nccl::sys::{cudaStream_t, ncclComm_t, ncclConfig_t, ncclDataType_t, ncclUniqueId};

use super::backend::{ID, Id, Status};
use crate::{Error, functions};

/// Where NCCL may be: the name that programs link to, then that of development packages.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// ncclSuccess and ncclInProgress.
const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;

functions! {
    /// The functions of NCCL that are used: nccl.h declares them like this in all versions of 2.
    pub(super) struct Library {
        get_version: b"ncclGetVersion\0" (*mut c_int) -> c_int;
        get_error_string: b"ncclGetErrorString\0" (c_int) -> *const c_char;
        get_unique_id: b"ncclGetUniqueId\0" (*mut ncclUniqueId) -> c_int;
        init: b"ncclCommInitRankConfig\0" (*mut ncclComm_t, c_int, ncclUniqueId, c_int, *mut ncclConfig_t) -> c_int;
        get_async_error: b"ncclCommGetAsyncError\0" (ncclComm_t, *mut c_int) -> c_int;
        finalize: b"ncclCommFinalize\0" (ncclComm_t) -> c_int;
        destroy: b"ncclCommDestroy\0" (ncclComm_t) -> c_int;
        abort: b"ncclCommAbort\0" (ncclComm_t) -> c_int;
        all_gather: b"ncclAllGather\0"
            (*const c_void, *mut c_void, usize, ncclDataType_t, ncclComm_t, cudaStream_t) -> c_int;
        send: b"ncclSend\0" (*const c_void, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t) -> c_int;
        receive: b"ncclRecv\0" (*mut c_void, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t) -> c_int;
        group_start: b"ncclGroupStart\0" () -> c_int;
        group_end: b"ncclGroupEnd\0" () -> c_int;
    }
}

// === impl Library ===

impl Library {
    /// NCCL, which is loaded at the first call and stays.
    pub(super) fn get() -> Result<&'static Self, Error> {
        static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
        let library = LIBRARY.get_or_init(|| Self::load(&NAMES));
        library.as_ref().map_err(|problem| Error::Library { library: "NCCL", problem: problem.clone() })
    }

    /// The version as NCCL writes it: 23203 is 2.32.3.
    pub(super) fn version(&self) -> Result<u32, Error> {
        let mut version = 0;
        // SAFETY: the version goes to where the pointer points
        self.done("ncclGetVersion", unsafe { (self.get_version)(&mut version) })?;
        Ok(version.unsigned_abs())
    }

    /// What ranks form a communicator by.
    pub(super) fn unique_id(&self) -> Result<Id, Error> {
        let mut id = ncclUniqueId { internal: [0; ID] };
        // SAFETY: the id goes to where the pointer points
        self.done("ncclGetUniqueId", unsafe { (self.get_unique_id)(&mut id) })?;
        Ok(id.internal.map(|byte| byte as u8))
    }

    /// What a call returned: done, not yet, or an error.
    pub(super) fn status(&self, operation: &'static str, code: c_int) -> Result<Status, Error> {
        match code {
            SUCCESS => Ok(Status::Done),
            IN_PROGRESS => Ok(Status::InProgress),
            _ => Err(Error::Nccl { operation, problem: self.problem(code) }),
        }
    }

    /// What a call returned that has no business to be in progress.
    pub(super) fn done(&self, operation: &'static str, code: c_int) -> Result<(), Error> {
        self.status(operation, code).map(drop)
    }

    fn problem(&self, code: c_int) -> String {
        // SAFETY: any number may be asked about; the answer is a constant of NCCL
        let text = unsafe { (self.get_error_string)(code) };
        if text.is_null() {
            return format!("error {code}");
        }
        // SAFETY: NCCL's constants end with a zero
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        format!("error {code}: {text}")
    }
}
