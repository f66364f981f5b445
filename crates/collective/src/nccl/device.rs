//! NCCL on a rank's stream: each function is one call of the library, with the rank's GPU made current before it.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr::{NonNull, null, null_mut};
use std::sync::Arc;

use cudarc::driver::{CudaStream, DriverError, result};
use cudarc::nccl::sys::{cudaStream_t, ncclComm_t, ncclConfig_t, ncclDataType_t, ncclUniqueId};

use super::backend::{Backend, Comm, Id, Status};
use super::library::Library;
use super::transfers::{Copy, Transfer};
use super::{Dtype, Row};
use crate::Error;

/// NCCL's functions for one rank.
pub(super) struct Device {
    library: &'static Library,
    stream: Arc<CudaStream>,
}

/// `NCCL_API_MAGIC`, `NCCL_CONFIG_UNDEF_INT`, and the version that has the fields of [`ncclConfig_t`] below. An older
/// library reads the fields that it knows, a later one takes its defaults for those that this version lacks.
const MAGIC: c_uint = 0xcafe_beef;
const UNDEFINED: c_int = c_int::MIN;
const CONFIG_VERSION: c_uint = 2_28_00;

// === impl Device ===

impl Device {
    /// NCCL on this stream.
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self, Error> {
        Ok(Self { library: Library::get()?, stream: Arc::clone(stream) })
    }

    /// Makes the stream's GPU the current one of this thread, for NCCL asks which that is.
    fn bind(&self) -> Result<(), Error> {
        self.stream.context().bind_to_thread().map_err(of_driver)
    }

    fn stream(&self) -> cudaStream_t {
        self.stream.cu_stream().cast()
    }

    /// Queues what a group is made of, and ends the group in any case: a group that stays open swallows later calls.
    fn group(&self, queue: impl FnOnce() -> Result<(), Error>) -> Result<Status, Error> {
        // SAFETY: a group belongs to this thread, and ends below
        self.library.done("ncclGroupStart", unsafe { (self.library.group_start)() })?;
        let queued = queue();
        // SAFETY: the group has been started above
        let ended = self.library.status("ncclGroupEnd", unsafe { (self.library.group_end)() });
        queued.and(ended)
    }
}

fn of_driver(error: DriverError) -> Error {
    Error::Nccl { operation: "the CUDA driver", problem: error.to_string() }
}

fn raw(comm: &Comm) -> ncclComm_t {
    comm.0.as_ptr().cast()
}

fn kind(dtype: Dtype) -> ncclDataType_t {
    match dtype {
        Dtype::F32 => ncclDataType_t::ncclFloat32,
        Dtype::F16 => ncclDataType_t::ncclFloat16,
        Dtype::Bf16 => ncclDataType_t::ncclBfloat16,
    }
}

/// Calls that do not wait, and NCCL's defaults otherwise.
pub(super) fn config() -> ncclConfig_t {
    ncclConfig_t {
        size: size_of::<ncclConfig_t>(),
        magic: MAGIC,
        version: CONFIG_VERSION,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
        nChannelsPerNetPeer: UNDEFINED,
        nvlinkCentricSched: UNDEFINED,
    }
}

impl Backend for Device {
    fn version(&self) -> Result<u32, Error> {
        self.library.version()
    }

    fn unique_id(&self) -> Result<Id, Error> {
        self.library.unique_id()
    }

    fn init(&self, id: &Id, rank: usize, world_size: usize) -> Result<Comm, Error> {
        self.bind()?;
        let id = ncclUniqueId { internal: id.map(|byte| byte as c_char) };
        let mut comm: ncclComm_t = null_mut();
        let mut config = config();
        // SAFETY: NCCL copies the configuration; the communicator goes to where the pointer points
        let code = unsafe { (self.library.init)(&mut comm, world_size as c_int, id, rank as c_int, &mut config) };
        let status = self.library.status("ncclCommInitRankConfig", code);
        match (status, NonNull::new(comm.cast::<c_void>())) {
            (Ok(_), Some(comm)) => Ok(Comm(comm)),
            (Ok(_), None) => {
                Err(Error::Nccl { operation: "ncclCommInitRankConfig", problem: "no communicator came".to_owned() })
            }
            (Err(error), comm) => {
                if let Some(comm) = comm {
                    self.abort(Comm(comm));
                }
                Err(error)
            }
        }
    }

    fn state(&self, comm: &Comm) -> Result<Status, Error> {
        let mut state = 0;
        // SAFETY: the communicator is alive, or nobody could have a reference to it
        let code = unsafe { (self.library.get_async_error)(raw(comm), &mut state) };
        self.library.done("ncclCommGetAsyncError", code)?;
        self.library.status("an operation", state)
    }

    fn finalize(&self, comm: &Comm) -> Result<Status, Error> {
        // SAFETY: as above
        self.library.status("ncclCommFinalize", unsafe { (self.library.finalize)(raw(comm)) })
    }

    fn destroy(&self, comm: Comm) {
        // SAFETY: nobody else has the communicator; what is returned is not asked about again, for that would be a use
        // of what is being freed
        unsafe { (self.library.destroy)(raw(&comm)) };
    }

    fn abort(&self, comm: Comm) {
        // SAFETY: as above
        unsafe { (self.library.abort)(raw(&comm)) };
    }

    unsafe fn all_gather(
        &self,
        comm: &Comm,
        (slice, whole): (u64, u64),
        count: usize,
        dtype: Dtype,
    ) -> Result<Status, Error> {
        self.bind()?;
        let (from, to, dtype) = (slice as *const c_void, whole as *mut c_void, kind(dtype));
        // SAFETY: the caller has said that the stream may use the buffers
        let code = unsafe { (self.library.all_gather)(from, to, count, dtype, raw(comm), self.stream()) };
        self.library.status("ncclAllGather", code)
    }

    unsafe fn transfer(&self, comm: &Comm, own: Copy, peers: &[Transfer], row: Row) -> Result<Status, Error> {
        self.bind()?;
        if own.from != own.to && own.rows > 0 {
            let (to, from, bytes) = (own.to, own.from, row.bytes(own.rows) as usize);
            // SAFETY: the caller has said that the stream may use what is read and written
            unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }.map_err(of_driver)?;
        }
        if peers.is_empty() {
            return Ok(Status::Done);
        }
        let (library, dtype) = (self.library, kind(row.dtype));
        let queue = |transfer: &Transfer| match *transfer {
            Transfer::Send { peer, address, rows } => {
                let (from, count, peer) = (address as *const c_void, rows * row.width, peer as c_int);
                // SAFETY: the caller has said that the stream may read this
                let code = unsafe { (library.send)(from, count, dtype, peer, raw(comm), self.stream()) };
                library.done("ncclSend", code)
            }
            Transfer::Receive { peer, address, rows } => {
                let (to, count, peer) = (address as *mut c_void, rows * row.width, peer as c_int);
                // SAFETY: the caller has said that the stream may write this
                let code = unsafe { (library.receive)(to, count, dtype, peer, raw(comm), self.stream()) };
                library.done("ncclRecv", code)
            }
        };
        self.group(|| peers.iter().try_for_each(queue))
    }
}
